import importlib
import multiprocessing
import os
import random
import re
import signal
import sys
from functools import partial

# Before torch, faiss or BLAS is loaded, here and in the processes that tests start: with more threads than cores they
# wait for each other, and take many times as long.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.config.config import Config
from recbole_gen.sweep import cluster, tune

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets trials starve beside the other tests
os.environ["RECBOLE_GEN_OFFLINE"] = "1"  # no test fetches anything, and no process that one starts


@pytest.fixture
def one_thread():
    """One thread of torch, also where an earlier test has set another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def default_sigint():
    """Ctrl-C's signal as in a shell's foreground, here and in the processes that a test starts: what a shell starts in
    the background ignores it, and so does all that this starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def stop_ray():
    """A function that stops the Ray of `two_cores`, which lasts until the end otherwise."""

    def stop() -> None:
        if ray := sys.modules.get("ray"):
            ray.shutdown()

    yield stop
    stop()


@pytest.fixture
def no_ray(stop_ray):
    """For a test that needs another Ray than that of `two_cores`, or none."""
    stop_ray()


@pytest.fixture
def two_cores(stop_ray):
    """A Ray of two cores, the same for all tests that have this: starting it takes longer than most of what it does."""
    import ray

    if not ray.is_initialized():
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=cluster.OBJECT_STORE_BYTES,
            log_to_driver=False, logging_level="error",
        )  # fmt: skip


@pytest.fixture
def no_test_of_best(monkeypatch):
    """Sweeps end without the test of their best trial, for which Ray starts a process."""
    monkeypatch.setattr(tune, "_test_best", lambda *_: None)


@pytest.fixture
def write_atomic(tmp_path):
    """write_atomic({"user_id:token": [...], ...}) writes <data_path>/toy/toy.inter; lists are sequences."""

    def write(columns: dict, suffix: str = "inter", name: str = "toy") -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        lines = ["\t".join(columns)]
        for row in zip(*columns.values(), strict=True):
            cells = [" ".join(map(str, cell)) if isinstance(cell, (list, tuple)) else str(cell) for cell in row]
            lines.append("\t".join(cells))
        (folder / f"{name}.{suffix}").write_text("\n".join(lines) + "\n")

    return write


@pytest.fixture
def make_config(tmp_path):
    """A configuration for the files of `write_atomic`, with all of their columns loaded."""

    def make(model: str = "GRU4Rec", dataset: str = "toy", **values) -> Config:
        defaults = {"data_path": str(tmp_path), "use_gpu": False, "load_col": None}
        return Config(model=model, dataset=dataset, config_dict={**defaults, **values})

    return make


# What a model needs beside the data set to run on ml-100k: the first genre of a film is its scene.
ON_ML_100K = {"DSPnet": {"SCENE_FIELD": "class", "scene_rule": "first"}}

# Models made small enough to train on `walks` in a fraction of a second.
SMALL = {
    "DreamRec": {"hidden_size": 16, "timesteps": 10, "ddim_stride": 5},
    "SASRec": {"hidden_size": 16, "inner_size": 16},
    "ItemKNN": {"k": 10},
    "DiffRec": {"hidden_size": 16, "inner_size": 32, "timesteps": 20, "n_seeds": 3},
    "PASRec": {"hidden_size": 16, "timesteps": 20, "ddim_stride": 5},
    "PreferDiff": {"hidden_size": 16, "timesteps": 20, "ddim_stride": 5},
    "ACVAE": {"embedding_size": 16, "rnn_size": 16, "latent_size": 8},
    "DSPnet": {"hidden_size": 16, "scene_size": 8, "n_layers": 1},
    "TIGER": {"hidden_size": 16, "inner_size": 32, "n_encoder_layers": 1, "n_decoder_layers": 1, "id_codes": 8},
    "Transitions": {},
}


