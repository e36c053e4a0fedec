"""Data sets and loaders: RecBole's batches, exact times, O(N) memory, errors, and RecBole's machinery on top."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data import create_samplers
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import KGDataLoaderState, init_seed

from recbole_gen.config.config import Config
from recbole_gen.config.places import RECBOLE_PROPERTIES
from recbole_gen.data.loaders import RowBatchFullSortLoader, RowBatchTrainLoader, create_dataset, create_loaders
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.sequences import SequenceDataset
from recbole_gen.errors import UserError

ML100K = RECBOLE_PROPERTIES.parent / "dataset_example/ml-100k/ml-100k.inter"
PARTS = ("train", "valid", "test")


@pytest.fixture
def random_log(write_atomic):
    """25 users of 6 to 30 events with ties; returns the columns."""
    rng = np.random.default_rng(7)
    user = rng.permutation(np.repeat(np.arange(25), rng.integers(6, 31, size=25)))
    columns = {
        "user_id:token": [f"u{number}" for number in user],
        "item_id:token": [f"i{number}" for number in rng.integers(60, size=len(user))],
        "rating:float": rng.integers(1, 6, size=len(user)).tolist(),
        "timestamp:float": rng.integers(50, size=len(user)).tolist(),
    }
    write_atomic(columns)
    return columns


def assert_same(mine, other) -> None:
    assert sorted(mine.columns) == sorted(other.columns)
    for field in other.columns:
        assert mine[field].dtype == other[field].dtype and torch.equal(mine[field], other[field]), field


# Loaders


def recbole_loader(config, phase: str):
    """RecBole's dense data set and its own loader, negative samplers included."""
    dataset = SequentialDataset(config)
    parts = dataset.build()
    number = PARTS.index(phase)
    sampler = create_samplers(config, dataset, parts)[number]
    if phase == "train":
        return TrainDataLoader(config, parts[0], sampler, shuffle=True)
    full = config["eval_args"]["mode"][phase] == "full"
    return (FullSortEvalDataLoader if full else NegSampleEvalDataLoader)(config, parts[number], sampler)


@pytest.mark.parametrize(
    "model, values, columns",
    [
        ("GRU4Rec", {}, set()),
        ("GRU4Rec", {"train_batch_size": 1}, set()),
        ("FPMC", {}, {"neg_item_id"}),
        ("GRU4Rec", {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}}, None),
        ("FPMC", {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 1}}, {"neg_item_id"}),
    ],
)
def test_training_batches_are_recboles_in_every_epoch(model, values, columns, random_log, make_config):
    config = make_config(model, MAX_ITEM_LIST_LENGTH=8, **{"train_batch_size": 50, "seed": 11, **values})
    loader = create_loaders(config, create_dataset(config))[0]
    assert isinstance(loader, RowBatchTrainLoader) and isinstance(loader.dataset.inter_feat, SequenceRows)
    other = recbole_loader(config, "train")
    assert len(loader) == len(other)
    orders = []
    for _ in range(3):
        both = []
        for batches in (loader, other):
            init_seed(3, True)  # the negatives come from NumPy's stream
            both.append(list(batches))
        assert len(both[0]) == len(loader)
        for mine, theirs in zip(*both, strict=True):
            assert_same(mine, theirs)
        orders.append(torch.cat([batch["item_id"] for batch in both[0]]))
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    if columns is not None:
        assert set(both[0][0].columns) - set(loader.dataset.inter_feat.columns) == columns


