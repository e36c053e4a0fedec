"""Rows and splits: equal to RecBole's own row by row, and whole sequences written out."""

import inspect
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.rows import SequenceRows, training_item_counts
from recbole_gen.data.sequences import SequenceDataset
from recbole_gen.data.splits import history_windows, split_at_times, split_sequences
from recbole_gen.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
PARTS = ("train", "valid", "test")
SPLITS = {
    "LS": [{"split": {"LS": mode}} for mode in ("valid_and_test", "valid_only", "test_only")],
    "RS by user": [{"split": {"RS": [8, 1, 1]}, "group_by": "user"}, {"split": {"RS": [3, 2, 2]}, "group_by": "user"}],
    "RS of all": [{"split": {"RS": [8, 1, 1]}, "group_by": "none"}, {"split": {"RS": [3, 2, 2]}, "group_by": None}],
    "TS": [{"split": {"TS": [8, 1, 1]}}, {"split": {"TS": [5, 3, 2]}}],
}
EVERY_SPLIT = [
    pytest.param(args, id=f"{name}-{n}") for name, several in SPLITS.items() for n, args in enumerate(several)
]


def needs(name):
    return pytest.mark.skipif(not (SHARED / name).is_dir(), reason=f"the data set {SHARED / name} is not here")


def dense(part) -> dict[str, torch.Tensor]:
    return part.inter_feat[torch.arange(len(part))].interaction


def assert_same_rows(ours, theirs, float32_times: bool = False) -> None:
    """Same rows, order, columns, values and types; RecBole's own times are float32."""
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other)
        assert mine.inter_feat.columns == other.inter_feat.columns
        mine, other = dense(mine), other.inter_feat.interaction
        for field, values in other.items():
            if float32_times and field.startswith("timestamp"):
                assert values.dtype == torch.float32 and mine[field].dtype == torch.float64
                values = values.double()
            assert mine[field].dtype == values.dtype, field
            assert torch.equal(mine[field], values), field


@pytest.fixture
def recbole_times(monkeypatch):
    """RecBole's own conversion, with float32 times, in place of our shim."""
    original = inspect.getclosurevars(Dataset._dataframe_to_interaction).nonlocals["convert"]
    assert original.__module__ == "recbole.data.dataset.dataset"

    def switch(on: bool = True):
        monkeypatch.undo() if not on else monkeypatch.setattr(Dataset, "_dataframe_to_interaction", original)

    return switch


def random_log(seed: int, users: int = 60, items: int = 40) -> dict:
    """Interleaved users of 1 to 24 events, times with many ties, and a column of every type."""
    rng = np.random.default_rng(seed)
    user = rng.permutation(np.repeat(np.arange(users), rng.integers(1, 25, size=users)))
    n = len(user)
    return {
        "user_id:token": [f"u{number}" for number in user],
        "item_id:token": [f"i{number}" for number in rng.integers(items, size=n)],
        "rating:float": rng.integers(1, 6, size=n).tolist(),
        "timestamp:float": rng.integers(30, size=n).tolist(),
        "tag:token": [f"t{number}" for number in rng.integers(5, size=n)],
        "words:token_seq": [[f"w{word}" for word in rng.integers(9, size=rng.integers(1, 4))] for _ in range(n)],
    }


@pytest.mark.parametrize("eval_args", EVERY_SPLIT)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_logs_give_recboles_rows(eval_args, seed, write_atomic, make_config, recbole_times):
    write_atomic(random_log(seed))
    config = make_config(eval_args={"order": "TO", "mode": "full", **eval_args}, MAX_ITEM_LIST_LENGTH=7)
    recbole_times()
    theirs = SequentialDataset(config).build()
    recbole_times(False)
    ours = SequenceDataset(config).build()
    assert isinstance(ours[0].inter_feat, SequenceRows)
    assert dense(ours[0])["words_list"].shape[1:] == (7, 3)
    assert_same_rows(ours, theirs, float32_times=True)


