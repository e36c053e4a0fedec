"""What the benchmark scripts share: a stand-in configuration, and a results file with machine and command."""

import os
import platform
import resource
import sys
from pathlib import Path

import pandas as pd
import torch

RESULTS = Path(__file__).parent / "results"


class Stub(dict):
    """A configuration and data set for building a model without data: keys that are not set read as None."""

    def __init__(self, settings, items):
        super().__init__(settings, USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LIST_SUFFIX="_list", device="cpu")
        self.update(ITEM_LIST_LENGTH_FIELD="item_length", NEG_PREFIX="neg_", items=items)

    def __missing__(self, key):
        return None

    def __or__(self, other):
        merged = Stub({**self, **other}, self["items"])
        return merged

    def num(self, field):
        return self["items"]


def machine():
    """Processor, cores that this process may use, and the load of the last minute before the run."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"


def peak_mib():
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def record(name, row):
    """Print one result and append it to results/NAME.tsv with the machine and the command."""
    row = {**row, "machine": machine(), "command": "python " + " ".join(sys.argv)}
    print({key: value for key, value in row.items() if key not in ("machine", "command")}, flush=True)
    path = RESULTS / f"{name}.tsv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame([row]).to_csv(path, sep="\t", index=False, mode="a", header=not path.exists())
