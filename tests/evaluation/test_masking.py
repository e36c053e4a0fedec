"""`mask_seen`: one rule for what leaves the ranking, for models of every kind."""

import pandas as pd
import pytest
import torch

from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.errors import UserError
from recbole_gen.training.result_text import describe_result

# The test items of v and x are ones that they had before.
LOG = {"u": "abcde", "v": "bacdb", "w": "dcbae", "x": "fabcf"}


@pytest.fixture
def masked(write_atomic, make_config):
    """masked(model, **values): of each test row of LOG, user -> the items that leave the ranking; None for no mask."""
    users = [user for user, items in LOG.items() for _ in items]
    write_atomic({"user_id:token": users, "item_id:token": list("".join(LOG.values())),
                  "timestamp:float": list(range(len(users)))})  # fmt: skip

    def of(model, **values):
        config = make_config(model, **values)
        data = create_dataset(config)
        loader = create_loaders(config, data)[2]
        out = {}
        for interaction, mask, _, _ in loader:
            names = data.id2token("user_id", interaction["user_id"])
            if mask is None:
                return None
            rows, items = (torch.as_tensor(part) for part in mask)
            for number, name in enumerate(names):
                out[name] = "".join(sorted(data.id2token("item_id", items[rows == number].unique())))
        return out

    return of


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_true_leaves_out_what_was_seen_but_for_the_target(masked, model):
    assert masked(model, mask_seen=True, MAX_ITEM_LIST_LENGTH=2) == {"u": "abcd", "v": "acd", "w": "abcd", "x": "abc"}


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_false_ranks_all_items(masked, model):
    assert masked(model, mask_seen=False) is None


def test_without_it_each_kind_of_model_is_evaluated_as_by_recbole(masked):
    assert masked("GRU4Rec") is None
    assert masked("BPR") == {"u": "abcd", "v": "acd", "w": "abcd", "x": "abc"}


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_sets_of_targets_follow_the_same_rule(masked, model):
    values = {"protocol": "holdout_82", "eval_args": {"split": {"HO": [0.6, 0, 0.4]}}}
    assert masked(model, mask_seen=True, mask_history=False, **values) == {
        "u": "abc",
        "v": "abc",
        "w": "bcd",
        "x": "abf",
    }
    assert masked(model, mask_seen=False, mask_history=False, **values) is None


def test_ranks_of_what_was_seen_are_last(run):
    result = run("BPR", mask_seen=True, eval_args={"split": {"RS": [0.6, 0.2, 0.2]}})
    free = run("BPR", mask_seen=False, eval_args={"split": {"RS": [0.6, 0.2, 0.2]}})
    ranks = [pd.read_csv(f"{each['run_dir']}/ranks.test.tsv", sep="\t")["rank"] for each in (result, free)]
    assert (ranks[0] <= ranks[1]).all() and (ranks[0] < ranks[1]).any()


@pytest.mark.parametrize("model", ["GRU4Rec", "ACVAE"])
def test_diagnostics_have_the_metrics_without_the_history_beside(run, model):
    free, masked = (run(model, mask_history=mask, epochs=1) for mask in (False, True))
    beside = free["diagnostics"]["history_not_ranked"]
    assert beside["model"] == masked["test_result"] != free["test_result"]
    for name in ("pop", "transitions"):
        assert beside[name] == masked["diagnostics"][name]
    assert "history_not_ranked" not in masked["diagnostics"]
    assert f"{model}, history not ranked" in describe_result(free)


def test_without_the_history_means_the_same_as_the_mask_where_sets_are_predicted(run, write_atomic):
    """There the mask takes out all that a user had, also what is too long ago for the model to read."""
    events = [(f"u{user}", f"i{(7 * user + step * step) % 40}", step) for step in range(11) for user in range(60)]
    users, items, times = zip(*events, strict=True)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    few = {"MAX_ITEM_LIST_LENGTH": 2, "eval_batch_size": 41, "epochs": 1, "topk": [5, 10]}
    for protocol, metric in (("holdout_82", "Recall@5"), ("period", "period_NDCG@5")):
        values = {**few, "protocol": protocol, "valid_metric": metric}
        free, masked = (run("GRU4Rec", mask_history=mask, **values) for mask in (False, True))
        beside, names = free["diagnostics"]["history_not_ranked"], free["diagnostics"]["pop"]
        assert beside["model"] == {name: masked["test_result"][name] for name in names} != free["test_result"]
        for name in ("pop", "transitions"):
            assert beside[name] == masked["diagnostics"][name]