def test_ml100k_gives_recboles_rows(make_config):
    def config(args):
        values = {"normalize_all": False, "MAX_ITEM_LIST_LENGTH": 10, "eval_args": {"order": "TO", **args}}
        return make_config(dataset="ml-100k", load_col={"inter": ["user_id", "item_id", "timestamp"]}, **values)

    dataset = SequentialDataset(config({}))  # with our exact times
    dataset._change_feat_format()
    dataset.sort(by="timestamp")
    theirs = {
        "LS": dataset.leave_one_out("user_id", "valid_and_test"),
        "RS by user": dataset.split_by_ratio([8, 1, 1], group_by="user_id"),
        "RS of all": dataset.split_by_ratio([8, 1, 1]),
        "TS": dataset.time_based_split([8, 1, 1], group_by="user_id"),
    }
    for name, expected in theirs.items():
        assert_same_rows(SequenceDataset(config(SPLITS[name][0])).build(), expected)


def random_benchmark(write_atomic, widths=(9, 4, 6)) -> None:
    rng = np.random.default_rng(5)
    for part, longest in zip(PARTS, widths, strict=True):
        lengths = [longest, *rng.integers(1, longest + 1, size=30)]
        columns = {
            "user_id:token": [f"u{number}" for number in rng.integers(20, size=31)],
            "item_id_list:token_seq": [[f"i{item}" for item in rng.integers(25, size=length)] for length in lengths],
            "item_id:token": [f"i{number}" for number in rng.integers(30, size=31)],
            "timestamp_list:float_seq": [rng.integers(99, size=length).tolist() for length in lengths],
            "timestamp:float": rng.integers(99, size=31).tolist(),
        }
        write_atomic(columns, suffix=f"{part}.inter")


def assert_same_benchmark(ours, theirs, width: int) -> None:
    """Ours are RecBole's rows, but for the histories, which keep their last ``width`` entries."""
    longest = 0
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = dense(mine), other.inter_feat.interaction
        assert mine.keys() == other.keys()
        for field in ("item_id", "timestamp"):
            assert torch.equal(mine[field], other[field].to(mine[field].dtype))
        lengths = other["item_length"]
        longest = max(longest, int(lengths.max()))
        assert torch.equal(mine["item_length"], lengths.clamp(max=width))
        for field in ("item_id_list", "timestamp_list"):
            assert mine[field].shape[1] == width
            for kept, full, length in zip(mine[field], other[field], lengths.tolist(), strict=True):
                expected = full[max(length - width, 0) : length].to(kept.dtype)
                assert torch.equal(kept[: len(expected)], expected)
                assert not kept[len(expected) :].any()
    assert longest > width  # else nothing was cut


def test_benchmark_files_give_recboles_rows_cut_to_the_last(write_atomic, make_config):
    random_benchmark(write_atomic)
    values = {"benchmark_filename": list(PARTS), "MAX_ITEM_LIST_LENGTH": 5}
    theirs = SequentialDataset(make_config(**values, alias_of_item_id=["item_id_list"])).build()
    ours = SequenceDataset(make_config(**values)).build()  # the alias is ours to know
    assert [len(part) for part in ours] == [31, 31, 31]
    assert_same_benchmark(ours, theirs, width=5)


@needs("prefdiff-beauty")
def test_prefdiff_beauty_gives_recboles_rows_cut_to_the_last(make_config):
    values = {
        "data_path": str(SHARED),
        "dataset": "prefdiff-beauty",
        "benchmark_filename": list(PARTS),
        "USER_ID_FIELD": "session_id",
        "MAX_ITEM_LIST_LENGTH": 6,
    }
    theirs = SequentialDataset(make_config(**values, alias_of_item_id=["item_id_list"])).build()
    ours = SequenceDataset(make_config(**values)).build()
    assert [len(part) for part in ours] == [17890, 2236, 2237]
    first = ours[1].inter_feat[[0]]
    assert first["timestamp"].dtype == first["timestamp_list"].dtype == torch.float64
    assert first["timestamp_list"][0, -1] % 86400 == 0  # whole days, which float32 cannot hold
    for mine, other in zip(ours, theirs, strict=True):
        mine.inter_feat, other.inter_feat = mine.inter_feat.take(range(300)), other.inter_feat[:300]
        mine.inter_feat.lists["timestamp_list"] = mine.inter_feat.lists["timestamp_list"].float()  # as RecBole's
    assert_same_benchmark(ours, theirs, width=6)


