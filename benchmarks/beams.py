"""What a beam of TIGER loses against the exact ranking of all items, and what either takes.

    python run_recbole_gen.py --model=TIGER --dataset=ml-100k
    python benchmarks/beams.py saved/TIGER-ml-100k-... [10 20 50]

Ranks the test rows of a run of TIGER exactly and by beams of these sizes, with the same weights. "found" is the share
of the exact first ten that the beam's first ten have; users a second are those of the process's CPU time, on one
thread. Appends to results/beams.tsv.
"""

import sys
import time

import torch
from common import record

from recbole_gen import load

K = 10


def main(folder: str, sizes: list[int]) -> None:
    torch.set_num_threads(1)
    run = load(folder)
    model, exact = run.model.eval(), None
    for size in [None, *sizes]:
        model.beam_size = size
        started, best, targets = time.process_time(), [], []
        for interaction, _, _, positive in run.test:
            best.append(model.full_sort_predict(interaction).topk(K, dim=1).indices)
            targets.append(positive)
        seconds = time.process_time() - started
        best, target = torch.cat(best), torch.cat(targets)
        exact = best if exact is None else exact
        hit = best == target.unsqueeze(1)
        place = torch.arange(K) + 2.0
        tree = model.tree
        row = {"data": run.config["dataset"], "items": model.n_items - 1}
        row |= {"prefixes": sum(tree.width(depth) for depth in range(1, tree.depth)), "beam": size or "exact"}
        row |= {"rows": len(best), f"HR@{K}": hit.any(1).double().mean().item()}
        row |= {f"NDCG@{K}": (hit / place.log2()).sum(1).double().mean().item()}
        row |= {"found": (best.unsqueeze(2) == exact.unsqueeze(1)).any(2).double().mean().item()}
        record("beams", row | {"users a second": len(best) / seconds})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], [int(size) for size in sys.argv[2:]] or [10, 20, 50])
