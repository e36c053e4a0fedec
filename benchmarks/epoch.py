"""Seconds and peak memory of one training epoch: ACVAE and DSPnet beside RecBole's SASRec, equal batch and length.

    python benchmarks/epoch.py [--batch=256] [--length=50] [--steps=40] [--threads=1] [--data_path=F --dataset=D]

By default on ml-100k, where a film's first genre is its scene. SASRec and DSPnet have a row for every event (DSPnet
with the next ten events as labels), ACVAE predicts all steps of windows that adjoin: `targets` is how many events each
one predicts in an epoch. At most `steps` batches are run, and the seconds scaled to the whole epoch. Every model runs
in a process of its own, one after the other. Appends to results/epoch.tsv.
"""

import argparse
import itertools
import multiprocessing
import time

import torch
from common import peak_mib, record

from recbole_gen.config.config import Config
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.training.trainer import create_trainer

MODELS = {
    "SASRec": {},
    "ACVAE": {"train_pairs": "window", "window_step": None},
    "DSPnet": {"train_pairs": "all", "future_events": 10},
    "DSPnet, no contrast": {"train_pairs": "all", "future_events": 10, "beta_k": 0},
}


def measure(name, args, send):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    values = {
        "MAX_ITEM_LIST_LENGTH": args.length, "train_batch_size": args.batch, "use_gpu": False, "tensorboard": False,
        "checkpoint_dir": args.checkpoint_dir, **MODELS[name],
    }  # fmt: skip
    if args.data_path:
        values["data_path"] = args.data_path
    model = name.partition(",")[0]
    if model == "DSPnet" and args.dataset == "ml-100k":
        values |= {"SCENE_FIELD": "class", "scene_rule": "first"}
    config = Config(model=model, dataset=args.dataset, config_dict=values)
    train, _, _ = create_loaders(config, create_dataset(config))
    rows = train._dataset.inter_feat
    trainer = create_trainer(config, config.model_class(config, train._dataset))
    before = peak_mib()
    batches = list(itertools.islice(train, args.steps))
    started = time.perf_counter()
    trainer._train_epoch(batches, 0)
    seconds = (time.perf_counter() - started) * len(train) / len(batches)
    targets = int(rows.history_length.sum()) if model == "ACVAE" else len(rows)
    peak = peak_mib()
    send.send(
        {"rows": len(rows), "targets": targets, "seconds": round(seconds, 1), "loaded_mib": before, "peak_mib": peak}
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path")
    parser.add_argument("--checkpoint_dir", default="saved/epoch")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    sasrec = None
    for name in MODELS:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=measure, args=(name, args, send))
        worker.start()
        found = receive.recv()
        worker.join()
        sasrec = sasrec or found["seconds"]
        settings = {key: getattr(args, key) for key in ("dataset", "batch", "length", "steps", "threads")}
        record("epoch", {"model": name, **settings, **found, "times_sasrec": round(found["seconds"] / sasrec, 2)})


if __name__ == "__main__":
    main()
