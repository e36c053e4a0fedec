"""Users per second of each diffusion model at recommendation: as published, and ours.

    python benchmarks/sampling.py [--users=2000] [--items=12101] [--hidden_size=64] [--threads=1] [--models=...]

From histories of random length up to the model's to top-20 lists, same weights, one process, one after the other; the
median of --repeats runs for ours, one run of the published way. Published is what the papers and the released code
describe, written with our parts:
DreamRec: T = 2000 steps, two network calls each, batches of 100 (released code). DiffRec: algorithm 3 with 10 seeds,
one pass a seed over all 50 padded positions, every position computed in every layer, batches of 256. PASRec and
PreferDiff: DDIM with stride 100 of T = 2000, 21 steps of two calls each with the step embedding for every row, batches
of 32 (released code of PreferDiff). Ours are the defaults, and causal DiffRec, whose seeds share the history's states.
Appends to results/sampling.tsv.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import torch
from common import Stub, record

from recbole_gen import compat
from recbole_gen.config.places import PROPERTIES
from recbole_gen.model.diffrec import DiffRec
from recbole_gen.model.diffusion import guide
from recbole_gen.model.dreamrec import DreamRec
from recbole_gen.model.pasrec import PASRec, PreferDiff
from recbole_gen.options import read_yaml


class PublishedDreamRec(DreamRec):
    def generate(self, h, noise):
        null = self.null_guidance.expand_as(h)

        def guided(x, t):
            step = torch.full((len(x),), t)
            return guide(self.denoise(x, h, step), self.denoise(x, null, step), self.guidance_scale)

        return self.diffusion.ancestral_sample(guided, torch.randn_like(h), lambda: torch.randn_like(h))


class PublishedDiffRec(DiffRec):
    def full_sort_predict(self, interaction):
        item_seq = interaction["item_id_list"]
        n = torch.full((len(item_seq),), self.diffusion.timesteps)
        length, scores = (item_seq != 0).sum(1), 0
        for noise in self.noise_bank:
            h0 = self._encode(item_seq, length, noise.expand(len(item_seq), 1, -1), n)
            scores = scores + self.item_probabilities(h0)
        return scores / self.n_seeds

    def _encode(self, item_seq, length, slots, n):
        last = self.blocks[-1]
        self.blocks[-1] = Whole(last)
        out = super()._encode(item_seq, length, slots, n)
        self.blocks[-1] = last
        return out


class Whole(torch.nn.Module):
    """A last block that computes every position, of which the first is read."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, sees):
        return self.block(x, sees.expand(-1, -1, x.shape[1], -1))[:, :1]


class PublishedPASRec(PASRec):
    def generate(self, h, noise):
        null = self.null_guidance.expand_as(h)

        def guided(x, t):
            step = self.step_embedding(torch.full((len(x),), t))
            each = [self.denoiser(torch.cat([x, condition, step], dim=-1)) for condition in (h, null)]
            return guide(*each, self.guidance_scale)

        return self.diffusion.ddim_sample(guided, torch.randn_like(h), self.ddim_stride, compat=True)


class PublishedPreferDiff(PublishedPASRec, PreferDiff):
    pass


SETTINGS = {
    "DreamRec": {"timesteps": 2000},
    "DiffRec": {"MAX_ITEM_LIST_LENGTH": 49},
    "PASRec": {"MAX_ITEM_LIST_LENGTH": 10},
    "PreferDiff": {"MAX_ITEM_LIST_LENGTH": 10},
}
VARIANTS = {
    "DreamRec": [("published", PublishedDreamRec, 100, {}), ("ours", DreamRec, 256, {})],
    "DiffRec": [
        ("published", PublishedDiffRec, 256, {}),
        ("ours", DiffRec, 256, {}),
        ("ours, causal", DiffRec, 256, {"causal": True}),
    ],
    "PASRec": [("published", PublishedPASRec, 32, {}), ("ours", PASRec, 256, {})],
    "PreferDiff": [("published", PublishedPreferDiff, 32, {}), ("ours", PreferDiff, 256, {})],
}


@torch.no_grad()
def seconds(model, rows, batch_size):
    started = time.perf_counter()
    model.eval()  # forgets a composed chain: it is part of the time
    for start in range(0, len(rows["item_length"]), batch_size):
        batch = {name: values[start : start + batch_size] for name, values in rows.items()}
        scores = model.full_sort_predict(batch)
        scores[:, 0] = -torch.inf
        scores.topk(20)
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 2000), ("items", 12101), ("hidden_size", 64), ("threads", 1), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--models", default=",".join(VARIANTS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compat.keep_freed_memory()
    for name in args.models.split(","):
        settings = read_yaml(PROPERTIES / f"model/{name}.yaml") | SETTINGS[name] | {
            "hidden_size": args.hidden_size, "inner_size": 4 * args.hidden_size, "seed": 0, "TOI_FIELD": "toi",
        }  # fmt: skip
        torch.manual_seed(0)
        L = settings["MAX_ITEM_LIST_LENGTH"]
        lengths = (torch.rand(args.users).pow(-1) * 4).long().clamp(4, L)  # most short, as Amazon's: mean 9 of 49
        real = torch.arange(L) < lengths.unsqueeze(1)
        rows = {
            "item_id_list": torch.randint(1, args.items + 1, (args.users, L)) * real,
            "item_length": lengths,
            "toi_list": torch.rand(args.users, L).sort(1).values * real,
        }
        published = None
        for variant, model_class, batch_size, changes in VARIANTS[name]:
            stub = Stub(settings | changes, items=args.items + 1)
            stub.day_range = SimpleNamespace(first=0, last=5000)
            torch.manual_seed(1)
            model = model_class(stub, stub)
            repeats = 1 if variant == "published" else args.repeats
            each = statistics.median(seconds(model, rows, batch_size) for _ in range(repeats))
            published = published or each
            record(
                "sampling",
                {
                    "model": name, "variant": variant, "users": args.users, "items": args.items, "history": L,
                    "hidden_size": args.hidden_size, "threads": args.threads, "seconds": round(each, 3),
                    "users_per_second": round(args.users / each), "times_published": round(published / each, 1),
                },
            )  # fmt: skip


if __name__ == "__main__":
    main()