def test_histories_without_a_column_for_the_target_stay_aligned(write_atomic, make_config):
    columns = {
        "user_id:token": ["u"] * 3,
        "item_id_list:token_seq": ["abc", "ab", "abcd"],
        "item_id:token": list("xyz"),
        "timestamp_list:float_seq": [[1, 2, 3], [1, 2], [1, 2, 3, 4]],
        "tag_list:token_seq": ["ppq", "pp", "ppqr"],
        "tag:token": list("qpr"),
    }
    columns = {name: [list(v) if "seq" in name else v for v in values] for name, values in columns.items()}
    for part in PARTS:
        write_atomic(columns, suffix=f"{part}.inter")
    dataset = SequenceDataset(make_config(benchmark_filename=list(PARTS), MAX_ITEM_LIST_LENGTH=2))
    rows = dense(dataset.build()[0])
    assert rows["timestamp_list"].tolist() == [[2, 3], [1, 2], [3, 4]]
    assert dataset.id2token("item_id", rows["item_id_list"]).tolist() == [["b", "c"], ["a", "b"], ["c", "d"]]
    assert dataset.id2token("tag", rows["tag"]).tolist() == ["q", "p", "r"]
    assert dataset.id2token("tag", rows["tag_list"]).tolist() == [["p", "q"], ["p", "p"], ["q", "r"]]


# Whole sequences (SS). u1: a c b, u2: b a, u3: a d, u4: c a d, in the order of time.
LOG = {
    "user_id:token": [f"u{number}" for number in [1, 2, 1, 3, 2, 1, 3, 4, 4, 4]],
    "item_id:token": list("abcaabdcda"),
    "timestamp:float": [10, 5, 20, 1, 6, 30, 2, 3, 50, 4],
}
ROWS = {  # user -> (history, target), the first with nothing before it
    "u1": [("", "a"), ("a", "c"), ("a c", "b")],
    "u2": [("", "b"), ("b", "a")],
    "u3": [("", "a"), ("a", "d")],
    "u4": [("", "c"), ("c", "a"), ("c a", "d")],
}


def written(dataset, part) -> list[tuple[str, str, str]]:
    """(user, history, target) of each row as tokens; padding is left out."""
    rows = dense(part)
    users = dataset.id2token(dataset.uid_field, rows[dataset.uid_field].numpy())
    targets = dataset.id2token(dataset.iid_field, rows[dataset.iid_field].numpy())
    lists = dataset.id2token(dataset.iid_field, rows[f"{dataset.iid_field}_list"].numpy())
    return [
        (str(user), " ".join(item for item in items if item != "[PAD]"), str(target))
        for user, items, target in zip(users, lists, targets, strict=True)
    ]


@pytest.mark.parametrize("order, users", [("time", ["u3 u2", "u1", "u4"]), ("file", ["u1 u2", "u3", "u4"])])
@pytest.mark.parametrize("targets", ["all", "last"])
@pytest.mark.parametrize("empty_history", [True, False])
def test_whole_sequences(order, users, targets, empty_history, write_atomic, make_config):
    write_atomic(LOG)
    eval_args = {"split": {"SS": [2, 1, 1]}}
    choices = {"sequence_order": order, "targets": targets, "empty_history": empty_history}
    dataset = SequenceDataset(make_config(eval_args=eval_args, MAX_ITEM_LIST_LENGTH=4, **choices))
    parts = dataset.build()
    for name, part, chosen in zip(PARTS, parts, users, strict=True):
        expected = []
        for user in chosen.split():
            rows = ROWS[user] if empty_history else ROWS[user][1:]
            rows = rows[-1:] if targets == "last" and name != "train" else rows
            expected += [(user, *row) for row in rows]
        assert written(dataset, part) == expected
        rows = dense(part)
        empty = torch.tensor([history == "" for _, history, _ in expected])
        assert (rows["item_length"][empty] == 1).all()
        for field in ("item_id_list", "timestamp_list"):
            assert not rows[field][empty].any() and rows[field][~empty].any(1).all()
    times = dense(parts[2])["timestamp_list"]
    assert times[-1].tolist() == [3, 4, 0, 0]


