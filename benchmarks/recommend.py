"""Users per second and peak memory of `recbole-gen recommend`, from a file of histories to a file of recommendations.

    python benchmarks/recommend.py                  # every model of ours, and SASRec: 10,000 and 100,000 users
    python benchmarks/recommend.py --million        # SASRec and DreamRec: 1,000,000 users

Each model is trained for an epoch on ml-100k (with its defaults but for a size of 64), then its run answers JSON lines
of users with 1 to 40 random items, times and scenes, 10 items each, in a process of its own, one thread; the seconds
are all of that process, start and reading included. Appends to results/recommend.tsv.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recbole_gen import quick_start
from recbole_gen.config.registry import MODELS

SETTINGS = {
    "DreamRec": {"hidden_size": 64}, "DiffRec": {}, "PASRec": {"hidden_size": 64}, "PreferDiff": {"hidden_size": 64},
    "ACVAE": {}, "DSPnet": {"SCENE_FIELD": "class", "scene_rule": "first", "train_pairs": "last"}, "SASRec": {},
}  # fmt: skip
CHILD = """
import re, sys, torch
torch.set_num_threads(1)
from recbole_gen.cli import main
code = main(sys.argv[1:])
# Not ru_maxrss, which begins with that of the process that has started this one.
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10)
sys.exit(code)
"""


def write_histories(path, users):
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for user in range(users):
            n = draw.randint(1, 40)
            row = {"user": f"u{user}", "history": [str(draw.randint(1, 1682)) for _ in range(n)]}
            row["times"] = sorted(draw.randint(874_700_000, 893_200_000) for _ in range(n))
            row["scenes"] = draw.choices(["Drama", "Comedy", "Action"], k=n)
            file.write(json.dumps(row) + "\n")


def main():
    from common import record

    million = "--million" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (1_000_000,) if million else (10_000, 100_000)
        for users in sizes:
            write_histories(folder / f"{users}.jsonl", users)
        for model in ("SASRec", "DreamRec") if million else (*MODELS, "SASRec"):
            common = {"epochs": 1, "checkpoint_dir": str(folder / "saved"), "show_progress": False, "state": "ERROR"}
            run = quick_start.run(model, "ml-100k", config_dict={**common, **SETTINGS[model]}, quiet=True)
            for users in sizes:
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, "recommend", f"--checkpoint={run['run_dir']}",
                     f"--histories={folder / f'{users}.jsonl'}", f"--output={folder / 'out.parquet'}", "--device=cpu"],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                seconds = time.perf_counter() - started
                peak = int(re.search(r"peak (\d+)", done.stdout)[1])
                row = {"model": model, "users": users, "seconds": round(seconds, 1)}
                record("recommend", row | {"users_per_s": round(users / seconds), "peak_mib": peak})


if __name__ == "__main__":
    main()
