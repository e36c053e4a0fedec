"""Training steps in process CPU time, here and in another checkout, side by side in one run.

    python benchmarks/training.py --against=FOLDER [--data=FOLDER] [--cases=NAME,...] [--rounds=3] [--steps=30]

Each case runs in a process of its own, on one thread, the two builds in turns; of all rounds the fastest median step
counts. A case that the other build does not know is measured there as the line below says it was done before:

    sasrec-ml-1m   SASRec, d = 64, L = 50, dropout 0.2: targets a CPU second, positions against rows (batches of 2048)
    sasrec-beauty  SASRec, d = 256, inner 1024, L = 50: likewise (128 windows; batches of 256)
    rows-beauty    the same with rows in both builds: seconds of a step of 256 rows
    diffrec        DiffRec, --paper=diffrec-beauty, as published: seconds of a step
    pasrec-256     PASRec, d = 256, on Beauty: seconds of a step; pasrec-3072 with d = 3072
    tiger          TIGER at its defaults, Beauty: targets a CPU second, 128 windows a step against batches of 256 rows
    dspnet         DSPnet and SASRec on ml-100k, rows, both at their defaults but L = 50 and batches of 256: seconds of
                   an epoch of DSPnet, and how many times SASRec's that is
    softmax-1e6    a step of SASRec, d = 64, with 10^6 items, 1,024 targets: seconds and peak memory, for each loss

--data is the folder with amazon-beauty and ml-1m. Appends to results/training.tsv, the last case to softmax.tsv there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SASREC = {"MAX_ITEM_LIST_LENGTH": 50, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2}
SMALL = {**SASREC, "hidden_size": 64, "inner_size": 256}
LARGE = {**SASREC, "hidden_size": 256, "inner_size": 1024}
POSITIONS = {"train_pairs": "positions"}
SHORT = {**POSITIONS, "positions_batch_size": 128}  # windows of six targets on average
CAUSAL = {"causal": True, "positions_from": "start"}
ML_100K = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 256, "train_pairs": "all"}
SCENES = {**ML_100K, "SCENE_FIELD": "class", "scene_rule": "first"}
CASES = {  # name -> (model, data set, settings, settings here, settings in the other build, paper)
    "sasrec-ml-1m": ("SASRec", "ml-1m", SMALL, POSITIONS, {"train_batch_size": 2048}, None),
    "sasrec-beauty": ("SASRec", "amazon-beauty", LARGE, SHORT, {"train_batch_size": 256}, None),
    "rows-beauty": ("SASRec", "amazon-beauty", {**LARGE, "train_pairs": "all", "train_batch_size": 256}, {}, {}, None),
    "diffrec": ("DiffRec", "amazon-beauty", {}, {}, {}, "diffrec-beauty"),
    "pasrec-256": ("PASRec", "amazon-beauty", {"hidden_size": 256, "train_pairs": "last"}, {}, {}, None),
    "pasrec-3072": ("PASRec", "amazon-beauty", {"hidden_size": 3072, "train_pairs": "last"}, {}, {}, None),
    "tiger": ("TIGER", "amazon-beauty", {}, {**SHORT, **CAUSAL}, {"train_batch_size": 256}, None),
    "dspnet": ("DSPnet", "ml-100k", SCENES, {}, {}, None),
    "dspnet's sasrec": ("SASRec", "ml-100k", ML_100K, {}, {}, None),
}  # fmt: skip


def measure(name: str, other: bool, data: str, steps: int) -> None:
    """In a process of its own: prints what a case takes as JSON."""
    import torch

    torch.set_num_threads(1)
    from recbole.utils import init_seed

    from recbole_gen import compat
    from recbole_gen.config.config import Config
    from recbole_gen.data.loaders import create_dataset, create_loaders
    from recbole_gen.quick_start import create_model

    model, dataset, settings, here, there, paper = CASES[name]
    path = {} if dataset == "ml-100k" else {"data_path": data}
    argv = [f"--{key}={value}" for key, value in {**settings, **(there if other else here)}.items()]
    argv += [f"--paper={paper}"] if paper else []
    chosen = {"model": model} if paper else {"model": model, "dataset": dataset}
    config = Config(**chosen, config_dict={"use_gpu": False, "data_cache": False, **path}, argv=argv)
    init_seed(config["seed"], True)
    compat.keep_freed_memory()
    train = create_loaders(config, create_dataset(config))[0]
    net = create_model(config, train._dataset).train()
    try:
        from recbole_gen.training.losses import training_loss

        calculate = training_loss(config, net)
    except ImportError:  # an older build
        calculate = net.calculate_loss
    from recbole_gen.training.trainer import create_trainer

    optimizer = _optimizer(create_trainer, config, net)
    seconds, targets, done = [], [], 0
    while done <= steps:
        batches = iter(train)
        while done <= steps:
            started = time.process_time()
            batch = next(batches, None)
            if batch is None:
                break
            optimizer.zero_grad()
            losses = calculate(batch)
            (sum(losses) if isinstance(losses, tuple) else losses).backward()
            optimizer.step()
            seconds.append(time.process_time() - started)
            following = "next_item_id_list"
            targets.append(int((batch[following] != 0).sum()) if following in batch else len(batch))
            done += 1
    step = statistics.median(seconds[1:])
    rate = sum(targets[1:]) / sum(seconds[1:])
    from common import peak_mib

    print(json.dumps({"step_s": step, "targets_a_s": rate, "epoch_s": step * len(train), "peak_mib": peak_mib()}))


def _optimizer(create_trainer, config, net):
    """That of the trainer, without the folder that it makes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"], config["tensorboard"] = folder, False
        return create_trainer(config, net).optimizer


