"""`recbole-gen compare`: every model under the same split, items, metrics and masking, over several seeds.

The runs of a comparison lie in its folder, runs/LABEL-SEED, each with the settings and the data that it was started
with (`job.json`). The same command again repeats none that is finished, goes on with one that was cut off, and starts
anew where settings or data have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recbole.utils import EvaluatorType, ModelType

from recbole_gen import compare as leaderboard
from recbole_gen import options
from recbole_gen.config import registry
from recbole_gen.config.config import DEFAULT_PROTOCOL, Config
from recbole_gen.config.layers import run_values, with_origins
from recbole_gen.data import requirements
from recbole_gen.data.held_out import KINDS as SET_SPLITS
from recbole_gen.errors import MissingDataset, UserError
from recbole_gen.evaluation import significance
from recbole_gen.files import lock_folder, read_json, write_json
from recbole_gen.options import parse_arguments, read_yaml
from recbole_gen.prepare.missing import with_data
from recbole_gen.quick_start import Interrupted, run
from recbole_gen.sweep import cluster

USAGE = """\
usage: recbole-gen compare --models=NAME,NAME,... --dataset=NAME [--protocol=NAME] [--seeds=3] [--key=value ...]

  --models=A,B,C           models (ours, RecBole's, or classes of your own), or labels that --model_configs explains
  --seeds=3                so many, from the run's `seed` on; or a list, "[1, 2, 3]"
  --model_configs=FOLDER   settings of single models: FOLDER/LABEL.yaml where there is one, or a mapping
                           "{SASRec: my.yaml, DSPnet-alone: other.yaml}"; a label that is no model has `model:` there
  --baseline=LABEL         what the others are tested against; by default the RecBole model that validates best
  --test=t                 paired test per user: t, or wilcoxon
  --resamples=2000         of the bootstrap over users
  --output=FOLDER          where runs and tables go (default saved/compare/DATASET-PROTOCOL); the same command again
                           goes on there, and repeats only what is not finished or has changed
  --ray                    several runs at a time, on this machine or, with --address=auto, on the cluster that it is
                           in; every machine must see the folders of data and output
  --cpus_per_run=1         threads of each run, and with --ray its cores; another number rounds sums differently
  --gpus_per_run=          with --ray: GPUs of each run, or a share of one (default one where there is one)
  --key=value              any key of `run`, for all models; it wins over the files of --model_configs
"""
OPTIONS: dict[str, Any] = {
    "models": None, "seeds": 3, "model_configs": None, "baseline": None, "test": "t", "resamples": 2000, "output": None,
    "ray": False, "address": None, "cpus_per_run": 1, "gpus_per_run": None,
}  # fmt: skip
REFUSED = ("model", "paper", "resume")
"""Keys of a run that would make all models one."""
SHARED = ("dataset", "protocol", "seed", "paper", "resume")
"""Keys that the file of a single model may not set."""
NEUTRAL = (
    "checkpoint_dir", "data_path", "show_progress", "state", "num_threads", "tensorboard", "worker", "log_wandb",
    "wandb_project", "use_gpu", "gpu_id", "config_files", "resume",
)  # fmt: skip
"""Keys that two starts of one run may differ in: its numbers are the same."""
TOLD = 3
"""Changed settings that a message names."""


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        folder: the run's, absolute.
        values: what `run` gets.
        settings: all settings that follow from them.
        data: name of each file of the data set -> digest.
    """

    label: str
    seed: int
    folder: str
    values: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"


def main(arguments: Sequence[str]) -> int:
    """The `compare` verb of the command line; returns the exit code, 1 if a run has failed.

    Raises UserError for bad input, before the first run, and Interrupted on Ctrl-C.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    asked, values = options.split_options(parse_arguments(arguments), OPTIONS, "compare", REFUSED)
    leaderboard.check(asked["test"], asked["resamples"])
    labels = _labels(asked["models"])
    if asked["baseline"] is not None and asked["baseline"] not in labels:
        raise UserError(f"--baseline={asked['baseline']} is not among --models={','.join(labels)}")
    on_ray, common = bool(asked["ray"] or asked["address"]), _common(values)
    no_gpu = asked["gpus_per_run"] is None and common.get("use_gpu") is False
    resources = cluster.Resources("run", asked["cpus_per_run"], 0 if no_gpu else asked["gpus_per_run"])
    if not common.get("num_threads"):  # not what is free just now: another number of threads rounds sums differently
        values["num_threads"] = max(1, int(resources.cpus))
    folder = _folder(asked["output"], common)
    jobs, left_out = plan(labels, _seeds(asked["seeds"], common), values, asked["model_configs"], folder)
    if asked["baseline"] in left_out:
        raise UserError(f"the baseline {asked['baseline']} cannot run here: {left_out[asked['baseline']]}")
    try:
        with lock_folder(folder, "comparison"):
            missing = [job for job in jobs if not _is_finished(job)]
            with cluster.connected_ray(asked["address"]) if on_ray and missing else contextlib.nullcontext() as ray:
                of_task = resources.task_options(ray) if ray else {}
                print(_announcement(jobs, missing, left_out, folder), flush=True)
                failed = _on_ray(ray, missing, of_task) if ray else _in_sequence(missing)
            return _report(jobs, failed, left_out, asked, folder, arguments)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by Ctrl-C; the same command goes on from here (runs are in {folder})") from None


def _report(
    jobs: Sequence[Job],
    failed: dict[str, str],
    left_out: dict[str, str],
    asked: dict[str, Any],
    folder: Path,
    arguments: Sequence[str],
) -> int:
    """Compare the models that have finished all of their runs, print and write it; returns the exit code."""
    incomplete = {job.label for job in jobs if job.name in failed}
    finished: dict[str, list[Path]] = {}
    for job in jobs:
        if job.label not in incomplete:
            finished.setdefault(job.label, []).append(Path(job.folder))
    if not finished or asked["baseline"] not in (None, *finished):
        who = f"the baseline {asked['baseline']} has not" if finished else "no model has"
        print(f"nothing to compare: {who} finished all of its runs, see FAILED above", file=sys.stderr)
        return 1
    summary = leaderboard.summarise(
        finished, asked["baseline"], asked["test"], resamples=asked["resamples"], left_out=left_out, failed=failed
    )
    print("\n" + leaderboard.text(summary))
    for file in leaderboard.write(summary, folder, shlex.join(["python", "run_recbole_gen.py", "compare", *arguments])):
        print(f"written: {file}")
    return 1 if failed else 0


# What is asked for


def plan(
    labels: Sequence[str], seeds: Sequence[int], values: dict[str, Any], model_configs: Any, folder: Path
) -> tuple[list[Job], dict[str, str]]:
    """The runs of a comparison in the order of labels and seeds, and why which labels cannot run on the data set.

    Raises UserError if none can, for what is mistyped (models, files of single models), and for models whose files
    change what all must share.
    """
    files = _model_files(model_configs, labels)
    jobs: list[Job] = []
    left_out: dict[str, str] = {}
    data: dict[str, str] = {}
    for label in labels:
        own = [str(files[label])] if label in files else []
        given = run_values(values, own, model=label, mask_seen=False, group_metrics="length")
        _check_model(label, given, own)
        try:
            config = _checked({**given, "seed": max(seeds)})
        except MissingDataset:
            raise  # it is missing for all, and would be asked for once a model
        except UserError as error:
            reason = with_origins(error, values, own)
            if any(f"({file})" in reason for file in own):
                raise UserError(f"{label}: {reason}") from None
            left_out[label] = reason
            continue
        settings, data = config.settings(), data or _digests(config)
        for seed in seeds:
            of_seed = {"seed": seed}
            where = str(folder / "runs" / f"{_file_name(label)}-{seed}")
            jobs.append(Job(label, seed, where, {**given, **of_seed}, {**settings, **of_seed}, data))
    if not jobs:
        reasons = set(left_out.values())
        told = [f"{label}: {reason}" for label, reason in left_out.items()]
        raise UserError(reasons.pop() if len(reasons) == 1 else "\n".join(["no model can run:", *told]))
    _require_comparable(jobs)
    for label, reason in left_out.items():
        if reason.startswith("unknown key"):
            left_out[label] = f"{reason} Give it to the models that have it alone, in their files (--model_configs)."
    return jobs, left_out


def _require_comparable(jobs: Sequence[Job]) -> None:
    first = jobs[0]
    for job in jobs:
        for key in (*leaderboard.SAME, "mask_seen", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
            if job.settings.get(key) != first.settings.get(key):
                raise UserError(
                    f"{job.label} and {first.label} would not be comparable: {key} is {job.settings.get(key)!r} for "
                    f"the one and {first.settings.get(key)!r} for the other. Set it for all: --{key}=..."
                )


def _check_model(label: str, given: dict[str, Any], own: Sequence[str]) -> None:
    """Raise UserError for a name that no model has; one whose packages are not installed is left to `_checked`."""
    try:
        registry.resolve(given["model"])
    except UserError as error:
        if isinstance(error.__cause__, ImportError):
            return
        hint = "" if own else " (A label of your own needs a file with `model: NAME` in it, see --model_configs.)"
        raise UserError(f"{error}{hint}") from None


def _checked(values: dict[str, Any]) -> Config:
    """The configuration of a run that ranks all items, as a comparison needs; raises UserError if it is not one."""
    config = with_data(partial(Config, config_dict=values))
    if config["nproc"] > 1:
        raise UserError("a comparison runs each model in one process: nproc must be 1")
    if config["eval_type"] != EvaluatorType.RANKING or config["eval_args"]["mode"]["test"] != "full":
        raise UserError("it is not evaluated by ranking all items")
    if not config["save_ranks"]:
        raise UserError("the tests per user read the ranks of all targets: save_ranks must be True")
    if not any(metric.lower() in significance.PER_ROW for metric in config["metrics"]):
        raise UserError(f"none of the metrics {', '.join(config['metrics'])} has a value for each user: add NDCG, say")
    sets = not config["benchmark_filename"] and set(config["eval_args"]["split"] or ()) & set(SET_SPLITS)
    if config["mask_history"] and config["MODEL_TYPE"] != ModelType.SEQUENTIAL and not sets:
        raise UserError(
            "mask_history takes items out of the rankings of sequential models only: give --mask_seen=true, which does "
            "so for all alike"
        )
    requirements.check_before_loading(config)
    return config


def _common(values: dict[str, Any]) -> dict[str, Any]:
    """What all runs get. Raises UserError for files with keys that a comparison cannot give to all."""
    common = run_values(values)
    for key in REFUSED:
        if key in common:
            raise UserError(f"config_files sets `{key}`, which would be for all models of the comparison: take it out")
    return common


def _labels(given: Any) -> list[str]:
    labels = [str(name).strip() for name in (given if isinstance(given, list) else str(given or "").split(","))]
    labels = [name for name in labels if name]
    if not labels:
        raise UserError("compare needs --models=NAME,NAME,... such as --models=DreamRec,SASRec,Pop")
    for label in labels:
        if not re.fullmatch(r"\w[\w.:+ -]*", label):
            raise UserError(f"--models: '{label}' cannot be a label: letters, digits and . : + - _ can be in one")
    names = [_file_name(label).lower() for label in labels]
    twice = [label for label, name in zip(labels, names) if names.count(name) > 1]
    if twice:
        raise UserError(f"--models names {', '.join(dict.fromkeys(twice))} more than once")
    return labels


def _file_name(label: str) -> str:
    return label.replace(":", ".")


def _seeds(given: Any, common: dict[str, Any]) -> list[int]:
    """The seeds of `--seeds`, a list, or so many from the run's own `seed` on."""
    if isinstance(given, str) and re.fullmatch(r"\d+(\s*,\s*\d+)*", given.strip()):
        given = [int(number) for number in given.split(",")] if "," in given else int(given)
    if type(given) is int and given >= 1:
        first = common.get("seed", 2020)
        if type(first) is not int or first < 0:
            raise UserError(f"seed must be a whole number of at least 0, got {first!r}")
        return list(range(first, first + given))
    is_list = isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given)
    if is_list and len(set(given)) == len(given):
        return given
    raise UserError(f'--seeds must be a number of at least 1 or a list of different seeds "[1, 2]", got {given!r}')


