"""Seconds of a training step on the CPU: RecBole's SASRec as RecBole runs it, and as it runs here.

    python benchmarks/kernels.py [--steps=6] [--threads=1]

ml-100k, RecBole's defaults (batch 2048, history 50, hidden size 64, dropout 0.5). The variants run one after the other
in one process (malloc's setting cannot be undone, so it comes last), from the same weights; the median step counts.
Appends to results/kernels.tsv.
"""

import argparse
import statistics
import time

import torch
from recbole.model.layers import FeedForward, MultiHeadAttention
from recbole.model.sequential_recommender.sasrec import SASRec

PATCHED = ((MultiHeadAttention, "forward"), (FeedForward, "gelu"), (SASRec, "forward"))
plain = [getattr(owner, name) for owner, name in PATCHED]

from common import record  # noqa: E402

from recbole_gen import compat  # noqa: E402
from recbole_gen.config.config import Config  # noqa: E402
from recbole_gen.data.loaders import create_dataset, create_loaders  # noqa: E402

ours = [getattr(owner, name) for owner, name in PATCHED]
fused = [*ours[:2], plain[2]]


def step_seconds(config, train, kernels, steps):
    for (owner, name), kernel in zip(PATCHED, kernels, strict=True):
        setattr(owner, name, kernel)
    torch.manual_seed(0)
    model = config.model_class(config, train._dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seconds = []
    for index, batch in enumerate(train):
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        if index == steps:
            break
    return statistics.median(seconds[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 2048, "use_gpu": False}
    config = Config(model="SASRec", dataset="ml-100k", config_dict=shape)
    train, _, _ = create_loaders(config, create_dataset(config))

    torch.autograd.set_detect_anomaly(True)
    seconds = {"as RecBole runs it": step_seconds(config, train, plain, args.steps)}
    torch.autograd.set_detect_anomaly(False)
    seconds["without anomaly detection"] = step_seconds(config, train, plain, args.steps)
    seconds["and fused attention and GELU"] = step_seconds(config, train, fused, args.steps)
    seconds["and one position in the last layer"] = step_seconds(config, train, ours, args.steps)
    compat.keep_freed_memory()
    seconds["and malloc keeps freed memory"] = step_seconds(config, train, ours, args.steps)
    first = seconds["as RecBole runs it"]
    for name, value in seconds.items():
        record(
            "kernels", {"variant": name, **vars(args), "seconds": round(value, 3), "faster": round(first / value, 2)}
        )


if __name__ == "__main__":
    main()
