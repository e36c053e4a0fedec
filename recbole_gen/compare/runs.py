"""The runs of a comparison: made, kept, gone on with or made anew, and compared in the end.

They lie in its folder, runs/LABEL-SEED (and LABEL-SEED-tiesN for an order of simultaneous events), each with the
settings and the data that it was started with (`job.json`). The same command again repeats none that is finished, goes
on with one that was cut off, and starts anew where settings or data have changed.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import IGNORED_KEYS
from recbole_gen.compare.finished_runs import BEFORE
from recbole_gen.compare.jobs import Job, choose_seeds, output_folder, plan_jobs, shared_values
from recbole_gen.compare.output_files import write_files
from recbole_gen.compare.statistics import summarise
from recbole_gen.compare.summary import Summary
from recbole_gen.compare.tables import terminal_text
from recbole_gen.config.layers import GIVEN_FILES, Source
from recbole_gen.errors import SharedMistake, UserError, counted
from recbole_gen.files import CANNOT_WRITE_ERRORS, lock_folder, read_json, write_json
from recbole_gen.quick_start import Interrupted, run
from recbole_gen.sweep import cluster

MAX_NAMED = 3
"""Changed settings that a message names."""


@dataclass(frozen=True)
class Outcome:
    """The runs of a comparison, in ``folder``: all of them, those that have failed (name -> why), and the labels that
    cannot run on the data set (label -> why)."""

    folder: Path
    jobs: Sequence[Job]
    failed: dict[str, str]
    left_out: dict[str, str]

    def finished(self, over_ties: bool = False) -> dict[str, list[Path]]:
        """Label -> the folders of its runs over seeds, or over orders of simultaneous events, of the labels that have
        finished all of their runs."""
        incomplete = {job.label for job in self.jobs if job.name in self.failed}
        folders: dict[str, list[Path]] = {}
        for job in self.jobs:
            if job.label not in incomplete and over_ties == (job.tie_seed is not None):
                folders.setdefault(job.label, []).append(Path(job.folder))
        return folders


def run_comparison(asked: dict[str, Any], values: dict[str, Any], arguments: Sequence[str]) -> int:
    """Make the runs that are missing, compare them, print and write what they say.

    Args:
        asked: the options of `compare`, checked.
        values: keys of `run`, for all models.
        arguments: of the command line, which the page shows.

    Returns the exit code, 1 if a run has failed. Raises UserError before the first run, and Interrupted on Ctrl-C.
    """
    files = {label: [file] for label, file in asked["model_configs"].items()}
    return make_runs(asked, values, files, partial(_report_results, asked=asked, arguments=arguments))


def make_runs(
    asked: dict[str, Any],
    values: dict[str, Any],
    files: Mapping[str, Sequence[Source]],
    report: Callable[[Outcome], int],
    started: Callable[[Outcome], None] = lambda _: None,
) -> int:
    """Make the runs of a comparison that are missing; returns what ``report`` says of them all.

    Args:
        asked, values: those of `run_comparison`.
        files: label -> settings of that model alone, where it has any.
        report, started: called with all runs, at the end and before the first one; the folder is locked meanwhile.

    Raises UserError before the first run, and Interrupted on Ctrl-C.
    """
    on_ray, common = bool(asked["ray"] or asked["address"]), shared_values(values)
    no_gpu = asked["gpus_per_run"] is None and common.get("use_gpu") is False
    resources = cluster.Resources("run", asked["cpus_per_run"], 0 if no_gpu else asked["gpus_per_run"])
    if not common.get("num_threads"):  # not what is free just now: another number of threads rounds sums differently
        values["num_threads"] = max(1, int(resources.cpus))
    folder, seeds = output_folder(asked["output"], common), choose_seeds(asked["seeds"], common)
    jobs, left_out = plan_jobs(asked["models"], seeds, values, files, folder, asked["tie_orders"])
    if asked["baseline"] in left_out:
        raise UserError(f"the baseline {asked['baseline']} cannot run here: {left_out[asked['baseline']]}")
    try:
        with lock_folder(folder, "comparison"):
            missing = [job for job in jobs if not _is_finished(job)]
            with cluster.connected_ray(asked["address"]) if on_ray and missing else contextlib.nullcontext() as ray:
                task_options = resources.task_options(ray) if ray else {}
                print(_announcement(common, jobs, missing, left_out, folder), flush=True)
                started(Outcome(folder, jobs, {}, left_out))
                failed = _run_on_ray(ray, missing, task_options) if ray else _run_in_sequence(missing)
            return report(Outcome(folder, jobs, failed, left_out))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by Ctrl-C; the same command goes on from here (runs are in {folder})") from None


def _report_results(outcome: Outcome, asked: dict[str, Any], arguments: Sequence[str]) -> int:
    """Compare the models that have finished all of their runs, print and write it; returns the exit code."""
    summary = summarise_outcome(outcome, asked)
    if summary is None:
        return 1
    print("\n" + terminal_text(summary))
    command = shlex.join(["python", "run_recbole_gen.py", "compare", *arguments])
    for file in write_files(summary, outcome.folder, command):
        print(f"written: {file}")
    return 1 if outcome.failed else 0


def summarise_outcome(outcome: Outcome, asked: dict[str, Any], metrics: Sequence[str] | None = None) -> Summary | None:
    """The comparison of the models that have finished all of their runs; None, which is told, if there are none, or not
    the one that the others are to be compared with. ``metrics`` are those of `summarise`."""
    finished = outcome.finished()
    if not finished or asked["baseline"] not in (None, *finished):
        who = f"the baseline {asked['baseline']} has not" if finished else "no model has"
        print(f"nothing to compare: {who} finished all of its runs, see FAILED above", file=sys.stderr)
        return None
    return summarise(
        finished,
        asked["baseline"],
        asked["test"],
        metrics,
        asked["resamples"],
        left_out=outcome.left_out,
        failed=outcome.failed,
        ties=outcome.finished(over_ties=True),
    )


def _announcement(
    common: dict[str, Any], jobs: Sequence[Job], missing: Sequence[Job], left_out: dict[str, str], folder: Path
) -> str:
    """What is going to happen, for the terminal; ``common`` are the settings that were given for all."""
    lines = [f"left out: {label}: {reason}" for label, reason in left_out.items()]
    for key in common:
        having = list(dict.fromkeys(job.label for job in jobs if key in job.values))
        lacking = list(dict.fromkeys(job.label for job in jobs if key not in job.values))
        if having and lacking:
            lines.append(f"{key} is for {', '.join(having)} alone: without such a key are {', '.join(lacking)}")
    there = f", {len(jobs) - len(missing)} of them finished before" if len(missing) < len(jobs) else ""
    runs = counted(len(jobs), "run")
    lines += [*_change_lines(missing), f"{runs}{there}; each has its folder, with its run.log, in {folder / 'runs'}"]
    return "\n".join(lines)


def _run_in_sequence(jobs: Sequence[Job]) -> dict[str, str]:
    """Make runs; returns name -> why, of those that have failed."""
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, start=1):
        failure = run_job(job)
        if failure:
            failed[job.name] = failure
        print(f"[{number}/{len(jobs)}] {_result_line(job, failure)}", flush=True)
    return failed


def _run_on_ray(ray, jobs: Sequence[Job], task_options: dict[str, float]) -> dict[str, str]:
    """The same, as many at a time as there are resources; a run whose worker dies goes on on another one."""
    task = ray.remote(max_retries=2, **task_options)(_run_job_remotely)
    environment = cluster.WorkingEnvironment.current()
    waiting = {task.remote(job, environment): job for job in jobs}
    failed: dict[str, str] = {}
    for number in range(1, len(jobs) + 1):
        (ready,), _ = ray.wait(list(waiting))
        job = waiting.pop(ready)
        failure = _task_failure(ray, ready, job)
        if failure:
            failed[job.name] = failure
        print(f"[{number}/{len(jobs)}] {_result_line(job, failure)}", flush=True)
    return failed


def _run_job_remotely(job: Job, environment: cluster.WorkingEnvironment) -> str | None:
    environment.apply()
    return run_job(job)


def _task_failure(ray, task, job: Job) -> str | None:
    """Why a run on Ray has failed, or None."""
    try:
        failure = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # before the run: a machine without this package, say
        if isinstance(error.cause, SharedMistake):
            raise SharedMistake(str(error.cause)) from None
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError as error:
        return f"its worker process died: {cluster.first_line(error)}"
    if failure or _is_finished(job):
        return failure
    return f"it has ended on a machine that does not write into {job.folder} of this one: they must share that folder"


def run_job(job: Job) -> str | None:
    """Make a run, or go on with it; returns why it has failed, or None. What is in its folder and is of other settings
    or data is kept beside it. Raises SharedMistake, before it trains, for what no run of the comparison can do."""
    folder = Path(job.folder)
    if folder.exists() and _what_changed(job):
        folder.rename(backup_folder(folder))
    values = {**job.values, "checkpoint_dir": str(folder)}
    if (folder / "last.pth").exists():
        values["resume"] = str(folder / "last.pth")
    try:
        write_json(folder / "job.json", with_effect(job.settings, job.data))
        run(config_dict=values, run_dir=folder, quiet=True)
    except SharedMistake:
        if not (folder / "last.pth").exists():
            shutil.rmtree(folder)  # nothing was trained
        raise
    except UserError as error:
        return str(error)
    except Exception as error:  # a mistake of a programmer: the other runs go on, the command fails in the end
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE_ERRORS:  # nor could the log be
            return f"{error.filename or folder} cannot be written ({error.strerror}): free some space"
        with open(folder / "run.log", "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return f"{type(error).__name__}: {error} (more in {folder / 'run.log'})"
    return None


def _is_finished(job: Job) -> bool:
    folder = Path(job.folder)
    return bool(not _what_changed(job) and read_json(folder / "result.json") and (folder / "ranks.test.tsv").exists())


def with_effect(settings: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    """The content of `job.json`: what a run's numbers depend on."""
    kept = {key: value for key, value in {**BEFORE, **settings}.items() if key not in IGNORED_KEYS}
    return json.loads(json.dumps({"settings": kept, "data": data}))


