"""SASRec on ml-1m, leave one out: CPU seconds until a validation NDCG@10, here, in RePlay 0.22 and in RecTools 0.19.

    python benchmarks/race.py [--budget=120] [--replay=PYTHON] [--rectools=PYTHON] [--data=../shared/data]

The peers run in environments of their own, whose interpreters are named (`pip install "replay-rec[torch]==0.22.0"`,
`pip install "rectools[torch]==0.19.0"`); a peer that is not named is left out. All have d = 64, 2 layers, 2 heads,
L = 50, dropout 0.2, Adam at 1e-3, the full softmax, one thread, and the batch size at which each was best: 16 windows
here, 32 users in RePlay, 16 in RecTools. They run one after the other. Counted is the process CPU time of training
alone; after each tenth of the budget the ranks of all users' last but one events are taken among all items (seen ones
too), those of the last events wherever that is the best so far. Appends to results/race.tsv.
"""

import argparse
import json
import os
import subprocess
import sys
import time

MARKS = (0.053, 0.0735, 0.0775)
"""Validation NDCG@10 to which seconds are given."""

SIZE, LAYERS, HEADS, LENGTH, DROPOUT, RATE = 64, 2, 2, 50, 0.2, 1e-3


class Clock:
    """CPU seconds of training so far, and an evaluation at every mark."""

    def __init__(self, budget, evaluate):
        self.budget, self.evaluate, self.used, self.best = budget, evaluate, 0.0, 0.0
        self.next, self.started = budget / 24, time.process_time()

    def tick(self) -> bool:
        """Called after every step; True when the budget is spent."""
        now = self.used + time.process_time() - self.started
        if now < self.next:
            return False
        self.used, self.next = now, self.next + self.budget / 24
        valid = self.evaluate(1)
        test = self.evaluate(0) if valid > self.best else None
        self.best = max(self.best, valid)
        print(json.dumps({"cpu": round(self.used, 1), "valid": valid, "test": test}), flush=True)
        self.started = time.process_time()
        return self.used >= self.budget


def ndcg_of(scores, targets):
    """Sum of NDCG@10 of the targets [B] in scores [B, n]; of equal scores the target has the best place."""
    import torch

    own = scores.gather(1, targets.clamp(min=0).unsqueeze(1))
    rank = (scores > own).sum(1)
    return float(torch.where((targets >= 0) & (rank < 10), 1 / torch.log2(rank + 2.0), 0.0).sum())


def sequences(data):
    """Events of ml-1m as a table of users, items and times, in the order of time."""
    import pandas as pd

    log = pd.read_csv(f"{data}/ml-1m/ml-1m.inter", sep="\t", usecols=[0, 1, 2])
    log.columns = ["user_id", "item_id", "datetime"]
    return log.sort_values(["user_id", "datetime"], kind="stable").reset_index(drop=True)


def ours(budget, data):
    import torch

    torch.set_num_threads(1)
    from recbole.utils import init_seed

    from recbole_gen import compat
    from recbole_gen.config.config import Config
    from recbole_gen.data.loaders import create_dataset, create_loaders
    from recbole_gen.quick_start import create_model
    from recbole_gen.training.losses import training_loss

    settings = {
        "data_path": data, "use_gpu": False, "data_cache": False, "train_pairs": "positions",
        "positions_batch_size": 16, "MAX_ITEM_LIST_LENGTH": LENGTH, "hidden_size": SIZE, "inner_size": 4 * SIZE,
        "n_layers": LAYERS, "n_heads": HEADS, "hidden_dropout_prob": DROPOUT, "attn_dropout_prob": DROPOUT,
    }  # fmt: skip
    config = Config(model="SASRec", dataset="ml-1m", config_dict=settings, argv=[])
    init_seed(config["seed"], True)
    compat.keep_freed_memory()
    train, valid, test = create_loaders(config, create_dataset(config))
    net = create_model(config, train._dataset)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    calculate = training_loss(config, net)

    @torch.no_grad()
    def evaluate(which):
        net.eval()
        total = users = 0
        for interaction, _, _, items in valid if which else test:
            scores = net.full_sort_predict(interaction).view(len(items), -1)
            scores[:, 0] = -torch.inf
            total, users = total + ndcg_of(scores, items), users + len(items)
        net.train()
        return total / users

    net.train()
    clock = Clock(budget, evaluate)
    while True:
        for batch in train:
            optimizer.zero_grad()
            calculate(batch).backward()
            optimizer.step()
            if clock.tick():
                return