def test_without_negatives_every_item_is_a_true_next_item(random_log, make_config):
    config = make_config(MAX_ITEM_LIST_LENGTH=8)
    dataset = create_dataset(config)
    loader = create_loaders(config, dataset)[0]
    log = pd.DataFrame(random_log).sort_values(["user_id:token", "timestamp:float"], kind="stable")
    follows = set()
    for user, items in log.groupby("user_id:token")["item_id:token"]:
        follows.update((user, *pair) for pair in itertools.pairwise(items))
    rows = 0
    for batch in loader:
        assert "label" not in batch
        last = batch["item_id_list"].gather(1, batch["item_length"].unsqueeze(1) - 1).squeeze(1)
        users, lasts, targets = (
            dataset.id2token(field, ids.numpy())
            for field, ids in (("user_id", batch["user_id"]), ("item_id", last), ("item_id", batch["item_id"]))
        )
        assert {tuple(map(str, row)) for row in zip(users, lasts, targets, strict=True)} <= follows
        rows += len(batch)
    assert rows == len(random_log["item_id:token"]) - 3 * 25


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_evaluation_batches_are_recboles(phase, random_log, make_config):
    eval_args = {"split": {"RS": [8, 1, 1]}, "group_by": "user", "mode": "full"}
    config = make_config(eval_batch_size=16, eval_args=eval_args, metrics=["Hit"], valid_metric="Hit@10")
    loader = create_loaders(config, create_dataset(config))[PARTS.index(phase)]
    assert type(loader) is RowBatchFullSortLoader and isinstance(loader.dataset.inter_feat, SequenceRows)
    both = []
    for batches in (loader, recbole_loader(config, phase)):
        init_seed(3, True)
        both.append(list(batches))
    assert len(both[0]) > 1
    for mine, theirs in zip(*both, strict=True):
        assert_same(mine[0], theirs[0])
        for mine_part, their_part in zip(mine[1:], theirs[1:], strict=True):
            assert (mine_part is None and their_part is None) or torch.equal(
                torch.as_tensor(mine_part), torch.as_tensor(their_part)
            )


def test_worker_processes_give_the_same_batches(random_log, make_config):
    batches = []
    for worker in (0, 1):
        config = make_config(worker=worker, train_batch_size=100)
        batches.append(list(create_loaders(config, create_dataset(config))[0]))
    assert len(batches[0]) > 2
    for mine, theirs in zip(*batches, strict=True):
        assert_same(mine, theirs)


def test_an_empty_part_has_no_batches(random_log, make_config):
    config = make_config(eval_args={"split": {"LS": "valid_only"}})
    _, valid, test = create_loaders(config, create_dataset(config))
    assert len(list(valid)) == len(valid) == 1
    assert len(list(test)) == len(test) == 0


# Times


def last_items(parts_or_rows, dataset) -> dict[str, str]:
    rows = parts_or_rows.inter_feat[torch.arange(len(parts_or_rows))]
    users = dataset.id2token("user_id", rows["user_id"].numpy())
    return dict(zip(users.tolist(), dataset.id2token("item_id", rows["item_id"].numpy()).tolist(), strict=True))


def test_ml100k_tests_the_last_item_of_the_raw_file(make_config, monkeypatch):
    raw = pd.read_csv(ML100K, sep="\t", dtype={0: str, 1: str, 3: np.int64})
    raw.columns = ["user", "item", "rating", "time"]
    raw = raw.iloc[np.argsort(raw["time"].to_numpy(), kind="stable")]
    expected = raw.groupby("user")["item"].last().to_dict()
    assert len(expected) == 943
    load_col = {"inter": ["user_id", "item_id", "timestamp"]}

    ours = SequenceDataset(make_config(dataset="ml-100k", load_col=load_col))
    assert ours.config["normalize_all"] is True  # RecBole's ml-100k.yaml
    test = ours.build()[2]
    assert last_items(test, ours) == expected
    times = test.inter_feat["timestamp"]
    assert times.dtype == torch.float64
    users = ours.id2token("user_id", test.inter_feat["user_id"].numpy())
    latest = raw.groupby("user")["time"].last()
    assert times.tolist() == [float(latest[user]) for user in users]

    original = inspect.getclosurevars(Dataset._dataframe_to_interaction).nonlocals["convert"]
    monkeypatch.setattr(Dataset, "_dataframe_to_interaction", original)
    values = {"normalize_all": False, "MAX_ITEM_LIST_LENGTH": 1}
    theirs = SequentialDataset(make_config(dataset="ml-100k", load_col=load_col, **values))
    found = last_items(theirs.build()[2], theirs)
    wrong = sum(found[user] != item for user, item in expected.items())
    assert round(wrong / 943, 3) == 0.158


