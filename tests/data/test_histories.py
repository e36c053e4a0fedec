"""Columns of sequences: histories in split files, and sequences beside the items."""

import logging
import re

import numpy as np
import pytest

from recbole_gen import quick_start
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.padding import padding_values
from recbole_gen.errors import UserError

DAY = 86400


@pytest.fixture
def write_split(write_atomic):
    """write_split(user, item, fill) writes split files of 12 users who walk over 9 goods; ``fill(events)`` is what
    stands for a history in them."""

    def write(user="user_id", item="item_id", fill=list, times=True):
        logs = {f"b{u}": [f"g{(u + t) % 9}" for t in range(8)] for u in range(12)}
        places = {"train": range(1, 6), "valid": [6], "test": [7]}
        for part, targets in places.items():
            rows = [(name, log, t) for name, log in logs.items() for t in targets]
            columns = {
                f"{user}:token": [name for name, _, _ in rows],
                f"{item}:token": [log[t] for _, log, t in rows],
                f"{item}_list:token_seq": [fill(log[:t]) for _, log, t in rows],
            }
            if times:
                columns["timestamp:float"] = [DAY * t for _, _, t in rows]
                columns["timestamp_list:float_seq"] = [[DAY * each for each in range(t)] for _, _, t in rows]
            write_atomic(columns, suffix=f"{part}.inter")

    return write


NAMES = {"USER_ID_FIELD": "buyer", "ITEM_ID_FIELD": "good"}


@pytest.mark.parametrize("model", ["SASRec", "DreamRec", "PASRec", "BPR"])
def test_other_names_of_users_and_items_give_the_same_numbers(model, write_split, tmp_path):
    values = {
        "data_path": str(tmp_path), "protocol": "benchmark", "epochs": 1, "use_gpu": False, "hidden_size": 8,
        "topk": [3], "valid_metric": "NDCG@3", "checkpoint_dir": str(tmp_path), "tensorboard": False,
        "embedding_size": 8, "inner_size": 8, "timesteps": 20, "ddim_stride": 5,
    }  # fmt: skip
    extra = {"BPR": ("hidden_size", "inner_size", "timesteps", "ddim_stride")}
    extra["SASRec"] = ("embedding_size", "timesteps", "ddim_stride")
    for key in extra.get(model, ("embedding_size", "inner_size")):
        del values[key]
    write_split()
    usual = quick_start.run(model, "toy", config_dict=values, quiet=True)["test_result"]
    write_split("buyer", "good")
    assert quick_start.run(model, "toy", config_dict={**values, **NAMES}, quiet=True)["test_result"] == usual


@pytest.mark.parametrize("limited", ["item_id_list", "timestamp_list"])
def test_seq_len_keeps_the_last_of_a_history_and_of_all_its_columns(limited, write_split, make_config):
    write_split()
    dataset = create_dataset(make_config("SASRec", protocol="benchmark", seq_len={limited: 3}))
    row = dataset.inter_feat.iloc[4]  # the user's sixth good
    assert row["timestamp_list"].tolist() == [2 * DAY, 3 * DAY, 4 * DAY]
    assert dataset.field2id_token["item_id"][row["item_id_list"]].tolist() == ["g2", "g3", "g4"]


def test_seq_len_keeps_the_first_of_other_sequences(write_atomic, make_config, walks):
    write_atomic({"item_id:token": [f"i{n}" for n in range(40)], "tag_list:token_seq": [["a", "b", "c"]] * 40}, "item")
    dataset = create_dataset(make_config("SASRec", seq_len={"tag_list": 2}))
    assert dataset.field2id_token["tag_list"][dataset.item_feat["tag_list"].iloc[1]].tolist() == ["a", "b"]


FILLS = {
    "behind": lambda events: [*events, *["0"] * (8 - len(events))],
    "before": lambda events: [*["[PAD]"] * (9 - len(events)), *events],
}


@pytest.mark.parametrize("fill", FILLS)
def test_padding_in_histories_is_told_by_name(fill, write_split, make_config, caplog):
    write_split(fill=FILLS[fill], times=False)
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset(make_config("SASRec", protocol="benchmark"))
    token = FILLS[fill]([])[0]
    (note,) = dataset.notes
    assert note in caplog.text and f"'{token}' fills 84 of 84 histories in item_id_list" in note
    assert "never a target" in note and "Leave it out of the files" in note


def test_histories_as_they_are_have_no_padding(write_split, make_config):
    write_split()
    assert create_dataset(make_config("SASRec", protocol="benchmark")).notes == []