def _what_changed(job: Job) -> str:
    """What is different from the run that is in the folder, as text; empty for nothing."""
    path = Path(job.folder) / "job.json"
    if not path.exists():
        return "what is in the folder is no run of a comparison"
    return what_changed(path, with_effect(job.settings, job.data))


def what_changed(path: Path, new: dict[str, Any]) -> str:
    """In what ``new``, see `with_effect`, differs from what a file has of that form, as text; empty for nothing."""
    old = read_json(path)
    if not old.get("settings"):
        return f"{path.name} in the folder is damaged"
    old = with_effect(old["settings"], old.get("data", {}))
    mine, theirs = new["settings"], old["settings"]
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    told = [f"{key} was {theirs.get(key)!r} and is {mine.get(key)!r}" for key in keys[:MAX_NAMED]]
    if len(keys) > MAX_NAMED:
        told.append(f"and {len(keys) - MAX_NAMED} more settings have changed")
    # runs of before digests of given files were kept are believed
    known = {name: each for name, each in new["data"].items() if name not in GIVEN_FILES or name in old["data"]}
    differ = {name for name in known.keys() | old["data"].keys() if known.get(name) != old["data"].get(name)}
    told += [f"the file of {key} has changed" for key in GIVEN_FILES if key in differ]
    if differ.difference(GIVEN_FILES):
        told.append("the files of the data set have changed")
    return ", ".join(told)


def _change_lines(jobs: Sequence[Job]) -> list[str]:
    """A line for each change that makes runs start anew, with their folders."""
    folders: dict[str, list[str]] = {}
    for job in jobs:
        if Path(job.folder).exists() and (change := _what_changed(job)):
            folders.setdefault(change, []).append(Path(job.folder).name)
    return [
        f"{change}: {', '.join(names)} start{'s' if len(names) == 1 else ''} anew, and what was there is kept beside "
        f"(.old1, ...)"
        for change, names in folders.items()
    ]


def backup_folder(folder: Path) -> Path:
    """The first free name of .old1, .old2, ... beside a folder."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return target


def _result_line(job: Job, failure: str | None) -> str:
    """What has come out of a run, for the terminal."""
    if failure:
        return f"{job.name}: FAILED: {failure}"
    result = read_json(Path(job.folder) / "result.json")
    score, epochs = result["best_valid_score"], result["epochs"]
    told = f"valid {result['valid_metric']} {score:.4f}" if score is not None else "not validated"
    return f"{job.name}: {told}, {epochs} epoch{'s' if epochs != 1 else ''} in {result['seconds']['train']:.0f} s"
