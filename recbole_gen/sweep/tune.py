"""`recbole-gen tune`: a search for hyper-parameters on Ray Tune; every trial is one `run()`.

A sweep is a folder: `sweep.json` (what was asked for), trials/NUMBER for each trial, and at the end the best one. What
is in the trials' folders decides how a sweep goes on: settings (`trial.json`), a line an epoch (`epochs.jsonl`), the
run's checkpoints. Ray's own state, which is pickled and saved every few seconds only, is not read back.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from filelock import FileLock

from recbole_gen import options
from recbole_gen.config.config import PROPERTIES, Config
from recbole_gen.config.layers import run_values, with_origins
from recbole_gen.data import requirements
from recbole_gen.errors import UserError
from recbole_gen.files import lock_folder, read_json, write_json
from recbole_gen.options import is_whole, parse_arguments
from recbole_gen.prepare.missing import with_data
from recbole_gen.quick_start import Interrupted, run
from recbole_gen.sweep import cluster
from recbole_gen.sweep import report as sweep_report
from recbole_gen.sweep.space import Space, read
from recbole_gen.training.trainer import Epoch

USAGE = """\
usage: recbole-gen tune --model=NAME --dataset=NAME [--space=FILE] [--num_samples=10] [--key=value ...]
       recbole-gen tune --resume=FOLDER

  --space=FILE             what is searched: YAML, or RecBole's .hyper text (default properties/tune/MODEL.yaml)
  --num_samples=10         how often what is drawn is drawn; a grid is gone through so many times
  --searcher=random        or optuna, which learns from the trials that have ended
  --scheduler=asha         ends the weaker trials early; or none
  --grace_period=          epochs that no trial is ended before (default an eighth of all)
  --reduction_factor=3     asha keeps one in so many
  --cpus_per_trial=1 --gpus_per_trial=  what each trial gets; shares of a GPU, too (default one where there is one)
  --address=auto           join the Ray cluster that this machine is in, instead of starting one here
  --max_failures=2         how often a trial whose process dies starts again from its last epoch
  --output=FOLDER          the sweep's folder (default saved/tune/MODEL-DATASET-TIME); every machine must see it
  --resume=FOLDER          go on with a sweep: what has ended is kept; --num_samples may be larger now, and what trials
                           get may change
  --key=value              any key of `run`, the same for all trials
