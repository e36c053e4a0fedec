#!/usr/bin/env bash
# RecBole 1.2.1 beside torch 2.13.0, the example of RecBole's own documentation: run_recbole with BPR on its ml-100k sample.
# Expected: an epoch of training, the best model written to saved/, read back, and tested.
# Guess before the run: torch 2.6 made weights_only=True the default of torch.load; RecBole's checkpoint has its Config
# object in it, so that reading it is refused.
# Seen (2026-11-29, Python 3.11): training ends and the checkpoint is written; then
# "UnpicklingError: Weights only load failed", from Trainer.evaluate's torch.load, and no test result. Without
# saving (saved=False) the same run ends with a test result.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.12.0 pandas==2.1.4 scikit-learn==1.5.2 \
    "ray[tune]==2.60.0" pyarrow==17.0.0 tensorboard==2.21.0 pyyaml==6.0.3 tqdm==4.67.1 colorlog==4.7.2 colorama==0.4.4 texttable==1.7.0 psutil==7.0.0 \
    tabulate==0.9.0 plotly==5.24.1 thop==0.1.1.post2209072238 "setuptools<81"
venv/bin/pip install -q --no-deps recbole==1.2.1
cat > try.py <<'PY'
import pickle
import sys

sys.argv = sys.argv[:1]
from recbole.quick_start import run_recbole

few = {"epochs": 1, "eval_step": 1, "state": "ERROR", "show_progress": False, "use_gpu": False}
result = run_recbole(model="BPR", dataset="ml-100k", config_dict=few, saved=False)["test_result"]
print("not saved: tested,", dict(list(result.items())[:1]))
try:
    run_recbole(model="BPR", dataset="ml-100k", config_dict=few, saved=True)
except pickle.UnpicklingError as error:
    print("saved: UnpicklingError,", str(error).splitlines()[0][:60])
else:
    print("saved: tested")
PY
venv/bin/python -W ignore try.py 2>/dev/null | tee seen.txt
grep -q "^not saved: tested" seen.txt && grep -q "^saved: UnpicklingError, Weights only load failed" seen.txt