def test_shuffled_sequences_are_whole_and_seeded(write_atomic, make_config):
    write_atomic(random_log(3, users=40))

    def parts(seed):
        eval_args = {"split": {"SS": [8, 1, 1]}}
        config = make_config(eval_args=eval_args, sequence_order="shuffle", empty_history=True, seed=seed)
        dataset = SequenceDataset(config)
        return [[row[0] for row in written(dataset, part)] for part in dataset.build()]

    first, again, other = parts(1), parts(1), parts(2)
    assert first == again and first != other
    users = [set(part) for part in first]
    assert [len(part) for part in users] == [32, 4, 4]
    assert len(set.union(*users)) == 40
    assert sorted(user for part in first for user in part) == sorted(random_log(3, users=40)["user_id:token"])


@pytest.mark.parametrize(
    "ratios, sizes",
    [
        ([8, 1, 1], [8, 1, 1]),
        ([8, 1, 1], [9371, 1171, 1172]),  # DreamRec's Zhihu
        ([8, 1, 1], [102774, 12847, 12847]),  # DreamRec's YooChoose
        ([7, 1, 2], [63, 9, 18]),  # 90 * 0.7 is a little below 63
    ],
)
def test_sequences_are_cut_at_the_cumulated_shares(ratios, sizes):
    n = sum(sizes)
    parts = split_sequences(np.arange(n), np.arange(n)[::-1], ratios, "time", last_only=False, seed=0)
    assert [len(part) for part in parts] == sizes
    assert np.concatenate(parts).tolist() == list(range(n))[::-1]


def test_windows_of_a_log_by_hand():
    target, start, length = history_windows(np.array([4, 4, 4, 7, 9, 9]), max_length=1, empty_history=False)
    assert (target.tolist(), start.tolist(), length.tolist()) == ([1, 2, 5], [0, 1, 4], [1, 1, 1])
    target, start, length = history_windows(np.array([4, 4, 4, 7]), max_length=5, empty_history=True)
    assert (target.tolist(), start.tolist(), length.tolist()) == ([0, 1, 2, 3], [0, 0, 0, 3], [0, 1, 2, 0])
    assert [len(values) for values in history_windows(np.array([], dtype=np.int64), 5, True)] == [0, 0, 0]


def zhihu(make_config, **values):
    choices = {"sequence_order": "file", "MAX_ITEM_LIST_LENGTH": 10, "eval_args": {"split": {"SS": [8, 1, 1]}}}
    config = make_config(
        dataset="zhihu-dreamrec", data_path=str(SHARED), USER_ID_FIELD="session_id", **choices, **values
    )
    dataset = SequenceDataset(config)
    return dataset, dataset.build()


@needs("zhihu-dreamrec")
def test_zhihu_has_dreamrecs_samples(make_config):
    dataset, parts = zhihu(make_config, empty_history=False)
    for name, part in zip(PARTS, parts, strict=True):
        lines = (SHARED / f"zhihu-dreamrec/zhihu-dreamrec.{name}.inter").read_text().splitlines()[1:]
        assert written(dataset, part) == [tuple(line.split("\t")) for line in lines]


@needs("zhihu-dreamrec")
def test_zhihu_with_empty_histories_has_dreamrecs_counts(make_config):
    _, parts = zhihu(make_config, empty_history=True)
    assert [len(part) for part in parts] == [61641, 8160, 7911]
    rows = dense(parts[2])
    empty = ~rows["item_id_list"].any(1)
    assert int(empty.sum()) == 1172 and (rows["item_length"][empty] == 1).all()


# Two cuts in time (TC)


def test_two_cuts_in_time_by_hand(write_atomic, make_config):
    """Ten rows at 1 2 3 4 5 6 7 7 7 8: the ninth and the tenth are at the cuts, and the three at 7 stay together."""
    log = {
        "user_id:token": list("uuuuuu" "vvvvv" "ww"),
        "item_id:token": list("abcdef" "acbde" "ba"),
        "timestamp:float": [0, 1, 3, 5, 7, 8, 0, 2, 4, 6, 7, 0, 7],
    }  # fmt: skip
    write_atomic(log)
    dataset = create_dataset(make_config(protocol="time_811"))
    train, valid, test = (written(dataset, part) for part in dataset.build())
    assert train == [
        ("u", "a", "b"), ("v", "a", "c"), ("u", "a b", "c"),
        ("v", "a c", "b"), ("u", "a b c", "d"), ("v", "a c b", "d"),
    ]  # fmt: skip
    assert valid == [("u", "a b c d", "e"), ("v", "a c b d", "e"), ("w", "b", "a")]
    assert test == [("u", "a b c d e", "f")]


