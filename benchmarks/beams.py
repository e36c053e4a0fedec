"""What a beam of TIGER loses against the exact ranking of all items, and what either takes.

    python run_recbole_gen.py --model=TIGER --dataset=ml-100k
    python benchmarks/beams.py saved/TIGER-ml-100k-...  # ranks its test rows; with a number behind it the first so many
    python benchmarks/beams.py 100000                   # 16 histories over so many items, of a model as it is drawn

The same weights rank by beams of 10, 20, 50 and 200, the best 20 exactly (`exact_top`), and all items. "found" is the
share of the exact first ten that the first ten have; users a second are those of the process's CPU time, on one thread.
The peak of memory is that of the process so far, in MiB. Appends to results/beams.tsv.
"""

import sys
import time
from types import SimpleNamespace

import torch
from common import Stub, peak_mib, record
from recbole.data.interaction import Interaction

from recbole_gen import load
from recbole_gen.config.places import PROPERTIES
from recbole_gen.model.tiger import TIGER
from recbole_gen.options import read_yaml

K, TOP, SIZES = 10, 20, (10, 20, 50, 200)
BEST, ALL = f"exact_top: {TOP}", "all, exactly"


def of_run(folder: str, most_rows: int):
    """Model, batches with the targets of their rows, and the name of the data set."""
    run = load(folder)
    batches = []
    for interaction, _, _, positive in run.test:
        batches.append((interaction[:most_rows], positive[:most_rows]))
        most_rows -= len(positive)
        if most_rows <= 0:
            break
    return run.model.eval(), batches, run.config["dataset"]


def of_random_ids(n_items: int):
    """The same of a model as it is drawn, over items whose first digit is drawn, and so on."""
    torch.manual_seed(0)
    digits = torch.randint(256, (2 * n_items, 3)).unique(dim=0)
    digits = digits[torch.randperm(len(digits))[:n_items]]
    digits = torch.cat([digits.new_zeros(1, 3), digits])
    settings = read_yaml(PROPERTIES / "model/TIGER.yaml")
    dataset = SimpleNamespace(num=lambda field: n_items + 1, semantic_ids=torch.cat([digits, digits[:, :1] * 0], 1))
    model = TIGER(Stub(settings, n_items + 1), dataset).eval()
    history = torch.randint(1, n_items + 1, (16, 20))
    batch = Interaction({"item_id_list": history, "item_length": torch.full((16,), 20)})
    return model, [(batch, torch.ones(16, dtype=torch.int64))], "random"


def main(what: str, most_rows: int = sys.maxsize) -> None:
    torch.set_num_threads(1)
    model, batches, name = of_random_ids(int(what)) if what.isdecimal() else of_run(what, most_rows)
    best, rows = {}, []
    for size in [*SIZES, BEST, ALL]:
        model.beam_size = size if size in SIZES else None
        model.exact_top = TOP if size == BEST else None
        started = time.process_time()
        best[size] = torch.cat([model.full_sort_predict(batch).topk(K, dim=1).indices for batch, _ in batches])
        rows.append((size, time.process_time() - started, peak_mib()))
    target, place = torch.cat([positive for _, positive in batches]), torch.arange(K) + 2.0
    for size, seconds, peak in rows:
        hit = best[size] == target.unsqueeze(1)
        nodes = sum(model.tree.width(depth) for depth in range(1, model.tree.depth))
        row = {
            "data": name,
            "items": model.n_items - 1,
            "prefixes": nodes,
            "ranking": f"beam of {size}" if size in SIZES else size,
            "rows": len(hit),
        }
        known = name != "random"
        row |= {f"HR@{K}": hit.any(1).double().mean().item() if known else ""}
        row |= {f"NDCG@{K}": (hit / place.log2()).sum(1).double().mean().item() if known else ""}
        found = (best[size].unsqueeze(2) == best[ALL].unsqueeze(1)).any(2).double().mean().item()
        record("beams", row | {"found": found, "users a second": len(hit) / seconds, "peak MiB": peak})


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
