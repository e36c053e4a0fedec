"""Peak memory of training on 20 million interactions, from the file to the steps: `recbole_gen.quick_start.run`.

    python benchmarks/train_20m.py [--rows=20000000] [--batch=2048] [--threads=2]

PASRec at d = 64 on the synthetic log of data.py, leave_one_out, on the CPU, twice, each in a process of its own:

- "stopped": a row for every interaction, ended after 100 steps as by Ctrl-C, which a hook of torch sends;
- "whole": `train_pairs: last`, a row for every user, in batches that make 100 steps of an epoch; then validation, both
  checkpoints, and the test with its diagnostics.

Each builds the data set, keeps it beside its files (`data_cache`) and trains on the mapped copy, as every run does.
"peak_mib" is the largest resident memory of the process, pages of the mapped file included, "anonymous_mib" what it has
beyond files at the end. Appends to results/train_20m.tsv.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 100


def stop_after(steps):
    """Have torch raise KeyboardInterrupt when optimisers have made so many steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    made = 0

    def count(*_):
        nonlocal made
        made += 1
        if made == steps:
            raise KeyboardInterrupt

    register_optimizer_step_post_hook(count)


def measure(kind, folder, rows, batch, threads):
    """In the child: the run; prints JSON."""
    from common import peak_mib
    from data import SETTINGS

    from recbole_gen import quick_start

    settings = SETTINGS | {
        "data_path": folder, "train_batch_size": batch, "hidden_size": 64, "num_threads": threads, "epochs": 1,
        "checkpoint_dir": folder, "show_progress": False,
    }  # fmt: skip
    if kind == "whole":
        users = rows // 143
        settings |= {"train_pairs": "last", "train_batch_size": -(-users // STEPS)}
    else:
        stop_after(STEPS)
    run_dir, started, finished = Path(folder) / kind, time.perf_counter(), {}
    try:
        result = quick_start.run("PASRec", "synthetic", config_dict=settings, run_dir=run_dir, quiet=True)
        finished = {f"{name}_s": value for name, value in result["seconds"].items()}
    except quick_start.Interrupted:
        if kind == "whole":
            raise
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    anonymous = int(re.search(r"RssAnon:\s*(\d+)", status)[1]) >> 10
    out = {"seconds": round(seconds, 1), **finished, "peak_mib": peak_mib(), "anonymous_mib": anonymous}
    print(json.dumps(out))


def main():
    from common import record
    from data import write_log

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for kind in ("stopped", "whole"):
        with tempfile.TemporaryDirectory() as folder:
            write_log(folder, args.rows)
            given = [str(each) for each in (args.rows, args.batch, args.threads)]
            command = [sys.executable, __file__, "--measure", kind, folder, *given]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
            if done.returncode:
                sys.exit(f"{kind}:\n{done.stderr}")
            found = json.loads(done.stdout.splitlines()[-1])
            times = {name: found.pop(name, "") for name in ("load_s", "train_s", "test_s")}
            record("train_20m", {"model": "PASRec", "run": kind, "rows": args.rows, **found, **times})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4], *map(int, sys.argv[4:7]))
    else:
        main()
