#!/usr/bin/env bash
# RecBole 1.2.1's metrics of what is recommended to whom, on lists that recommend each of four items once: [1, 2] and [3, 4].
# Expected: all items are covered (ItemCoverage 1), all as often as each other (GiniIndex 0), and the Shannon entropy of four
# equal shares is log 4 = 1.3863, its maximum.
# Guess before the run: item 0, the padding, which can never be recommended, counts among the items, so that coverage ends at
# 4 / 5 and the Gini index begins above 0; and the entropy is divided by the number of items that are recommended.
# Seen (2026-12-01, Python 3.11): coverage 0.8, Gini index 0.2, entropy 0.3466. The entropy of a catalogue of which twice as
# much is recommended is smaller: eight items once each have 0.2599. So the first two miss their bound by an item, which is
# little on real catalogues, and the third ranks recommenders the wrong way round.
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
import torch
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.metrics import GiniIndex, ItemCoverage, ShannonEntropy

config = {"topk": [2], "metric_decimal_place": 4}
for lists in ([[1, 2], [3, 4]], [[1, 2], [3, 4], [5, 6], [7, 8]]):
    seen = DataStruct()
    seen.set("rec.items", torch.tensor(lists))
    seen.set("data.num_items", max(map(max, lists)) + 1)  # as a data set says it, with the padding
    found = {}
    for metric in (ItemCoverage, GiniIndex, ShannonEntropy):
        found |= metric(config).calculate_metric(seen)
    print(" ".join(f"{name} {value:.4f}" for name, value in found.items()))
PY
venv/bin/python -W ignore try.py 2>/dev/null | tee seen.txt
grep -qx "itemcoverage@2 0.8000 giniindex@2 0.2000 shannonentropy@2 0.3466" seen.txt
grep -q "shannonentropy@2 0.2599$" seen.txt
