"""`recbole-gen tune`: a search for hyper-parameters on Ray Tune; every trial is one `run()`.

A sweep is a folder: `sweep.json` (what was asked for), trials/NUMBER for each trial, and at the end the best one. What
is in the trials' folders decides how a sweep goes on: settings (`trial.json`), a line an epoch (`epochs.jsonl`), the
run's checkpoints. Ray's own state, which is pickled and saved every few seconds only, is not read back.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recbole_gen import cluster, options, sweep_report
from recbole_gen.config import PROPERTIES, Config, parse_arguments
from recbole_gen.data import loaders
from recbole_gen.errors import UserError
from recbole_gen.files import at_work, read_json, write_json
from recbole_gen.quick_start import Interrupted, run
from recbole_gen.space import Space, read
from recbole_gen.trainer import Epoch

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
  --resume=FOLDER          go on with a sweep: what has ended is kept; --num_samples may be larger now
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
    """What a sweep was asked for, as plain data: ``values`` that every trial's `run` gets, ``options`` of OPTIONS, and
    the name of the copy of the space's file in its folder."""

    folder: str
    values: dict[str, Any]
    options: dict[str, Any]
    space: str

    def trial_folder(self, number: int) -> Path:
        return Path(self.folder) / "trials" / f"{number:04d}"

    def cache(self, node: str) -> Path:
        """Where the trials on one machine of the cluster, by Ray's name for it, share their data set."""
        name = hashlib.blake2b(self.folder.encode(), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"recbole_gen-{name}-{node[:12]}"

    def read_space(self) -> Space:
        return read(Path(self.folder) / self.space)

    def number(self) -> int:
        """How many trials there are to be."""
        wanted = self.options["num_samples"]
        return wanted if self.options["searcher"] == "optuna" else self.read_space().number(wanted)


def main(arguments: Sequence[str]) -> int:
    """The `tune` verb of the command line; returns the exit code. Raises UserError, or Interrupted on Ctrl-C."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    given = parse_arguments(arguments)
    sweep = _resumed(given) if "resume" in given else _new(given)
    points = _points(sweep)
    config = check(sweep, points)
    resources = cluster.Resources("trial", sweep.options["cpus_per_trial"], sweep.options["gpus_per_trial"])
    with at_work(Path(sweep.folder), "sweep"), cluster.connected(sweep.options["address"]) as ray:
        wanted = resources.of_trial(ray)
        content = {"values": sweep.values, "options": sweep.options, "space": sweep.space}
        write_json(Path(sweep.folder) / "sweep.json", content)
        print(f"{sweep.number()} trials of {config['model']} on {config['dataset']}; all of it in {sweep.folder}")
        print(sweep.read_space().describe(), flush=True)
        try:
            _search(sweep, points, config, wanted)
            best = _test_best(ray, sweep, config, resources)
        finally:
            with contextlib.suppress(ray.exceptions.RayError):  # a machine that is gone has nothing to remove
                cluster.on_every_node(ray, _forget_data, sweep)
        trials = sweep_report.read_trials(sweep.folder)
        print(sweep_report.text(trials, best, config))
        for file in sweep_report.write(Path(sweep.folder), trials, best, config, sweep.values):
            print(f"written: {file}")
    if best is None:
        raise UserError("no trial came to a validation score; why is in the table above")
    return 0


# What was asked for


def _new(given: dict[str, Any]) -> Sweep:
    own, values = options.split(given, OPTIONS, "tune", refused=())
    _check_options(own)
    values = options.run_values(values)
    config = Config(config_dict=values)
    path = Path(str(own["space"] or PROPERTIES / f"tune/{config['model']}.yaml"))
    if own["space"] is None and not path.is_file():
        raise UserError(
            f"there is no search space for {config['model']}: give one with --space=FILE, such as a YAML file with the "
            f"line `learning_rate: {{loguniform: [1.0e-4, 1.0e-2]}}`"
        )
    both = sorted(given.keys() & read(path).dimensions.keys())
    if both:
        raise UserError(f"{', '.join(both)}: given for all trials, and searched in {path}; take one of the two out")
    name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(str(own["output"] or Path(config["checkpoint_dir"]) / "tune" / name)).absolute()
    if (folder / "sweep.json").exists():
        raise UserError(f"there is a sweep in {folder}: go on with it by --resume={folder}, or name another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error}): choose another --output") from None
    return Sweep(str(folder), values, own, path.name)


def _resumed(given: dict[str, Any]) -> Sweep:
    folder = Path(str(given["resume"])).absolute()
    stored = read_json(folder / "sweep.json")
    if not stored:
        raise UserError(f"--resume={given['resume']}: there is no sweep in that folder (it would have a sweep.json)")
    for key in given.keys() - {*ON_RESUME, "resume"}:
        can = ", ".join(f"--{name}" for name in ON_RESUME)
        raise UserError(f"--{key} cannot change when a sweep goes on; what can: {can}")
    own = {**stored["options"], **{key: given[key] for key in given if key in ON_RESUME}}
    _check_options(own)
    return Sweep(str(folder), stored["values"], own, stored["space"])


def _check_options(own: dict[str, Any]) -> None:
    for key, choices in (("searcher", ("random", "optuna")), ("scheduler", ("asha", "none"))):
        if own[key] not in choices:
            raise UserError(f"--{key} must be {' or '.join(choices)}, got {own[key]!r}")
    for key, least in (("num_samples", 1), ("max_failures", 0), ("reduction_factor", 2), ("grace_period", 1)):
        value = own[key]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not (is_whole and value >= least) and not (key == "grace_period" and value is None):
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
    drawn = sweep.read_space().sample(sweep.options["num_samples"], sweep.values.get("seed", 2020))
    return begun + drawn[len(begun) :]


def check(sweep: Sweep, points: list[dict[str, Any]]) -> Config:
    """See that `run` accepts the settings that are to come, before the first trial; returns the last of them.

    Raises UserError that names the file of the space, and the point.
    """
    distinct = {json.dumps(point, sort_keys=True): point for point in points or sweep.read_space().sample(20, 0)}
    for point in [*distinct.values()][:MOST_CHECKED]:
        try:
            config = Config(config_dict={**sweep.values, **point})
        except UserError as error:
            told = str(error).replace("(dict)", f"({sweep.space})")
            raise UserError(f"{told}\n(at {json.dumps(point)})") from None
        if config["nproc"] > 1:
            raise UserError("a trial has one process: nproc must be 1")
        if config["eval_step"] < 1 or config["epochs"] < 1:
            raise UserError("a sweep compares validation scores: eval_step and epochs must be at least 1")
    loaders.check(config)
    return config


# The search


def _search(sweep: Sweep, points: list[dict[str, Any]], config: Config, wanted: dict[str, float]) -> None:
    """Run what has not ended. Raises Interrupted on Ctrl-C."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # a trial's folder has what they would write
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints tables of its own
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it would tell the user how to go on in its own way
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
        from recbole_gen.searcher import OptunaPoints

        search = {"num_samples": len(left) + missing, "search_alg": OptunaPoints(sweep, mode, left, len(trials))}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(work, sweep=sweep), wanted),
        param_space=None if "search_alg" in search else {"number": tune.grid_search(left)},
        tune_config=tune.TuneConfig(metric="score", mode=mode, scheduler=_scheduler(sweep, config, trials), **search),
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
    trials = sweep_report.read_trials(sweep.folder)
    ended = [trial for trial in trials if trial["status"] in sweep_report.ENDED]
    if len(ended) < sweep.number():
        raise Interrupted(
            f"stopped by Ctrl-C; {len(ended)} of {sweep.number()} trials have ended, and are kept: go on with "
            f"tune --resume={sweep.folder}"
        )
    shutil.rmtree(Path(sweep.folder) / "ray", ignore_errors=True)


