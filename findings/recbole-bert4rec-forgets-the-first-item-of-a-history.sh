#!/usr/bin/env bash
# RecBole 1.2.1's BERT4Rec, asked for what follows a history of one item, with room for ten.
# Expected: the scores depend on that item.
# Guess before the run: to predict, a [MASK] is put behind the history, and the first column is cut off to make room for it,
# although there is room: a history of one item becomes the [MASK] alone, and one of two loses the earlier.
# Seen (2026-11-30, Python 3.11): after any one item the scores are the same, bit by bit; after two items they do not depend
# on the first. Only where the history fills MAX_ITEM_LIST_LENGTH there is no room.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.12.0 pandas==2.1.4 scikit-learn==1.5.2 \
    "ray[tune]==2.60.0" pyarrow==17.0.0 tensorboard==2.21.0 pyyaml==6.0.3 tqdm==4.67.1 colorlog==4.7.2 colorama==0.4.4 texttable==1.7.0 psutil==7.0.0 \
    tabulate==0.9.0 plotly==5.24.1 thop==0.1.1.post2209072238 "setuptools<81"
venv/bin/pip install -q --no-deps recbole==1.2.1
mkdir -p data/long
{
    printf 'user_id:token\titem_id:token\ttimestamp:float\n'
    for user in $(seq 1 20); do
        for step in $(seq 1 12); do printf 'u%s\ti%s\t%s\n' $user $(((user * 7 + step) % 30)) $step; done
    done
} > data/long/long.inter
cat > try.py <<'PY'
import sys

sys.argv = sys.argv[:1]
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import BERT4Rec

values = {
    "data_path": "data", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "ERROR", "use_gpu": False,
    "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 10,
}
config = Config(model="BERT4Rec", dataset="long", config_dict=values)
train, _, _ = data_preparation(config, create_dataset(config))
torch.manual_seed(1)
model = BERT4Rec(config, train.dataset).eval()


def scores(*items):
    history = torch.tensor([[*items, *[0] * (10 - len(items))]])
    return model.full_sort_predict(Interaction({"item_id_list": history, "item_length": torch.tensor([len(items)])}))


with torch.no_grad():
    print("after one item, another one: the same scores:", torch.equal(scores(3), scores(8)))
    print("after two, another first one: the same scores:", torch.equal(scores(3, 5), scores(8, 5)))
    print("after two, another last one: the same scores:", torch.equal(scores(5, 3), scores(5, 8)))
PY
venv/bin/python -W ignore try.py 2>/dev/null | tee seen.txt
grep -qx "after one item, another one: the same scores: True" seen.txt
grep -qx "after two, another first one: the same scores: True" seen.txt
grep -qx "after two, another last one: the same scores: False" seen.txt
