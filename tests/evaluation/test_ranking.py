"""Hits and ranks against brute force and against numbers worked out by hand."""

import math

import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_gen import quick_start
from recbole_gen.evaluation.ranking import TopKCollector, TopKMetrics, distinct_positives, hit_matrix, target_ranks

N_ITEMS = 31  # with the padding item


def positives(n_rows: int, most: int):
    """1 to ``most`` different items a row, as RecBole's loaders give them."""
    lists = [torch.randperm(N_ITEMS - 1)[: 1 + row % most] + 1 for row in range(n_rows)]
    u = torch.cat([torch.full((len(items),), row) for row, items in enumerate(lists)])
    return u, torch.cat(lists)


@pytest.fixture
def scores():
    torch.manual_seed(3)
    out = torch.randint(12, (50, N_ITEMS)).float()  # with many ties
    out[:, 0] = -torch.inf
    return out


def test_hits_against_a_loop(scores):
    u, i = positives(50, most=4)
    top = scores.topk(7).indices
    targets = [set(i[u == row].tolist()) for row in range(50)]
    expected = [[int(item in targets[row]) for item in top[row].tolist()] + [len(targets[row])] for row in range(50)]
    assert hit_matrix(top, u, i).tolist() == expected
    assert 20 < sum(sum(row[:-1]) for row in expected) < 200


def test_hits_of_rows_without_positives():
    top = torch.tensor([[3, 1], [2, 4]])
    none = torch.zeros(0, dtype=torch.int64)
    assert hit_matrix(top, none, none).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert hit_matrix(top, torch.tensor([1]), torch.tensor([30])).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_target_ranks_against_a_loop(scores):
    u, i = positives(50, most=4)
    expected = []
    for row, item in zip(u.tolist(), i.tolist(), strict=True):
        ordered = sorted(scores[row].tolist(), reverse=True)
        places = [place for place, score in enumerate(ordered, start=1) if score == scores[row, item]]
        expected.append(sum(places) / len(places))
    assert target_ranks(scores, u, i).tolist() == expected
    assert any(rank % 1 for rank in expected)
    many = torch.arange(50).repeat(50), torch.randint(1, N_ITEMS, (2500,))  # more than one chunk of 1024
    one_by_one = [target_ranks(scores, u[None], i[None]).item() for u, i in zip(*many, strict=True)]
    assert target_ranks(scores, *many).tolist() == one_by_one
    assert target_ranks(scores, u[:0], i[:0]).tolist() == []


def test_collector_gives_recboles_metrics(make_config, write_atomic, scores):
    write_atomic({"user_id:token": ["a", "a"], "item_id:token": ["x", "y"], "timestamp:float": [1, 2]})
    names = ["Hit", "MRR", "MAP", "Recall", "NDCG", "Precision", "GAUC"]
    config = make_config(metrics=names, topk=[1, 5, 10])
    config["device"] = torch.device("cpu")
    u, i = positives(50, most=4)
    distinct = scores + torch.rand(50, N_ITEMS)  # RecBole's top-k breaks ties as it likes
    results = []
    for kind in (Collector, TopKCollector):
        collector = kind(config)
        collector.tie_order = torch.arange(N_ITEMS)
        for rows in (slice(0, 30), slice(30, 50)):
            chosen = (u >= rows.start) & (u < rows.stop)
            collector.eval_batch_collect(distinct[rows].clone(), None, u[chosen] - rows.start, i[chosen])
        results.append(Evaluator(config).evaluate(collector.get_data_struct()))
    assert results[0] == results[1] and len(results[0]) == 6 * 3 + 1
    assert 0.1 < results[1]["hit@5"] < 0.9


def test_distinct_positives_by_hand():
    rows, items = distinct_positives(torch.tensor([[5, 2, 5, 0], [0, 0, 0, 0], [7, 7, 7, 7]]))
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == [(0, 2), (0, 5), (2, 7)]


def test_trivial_cut_offs_are_left_out(make_config, walks):
    config = make_config(metrics=["Recall", "NDCG", "ItemCoverage"], topk=[5, 10], valid_metric="Recall@5")
    metrics = TopKMetrics(config)
    assert metrics.topk == [5, 10] and len(metrics.metrics) == 2  # ItemCoverage reads more than hits
    assert TopKMetrics(config, [1, 4, 5, 10], candidates=5).topk == [1, 4]
    metrics = TopKMetrics(config, [1, 3], candidates=4, tie_order=torch.arange(5))
    metrics.add(
        torch.tensor([[9.0, 1, 2, 3, 4], [9, 4, 3, 2, 1], [9, 1, 2, 3, 4]]), *map(torch.tensor, ([0, 1], [3, 1]))
    )
    assert metrics.result("scene") == pytest.approx(  # padding is never recommended; the third row has no positive
        {"scene_recall@1": 0.5, "scene_recall@3": 1, "scene_ndcg@1": 0.5, "scene_ndcg@3": (1 + 1 / math.log2(3)) / 2},
        abs=1e-4,
    )


def test_masked_history_is_not_recommended(run):
    free, masked = run("SASRec", epochs=3), run("SASRec", epochs=3, mask_history=True)
    assert free["train_loss"] == masked["train_loss"]
    assert free["test_result"] != masked["test_result"]


def test_T33_repeats_can_be_recommended_and_padding_cannot(custom, settings, write_atomic, monkeypatch):
    """Users who take one item again and again; the model prefers padding, then the last item."""
    users = [f"u{user}" for user in range(30) for _ in range(5)]
    write_atomic({"user_id:token": users, "item_id:token": [f"i{user}" for user in users],
                  "timestamp:float": list(range(len(users)))})  # fmt: skip

    def last_item(self, interaction):
        last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN].unsqueeze(1) - 1)
        scores = torch.nn.functional.one_hot(last.squeeze(1), self.n_items).float()
        scores[:, 0] = 2.0
        return scores * self.item_embedding.weight.new_ones(1)

    monkeypatch.setattr(custom.Custom, "full_sort_predict", last_item)
    monkeypatch.setattr(custom.Custom, "calculate_loss", lambda self, batch: self.item_embedding.weight.sum())
    for mask_history, hit in ((False, 1.0), (True, 0.0)):
        values = settings("custom:Custom", epochs=1, topk=[1], valid_metric="Hit@1", mask_history=mask_history)
        assert quick_start.run(config_dict=values)["test_result"]["hit@1"] == hit


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"eval_args": {"mode": "uni9"}}, "topk [10]: rankings of 10 items (eval_args: mode uni9)"),
        ({"eval_args": {"mode": {"valid": "pop3", "test": "full"}}}, "topk [5, 10]: rankings of 4 items"),
        ({"eval_args": {"mode": "uni10"}}, ""),
        ({"topk": [5, 40]}, "topk [40]: rankings of 40 items (eval_args: mode full)"),
        ({}, ""),
    ],
)
def test_cut_offs_that_take_in_whole_rankings_are_told(run, caplog, values, told):
    run("BPR", **{"topk": [5, 10], "valid_metric": "NDCG@5", "epochs": 1, **values})
    assert told in caplog.text and ("whatever the model" in caplog.text) == bool(told)


def test_the_table_of_pop_has_its_rows_once(run):
    def titles(model):
        return [line.split("  ")[0] for line in quick_start.describe_result(run(model, epochs=1)).splitlines()]

    assert sum(title.startswith("Pop, ") for title in titles("BPR")) == 2
    assert [title for title in titles("Pop") if "Pop, " in title] == [
        "Pop, test", "Pop, best valid", "Pop, trained items only"
    ]  # fmt: skip