def test_times_stay_exact_and_ties_keep_the_order_of_the_file(write_atomic, make_config):
    start = 1_400_000_000
    write_atomic(
        {
            "user_id:token": ["u"] * 6,
            "item_id:token": list("acbdef"),  # c is 20 s after b; d, e and f come at once
            "timestamp:float": [start, start + 40, start + 20, *[start + 60.25] * 3],
            "rating:float": [1, 2, 3, 4, 5, 1],
        }
    )
    dataset = SequenceDataset(make_config(normalize_all=True, eval_args={"split": {"RS": [3, 1, 1]}}))
    test = dataset.build()[2]
    rows = test.inter_feat[[0]]
    assert dataset.id2token("item_id", rows["item_id_list"][0, :5].numpy()).tolist() == list("abcde")
    assert rows["timestamp"].dtype == rows["timestamp_list"].dtype == torch.float64
    assert rows["timestamp_list"][0, :5].tolist() == [start, start + 20, start + 40, start + 60.25, start + 60.25]
    assert rows["timestamp"].tolist() == [start + 60.25]
    assert rows["rating_list"].max() <= 1  # normalised
    assert np.float32(start) == np.float32(start + 20)  # what float32 would have made of it


def test_times_of_benchmark_files_stay_exact(write_atomic, make_config):
    start = 1_400_000_000
    columns = {
        "user_id:token": ["u", "v"],
        "item_id_list:token_seq": [["a", "b"], ["c"]],
        "item_id:token": ["c", "a"],
        "timestamp_list:float_seq": [[start, start + 20], [start + 1]],
        "timestamp:float": [start + 40, start + 3],
    }
    for part in PARTS:
        write_atomic(columns, suffix=f"{part}.inter")
    config = make_config(benchmark_filename=list(PARTS), normalize_all=True, MAX_ITEM_LIST_LENGTH=3)
    rows = SequenceDataset(config).build()[0].inter_feat[:]
    assert rows["timestamp"].tolist() == [start + 40, start + 3]
    assert rows["timestamp_list"].tolist() == [[start, start + 20, 0], [start + 1, 0, 0]]


def test_repeated_interactions_are_dropped_in_the_order_of_time_and_file(write_atomic, make_config):
    write_atomic(
        {
            "user_id:token": ["u"] * 6,
            "item_id:token": list("abacab"),
            "timestamp:float": [1, 2, 3, 2, 3, 0],
            "rating:float": [1, 2, 3, 4, 5, 6],
        }
    )
    for keep, items, ratings in [("first", "bac", [6, 1, 4]), ("last", "bca", [2, 4, 5])]:
        values = {"rm_dup_inter": keep, "empty_history": True, "eval_args": {"split": {"RS": [1, 1, 1]}}}
        dataset = SequenceDataset(make_config(**values))
        dataset.build()
        rows = dataset.inter_feat[:]
        assert "".join(dataset.id2token("item_id", rows["item_id"].numpy())) == items
        assert rows["rating"].tolist() == ratings


# Memory


def stored_bytes(parts) -> int:
    """Bytes of all tensors that the parts hold; what they share counts once."""
    storages = {}
    for part in parts:
        rows = part.inter_feat
        tensors = [*rows.targets.values(), *rows.lists.values(), rows.target, rows.start, rows.history_length]
        for tensor in [*tensors, *rows._dense.values()]:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    "split", [{"LS": "valid_and_test"}, {"RS": [8, 1, 1]}, {"TS": [8, 1, 1]}, {"SS": [8, 1, 1]}], ids=str
)
def test_memory_grows_with_the_log_only(split, random_log, make_config):
    sizes = []
    for length in (5, 5000):
        dataset = SequenceDataset(make_config(MAX_ITEM_LIST_LENGTH=length, eval_args={"split": split}))
        parts = dataset.build()
        sizes.append(stored_bytes([dataset, *parts]))
        rows = [part.inter_feat for part in parts]
        assert all(other.lists["item_id_list"] is rows[0].targets["item_id"] for other in rows)
    n = len(random_log["item_id:token"])
    fields, indices = 8 + 8 + 4 + 8, 2 * 3 * 8  # user, item, rating, time; three indices for all rows and for the parts
    assert sizes[0] == sizes[1] <= n * (fields + indices)


