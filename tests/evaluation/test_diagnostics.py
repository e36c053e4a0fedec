"""Diagnostics against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_gen import quick_start
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.evaluation.diagnostics import (
    Diagnostics,
    history_length_groups,
    item_table_statistics,
    latent_statistics,
)
from recbole_gen.model.transitions import TransitionCounts
from recbole_gen.training.trainer import create_trainer

N_ITEMS = 31  # with the padding item
COUNTS = torch.zeros(N_ITEMS)
COUNTS[1:26] = torch.arange(25.0, 0.0, -1.0)  # item 1 is the most popular, items 26 to 30 were never trained
CONFIG = {
    "metrics": ["Hit", "MRR"], "topk": [1, 3], "ITEM_LIST_LENGTH_FIELD": "item_length", "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list", "USER_ID_FIELD": "user_id", "SCENE_FIELD": "scene", "metric_decimal_place": 6,
    "mask_history": False, "mask_seen": None,
}  # fmt: skip


def diagnose(scores, targets, histories=None, counts=COUNTS, model=None, parts=1):
    """Diagnostics of rows with one target each, given in ``parts`` batches."""
    diagnostics = Diagnostics(CONFIG, counts.clone(), torch.arange(len(counts)))
    scores[:, 0] = -torch.inf
    for rows in torch.arange(len(scores)).chunk(parts):
        interaction = {"user_id": rows + 1}
        if histories is not None:
            interaction["item_id_list"] = torch.tensor(histories)[rows]
        diagnostics.add(scores[rows], interaction, torch.arange(len(rows)), torch.tensor(targets)[rows])
    return diagnostics.result(model or torch.nn.Module()), diagnostics


def ranking(*items):
    """Scores that put these items first, in this order, and the others below by number."""
    row = -torch.arange(N_ITEMS, dtype=torch.float)
    for place, item in enumerate(items):
        row[item] = 100.0 - place
    return row


@pytest.mark.parametrize("parts", [1, 2])
def test_warm_and_cold_targets_apart(parts):
    scores = torch.stack([ranking(26, 27, 5), ranking(7, 2), ranking(30), ranking(28, 29, 27)])
    result, _ = diagnose(scores.clone(), [5, 2, 30, 27], parts=parts)
    assert result["warm_targets"] == {
        "rows": 2, "hit@1": 0, "hit@3": 1, "mrr@1": 0, "mrr@3": pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-6)
    }  # fmt: skip
    assert result["cold_targets"] == {
        "rows": 2, "hit@1": 0.5, "hit@3": 1, "mrr@1": 0.5, "mrr@3": pytest.approx((1 + 1 / 3) / 2, abs=1e-6)
    }  # fmt: skip
    only_cold, _ = diagnose(scores.clone(), [26, 27, 30, 28], parts=parts)
    assert "warm_targets" not in only_cold and only_cold["cold_targets"]["rows"] == 4
    none, _ = diagnose(scores.clone(), [5, 2, 7, 9], parts=parts)
    assert "cold_targets" not in none and "warm_targets" not in none
    assert not any(math.isnan(value) for value in pd.json_normalize([result, only_cold]).max(numeric_only=True))


def test_a_set_of_warm_and_cold_targets_counts_on_both_sides():
    diagnostics = Diagnostics(CONFIG, COUNTS.clone(), torch.arange(N_ITEMS))
    scores = torch.stack([ranking(30, 4, 5), ranking(7)])
    scores[:, 0] = -torch.inf
    diagnostics.add(scores, {"user_id": torch.tensor([1, 2])}, torch.tensor([0, 0, 1]), torch.tensor([30, 5, 7]))
    result = diagnostics.result(torch.nn.Module())
    assert (result["cold_targets"]["rows"], result["cold_targets"]["hit@1"]) == (1, 1)
    assert (result["warm_targets"]["rows"], result["warm_targets"]["hit@1"]) == (2, 0.5)


@pytest.mark.parametrize("parts", [1, 2])
def test_pop_and_trained_items_only_by_hand(parts):
    scores = torch.stack([ranking(26, 27, 5), ranking(7, 2), ranking(30), ranking(28, 29, 30, 9)])
    scores[3, 1] = -torch.inf  # excluded from row 3: Pop may not recommend it either
    result, _ = diagnose(scores, [5, 2, 30, 3], parts=parts)
    assert result["rows"] == 4
    # Pop's list is 1, 2, 3 for all but the last row, 2, 3, 4 for that one: hits at 2 (row 1) and 2 (row 3).
    assert result["pop"] == {"hit@1": 0, "hit@3": 0.5, "mrr@1": 0, "mrr@3": pytest.approx(0.25)}
    # Without the untrained items row 0 lists 5, 1, 2; row 1 lists 7, 2, 1; row 3 lists 9, 2, 3; row 2 has no target.
    only = result["trained_items_only"]
    assert only["rows"] == 3
    third = 0.333333
    assert only["model"] == {"hit@1": third, "hit@3": 1, "mrr@1": third, "mrr@3": 0.611111}  # 1, 1/2 and 1/3
    assert only["pop"] == {"hit@1": 0, "hit@3": 0.666667, "mrr@1": 0, "mrr@3": third}  # -, 1/2 and 1/2
    assert "with_history" not in result and "without_history" not in result


@pytest.mark.parametrize("parts", [1, 2])
def test_history_not_ranked_by_hand(parts):
    scores = torch.stack([ranking(9, 8, 5), ranking(4, 26), ranking(1, 2), ranking(28)])
    histories = [[8, 9, 0], [4, 1, 2], [1, 0, 0], [29, 30, 1]]
    result, _ = diagnose(scores, [5, 26, 1, 2], histories, parts=parts)
    # Without them row 0 lists 5, 1, 2; row 1 lists 26, 3, 5; row 2 lists 2, 3, 4 and cannot hit 1, which was seen;
    # row 3 lists 28, 2, 3. Pop lists 1, 2, 3, then 3, 5, 6, then 2, 3, 4 and 2, 3, 4.
    unseen = result["history_not_ranked"]
    assert unseen["model"] == {"hit@1": 0.5, "hit@3": 0.75, "mrr@1": 0.5, "mrr@3": 0.625}
    assert unseen["pop"] == {"hit@1": 0.25, "hit@3": 0.25, "mrr@1": 0.25, "mrr@3": 0.25}
    # Pop on trained items only is as it was: the history has left one ranking alone.
    assert result["trained_items_only"]["pop"]["hit@3"] == pytest.approx(0.666667)


def test_no_target_that_training_has_seen():
    result, _ = diagnose(torch.stack([ranking(27), ranking(26)]), [26, 26])
    assert result["trained_items_only"] == {"rows": 0, "model": {}, "pop": {}}
    assert result["lists"]["untrained_hit_share"] == 1.0


def test_rows_with_and_without_history_are_measured_apart():
    scores = torch.stack([ranking(4), ranking(5), ranking(6)])
    histories = [[2, 3], [0, 0], [9, 0]]
    result, diagnostics = diagnose(scores, [4, 6, 6], histories)
    assert result["with_history"] == {"rows": 2, "hit@1": 1, "hit@3": 1, "mrr@1": 1, "mrr@3": 1}
    assert result["without_history"] == {"rows": 1, "hit@1": 0, "hit@3": 0, "mrr@1": 0, "mrr@3": 0}
    assert torch.cat(diagnostics._parts["history_length"]).tolist() == [2, 0, 1]
    result, _ = diagnose(scores, [4, 6, 6], [[1, 0]] * 3)
    assert result["with_history"]["rows"] == 3 and "without_history" not in result


def test_T34_a_constant_recommender_shows_in_the_lists():
    result, _ = diagnose(ranking(*range(11, 31)).repeat(50, 1), [1] * 25 + [12] * 20 + [29] * 5, parts=3)
    assert result["lists"] == {
        "length": 20,
        "distinct_items": 20,
        "mean_overlap": 20.0,
        "untrained_share": 5 / 20,
        "untrained_items": 5,
        "untrained_hit_share": 5 / 25,
    }


def test_lists_in_which_nothing_is_left_have_shares_of_nothing():
    result, _ = diagnose(torch.full((2, N_ITEMS), -torch.inf), [3, 4])
    assert result["lists"]["distinct_items"] == result["lists"]["untrained_share"] == 0


def test_transitions_by_hand():
    """1 is followed by 4 twice, by 9 and the untrained 28 once each; what is equal is ranked by popularity."""
    transitions = TransitionCounts(N_ITEMS)
    transitions.count(torch.tensor([1, 1, 1, 1, 2]), torch.tensor([4, 4, 28, 9, 7]), COUNTS)
    scores = ranking(5).repeat(5, 1)
    scores[1, 4] = -torch.inf  # left out of row 1
    histories = [[3, 1, 0], [1, 0, 0], [3, 2, 1], [1, 2, 0], [6, 0, 0]]
    diagnostics = Diagnostics(CONFIG, COUNTS.clone(), torch.arange(N_ITEMS), transitions)
    scores[:, 0] = -torch.inf
    rows = {"user_id": torch.arange(5), "item_id_list": torch.tensor(histories)}
    rows["item_length"] = (rows["item_id_list"] > 0).sum(1)
    diagnostics.add(scores, rows, torch.arange(5), torch.tensor([9, 28, 28, 1, 3]))
    result = diagnostics.result(torch.nn.Module())
    # Lists: 4, 9, 28; 9, 28, 1; 4, 9, 28; 7, 1, 2; 1, 2, 3. Places of the targets: 2, 2, 3, 2, 3.
    mrr = pytest.approx((3 / 2 + 2 / 3) / 5, abs=1e-6)
    assert result["transitions"] == {"hit@1": 0, "hit@3": 1, "mrr@1": 0, "mrr@3": mrr}
    # Without 28, and the two rows whose target it is.
    only = result["trained_items_only"]
    assert only["rows"] == 3
    assert only["transitions"] == {
        "hit@1": 0,
        "hit@3": 1,
        "mrr@1": 0,
        "mrr@3": pytest.approx((1 + 1 / 3) / 3, abs=1e-6),
    }


def test_disjoint_lists_share_nothing():
    scores = torch.full((2, 61), -1.0)
    scores[0, 1:21] = 1.0
    scores[1, 41:61] = 1.0
    counts = torch.ones(61)
    counts[41:51] = 0
    result, _ = diagnose(scores, [30, 31], counts=counts)
    assert result["lists"] == {
        "length": 20,
        "distinct_items": 40,
        "mean_overlap": 0.0,
        "untrained_share": 10 / 40,
        "untrained_items": 10,
        "untrained_hit_share": None,
    }


def test_mean_overlap_against_all_pairs():
    torch.manual_seed(0)
    scores = torch.rand(12, 61)
    result, _ = diagnose(scores, [1] * 12, counts=torch.ones(61), parts=4)
    lists = [set(row.topk(20).indices.tolist()) for row in scores]
    pairs = [len(a & b) for index, a in enumerate(lists) for b in lists[:index]]
    assert result["lists"]["mean_overlap"] == pytest.approx(sum(pairs) / len(pairs))
    assert result["lists"]["distinct_items"] == len(set.union(*lists))
    alone, _ = diagnose(scores[:1], [1], counts=torch.ones(61))
    assert alone["lists"]["mean_overlap"] is None


def test_item_table_tells_a_collapsed_table_from_a_random_one():
    torch.manual_seed(0)
    trained = torch.ones(2001, dtype=torch.bool)
    trained[1001:] = False
    random = torch.randn(2001, 16)
    random[0] = 1e6  # the padding row does not count
    random[1001:] *= 3
    out = item_table_statistics(random, trained)
    assert out["rms"] == pytest.approx(math.sqrt((1 + 9) / 2), rel=0.02)
    assert out["mean_cosine"] == pytest.approx(0, abs=0.01)
    assert out["effective_rank"] == pytest.approx(16, rel=0.02)
    assert out["norm_trained"] == pytest.approx(4, rel=0.03)
    assert out["norm_untrained"] == pytest.approx(12, rel=0.03)

    direction = torch.randn(16)
    collapsed = item_table_statistics(
        0.01 * (direction + 0.001 * torch.randn(2001, 16)), torch.ones(2001, dtype=torch.bool)
    )
    assert collapsed["rms"] == pytest.approx(0.01 * float(direction.square().mean().sqrt()), rel=0.01)
    assert collapsed["mean_cosine"] == pytest.approx(1, abs=1e-4)
    assert "norm_untrained" not in collapsed
    line = item_table_statistics(torch.randn(2001, 1) * direction, trained)
    assert line["effective_rank"] == pytest.approx(1, abs=1e-3) and abs(line["mean_cosine"]) < 0.01
    pair = item_table_statistics(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([False, True, True]))
    assert (pair["mean_cosine"], pair["norm_trained"]) == (0.0, 1.5)


def test_the_item_table_of_the_model_is_described():
    model = torch.nn.Module()
    model.item_embedding = torch.nn.Embedding(N_ITEMS, 4)
    result, _ = diagnose(ranking(3).repeat(2, 1), [3, 3], model=model)
    expected = item_table_statistics(model.item_embedding.weight.detach(), COUNTS > 0)
    assert result["item_table"] == expected
    assert "item_table" not in diagnose(ranking(3).repeat(2, 1), [3, 3])[0]


@pytest.mark.parametrize("model", ["DreamRec", "BPR"])
def test_every_test_target_has_a_line_with_its_rank(run, model):
    values = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}} if model == "BPR" else {}
    result = run(model, eval_batch_size=700, **values)  # several batches
    table = pd.read_csv(Path(result["run_dir"]) / "ranks.test.tsv", sep="\t", dtype={"user_id": str, "item_id": str})

    config, _ = quick_start.configure(config_dict=result["config"])
    config["checkpoint_dir"] = result["run_dir"]
    data = create_dataset(config)
    train, _, test = create_loaders(config, data)
    trainer = create_trainer(config, config.model_class(config, train._dataset))
    whole = {}
    collect = trainer.eval_collector.eval_batch_collect

    def keep_and_collect(scores, interaction, u, i):
        pairs = zip(u, i, strict=True)
        whole.update({(interaction["user_id"][row].item(), item.item()): scores[row].clone() for row, item in pairs})
        collect(scores, interaction, u, i)

    trainer.eval_collector.eval_batch_collect = keep_and_collect
    trainer.evaluate(test)

    rows = test._dataset.inter_feat
    targets = set(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True))
    assert len(table) == len(targets) >= (60 if model == "DreamRec" else 110) and whole.keys() == targets
    for line in table.itertuples():
        user, item = data.token2id("user_id", line.user_id), data.token2id("item_id", line.item_id)
        assert line.rank == sum(score > whole[user, item][item] for score in whole[user, item]) + 1
    ranks, places = table["rank"], table["place"]
    assert ranks.nunique() > 10
    assert result["test_result"]["hit@20"] == pytest.approx((places > 0).groupby(table["row"]).max().mean(), abs=1e-4)
    assert (places.where(ranks != ranks.round(), ranks.where(ranks <= 20, 0)) == places).all()  # equal but for ties
    assert result["scoring"]["rows"] == 60 and result["scoring"]["seconds"] > 0
    if model == "DreamRec":  # one target a row: Hit and MRR follow from the ranks
        assert result["test_result"]["hit@10"] == pytest.approx((ranks <= 10).mean(), abs=1e-4)
        assert result["test_result"]["mrr@20"] == pytest.approx((1 / ranks).where(ranks <= 20, 0).mean(), abs=1e-4)
        assert set(table["history_length"]) == {10}
    else:
        assert table.columns.tolist() == ["row", "user_id", "item_id", "rank", "place"]
        assert table["row"].nunique() == table["user_id"].nunique() == 60
        assert result["diagnostics"]["rows"] == 60


def test_thirds_by_hand():
    def groups(*sizes):
        return {
            name: chosen.nonzero().squeeze(1).tolist()
            for name, chosen in history_length_groups(torch.tensor(sizes)).items()
        }

    assert groups(1, 2, 3, 4, 5, 6, 7) == {"low": [0, 1, 2], "medium": [3, 4], "high": [5, 6]}
    assert groups(9, 1, 5) == {"low": [1], "medium": [2], "high": [0]}
    assert groups(1, 1, 1, 1, 2, 3) == {"low": [0, 1, 2, 3], "medium": [], "high": [4, 5]}  # ties stay together
    assert groups(4, 4, 4) == {"low": [0, 1, 2], "medium": [], "high": []}
    assert groups(7) == {"low": [0], "medium": [], "high": []}


def test_latent_statistics_are_numpys():
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).double() @ torch.randn(6, 6).double() + 3
    found = latent_statistics(values)
    correlations = np.corrcoef(values.numpy().T)
    off = correlations - np.diag(np.diag(correlations))
    assert found["corr"] == pytest.approx(float((off**2).sum()), rel=1e-9)
    assert found["std"] == pytest.approx(float(values.numpy().std(axis=0, ddof=1).mean()), rel=1e-9)
    assert found["mean_size"] == pytest.approx(float(np.abs(values.numpy().mean(axis=0)).mean()), rel=1e-9)


def test_latent_statistics_of_extremes():
    line = torch.linspace(-1, 1, 9).unsqueeze(1)
    assert latent_statistics(torch.cat([line, -2 * line, 5 * line + 1], 1))["corr"] == pytest.approx(6)  # d (d - 1)
    collapsed = latent_statistics(torch.ones(5, 4))
    assert collapsed == pytest.approx({"corr": 0, "std": 0, "mean_size": 1})