@pytest.fixture
def walks(write_atomic):
    """Data set `toy`: 60 users walk over 40 items, 11 steps each, four out of five of them to the next item."""
    draw = random.Random(0)
    users, items, times = [], [], []
    for user in range(60):
        item = draw.randrange(40)
        for step in range(11):
            users.append(f"u{user}"), items.append(f"i{item}"), times.append(100 * user + step)
            item = (item + 1) % 40 if draw.random() < 0.8 else draw.randrange(40)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})


@pytest.fixture
def settings(tmp_path, walks):
    """What a quick run on `walks` needs, for the given model."""

    def small(model: str = "DreamRec", **values) -> dict:
        common = {
            "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "load_col": None, "use_gpu": False,
            "num_threads": 1, "epochs": 2, "train_batch_size": 64, "show_progress": False, "state": "INFO",
        }  # fmt: skip
        return {"model": model, "dataset": "toy", **common, **SMALL.get(model, {}), **values}

    return small


@pytest.fixture
def run(settings):
    """run(model, **values) trains on `walks` and returns the result."""
    return lambda model="DreamRec", **values: quick_start.run(config_dict=settings(model, **values))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if "forked" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("forked"))  # one worker, and so one process that forks


@pytest.fixture
def forked():
    """What starts processes as forks of one that has imported everything, seconds of work less for each. What these
    print is not captured, and they have the environment of the first one's start."""
    multiprocessing.set_forkserver_preload(["recbole_gen.quick_start", "torch._dynamo", "torch.utils.tensorboard"])
    return multiprocessing.get_context("forkserver")


@pytest.fixture
def quick_processes(forked, monkeypatch):
    """The processes of a run are such forks; a test of how they are started does without."""
    start = partial(torch.multiprocessing.start_processes, start_method=forked.get_start_method())
    monkeypatch.setattr(torch.multiprocessing, "spawn", start)


@pytest.fixture
def arguments(settings):
    """The same as a command line, that of `settings` without the keys that ``given`` names, then ``given``."""

    def line(*given: str, model: str = "DreamRec") -> list[str]:
        named = {argument.partition("=")[0] for argument in given}
        values = settings(model, state="ERROR", epochs=1)
        return [f"--{key}={value}" for key, value in values.items() if f"--{key}" not in named] + list(given)

    return line


@pytest.fixture
def refused(capsys, recwarn):
    """refused(arguments, *patterns): exit code 2 and one message, on stderr, that holds each pattern."""

    def check(line: list[str], *patterns: str) -> str:
        assert cli.main(line) == 2
        out, message = capsys.readouterr()
        assert out == "" and message.startswith("error: ") and message.count("error:") == 1
        assert "Traceback" not in message and 'File "' not in message
        for pattern in patterns:
            assert re.search(pattern, message), message
        return message

    return check


CUSTOM_MODEL = """
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

steps, at, trouble = 0, None, None  # in training step number `at`, `trouble()` is called


class Custom(SequentialRecommender):
    input_type = InputType.POINTWISE
    loss_names = ("ranking", "decay")

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = torch.nn.Embedding(self.n_items, config["width"])
        self.dropout = torch.nn.Dropout(0.1)

    def full_sort_predict(self, interaction):
        last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN].unsqueeze(1) - 1)
        return self.dropout(self.item_embedding(last.squeeze(1))) @ self.item_embedding.weight.T

    def calculate_loss(self, interaction):
        global steps
        steps += 1
        factor = trouble() if steps == at else 1.0
        ranking = torch.nn.functional.cross_entropy(self.full_sort_predict(interaction), interaction[self.POS_ITEM_ID])
        return ranking, factor * 1e-4 * self.item_embedding.weight.pow(2).sum()
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    """Module with a model of the user's own, `custom:Custom`, and its YAML beside it; 8 steps an epoch on `walks`."""
    folder = tmp_path / "own_models"
    folder.mkdir()
    (folder / "custom.py").write_text(CUSTOM_MODEL)
    (folder / "Custom.yaml").write_text("width: 8\nlearning_rate: 0.01\n")
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("custom")
    del sys.modules["custom"]