def test_memory_of_benchmark_files_is_that_of_the_files(write_atomic, make_config):
    histories = [["a"] * length for length in (90, 1, 2, 3)]
    columns = {"user_id:token": list("uvwx"), "item_id_list:token_seq": histories, "item_id:token": list("abcd")}
    for part in PARTS:
        write_atomic(columns, suffix=f"{part}.inter")
    parts = SequenceDataset(make_config(benchmark_filename=list(PARTS), MAX_ITEM_LIST_LENGTH=50)).build()
    assert stored_bytes(parts) <= 3 * 8 * (96 + 4 * (2 + 6))


def test_rows_can_be_read_every_way(random_log, make_config):
    dataset = SequenceDataset(make_config(MAX_ITEM_LIST_LENGTH=4))
    rows = dataset.build()[0].inter_feat
    full = rows[:]
    assert len(full) == len(rows) == len(rows.interaction["item_id"])
    index = [3, 0, 3]
    mask = torch.zeros(len(rows), dtype=torch.bool)
    mask[index] = True
    for chosen in (index, np.array(index), torch.tensor(index), mask, mask.numpy(), slice(2, 9, 3), []):
        picked = rows[chosen]
        for field in full.columns:
            expected = full[field][chosen] if len(picked) else full[field][:0]
            assert torch.equal(picked[field], expected), field
    for field in full.columns:
        assert torch.equal(rows[field], full[field])
    assert rows["item_id_list"] is rows["item_id_list"]  # kept for models that read it row by row
    with pytest.raises(KeyError):
        rows["nonsense"]
    with pytest.raises(TypeError, match="batch"):
        rows["item_id"] = torch.zeros(len(rows))

    sorted_rows = rows.take(range(len(rows)))
    assert sorted_rows["item_id_list"].shape == (len(rows), 4)  # kept, and not to outlive the sort
    sorted_rows.sort(by=["item_id", "timestamp"])
    full.sort(by=["item_id", "timestamp"])
    assert_same(sorted_rows[:], full)
    assert torch.equal(sorted_rows["item_id_list"], full["item_id_list"])
    sorted_rows.drop("timestamp_list")
    assert "timestamp_list" not in sorted_rows[:] and "timestamp_list" in rows[:]


# Errors


def broken(random_log, change) -> dict:
    columns = {title: list(values) for title, values in random_log.items()}
    return change(columns) or columns


def replace(old, new):
    return lambda columns: {new if title == old else title: values for title, values in columns.items()}


