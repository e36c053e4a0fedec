"""A trial, in a process of Ray's: one `run()`, from where it was to its end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from filelock import FileLock

from recbole_gen import checkpoint
from recbole_gen.config.config import Config
from recbole_gen.errors import UserError
from recbole_gen.files import read_json, write_json, write_text
from recbole_gen.prepare.missing_dataset import with_dataset_fetched
from recbole_gen.quick_start import run
from recbole_gen.sweep import budget, cluster, state
from recbole_gen.sweep.failures import reason_of_error
from recbole_gen.sweep.state import Sweep
from recbole_gen.training.trainer import EpochResult


def run_trial(config: dict[str, Any], sweep: Sweep, environment: cluster.WorkingEnvironment, has_gpu: bool) -> None:
    """Trial ``config["number"]``, from where it was to its end. Its own failure is written down, and no error to Ray,
    which would try it again."""
    environment.apply()
    folder = sweep.trial_folder(config["number"])
    with FileLock(folder / ".trial.lock"):  # a process of before may not have noticed that its sweep was killed
        trial = read_json(folder / "trial.json")
        if trial["status"] in state.ENDED or budget.is_spent(sweep, state.read_trials(sweep.folder)):
            return
        started, before = time.time(), trial.get("seconds", 0.0)
        try:
            _train(sweep, trial, has_gpu, lambda: round(before + time.time() - started, 2))
        except Exception as error:
            if not isinstance(error, UserError):
                write_text(folder / "error.txt", traceback.format_exc())
            trial.update(status="failed", reason=reason_of_error(error))
        else:
            trial.update(status="finished")
        trial["seconds"] = round(before + time.time() - started, 2)
        write_json(folder / "trial.json", trial)
    _report_to_scheduler(trial, state.read_curve(folder))


def _report_to_scheduler(trial: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Tell the scheduler the last validated epoch, and the CPU time so far. Does not come back if it, or the limit of
    CPU time, ends the trial."""
    from ray import tune

    if validated := state.validated_epochs(lines):
        tune.report({**validated[-1], "number": trial["number"], "cpu_seconds": trial.get("cpu_seconds") or 0.0})


def _train(sweep: Sweep, trial: dict[str, Any], has_gpu: bool, seconds: Callable[[], float]) -> None:
    """`run`, which writes and reports a line an epoch, from where it was; ``trial`` has its CPU time in the end."""
    from ray import get_runtime_context

    folder = sweep.trial_folder(trial["number"])
    values = {**sweep.trial_settings(trial["params"]), "checkpoint_dir": str(folder)}
    values.pop("gpu_id", None)  # Ray shows each trial its own only
    if not has_gpu:
        values["use_gpu"] = False
    epochs = with_dataset_fetched(partial(Config, config_dict=values))["epochs"]
    lines = state.read_curve(folder)
    if lines and lines[-1]["epoch"] < epochs:
        _report_to_scheduler(trial, lines)  # the scheduler may not have seen it
    if (folder / "last.pth").exists():
        values = _resumed(sweep, trial["params"], folder)

    def on_epoch(epoch: EpochResult) -> None:
        line = {
            "epoch": epoch.number,
            "score": epoch.best_valid_score,
            "valid_score": epoch.valid_score,
            "train_loss": epoch.train_loss,
            "best_epoch": epoch.best_epoch,
        }
        lines[:] = [each for each in lines if each["epoch"] < epoch.number] + [line]
        state.write_curve(folder, lines)
        trial["cpu_seconds"] = round(epoch.cpu_seconds, 2)
        write_json(folder / "trial.json", {**trial, "seconds": seconds()})
        if epoch.valid_score is not None and epoch.number < epochs:  # the last epoch is no early end
            _report_to_scheduler(trial, [line])

    cache = sweep.data_cache(get_runtime_context().get_node_id())
    quiet: Any = True if trial["number"] == 0 else "errors"  # what all trials would warn of is told once
    result = run(config_dict=values, run_dir=folder, test=False, on_epoch=on_epoch, quiet=quiet, data_cache=cache)
    trial["cpu_seconds"] = result["seconds"]["train_cpu"]
    if not lines or lines[-1]["epoch"] < result["epochs"]:  # killed between the last checkpoint and its line
        known = {"score": result["best_valid_score"], "best_epoch": result["best_epoch"] + 1}
        lines.append({"epoch": result["epochs"], "valid_score": None, "train_loss": result["train_loss"][-1], **known})
        state.write_curve(folder, lines)


def _resumed(sweep: Sweep, params: dict[str, Any], folder) -> dict[str, Any]:
    """To go on with a trial. Classes of the user's own are named: a checkpoint alone does not have code imported."""
    named = {key: value for key, value in sweep.trial_settings(params).items() if key in ("model", "metrics")}
    return {"resume": str(folder / "last.pth"), **named}


def test_trial(sweep: Sweep, best: dict[str, Any], environment: cluster.WorkingEnvironment) -> dict[str, Any]:
    """Test a trial that has ended, by the weights of its best epoch; returns the result of the run, whose `epochs` are
    those that all trials were asked for."""
    from ray import get_runtime_context

    environment.apply()
    folder = sweep.trial_folder(best["number"])
    threads = sweep.trial_settings(best["params"])["num_threads"]
    values = _resumed(sweep, best["params"], folder) | {"num_threads": threads}
    was_stopped = best["status"] != "finished"
    if was_stopped:  # it is not to train on; its process may have died before it wrote its last line
        values["epochs"] = checkpoint.load(folder / "last.pth")["next_epoch"]
    cache = sweep.data_cache(get_runtime_context().get_node_id())
    result = run(config_dict=values, run_dir=folder, quiet="errors", data_cache=cache)
    if was_stopped:
        result["config"]["epochs"] = checkpoint.load(folder / "last.pth")["config"]["epochs"]
        write_json(folder / "result.json", result)
    return result
