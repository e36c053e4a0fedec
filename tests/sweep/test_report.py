"""What a sweep's folder tells, on trials made by hand: the table, the best one, best.yaml and the plots."""

import csv
import json

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_gen.sweep import report as sweep_report
from recbole_gen.sweep import state
from recbole_gen.sweep.parallel_coordinates import parallel_axes, write_parallel_coordinates

CONFIG = {"model": "SASRec", "dataset": "toy", "valid_metric": "NDCG@10", "valid_metric_bigger": True}
REASON = "training loss, in epoch 2, is nan"
# Of the second, whose sampling is not ddim, ddim_stride is not set. Two have failed, one of them after a good epoch,
# and the last was ended early.
TRIALS = (
    ("finished", 0.2, {"learning_rate": 0.001, "layers": [64, 32], "sampling": "ddim", "ddim_stride": 10}),
    ("finished", 0.5, {"learning_rate": 0.01, "layers": [64], "sampling": "ddpm"}),
    ("failed", 0.9, {"learning_rate": 1.0, "layers": [64], "sampling": "ddpm"}),
    ("failed", None, {"learning_rate": 0.5, "layers": [64], "sampling": "ddpm"}),
    ("pruned", 0.1, {"learning_rate": 0.0001, "layers": [64, 32], "sampling": "ddim", "ddim_stride": 50}),
)


@pytest.fixture
def sweep(tmp_path):
    """A sweep's folder with TRIALS, each of two epochs, the second not validated."""
    for number, (status, score, params) in enumerate(TRIALS):
        folder = tmp_path / f"sweep/trials/{number:04d}"
        folder.mkdir(parents=True)
        reason = {"reason": REASON} if status == "failed" else {}
        content = {"number": number, "status": status, "params": params, "seconds": 1.5, **reason}
        (folder / "trial.json").write_text(json.dumps(content))
        if score is not None:
            line = {"epoch": 1, "score": score, "valid_score": score, "train_loss": 2.0, "best_epoch": 1}
            state.write_curve(folder, [line, {**line, "epoch": 2, "valid_score": None}])
    return tmp_path / "sweep"


def write(sweep, config=CONFIG):
    trials = state.read_trials(sweep)
    best = {"test_result": {"ndcg@10": 0.4}}
    settings = {"num_threads": 1, "data_path": "data", "checkpoint_dir": "saved"}
    return sweep_report.write_results(sweep, trials, best, config, lambda params: {**settings, **params})


def test_the_best_is_the_best_by_validation_that_has_not_failed(sweep):
    trials = state.read_trials(sweep)
    assert state.best_trial(trials, bigger=True)["number"] == 1
    assert state.best_trial(trials, bigger=False)["number"] == 4
    assert state.best_trial(trials[2:4], bigger=True) is None


def test_of_equal_trials_the_first_is_the_best(sweep):
    trials = [{"number": number, "score": 0.5, "status": "finished"} for number in range(3)]
    assert state.best_trial(trials, bigger=True)["number"] == state.best_trial(trials, False)["number"] == 0


def test_a_trial_that_has_no_epoch_has_no_score(sweep):
    trial = state.read_trials(sweep)[3]
    assert (trial["score"], trial["best_epoch"], trial["epochs"], trial["curve"]) == (None, None, 0, [])


def test_only_validated_epochs_are_reported(sweep):
    trial = state.read_trials(sweep)[0]
    assert [line["epoch"] for line in trial["curve"]] == [1, 2] and trial["epochs"] == 2
    assert [line["epoch"] for line in state.validated_epochs(trial["curve"])] == [1]


