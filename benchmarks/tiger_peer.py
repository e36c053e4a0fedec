"""TIGER beside that of cornac 3.0.1, on the same histories, semantic IDs and sizes; on one thread, in CPU seconds.

    python benchmarks/tiger_peer.py --cornac=PYTHON [--dataset=ml-100k] [--data=FOLDER] [--codes=64] [--windows=14]
        [--budget=240] [--slice=10] [--seeds=1] [--users=N] [--exact_users=N]

PYTHON is the interpreter of another environment (`pip install torch==2.13.0 cornac==3.0.1 transformers`). Three take
part: cornac, ours with rows (`train_pairs: all`), ours with windows (`train_pairs: positions`, causal, so many windows
a step that it has about as many targets). Each lives in a process of its own and works only when it is its turn: they
train in slices of CPU seconds until each has had the budget, and then rank the validation rows in parts.

All read leave one out as our loaders have it, the last 20 items of a history, and the very same IDs: `tokenize` makes
them of a truncated SVD of who has which item in training (32 numbers, of length 1), by 3 levels of residual k-means
and a digit that tells equal ones apart. cornac takes them by a subclass whose `_tokenize` returns them. d = 64, 4 heads
of 16, feed-forward 256, 2 + 2 layers, dropout 0.1, batches of 256, AdamW at 1e-3 without weight decay.

An epoch of cornac has every event of a session but its first as a target, as `train_pairs: all` has: the same rows.
They come in another order: cornac shuffles sessions, not rows, so that a batch has consecutive rows of a few users. A
last batch of one row is left out there.

A step is all from fetching the batch to the optimiser; the first one is not counted. Ranking is from histories to a
score for each item: one history at a time in cornac, a quarter of them together here. "exact" scores all items, "best"
is `exact_top: 20`, "beam" a beam of 20. NDCG@10 and Recall@10 of validation are from "exact", and those with _beam from
"beam"; an item that scores as much as the target ranks before it. --exact_users says of how many rows "exact" and
"best" are taken, where all take too long. Memory is the most that a process has held, and what it held before it had a
model. Appends to results/tiger_peer.tsv.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

SIZE, INNER, HEADS, LAYERS, DROPOUT, RATE, BATCH = 64, 256, 4, 2, 0.1, 1e-3, 256
LENGTH, LEVELS, WIDTH, BEAM, K = 20, 3, 32, 20, 10
WAYS = {"cornac": ("exact", "beam"), "rows": ("exact", "best", "beam"), "windows": ("exact", "best", "beam")}
PARTS = 4


# What is measured, alike for all


def ranks_of(scores, items):
    """Places [B], from 0 on, of items [B] in scores [B, n]: behind all that score as much."""
    own = scores[range(len(items)), items]
    return ((scores >= own[:, None]).sum(1) - 1).tolist()


def ndcg_and_recall(ranks):
    """Of the first K places."""
    from math import log2

    found = [rank for rank in ranks if rank < K]
    return sum(1 / log2(rank + 2) for rank in found) / len(ranks), len(found) / len(ranks)


def memory(of: str) -> int:
    """MiB of this process: VmHWM, the most so far, or VmRSS, now. ru_maxrss may be that of its parent."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith(of))


