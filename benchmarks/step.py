"""Memory and seconds of a PASRec training step at the size behind its published numbers, d = 3072, batch 256.

    python benchmarks/step.py [--hidden_size=3072] [--items=12101] [--batch=256] [--steps=3] [--threads=1]

`ours`, and `gathered`: the same with the centroid computed as PreferDiff's code does, from a [B, B - 1, d] gather of
all the other targets. Each runs in a process of its own, one after the other, since a peak cannot be taken back; the
median step counts, after one to warm up. `loss_and_gradients_mib` is what the first loss and its gradients add to the
process; the peak of all is in AdamW's update. `parameters_mib` is the memory of weights, gradients and AdamW's two
moments, which no implementation avoids. Appends to results/step.tsv.
"""

import argparse
import multiprocessing
import statistics
import time
from types import SimpleNamespace

import torch
from common import Stub, peak_mib, record

from recbole_gen.config.places import PROPERTIES
from recbole_gen.model.pasrec import PASRec
from recbole_gen.options import read_yaml


class Gathered(PASRec):
    """Every row gathers the others' targets; for the comparison only."""

    def centroid(self, x0):
        B = len(x0)
        others = torch.arange(B).expand(B, B)[~torch.eye(B, dtype=torch.bool)].reshape(B, B - 1)
        return x0[others].mean(1)


def measure(variant, args, send):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    settings = read_yaml(PROPERTIES / "model/PASRec.yaml") | {
        "hidden_size": args.hidden_size, "seed": 0, "TOI_FIELD": "toi", "detach_target": False, "detach_noised": False,
    }  # fmt: skip
    stub = Stub(settings, items=args.items + 1)
    stub.day_range = SimpleNamespace(first=0, last=5000)
    model = {"ours": PASRec, "gathered": Gathered}[variant](stub, stub)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    L = settings["MAX_ITEM_LIST_LENGTH"]
    batch = {
        "item_id_list": torch.randint(1, args.items + 1, (args.batch, L)),
        "item_length": torch.full((args.batch,), L),
        "item_id": torch.randint(1, args.items + 1, (args.batch,)),
        "toi_list": torch.rand(args.batch, L).sort(1).values,
        "toi": torch.rand(args.batch),
    }
    seconds, before, backward = [], peak_mib(), 0
    for _ in range(args.steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        backward = backward or peak_mib() - before  # the optimiser has no state yet
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    parameters = sum(p.numel() for p in model.parameters())
    send.send((statistics.median(seconds[1:]), backward, peak_mib(), parameters))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"hidden_size": 3072, "items": 12101, "batch": 256, "steps": 3, "threads": 1}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for variant in ("ours", "gathered"):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(variant, args, send))
        process.start()
        seconds, backward, peak, parameters = receive.recv()
        process.join()
        record(
            "step",
            {
                "variant": variant, **vars(args), "seconds": round(seconds, 2), "loss_and_gradients_mib": backward,
                "peak_mib": peak, "parameters_mib": 16 * parameters >> 20,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
