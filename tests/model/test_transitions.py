"""Transitions against counts by hand: what is counted under each protocol, and how histories are scored by it."""

import random
import time
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_gen import cli, quick_start
from recbole_gen.checkpoint import load, save
from recbole_gen.data.rows import training_pairs_of_items
from recbole_gen.errors import UserError
from recbole_gen.model.transitions import LEAST_WEIGHT, TransitionCounts, Transitions
from recbole_gen.recommending.recommender import Recommender

# a -> b three times and a -> c once among what trains under leave_one_out; behind a slash what validates and tests.
# Of three events the last one tests, two all train.
LOG = {"u": "abab/cd", "v": "dab/ea", "w": "ac/bb", "x": "ccc/ad", "y": "ee/a", "z": "ba"}
BY_HAND = {"ab": 3, "ba": 2, "da": 1, "ac": 1, "cc": 2, "ee": 1}


@pytest.fixture
def log(write_atomic):
    """Writes sequences of one-letter items, a user each, or LOG."""

    def write(sequences=LOG):
        rows = [(user, item, n) for user, items in sequences.items() for n, item in enumerate(items.replace("/", ""))]
        users, items, times = zip(*rows)
        write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})

    return write


@pytest.fixture
def few(settings):
    """few(**values): settings for a run on the log of five items."""
    return lambda model="Transitions", **values: settings(model, **{"topk": [1, 3], "valid_metric": "Hit@1", **values})


def counted(model: Transitions, tokens) -> dict[str, int]:
    """Pair of items, one behind the other -> how often."""
    held, n = model.transitions, model.n_items
    pairs = [f"{tokens[pair // n]}{tokens[pair % n]}" for pair in held.pairs.tolist()]
    return dict(zip(pairs, held.times.tolist(), strict=True))


def counts_of_run(values) -> dict[str, int]:
    loaded = quick_start.load(quick_start.run(config_dict=values)["run_dir"])
    return counted(loaded.model, loaded.train._dataset.field2id_token["item_id"])


def adjacent(*sequences: str) -> dict[str, int]:
    return dict(Counter(a + b for items in sequences for a, b in pairwise(items)))


def test_all_adjacent_pairs_of_the_training_part_are_counted_and_no_others(log, few):
    log()
    assert counts_of_run(few()) == BY_HAND == adjacent(*(items.partition("/")[0] for items in LOG.values()))
    assert counts_of_run(few(train_pairs="positions")) == BY_HAND


def test_one_pair_a_user(log, few):
    log()
    assert counts_of_run(few(train_pairs="last")) == {"ab": 2, "ac": 1, "cc": 1, "ee": 1, "ba": 1}


def test_a_first_event_follows_the_padding_where_histories_may_be_empty(log, few):
    log()
    first = {"[PAD]a": 2, "[PAD]d": 1, "[PAD]c": 1, "[PAD]e": 1, "[PAD]b": 1}
    # Every event is a row then: y's second validates, z's second tests.
    rest = {"ab": 3, "ba": 1, "da": 1, "ac": 1, "cc": 2}
    assert counts_of_run(few(empty_history=True)) == rest | first


def skipping(skip_decay: float, reach: int, *sequences: str) -> dict[str, float]:
    """Every pair of a sequence up to ``reach`` apart, at skip_decay^(places between)."""
    total = Counter[str]()
    for items in sequences:
        for (n, a), (m, b) in combinations(enumerate(items), 2):
            if m - n <= reach:
                total[a + b] += skip_decay ** (m - n - 1)
    return dict(total)


@pytest.mark.parametrize(
    ("values", "reach"),
    [({}, 50), ({"train_pairs": "positions"}, 50), ({"MAX_ITEM_LIST_LENGTH": 2}, 2), ({"MAX_ITEM_LIST_LENGTH": 1}, 1)],
)
def test_pairs_further_apart_count_less(values, reach, log, few):
    log()
    training = [items.partition("/")[0] for items in LOG.values()]
    found = counts_of_run(few(skip_decay=0.5, **values))
    assert found == skipping(0.5, reach, *training)
    assert (found == BY_HAND) == (reach == 1)


def test_further_pairs_of_split_files_end_in_the_target(few, write_atomic):
    rows = [("a b c", "d"), ("b c", "d"), ("a", "b")]
    for part, lines in (("train", rows), ("valid", [("c", "a")]), ("test", [("c", "a")])):
        histories, items = zip(*lines)
        users = [f"{part}{n}" for n in range(len(lines))]
        write_atomic(
            {"user_id:token": users, "item_id_list:token_seq": histories, "item_id:token": items}, f"{part}.inter"
        )
    assert counts_of_run(few(protocol="benchmark", skip_decay=0.5)) == {"cd": 2, "bd": 1, "ad": 0.25, "ab": 1}