@pytest.mark.parametrize(
    "shares, sizes", [([8, 1, 1], [8, 1, 1]), ([8, 1, 1], [800, 100, 100]), ([7, 1, 2], [63, 9, 18])]
)
def test_cuts_of_distinct_times_leave_the_shares(shares, sizes):
    times = np.random.default_rng(0).permutation(sum(sizes)).astype(np.float64)
    parts = split_at_times(times, [share / sum(shares) for share in shares])
    assert [len(part) for part in parts] == sizes
    assert times[np.concatenate(parts)].tolist() == sorted(times)


@pytest.mark.parametrize("seed", range(5))
def test_cuts_in_time_keep_the_future_out_of_training(seed, write_atomic, make_config):
    log = random_log(seed)  # 30 different times
    write_atomic(log)
    dataset = create_dataset(make_config(protocol="time_811", MAX_ITEM_LIST_LENGTH=30))
    parts = [dense(part) for part in dataset.build()]
    train, valid, test = (part["timestamp"] for part in parts)
    assert train.max() < valid.min() and valid.max() < test.min()
    assert parts[0]["timestamp_list"].max() < valid.min()

    every = torch.cat([train, valid, test]).sort().values
    n = len(every)
    assert n == len(log["user_id:token"]) - dataset.user_num + 1
    assert valid.min() == every[n * 8 // 10] and test.min() == every[n * 9 // 10]
    found: dict[str, list[int]] = {}
    for part in parts:
        users = dataset.id2token("user_id", part["user_id"].numpy())
        for user, length in zip(users, part["item_length"].tolist(), strict=True):
            found.setdefault(str(user), []).append(length)
    # All that was before it is in the history of a row, whichever part that trains or tests.
    sizes = Counter(log["user_id:token"])
    assert found == {user: list(range(1, size)) for user, size in sizes.items() if size > 1}


def test_one_moment_cannot_be_cut(write_atomic, make_config):
    write_atomic(LOG | {"timestamp:float": [5] * 10})
    with pytest.raises(UserError, match=r"the training split is empty \(6 rows in all, split {'TC': \[8, 1, 1\]}\)"):
        create_dataset(make_config(protocol="time_811")).build()


def test_T30_twenty_seconds_decide_which_item_is_last(write_atomic, make_config):
    start = 1_400_000_000
    users, late = [f"u{number}" for number in range(8)], float(start + 20)
    write_atomic(
        {
            "user_id:token": [user for user in users for _ in range(4)],
            "item_id:token": ["last", "next", "b", "a"] * 8,  # the file has the newest first
            "timestamp:float": [late, start, start - 100, start - 200] * 8,
        }
    )
    assert np.float32(late) == np.float32(start)  # float32, RecBole's type for times, cannot tell them apart
    for values in ({"protocol": "leave_one_out"}, {"protocol": "sequence_811", "targets": "last"}):
        dataset = create_dataset(make_config(**values))
        test = written(dataset, dataset.build()[2])
        assert test and {row[1:] for row in test} == {("a b next", "last")}


# Which rows train


@pytest.mark.parametrize("model", ["DiffRec", "PASRec", "PreferDiff"])
def test_T31_a_training_batch_has_true_next_items_only(model, write_atomic, make_config):
    steps = [(user, step) for step in range(7) for user in range(20)]
    log = {
        "user_id:token": [f"u{user}" for user, _ in steps],
        "item_id:token": [f"{user}-{step}" for user, step in steps],
        "timestamp:float": [86400 * (user + step) for user, step in steps],
    }
    write_atomic(log)
    dataset = create_dataset(make_config(model, train_batch_size=16))
    rows = 0
    for batch in create_loaders(dataset.config, dataset)[0]:
        assert not {"label", "neg_item_id"} & set(batch.columns)
        last = batch["item_id_list"].gather(1, batch["item_length"].unsqueeze(1) - 1).squeeze(1)
        for user, before, target in zip(
            dataset.id2token("user_id", batch["user_id"].numpy()),
            dataset.id2token("item_id", last.numpy()),
            dataset.id2token("item_id", batch["item_id"].numpy()),
            strict=True,
        ):
            number, _, step = before.partition("-")
            assert user == f"u{number}" and target == f"{number}-{int(step) + 1}"
            rows += 1
    assert rows == 20 * 4


PAIRS = [
    pytest.param({"protocol": "leave_one_out"}, id="leave_one_out"),
    pytest.param({"eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": "user"}}, id="RS by user"),
    pytest.param({"protocol": "sequence_811"}, id="sequence_811"),
    pytest.param({"protocol": "time_811"}, id="time_811"),
]


