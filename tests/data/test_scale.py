"""Logs of any size: readers, filters, orders and devices that must change nothing but time and memory."""

import csv
import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_gen.data import splits
from recbole_gen.data.loaders import create_dataset, create_loaders, fits_on_gpu
from recbole_gen.data.sequences import SequenceDataset
from recbole_gen.errors import UserError
from recbole_gen.reading import whole_files
from recbole_gen.reading.parsing import TimeParser
from recbole_gen.training import evaluation_loop
from recbole_gen.training.trainer import create_trainer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

# Reading

TITLES = ["user_id:token", "item_id:token", "rating:float"]
KINDS = {"user_id:token": "category", "item_id:token": "category", "rating:float": np.float64}
PLAIN = {
    "leading zeros": ["007\ta\t1", "7\tb\t2", "0\t07\t3"],
    "all tokens are numbers": ["1\t1.0\t1", "01\t1\t2", "1\t1e0\t3"],
    "truth": ["True\tFalse\t1", "true\tTrue\t0"],
    "nothing in a cell": ["\ta\t1", "u\t\t2", "u\ta\t", "\t\t"],
    "blanks": [" u\ta \t 1", "u\t \t2 ", "u v\t  a\t 3 "],
    "empty lines": ["u\ta\t1", "", "v\tb\t2", ""],
    "other letters": ["é\t日本\t1", "e\u0301\t\u2028\t2", "\u0085\t\ufeff\t3", "𝄞\t\xa0\t4"],
    "signs": ["#u\t'a'\t1", "\\u\t\\t\t2", "u,v\ta;b\t-3", "`\ta|b\t+4"],
    "numbers": ["u\ta\t1e5", "u\ta\t-.5", "u\ta\t1.", "u\ta\t00012", "u\ta\t1e400", "u\ta\t-0"],
    "long numbers": ["u\ta\t1234567890.123456", "u\ta\t0.1234567890123456789", "u\ta\t123456789012345678901234567890"],
    "infinite": ["u\ta\tinf", "u\ta\t-inf", "u\ta\tInfinity"],
    "one row": ["u\ta\t1"],
}


def by_pandas(path, **options) -> pd.DataFrame:
    """As before there was another reader, with tokens as text."""
    text = {title: str if kind == "category" else kind for title, kind in KINDS.items()}
    rules = {"quoting": csv.QUOTE_NONE, "keep_default_na": False, "na_values": [""]}
    return pd.read_csv(path, **{"sep": "\t", "usecols": TITLES, "dtype": text, "engine": "c", **rules, **options})


