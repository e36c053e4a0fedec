"""Metrics of the user's own: `metrics=[NDCG, my_metrics:First]`, in runs, sweeps' trials, and comparisons."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.config.config import Config
from recbole_gen.errors import UserError
from recbole_gen.evaluation import significance, user_metrics
from recbole_gen.recommending.recommender import Recommender

MODULE = """
import numpy as np
from recbole.evaluator.base_metric import AbstractMetric, LossMetric, TopkMetric
from recbole.evaluator.metrics import NDCG as TheirNDCG


class First(TopkMetric):
    '''Whether the best item is a hit, at every cut-off.'''

    def calculate_metric(self, dataobject):
        hits, _ = self.used_info(dataobject)
        return self.topk_result("first", self.metric_info(hits))

    def metric_info(self, pos_index):
        return np.repeat(pos_index[:, :1], pos_index.shape[1], axis=1).astype(float)


class Missed(TopkMetric):
    '''How many targets of a row are not in the list.'''

    smaller = True

    def calculate_metric(self, dataobject):
        return self.topk_result("missed", self.metric_info(*self.used_info(dataobject)))

    def metric_info(self, pos_index, pos_len):
        return pos_len[:, None] - pos_index.cumsum(axis=1)


class Longest(TopkMetric):
    '''No mean over rows.'''

    def calculate_metric(self, dataobject):
        hits, _ = self.used_info(dataobject)
        return {f"longest@{k}": round(float(hits[:, :k].sum(1).max()), 4) for k in self.topk}


class Distinct(AbstractMetric):
    from recbole.utils import EvaluatorType
    metric_type, metric_need = EvaluatorType.RANKING, ["rec.items"]

    def calculate_metric(self, dataobject):
        return {"distinct": float(len(np.unique(dataobject.get("rec.items").numpy())))}


class Brier(LossMetric):
    smaller = True

    def calculate_metric(self, dataobject):
        return self.output_metric("brier", dataobject)

    def metric_info(self, preds, trues):
        return float(((preds - trues) ** 2).mean())


class Misnamed(First):
    pass


class Greedy(First):
    metric_need = ["rec.topk", "rec.everything"]


class Bare(AbstractMetric):
    pass


class NDCG(First):
    pass


class Other:
    pass
"""


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    """The module `my_metrics`, and RecBole's tables as they were at the end."""
    folder = tmp_path / "own_metrics"
    folder.mkdir()
    (folder / "my_metrics.py").write_text(MODULE)
    (folder / "more_metrics.py").write_text("from my_metrics import First as Base\n\n\nclass First(Base):\n    pass\n")
    monkeypatch.syspath_prepend(folder)
    tables = (user_metrics.metrics_dict, user_metrics.metric_types, user_metrics.metric_information)
    before, smaller = [dict(table) for table in tables], list(user_metrics.smaller_metrics)
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    user_metrics.smaller_metrics[:] = smaller
    for module in ("my_metrics", "more_metrics"):
        sys.modules.pop(module, None)


def test_a_metric_of_ones_own_is_measured_beside_recboles(metrics, run):
    given = ["NDCG", "my_metrics:First", "Hit", "my_metrics:Missed", "my_metrics:Longest", "my_metrics:Distinct"]
    result = run("SASRec", metrics=given, topk=[1, 5], valid_metric="first@5")
    test = result["test_result"]
    names = ("ndcg", "first", "hit", "missed", "longest")
    assert set(test) == {f"{name}@{k}" for name in names for k in (1, 5)} | {"distinct"}
    assert test["first@1"] == test["first@5"] == test["hit@1"] and test["missed@5"] == pytest.approx(1 - test["hit@5"])
    assert result["best_valid_score"] == result["best_valid_result"]["first@5"]
    assert result["diagnostics"]["pop"].keys() >= {"first@1", "missed@5", "longest@5"}
    assert result["config"]["metrics"] == given and result["valid_metric"] == "first@5"


def test_smaller_is_better_where_the_class_says_so(metrics, make_config, walks):
    config = make_config("SASRec", metrics=["my_metrics:Missed"], valid_metric="Missed@10")
    assert config["metrics"] == ["Missed"] and config["valid_metric_bigger"] is False
    assert Config(config_dict=config.settings()).settings() == config.settings()
    assert make_config("SASRec", metrics="my_metrics:First", valid_metric="First@5")["valid_metric_bigger"] is True
    config = make_config("SASRec", metrics=["my_metrics:Distinct"], valid_metric="distinct")
    assert config["valid_metric_bigger"] is True


def test_a_metric_of_scores_and_labels(metrics, make_config, walks):
    values = {"metrics": ["my_metrics:Brier"], "valid_metric": "brier", "eval_args": {"mode": "labeled"}}
    config = make_config("BPR", **values)
    assert config["eval_type"].name == "VALUE" and config["valid_metric_bigger"] is False
    with pytest.raises(UserError, match=r"valid_metric Brier@10 is not among .*: Brier\. Take --valid_metric=Brier$"):
        make_config("BPR", **{**values, "valid_metric": "Brier@10"})
    assert Config(stored=config.settings(), needs_metrics=False)["metrics"] == ["AUC"]