@pytest.mark.parametrize("model", ["PASRec", "SASRec"])
@pytest.mark.parametrize("values", PAIRS)
def test_T32_the_last_pair_of_each_user(values, model, write_atomic, make_config):
    log = random_log(4)
    write_atomic(log | {"timestamp:float": [86400 * time for time in log["timestamp:float"]]})

    def parts(**choice):
        dataset = create_dataset(make_config(model, MAX_ITEM_LIST_LENGTH=4, **values, **choice))
        return [written(dataset, part) for part in dataset.build()]

    everything, (kept, *others) = parts(), parts(train_pairs="last")
    assert parts(train_pairs="all") == everything and others == everything[1:]
    latest = {user: row for row, (user, _, _) in enumerate(everything[0])}  # rows of a user come in the order of time
    assert kept == [everything[0][row] for row in sorted(latest.values())]  # the order is that of all rows
    assert len(kept) == len({user for user, _, _ in everything[0]}) < len(everything[0])
    assert sum(history.count(" ") == 3 for _, history, _ in kept) > 10  # where the length does not tell rows apart


def test_T32_the_last_training_item_of_each_user_by_the_log(write_atomic, make_config):
    log = random_log(5)
    write_atomic(log)
    sequences: dict[str, list[str]] = {}
    order = np.argsort(log["timestamp:float"], kind="stable")
    for row in order:
        sequences.setdefault(log["user_id:token"][row], []).append(log["item_id:token"][row])
    expected = []
    for user, items in sequences.items():
        pairs = len(items) - 1
        place = {0: 0, 1: 1, 2: 1}.get(pairs, pairs - 2)  # a user's only pair trains, of two the second tests
        if place:
            expected.append((user, " ".join(items[max(place - 3, 0) : place]), items[place]))
    dataset = create_dataset(make_config(train_pairs="last", MAX_ITEM_LIST_LENGTH=3))
    assert sorted(written(dataset, dataset.build()[0])) == sorted(expected)


def test_T32_sliding_windows_by_hand(write_atomic, make_config):
    """u trains on b to l: l is the last; three and six before it come i and f, nine before it c, with too little."""
    items = {"u": "abcdefghijklmn", "v": "abcd", "w": "uvwxyz"}
    events = [(user, item, step) for user, sequence in items.items() for step, item in enumerate(sequence)]
    events.sort(key=lambda event: event[2])
    write_atomic(dict(zip(("user_id:token", "item_id:token", "timestamp:float"), map(list, zip(*events)), strict=True)))

    def parts(**choice):
        dataset = create_dataset(make_config(MAX_ITEM_LIST_LENGTH=4, **choice))
        return [written(dataset, part) for part in dataset.build()]

    kept, *others = parts(train_pairs="window", window_step=3)
    everything = parts()
    expected = {
        ("u", "b c d e", "f"),
        ("u", "e f g h", "i"),
        ("u", "h i j k", "l"),
        ("v", "a", "b"),
        ("w", "u v w", "x"),
    }
    assert kept == [row for row in everything[0] if row in expected]
    assert len(kept) == len(expected) and others == everything[1:]
    full = [row for row in everything[0] if row[1].count(" ") == 3 or row in expected]
    assert parts(train_pairs="window", window_step=1)[0] == full
    assert parts(train_pairs="window", window_step=99)[0] == parts(train_pairs="last")[0]


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_T32_recboles_models_train_on_the_kept_rows(loss_type, write_atomic, make_config):
    write_atomic(random_log(6))
    sizes = {}
    for train_pairs in ("all", "last", "window"):
        config = make_config("SASRec", train_pairs=train_pairs, loss_type=loss_type, train_batch_size=20)
        train, valid, test = create_loaders(config, create_dataset(config))
        sizes[train_pairs] = sum(len(batch) for batch in train), len(valid.dataset), len(test.dataset)
        assert all(("neg_item_id" in batch) == (loss_type == "BPR") for batch in train)
    assert sizes["last"][0] == sizes["window"][0] < sizes["all"][0]  # no history is full: 50 is more than there are
    assert len({(valid, test) for _, valid, test in sizes.values()}) == 1