def _model_files(given: Any, labels: Sequence[str]) -> dict[str, Path]:
    """The settings file of each label that has one. Raises UserError for files that set what all must share."""
    if given is None:
        return {}
    if isinstance(given, dict):
        unknown = [str(label) for label in given if label not in labels]
        if unknown:
            raise UserError(f"--model_configs names {', '.join(unknown)}, which is not among --models")
        files = {label: Path(str(file)) for label, file in given.items()}
    else:
        files = _files_in(Path(str(given)), labels)
    for label, file in files.items():
        keys = [key for key in SHARED if key in read_yaml(file)]
        if keys:
            raise UserError(f"{file} is for {label} alone and sets {', '.join(keys)}, which all models share")
    return files


def _files_in(folder: Path, labels: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(
            f"--model_configs={folder}: there is no such folder (it has LABEL.yaml for each model that needs one; a "
            f'mapping is "{{LABEL: file.yaml}}")'
        )
    files = {label: folder / f"{_file_name(label)}.yaml" for label in labels}
    files = {label: file for label, file in files.items() if file.is_file()}
    if not files:
        raise UserError(f"--model_configs={folder}: no file there is that of a model, such as {labels[0]}.yaml")
    return files


def _folder(given: Any, common: dict[str, Any]) -> Path:
    name = f"{common.get('dataset')}-{common.get('protocol') or DEFAULT_PROTOCOL}"
    return Path(str(given or Path(str(common.get("checkpoint_dir", "saved"))) / "compare" / name)).absolute()


def _digests(config: Config) -> dict[str, str]:
    """A digest of each file of the data set: its runs are not to be mixed with those on another one of that name."""
    folder = Path(config["data_path"])
    return {path.name: _digest(path) for path in sorted(folder.glob(f"{config['dataset']}.*")) if path.is_file()}


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# The runs


def _announcement(jobs: Sequence[Job], missing: Sequence[Job], left_out: dict[str, str], folder: Path) -> str:
    """What is going to happen, for the terminal."""
    lines = [f"left out: {label}: {reason}" for label, reason in left_out.items()]
    there = f", {len(jobs) - len(missing)} of them finished before" if len(missing) < len(jobs) else ""
    runs = "1 run" if len(jobs) == 1 else f"{len(jobs)} runs"
    lines += [*_changes(missing), f"{runs}{there}; each has its folder, with its run.log, in {folder / 'runs'}"]
    return "\n".join(lines)


def _in_sequence(jobs: Sequence[Job]) -> dict[str, str]:
    """Make runs; returns name -> why, of those that have failed."""
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, start=1):
        failure = work(job)
        if failure:
            failed[job.name] = failure
        print(f"[{number}/{len(jobs)}] {_line(job, failure)}", flush=True)
    return failed