def assert_equal_tables(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert list(one) == list(other) and len(one) == len(other)
    for title in one:
        assert one[title].isna().tolist() == other[title].isna().tolist(), title
        assert one[title].dropna().tolist() == other[title].dropna().tolist(), title


@pytest.fixture
def write(tmp_path):
    def written(lines, end="\n", last=True, encoding="utf-8"):
        path = tmp_path / "toy/toy.inter"
        path.parent.mkdir(exist_ok=True)
        text = end.join(["\t".join(TITLES), *lines]) + (end if last else "")
        path.write_bytes(text.encode(encoding))
        return path

    return written


def whole(path, separator="\t", encoding="utf-8"):
    """The table as it is read by threads."""
    kinds = {"user_id": "categories", "item_id": "categories", "rating": "numbers"}
    columns = whole_files.read_whole_file(path, kinds, TimeParser(), separator, encoding).columns
    return pd.DataFrame(dict(zip(TITLES, columns.values(), strict=True)))


@pytest.mark.parametrize("last", [True, False], ids=["ends", "does not end"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_read_as_pandas_reads_them(name, end, last, write):
    path = write(PLAIN[name], end, last)
    table = whole(path)
    assert table["user_id:token"].dtype == "category" and table["rating:float"].dtype == np.float64
    assert_equal_tables(table, by_pandas(path))


def test_encodings_are_read(write, make_config):
    for encoding in ("utf-8", "UTF8", "latin-1", "utf-16"):
        write(["u\té\t1", "v\tü\t2"], encoding=encoding)
        config = make_config(TIME_FIELD="rating")
        config["encoding"] = encoding
        tokens = SequenceDataset(config).field2id_token["item_id"]
        assert tokens.tolist() == ["[PAD]", "é", "ü"], encoding


@pytest.mark.parametrize("cell", ["five", "nan(1)", "0x10", "1_0"])
def test_what_is_no_number_is_refused_with_its_line(cell, write):
    path = write(["u\ta\t1", "", f"u\ta\t{cell}"])
    with pytest.raises(UserError, match=rf"line 4: '{re.escape(cell)}' in the column 'rating:float' is no number"):
        whole(path)


def test_blocks_of_a_file_have_one_vocabulary(write):
    """Of 16 MiB each: users and what is missing occur in all, some items in one only."""
    n = 500_000
    users, items = (
        [f"user-with-a-long-name-{7 * row % 5000}" for row in range(n)],
        [f"i{row // 90}" for row in range(n)],
    )
    items[5::1000] = [""] * len(items[5::1000])
    path = write([f"{user}\t{item}\t{row}" for row, (user, item) in enumerate(zip(users, items, strict=True))])
    assert path.stat().st_size > 16 << 20
    table = whole(path)
    assert_equal_tables(table, by_pandas(path))
    assert table["user_id:token"].cat.categories.nunique() == 5000


def test_numbers_as_tokens_stay_text_and_apart(write, make_config):
    write(["007\t1.0\t1", "7\t1\t2", "7\t01\t3", "007\t1\t4"])
    dataset = SequenceDataset(make_config(TIME_FIELD="rating"))
    assert dataset.field2id_token["user_id"].tolist() == ["[PAD]", "007", "7"]
    assert dataset.field2id_token["item_id"].tolist() == ["[PAD]", "1.0", "1", "01"]


# Ids and filters


def random_tables(seed: int, write_atomic) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    write_atomic(
        {
            "user_id:token": [f"u{value}" for value in rng.zipf(1.4, n) % 40],
            "item_id:token": [f"i{value}" if value else "" for value in rng.zipf(1.3, n) % 60],
            "shop:token": [f"i{value}" if value > 5 else "" for value in rng.integers(30, size=n)],
            "timestamp:float": rng.integers(1000, size=n),
        }
    )
    described = [f"u{value}" for value in rng.permutation(50)[:35]]
    write_atomic({"user_id:token": described, "age:token": rng.integers(5, size=35)}, suffix="user")
    groups = [[f"g{value}" for value in rng.integers(9, size=rng.integers(3))] for _ in range(50)]
    items = [f"i{value}" for value in rng.permutation(80)[:50]]
    write_atomic({"item_id:token": items, "group:token_seq": groups}, suffix="item")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[3,inf)"},
        {"user_inter_num_interval": "(4,20];[30,60]"},
        {"item_inter_num_interval": "[20,inf);[1,4]", "user_inter_num_interval": "[0,inf)"},
        {"user_inter_num_interval": "[2,inf)", "filter_inter_by_user_or_item": False},
    ],
    ids=str,
)
def test_ids_and_filters_are_recboles(filters, seed, write_atomic, make_config):
    random_tables(seed, write_atomic)
    config = make_config(alias_of_item_id=["shop"], **filters)
    ours, theirs = SequenceDataset(config), SequentialDataset(config)
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].tolist() == tokens.tolist(), field
        assert ours.field2token_id[field] == theirs.field2token_id[field]
    for name in ("inter_feat", "user_feat", "item_feat"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert list(mine) == list(other) and len(mine) == len(other) > 0
        for field in mine:
            assert list(map(str, mine[field])) == list(map(str, other[field])), (name, field)


def test_a_filter_that_leaves_nothing_ends(write_atomic, make_config):
    random_tables(0, write_atomic)
    with pytest.raises(ValueError, match="filters leave nothing of inter_feat"):
        SequenceDataset(make_config(user_inter_num_interval="[9,inf)", item_inter_num_interval="[90,inf)"))


# Order


@pytest.mark.parametrize("n_users", [1, 40, 70_000])
def test_the_order_is_that_of_lexsort(n_users):
    rng = np.random.default_rng(0)
    users, times = rng.integers(n_users, size=100_000), rng.integers(50, size=100_000).astype(np.float64)
    order = splits.order_by_user_and_time(users, times)
    assert order.dtype == np.int32 and np.array_equal(order, np.lexsort((times, users)))
    assert len(splits.order_by_user_and_time(users[:0], times[:0])) == 0


# Memory


def test_a_row_takes_few_bytes(write_atomic, make_config):
    n = 3000
    users, items = [f"u{row // 30}" for row in range(n)], [f"i{row % 50}" for row in range(n)]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(n)})
    dataset = SequenceDataset(make_config("SASRec"))
    parts = dataset.build()
    events, row = n * (4 + 4 + 8), 4 + 4 + 2  # user, item, time; target, start, length
    assert dataset.inter_feat.nbytes == events + row * (n - 100)
    train = parts[0].inter_feat
    assert train.nbytes == events + row * len(train) and train[:]["item_id_list"].dtype == torch.int64