# training_item_counts


def counted(dataset, train) -> dict[str, int]:
    counts = training_item_counts(train)
    return {str(token): int(count) for token, count in zip(dataset.field2id_token["item_id"], counts, strict=True)}


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize(
    "values, expected",
    [  # u1: a c e, u2: b a, u3: a d, u4: c a d; e is nowhere else
        # The last row of each user with two rows tests: u1 a -> c, u2 b -> a, u3 a -> d, u4 c -> a train.
        ({"eval_args": {"split": {"LS": "test_only"}}}, {"a": 4, "b": 1, "c": 2, "d": 1, "e": 0}),
        # u1 and u2 train.
        (
            {"eval_args": {"split": {"SS": [2, 1, 1]}}, "sequence_order": "file"},
            {"a": 2, "b": 1, "c": 1, "d": 0, "e": 1},
        ),
        # u3 and u2 train, all of their events as targets.
        (
            {"eval_args": {"split": {"SS": [2, 1, 1]}}, "sequence_order": "time", "empty_history": True},
            {"a": 2, "b": 1, "c": 0, "d": 1, "e": 0},
        ),
    ],
)
def test_training_counts_an_event_once(values, expected, length, write_atomic, make_config):
    items = LOG["item_id:token"]
    log = LOG | {"item_id2:token": ["z"] * 10, "item_id:token": [*items[:5], "e", *items[6:]]}
    write_atomic(log)
    dataset = SequenceDataset(make_config(MAX_ITEM_LIST_LENGTH=length, **values))
    assert counted(dataset, dataset.build()[0]) == {"[PAD]": 0, **expected}


@pytest.mark.parametrize("model", ["GRU4Rec", "Pop", "BPR"])
def test_training_counts_of_benchmark_files(model, write_atomic, make_config):
    files = {"train": [("a", "b"), ("ab", "c")], "valid": [("a", "d")], "test": [("ac", "e")]}
    for part, rows in files.items():
        columns = {"user_id:token": [], "item_id_list:token_seq": [], "item_id:token": []}
        for history, target in rows:
            for values, value in zip(columns.values(), ("u", list(history), target), strict=True):
                values.append(value)
        write_atomic(columns, suffix=f"{part}.inter")
    dataset = create_dataset(make_config(model, benchmark_filename=list(PARTS)))
    counts = counted(dataset, dataset.build()[0])
    assert counts == {"[PAD]": 0, "a": 2, "b": 2, "c": 1, "d": 0, "e": 0}  # each row has a history of its own


def test_unknown_splits_are_refused(write_atomic, make_config):
    write_atomic(LOG)
    for eval_args, message in [
        ({"split": {"XX": [8, 1, 1]}}, "one of RS, LS, TS, SS"),
        ({"split": {"LS": "last"}}, "LS must be one of"),
        ({"split": {"RS": [8, 2]}}, "three shares"),
        ({"split": {"TC": [8, 2]}}, "three shares"),
        ({"split": {"SS": [0, 0, 0]}}, "three shares"),
        ({"split": {"RS": [8, 1, 1]}, "group_by": "item"}, "group_by"),
        ({"split": {"RS": [8, 1, 1]}, "order": "RO"}, "order: TO"),
        ({"split": {"SS": [8, 1, 1]}}, "split is empty"),
    ]:
        with pytest.raises(UserError, match=message):
            create_dataset(make_config(eval_args=eval_args)).build()
    for key in ("sequence_order", "targets"):
        with pytest.raises(UserError, match=key):
            create_dataset(make_config(eval_args={"split": {"SS": [2, 1, 1]}}, **{key: "nonsense"})).build()


@pytest.mark.parametrize("shares, sizes", [([8, 2, 0], [8, 2, 0]), ([1, 0, 0], [10, 0, 0])])
def test_a_share_of_0_gets_nothing(shares, sizes):
    assert [len(part) for part in split_at_times(np.arange(10.0), [share / sum(shares) for share in shares])] == sizes