MISTAKES = {
    "no_such_module:First": "metrics: no_such_module:First: there is no module 'no_such_module'.*PYTHONPATH",
    "my_metrics:Nothing": "module 'my_metrics' has no class 'Nothing' that is a metric",
    "my_metrics:Other": "module 'my_metrics' has no class 'Other' that is a metric, a subclass of AbstractMetric",
    "my_metrics:NDCG": "RecBole has a metric NDCG: rename the class",
    "my_metrics:TheirNDCG": "RecBole has a metric NDCG",
    "my_metrics:Bare": "needs `metric_type`, an EvaluatorType, and `metric_need`",
    "my_metrics:Greedy": "metric_need has 'rec.everything', and can have rec.items",
    "my_metrics:Misnamed": "my_metrics:Misnamed must name its values misnamed@5.*and has first@5.*topk_result",
    ".my_metrics:First": "name the module from the top",
    "First": "there is no metric 'First'.*class of your own as my_package.my_module:MyMetric",
}


@pytest.mark.parametrize("path", MISTAKES)
def test_a_mistake_is_explained(path, metrics, arguments, refused):
    refused(arguments(f"--metrics=[NDCG, {path}]", model="SASRec"), MISTAKES[path])


def test_two_classes_of_one_name_are_refused(metrics, make_config, walks):
    with pytest.raises(UserError, match="my_metrics:First and more_metrics:First have one name"):
        make_config("SASRec", metrics=["NDCG", "my_metrics:First", "more_metrics:First"])
    make_config("SASRec", metrics=["NDCG", "my_metrics:First"])
    make_config("SASRec", metrics=["NDCG", "more_metrics:First"])
    assert user_metrics.metrics_dict["first"].__module__ == "more_metrics"  # the one that was asked for last
    with pytest.raises(UserError, match="there is no metric 'First'"):
        make_config("SASRec", metrics=["NDCG", "First"])  # it would be unknown in another process


def test_what_a_checkpoint_names_is_imported_for_a_run_alone(metrics, run, tmp_path, refused):
    result = run("SASRec", metrics=["my_metrics:First", "NDCG"], valid_metric="First@5", state="ERROR")
    folder = Path(result["run_dir"])
    del sys.modules["my_metrics"]
    loaded, recommender = quick_start.load(folder), Recommender.load(folder)
    assert "my_metrics" not in sys.modules
    assert loaded.config["metrics"] == recommender.config["metrics"] == ["NDCG"]
    (tmp_path / "histories.jsonl").write_text('{"user": "a", "items": ["i1", "i2"]}\n')
    assert cli.main(["recommend", f"--checkpoint={folder}", f"--histories={tmp_path}/histories.jsonl",
                     f"--output={tmp_path}/out.jsonl"]) == 0  # fmt: skip
    assert "my_metrics" not in sys.modules
    with pytest.raises(UserError, match=r"names my_metrics:First as its metrics.*name it yourself"):
        quick_start.run(argv=[f"--resume={folder}", "--epochs=3"])
    assert "my_metrics" not in sys.modules
    resumed = quick_start.run(argv=[f"--resume={folder}", "--epochs=3", "--metrics=[my_metrics:First, NDCG]"])
    assert "my_metrics" in sys.modules and resumed["epochs"] == 3 and "first@5" in resumed["test_result"]


def test_processes_of_one_run_know_it(metrics, settings, quick_processes):
    values = settings("SASRec", metrics=["NDCG", "my_metrics:First"], nproc=2, epochs=1, state="ERROR")
    assert "first@10" in quick_start.run(config_dict=values)["test_result"]


def test_which_metrics_have_a_value_a_row(metrics):
    user_metrics.register_metrics(
        [f"my_metrics:{name}" for name in ("First", "Missed", "Longest", "Distinct", "Brier")]
    )
    assert user_metrics.has_row_values("first") and user_metrics.has_row_values("Missed")
    assert not any(map(user_metrics.has_row_values, ("longest", "distinct", "brier", "ndcg", "none")))
    rows, places = np.array([0, 1, 1, 2]), np.array([1, 0, 2, 0])
    values = significance.row_values(rows, places, ["first@2", "missed@2", "hit@2"], [2])
    assert values["first@2"].tolist() == [1, 0, 0] and values["hit@2"].tolist() == [1, 1, 0]
    assert values["missed@2"].tolist() == [0, 1, 1]


def test_a_comparison_tests_it_per_user_where_it_can_be(metrics, arguments, tmp_path, capsys):
    of_sasrec = ("--model=", "--inner_size", "--hidden_size")
    line = [argument for argument in arguments(model="SASRec") if not argument.startswith(of_sasrec)]
    command = ["compare", "--models=SASRec,Pop", *line, "--seeds=1", f"--output={tmp_path}/out"]
    chosen = "[NDCG, my_metrics:First, my_metrics:Longest]"
    assert cli.main([*command, f"--metrics={chosen}", "--valid_metric=First@5", "--topk=[5]"]) == 0
    text = capsys.readouterr().out
    assert "First@5" in text
    result = json.loads((tmp_path / "out/runs/Pop-2020/result.json").read_text())
    assert "first@5" in result["test_result"] and "longest@5" in result["test_result"]
    assert torch.tensor(result["test_result"]["longest@5"]).isfinite()


@pytest.mark.xdist_group("ray")
def test_the_workers_of_a_sweep_know_it(two_cores, metrics, arguments, tmp_path):
    (tmp_path / "space.yaml").write_text("learning_rate: {grid: [0.001]}\n")
    chosen = ["--metrics=[NDCG, my_metrics:First]", "--valid_metric=First@5", f"--space={tmp_path}/space.yaml"]
    line = ["tune", *arguments(*chosen, model="SASRec"), "--num_samples=1", f"--output={tmp_path}/sweep"]
    assert cli.main(line) == 0
    assert "first@5" in json.loads((tmp_path / "sweep/trials/0000/result.json").read_text())["test_result"]
