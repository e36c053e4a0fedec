"""Users with one, two, three and four events under leave-one-out: the same rows for every kind of model."""

import pandas as pd
import pytest

from recbole_gen import cli
from recbole_gen.data.cache import shared_dataset
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.rows import training_item_counts

LOG = {"one": "a", "two": "bc", "three": "abc", "four": "dabc", "many": "abcdab"}


@pytest.fixture
def short(write_atomic):
    users = [user for user, items in LOG.items() for _ in items]
    write_atomic({"user_id:token": users, "item_id:token": list("".join(LOG.values())),
                  "timestamp:float": [float(n) for n in range(len(users))]})  # fmt: skip


def rows_of(part, data):
    """(user, item) of the targets, in words."""
    rows = part._dataset.inter_feat
    names = (data.id2token(field, rows[field]) for field in (data.uid_field, data.iid_field))
    return sorted(f"{user} {item}" for user, item in zip(*names, strict=True))


@pytest.mark.parametrize("mode, valid, test", [
    ("valid_and_test", ["four b", "many a"], ["four c", "many b", "three c"]),
    ("valid_only", ["four c", "many b", "three c"], []),
    ("test_only", [], ["four c", "many b", "three c"]),
])  # fmt: skip
def test_short_users_train(short, make_config, mode, valid, test):
    for model in ("GRU4Rec", "BPR"):
        config = make_config(model, eval_args={"split": {"LS": mode}})
        data = create_dataset(config)
        parts = data.build()
        named = [rows_of(type("Part", (), {"_dataset": part}), data) for part in parts]
        assert named[1:] == [valid, test], model
        if model == "BPR":  # each interaction is in one part
            assert sorted(row for part in named for row in part) == sorted(
                f"{user} {item}" for user in LOG for item in LOG[user]
            )
        counts = training_item_counts(parts[0])
        known = {item: sum(items.count(item) for items in LOG.values()) for item in "abcd"}
        for row in valid + test:
            known[row[-1]] -= 1
        assert dict(zip("abcd", counts[data.token2id("item_id", list("abcd"))].tolist(), strict=True)) == known


def test_with_an_empty_history_the_second_event_tests(short, make_config):
    named = []
    for model in ("GRU4Rec", "BPR"):
        config = make_config(model, empty_history=True, repeatable=True)  # or there is no negative item for `four`
        data = create_dataset(config)
        named.append([rows_of(loader, data) for loader in create_loaders(config, data)[1:]])
    assert named[0] == named[1] and "two c" in named[0][1] and "three b" in named[0][0]


def test_the_cache_has_the_same_rows(short, make_config, tmp_path):
    config = make_config("BPR")
    built = [len(part.inter_feat) for part in shared_dataset(config, tmp_path / "kept")[1]]
    assert [len(part.inter_feat) for part in shared_dataset(config, tmp_path / "kept")[1]] == built == [11, 2, 3]


@pytest.fixture
def and_short_users(walks, tmp_path):
    """`toy` with three users of two events, and one with one, beside the others."""
    path = tmp_path / "toy/toy.inter"
    more = [f"s{n // 2}\ti{n}\t{5.0 + n}\n" for n in range(7)]
    path.write_text(path.read_text() + "".join(more))


def test_pop_of_a_single_run_is_pop(run, and_short_users):
    results = [run(model, mask_seen=False, epochs=1) for model in ("SASRec", "Pop", "BPR")]
    for result in results:
        assert result["diagnostics"]["pop"] == results[1]["test_result"] and result["diagnostics"]["rows"] == 60
    tables = [pd.read_csv(f"{each['run_dir']}/ranks.test.tsv", sep="\t") for each in results]
    targets = [sorted(zip(table["user_id"], table["item_id"], strict=True)) for table in tables]
    assert targets[0] == targets[1] == targets[2]


def test_compare_splits_for_each_kind_before_the_first_run(and_short_users, arguments, refused, capsys, tmp_path):
    common = [f"--output={tmp_path / 'out'}", "--seeds=1", "--epochs=1", "--resamples=100"]
    drop = (
        "--model=",
        "--checkpoint_dir=",
        "--hidden_size",
        "--inner_size",
        "--epochs",
        "--timesteps",
        "--ddim_stride",
    )
    line = [each for each in arguments(model="Pop") if not each.startswith(drop)]
    shares = "--eval_args={split: {RS: [0.6, 0.1, 0.3]}}"  # a row an event for the one, a row a user for the other
    refused(
        ["compare", *line, *common, "--models=SASRec,BPR", shares], "SASRec and BPR would not be tested on the same",
        "The protocols leave_one_out, ",
    )  # fmt: skip
    assert not (tmp_path / "out/runs").exists()
    assert cli.main(["compare", *line, *common, "--models=SASRec,Pop"]) == 0
