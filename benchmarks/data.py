"""Memory and time of a synthetic log: load, split leave-one-out, one pass over the training batches of 2048.

    python benchmarks/data.py    # RecBole's data set and ours at 1 million interactions, ours at 10 and 20 million

Every measurement runs in a process of its own. "data" is the peak memory of that process less what it took after its
imports, "peak" the whole. RecBole runs as it is but for the NumPy names without which it does not start. The log has
143 interactions a user, 10,000 items with Zipf popularity, histories of 50, and times. Appends to results/data.tsv.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd


def write_log(folder, n):
    """<folder>/synthetic/synthetic.inter with n interactions of n / 143 users, in random order of time."""
    rng = np.random.default_rng(0)
    users = rng.integers(max(1, n // 143), size=n)
    items = np.minimum(rng.zipf(1.2, size=n), 10**9) % 10_000
    times = 1_500_000_000 + rng.integers(3 * 10**8, size=n)
    path = Path(folder) / "synthetic/synthetic.inter"
    path.parent.mkdir()
    pd.DataFrame({"user_id:token": users, "item_id:token": items, "timestamp:float": times}).to_csv(
        path, sep="\t", index=False
    )


def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "train_batch_size": 2048,
    "train_neg_sample_args": None,
    "use_gpu": False,
}


def measure(kind, folder):
    """In the child: one data set class, all the way; prints JSON."""
    import torch

    torch.set_num_threads(1)
    settings = SETTINGS | {"data_path": folder}
    if kind == "RecBole":
        for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
            setattr(np, name, value)
        sys.argv = sys.argv[:1]
        from recbole.config import Config
        from recbole.data import create_dataset
        from recbole.data import data_preparation as create_loaders

        config = Config(model="SASRec", dataset="synthetic", config_dict=settings)
    else:
        from recbole_gen.config.config import Config
        from recbole_gen.data.loaders import create_dataset, create_loaders

        config = Config(model="SASRec", dataset="synthetic", config_dict=settings)
    before, marks = memory(), [time.perf_counter()]
    dataset = create_dataset(config)
    marks.append(time.perf_counter())
    train = create_loaders(config, dataset)[0]
    marks.append(time.perf_counter())
    rows = sum(len(batch["item_id"]) for batch in train)
    marks.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    load, split, one_pass = np.diff(marks).round(1).tolist()
    out = {"training_rows": rows, "load_s": load, "split_s": split, "pass_s": one_pass}
    print(json.dumps(out | {"data_mib": round(peak - before), "peak_mib": round(peak)}))


def main():
    from common import record

    ours = ("recbole_gen",)
    for n, kinds in ((1_000_000, ("RecBole", *ours)), (10_000_000, ours), (20_000_000, ours)):
        with tempfile.TemporaryDirectory() as folder:
            write_log(folder, n)
            for kind in kinds:
                command = [sys.executable, __file__, "--measure", kind, folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{kind} at {n}:\n{done.stderr}")
                record("data", {"data_set": kind, "interactions": n, **json.loads(done.stdout.splitlines()[-1])})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4])
    else:
        main()
