"""PASRec's windows to deliver in, over the seeds of a reproduction, beside two guesses that learn nothing.

    python run_recbole_gen.py reproduce pasrec-beauty-leave_one_out-small --data_path=FOLDER
    python benchmarks/windows.py pasrec-beauty-leave_one_out-small [...]

Each run has calibrated a window on the validation rows (when.json) for its model, for the day of the last interaction
and for a constant; here are means and standard deviations over the seeds of what these windows hold of the test rows:
the share of true days inside, the median width in days, the interval score in days (smaller is better) and the mean
error of the likeliest day. Reads saved/reproduce; appends to results/windows.tsv.
"""

import json
import statistics
import sys
from pathlib import Path

from common import record

MEASURES = ("coverage", "median_width", "score", "mean_error")


def main(names: list[str]) -> None:
    for name in names:
        folder = Path("saved/reproduce") / name / "runs"
        runs = sorted(folder.glob("PASRec-[0-9][0-9][0-9][0-9]"))
        found = [json.loads((run / "when.json").read_text()) for run in runs]
        if len(found) < 2:
            sys.exit(f"fewer than two runs of PASRec in {folder}: run_recbole_gen.py reproduce {name}")
        for guess in ("model", "persistence", "constant"):
            row = {"setting": name, "window of": guess, "seeds": len(found), "test rows": found[0]["test_rows"]}
            for measure in MEASURES:
                values = [each[guess][measure] for each in found]
                row |= {measure: statistics.mean(values), f"{measure} sd": statistics.stdev(values)}
            record("windows", row)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