@pytest.mark.parametrize("bigger, order", [(True, ["1", "0", "4", "2", "3"]), (False, ["4", "0", "1", "2", "3"])])
def test_the_table_has_the_best_first_and_those_that_failed_last(sweep, bigger, order):
    write(sweep, {**CONFIG, "valid_metric_bigger": bigger})
    with open(sweep / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == order
    by_number = {row["trial"]: row for row in rows}
    assert by_number["0"]["layers"] == "[64, 32]" and by_number["0"]["ddim_stride"] == "10"
    assert by_number["1"]["ddim_stride"] == "" and by_number["1"]["valid NDCG@10"] == "0.5"
    assert by_number["3"]["valid NDCG@10"] == "" and by_number["3"]["reason"] == REASON
    assert by_number["0"]["epochs_run"] == "2" and list(rows[0])[-1] == "reason"


def test_epochs_that_are_searched_have_a_column_of_their_own():
    trial = {"number": 0, "status": "finished", "score": 0.1, "best_epoch": 2, "epochs": 3, "params": {"epochs": 8}}
    row = sweep_report.trials_table([trial], "NDCG@10", True).iloc[0]
    assert row["epochs"] == 8 and row["epochs_run"] == 3


def test_a_value_that_is_none_is_told_from_one_that_is_not_set():
    params = ({"mask_seen": None}, {})
    common = {"status": "finished", "score": 0.1, "best_epoch": 1, "epochs": 1}
    trials = [{**common, "number": number, "params": each} for number, each in enumerate(params)]
    assert sweep_report.trials_table(trials, "NDCG@10", True)["mask_seen"].tolist()[0] == "null"
    axis = parallel_axes(trials, "NDCG@10")[0]
    assert axis.labels == ["not set", "null"] and axis.positions.tolist() == [1, 0]


def test_best_yaml_has_the_settings_of_the_best_and_says_its_scores(sweep):
    assert sweep / "best.yaml" in write(sweep)
    text = (sweep / "best.yaml").read_text()
    assert "trial 1:" in text and "NDCG@10 0.5000 in epoch 1 of 2" in text and "ndcg@10 0.4" in text
    assert yaml.safe_load(text) == {
        "model": "SASRec", "dataset": "toy", "num_threads": 1, "data_path": "data",
        "learning_rate": 0.01, "layers": [64], "sampling": "ddpm",
    }  # fmt: skip


def test_best_yaml_says_that_the_best_was_ended_early(sweep):
    write(sweep, {**CONFIG, "valid_metric_bigger": False})
    assert "trial 4 (ended early by the scheduler):" in (sweep / "best.yaml").read_text()


def test_without_a_best_trial_there_is_the_table_alone(sweep):
    trials = [trial for trial in state.read_trials(sweep) if trial["status"] == "failed"]
    assert sweep_report.write_results(sweep, trials, None, CONFIG, dict) == [sweep / "trials.csv"]
    assert REASON in sweep_report.results_text(trials, None, CONFIG)


def test_plots_show_the_trials_that_have_not_failed(sweep):
    written = {path.name for path in write(sweep)}
    assert {"parallel.html", "parallel.png", "parallel.svg"} <= written
    assert (sweep / "parallel.png").read_bytes().startswith(b"\x89PNG")
    picture, page = (sweep / "parallel.svg").read_text(), (sweep / "parallel.html").read_text()
    for text in ("learning_rate", "ddim_stride", "not set", "[64, 32]", "3 trials"):
        assert text in picture and text in page.replace("\\u003c", "<")
    assert "http" not in page.partition("<body>")[0], "the page needs no network"


def test_axes_are_in_order_and_logarithmic_where_values_span_decades(sweep):
    trials = [trial for trial in state.read_trials(sweep) if trial["status"] != "failed"]
    axes = {axis.name: axis for axis in parallel_axes(trials, "NDCG@10")}
    assert list(axes) == ["learning_rate", "layers", "sampling", "ddim_stride", "valid NDCG@10"]
    rate, stride = axes["learning_rate"], axes["ddim_stride"]
    np.testing.assert_allclose(rate.to_unit(rate.positions), [0.5, 1, 0])
    assert rate.labels == ["0.0001", "0.001", "0.01"]
    assert stride.labels == ["not set", "10", "50"] and stride.positions.tolist() == [1, 0, 2]
    np.testing.assert_allclose(axes["valid NDCG@10"].positions, [0.2, 0.5, 0.1])


def test_labels_keep_apart():
    values = [1, 10, 1000, 1010, 1500, 2000, *range(3000, 3100)]
    trials = [{"params": {"timesteps": value}, "score": 0.1} for value in values]
    axis = parallel_axes(trials, "NDCG@10")[0]
    assert np.diff(axis.to_unit(axis.ticks)).min() > 0.05 and len(set(axis.labels)) == len(axis.labels)
    few = [{"params": {"timesteps": value}, "score": 0.1} for value in (900, 1000, 1001, 2000)]
    assert parallel_axes(few, "NDCG@10")[0].labels == ["900", "1001", "2000"]


@pytest.mark.parametrize("params", [[{"a": 1}], [{"a": 1}, {"a": 2}], [{"a": "x", "b": 1}, {"a": "x", "b": 1}]])
def test_plots_of_few_trials(tmp_path, params):
    trials = [{"params": each, "score": 0.1 * n} for n, each in enumerate(params)]
    axes = parallel_axes(trials, "NDCG@10")
    assert [axis.name for axis in axes] == [*params[0], "valid NDCG@10"]
    for axis in axes:
        heights = axis.to_unit(axis.positions)
        assert np.isfinite(heights).all() and ((heights >= 0) & (heights <= 1)).all()
    assert len(write_parallel_coordinates(tmp_path, trials, "NDCG@10", True)) == 3


def test_tensorboard_gets_settings_and_score_once(sweep):
    write(sweep)
    write(sweep)
    folder = sweep / "trials/0000"
    assert len(list(folder.glob("*.hparams"))) == 1 and not list((sweep / "trials/0003").glob("*.hparams"))
    events = EventAccumulator(str(folder)).Reload()
    assert events.Scalars("valid/best_NDCG@10")[0].value == pytest.approx(0.2)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in content and b"[64, 32]" in content