class Turn:
    """A process's side of the turns: what it is to do next, and how it has answered."""

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self.targets, self.steps, self.seconds, self.started = 0, 0, None, None

    def answer(self, **values):
        print(json.dumps(values), file=self.out, flush=True)

    def next(self):
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else sys.exit()

    def begin(self):
        """Wait for the first slice of training."""
        self.answer(held=memory("VmRSS"))
        self.seconds, self.started = self.next()["train"], None

    def after_step(self, targets):
        """Called after every step; what to rank first, once training is over."""
        if self.started is None:  # the first one loads parts of torch
            self.started = time.process_time()
            return None
        self.targets, self.steps = self.targets + targets, self.steps + 1
        used = time.process_time() - self.started
        if used < self.seconds:
            return None
        self.answer(targets=self.targets, steps=self.steps, cpu=used, peak=memory("VmHWM"))
        asked = self.next()
        if "train" not in asked:
            return asked
        self.targets = self.steps = 0
        self.seconds, self.started = asked["train"], time.process_time()
        return None

    def rank(self, asked, data, score):
        """Answer what is asked of rankings, by score(way, histories) -> [B, items]."""
        while True:
            rows = slice(*asked["rows"])
            histories = [history[history > 0].tolist() for history in data["histories"][rows]]
            started = time.process_time()
            scores = score(asked["rank"], histories)
            used = time.process_time() - started
            ranks = ranks_of(scores, data["targets"][rows] - 1)
            self.answer(ranks=ranks, cpu=used, peak=memory("VmHWM"))
            asked = self.next()


# Who takes part


