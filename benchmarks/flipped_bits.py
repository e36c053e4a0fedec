"""One random bit of a file flipped, again and again: is a damaged checkpoint or shared data set ever used?

`python benchmarks/flipped_bits.py --flips=1000` trains DreamRec on ml-100k for an epoch, flips bits of its best.pth and
last.pth and of a checkpoint of RecBole's own trainer, and of the entry of the data set's cache, and counts what loading
says: refused, with one message, or silent. It ends with 1 if any was silent or raised anything else.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from recbole_gen import checkpoint, quick_start
from recbole_gen.data import cache_file


def flip_bits(path: Path, load: Callable[[Path], object], refusal: type[Exception], flips: int, seed: int) -> Counter:
    """How often loading a copy of ``path`` with one flipped bit is refused, silent, or raises something else."""
    draw, whole, found = random.Random(seed), path.read_bytes(), Counter()
    copy = path.with_name(f"flipped-{path.name}")
    copy.write_bytes(whole)
    load(copy)
    with open(copy, "rb+", buffering=0) as file:
        for _ in range(flips):
            bit = draw.randrange(8 * len(whole))
            place, value = bit // 8, whole[bit // 8]
            file.seek(place)
            file.write(bytes([value ^ 1 << bit % 8]))
            try:
                load(copy)
                found["silent"] += 1
            except refusal:
                found["refused"] += 1
            except Exception as error:
                found[type(error).__name__] += 1
            file.seek(place)
            file.write(bytes([value]))
    load(copy)
    copy.unlink()
    return found


def main() -> int:
    """Print a line a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2020)
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        values = {"epochs": 1, "hidden_size": 32, "checkpoint_dir": folder, "use_gpu": False, "show_progress": False}
        result = quick_start.run("DreamRec", "ml-100k", config_dict=values, quiet=True, data_cache=f"{folder}/cache")
        run = Path(result["run_dir"])
        plain = run / "recbole.pth"
        content = checkpoint.load(run / "best.pth")
        checkpoint.save(plain, {"format": checkpoint.RECBOLE_FORMAT, "state_dict": content["state_dict"]})
        entry = next(Path(folder, "cache").glob("*.arrow"))
        for name, path, load, refusal in (
            ("best.pth", run / "best.pth", checkpoint.load, checkpoint.CheckpointError),
            ("last.pth", run / "last.pth", checkpoint.load, checkpoint.CheckpointError),
            (
                "RecBole's trainer", plain,
                lambda path: checkpoint.load(path, kind=checkpoint.RECBOLE_FORMAT), checkpoint.CheckpointError,
            ),
            ("shared data set", entry, lambda path: cache_file.read_dataset(path, None), cache_file.DamagedFile),
        ):  # fmt: skip
            started = time.perf_counter()
            found = flip_bits(path, load, refusal, args.flips, args.seed)
            bad += args.flips - found["refused"]
            size, seconds = path.stat().st_size, time.perf_counter() - started
            print(f"{name:<18} {size:>10,} bytes: {dict(found)}, {1000 * seconds / args.flips:.1f} ms a load")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
