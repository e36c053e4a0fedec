"""Four runs of a sweep at once: each builds its own data set, or they share one (`recbole_gen.data.cache`).

    python benchmarks/sweep_data.py      # ml-100k, and a synthetic log of 1 million interactions (that of data.py)

Four processes import everything, then all at once get the data of a SASRec run and read every training batch once.
"own": each builds. "shared": one builds and the others wait for it. "shared, later": the entry is there already.
"seconds" is how long the slowest of the four waits for its data. Memory is what a process has beyond what it had after
its imports, in MiB, the mean of the four and the most: "pss" counts a page that k of them share as 1/k, "private" what
is its own alone, freed memory that malloc keeps for training included, as in a run. Appends to results/sweep_data.tsv.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data import SETTINGS, write_log

PROCESSES = 4


def memory():
    """Proportional and private memory of this process, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return sizes["Pss"] / 1024, (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024


def say(value):
    """Tell the parent, and wait until it has heard all of its children."""
    print(json.dumps(value), flush=True)
    sys.stdin.readline()


def work(dataset, settings, folder):
    """In the child: get the data, read it, and say how long it took and what it takes."""
    import torch
    from recbole.utils import init_seed

    from recbole_gen import compat
    from recbole_gen.config.config import Config
    from recbole_gen.data import cache, loaders

    torch.set_num_threads(1)
    compat.keep_freed_memory()
    config = Config(model="SASRec", dataset=dataset, config_dict=json.loads(settings))
    init_seed(config["seed"], config["reproducibility"])
    say("ready")
    before = memory()
    say("measured")
    started = time.perf_counter()
    data, parts = cache.shared_dataset(config, folder) if folder else loaders.build_dataset(config)
    seconds = time.perf_counter() - started
    train = loaders.create_loaders(config, data, parts)[0]
    rows = sum(len(batch["item_id"]) for batch in train)
    say("read")
    after = memory()
    say({"rows": rows, "seconds": seconds, "pss": after[0] - before[0], "private": after[1] - before[1]})


def together(arguments):
    """What PROCESSES children say at the end, each step of theirs taken at the same time."""
    command = [sys.executable, __file__, "--work", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    for _ in range(4):
        said = [json.loads(child.stdout.readline()) for child in children]
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
    for child in children:
        child.communicate()
    return said


def main():
    from common import record

    with tempfile.TemporaryDirectory() as folder:
        write_log(folder, 1_000_000)
        common = {"show_progress": False, "state": "ERROR"}
        for name, settings in (("ml-100k", {}), ("synthetic", SETTINGS | {"data_path": folder})):
            shared = Path(folder) / f"shared-{name}"
            for kind, place in (("own", ""), ("shared", shared), ("shared, later", shared)):
                said = together([name, json.dumps(common | settings), str(place)])
                row = {"data_set": name, "training_rows": said[0]["rows"], "processes": PROCESSES, "kind": kind}
                row["seconds"] = round(max(each["seconds"] for each in said), 3)
                for key in ("pss", "private"):
                    values = [each[key] for each in said]
                    row |= {f"{key}_mib": round(sum(values) / PROCESSES, 1), f"most_{key}_mib": round(max(values), 1)}
                size = sum(file.stat().st_size for file in shared.glob("*.arrow")) / 2**20
                record("sweep_data", row | {"entry_mib": round(size, 1)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5])
    else:
        main()