# Devices


def assert_same_batches(loader, other):
    for mine, theirs in itertools.zip_longest(loader, other):
        assert mine.columns == theirs.columns
        for field in mine.columns:
            assert mine[field].dtype == theirs[field].dtype and torch.equal(mine[field].cpu(), theirs[field]), field


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["SASRec", "PASRec", "DSPnet"])
def test_batches_that_are_gathered_on_the_device_are_the_same(model, device, walks_with_features, make_config):
    config = make_config(model, train_batch_size=64, SCENE_FIELD="kind", MAX_ITEM_LIST_LENGTH=5)
    on_device, on_cpu = (create_loaders(config, create_dataset(config))[0] for _ in range(2))
    assert on_cpu._dataset_on_gpu is None
    on_device._dataset_on_gpu = on_device._dataset.to(device)
    for _ in range(2):  # epochs
        assert_same_batches(on_device, on_cpu)
    rows = on_device._dataset_on_gpu.inter_feat
    assert all(values.device.type == device for values in next(iter(on_device)).interaction.values())
    assert rows.lists["item_id_list"] is rows.targets["item_id"]
    if device == "cpu":
        assert rows.targets["item_id"] is on_device._dataset.inter_feat.targets["item_id"]


@pytest.fixture
def walks_with_features(write_atomic):
    rng = np.random.default_rng(3)
    sizes = rng.integers(4, 12, size=60)
    n = int(sizes.sum())
    write_atomic(
        {
            "user_id:token": np.repeat(np.arange(60), sizes),
            "item_id:token": rng.integers(25, size=n),
            "timestamp:float": 86400 * rng.integers(900, size=n),
            "rating:float": rng.integers(1, 6, size=n),
        }
    )
    write_atomic({"item_id:token": range(25), "kind:token": [item % 4 for item in range(25)]}, suffix="item")


@pytest.mark.parametrize("index", [slice(3, 40, 3), [5, 0, 5], [], torch.tensor([7, 2])], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_rows_on_a_device_are_read_every_way(device, index, walks_with_features, make_config):
    rows = SequenceDataset(make_config(MAX_ITEM_LIST_LENGTH=4)).build()[1].inter_feat
    moved = rows.to(device)
    assert_same_batches([moved[index]], [rows[index]])
    assert_same_batches([moved.take(index)[:]], [rows.take(index)[:]])
    assert moved.nbytes == rows.nbytes and torch.equal(moved.seen_counts.cpu(), rows.seen_counts)
    with pytest.raises(ValueError, match="all columns"):
        rows.to(device, "item_id")


def test_a_cpu_needs_no_copy(walks_with_features, make_config):
    assert not fits_on_gpu(torch.device("cpu"), SequenceDataset(make_config()).build()[0].inter_feat)


def test_returning_freed_memory_changes_no_result(walks_with_features, make_config, tmp_path, monkeypatch):
    config = make_config("SASRec", checkpoint_dir=str(tmp_path / "run"), tensorboard=False, eval_batch_size=16)
    train, _, test = create_loaders(config, create_dataset(config))
    tested = create_trainer(config, config.model_class(config, train._dataset))
    expected = tested.evaluate(test, load_best_model=False)
    monkeypatch.setattr(evaluation_loop, "RETURN_MEMORY_BYTES", 0)
    assert tested.evaluate(test, load_best_model=False) == expected