def make_data(given, folder):
    """Histories, targets and IDs for all, by our loaders and `tokenize`: items 1 to n, in this order."""
    import numpy as np
    from recbole.utils import init_seed
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    from recbole_gen.data.loaders import create_dataset, create_loaders
    from recbole_gen.reading.semantic_ids import read_semantic_ids
    from recbole_gen.tokenizing.command import main as tokenize

    config = our_config(given, {"model": "SASRec", "train_pairs": "all", "MAX_ITEM_LIST_LENGTH": LENGTH})
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    names = [str(name) for name in dataset.field2id_token[dataset.iid_field][1:]]
    rows = create_loaders(config, dataset)[1]._dataset.inter_feat  # of validation, over the whole log
    users, items = (rows.targets[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    target, training = rows.target.long().numpy(), np.ones(len(users), dtype=bool)
    training[target] = training[target + 1] = False  # the last two of each user
    assert len(target) == len(np.unique(users)), "not every user has a validation row"
    histories, targets = (rows[field].numpy() for field in (f"{dataset.iid_field}_list", dataset.iid_field))
    users, items = users[training], items[training]
    counts = coo_matrix((np.ones(len(users)), (users, items - 1)), shape=(users.max() + 1, len(names))).tocsr()
    start = np.random.default_rng(0).standard_normal(min(counts.shape))
    _, strengths, vectors = svds(counts, k=WIDTH, v0=start)
    vectors = vectors.T * strengths
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    np.save(f"{folder}/items.npy", vectors.astype(np.float32))
    with open(f"{folder}/items.json", "w") as file:
        json.dump(names, file)
    tokenize([f"--item_vectors={folder}/items.npy", f"--output={folder}/ids", f"--codes={given.codes}"])
    found = read_semantic_ids(f"{folder}/ids")
    assert found.names == names
    np.savez(f"{folder}/data.npz", users=users, items=items, histories=histories, targets=targets, digits=found.digits)
    print(f"{len(users)} training events, {len(targets)} validation rows, {len(names)} items")


def our_config(given, settings):
    from recbole_gen.config.config import Config

    path = {"data_path": os.path.abspath(given.data)} if given.data else {}
    settings = {"use_gpu": False, "data_cache": False, **path, **settings}
    return Config(model=settings.pop("model", "TIGER"), dataset=given.dataset, config_dict=settings, argv=[])


def ours(given, folder, who, seed):
    import numpy as np
    import torch

    torch.set_num_threads(1)
    from recbole.data.interaction import Interaction
    from recbole.utils import init_seed

    from recbole_gen import compat
    from recbole_gen.data.loaders import create_dataset, create_loaders
    from recbole_gen.quick_start import create_model
    from recbole_gen.training.losses import training_loss

    turn, data = Turn(), np.load(f"{folder}/data.npz")
    windows = {"causal": True, "positions_from": "start", "positions_batch_size": given.windows}
    rows = {"train_pairs": "all", "train_batch_size": BATCH}
    settings = {"train_pairs": "positions", **windows} if who == "windows" else rows
    sizes = {"hidden_size": SIZE, "inner_size": INNER, "n_heads": HEADS, "dropout_prob": DROPOUT}
    layers = {"n_encoder_layers": LAYERS, "n_decoder_layers": LAYERS, "MAX_ITEM_LIST_LENGTH": LENGTH}
    config = our_config(given, {**settings, **sizes, **layers, "semantic_ids": f"{folder}/ids", "seed": seed})
    compat.keep_freed_memory()
    init_seed(seed, True)
    train = create_loaders(config, create_dataset(config))[0]
    turn.begin()
    net = create_model(config, train._dataset).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0, fused=True)
    calculate = training_loss(config, net)

    def learn():
        while True:
            for batch in train:
                optimizer.zero_grad()
                calculate(batch).backward()
                optimizer.step()
                following = f"next_{net.ITEM_SEQ}"
                targets = int((batch[following] != 0).sum()) if following in batch else len(batch)
                if asked := turn.after_step(targets):
                    return asked

    def score(way, histories):
        net.beam_size, net.exact_top = {"exact": (None, None), "best": (None, BEAM), "beam": (BEAM, None)}[way]
        longest = max(map(len, histories))
        item_seq = torch.tensor([history + [0] * (longest - len(history)) for history in histories])
        batch = {net.ITEM_SEQ: item_seq, net.ITEM_SEQ_LEN: torch.tensor([len(history) for history in histories])}
        return net.full_sort_predict(Interaction(batch))[:, 1:].numpy()

    asked = learn()
    net.eval()
    turn.rank(asked, data, score)


def cornac(given, folder, seed):
    import numpy as np
    import torch

    torch.set_num_threads(1)
    from cornac.data import FeatureModality, SequentialDataset
    from cornac.models import TIGER
    from cornac.models.tiger import tiger  # noqa: F401  which fit would import in its turn

    turn, data = Turn(), np.load(f"{folder}/data.npz")
    digits, users, items = data["digits"], data["users"], data["items"]
    an_epoch = len(users) - len(np.unique(users))

    class Over(Exception):
        """Training is over."""

    class Steps:
        """In place of a schedule: its step follows every step of the optimiser."""

        left = an_epoch

        def step(self):
            targets = min(BATCH, self.left)
            self.left = self.left - targets if self.left - targets > 1 else an_epoch
            if asked := turn.after_step(targets):
                raise Over(asked)

    class WithGivenIds(TIGER):
        def _tokenize(self, torch, features):
            return digits[:, :LEVELS]

        def _make_lr_scheduler(self, torch, optimizer):
            return Steps()

    dataset = SequentialDataset.build(
        [(user, user, item, time) for time, (user, item) in enumerate(zip(users.tolist(), items.tolist()))],
        fmt="USIT",
        global_iid_map={item: item - 1 for item in range(1, len(digits) + 1)},
    )
    dataset.item_feature = FeatureModality(features=digits.astype("float32"))
    model = WithGivenIds(
        tokenizer="rkmeans", rqvae_num_levels=LEVELS, rqvae_codebook_size=given.codes, d_model=SIZE, d_ff=INNER,
        num_heads=HEADS, d_kv=SIZE // HEADS, num_enc_layers=LAYERS, num_dec_layers=LAYERS, dropout=DROPOUT,
        max_len=LENGTH, n_epochs=10**6, learning_rate=RATE, weight_decay=0.0, batch_size=BATCH, n_beams=BEAM,
        device="cpu", seed=seed,
    )  # fmt: skip
    turn.begin()
    try:
        model.fit(dataset)
    except Over as over:
        (asked,) = over.args
    assert (model.sid_table == digits).all(), "cornac has other IDs"

    def score(way, histories):
        model.scoring = way
        return np.stack([model.score(0, [item - 1 for item in history]) for history in histories])

    turn.rank(asked, data, score)


# The turns


class Child:
    """A process that takes part."""

    def __init__(self, python, who, given, folder, seed):
        command = [python, os.path.abspath(__file__), "--run", who, json.dumps(vars(given)), folder, str(seed)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.who = who
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
        )
        self.held = self.heard()["held"]

    def heard(self):
        return json.loads(self.process.stdout.readline() or sys.exit(f"{self.who} has ended"))

    def ask(self, **what):
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return self.heard()


def compare(given, folder, seed):
    """A line of results for each who takes part."""
    children = [Child(sys.executable if who != "cornac" else given.cornac, who, given, folder, seed) for who in WAYS]
    found = {child.who: [] for child in children}
    for turn in range(max(1, round(given.budget / given.slice))):
        for child in children:
            found[child.who].append(child.ask(train=given.slice))
            print(turn, child.who, found[child.who][-1], flush=True)
    rows = {}
    for child in children:
        slices = found[child.who]
        cpu, targets, steps = (sum(each[key] for each in slices) for key in ("cpu", "targets", "steps"))
        rows[child.who] = {
            "data": given.dataset, "who": child.who, "seed": seed, "train_s": round(cpu, 1), "steps": steps,
            "targets": targets, "targets_a_step": round(targets / steps, 1), "targets_a_s": round(targets / cpu, 1),
            "mib_before": child.held, "mib_training": slices[-1]["peak"],
        }  # fmt: skip
    for way in ("beam", "best", "exact"):
        n = given.users if way == "beam" else given.exact_users
        bounds = [n * part // PARTS for part in range(PARTS + 1)]
        answers = {child.who: [] for child in children}
        for part in pairwise(bounds):
            for child in children:
                if way in WAYS[child.who]:
                    answers[child.who].append(child.ask(rank=way, rows=part))
                    print(way, part, child.who, answers[child.who][-1]["cpu"], flush=True)
        for who, parts in answers.items():
            if not parts:
                rows[who] |= {f"users_a_s_{way}": ""}
                continue
            rows[who] |= {f"users_a_s_{way}": round(n / sum(part["cpu"] for part in parts), 2)}
            rows[who] |= {f"mib_{way}": parts[-1]["peak"]}
            if way != "best":
                ndcg, recall = ndcg_and_recall([rank for part in parts for rank in part["ranks"]])
                end = "_beam" if way == "beam" else ""
                rows[who] |= {f"users{end}": n, f"NDCG@{K}{end}": round(ndcg, 4), f"Recall@{K}{end}": round(recall, 4)}
    for child in children:
        child.process.stdin.close()
        child.process.wait()
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cornac", required=True)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data")
    parser.add_argument("--codes", type=int, default=64)
    parser.add_argument("--windows", type=int, default=14)
    parser.add_argument("--budget", type=float, default=240)
    parser.add_argument("--slice", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--users", type=int)
    parser.add_argument("--exact_users", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.abspath(__file__), "--run", "data", json.dumps(vars(given)), folder, "0"]
        subprocess.run(command, check=True)
        import numpy as np

        n_rows = len(np.load(f"{folder}/data.npz")["targets"])
        given.users = min(given.users or n_rows, n_rows)
        given.exact_users = min(given.exact_users or given.users, n_rows)
        rows = [row for seed in range(2020, 2020 + given.seeds) for row in compare(given, folder, seed)]
    from common import record

    for key, word in (("--cornac", "PYTHON"), ("--data", "FOLDER")):
        sys.argv = [f"{key}={word}" if each.startswith(f"{key}=") else each for each in sys.argv]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for row in rows:
        record("tiger_peer", {key: row.get(key, "") for key in keys})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        del sys.path[0]  # kernels.py beside this is not the package that transformers looks for
        who, given, folder, seed = sys.argv[2], argparse.Namespace(**json.loads(sys.argv[3])), sys.argv[4], sys.argv[5]
        if who == "data":
            make_data(given, folder)
        elif who == "cornac":
            cornac(given, folder, int(seed))
        else:
            ours(given, folder, who, int(seed))
    else:
        main()
