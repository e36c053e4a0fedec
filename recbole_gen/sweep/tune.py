"""The search itself on Ray Tune: every trial is one `run()`, and the best one by validation is tested."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from recbole_gen.config.config import Config
from recbole_gen.errors import UserError, counted, quoted_option
from recbole_gen.files import CANNOT_WRITE_ERRORS, lock_folder, read_json
from recbole_gen.quick_start import Interrupted
from recbole_gen.sweep import budget, cluster, report, state
from recbole_gen.sweep.plan import check_trials, planned_points
from recbole_gen.sweep.progress import progress_callback
from recbole_gen.sweep.scheduler import make_scheduler
from recbole_gen.sweep.state import Sweep
from recbole_gen.sweep.trial import run_trial, test_trial


class NoScore(UserError):
    """No trial of a sweep has a validation score."""


def run_sweep(sweep: Sweep, tests_best: bool = True) -> int:
    """Run the trials of a sweep that have not ended, test the best one unless nothing is to be tested yet, and write
    what there is to tell.

    Returns the exit code. Raises UserError, also if all trials have failed, or Interrupted on Ctrl-C.
    """
    points = planned_points(sweep)
    config, epochs = check_trials(sweep, points)
    gpus = sweep.options["gpus_per_trial"]
    gpus = 0 if gpus is None and not config["use_gpu"] else gpus
    resources = cluster.Resources("trial", sweep.options["cpus_per_trial"], gpus)
    with cluster.connected_ray(sweep.options["address"]) as ray:
        wanted = resources.trial_resources(ray)
        with lock_folder(Path(sweep.folder), "sweep"):
            state.write_sweep(sweep)
            number, model, dataset = sweep.num_trials(), config["model"], config["dataset"]
            print(f"{counted(number, 'trial')} of {model} on {dataset}; all of it in {sweep.folder}")
            print(sweep.space.describe(), flush=True)
            try:
                _run_trials(sweep, points, config, epochs, wanted)
                best = _test_best(ray, sweep, config, resources) if tests_best else None
            except KeyboardInterrupt:
                raise Interrupted(_stopped_message(sweep)) from None
            except OSError as error:
                if error.errno not in CANNOT_WRITE_ERRORS:
                    raise
                raise UserError(
                    f"{sweep.folder} cannot be written ({error.strerror}): free some space there, and go on with tune "
                    f"{quoted_option('resume', sweep.folder)}"
                ) from None
            finally:
                with contextlib.suppress(ray.exceptions.RayError):  # a machine that is gone has nothing to remove
                    cluster.run_on_every_node(ray, cluster.remove_folders, sweep.data_cache(""))
            trials = state.read_trials(sweep.folder)
            print(report.results_text(trials, best, config, budget.usage_text(sweep, trials)))
            for file in report.write_results(Path(sweep.folder), trials, best, config, sweep.trial_settings):
                print(f"written: {file}")
    if state.best_trial(trials, config["valid_metric_bigger"]) is None:
        raise NoScore(f"no trial came to a validation score:\n{failure_reasons(trials)}")
    return 0


def failure_reasons(trials: list[dict[str, Any]]) -> str:
    """Why trials have no score, a line a reason."""
    of_reason: dict[str, list[str]] = {}
    for each in trials:
        of_reason.setdefault(each.get("reason", "not validated"), []).append(str(each["number"]))
    return "\n".join(
        f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {reason}" for reason, numbers in of_reason.items()
    )


def _run_trials(
    sweep: Sweep, points: list[dict[str, Any]], config: Config, epochs: int, resources: dict[str, float]
) -> None:
    """Run what has not ended, each trial with these resources. Raises Interrupted on Ctrl-C."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # a trial's folder has what they would write
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints tables of its own
    # It would tell how to go on in its own way, and show its stack where a process died.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    for number, point in enumerate(points):  # of Optuna those begun, and the defaults
        if not (sweep.trial_folder(number) / "trial.json").exists():
            state.write_new_trial(sweep, number, {"params": point})
    trials = state.read_trials(sweep.folder)
    left = [trial["number"] for trial in trials if trial["status"] not in state.ENDED]
    missing = sweep.num_trials() - len(trials)  # those of Optuna that it has not been asked for
    if (not left and missing <= 0) or budget.is_spent(sweep, trials):
        return
    stopper = budget.make_stopper(sweep, trials)
    mode = "max" if config["valid_metric_bigger"] else "min"
    search: dict[str, Any] = {"num_samples": 1}
    if sweep.options["searcher"] == "optuna":
        from recbole_gen.sweep.searcher import OptunaSearcher

        search = {"num_samples": len(left) + missing, "search_alg": OptunaSearcher(sweep, mode, trials)}
    trainable = tune.with_parameters(
        run_trial, sweep=sweep, environment=cluster.WorkingEnvironment.current(), has_gpu=resources["gpu"] > 0
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=None if "search_alg" in search else {"number": tune.grid_search(left)},
        tune_config=tune.TuneConfig(scheduler=make_scheduler(sweep, mode, epochs, trials), **search),
        run_config=tune.RunConfig(
            storage_path=str(Path(sweep.folder) / "ray"),
            name=time.strftime("%Y-%m-%d_%H-%M-%S"),
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=sweep.options["max_failures"]),
            callbacks=[
                JsonLoggerCallback(),  # what Ray reads its results from
                progress_callback(sweep.folder, sweep.num_trials(), config["valid_metric"], stopper),
            ],
            verbose=0,
        ),
    )
    try:
        with cluster.kept_interrupt_handler():
            tuner.fit()
    except RuntimeError as error:
        if "low on memory" not in str(error):
            raise
        raise UserError(
            f"the memory of the machine was used up, and Ray has stopped trials for it. What they have found is kept: "
            f"once there is room, they go on with tune {quoted_option('resume', sweep.folder)}, or the same command of "
            f"`leaderboard`; --cpus_per_trial=2 has fewer at a time"
        ) from None
    if _num_ended(sweep) < sweep.num_trials() and not budget.is_spent(sweep, state.read_trials(sweep.folder)):
        raise Interrupted(_stopped_message(sweep))
    shutil.rmtree(Path(sweep.folder) / "ray", ignore_errors=True)


