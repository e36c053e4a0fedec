"""DreamRec's inference, closed form against its own stepwise sampler, scoring and top-20 included.

    python benchmarks/inference.py [--users=10000] [--items=10000] [--timesteps=2000] [--hidden_size=64] [--threads=1]

Both score the same users with the same weights in one process, one after the other (the stepwise ones once, the
others --repeats times, median): encode the history, generate the oracle item, score all items, take the 20 best.
`closed form` includes composing the chain anew each time. `stepwise` is algorithm 2 with both guidances in one call and
one step embedding a step, in batches of 1024;
`stepwise, batches of 100` the same as the released code's evaluation cuts its users; `stepwise, guidance folded` also
uses that the denoiser is affine. `no generation` only scores and ranks: a floor for any sampler. Appends to
results/inference.tsv.
"""

import argparse
import time

import torch
from common import Stub, record

from recbole_gen import compat
from recbole_gen.config.places import PROPERTIES
from recbole_gen.model.diffusion import guide
from recbole_gen.model.dreamrec import DreamRec
from recbole_gen.options import read_yaml


class Folded(DreamRec):
    """The stepwise sampler with the guidance put into the condition; for the comparison only."""

    def generate(self, h):
        h = guide(h, self.null_guidance, self.guidance_scale)
        return self.diffusion.ancestral_sample(
            lambda x, t: self.denoise(x, h, torch.tensor([t])), self._randn(h), lambda: self._randn(h)
        )


class Scored(DreamRec):
    """No generation at all: the guidance itself is scored."""

    def generate(self, h):
        return h


@torch.no_grad()
def recommend(model, rows, batch_size):
    """Top-20 items of every row, from the first history to the last list. Returns lists and seconds."""
    started = time.perf_counter()
    model.eval()  # forgets the composed chain: it is part of the time
    lists = []
    for start in range(0, len(rows["item_length"]), batch_size):
        batch = {name: values[start : start + batch_size] for name, values in rows.items()}
        scores = model.full_sort_predict(batch)
        scores[:, 0] = -torch.inf
        lists.append(scores.topk(20).indices)
    return torch.cat(lists), time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 10000), ("items", 10000), ("timesteps", 2000), ("hidden_size", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compat.keep_freed_memory()
    torch.manual_seed(0)
    settings = read_yaml(PROPERTIES / "model/DreamRec.yaml") | {
        "timesteps": args.timesteps, "hidden_size": args.hidden_size, "seed": 0, "noise_schedule": "cosine",
    }  # fmt: skip
    length = settings["MAX_ITEM_LIST_LENGTH"]
    rows = {
        "item_id_list": torch.randint(1, args.items + 1, (args.users, length)),
        "item_length": torch.full((args.users,), length),
    }
    stub = Stub(settings, items=args.items + 1)
    variants = {
        "closed form": (DreamRec(stub | {"sampler": "auto"}, stub), 64),
        "no generation": (Scored(stub | {"sampler": "auto"}, stub), 64),
        "stepwise": (DreamRec(stub | {"sampler": "stepwise"}, stub), 1024),
        "stepwise, batches of 100": (DreamRec(stub | {"sampler": "stepwise"}, stub), 100),
        "stepwise, guidance folded": (Folded(stub | {"sampler": "stepwise"}, stub), 1024),
    }
    weights = variants["closed form"][0].state_dict()
    seconds = {}
    for name, (model, batch_size) in variants.items():
        model.load_state_dict(weights)
        repeats = 1 if name.startswith("stepwise") else args.repeats
        runs = [recommend(model, rows, batch_size)[1] for _ in range(repeats)]
        seconds[name] = sorted(runs)[len(runs) // 2]
        ratio = seconds[name] / seconds["closed form"]
        record(
            "inference",
            {"variant": name, **vars(args), "seconds": round(seconds[name], 3), "times_closed_form": round(ratio, 1)},
        )


if __name__ == "__main__":
    main()
