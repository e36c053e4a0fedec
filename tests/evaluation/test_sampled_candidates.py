"""`mode: uni20`, `pop20`: a row an event, candidates without repeats, the same for every model and pass."""

import random

import numpy as np
import pandas as pd
import pytest

from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.sampled_candidates import draw_candidates, random_bits
from recbole_gen.errors import UserError

SHARES = {"split": {"RS": [0.6, 0.1, 0.3]}, "mode": "uni20"}


@pytest.fixture
def drawn(make_config, walks):
    """drawn(model, passes=1, **values): for each event of the test part, (user, target) -> its candidates."""

    def draw(model="GRU4Rec", passes=1, dataset="toy", **values):
        config = make_config(model, dataset, **{"eval_args": {"mode": "uni20"}, **values})
        data = create_dataset(config)
        loader = create_loaders(config, data)[2]
        for _ in range(passes):
            out, rows = {}, 0
            for interaction, row, positive_u, positive_i in loader:
                users, items = (data.id2token(f, interaction[f]) for f in (data.uid_field, data.iid_field))
                assert positive_u.tolist() == list(range(len(positive_i)))
                for number, target in enumerate(data.id2token(data.iid_field, positive_i)):
                    own = np.asarray(row) == number
                    (user,) = set(users[own])
                    assert len(set(items[own])) == own.sum()  # without repeats
                    out.setdefault((user, target), []).append(frozenset(items[own]))
                    rows += 1
        assert rows == len(loader._dataset.inter_feat)
        return out

    return draw


@pytest.mark.parametrize("values", [
    {}, {"eval_args": SHARES}, {"protocol": "time_811"}, {"protocol": "sequence_811"}, {"eval_args": {"mode": "pop20"}}
])  # fmt: skip
def test_a_row_an_event_with_all_its_candidates(drawn, values):
    given = {"eval_args": {"mode": "uni20"}} if "protocol" in values else {}
    once, twice = drawn(**given, **values), drawn(**given, **values, passes=2, eval_batch_size=50)
    assert once == twice
    for (_, target), events in once.items():
        assert all(target in items and len(items) == 21 for items in events)
    assert len({items for events in once.values() for items in events}) > 10


@pytest.mark.parametrize("mode", ["uni20", "pop20"])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_same_for_every_kind_of_model(drawn, mode, mask_seen):
    values = {"eval_args": {"mode": mode}, "mask_seen": mask_seen}
    assert drawn("GRU4Rec", **values) == drawn("BPR", **values) == drawn("Pop", **values)


def test_the_same_for_every_order_of_the_file_and_another_for_another_seed(drawn, tmp_path):
    table = pd.read_csv(tmp_path / "toy/toy.inter", sep="\t", dtype=str)
    order = random.Random(2).sample(range(len(table)), len(table))
    (tmp_path / "other").mkdir()
    table.iloc[order].to_csv(tmp_path / "other/other.inter", sep="\t", index=False)
    assert drawn() == drawn(dataset="other")
    assert drawn() != drawn(seed=1)


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_what_was_seen_is_no_candidate(drawn, tmp_path, model):
    table = pd.read_csv(tmp_path / "toy/toy.inter", sep="\t", dtype=str)
    table.columns = ["user", "item", "time"]
    seen = {user: set(items[:-1]) for user, items in table.groupby("user")["item"].agg(list).items()}
    free, masked = drawn(model, mask_seen=False), drawn(model, mask_seen=True)
    assert any(items & seen[user] - {target} for (user, target), (items,) in free.items())
    for (user, target), (items,) in masked.items():
        assert target in items and not items & seen[user] - {target} and len(items) == 21


def test_a_target_in_the_masked_history_cannot_be_hit(drawn, tmp_path):
    table = pd.read_csv(tmp_path / "toy/toy.inter", sep="\t", dtype=str)
    last = table.groupby("user_id:token")["item_id:token"].agg(list)
    for (user, target), (items,) in drawn(mask_history=True).items():
        assert (target in items) == (target not in last[user][:-1])
        assert not items & set(last[user][:-1])


def test_fewer_items_than_are_to_be_drawn(drawn, caplog):
    with pytest.raises(UserError, match="mode uni40 draws 40 items beside the target, and there are 39: mode full"):
        drawn(eval_args={"mode": "uni40"})
    assert all(len(items) == 40 for (items,) in drawn(eval_args={"mode": "uni39"}).values())
    sizes = {len(items) for (items,) in drawn("BPR", mask_seen=True, eval_args={"mode": "uni38"}).values()}
    assert max(sizes) < 38 and "have fewer than 38 items left" in caplog.text


def test_draws_are_even_or_by_popularity():
    bits = random_bits(np.arange(20000, dtype=np.uint64), np.arange(5, dtype=np.uint64) + np.uint64(99))
    nothing = np.zeros(bits.shape, bool)
    share = np.bincount(draw_candidates(bits, 1, nothing, None)[0].ravel(), minlength=5) / 20000
    assert np.allclose(share, 0.2, atol=0.015)
    weights = np.array([0, 1, 2, 3, 4.0])
    chosen, possible = draw_candidates(bits, 1, nothing, weights)
    assert np.allclose(np.bincount(chosen.ravel(), minlength=5) / 20000, weights / 10, atol=0.015) and possible.all()
    assert not draw_candidates(bits, 5, nothing, weights)[1].all(1).any()  # what nobody has is not drawn


def test_metrics_among_candidates(run):
    full = run("SASRec", epochs=1)["test_result"]
    among = run("SASRec", epochs=1, eval_args={"mode": {"valid": "full", "test": "uni10"}})["test_result"]
    assert among["hit@5"] > full["hit@5"] and among["hit@20"] == 1.0
    of_all = run("SASRec", epochs=1, eval_args={"mode": {"valid": "full", "test": "uni39"}})["test_result"]
    assert of_all == full


@pytest.mark.parametrize("mode", ["labeled", {"valid": "full", "test": "labeled"}])
def test_labels_are_not_ranked(make_config, walks, mode):
    with pytest.raises(UserError, match="mode labeled compares scores with labels, and Hit, NDCG"):
        make_config("BPR", eval_args={"mode": mode}, metrics=["Hit", "NDCG"])
    make_config("BPR", eval_args={"mode": "labeled"}, metrics=["AUC", "LogLoss"], valid_metric="AUC")