def _num_ended(sweep: Sweep) -> int:
    return sum(trial["status"] in state.ENDED for trial in state.read_trials(sweep.folder))


def _stopped_message(sweep: Sweep) -> str:
    ended, number = _num_ended(sweep), sweep.num_trials()
    told = f"{ended} of {number} trials have ended, and are kept" if ended < number else "all trials have ended"
    return f"stopped by Ctrl-C; {told}: go on with tune {quoted_option('resume', sweep.folder)}"


def _test_best(ray, sweep: Sweep, config: Config, resources: cluster.Resources) -> dict[str, Any] | None:
    """Test the trial with the best validation score, and no other; returns its result, or None if there is none."""
    best = state.best_trial(state.read_trials(sweep.folder), config["valid_metric_bigger"])
    if best is None:
        return None
    folder = sweep.trial_folder(best["number"])
    known = read_json(folder / "result.json")
    if known.get("test_result") and (best["status"] in state.ENDED or known["epochs"] == best["epochs"]):
        return known
    task = ray.remote(max_retries=2, **resources.task_options(ray))(test_trial)
    try:
        return ray.get(task.remote(sweep, best, cluster.WorkingEnvironment.current()))
    except ray.exceptions.RayError as error:
        why = cluster.first_line(getattr(error, "cause", error))
        raise UserError(
            f"the best trial, {best['number']}, could not be tested: {why}. What the sweep has found is kept: "
            f"tune {quoted_option('resume', sweep.folder)} tries again"
        ) from None
