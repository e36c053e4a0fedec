"""Equal scores: one seeded permutation of the items decides, whatever else is asked for."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_gen import Recommender
from recbole_gen.evaluation.ranking import TopKMetrics, count_scores_beside, top_items
from recbole_gen.evaluation.ties import sort_scored, tie_order, top_scored
from recbole_gen.recommending import item_index
from recbole_gen.recommending.item_index import ExactSearch

TOKENS = ["[PAD]", *(f"i{number}" for number in range(40))]


def by_hand(scores, k, order):
    """The best k columns of each row, by a sort of Python's."""
    out = []
    for row in scores.tolist():
        ranked = sorted(range(len(row)), key=lambda item: (-row[item], order[item]))[:k]
        out.append([item if row[item] > -np.inf else 0 for item in ranked])
    return out


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("excluded", [0.0, 0.5, 0.95])
def test_top_items_against_a_sort(levels, excluded):
    draw = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (30, 41), generator=draw).float()
    scores[torch.rand(30, 41, generator=draw) < excluded] = -torch.inf
    scores[:, 0] = -torch.inf
    order = tie_order(TOKENS, 3)
    for k in (1, 5, 20, 40, 41):
        assert top_items(scores, k, order).tolist() == by_hand(scores, k, order.tolist())


def test_without_ties_it_is_torchs_own():
    scores = torch.rand(20, 500)
    values, ids = top_scored(scores, 7, torch.arange(500))
    assert torch.equal(values, scores.topk(7).values) and torch.equal(ids, scores.topk(7).indices)


def test_the_order_is_of_tokens_and_seed():
    order = tie_order(TOKENS, 5)
    assert sorted(order.tolist()) == list(range(41)) and order[0] == 40
    moved = ["[PAD]", *random.Random(1).sample(TOKENS[1:], 40)]
    places = dict(zip(moved, tie_order(np.array(moved), 5).tolist(), strict=True))
    assert [places[token] for token in TOKENS] == order.tolist()
    assert tie_order(TOKENS, 6).tolist() != order.tolist()
    assert tie_order([], 5).tolist() == []


def test_best_of_pairs():
    values, ids = torch.tensor([[1.0, 3, 1, -torch.inf]]), torch.tensor([[4, 2, 3, 0]])
    assert [part.tolist() for part in sort_scored(values, ids, torch.tensor([4, 0, 2, 1, 3]), 3)] == [
        [[3, 1, 1]], [[2, 3, 4]],
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_search_in_blocks_decides_as_all_scores_do(seed, monkeypatch):
    draw = torch.Generator().manual_seed(seed)
    items = torch.randint(0, 2, (60, 3), generator=draw).float()
    queries, order = torch.randint(0, 2, (8, 3), generator=draw).float(), tie_order([str(n) for n in range(60)], seed)
    scores = queries @ items.T
    scores[:, 0] = -torch.inf
    monkeypatch.setattr(item_index, "SCORES_AT_ONCE", 1)
    for k in (1, 7, 59):
        assert torch.equal(ExactSearch(items, order).search(queries, k)[1], top_items(scores, k, order))


def test_scenes_are_decided_in_the_same_way(make_config, walks):
    metrics = TopKMetrics(
        make_config(metrics=["Hit"], topk=[1], valid_metric="Hit@1"), [1], 4, torch.tensor([4, 3, 0, 2, 1])
    )
    metrics.add(torch.tensor([[9.0, 1, 1, 1, 0]] * 3), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]))
    assert metrics.result("scene")["scene_hit@1"] == pytest.approx(1 / 3, abs=1e-3)


def test_scores_beside_a_target():
    scores = torch.tensor([[-torch.inf, 2.0, 2, 1, 3]])
    greater, equal = count_scores_beside(scores, torch.tensor([0, 0]), torch.tensor([1, 3]))
    assert (greater.tolist(), equal.tolist()) == ([1, 3], [2, 1])


def shuffled_items(path, new):
    """The same log with the users in another order, so that items have other ids."""
    table = pd.read_csv(path, sep="\t", dtype=str)
    users = random.Random(4).sample(sorted(table["user_id:token"].unique()), 60)
    parts = [table[table["user_id:token"] == user] for user in users]
    new.parent.mkdir()
    pd.concat(parts).to_csv(new, sep="\t", index=False)


def test_numbers_of_pop_depend_on_the_seed_alone(run, tmp_path):
    shuffled_items(tmp_path / "toy/toy.inter", tmp_path / "toy2/toy2.inter")
    common = {"epochs": 1, "valid_metric": "Hit@5", "mask_seen": False, "metrics": ["Hit", "NDCG", "ItemCoverage"]}
    variants = ({"topk": [5]}, {"topk": [1, 5, 30]}, {"topk": [5, 39]}, {"topk": [5], "eval_batch_size": 80},
                {"topk": [5], "dataset": "toy2"})  # fmt: skip
    results = [run("Pop", **common, **variant) for variant in variants]
    for result in results:
        assert {k: v for k, v in result["test_result"].items() if k.endswith("@5")} == results[0]["test_result"]
        assert result["diagnostics"]["pop"]["ndcg@5"] == results[0]["test_result"]["ndcg@5"]
        assert result["diagnostics"]["tied_rows"] == results[0]["diagnostics"]["tied_rows"] > 30
    other = run("Pop", **common, topk=[5], seed=1)
    assert other["test_result"] != results[0]["test_result"]
    sequential = run("SASRec", **common, topk=[5])
    assert sequential["diagnostics"]["pop"]["ndcg@5"] == results[0]["test_result"]["ndcg@5"]
    assert sequential["diagnostics"]["tied_rows"] == 0


def test_places_and_lists_of_a_model_full_of_ties(run, custom, monkeypatch):
    """All items of the same parity score alike: `recommend` lists what the evaluator has counted."""

    def parity(self, interaction):
        scores = torch.arange(self.n_items) % 2 + 0.0 * self.item_embedding.weight[:, 0]
        return scores.expand(len(interaction[self.ITEM_SEQ]), -1).clone()

    monkeypatch.setattr(custom.Custom, "full_sort_predict", parity)
    monkeypatch.setattr(custom.Custom, "calculate_loss", lambda self, batch: self.item_embedding.weight.sum())
    result = run("custom:Custom", epochs=1, topk=[1, 5, 15], valid_metric="Hit@5")
    table = pd.read_csv(f"{result['run_dir']}/ranks.test.tsv", sep="\t")
    lists = Recommender.load(result["run_dir"]).recommend([["i1"]], k=15, exclude_seen=False)
    place = dict(zip(lists["item"], lists["rank"], strict=True))
    assert table["place"].tolist() == [place.get(item, 0) for item in table["item_id"]]
    assert 0 < (table["place"] > 0).mean() < 1 and result["diagnostics"]["tied_rows"] == len(table)