@pytest.mark.parametrize(
    "change, values, message",
    [
        (replace("timestamp:float", "when:float"), {}, "TIME_FIELD 'timestamp' is not among the loaded columns"),
        (None, {"load_col": {"inter": ["user_id", "item_id"]}}, "TIME_FIELD 'timestamp' is not among"),
        (replace("timestamp:float", "timestamp:token"), {}, "must be a number"),
        (None, {"USER_ID_FIELD": "session_id"}, "'session_id'.*--USER_ID_FIELD"),
        (replace("rating:float", "rating"), {}, "title line .* is wrong at 'rating': every title is name:type"),
        (replace("rating:float", "rating:number"), {}, "title line .* is wrong at 'rating:number'"),
        (
            lambda columns: columns["rating:float"].__setitem__(0, "five"),
            {},
            "line 2: 'five' in the column 'rating:float' is no number",
        ),
        (None, {"benchmark_filename": ["train", "valid", "test"]}, r"needs the file .*toy.train.inter"),
        (None, {"benchmark_filename": "train"}, "benchmark_filename must be a list"),
        (None, {"additional_feat_suffix": ["ent"]}, r"needs the file .*toy.ent"),
        (None, {"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH must be"),
        (None, {"user_inter_num_interval": "[500,inf)"}, "filters leave nothing of inter_feat"),
    ],
)
def test_bad_data_is_refused_with_a_reason(change, values, message, random_log, write_atomic, make_config):
    if change is not None:
        write_atomic(broken(random_log, change))
    with pytest.raises(UserError, match=message):
        create_dataset(make_config(**values)).build()


def test_bad_benchmark_files_are_refused_with_a_reason(write_atomic, make_config):
    columns = {"user_id:token": ["u"], "item_id:token": ["a"]}
    for part in PARTS:
        write_atomic(columns, suffix=f"{part}.inter")
    config = make_config(benchmark_filename=list(PARTS))
    with pytest.raises(UserError, match="a column 'item_id_list:token_seq'"):
        create_dataset(config)
    history = {"item_id_list:token_seq": [["b"]], "timestamp:float": [""]}
    for part in PARTS:
        write_atomic(columns | history, suffix=f"{part}.inter")
    with pytest.raises(UserError, match=r"toy.train.inter has no row that can be used: 1 of 1 rows .*'timestamp'"):
        create_dataset(config)
    lists = {"item_id_list:token_seq": [["b", "c"]], "timestamp_list:float_seq": [[1]], "timestamp:float": [2]}
    for part in PARTS:
        write_atomic(columns | lists, suffix=f"{part}.inter")
    with pytest.raises(UserError, match="'timestamp_list' and 'item_id_list' differ in length"):
        create_dataset(config).build()


def test_an_empty_split_is_named(write_atomic, make_config):
    write_atomic({"user_id:token": ["u", "u"], "item_id:token": ["a", "b"], "timestamp:float": [1, 2]})
    with pytest.raises(UserError, match="the validation split is empty"):
        create_dataset(make_config()).build()


# RecBole's machinery


def test_inter_matrix_and_counters_are_recboles(random_log, make_config):
    config = make_config(MAX_ITEM_LIST_LENGTH=3)
    ours, theirs = SequenceDataset(config), SequentialDataset(config)
    for mine, other in zip(ours.build(), theirs.build(), strict=True):
        assert mine.item_counter == other.item_counter and mine.user_counter == other.user_counter
        for value in (None, "rating"):
            mine_matrix, other_matrix = mine.inter_matrix("csr", value), other.inter_matrix("csr", value)
            assert mine_matrix.nnz > 0 and (mine_matrix != other_matrix).nnz == 0
        matrices = []
        for part in (mine, other):
            init_seed(2, True)  # it shuffles the rows
            matrices.append(part.history_item_matrix())
        assert all(map(torch.equal, *matrices))
    assert ours.num("item_id") == theirs.num("item_id")
    assert ours.field2token_id["item_id"] == theirs.field2token_id["item_id"]


def test_inter_matrix_with_empty_histories_counts_every_event_once(random_log, make_config):
    eval_args = {"split": {"SS": [8, 1, 1]}}
    dataset = SequenceDataset(make_config(empty_history=True, eval_args=eval_args))
    total = sum(part.inter_matrix().sum() for part in dataset.build())
    assert total == len(random_log["item_id:token"])


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [8, 1, 1]}, {"TS": [8, 1, 1]}], ids=str)
def test_filters_and_unused_columns_are_recboles(split, random_log, make_config):
    values = {
        "eval_args": {"split": split},
        "user_inter_num_interval": "[8,inf)",
        "item_inter_num_interval": "[3,inf)",
        "rm_dup_inter": "last",
        "val_interval": {"rating": "[2,inf)"},
        "unused_col": {"inter": ["timestamp", "rating", "rating_list"]},  # the split itself needs the times
    }
    ours, theirs = SequenceDataset(make_config(**values)), SequentialDataset(make_config(**values))
    assert ours.inter_num == theirs.inter_num < len(random_log["item_id:token"]) * 0.6
    for mine, other in zip(ours.build(), theirs.build(), strict=True):
        assert "timestamp" not in mine.inter_feat and "timestamp_list" in mine.inter_feat
        assert_same(mine.inter_feat[:], other.inter_feat)


