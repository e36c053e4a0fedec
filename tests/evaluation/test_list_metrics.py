"""RecBole's metrics of the lists themselves, against numbers worked out by hand."""

import math

import pytest
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_gen.errors import UserError

NAMES = ["ItemCoverage", "ShannonEntropy", "GiniIndex", "AveragePopularity", "TailPercentage"]


@pytest.fixture
def measured(make_config, walks):
    """measured(lists, counts, k, n_items, **values): the metrics of these lists; 0 is the padding."""

    def measure(lists, counts, k, n_items, **values):
        config = make_config("Pop", metrics=NAMES, topk=[k], valid_metric=f"ItemCoverage@{k}", **values)
        struct = DataStruct()
        for name, value in {"rec.items": torch.tensor(lists), "data.num_items": n_items + 1,
                            "data.count_items": counts}.items():  # fmt: skip
            struct.set(name, value)
        return {name.partition("@")[0]: value for name, value in Evaluator(config).evaluate(struct).items()}

    return measure


def test_by_hand(measured):
    values = measured([[1, 2], [1, 3]], {1: 6, 2: 2, 3: 1}, 2, 5)
    assert values["itemcoverage"] == 3 / 5
    assert values["shannonentropy"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4), abs=1e-4)
    assert values["giniindex"] == pytest.approx((0 * 1 + 2 * 1 + 4 * 2) / 4 / 5, abs=1e-4)  # counts 0 0 1 1 2
    assert values["averagepopularity"] == ((6 + 2) / 2 + (6 + 1) / 2) / 2
    assert values["tailpercentage"] == 1 / 4  # item 3 alone


def test_places_that_nothing_was_left_for_are_not_items(measured):
    values = measured([[1, 2], [3, 0], [0, 0]], {1: 6, 2: 2, 3: 1}, 2, 3)
    assert values["itemcoverage"] == 1.0
    assert values["shannonentropy"] == pytest.approx(math.log(3), abs=1e-4)
    assert values["giniindex"] == 0
    assert values["averagepopularity"] == pytest.approx((4 + 1 + 0) / 3, abs=1e-4)
    assert values["tailpercentage"] == pytest.approx(1 / 3, abs=1e-4)


def test_the_tail_is_a_share_or_a_count_and_ties_go_by_the_order_given(measured):
    lists, counts = [[1, 2, 3, 4]], {3: 5, 1: 5, 4: 9, 2: 5}
    first = {place: measured([[place] * 4], counts, 4, 4, tail_ratio=0.25)["tailpercentage"] for place in (1, 2, 3, 4)}
    assert first == {1: 0, 2: 0, 3: 1, 4: 0}
    assert measured(lists, counts, 4, 4, tail_ratio=0.5)["tailpercentage"] == 0.5
    assert measured(lists, counts, 4, 4, tail_ratio=5)["tailpercentage"] == 0.75
    assert measured(lists, counts, 4, 4, tail_ratio=1)["tailpercentage"] == 1


@pytest.mark.parametrize("value", [0, -1, "much"])
def test_a_tail_of_nothing_is_refused(make_config, walks, value):
    with pytest.raises(UserError, match="tail_ratio must be a"):
        make_config("Pop", tail_ratio=value)


def test_popularity_is_that_of_training_interactions_for_every_kind_of_model(run, monkeypatch):
    """Lists that all models share: they are told apart by nothing but what they count."""
    from recbole_gen.training.evaluation_loop import EvaluationLoop

    whole = EvaluationLoop._full_sort_batch_eval

    def by_number(self, batch):
        interaction, scores, *positive = whole(self, batch)
        return interaction, torch.arange(scores.shape[1], 0, -1.0).repeat(len(scores), 1).clone(), *positive

    monkeypatch.setattr(EvaluationLoop, "_full_sort_batch_eval", by_number)
    common = {"metrics": ["AveragePopularity", "TailPercentage"], "valid_metric": "AveragePopularity@5", "epochs": 1}
    results = [run(model, **common)["test_result"] for model in ("SASRec", "BPR", "Pop")]
    assert results[0] == results[1] == results[2]
