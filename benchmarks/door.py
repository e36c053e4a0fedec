"""CPU seconds until the command line has answered what needs no model: help, lists, and what is mistyped.

python benchmarks/door.py --against=FOLDER [--repeats=5]

FOLDER is a checkout of an earlier commit, whose command line answers the same in turn with ours. Each figure is the
median of the user and system time of the whole process; the ratio is that of the two medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import record

HERE = Path(__file__).resolve().parents[1]
ON_ML_100K = ["--model=DreamRec", "--dataset=ml-100k"]
COMMANDS = [
    ["--help"],
    *([verb, "--help"] for verb in ("tune", "compare", "plot", "prepare", "recommend", "export", "serve", "models")),
    ["models"],
    ["models", "DreamRec"],
    ["models", "SASRec"],
    ["datasets"],
    ["tunee"],
    [*ON_ML_100K, "--lerning_rate=0.1"],
    ["--model=DreamRek", "--dataset=ml-100k"],
    ["tune", *ON_ML_100K, "--lerning_rate=0.1"],
    ["compare", "--models=DreamRec,SASRec", "--dataset=ml-100k", "--lerning_rate=0.1"],
]


def cpu_seconds(folder: Path, command: list[str]) -> float:
    """User and system time of the command line of a checkout, its start included."""
    process = subprocess.Popen(
        [sys.executable, str(folder / "run_recbole_gen.py"), *command],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):
        raise SystemExit(f"{folder}: {' '.join(command)} has ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for command in COMMANDS:
        pairs = [
            (cpu_seconds(HERE, command), cpu_seconds(options.against.resolve(), command))
            for _ in range(options.repeats)
        ]
        ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
        record(
            "door",
            {
                "answered": " ".join(command),
                "seconds": round(ours, 3),
                "against": round(theirs, 3),
                "ratio": round(ours / theirs, 3),
                "repeats": options.repeats,
            },
        )


if __name__ == "__main__":
    main()
