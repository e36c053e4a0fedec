#!/usr/bin/env bash
# RecBole 1.2.1, one user whose five events of today lie ten seconds apart, in the file from the last to the first.
# Expected: with order TO (by time) the history of the last event is the four others, from the first on: a b c d, then e.
# Guess before the run: times become float32 before rows are sorted by them. Unix seconds of today are about 1.8e9, where
# float32 knows multiples of 128 alone: all five times are one number, and the order is the file's, or the sort's.
# Seen (2026-11-30, Python 3.11): all events of the history have one time, they stand in the order of the file, and what
# leave-one-out tests is a, the first event instead of the last. The same log with times that begin at 0 is in order.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.12.0 pandas==2.1.4 scikit-learn==1.5.2 \
    "ray[tune]==2.60.0" pyarrow==17.0.0 tensorboard==2.21.0 pyyaml==6.0.3 tqdm==4.67.1 colorlog==4.7.2 colorama==0.4.4 texttable==1.7.0 psutil==7.0.0 \
    tabulate==0.9.0 plotly==5.24.1 thop==0.1.1.post2209072238 "setuptools<81"
venv/bin/pip install -q --no-deps recbole==1.2.1
mkdir -p data/today data/zero
write() { # name, first time
    printf 'user_id:token\titem_id:token\ttimestamp:float\n'
    for step in 4 3 2 1 0; do printf 'u\t%s\t%s\n' "$(echo abcde | cut -c$((step + 1)))" $(($1 + 10 * step)); done
}
write 1796000000 > data/today/today.inter
write 0 > data/zero/zero.inter
cat > try.py <<'PY'
import sys

name, sys.argv = sys.argv[1], sys.argv[:1]
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

values = {
    "data_path": "data", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "ERROR", "use_gpu": False,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "train_neg_sample_args": None,
}
config = Config(model="GRU4Rec", dataset=name, config_dict=values)
data = create_dataset(config)
_, _, test = data_preparation(config, data)
row = test.dataset.inter_feat
history = row["item_id_list"][0][: int(row["item_length"][0])]
times = {int(time) for time in row["timestamp_list"][0][: len(history)]}
items = [str(data.id2token("item_id", int(item))) for item in [*history, row["item_id"][0]]]
print(f"{name}: {len(times)} different times in the history, events {' '.join(items[:-1])}, tested {items[-1]}")
PY
for name in today zero; do venv/bin/python -W ignore try.py $name 2>/dev/null; done | tee seen.txt
grep -qx "today: 1 different times in the history, events e d c b, tested a" seen.txt
grep -qx "zero: 4 different times in the history, events a b c d, tested e" seen.txt