@pytest.mark.parametrize(
    "model, columns",
    [
        ("SASRecF", {"class", "item_id_list"}),
        ("GRU4RecF", {"class"}),
        ("S3Rec", {"class"}),
        ("DIN", {"label", "age", "release_year"}),
        ("DIEN", {"label", "neg_item_id_list"}),
        ("FPMC", {"neg_item_id"}),
        ("FEARec", {"item_id_list"}),
    ],
)
def test_recboles_models_compute_a_loss_on_ml100k(model, columns):
    values = {"user_inter_num_interval": "[400,inf)", "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 64}
    config = Config(model, "ml-100k", config_dict={"use_gpu": False, **values})
    init_seed(config["seed"], True)
    train, _, test = create_loaders(config, create_dataset(config))
    batch = next(iter(train))
    assert columns <= set(batch.columns)
    loss = config.model_class(config, train.dataset).calculate_loss(batch)
    assert torch.isfinite(torch.as_tensor(sum(loss) if isinstance(loss, tuple) else loss))
    assert len(next(iter(test))[0]) > 0


@pytest.mark.parametrize("model", ["GRU4RecKG", "KSR"])
def test_models_with_a_knowledge_graph_compute_a_loss(model, random_log, write_atomic, make_config):
    items = sorted(set(random_log["item_id:token"]))
    entities = [f"e{number}" for number in range(len(items))]
    vectors = np.random.default_rng(0).normal(size=(len(items), 4)).round(3).tolist()
    write_atomic({"item_id:token": items, "entity_id:token": entities}, "link")
    tails = entities[1:] + entities[:1]
    relations = ["r", "s"] * (len(items) // 2)
    graph = {"head_id:token": entities, "relation_id:token": relations, "tail_id:token": tails}
    write_atomic({title: values[: len(relations)] for title, values in graph.items()}, "kg")
    write_atomic({"ent_id:token": entities, "ent_emb:float_seq": vectors}, "ent")
    write_atomic({"rel_id:token": ["r", "s"], "rel_emb:float_seq": vectors[:2]}, "rel")
    config = make_config(
        model,
        additional_feat_suffix=["ent", "rel"],
        alias_of_entity_id=["ent_id"],
        alias_of_relation_id=["rel_id"],
        preload_weight={"ent_id": "ent_emb", "rel_id": "rel_emb"},
        embedding_size=4,
        **({"kg_embedding_size": 4} if model == "KSR" else {}),
    )
    dataset = create_dataset(config)
    assert isinstance(dataset, SequenceDataset) is False and hasattr(dataset, "kg_feat")
    train = create_loaders(config, dataset)[0]
    assert isinstance(train.dataset.inter_feat, SequenceRows)
    loss = config.model_class(config, train.dataset).calculate_loss(next(iter(train)))
    assert torch.isfinite(loss)


def test_knowledge_models_get_their_graph_batches():
    config = Config("CKE", "ml-100k", config_dict={"use_gpu": False, "user_inter_num_interval": "[300,inf)"})
    train, valid, _ = create_loaders(config, create_dataset(config))
    train.set_mode(KGDataLoaderState.RSKG)
    batch = next(iter(train))
    assert {"user_id", "neg_item_id", "head_id", "tail_id", "neg_tail_id"} <= set(batch.columns)
    assert torch.isfinite(torch.as_tensor(sum(config.model_class(config, train._dataset).calculate_loss(batch))))
    assert len(next(iter(valid))[0]) > 0


def test_general_models_keep_recboles_data_set(random_log, make_config):
    config = make_config("BPR", eval_args={"split": {"RS": [8, 1, 1]}, "group_by": "user"})
    dataset = create_dataset(config)
    assert isinstance(dataset, Dataset)
    assert {"neg_item_id"} <= set(next(iter(create_loaders(config, dataset)[0])).columns)
    with pytest.raises(UserError, match="BPR learns one vector a user"):
        create_dataset(make_config("BPR", eval_args={"split": {"SS": [8, 1, 1]}}))