def _scheduler(sweep: Sweep, config: Config, trials: list[dict[str, Any]]):
    """Ray's ASHA, with the scores of what has ended before at its rungs; None for none.

    Ray does not save the rungs of a sweep that goes on, and would judge its trials by each other alone.
    """
    if sweep.options["scheduler"] == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    epochs = config["epochs"]
    grace = min(sweep.options["grace_period"] or max(1, -(-epochs // 8)), epochs)
    # One epoch more than there are: a trial that comes to its last one has ended by itself.
    scheduler = ASHAScheduler(
        time_attr="epoch", max_t=epochs + 1, grace_period=grace, reduction_factor=sweep.options["reduction_factor"]
    )
    sign = 1.0 if config["valid_metric_bigger"] else -1.0
    for trial in trials:
        known = trial["curve"] if trial["status"] in sweep_report.ENDED else []
        for line in known:
            if line["score"] is not None:
                was: Any = SimpleNamespace(trial_id=f"ended-{trial['number']}")
                scheduler._brackets[0].on_result(was, line["epoch"], sign * line["score"])
    return scheduler


# A trial, in a process of Ray's


def begin(sweep: Sweep, number: int, content: dict[str, Any]) -> None:
    """Write down a trial that is to run."""
    write_json(sweep.trial_folder(number) / "trial.json", {"number": number, "status": "open", **content})


def work(config: dict[str, Any], sweep: Sweep) -> None:
    """Trial ``config["number"]``, from where it was to its end. Its own failure is written down, and no error to Ray,
    which would try it again."""
    from ray import get_runtime_context, tune

    folder = sweep.trial_folder(config["number"])
    trial = read_json(folder / "trial.json")
    if trial["status"] in sweep_report.ENDED:
        return
    lines = sweep_report.read_curve(folder)
    if lines and lines[-1]["score"] is not None:  # the scheduler may not have seen it
        tune.report(lines[-1])
    cache = sweep.cache(get_runtime_context().get_node_id())
    started, before = time.time(), trial.get("seconds", 0.0)

    def on_epoch(epoch: Epoch) -> None:
        line = {
            "epoch": epoch.number,
            "score": epoch.best_valid_score,
            "valid_score": epoch.valid_score,
            "train_loss": epoch.train_loss,
            "best_epoch": epoch.best_epoch,
        }
        if not lines or lines[-1]["epoch"] < epoch.number:
            with open(folder / "epochs.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        trial["seconds"] = round(before + time.time() - started, 2)
        write_json(folder / "trial.json", trial)
        if epoch.valid_score is not None:
            tune.report(line)  # does not come back if the scheduler ends the trial

    try:
        _run_trial(sweep, trial, folder, on_epoch, cache)
    except Exception as error:
        if not isinstance(error, UserError):
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        trial.update(status="failed", reason=_reason(error))
    else:
        trial.update(status="finished")
    trial["seconds"] = round(before + time.time() - started, 2)
    write_json(folder / "trial.json", trial)


def _run_trial(sweep: Sweep, trial: dict[str, Any], folder: Path, on_epoch, cache: Path) -> None:
    values = {**sweep.values, **trial["params"], "checkpoint_dir": str(folder)}
    values.setdefault("num_threads", max(1, int(sweep.options["cpus_per_trial"])))
    values.pop("gpu_id", None)  # Ray shows each trial its own only
    if (folder / "last.pth").exists():
        values = {"resume": str(folder / "last.pth")}
    run(config_dict=values, run_dir=folder, test=False, on_epoch=on_epoch, quiet=True, data_cache=cache)


def _reason(error: Exception) -> str:
    """One line for the table of trials."""
    import torch

    text = cluster.reason(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"out of memory: {text}"
    return f"{type(error).__name__}: {text} (see error.txt)"


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
    return ray.get(task.remote(str(folder), best["status"], best["epochs"], max(1, int(resources.cpus))))


def _test(folder: str, status: str, epochs: int, threads: int) -> dict[str, Any]:
    values: dict[str, Any] = {"resume": str(Path(folder) / "last.pth"), "num_threads": threads}
    if status == "pruned":
        values["epochs"] = epochs  # it is not to train on
    return run(config_dict=values, run_dir=folder, quiet=True)


def _forget_data(sweep: Sweep) -> None:
    here = sweep.cache("")
    for folder in here.parent.glob(f"{here.name}*"):  # also what a sweep that was killed has left
        shutil.rmtree(folder, ignore_errors=True)