SETS = {"metrics": ["Hit"], "mask_history": False}
WHOLE = ["abcdeabcd", "bcdeabcde", "cdeabcdea"]  # of three users of five
PROTOCOLS = {
    "holdout_82": (SETS, ["abcdeab", "bcdeabc", "cdeabcd", "deabcde", "eabcdea"]),
    "sequence_811": ({"eval_args": {"split": {"SS": [3, 1, 1]}}}, WHOLE),
    "time_811": ({"eval_args": {"split": {"TC": [5, 2, 2]}}}, ["abcde", "bcdea", "cdeab", "deabc", "eabcd"]),
    "period": ({**SETS, "eval_args": {"split": {"PS": [3, 1, 1]}}, "sequence_order": "time", "period_start": 5}, WHOLE),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_counts_its_training_part(protocol, log, few):
    values, sequences = PROTOCOLS[protocol]
    log({user: ("abcde" * 3)[start : start + 9] for start, user in enumerate("uvwxy")})
    assert counts_of_run(few(protocol=protocol, **values)) == adjacent(*sequences)


def test_dense_histories_have_the_same_pairs(run):
    """RecBole's own rows, which DIEN is trained on."""
    rows = quick_start.load(run("Transitions", empty_history=True)["run_dir"]).train._dataset.inter_feat
    fields = "item_id", "item_id_list", "item_length"
    found, expected = (training_pairs_of_items(each, *fields) for each in (rows[:], rows))
    assert torch.equal(torch.stack(found), torch.stack(expected)) and (expected[0] == 0).sum() == 60
    for apart in (2, 3, 5):
        found, expected = (training_pairs_of_items(each, *fields, apart=apart) for each in (rows[:], rows))
        assert torch.equal(torch.stack(found), torch.stack(expected)) and expected[0].all() and len(expected[0])


def test_split_files_have_one_pair_a_row(few, write_atomic):
    for part, rows in (
        ("train", [("a b c", "d"), ("b c", "d"), ("a", "b")]),
        ("valid", [("c", "a")]),
        ("test", [("c", "a")]),
    ):
        histories, items = zip(*rows)
        users = [f"{part}{n}" for n in range(len(rows))]
        write_atomic(
            {"user_id:token": users, "item_id_list:token_seq": histories, "item_id:token": items}, f"{part}.inter"
        )
    assert counts_of_run(few(protocol="benchmark")) == {"cd": 2, "ab": 1}


@pytest.fixture
def made():
    """made(decay, n_items, pairs, popularity): a model that has counted these pairs; histories of up to 4 items.

    With skip_decay the ``pairs`` are those of neighbours, and each distance has those of ``further``.
    """

    def make(decay, n_items, pairs, popularity, skip_decay=0.0, further=(), order=1):
        names = {
            "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
            "ITEM_LIST_LENGTH_FIELD": "length", "MAX_ITEM_LIST_LENGTH": 4, "device": "cpu", "decay": decay,
            "skip_decay": skip_decay, "order": order,
        }  # fmt: skip

        class Sizes:
            def num(self, _):
                return n_items

        model = Transitions(names, Sizes()).eval()
        model.count_transitions(
            lambda apart: torch.tensor(pairs if apart == 1 else further).long().view(-1, 2).unbind(1),
            torch.tensor(popularity),
        )
        return model

    return make


def histories(*items, target=None):
    width = 4
    columns = {
        "item_list": torch.tensor([[*each, *[0] * (width - len(each))] for each in items]),
        "length": torch.tensor([max(1, len(each)) for each in items]),
    }
    return Interaction(columns if target is None else {**columns, "item": torch.tensor(target)})


PAIRS = [(1, 2)] * 3 + [(1, 3)] * 2 + [(2, 3), (2, 4), (4, 1), (4, 4)]
POPULARITY = [0.0, 9.0, 1.0, 5.0, 7.0]


def test_scores_by_hand(made):
    scores = made(0.0, 5, PAIRS, POPULARITY).full_sort_predict(histories([3, 2, 1], [1, 2], [3]))
    followers = torch.tensor([[0, 0, 3, 2, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    torch.testing.assert_close(scores, followers + torch.tensor([POPULARITY]).double() / 10)
    assert scores.argsort(1, descending=True)[:, :3].tolist() == [[2, 3, 1], [4, 3, 1], [1, 4, 3]]


def test_earlier_items_count_less_and_less(made):
    scores = made(0.5, 5, PAIRS, POPULARITY).full_sort_predict(histories([1, 4, 2, 1], [2, 2], [4]))
    # 1 / 2 behind the second last item, 1 / 4 behind the one before it, 1 / 8 behind the first.
    expected = torch.tensor([[0, 0.25, 3 + 3 / 8, 2 + 0.5 + 2 / 8, 0.5 + 0.25], [0, 0, 0, 1.5, 1.5], [0, 1, 0, 0, 1]])
    torch.testing.assert_close(scores, expected + torch.tensor([POPULARITY]).double() / 10 / 8)


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3, 1.0])
def test_a_single_item_is_scored_as_among_all(made, decay):
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randint(1, 30, (300, 2), generator=generator).tolist()
    model = made(decay, 30, pairs, torch.rand(30, generator=generator).tolist())
    rows = [torch.randint(1, 30, (1 + n % 4,), generator=generator).tolist() for n in range(60)]
    target = torch.randint(1, 30, (60,), generator=generator)
    every = model.full_sort_predict(histories(*rows))
    assert torch.equal(
        model.predict(histories(*rows, target=target.tolist())), every.gather(1, target.unsqueeze(1))[:, 0]
    )
    assert every.shape == (60, 30) and len(set(every.flatten().tolist())) > 50


def test_a_history_has_the_same_scores_in_any_company(made):
    model = made(0.5, 5, PAIRS, POPULARITY)
    together = model.full_sort_predict(histories([1, 4, 2, 1], [2, 2], [4]))
    alone = [model.full_sort_predict(histories(each)) for each in ([1, 4, 2, 1], [2, 2], [4])]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("skip_decay", [0.0, 0.002, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.001, 0.5, 0.99, 1.0])
def test_popularity_never_outranks_a_single_count(made, decay, skip_decay):
    """Not even that of a pair as far apart as is counted, behind the earliest item that is read."""
    neighbours = [] if skip_decay else [(1, 2)]
    model = made(decay, 4, neighbours, [0.0, 0.0, 0.0, 1e7], skip_decay, [(1, 2)])
    history = {0.0: [1], 0.001: [3, 1, 3, 3]}.get(decay, [1, 3, 3, 3])
    (scores,) = model.full_sort_predict(histories(history))
    assert scores[2] > scores[3] > scores[1] and min(model.weights) >= LEAST_WEIGHT


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_order_0_has_one_list_for_every_history(made, decay):
    model = made(decay, 5, PAIRS, POPULARITY, order=0)
    scores = model.full_sort_predict(histories([3, 2, 1], [1, 2], [3]))
    assert (scores == scores[0]).all()  # 1 and 2 are targets once and three times, 3 three times, 4 twice
    assert scores[0].argsort(descending=True).tolist() == [3, 2, 4, 1, 0]
    alone = model.predict(histories([3, 2, 1], [1, 2], [3], target=[2, 4, 1]))
    assert torch.equal(alone, scores[0][[2, 4, 1]])


def test_order_0_counts_the_targets_of_the_rows_and_pop_all_events(log, few):
    """The last rows of the users have b and c as their targets twice each, e and a once, d never."""
    log()
    targets = quick_start.load(quick_start.run(config_dict=few(train_pairs="last", order=0))["run_dir"])
    token = targets.train._dataset.field2id_token["item_id"]
    held = targets.model.transitions
    assert not len(held.pairs) and held.popularity[0] < 1
    assert {token[n]: int(held.popularity[n]) for n in range(1, len(token))} == {"a": 1, "b": 2, "c": 2, "d": 0, "e": 1}


def test_the_memory_is_that_of_the_pairs():
    """A million items have a trillion pairs; half a million are held, and found."""
    n, generator = 10**6, torch.Generator().manual_seed(0)
    previous, following = torch.randint(1, n, (2, 500_000), generator=generator)
    counts = TransitionCounts(n)
    started = time.process_time()
    counts.count(previous, following, torch.ones(n))
    assert time.process_time() - started < 20
    assert sum(each.nbytes for each in counts.state_dict().values()) <= 12 * 500_000 + 8 * n
    assert counts.times.sum() == 500_000 and (counts.times_followed(previous, following) >= 1).all()
    scores = torch.zeros(3, n)
    counts.add_followers(scores, torch.tensor([int(previous[0]), -1, int(previous[1])]))
    assert scores[0, following[0]] >= 1 and scores[2, following[1]] >= 1 and scores[1].sum() == 0
    assert scores[0].sum() == (previous == previous[0]).sum()


# As a model of a run


def test_one_epoch_counts_once_and_resuming_adds_nothing(run):
    result = run("Transitions", epochs=5, eval_step=5)
    assert result["epochs"] == 1 and result["best_epoch"] == 0 and result["best_valid_score"] > 0
    before = load(Path(result["run_dir"]) / "best.pth")["state_dict"]
    again = quick_start.run(config_dict={"resume": result["run_dir"], "epochs": 9})
    assert again["test_result"] == result["test_result"] and again["epochs"] == 1
    after = load(Path(result["run_dir"]) / "best.pth")["state_dict"]
    assert all(torch.equal(after[name], each) for name, each in before.items())


@pytest.mark.parametrize("batch", [4096, 100])
def test_sampled_items_are_ranked_as_among_all(run, batch):
    """In the place that the target has among its candidates, whether a row fits into a batch or not."""
    everything = run("Transitions", topk=[1, 5], valid_metric="Hit@1")["test_result"]
    sampled = run("Transitions", topk=[1, 5], valid_metric="Hit@1", eval_args={"mode": "uni39"}, eval_batch_size=batch)[
        "test_result"
    ]
    assert sampled == pytest.approx(everything, abs=0.02)  # all 40 items, ties apart
    assert everything["hit@5"] > 0.5


def test_a_folder_alone_recommends(log, few, tmp_path, monkeypatch):
    log()
    folder = quick_start.run(config_dict=few(decay=0.5))["run_dir"]
    (tmp_path / "toy/toy.inter").unlink()
    table = Recommender.load(folder).recommend([["c", "a"], ["e"]], k=3, exclude_seen=False)
    # b has followed a three times, c once, and c itself twice, at a half.
    assert table["item"].tolist()[:3] == ["b", "c", "a"]
    assert set(table["by"]) == {"model"}
    assert (table["score"][:3].round(2) - pd.Series([3, 2, 0])).between(0, 0.5).all()


def test_a_checkpoint_with_other_pairs_is_refused(run):
    folder = Path(run("Transitions")["run_dir"])
    content = load(folder / "best.pth")
    whole = content["state_dict"]
    for pairs in (
        whole["transitions.pairs"][:-1],
        whole["transitions.pairs"].flip(0),
        whole["transitions.pairs"] + 10**6,
    ):
        save(folder / "best.pth", {**content, "state_dict": {**whole, "transitions.pairs": pairs}})
        with pytest.raises(UserError, match=r"do not fit the model.*transitions\.pairs"):
            Recommender.load(folder)


def test_export_says_that_there_are_no_vectors(run, capsys, tmp_path):
    folder = run("Transitions")["run_dir"]
    capsys.readouterr()
    assert cli.main(["export", f"--checkpoint={folder}", f"--output={tmp_path}/out"]) == 2
    assert "Transitions does not score items by inner products" in capsys.readouterr().err


# The line beside Pop's


@pytest.mark.parametrize(
    "values",
    [{}, {"train_pairs": "last"}, {"mask_seen": True}, {"protocol": "holdout_82"}, {"protocol": "sequence_811"},
     {"protocol": "period"}, {"empty_history": True}],
    ids=str,
)  # fmt: skip
def test_the_line_of_another_model_is_the_result_of_its_own_run(run, values, log):
    if values.get("protocol") == "period":  # which needs users at the same time
        draw = random.Random(0)
        letters = "abcdefghijklmnopqrstuvwxyz" * 3
        log(
            {
                f"u{user}": "".join(draw.sample(letters[user : user + 32], 4)) + letters[user : user + 26]
                for user in range(40)
            }
        )
    if "protocol" in values:
        values = {**values, "metrics": ["Recall", "NDCG"], "topk": [5, 10], "valid_metric": "Recall@10"}
    own = run("Transitions", **values)
    found = run("GRU4Rec", epochs=1, **values)["diagnostics"]
    test = {name: value for name, value in own["test_result"].items() if "period" not in name}
    assert found["transitions"] == pytest.approx(test, abs=1e-9)
    assert found["trained_items_only"]["transitions"] == pytest.approx(
        own["diagnostics"]["trained_items_only"]["model"]
    )
    assert found["transitions"] != found["pop"]


def test_models_without_histories_have_no_such_line(run):
    diagnostics = run("BPR", epochs=1)["diagnostics"]
    assert "pop" in diagnostics and "transitions" not in diagnostics


def test_the_table_has_each_baseline_once(run):
    def titles(model):
        text = quick_start.describe_result(run(model, epochs=1))
        return [line.split("  ")[0] for line in text.splitlines() if line.startswith(("Pop, ", "Transitions, "))]

    rankings = ["test", "trained items only", "history not ranked"]
    assert titles("GRU4Rec") == [f"{name}, {ranking}" for ranking in rankings for name in ("Pop", "Transitions")]
    assert titles("BPR") == ["Pop, test", "Pop, trained items only"]
    assert titles("Transitions") == [
        "Transitions, test", "Transitions, best valid", "Pop, test", "Transitions, trained items only",
        "Pop, trained items only", "Transitions, history not ranked", "Pop, history not ranked",
    ]  # fmt: skip
