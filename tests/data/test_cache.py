"""Runs that share a data set: the same results as without, built once, and never somebody else's."""

import errno
import json
import logging
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, InputType, KGDataLoaderState, ModelType, init_seed
from stubs import equal

from recbole_gen import checkpoint, quick_start
from recbole_gen.data import cache, cache_file, loaders
from recbole_gen.data.times import DayRange
from recbole_gen.errors import UserError

# RecBole's use of what NumPy is going to change.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

RANDOM_SPLIT = {"eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}, "group_by": "user", "mode": "full"}}
KNOWLEDGE = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "kg": ["head_id", "relation_id", "tail_id"],
                          "link": ["item_id", "entity_id"]}}  # fmt: skip

LABEL = {"LABEL_FIELD": "label"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shared"


@pytest.fixture
def log(tmp_path, walks):
    """The walks of `toy`, a step a day, all users at once, with one of four scenes and a label, 0 or 1, by item."""
    path = tmp_path / "toy/toy.inter"
    table = pd.read_csv(path, sep="\t")
    user, step = table["timestamp:float"] // 100, table["timestamp:float"] % 100
    item = table["item_id:token"].str[1:].astype(int)
    table["timestamp:float"] = 86400 * (10000 + step) + user
    table["scene:token"], table["label:float"] = [f"s{number}" for number in item % 4], item % 2
    table.to_csv(path, sep="\t", index=False)


@pytest.fixture
def graph(log, write_atomic):
    """A knowledge graph of the items of `toy`: each is linked with the next one."""
    items = range(40)
    write_atomic({"item_id:token": [f"i{n}" for n in items], "entity_id:token": [f"e{n}" for n in items]}, "link")
    heads, tails = [f"e{n}" for n in items], [f"e{(n + 1) % 40}" for n in items]
    write_atomic({"head_id:token": heads, "relation_id:token": ["next"] * 40, "tail_id:token": tails}, "kg")


@pytest.fixture
def builds(monkeypatch):
    """The configurations for which a data set was built, in the order of time."""
    made, create = [], loaders.create_dataset

    def count(config):
        made.append(config)
        return create(config)

    monkeypatch.setattr(loaders, "create_dataset", count)
    return made


@pytest.fixture
def get(make_config, folder):
    """get(model, **values): what `shared` returns for the data set `toy`."""

    def shared(model="SASRec", **values):
        config = make_config(model, **values)
        init_seed(config["seed"], config["reproducibility"])
        return cache.shared_dataset(config, folder)

    return shared


def plain(value):
    """Batches as what `equal` compares."""
    if isinstance(value, Interaction):
        return value.interaction
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def batches(config, data, parts) -> list:
    train, valid, test = loaders.create_loaders(config, data, parts)
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        train.set_mode(KGDataLoaderState.RSKG)
    init_seed(config["seed"], config["reproducibility"])
    return [plain(list(each)) for each in (train, train, valid, test)]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{cache.SUFFIX}"))


@pytest.mark.parametrize(
    "model, values",
    [
        ("SASRec", {"protocol": "sequence_811"}),
        ("DreamRec", {}),
        ("BPR", {}),
        ("ACVAE", {"protocol": "holdout_82"}),
        ("DSPnet", {"protocol": "period", "least_history": 2, "least_future": 2}),
        ("PASRec", {}),
    ],
)
def test_results_are_those_of_a_run_that_builds_its_own(model, values, settings, log, folder, builds):
    given = settings(model, epochs=1, topk=[5], valid_metric="NDCG@5", **values)
    alone, first, second = (quick_start.run(config_dict=given, data_cache=use) for use in (None, folder, folder))
    assert len(builds) == 2 and len(entries(folder)) == 1
    weights = [checkpoint.load(Path(result["run_dir"]) / "best.pth")["state_dict"] for result in (alone, first, second)]
    for result, of_run in ((first, weights[1]), (second, weights[2])):
        for key in ("test_result", "best_valid_result", "diagnostics", "train_loss", "config"):
            same = {**result[key], "checkpoint_dir": ""} if key == "config" else result[key]
            assert same == ({**alone[key], "checkpoint_dir": ""} if key == "config" else alone[key]), key
        assert equal(of_run, weights[0])


@pytest.mark.parametrize(
    "model, values",
    [
        ("MultiVAE", {}),
        ("CFKG", KNOWLEDGE),
        ("DIEN", LABEL),
        ("DeepFM", LABEL),
        ("BPR", RANDOM_SPLIT),
        ("Pop", {"protocol": "holdout_82"}),
        ("GRU4Rec", {"protocol": "time_811"}),
    ],
)
def test_every_kind_of_data_set_gives_the_same_batches(model, values, make_config, get, folder, graph, builds):
    config = make_config(model, **values)
    init_seed(config["seed"], config["reproducibility"])
    data, parts = loaders.build_dataset(config)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    wanted = batches(config, data, parts)
    for _ in range(2):
        shared_data, shared_parts = get(model, **values)
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
        assert equal(batches(shared_data.config, shared_data, shared_parts), wanted)
        assert shared_data.field2token_id == data.field2token_id
    assert len(builds) == 2 and all(wanted)


def test_a_data_set_of_the_entry_belongs_to_the_run_that_reads_it(get, log, folder):
    """Its configuration is that run's, with what building has set; parts and columns are one as before."""
    values = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "scene_rule": None}
    get("DSPnet", **values)
    data, parts = get("DSPnet", learning_rate=0.5, **values)
    assert data.config["learning_rate"] == 0.5
    assert data.config["load_col"] == {"inter": ["user_id", "item_id", "timestamp", "scene"]}
    rows = [part.inter_feat for part in parts]
    assert all(part.config is data.config and part.logger is logging.getLogger() for part in parts)
    assert rows[0].targets["item_id"] is rows[2].targets["item_id"] is rows[0].lists["item_id_list"]
    assert len(entries(folder)) == 1
    assert data.token2id("user_id", "u3") == 4 and "u60" not in data.field2token_id["user_id"]
    data.field2token_id["user_id"]["u60"] = 61
    assert data.token2id("user_id", "u60") == 61 and list(data.field2token_id["user_id"])[:2] == ["[PAD]", "u0"]