def measure_million(kind: str, steps: int) -> None:
    """In a process of its own: a step of an item loss with its table alone, at 10^6 items."""
    import torch
    from common import peak_mib

    from recbole_gen.model.item_losses import ItemLoss

    torch.set_num_threads(1)
    table = torch.nn.Parameter(torch.randn(10**6, 64) * 0.02)
    states = torch.randn(1024, 64, requires_grad=True)
    targets = torch.randint(1, 10**6, (1024,))
    optimizer = torch.optim.Adam([table], lr=1e-3, fused=True)
    before, seconds = peak_mib(), []
    if kind == "cross_entropy":  # as torch computes it
        calculate = lambda: torch.nn.functional.cross_entropy(states @ table.T, targets)  # noqa: E731
    else:
        loss = ItemLoss({"loss": kind, "loss_negatives": 256, "gbce_t": 0.75})
        calculate = lambda: loss(states, table, targets)  # noqa: E731
    for _ in range(steps):
        started = time.process_time()
        optimizer.zero_grad()
        calculate().backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    print(json.dumps({"step_s": statistics.median(seconds), "peak_mib": peak_mib(), "more_mib": peak_mib() - before}))


def run_child(build: str, *arguments: str) -> dict:
    """What a process of this script prints, that imports recbole_gen of a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([build, here]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, os.path.abspath(__file__), "--measure", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=build)
    if done.returncode:
        sys.exit(f"{build} {arguments}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from common import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--cases", default=",".join([*CASES, "softmax-1e6"]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    data, against = os.path.abspath(given.data), os.path.abspath(given.against)
    for name in given.cases.split(","):
        if name == "softmax-1e6":
            for kind in ("cross_entropy", "softmax", "sampled_softmax", "gBCE"):
                record("softmax", {"case": f"{name} {kind}", "build": "here", **run_child(here, "1e6", kind, "4")})
            continue
        found: dict[str, list[dict]] = {"there": [], "here": []}
        for _ in range(given.rounds):
            for build, folder in (("there", against), ("here", here)):
                steps = str(given.steps if build == "here" else max(4, given.steps // 3))
                found[build].append(run_child(folder, name, build, data, steps))
        best = {build: min(each, key=lambda one: one["step_s"] / one["targets_a_s"]) for build, each in found.items()}
        for build, one in best.items():
            ratio = one["targets_a_s"] / best["there"]["targets_a_s"]
            numbers = {key: round(value, 4) for key, value in one.items()}
            record("training", {"case": name, "build": build, **numbers, "times_as_fast": round(ratio, 2)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        if sys.argv[2] == "1e6":
            measure_million(sys.argv[3], int(sys.argv[4]))
        else:
            measure(sys.argv[2], sys.argv[3] == "there", sys.argv[4], int(sys.argv[5]))
    else:
        main()
