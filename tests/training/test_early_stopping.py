"""The best epoch is the first with the greatest score, however little greater it is."""

import json
from pathlib import Path

import pytest
import torch

from recbole_gen import checkpoint, quick_start
from recbole_gen.training.trainer import Trainer


@pytest.fixture
def scored(run, custom, monkeypatch):
    """scored(scores, **values): a run whose epochs validate with these scores; the unrounded ones decide."""

    def train(scores, runner=run, **values):
        given, evaluate = iter(scores), Trainer.evaluate

        def pretend(self, eval_data, load_best_model=True, **more):
            result = evaluate(self, eval_data, load_best_model, **more)
            if not load_best_model:
                self.valid_score = next(given)
                result["ndcg@10"] = round(self.valid_score, 4)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "evaluate", pretend)
            return runner("custom:Custom", **{"epochs": len(scores), **values})

    return train


def best_weights(result):
    return checkpoint.load(Path(result["run_dir"]) / "best.pth")["next_epoch"]


def test_a_constant_score_stops_and_keeps_the_first_epoch(scored):
    result = scored([0.1] * 9, stopping_step=2)
    assert (result["epochs"], result["best_epoch"], best_weights(result)) == (4, 0, 1)


def test_a_rise_that_rounding_hides_is_one(scored):
    result = scored([0.10001, 0.10003, 0.10002, 0.10002], stopping_step=1)
    assert (result["epochs"], result["best_epoch"], best_weights(result)) == (4, 1, 2)
    assert result["best_valid_score"] == 0.1  # reported as ever
    assert json.loads((Path(result["run_dir"]) / "result.json").read_text())["best_valid_score"] == 0.1


def test_smaller_is_better_for_some(run):
    result = run("DreamRec", metrics=["GiniIndex"], topk=[5], valid_metric="GiniIndex@5", epochs=3)
    assert result["best_valid_score"] == result["best_valid_result"]["giniindex@5"]


def test_the_unrounded_score_is_that_of_the_metric(settings):
    result = quick_start.run(config_dict=settings("SASRec", epochs=1, metric_decimal_place=2, valid_metric="MRR@10"))
    content = checkpoint.load(Path(result["run_dir"]) / "last.pth")
    exact = content["best_valid_score"]
    assert exact != result["best_valid_score"] == round(exact, 2)
    fine = quick_start.run(config_dict=settings("SASRec", epochs=1, metric_decimal_place=9, valid_metric="MRR@10"))
    assert exact == pytest.approx(fine["best_valid_score"], abs=1e-9)


def test_a_resumed_run_stops_where_the_whole_one_does(scored):
    scores = [0.2, 0.20002, 0.20001, 0.20001, 0.20001, 0.20001]
    whole = scored(scores, stopping_step=2)
    part = scored(scores[:3], stopping_step=2)

    def go_on(model, **values):
        return quick_start.run(config_dict={"resume": part["run_dir"], **values})

    resumed = scored(scores[3:], go_on, epochs=6, stopping_step=2)
    assert (resumed["epochs"], resumed["best_epoch"]) == (whole["epochs"], whole["best_epoch"]) == (5, 1)
    weights = [checkpoint.load(Path(each["run_dir"]) / "best.pth")["state_dict"] for each in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