@pytest.fixture
def stored(tmp_path):
    """stored(content): what comes out of a file that it was written to."""

    def there_and_back(content):
        cache_file.write_dataset(tmp_path / "x.arrow", {}, content, None, {})
        return cache_file.read_dataset(tmp_path / "x.arrow", None)

    return there_and_back


def test_views_of_one_memory_stay_so(stored):
    base = torch.arange(6, dtype=torch.int32)
    column, empty, frozen = base.view(2, 3)[:, 1], torch.zeros(0, 5), np.arange(3000)
    frozen.flags.writeable = False
    content = [base, column, empty, torch.tensor(True), base.bfloat16(), frozen]
    loaded = stored(content)
    assert equal(loaded[:5], content[:5]) and np.array_equal(loaded[5], frozen) and not loaded[5].flags.writeable
    assert loaded[1].stride() == (3,) and loaded[2].shape == (0, 5)
    loaded[0][4] = 70
    assert loaded[1].tolist() == [1, 70] and base[4] == 4


def test_every_kind_of_object_comes_back(stored):
    numbers = np.arange(6, dtype=np.int16).reshape(2, 3)
    content = {
        "plain": [None, True, 1, -(2**70), 0.1, float("inf"), "\ud800 \N{SNOWMAN}", (1, ("a",)), {1, "b"}, [], {}],
        "keys": {(1, 2): 3, 4.5: "x", None: 1, FeatureType.TOKEN: FeatureSource.ITEM},
        "numbers": [np.int64(3), np.float32(0.1), np.bool_(True)],
        "day": DayRange(3, 9),
    }
    arrays = [
        numbers,
        numbers.T,
        numbers[:, ::2],
        np.array(2.5),
        np.zeros((0, 2)),
        np.array([["ab", "c"]]),
        numbers > 2,
    ]
    loaded, loaded_arrays = stored((content, arrays))
    assert repr(loaded) == repr(content)
    for wanted, got in zip(arrays, loaded_arrays, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape and np.array_equal(got, wanted)
    content["itself"] = content
    loaded = stored(content)
    assert loaded["itself"] is loaded


@pytest.mark.parametrize(
    "odd",
    [
        print, object(), b"bytes", np.array([None]), np.array([1 + 2j]), np.zeros(3, "V2"), torch.ones(3).to_sparse(),
        torch.nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True), InputType.PAIRWISE, os.path, Path(),
    ],
    ids=lambda odd: type(odd).__name__,
)  # fmt: skip
def test_other_kinds_of_objects_are_refused(odd, stored):
    with pytest.raises(cache_file.UnsupportedObject, match="it holds"):
        stored({"a": [1, odd]})


