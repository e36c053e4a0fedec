"""The prepared script for a GPU runs from end to end, on the CPU with small sizes."""

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path

from recbole_gen.config.registry import MODELS

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/gpu.py"
ARGUMENTS = ("--device=cpu", "--small")


def test_every_model_is_measured_in_both_modes(tmp_path, one_thread, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.delitem(sys.modules, "common", raising=False)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *ARGUMENTS, f"--results={tmp_path}"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    del sys.modules["common"]
    with (tmp_path / "gpu_step.tsv").open() as file:
        steps = list(csv.DictReader(file, delimiter="\t"))
    measured = {(line["model"], line["mode"]) for line in steps}
    trained = {*MODELS, "SASRec", "GRU4Rec"} - {"Transitions"}  # which has no steps
    assert measured == {(model, mode) for model in trained for mode in ("rows", "positions")}
    assert all(float(line["step_s"]) > 0 and int(line["users_a_s"]) > 0 for line in steps)
    assert (tmp_path / "gpu_gather.tsv").exists()


def test_the_script_begins_nothing_after_its_time(tmp_path):
    command = [sys.executable, SCRIPT, *ARGUMENTS, f"--results={tmp_path}", "--seconds=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("the time is over") and not list(tmp_path.iterdir())