"""
OPTIONS: dict[str, Any] = {
    "space": None, "num_samples": 10, "searcher": "random", "scheduler": "asha", "grace_period": None,
    "reduction_factor": 3, "cpus_per_trial": 1, "gpus_per_trial": None, "address": None, "max_failures": 2,
    "output": None, "resume": None,
}  # fmt: skip
ON_RESUME = ("num_samples", "cpus_per_trial", "gpus_per_trial", "address", "max_failures")
"""Options that a sweep may go on with other values of."""
MOST_CHECKED = 200
"""Settings that are checked before a sweep starts; more would take their time."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked for: ``values`` that every trial's `run` gets, ``options`` of OPTIONS, and the space, with
    the file that it was read from."""

    folder: str
    values: dict[str, Any]
    options: dict[str, Any]
    space_file: str
    space: Space

    def trial_folder(self, number: int) -> Path:
        return sweep_report.trial_folder(self.folder, number)

    def cache(self, node: str) -> Path:
        """Where the trials on one machine of the cluster, by Ray's name for it, share their data set."""
        name = hashlib.blake2b(self.folder.encode(), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"recbole_gen-{name}-{node[:12]}"

    def number(self) -> int:
        """How many trials there are to be."""
        wanted = self.options["num_samples"]
        return wanted if self.options["searcher"] == "optuna" else self.space.number(wanted)

    def settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """What `run` gets for the trial with these parameters."""
        return {"num_threads": max(1, int(self.options["cpus_per_trial"])), **self.values, **params}


def main(arguments: Sequence[str]) -> int:
    """The `tune` verb of the command line; returns the exit code, 0 also if some of the trials have failed.

    Raises UserError, also if all trials have failed, or Interrupted on Ctrl-C.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    given = parse_arguments(arguments)
    sweep = _resumed(given) if "resume" in given else _new(given)
    points = _points(sweep)
    config, epochs = check(sweep, points)
    gpus = sweep.options["gpus_per_trial"]
    gpus = 0 if gpus is None and not config["use_gpu"] else gpus
    resources = cluster.Resources("trial", sweep.options["cpus_per_trial"], gpus)
    with cluster.connected(sweep.options["address"]) as ray:
        wanted = resources.of_trial(ray)
        with lock_folder(Path(sweep.folder), "sweep"), _terminated_as_by_ctrl_c():
            _write(sweep)
            print(f"{sweep.number()} trials of {config['model']} on {config['dataset']}; all of it in {sweep.folder}")
            print(sweep.space.describe(), flush=True)
            try:
                _search(sweep, points, config, epochs, wanted)
                best = _test_best(ray, sweep, config, resources)
            except KeyboardInterrupt:
                raise Interrupted(_kept(sweep)) from None
            finally:
                with contextlib.suppress(ray.exceptions.RayError):  # a machine that is gone has nothing to remove
                    cluster.on_every_node(ray, _forget_data, sweep.cache(""))
            trials = sweep_report.read_trials(sweep.folder)
            print(sweep_report.text(trials, best, config))
            for file in sweep_report.write(Path(sweep.folder), trials, best, config, sweep.settings):
                print(f"written: {file}")
    if best is None:
        reasons = "\n".join(f"trial {each['number']}: {each.get('reason', 'not validated')}" for each in trials)
        raise UserError(f"no trial came to a validation score:\n{reasons}")
    return 0


@contextlib.contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, which batch systems send, is Ctrl-C meanwhile; Ray would print its stack, and abort."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


# What was asked for


def _new(given: dict[str, Any]) -> Sweep:
    own, of_run = options.split_options(given, OPTIONS, "tune", refused=())
    _check_options(own)
    values = run_values(of_run)
    config = _configured(values, of_run)
    path = Path(str(own["space"] or PROPERTIES / f"tune/{config['model']}.yaml"))
    if own["space"] is None and not path.is_file():
        raise UserError(
            f"there is no search space for {config['model']}: give one with --space=FILE, such as a YAML file with the "
            f"line `learning_rate: {{loguniform: [1.0e-4, 1.0e-2]}}`"
        )
    space = read(path)
    both = sorted(given.keys() & space.dimensions.keys())
    if both:
        raise UserError(f"{', '.join(both)}: given for all trials, and searched in {path}; take one of the two out")
    name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(str(own["output"] or Path(config["checkpoint_dir"]) / "tune" / name)).absolute()
    if (folder / "sweep.json").exists():
        raise UserError(f"there is a sweep in {folder}: go on with it by --resume={folder}, or name another --output")
    if folder.exists() and not (folder.is_dir() and all(path.name == ".lock" for path in folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another --output")
    return Sweep(str(folder), values, own, str(path), space)


def _configured(values: dict[str, Any], given: dict[str, Any]) -> Config:
    """The configuration without the space. Raises UserError, which knows the options of `tune`, too."""
    try:
        return with_data(partial(Config, config_dict=values))
    except UserError as error:
        near = {key: difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.8) for key in given}
        hints = [f"--{key}: tune has an option --{found[0]}" for key, found in near.items() if found]
        raise UserError("\n".join([with_origins(error, given), *hints])) from None


def _resumed(given: dict[str, Any]) -> Sweep:
    if given["resume"] is True:
        raise UserError("--resume needs the folder of the sweep that is to go on")
    folder = Path(str(given["resume"])).absolute()
    stored = read_json(folder / "sweep.json")
    if not stored:
        raise UserError(f"--resume={given['resume']}: there is no sweep in that folder (it would have a sweep.json)")
    for key in given.keys() - {*ON_RESUME, "resume"}:
        can = ", ".join(f"--{name}" for name in ON_RESUME)
        raise UserError(f"--{key} cannot change when a sweep goes on; what can: {can}")
    own = {**stored["options"], **{key: given[key] for key in given if key in ON_RESUME}}
    _check_options(own)
    if own["num_samples"] < stored["options"]["num_samples"]:
        before = stored["options"]["num_samples"]
        raise UserError(f"--num_samples={own['num_samples']}: this sweep has {before} already, and can only get more")
    file = folder / stored["space"]
    return Sweep(str(folder), stored["values"], own, str(file), read(file))


def _write(sweep: Sweep) -> None:
    """What `_resumed` reads."""
    file = Path(sweep.space_file)
    copy = Path(sweep.folder) / f"space{file.suffix or '.hyper'}"
    if file != copy:
        shutil.copyfile(file, copy)
    content = {"values": sweep.values, "options": sweep.options, "space": copy.name}
    write_json(Path(sweep.folder) / "sweep.json", content)


def _check_options(own: dict[str, Any]) -> None:
    for key, choices in (("searcher", ("random", "optuna")), ("scheduler", ("asha", "none"))):
        if str(own[key]).lower() not in choices:
            raise UserError(f"--{key} must be {' or '.join(choices)}, got {own[key]!r}")
        own[key] = str(own[key]).lower()  # --scheduler=None, too
    for key, least in (("num_samples", 1), ("max_failures", 0), ("reduction_factor", 2), ("grace_period", 1)):
        value = own[key]
        if not (is_whole(value) and value >= least) and not (key == "grace_period" and value is None):
            raise UserError(f"--{key} must be a whole number of at least {least}, got {value!r}")
    if own["searcher"] == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--searcher=optuna needs Optuna, which is not installed: pip install optuna (--searcher=random needs "
            "nothing more)"
        )


def _points(sweep: Sweep) -> list[dict[str, Any]]:
    """The settings of the trials that are known before they run: all of a random search, those begun of another."""
    begun = [trial["params"] for trial in sweep_report.read_trials(sweep.folder)]
    if sweep.options["searcher"] == "optuna":
        return begun
    drawn = sweep.space.sample(sweep.options["num_samples"], sweep.values.get("seed", 2020))
    return begun + drawn[len(begun) :]


def check(sweep: Sweep, points: list[dict[str, Any]]) -> tuple[Config, int]:
    """See that `run` accepts the settings that are to come, before the first trial.

    Returns a configuration of a trial, and the most epochs of any. Raises UserError that names the file of the space,
    and the point.
    """
    distinct = {json.dumps(point, sort_keys=True): point for point in points or sweep.space.sample(20, 0)}
    searched = sweep.space.dimensions.get("epochs")
    epochs = [value for value in searched.values if isinstance(value, int)] if searched else []
    for point in [*distinct.values()][:MOST_CHECKED]:
        try:
            config = with_data(partial(Config, config_dict={**sweep.values, **point}))
        except UserError as error:
            message = with_origins(error, {}).replace("(dict)", f"({sweep.space_file})")
            raise UserError(f"{message}\n(in a trial with {json.dumps(point)}, of {sweep.space_file})") from None
        if config["nproc"] > 1:
            raise UserError("a trial has one process: nproc must be 1")
        if config["eval_step"] < 1 or config["epochs"] < 1:
            raise UserError("a sweep compares validation scores: eval_step and epochs must be at least 1")
        epochs.append(config["epochs"])
    requirements.check_before_loading(config)
    return config, max(epochs)


# The search


def _search(sweep: Sweep, points: list[dict[str, Any]], config: Config, epochs: int, wanted: dict[str, float]) -> None:
    """Run what has not ended. Raises Interrupted on Ctrl-C."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # a trial's folder has what they would write
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints tables of its own
    # It would tell how to go on in its own way, and show its stack where a process died.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    for number, point in enumerate(points):
        if not (sweep.trial_folder(number) / "trial.json").exists():
            begin(sweep, number, {"params": point})
    trials = sweep_report.read_trials(sweep.folder)
    left = [trial["number"] for trial in trials if trial["status"] not in sweep_report.ENDED]
    missing = sweep.number() - len(trials)  # those of Optuna that it has not been asked for
    if not left and missing <= 0:
        return
    mode = "max" if config["valid_metric_bigger"] else "min"
    search: dict[str, Any] = {"num_samples": 1}
    if sweep.options["searcher"] == "optuna":
        from recbole_gen.sweep.searcher import OptunaPoints

        search = {"num_samples": len(left) + missing, "search_alg": OptunaPoints(sweep, mode, trials)}
    trainable = tune.with_parameters(work, sweep=sweep, place=cluster.Place.here(), has_gpu=wanted["gpu"] > 0)
    tuner = tune.Tuner(
        tune.with_resources(trainable, wanted),
        param_space=None if "search_alg" in search else {"number": tune.grid_search(left)},
        tune_config=tune.TuneConfig(scheduler=_scheduler(sweep, mode, epochs, trials), **search),
        run_config=tune.RunConfig(
            storage_path=str(Path(sweep.folder) / "ray"),
            name=time.strftime("%Y-%m-%d_%H-%M-%S"),
            failure_config=tune.FailureConfig(max_failures=sweep.options["max_failures"]),
            callbacks=[
                JsonLoggerCallback(),  # what Ray reads its results from
                sweep_report.progress(sweep.folder, sweep.number(), config["valid_metric"]),
            ],
            verbose=0,
        ),
    )
    tuner.fit()
    if _ended(sweep) < sweep.number():
        raise Interrupted(_kept(sweep))
    shutil.rmtree(Path(sweep.folder) / "ray", ignore_errors=True)


def _ended(sweep: Sweep) -> int:
    return sum(trial["status"] in sweep_report.ENDED for trial in sweep_report.read_trials(sweep.folder))


def _kept(sweep: Sweep) -> str:
    ended, number = _ended(sweep), sweep.number()
    told = f"{ended} of {number} trials have ended, and are kept" if ended < number else "all trials have ended"
    return f"stopped by Ctrl-C; {told}: go on with tune --resume={sweep.folder}"


def _scheduler(sweep: Sweep, mode: str, epochs: int, trials: list[dict[str, Any]]):
    """Ray's ASHA (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020), which has seen what the
    trials of a sweep that goes on have reported; None for none.

    Ray would begin anew, and judge those that are left by each other alone.
    """
    if sweep.options["scheduler"] == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    class Asha(ASHAScheduler):
        """Here a trial is its number: where it goes on in another Ray, it is the same one, and has passed its rungs."""

        def on_trial_add(self, tune_controller, trial):
            super().on_trial_add(tune_controller, by_number(trial))

        def on_trial_result(self, tune_controller, trial, result):
            return super().on_trial_result(tune_controller, by_number(trial), result)

        def on_trial_complete(self, tune_controller, trial, result):
            super().on_trial_complete(tune_controller, by_number(trial), result)

        def on_trial_remove(self, tune_controller, trial):
            super().on_trial_remove(tune_controller, by_number(trial))

    def by_number(trial) -> Any:
        return SimpleNamespace(trial_id=trial.config["number"])

    grace = min(sweep.options["grace_period"] or max(1, -(-epochs // 8)), epochs)
    scheduler = Asha(
        "epoch", "score", mode, max_t=epochs, grace_period=grace, reduction_factor=sweep.options["reduction_factor"],
        stop_last_trials=False,  # else Ray calls a trial at its last epoch stopped, and judges twice at a rung
    )  # fmt: skip
    for trial in trials:
        reported = sweep_report.validated(trial["curve"])
        if trial["status"] not in sweep_report.ENDED:
            reported = reported[:-1]  # the last one may not have been judged: `work` reports it again
        known: Any = SimpleNamespace(config={"number": trial["number"]})
        scheduler.on_trial_add(None, known)
        for line in reported:
            scheduler.on_trial_result(None, known, line)
    return scheduler


# A trial, in a process of Ray's


def begin(sweep: Sweep, number: int, content: dict[str, Any]) -> None:
    """Write down a trial that is to run."""
    write_json(sweep.trial_folder(number) / "trial.json", {"number": number, "status": "open", **content})


def work(config: dict[str, Any], sweep: Sweep, place: cluster.Place, has_gpu: bool) -> None:
    """Trial ``config["number"]``, from where it was to its end. Its own failure is written down, and no error to Ray,
    which would try it again."""
    place.enter()
    folder = sweep.trial_folder(config["number"])
    with FileLock(folder / ".lock"):  # a process of before may not have noticed that its sweep was killed
        trial = read_json(folder / "trial.json")
        if trial["status"] in sweep_report.ENDED:
            return
        started, before = time.time(), trial.get("seconds", 0.0)
        try:
            _run_trial(sweep, trial, has_gpu, lambda: round(before + time.time() - started, 2))
        except Exception as error:
            if not isinstance(error, UserError):
                (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            trial.update(status="failed", reason=_reason(error))
        else:
            trial.update(status="finished")
        trial["seconds"] = round(before + time.time() - started, 2)
        write_json(folder / "trial.json", trial)
    _report(sweep_report.read_curve(folder))


def _report(lines: list[dict[str, Any]]) -> None:
    """Tell the scheduler the last validated epoch. Does not come back if it ends the trial."""
    from ray import tune

    if validated := sweep_report.validated(lines):
        tune.report(validated[-1])


def _run_trial(sweep: Sweep, trial: dict[str, Any], has_gpu: bool, seconds: Callable[[], float]) -> None:
    """`run`, which writes and reports a line an epoch, from where it was."""
    from ray import get_runtime_context

    folder = sweep.trial_folder(trial["number"])
    values = {**sweep.settings(trial["params"]), "checkpoint_dir": str(folder)}
    values.pop("gpu_id", None)  # Ray shows each trial its own only
    if not has_gpu:
        values["use_gpu"] = False
    epochs = with_data(partial(Config, config_dict=values))["epochs"]
    lines = sweep_report.read_curve(folder)
    if lines and lines[-1]["epoch"] < epochs:
        _report(lines)  # the scheduler may not have seen it
    if (folder / "last.pth").exists():
        values = {"resume": str(folder / "last.pth")}

    def on_epoch(epoch: Epoch) -> None:
        line = {
            "epoch": epoch.number,
            "score": epoch.best_valid_score,
            "valid_score": epoch.valid_score,
            "train_loss": epoch.train_loss,
            "best_epoch": epoch.best_epoch,
        }
        lines[:] = [each for each in lines if each["epoch"] < epoch.number] + [line]
        sweep_report.write_curve(folder, lines)
        write_json(folder / "trial.json", {**trial, "seconds": seconds()})
        if epoch.valid_score is not None and epoch.number < epochs:  # the last epoch is no early end
            _report([line])

    cache = sweep.cache(get_runtime_context().get_node_id())
    result = run(config_dict=values, run_dir=folder, test=False, on_epoch=on_epoch, quiet=True, data_cache=cache)
    if not lines or lines[-1]["epoch"] < result["epochs"]:  # killed between the last checkpoint and its line
        known = {"score": result["best_valid_score"], "best_epoch": result["best_epoch"] + 1}
        lines.append({"epoch": result["epochs"], "valid_score": None, "train_loss": result["train_loss"][-1], **known})
        sweep_report.write_curve(folder, lines)


def _reason(error: Exception) -> str:
    """One line for the table of trials."""
    import torch

    text = cluster.reason(error)
    if isinstance(error, UserError):
        return text
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text
    return f"out of memory: {text}" if is_memory else f"{type(error).__name__}: {text} (see error.txt)"


# The best one


def _test_best(ray, sweep: Sweep, config: Config, resources: cluster.Resources) -> dict[str, Any] | None:
    """Test the trial with the best validation score, and no other; returns its result, or None if there is none."""
    best = sweep_report.best_of(sweep_report.read_trials(sweep.folder), config["valid_metric_bigger"])
    if best is None:
        return None
    folder = sweep.trial_folder(best["number"])
    known = read_json(folder / "result.json")
    if known.get("test_result"):
        return known
    task = ray.remote(max_retries=2, **resources.of_task(ray))(_test)
    try:
        return ray.get(task.remote(sweep, best, cluster.Place.here()))
    except ray.exceptions.RayError as error:
        why = cluster.reason(getattr(error, "cause", error))
        raise UserError(
            f"the best trial, {best['number']}, could not be tested: {why}. What the sweep has found is kept: "
            f"tune --resume={sweep.folder} tries again"
        ) from None


def _test(sweep: Sweep, best: dict[str, Any], place: cluster.Place) -> dict[str, Any]:
    from ray import get_runtime_context

    place.enter()
    folder = sweep.trial_folder(best["number"])
    threads = sweep.settings(best["params"])["num_threads"]
    values: dict[str, Any] = {"resume": str(folder / "last.pth"), "num_threads": threads}
    if best["status"] == "pruned":
        values["epochs"] = best["epochs"]  # it is not to train on
    cache = sweep.cache(get_runtime_context().get_node_id())
    return run(config_dict=values, run_dir=folder, quiet=True, data_cache=cache)


def _forget_data(here: Path) -> None:
    for folder in here.parent.glob(f"{here.name}*"):  # also what a sweep that was killed has left
        shutil.rmtree(folder, ignore_errors=True)