def test_what_building_does_not_read_changes_nothing(get, walks, folder, builds):
    get()
    get(learning_rate=0.1), get(epochs=9, train_batch_size=7, hidden_size=8, n_heads=1), get(seed=1, stopping_step=1)
    assert len(builds) == len(entries(folder)) == 1
    get(MAX_ITEM_LIST_LENGTH=5), get(MAX_ITEM_LIST_LENGTH=5, learning_rate=0.2)
    assert len(builds) == len(entries(folder)) == 2
    assert {get(MAX_ITEM_LIST_LENGTH=length)[1][0].inter_feat.width for length in (5, 50)} == {5, 50}
    get("GRU4Rec"), get(protocol="sequence_811"), get(val_interval={"timestamp": "[100,inf)"})
    assert len(builds) == len(entries(folder)) == 5


def test_a_split_that_draws_random_numbers_is_for_one_seed(get, walks, folder, builds):
    tests = [get("BPR", seed=seed, **RANDOM_SPLIT)[1][2].inter_feat["item_id"] for seed in (1, 2, 1, 2)]
    assert len(builds) == len(entries(folder)) == 2
    assert torch.equal(tests[0], tests[2]) and torch.equal(tests[1], tests[3]) and not torch.equal(tests[0], tests[1])


def test_a_data_file_that_has_changed_is_read_again(get, walks, tmp_path, folder, builds):
    get()
    path = tmp_path / "toy/toy.inter"
    path.write_text(path.read_text().replace("u0\t", "u00\t"))
    data, _ = get()
    assert "u00" in data.field2token_id["user_id"] and len(builds) == 2
    changed = path.stat().st_mtime_ns + 1000
    os.utime(path, ns=(changed, changed))
    get()
    (tmp_path / "toy/toy.user").write_text("user_id:token\tage:float\nu1\t3\n")
    assert get()[0].user_feat is not None and len(builds) == 4


def test_code_and_versions_are_part_of_an_entry(get, walks, folder, builds, monkeypatch):
    get()
    monkeypatch.setattr(cache.torch, "__version__", "0.0")
    get(), get()
    assert len(builds) == 2


def test_the_code_of_an_entry_is_that_of_the_data_and_of_the_repairs(tmp_path, monkeypatch):
    names = ["data/rows.py", "compat.py", "compat/__init__.py", "compat/pandas.py", "model/rows.py", "data/notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(cache, "_HERE", tmp_path / "data")
    assert {path.relative_to(tmp_path).as_posix() for path in cache._code_files()} == set(names[:4])


def test_writing_into_the_data_disturbs_nobody(get, walks, folder, builds):
    get()
    before = entries(folder)[0].read_bytes()
    (data, parts), (_, others) = get(), get()
    items, tokens = parts[0].inter_feat.targets["item_id"], data.field2id_token["user_id"]
    wanted = items.clone()
    items.fill_(-1), parts[0].inter_feat.target.fill_(0)
    tokens[:] = "gone"
    assert torch.equal(others[0].inter_feat.targets["item_id"], wanted) and (items == -1).all()
    again, parts = get()
    assert torch.equal(parts[0].inter_feat.targets["item_id"], wanted) and again.field2id_token["user_id"][1] == "u0"
    assert parts[0].inter_feat.target.max() > 0
    assert entries(folder)[0].read_bytes() == before and len(builds) == 1


def test_arrays_are_mapped_not_copied(make_config, get, write_atomic, folder):
    number = 20_000
    users, items = [f"u{n // 100}" for n in range(number)], [f"i{n % 97}" for n in range(number)]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(number)})
    get()
    config = make_config("SASRec")
    tracemalloc.start()
    _, parts = cache.shared_dataset(config, folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < entries(folder)[0].stat().st_size / 4
    for part in parts:
        for values in (*part.inter_feat.targets.values(), part.inter_feat.target, part.inter_feat.start):
            assert values.data_ptr() % 8 == 0


CHILD = """
import json, logging, sys
from recbole.utils import init_seed
from recbole_gen.config.config import Config
from recbole_gen.data import cache, loaders

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
settings, folder = json.loads(sys.argv[1]), sys.argv[2]
config = Config(config_dict=settings)
init_seed(config["seed"], config["reproducibility"])
loaders.create_dataset = None  # this process must not build
data, parts = cache.shared_dataset(config, folder)
print("rows", len(parts[0]), flush=True)
"""


def test_a_second_process_waits_for_the_first(make_config, settings, folder, monkeypatch):
    given = settings("SASRec")
    config, create, child = make_config("SASRec"), loaders.create_dataset, []

    def create_while_another_asks(config):
        command = [sys.executable, "-c", CHILD, json.dumps(given), str(folder)]
        place = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[2])}
        child.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=place))
        assert "waiting for the data set" in child[0].stdout.readline()
        return create(config)

    monkeypatch.setattr(loaders, "create_dataset", create_while_another_asks)
    _, parts = cache.shared_dataset(config, folder)
    out, _ = child[0].communicate()
    assert child[0].returncode == 0 and f"rows {len(parts[0])}\n" in out and "is shared, from" in out
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, -1])
def test_an_entry_that_is_cut_off_is_built_again(keep, get, walks, folder, builds, caplog):
    rows = str(get()[1][0].inter_feat)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    size = int(len(whole) * keep) if isinstance(keep, float) else keep
    entry.unlink()  # not rewritten in place: it is mapped
    entry.write_bytes(whole[:size])
    (folder / f"{'0' * 32}.arrow").write_text("something else\n")
    (folder / "foreign.arrow").write_text("nothing of ours\n")
    assert str(get()[1][0].inter_feat) == rows and len(builds) == 2
    assert caplog.text.count("no shared data set, or not a whole one") == 2
    get()
    assert len(builds) == 2 and len(entry.read_bytes()) == len(whole)
    assert [path.name for path in entries(folder)] == [entry.name, "foreign.arrow"]