def rectools(budget, data):
    import numpy as np
    import pandas as pd
    import pytorch_lightning as pl
    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(1)
    log = sequences(data)
    log["datetime"], log["weight"] = pd.to_datetime(log["datetime"], unit="s"), 1
    back = log.groupby("user_id").cumcount(ascending=False)
    cache = {}

    def evaluate(which):
        module = run["module"]
        if which not in cache:
            ids = model.data_preparator.item_id_map
            part = log[back >= which].assign(
                item=lambda each: each.item_id.map(pd.Series(np.arange(ids.size), index=ids.external_ids))
            )
            rows = part.groupby("user_id").item.apply(lambda each: each.to_numpy())
            histories, targets = np.zeros((len(rows), LENGTH), np.int64), np.zeros(len(rows), np.int64)
            for row, items in enumerate(rows):
                targets[row] = -1 if np.isnan(items[-1]) else int(items[-1])
                known = items[:-1][~np.isnan(items[:-1])][-LENGTH:]
                histories[row, LENGTH - len(known) :] = known
            cache[which] = torch.from_numpy(histories), torch.from_numpy(targets)
        histories, targets = cache[which]
        module.eval()
        total = 0.0
        with torch.no_grad():
            table = module.torch_model.item_model.get_all_embeddings()
            for some, own in zip(histories.split(512), targets.split(512)):
                scores = module.torch_model.encode_sessions({"x": some}, table)[:, -1] @ table.T
                scores[:, 0] = -torch.inf
                total += ndcg_of(scores, own)
        module.train()
        return total / len(targets)

    run = {}
    clock = Clock(budget, evaluate)

    class Steps(pl.Callback):
        def on_train_start(self, trainer, module):
            run["module"], clock.started = module, time.process_time()

        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = clock.tick()

    def trainer():
        return pl.Trainer(
            max_epochs=10**5, min_epochs=0, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[Steps()],
        )  # fmt: skip

    torch.manual_seed(2026)
    model = SASRecModel(
        n_blocks=LAYERS, n_heads=HEADS, n_factors=SIZE, dropout_rate=DROPOUT, session_max_len=LENGTH, loss="softmax",
        lr=RATE, batch_size=16, epochs=10**5, get_trainer_func=trainer, recommend_torch_device="cpu",
    )  # fmt: skip
    model.fit(Dataset.construct(log[back >= 2]))


def replay(budget, data):
    import tempfile

    import lightning
    import numpy as np
    import torch
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
    from replay.data.nn.utils import groupby_sequences
    from replay.nn.lightning import LightningModule
    from replay.nn.sequential import SasRec
    from replay.nn.transform.template import make_default_sasrec_transforms

    torch.set_num_threads(1)
    log = sequences(data).rename(columns={"datetime": "timestamp"})
    log["item_id"] = log["item_id"].astype("category").cat.codes.astype("int64")
    log["timestamp"] = log.groupby("user_id").cumcount()
    back = log.groupby("user_id").cumcount(ascending=False)
    items = int(log["item_id"].max()) + 1
    grouped = groupby_sequences(events=log[back >= 2], groupby_col="user_id", sort_col="timestamp")
    feature = TensorFeatureInfo(
        name="item_id", is_seq=True, padding_value=items, cardinality=items, embedding_dim=SIZE,
        feature_type=FeatureType.CATEGORICAL, feature_hint=FeatureHint.ITEM_ID,
    )  # fmt: skip
    schema = TensorSchema([feature])
    sets = {}
    for which in (1, 0):
        rows = log[back >= which].groupby("user_id").item_id.apply(lambda each: each.to_numpy())
        histories, targets = np.full((len(rows), LENGTH), items, np.int64), np.zeros(len(rows), np.int64)
        for row, each in enumerate(rows):
            known, targets[row] = each[:-1][-LENGTH:], each[-1]
            histories[row, LENGTH - len(known) :] = known
        sets[which] = torch.from_numpy(histories), torch.from_numpy(targets)

    def evaluate(which):
        histories, targets = sets[which]
        net.eval()
        total = 0.0
        with torch.no_grad():
            for some, own in zip(histories.split(512), targets.split(512)):
                scores = net(feature_tensors={"item_id": some}, padding_mask=some != items)["logits"]
                total += ndcg_of(scores, own)
        net.train()
        return total / len(targets)

    clock = Clock(budget, evaluate)

    class Steps(lightning.pytorch.callbacks.Callback):
        def on_train_start(self, *_):
            clock.started = time.process_time()

        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        grouped.to_parquet(f"{folder}/train.parquet")
        module = ParquetModule(
            train_path=f"{folder}/train.parquet", batch_size=32,
            metadata={"train": {"item_id": {"shape": LENGTH + 1, "padding": items}}},
            transforms={"train": make_default_sasrec_transforms(schema)["train"]},
        )  # fmt: skip
        lightning.seed_everything(2026)
        net = SasRec.from_params(
            schema=schema, embedding_dim=SIZE, max_sequence_length=LENGTH, num_heads=HEADS, num_blocks=LAYERS,
            dropout=DROPOUT,
        )  # fmt: skip
        lightning.Trainer(
            max_epochs=10**5, min_epochs=0, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
            callbacks=[Steps()],
        ).fit(LightningModule(net), datamodule=module)  # fmt: skip


RUNNERS = {"recbole_gen": ours, "replay": replay, "rectools": rectools}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=120)
    parser.add_argument("--replay")
    parser.add_argument("--rectools")
    parser.add_argument("--data", default="../shared/data")
    given = parser.parse_args()
    from common import record

    interpreters = {"recbole_gen": sys.executable, "replay": given.replay, "rectools": given.rectools}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for who, python in interpreters.items():
        if python is None:
            continue
        command = [python, os.path.abspath(__file__), "--run", who, str(given.budget), os.path.abspath(given.data)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{who} ended with exit code {done.returncode}")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        reached = {f"s_to_{mark}": next((x["cpu"] for x in lines if x["valid"] >= mark), None) for mark in MARKS}
        best = max(lines, key=lambda line: line["valid"])
        result = {"valid": round(best["valid"], 4), "test": round(best["test"], 4), "at_s": best["cpu"]}
        record("race", {"who": who, "budget_s": given.budget, **reached, **result})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        RUNNERS[sys.argv[2]](float(sys.argv[3]), sys.argv[4])
    else:
        main()
