"""Memory and seconds of a DSPnet training step with a million items: all candidates, plainly or in parts, or samples.

    python benchmarks/candidates.py [--items=1000000] [--hidden_size=64] [--batch=32] [--steps=3] [--threads=1]

`plain` computes the logits of all items at once and leaves the gradient to autograd; `ours` goes through the items in
parts; `sampled` draws 8192 negatives (`candidates: auto` above `full_limit`).
Each variant runs in a process of its own, one after the other; the median step counts, after one to warm up.
`parameters_mib` is the memory of weights, gradients and Adam's two moments; `step_mib` what the first loss and its
gradients add beyond them. Appends to results/candidates.tsv.
"""

import argparse
import multiprocessing
import statistics
import time

import torch
from common import Stub, peak_mib, record

from recbole_gen.config.places import PROPERTIES
from recbole_gen.model import dspnet
from recbole_gen.model.dspnet import DSPnet
from recbole_gen.options import read_yaml

SCENES = 300
L = 25


class Data(Stub):
    """A data set of a million items whose training rows are drawn at random."""

    def num(self, field):
        return SCENES if field == "scene" else self["items"]


def plain_bce(o, rows, labels, bias):
    """The loss as the equation has it; for the comparison only."""
    x = o @ rows.T + bias
    return (torch.nn.functional.softplus(x).sum() - x[labels(0, len(rows))].sum()) / len(o)


def batch_of(args, rows):
    size = {"item_id": args.items + 1, "scene": SCENES}
    drawn = {field: torch.randint(1, number, (rows, L + 5)) for field, number in size.items()}
    lists = {f"{field}_list": values[:, :L] for field, values in drawn.items()}
    futures = {f"future_{field}_list": values[:, L:] for field, values in drawn.items()}
    return {**lists, **futures, "item_length": torch.full((rows,), L), "item_id": drawn["item_id"][:, L]}


class Rows:
    """What DSPnet reads of the training rows at construction."""

    def __init__(self, args):
        self.batch = batch_of(args, 1000)

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return {field: values[index] for field, values in self.batch.items()}


def measure(variant, args, send):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    settings = read_yaml(PROPERTIES / "model/DSPnet.yaml") | {
        "hidden_size": args.hidden_size, "SCENE_FIELD": "scene", "seed": 0, "MAX_ITEM_LIST_LENGTH": L,
        "candidates": "sampled" if variant == "sampled" else "full",
    }  # fmt: skip
    if variant == "plain":
        dspnet.full_bce = plain_bce
    data = Data(settings, items=args.items + 1)
    data.inter_feat = Rows(args)
    model = DSPnet(data, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seconds, first = [], 0
    for step in range(args.steps + 1):
        batch = batch_of(args, args.batch)
        before = peak_mib()
        started = time.perf_counter()
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        if step == 0:
            first = peak_mib() - before
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4 >> 20
    send.send(
        {
            "seconds": round(statistics.median(seconds[1:]), 2),
            "step_mib": first - weights,
            "peak_mib": peak_mib(),
            "parameters_mib": 4 * weights,
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for variant in ("plain", "ours", "sampled"):
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=measure, args=(variant, args, send))
        worker.start()
        record("candidates", {"variant": variant, **vars(args), **receive.recv()})
        worker.join()


if __name__ == "__main__":
    main()