def _on_ray(ray, jobs: Sequence[Job], resources: dict[str, float]) -> dict[str, str]:
    """The same, as many at a time as there are resources; a run whose worker dies goes on on another one."""
    task, environment = ray.remote(max_retries=2, **resources)(_remote), cluster.WorkingEnvironment.current()
    waiting = {task.remote(job, environment): job for job in jobs}
    failed: dict[str, str] = {}
    for number in range(1, len(jobs) + 1):
        (ready,), _ = ray.wait(list(waiting))
        job = waiting.pop(ready)
        failure = _outcome(ray, ready, job)
        if failure:
            failed[job.name] = failure
        print(f"[{number}/{len(jobs)}] {_line(job, failure)}", flush=True)
    return failed


def _remote(job: Job, environment: cluster.WorkingEnvironment) -> str | None:
    environment.apply()
    return work(job)


def _outcome(ray, task, job: Job) -> str | None:
    try:
        failure = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # before the run: a machine without this package, say
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError as error:
        return f"its worker process died: {cluster.first_line(error)}"
    if failure or _is_finished(job):
        return failure
    return f"it has ended on a machine that does not write into {job.folder} of this one: they must share that folder"


def work(job: Job) -> str | None:
    """Make a run, or go on with it; returns why it has failed, or None. What is in its folder and is of other settings
    or data is kept beside it."""
    folder = Path(job.folder)
    if folder.exists() and _change(job):
        folder.rename(_aside(folder))
    values = {**job.values, "checkpoint_dir": str(folder)}
    if (folder / "last.pth").exists():
        values["resume"] = str(folder / "last.pth")
    try:
        write_json(folder / "job.json", _identity(job.settings, job.data))
        run(config_dict=values, run_dir=folder, quiet=True)
    except UserError as error:
        return str(error)
    except Exception as error:  # a mistake of a programmer: the other runs go on, the command fails in the end
        with open(folder / "run.log", "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return f"{type(error).__name__}: {error} (more in {folder / 'run.log'})"
    return None


def _is_finished(job: Job) -> bool:
    folder = Path(job.folder)
    return bool(not _change(job) and read_json(folder / "result.json") and (folder / "ranks.test.tsv").exists())


def _identity(settings: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in NEUTRAL}
    return json.loads(json.dumps({"settings": kept, "data": data}))


def _change(job: Job) -> str:
    """What is different from the run that is in the folder, as text; empty for nothing."""
    known = read_json(Path(job.folder) / "job.json")
    if not known.get("settings"):
        return "what is in the folder is no run of a comparison"
    old, new = _identity(known["settings"], known.get("data", {})), _identity(job.settings, job.data)
    mine, theirs = new["settings"], old["settings"]
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    told = [f"{key} was {theirs.get(key)!r} and is {mine.get(key)!r}" for key in keys[:TOLD]]
    if len(keys) > TOLD:
        told.append(f"and {len(keys) - TOLD} more settings have changed")
    if old["data"] != new["data"]:
        told.append("the files of the data set have changed")
    return ", ".join(told)


def _changes(jobs: Sequence[Job]) -> list[str]:
    """A line for each change that makes runs start anew, with their folders."""
    folders: dict[str, list[str]] = {}
    for job in jobs:
        if Path(job.folder).exists() and (change := _change(job)):
            folders.setdefault(change, []).append(Path(job.folder).name)
    return [
        f"{change}: {', '.join(names)} start{'s' if len(names) == 1 else ''} anew, and what was there is kept beside "
        f"(.old1, ...)"
        for change, names in folders.items()
    ]


def _aside(folder: Path) -> Path:
    number = 1
    while (target := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return target


def _line(job: Job, failure: str | None) -> str:
    if failure:
        return f"{job.name}: FAILED: {failure}"
    result = read_json(Path(job.folder) / "result.json")
    score, epochs = result["best_valid_score"], result["epochs"]
    told = f"valid {result['valid_metric']} {score:.4f}" if score is not None else "not validated"
    return f"{job.name}: {told}, {epochs} epoch{'s' if epochs != 1 else ''} in {result['seconds']['train']:.0f} s"
