"""What a GPU makes of training and evaluation: one script of at most ten minutes.

    python benchmarks/gpu.py [--device=cuda] [--seconds=540] [--data=FOLDER] [--results=FOLDER]
    python benchmarks/gpu.py --device=cpu --small      # the script itself, in a minute

In this order, each line as soon as it is known, and no new one once --seconds are over:

    step        of every model, rows and positions, on ml-100k: seconds of a step and of an epoch, targets a second,
                users scored a second, peak memory of the device
    gather      batches of rows a second, gathered on the device and on the CPU (and copied)
    published   a step of the papers' sizes that PASRec and DiffRec need (--data with the prepared data sets), and what
                an epoch and the whole run would take

--small takes a made-up log of 40 users instead of ml-100k, and few steps. Appends to gpu_step.tsv, gpu_gather.tsv
and gpu_published.tsv in --results, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common
import torch
from recbole.utils import init_seed

from recbole_gen.config.config import Config
from recbole_gen.data.loaders import create_dataset, create_loaders, fits_on_gpu
from recbole_gen.errors import UserError
from recbole_gen.quick_start import create_model
from recbole_gen.training.losses import training_loss
from recbole_gen.training.trainer import create_trainer

SCENES = {"SCENE_FIELD": "class", "scene_rule": "first"}
POSITIONS = {
    "DiffRec": {"causal": True, "positions_from": "start"},
    "DSPnet": {"causal": True},
    "TIGER": {"causal": True, "positions_from": "start"},
}
MODELS = ("SASRec", "GRU4Rec", "DreamRec", "DiffRec", "PASRec", "PreferDiff", "ACVAE", "DSPnet", "TIGER")
PUBLISHED = ("pasrec-beauty-benchmark", "pasrec-toys-benchmark", "preferdiff-beauty-benchmark", "diffrec-beauty")


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() >= self.end


def write_small_log(folder: Path) -> None:
    """Data set `small`: 40 users walk over 30 items, 8 to 14 steps each, with a scene a step."""
    path = folder / "small/small.inter"
    path.parent.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tclass:token"]
    for user, step in itertools.product(range(40), range(14)):
        if step < 8 + user % 7:
            item = (7 * user + step * (1 + user % 3)) % 30
            lines.append(f"u{user}\ti{item}\t{1_500_000_000 + 86_400 * (3 * step + user)}\tc{item % 4}")
    path.write_text("\n".join(lines) + "\n")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call, device: torch.device) -> float:
    """Seconds of a call, until the device has done it."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def prepared(settings: dict, device: str, **chosen):
    """(configuration, loaders) of a run on a device."""
    values = {"use_gpu": device != "cpu", "data_cache": False, "tensorboard": False, "show_progress": False, **settings}
    config = Config(**chosen, config_dict=values, argv=[])
    if config["device"].type != torch.device(device).type:
        sys.exit(f"this machine has no {device}: RecBole takes {config['device']}")
    init_seed(config["seed"], True)
    return config, create_loaders(config, create_dataset(config))


def measure_step(config, loaders, steps: int) -> dict:
    """Seconds of a step and an epoch, targets a second, users scored a second, and memory."""
    train, valid, _ = loaders
    device = config["device"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = create_model(config, train._dataset).to(device).train()
    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"] = folder
        optimizer = create_trainer(config, model).optimizer
    calculate = training_loss(config, model)
    following = f"next_{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"
    seconds, targets = [], 0

    def step(batch) -> None:
        optimizer.zero_grad()
        losses = calculate(batch.to(device))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimizer.step()

    batches = itertools.chain.from_iterable(itertools.repeat(train))
    for batch in itertools.islice(batches, steps + 3):
        seconds.append(timed(lambda batch=batch: step(batch), device))
        targets += int((batch[following] != 0).sum()) if following in batch else len(batch)
    median = statistics.median(seconds[3:])
    model.eval()
    users = 0
    started = time.perf_counter()
    with torch.no_grad():
        for interaction, *_ in valid:
            users += len(model.full_sort_predict(interaction.to(device)))
    synchronize(device)
    scoring = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated(device) >> 20 if device.type == "cuda" else common.peak_mib()
    return {
        "step_s": round(median, 5),
        "epoch_s": round(median * len(train), 2),
        "targets_a_s": round(targets / len(seconds) / median),
        "users_a_s": round(users / scoring),
        "peak_mib": memory,
    }


def measure_gather(config, loaders) -> dict:
    """Batches of rows a second where they are gathered on the device, and on the CPU."""
    train, device = loaders[0], config["device"]
    rows = train._dataset.inter_feat
    numbers = torch.randperm(len(rows))[: 50 * train.step].split(train.step)
    there = train._dataset.to(device)
    on_device = timed(lambda: [there[each.to(device)] for each in numbers], device)
    on_cpu = timed(lambda: [train._dataset[each].to(device) for each in numbers], device)
    return {
        "fits": fits_on_gpu(device, rows),
        "batches_a_s_there": round(len(numbers) / on_device),
        "batches_a_s_here": round(len(numbers) / on_cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.results:
        common.RESULTS = given.results.absolute()
    clock, steps = Clock(given.seconds), 2 if given.small else 30
    with tempfile.TemporaryDirectory() as folder:
        dataset, settings = "ml-100k", dict[str, object]()
        if given.small:
            write_small_log(Path(folder))
            dataset, settings = "small", {"data_path": folder, "train_batch_size": 64, "topk": [5], "load_col": None}
            settings["valid_metric"] = "NDCG@5"
        for model, mode in itertools.product(MODELS, ("rows", "positions")):
            if clock.is_over():
                print("the time is over")
                return
            more = {**(SCENES if model == "DSPnet" else {}), "train_pairs": "all"}
            if mode == "positions":
                more |= {"train_pairs": "positions", **POSITIONS.get(model, {})}
            config, loaders = prepared(settings | more, given.device, model=model, dataset=dataset)
            measured = measure_step(config, loaders, steps)
            common.record("gpu_step", {"model": model, "mode": mode, "device": given.device, **measured})
        config, loaders = prepared({**settings, "train_pairs": "all"}, given.device, model="SASRec", dataset=dataset)
        common.record("gpu_gather", {"device": given.device, **measure_gather(config, loaders)})
    for name in PUBLISHED if given.data else ():
        if clock.is_over():
            print("the time is over")
            return
        model = "DiffRec" if name.startswith("diffrec") else "PreferDiff" if name.startswith("pref") else "PASRec"
        try:
            config, loaders = prepared({"data_path": str(given.data), "paper": name}, given.device, model=model)
        except UserError as error:
            print(f"{name}: left out, {error}")
            continue
        measured = measure_step(config, loaders, steps)
        whole = {"run_h": round(measured["epoch_s"] * config["epochs"] / 3600, 2)}
        common.record("gpu_published", {"paper": name, "model": model, "device": given.device, **measured, **whole})


if __name__ == "__main__":
    main()