@pytest.mark.parametrize(
    ("histories", "found"),
    [
        ([[1, 9, 9], [2, 3, 9, 9]], [9]),
        ([[9, 9, 1], [9, 9, 9, 2], [9]], [9]),
        ([[1, 9, 9], [9, 3, 9, 9]], []),  # it is an event, too
        ([[1, 2, 2], [3, 2, 2]], []),  # a target
        ([[1, 9], [2, 9]], []),  # once: perhaps nobody ever bought anything after it
        ([[], [9, 9], [9, 9]], [9]),
        ([], []),
    ],
)
def test_only_what_fills_an_end_and_is_no_target_is_padding(histories, found):
    is_target = np.isin(np.arange(10), [1, 2, 3])
    values = np.array([each for history in histories for each in history], dtype=np.int64)
    assert padding_values(values, np.array([len(each) for each in histories], dtype=np.int64), is_target) == found


@pytest.mark.parametrize("model", ["SASRec", "BPR", "DIN"])
def test_sequences_beside_the_items_are_loaded_and_kept(model, write_atomic, tmp_path):
    rows = [(f"u{u}", f"i{(u + t) % 15}", 100 * u + t, ["a1", "b1", "c"][: (u + t) % 4], [0.5] * (t % 3))
            for u in range(20) for t in range(9)]  # fmt: skip
    titles = ["user_id:token", "item_id:token", "timestamp:float", "tags:token_seq", "marks:float_seq"]
    write_atomic(dict(zip(titles, map(list, zip(*rows)), strict=True)))
    values = {
        "data_path": str(tmp_path), "load_col": None, "epochs": 1, "use_gpu": False, "tensorboard": False,
        "checkpoint_dir": str(tmp_path), "embedding_size": 8, "topk": [3], "valid_metric": "NDCG@3",
    }  # fmt: skip
    if model == "SASRec":
        values["hidden_size"] = values["inner_size"] = 8
        del values["embedding_size"]
    if model == "DIN":
        values.update(valid_metric="AUC", metrics=["AUC"])
    result = quick_start.run(model, "toy", config_dict=values, quiet=True)
    data = quick_start.load(result["run_dir"]).train._dataset
    assert data.inter_feat["tags"].shape[-1] == 3 and "marks" in data.inter_feat


@pytest.fixture
def split_files(write_atomic, make_config):
    """split_files(items, times, at) -> the configuration of split files, each with two rows with these histories."""

    def write(items: str, times: str, at: str):
        for part in ("train", "valid", "test"):
            write_atomic({"user_id:token": ["u", "v"], "item_id:token": ["a", "b"], "item_id_list:token_seq": items,
                          "timestamp:float": at, "timestamp_list:float_seq": times}, f"{part}.inter")  # fmt: skip
        return make_config("PASRec", protocol="benchmark", load_col=None, topk=[1], valid_metric="NDCG@1")

    return write


def test_histories_in_another_unit_than_targets_are_refused(split_files):
    early, late = "1700000000 1700100000", "1700000000000 1700100000000"
    for times, at in ((early, "1700200000000"), (late, "1700200000")):
        with pytest.raises(
            UserError, match=r"toy.train.inter: the times in 'timestamp' .* 'timestamp_list' .*one unit"
        ):
            create_dataset(split_files(["a b"] * 2, [times] * 2, [at] * 2))
    create_dataset(split_files(["a b"] * 2, [late] * 2, ["1700200000000"] * 2))
    create_dataset(split_files(["", "a b"], ["", early], ["1700200000"] * 2))


def test_lists_of_other_lengths_are_named_with_their_row(split_files):
    config = split_files(["a b", "a,b"], ["1700000000 1700100000"] * 2, ["1700200000"] * 2)
    with pytest.raises(UserError, match=r"in 3 rows, first in one of user 'v', with 2 and 1 entries.*seq_separator"):
        create_loaders(config, create_dataset(config))


def test_histories_of_items_that_are_no_targets_are_told(split_files):
    times = ["1700000000 1700100000"] * 2
    told = r"12 of 12 entries of the histories in item_id_list are never a target, such as '\[a,'"
    data = create_dataset(split_files(["[a, b]"] * 2, times, ["1700200000"] * 2))
    assert any(re.search(told, note) for note in data.notes)
    assert not any("never a target" in note for note in create_dataset(
        split_files(["a b", "a c"], times, ["1700200000"] * 2)).notes)  # fmt: skip