def test_targets_that_cannot_be_hit_without_the_history_are_told(run, write_atomic, capsys):
    users = [user for user, items in LOG.items() for _ in items]
    columns = {"user_id:token": users, "item_id:token": list("".join(LOG.values()))}
    write_atomic({**columns, "timestamp:float": list(range(len(users)))})
    result = run("GRU4Rec", epochs=1, topk=[1, 3], valid_metric="NDCG@3")
    beside = result["diagnostics"]["history_not_ranked"]
    assert (beside["targets"], beside["targets_in_history"]) == (4, 2)
    assert "2 of 4 targets (50.0%) are items of the history, and cannot be hit" in describe_result(result)
    read = run("GRU4Rec", epochs=1, topk=[1, 3], valid_metric="NDCG@3", MAX_ITEM_LIST_LENGTH=2)
    assert read["diagnostics"]["history_not_ranked"]["targets_in_history"] == 0
    assert "cannot be hit" not in describe_result(read)


def test_a_model_without_histories_has_no_such_lines(run):
    result = run("BPR", mask_seen=False, eval_args={"split": {"RS": [0.6, 0.2, 0.2]}}, epochs=1)
    assert "history_not_ranked" not in result["diagnostics"]


def test_a_mask_of_the_whole_history_needs_the_log(make_config, write_atomic):
    for part in ("train", "valid", "test"):
        write_atomic({"user_id:token": ["u"], "item_id:token": ["a"], "item_id_list:token_seq": ["b"]}, f"{part}.inter")
    config = make_config("GRU4Rec", protocol="benchmark", mask_seen=True)
    with pytest.raises(UserError, match="mask_seen needs the whole log"):
        create_dataset(config)


def test_only_four_values(make_config, write_atomic):
    write_atomic({"user_id:token": ["u"], "item_id:token": ["a"], "timestamp:float": [1]})
    with pytest.raises(UserError, match="mask_seen must be one of all, True, False, ~"):
        make_config("GRU4Rec", mask_seen="some")


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR", "Pop"])
def test_all_drops_the_rows_whose_target_was_seen(masked, caplog, model):
    assert masked(model, mask_seen="all") == {"u": "abcd", "w": "abcd"}
    assert "2 of 4 test targets (50.0%) are items that their user had before: mask_seen: all drops" in caplog.text
    assert "validation targets" not in caplog.text


@pytest.mark.parametrize("model, value", [("GRU4Rec", True), ("BPR", True), ("BPR", None)])
def test_that_the_answer_is_given_away_is_told(masked, caplog, model, value):
    masked(model, mask_seen=value)
    assert "2 of 4 test targets (50.0%) are items that their user had before, and stay in a ranking" in caplog.text


@pytest.mark.parametrize("model, value", [("GRU4Rec", False), ("BPR", False), ("GRU4Rec", None)])
def test_nothing_is_told_where_nothing_is_masked(masked, caplog, model, value):
    masked(model, mask_seen=value)
    assert "had before" not in caplog.text


@pytest.mark.parametrize(
    ("values", "number"),
    [({}, 2), ({"MAX_ITEM_LIST_LENGTH": 3}, 0), ({"MAX_ITEM_LIST_LENGTH": 4}, 2), ({"mask_seen": "all"}, 0)],
)
def test_targets_that_cannot_be_hit_are_told(masked, caplog, values, number):
    masked("GRU4Rec", mask_history=True, **values)
    told = f"{number} of 4 test targets ({number / 4:.1%}) are items of the history"
    assert (told in caplog.text) == bool(number) and ("cannot be hit" in caplog.text) == bool(number)


def test_a_target_that_cannot_be_hit_is_not_given_away(masked, caplog):
    masked("GRU4Rec", mask_history=True, mask_seen=True)
    assert "cannot be hit" in caplog.text and "too good" not in caplog.text


def test_targets_in_histories_of_split_files_are_told(make_config, write_atomic, caplog):
    for part in ("train", "valid", "test"):
        write_atomic({"user_id:token": ["u", "v", "w"], "item_id:token": ["a", "b", "c"],
                      "item_id_list:token_seq": ["b a c", "a", "a"]}, f"{part}.inter")  # fmt: skip
    config = make_config("GRU4Rec", protocol="benchmark", mask_history=True, topk=[1], valid_metric="NDCG@1")
    create_loaders(config, create_dataset(config))
    assert "1 of 3 test targets (33.3%)" in caplog.text and "--mask_seen" not in caplog.text


def test_what_last_events_leave_out_was_not_seen(masked, caplog):
    assert len(masked("GRU4Rec", mask_seen="all", last_events=4)) == 4  # of v and x it is too long ago
    assert "had before" not in caplog.text


def test_nothing_left_is_refused(write_atomic, make_config):
    write_atomic({"user_id:token": list("uuuuuvvvvv"), "item_id:token": list("abcdabcdeb"),
                  "timestamp:float": list(range(10))})  # fmt: skip
    config = make_config("GRU4Rec", mask_seen="all")
    with pytest.raises(UserError, match="mask_seen: all leaves no test rows"):
        create_loaders(config, create_dataset(config))


def test_sets_have_no_rows_to_drop(make_config, walks):
    with pytest.raises(UserError, match="this protocol's targets are sets"):
        make_config("GRU4Rec", protocol="holdout_82", mask_seen="all")
