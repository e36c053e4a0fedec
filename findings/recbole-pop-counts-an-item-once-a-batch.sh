#!/usr/bin/env bash
# RecBole 1.2.1's Pop, its popularity baseline, on a log of ten interactions: six with item a, three with b, one with c.
# Expected: counts of 6, 3 and 1, whatever the batch size and the negative items, since the model only counts.
# Guess before the run: Pop adds 1 by indexed assignment (item_cnt[item] + 1), which does so once for an item that is several
# times in a batch. With all rows in one batch every item counts 1; only batches of one row give the true counts. And with
# RecBole's default of train_neg_sample_args the items drawn as negative ones are in the batch, too.
# Seen (2026-11-30, Python 3.11): with train_batch_size 100, counts of 1, 1 and 1, so that the ranking is arbitrary; with
# train_batch_size 1, counts of 6, 3 and 1; with the default negatives 20 counts of 10 interactions. The default batch is 2048:
# on small data hardly any popularity is left in the baseline.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.12.0 pandas==2.1.4 scikit-learn==1.5.2 \
    "ray[tune]==2.60.0" pyarrow==17.0.0 tensorboard==2.21.0 pyyaml==6.0.3 tqdm==4.67.1 colorlog==4.7.2 colorama==0.4.4 texttable==1.7.0 psutil==7.0.0 \
    tabulate==0.9.0 plotly==5.24.1 thop==0.1.1.post2209072238 "setuptools<81"
venv/bin/pip install -q --no-deps recbole==1.2.1
mkdir -p data/ten
{
    printf 'user_id:token\titem_id:token\n'
    for user in 1 2 3 4 5 6; do printf 'u%s\ta\n' $user; done
    for user in 1 2 3; do printf 'u%s\tb\n' $user; done
    printf 'u6\tc\n'
} > data/ten/ten.inter
cat > try.py <<'PY'
import sys

batch, negatives, sys.argv = int(sys.argv[1]), sys.argv[2], sys.argv[:1]
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import Pop

values = {
    "data_path": "data", "load_col": {"inter": ["user_id", "item_id"]}, "state": "ERROR", "use_gpu": False,
    "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": "none", "mode": "full"},
    "train_batch_size": batch, **({"train_neg_sample_args": None} if negatives == "without" else {}),
}
config = Config(model="Pop", dataset="ten", config_dict=values)
data = create_dataset(config)
train, _, _ = data_preparation(config, data)
model = Pop(config, train.dataset)
for rows in train:
    model.calculate_loss(rows)
counts = [int(model.item_cnt[data.token2id("item_id", name)]) for name in "abc"]
print(f"train_batch_size {batch}, {negatives} negatives: {counts}, {sum(counts)} of 10 interactions")
PY
for line in "100 without" "1 without" "1 default"; do venv/bin/python -W ignore try.py $line 2>/dev/null; done | tee seen.txt
grep -qx "train_batch_size 100, without negatives: \[1, 1, 1\], 3 of 10 interactions" seen.txt
grep -qx "train_batch_size 1, without negatives: \[6, 3, 1\], 10 of 10 interactions" seen.txt
grep -q "train_batch_size 1, default negatives: .*, 20 of 10 interactions" seen.txt