def tamper(path: Path, change) -> None:
    """Write the file again, whole, with `change(rest)` in what it says in JSON, and its checksum."""
    batch = read_batch(path)
    rest = json.loads(bytes(batch.column(cache_file.OBJECTS_COLUMN).values.to_numpy()))
    change(rest)
    content = cache_file._to_column(np.frombuffer(json.dumps(rest).encode(), np.uint8))
    batch = batch.set_column(batch.num_columns - 1, cache_file.OBJECTS_COLUMN, content)
    path.unlink()
    write_batch(path, batch)


def read_batch(path: Path) -> pa.RecordBatch:
    with pa.ipc.open_file(path.read_bytes()[: -checkpoint.CHECKSUM_SIZE]) as reader:
        return reader.get_batch(0)


def write_batch(path: Path, batch: pa.RecordBatch, **options) -> None:
    with pa.ipc.new_file(str(path), batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    with open(path, "rb+") as file:
        checkpoint.sign(file)


def first(rest, kind: str) -> list:
    return next(said for said in rest["objects"] if said[0] == kind)


def set_first(kind: str, place: int, value):
    """A change of the first object of a kind: what it says at a place."""

    def change(rest):
        first(rest, kind)[place] = value

    change.__name__ = f"{kind}_{place}_{value}"
    return change


def run_something(rest):
    rest["root"] = ["instance", "os.system", {"command": "touch RAN"}]


@pytest.mark.parametrize(
    "change",
    [
        lambda rest: rest.clear(),
        run_something,
        set_first("instance", 1, "os.system"),
        set_first("instance", 1, "Config"),
        set_first("instance", 2, []),
        set_first("instance", 0, "call"),
        set_first("list", 1, ["object", 10**9]),
        set_first("list", 1, ["object", -1]),
        set_first("list", 1, ["enum", "Path", "home"]),
        set_first("list", 1, ["number", "O", 1]),
        set_first("tensor", 1, 10**9),
        set_first("tensor", 2, "complex64"),
        set_first("tensor", 3, 10**12),
        set_first("tensor", 3, -1),
        set_first("tensor", 4, [10**12]),
        set_first("tensor", 5, [10**12]),
        set_first("tensor", 5, [-1]),
        set_first("array", 2, "O"),
        set_first("array", 2, "i8,O"),
        set_first("array", 3, [10**12]),
        set_first("array", 3, [-1]),
    ],
    ids=lambda change: change.__name__,
)
def test_an_entry_that_was_tampered_with_is_refused_and_built_again(change, get, log, folder, builds, caplog):
    get("DreamRec")
    (entry,) = entries(folder)
    tamper(entry, lambda rest: None)
    get("DreamRec")
    assert len(builds) == 1 and "cannot be read" not in caplog.text
    tamper(entry, change)
    state = random.getstate()
    _, parts = get("DreamRec")
    assert len(builds) == 2 and len(parts[0]) > 0 and caplog.text.count("cannot be read, and is built again") == 1
    random.setstate(state)
    get("DreamRec")
    assert len(builds) == 2 and caplog.text.count("cannot be read") == 1


def test_columns_that_are_compressed_or_of_other_types_are_refused(stored, tmp_path):
    stored([np.arange(1000)])
    path = tmp_path / "x.arrow"
    batch = read_batch(path)
    write_batch(path, batch, compression="lz4")
    with pytest.raises(cache_file.DamagedFile, match="outside of the file"):
        cache_file.read_dataset(path, None)
    write_batch(path, batch.set_column(0, "0", pa.array([["a"]])))
    with pytest.raises(cache_file.DamagedFile, match="a column is list"):
        cache_file.read_dataset(path, None)


def test_no_flipped_bit_is_read(stored, tmp_path):
    stored([np.arange(100), torch.arange(50.0), "text", {"a": 1}])
    path = tmp_path / "x.arrow"
    whole = path.read_bytes()
    draw = random.Random(0)
    for bit in [draw.randrange(8 * len(whole)) for _ in range(40)] + [8 * len(whole) - n for n in (1, 70, 200, 240)]:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(cache_file.DamagedFile):
            cache_file.read_dataset(path, None)
    path.write_bytes(whole)
    assert cache_file.read_dataset(path, None)[2] == "text"


def test_an_entry_with_a_flipped_bit_is_built_again(walks, get, builds, folder, caplog):
    expected = get()
    path = entries(folder)[0]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 16
    path.write_bytes(damaged)
    assert equal(get()[0].inter_feat.targets, expected[0].inter_feat.targets)
    assert len(builds) == 2 and "does not have the checksum" in caplog.text
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize("kind, dtype", [("array", "|b1"), ("tensor", "bool")])
def test_odd_truth_values_are_refused(kind, dtype, stored, tmp_path):
    for value in (1, 7):
        stored([torch.tensor([0, value], dtype=torch.uint8), np.array([0, value], np.uint8)])
        tamper(tmp_path / "x.arrow", set_first(kind, 2, dtype))
        if value == 1:
            content = cache_file.read_dataset(tmp_path / "x.arrow", None)
            assert [each.tolist() for each in content].count([False, True]) == 2
    with pytest.raises(cache_file.DamagedFile, match="truth value"):
        cache_file.read_dataset(tmp_path / "x.arrow", None)


@pytest.mark.parametrize("of", ["write", "lock"])
def test_a_full_disk_is_a_warning(of, get, walks, folder, builds, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if of == "write":
        monkeypatch.setattr(cache_file.os, "fsync", full)
    else:
        monkeypatch.setattr(cache, "_acquire_lock", full)
    _, parts = get()
    assert len(parts[0]) == 480 and "the data set is not shared" in caplog.text and "No space left" in caplog.text
    assert not [path for path in folder.iterdir() if path.name != "lock"]


def test_what_no_file_can_hold_is_a_warning(get, walks, folder, monkeypatch, caplog):
    create = loaders.create_dataset

    def with_a_function(config):
        data = create(config)
        data.function = lambda: None
        return data

    monkeypatch.setattr(loaders, "create_dataset", with_a_function)
    assert get()[0].function() is None and not entries(folder)
    assert "the data set is not shared" in caplog.text and "builtins.function" in caplog.text


def test_a_file_that_a_killed_process_has_left_is_removed(get, walks, folder):
    folder.mkdir(mode=0o700)
    (folder / f"{'a' * 32}.arrow.1.tmp").write_text("half of an entry")
    (folder / "own.tmp").write_text("something of the user's")
    get()
    assert [path.name for path in folder.glob("*.tmp")] == ["own.tmp"] and len(entries(folder)) == 1


def test_nobody_else_may_write_into_the_folder(get, walks, folder, monkeypatch):
    get()
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(UserError, match=r"other users may write.*chmod go-w"):
            get()
    folder.chmod(0o755)
    get()
    user = os.getuid()
    monkeypatch.setattr(cache.os, "getuid", lambda: user + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        get()


def test_a_bad_folder_is_one_message(make_config, walks, folder):
    folder.write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        cache.shared_dataset(make_config("SASRec"), folder)


def test_a_stale_entry_is_told_and_removed(get, walks, folder, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    get(), get("GRU4Rec")
    old = entries(folder)
    path = tmp_path / "toy/toy.inter"
    path.write_text(path.read_text().replace("u0\t", "u00\t"))
    get()
    assert len(entries(folder)) == 1 and not set(old) & set(entries(folder))
    assert caplog.text.count("is stale: it was made with other files than there are now") == 2
    monkeypatch.setattr(cache.torch, "__version__", "0.0")
    get("GRU4Rec")
    assert len(entries(folder)) == 1 and "is stale: it was made with other versions" in caplog.text


def test_entries_of_other_data_sets_and_models_are_not_stale(get, log, folder, tmp_path, make_config):
    get(), get("DreamRec"), get("PASRec")
    (tmp_path / "other").mkdir()
    text = (tmp_path / "toy/toy.inter").read_text()
    (tmp_path / "other/other.inter").write_text(text)
    cache.shared_dataset(make_config("SASRec", dataset="other"), folder)
    assert len(entries(folder)) == 4


def test_the_entries_used_least_recently_go(get, walks, folder, builds, monkeypatch):
    monkeypatch.setattr(cache, "MAX_ENTRIES", 2)
    get(), get("GRU4Rec")
    for number, path in enumerate(entries(folder)):
        os.utime(path, (1000 + number, 1000 + number))
    get()  # is used, and now the last to go
    get("DreamRec")
    assert len(entries(folder)) == 2
    get()
    assert len(builds) == 3
    get("GRU4Rec")
    assert len(builds) == 4


def test_the_key_says_where_data_sets_are_kept(make_config, log, tmp_path, builds, monkeypatch):
    def load(given=None, **values):
        return cache.load_dataset(make_config("SASRec", **values), given)

    own = tmp_path / "toy/.cache"
    load(), load(data_cache=False)
    assert not own.exists() and len(builds) == 2  # a small log
    load(data_cache=True), load(data_cache=True)
    assert len(entries(own)) == 1 and len(builds) == 3
    load(data_cache=str(tmp_path / "there")), load(tmp_path / "here", data_cache=False)
    assert len(entries(tmp_path / "there")) == len(entries(tmp_path / "here")) == 1 and len(builds) == 5
    monkeypatch.setattr(cache, "MIN_LOG_BYTES", (tmp_path / "toy/toy.inter").stat().st_size)
    load(), load(data_cache="auto"), load(learning_rate=0.1, epochs=3)
    assert len(builds) == 5
    load(data_cache=False)
    assert len(builds) == 6


def test_auto_does_without_where_nothing_can_be_kept(make_config, walks, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "MIN_LOG_BYTES", 0)
    (tmp_path / "toy/.cache").write_text("")
    data, _ = cache.load_dataset(make_config("SASRec"))
    assert data.item_num == 41 and not [each for each in caplog.records if each.levelno > logging.INFO]
    with pytest.raises(UserError, match="cannot be made"):
        cache.load_dataset(make_config("SASRec", data_cache=True))


def test_processes_that_train_together_share_the_data_set(settings, folder, quick_processes):
    alone = quick_start.run(config_dict=settings("SASRec", epochs=0), data_cache=folder)
    together = quick_start.run(config_dict=settings("SASRec", epochs=0, nproc=2), data_cache=folder)
    assert len(entries(folder)) == 1 and together["processes"] == 2
    logs = [(Path(result["run_dir"]) / "run.log").read_text() for result in (alone, together)]
    assert "is shared, as" in logs[0] and "is shared, from" in logs[1] and all("number of users" in log for log in logs)


def test_a_loaded_run_has_the_data_set_that_is_kept(settings, walks, builds):
    result = quick_start.run(config_dict=settings("SASRec", epochs=1, data_cache=True))
    loaded = quick_start.load(result["run_dir"])
    assert len(builds) == 1 and len(loaded.train._dataset) == 480


def test_a_configuration_notes_what_is_read(make_config, walks):
    config = make_config("SASRec", learning_rate=0.5)
    config["topk"]
    with config.recording_reads() as read:
        assert config["learning_rate"] == 0.5 and "seed" in config and config.epochs and config["nothing"] is None
        assert not hasattr(config, "no_such_key") and config["MODEL_TYPE"].name == "SEQUENTIAL"
        config["learning_rate"] = 2
        assert config["learning_rate"] == 2
    config["metrics"]
    assert read == {
        "learning_rate": [0.5], "seed": [config["seed"]], "epochs": [config["epochs"]], "nothing": [],
        "no_such_key": [], "MODEL_TYPE": ["SEQUENTIAL"],
    }  # fmt: skip
