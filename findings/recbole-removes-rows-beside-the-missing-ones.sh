#!/usr/bin/env bash
# RecBole 1.2.1, an interaction file of six rows: the second lacks its user, the fourth its item (empty cells).
# Expected: four interactions are left, those that have both.
# Guess before the run: Dataset._filter_nan_user_or_item looks rows up by label and then takes them by position; after rows
# without a user have gone, the two differ, so that a wrong row is removed for the one without an item.
# Seen (2026-11-29, Python 3.11): items a, c, a missing one (it becomes the padding item), and f are left. The good row of item
# e is gone, while the log says that line 5, which has no item, was removed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.12.0 pandas==2.1.4 scikit-learn==1.5.2 \
    "ray[tune]==2.60.0" pyarrow==17.0.0 tensorboard==2.21.0 pyyaml==6.0.3 tqdm==4.67.1 colorlog==4.7.2 colorama==0.4.4 texttable==1.7.0 psutil==7.0.0 \
    tabulate==0.9.0 plotly==5.24.1 thop==0.1.1.post2209072238 "setuptools<81"
venv/bin/pip install -q --no-deps recbole==1.2.1
mkdir -p data/six
printf 'user_id:token\titem_id:token\nu\ta\n\tb\nu\tc\nu\t\nu\te\nu\tf\n' > data/six/six.inter
cat > try.py <<'PY'
import sys

sys.argv = sys.argv[:1]
from recbole.config import Config
from recbole.data import create_dataset

values = {"data_path": "data", "load_col": {"inter": ["user_id", "item_id"]}, "state": "ERROR", "use_gpu": False}
data = create_dataset(Config(model="BPR", dataset="six", config_dict=values))
print("items left:", *(str(data.id2token("item_id", int(item))) for item in data.inter_feat["item_id"]))
PY
venv/bin/python -W ignore try.py 2>/dev/null | tee seen.txt
grep -qx 'items left: a c \[PAD\] f' seen.txt
