#!/usr/bin/env bash
# RecBole 1.2.1's BERT4Rec, histories of ten items, mask_ratio 0.2 (the default): which of the masked items it learns to name.
# Expected: all; an item that is replaced by [MASK] is a target of the loss.
# Guess before the run: MaskItemSequence keeps room for int(mask_ratio * MAX_ITEM_LIST_LENGTH) = 2 targets of a history, but
# masks each item by a draw of its own, so that more are masked in a third of the histories; the first ones then have no room.
# Seen (2026-11-30, Python 3.11): of 2,000 histories 32 % have more than two masked items, and 24 % of all masked items are in
# the input as [MASK] and in no target. With histories of 50, and room for ten, 43 % and 11 %.
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
    for user in $(seq 1 40); do
        for step in $(seq 1 60); do printf 'u%s\ti%s\t%s\n' $user $(((user * 7 + step) % 90)) $step; done
    done
} > data/long/long.inter
cat > try.py <<'PY'
import random
import sys

length, sys.argv = int(sys.argv[1]), sys.argv[:1]
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.transform import MaskItemSequence

values = {
    "data_path": "data", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "ERROR", "use_gpu": False,
    "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": length, "ft_ratio": 0, "mask_ratio": 0.2,
}
config = Config(model="BERT4Rec", dataset="long", config_dict=values)
data = create_dataset(config)
transform = MaskItemSequence(config)
random.seed(1)
torch.manual_seed(1)
items = torch.stack([torch.randperm(data.item_num - 1)[:length] + 1 for _ in range(2000)])
rows = transform(data, Interaction({"item_id_list": items, "item_length": torch.full((2000,), length)}))
masked = (rows[transform.MASK_ITEM_SEQ] == data.item_num).sum(1)
targets = (rows[transform.POS_ITEMS] > 0).sum(1)
room = rows[transform.POS_ITEMS].shape[1]
lost = round(100 * (masked - targets).sum().item() / masked.sum().item())
print(f"length {length}: room for {room}; {round(100 * (masked > room).float().mean().item())} % of the histories have more "
      f"masked, {lost} % of the masked items are no target")
PY
for length in 10 50; do venv/bin/python -W ignore try.py $length 2>/dev/null; done | tee seen.txt
grep -qx "length 10: room for 2; 32 % of the histories have more masked, 24 % of the masked items are no target" seen.txt
grep -qx "length 50: room for 10; 43 % of the histories have more masked, 11 % of the masked items are no target" seen.txt
