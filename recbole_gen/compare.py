"""`recbole-gen compare`: every model under the same split, items, metrics and masking, over several seeds.

The runs of a comparison lie in its folder, runs/LABEL-SEED, each with the settings and the data that it was started
with (`job.json`). The same command again repeats none that is finished, goes on with one that was cut off, and starts
anew where settings or data have changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole.utils import EvaluatorType

from recbole_gen import cluster, leaderboard, options
from recbole_gen.config import Config, find_dataset, parse_arguments
from recbole_gen.data import loaders
from recbole_gen.errors import UserError
from recbole_gen.files import at_work, read_json, write_json
from recbole_gen.quick_start import Interrupted, run

USAGE = """\
usage: recbole-gen compare --models=NAME,NAME,... --dataset=NAME [--protocol=NAME] [--seeds=3] [--key=value ...]

  --models=A,B,C           models, or labels that --model_configs explains; ours, RecBole's, or classes of your own
  --seeds=3                so many, from the run's `seed` on; or a list, "[1, 2, 3]"
  --model_configs=FOLDER   settings of single models: FOLDER/LABEL.yaml where there is one, or a mapping
                           "{SASRec: my.yaml, DSPnet-alone: other.yaml}"; a label that is no model has `model:` there
  --baseline=LABEL         what the others are tested against; by default the RecBole model that validates best
  --test=t                 paired test per user: t, or wilcoxon
  --resamples=2000         of the bootstrap over users
  --output=FOLDER          where runs and tables go (default saved/compare/DATASET-PROTOCOL); the same command again
                           goes on there, and repeats only what is not finished or has changed
  --ray                    several runs at a time, on this machine or, with --address=auto, on the cluster that it is in
  --cpus_per_run=1 --gpus_per_run=1     with --ray: what each run gets (the GPU only where there is one)
  --key=value              any key of `run`, for all models
"""
OPTIONS: dict[str, Any] = {
    "models": None, "seeds": 3, "model_configs": None, "baseline": None, "test": "t", "resamples": 2000, "output": None,
    "ray": False, "address": None, "cpus_per_run": 1, "gpus_per_run": None,
}  # fmt: skip
# What may differ between the runs of a comparison, or between two starts of one run, and leaves its numbers alone.
NEUTRAL = (
    "checkpoint_dir", "data_path", "show_progress", "state", "num_threads", "tensorboard", "worker", "log_wandb",
    "wandb_project", "use_gpu", "gpu_id", "config_files", "resume",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of a comparison: the values that `run` gets, and all the settings that follow from them."""

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
    """The `compare` verb of the command line; returns the exit code, 1 if a run has failed. Raises UserError."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    asked, values = options.split(parse_arguments(arguments), OPTIONS, "compare", refused=("model", "paper", "resume"))
    leaderboard.check(asked["test"], asked["resamples"])
    labels, seeds = _labels(asked["models"]), _seeds(asked["seeds"], values)
    if asked["baseline"] is not None and asked["baseline"] not in labels:
        raise UserError(f"--baseline={asked['baseline']} is not among --models={','.join(labels)}")
    resources = cluster.Resources("run", asked["cpus_per_run"], asked["gpus_per_run"])
    folder = _folder(asked["output"], values)
    jobs, left_out = plan(labels, seeds, values, asked["model_configs"], folder)
    for label, reason in left_out.items():
        print(f"left out: {label}: {reason}")
    if asked["baseline"] in left_out:
        raise UserError(f"the baseline {asked['baseline']} cannot run here: {left_out[asked['baseline']]}")
    with at_work(folder, "comparison"):
        if asked["ray"] or asked["address"]:
            outcomes = _on_ray(jobs, asked["address"], resources)
        else:
            outcomes = _in_sequence(jobs)
        failed = {job.name: outcome for job, outcome in zip(jobs, outcomes) if outcome}
        summary = _summary(jobs, failed, left_out, asked)
        print(leaderboard.text(summary))
        command = shlex.join(["python", "run_recbole_gen.py", "compare", *arguments])
        for file in leaderboard.write(summary, folder, command):
            print(f"written: {file}")
    return 1 if failed else 0


def _summary(jobs: Sequence[Job], failed: dict[str, str], left_out: dict[str, str], asked: dict[str, Any]):
    """Of the models that have finished all of their runs. Raises UserError if none has, or the baseline has not."""
    finished: dict[str, Sequence[Path]] = {
        label: [Path(job.folder) for job in jobs if job.label == label]
        for label in dict.fromkeys(job.label for job in jobs)
        if not any(job.name in failed for job in jobs if job.label == label)
    }
    if not finished or asked["baseline"] not in (None, *finished):
        who = f"the baseline {asked['baseline']} has not" if finished else "no model has"
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise UserError(f"{who} finished all of its runs (what has finished is kept):\n{reasons}")
    return leaderboard.summarise(
        finished, asked["baseline"], asked["test"], resamples=asked["resamples"], left_out=left_out, failed=failed
    )


def plan(
    labels: Sequence[str],
    seeds: Sequence[int],
    values: dict[str, Any],
    model_configs: Any,
    folder: Path,
) -> tuple[list[Job], dict[str, str]]:
    """The runs of a comparison in the order of labels and seeds, and why which labels cannot run on the data set.

    Raises UserError if none can, and for models whose files change what all must share.
    """
    files = _model_files(model_configs, labels)
    jobs: list[Job] = []
    left_out: dict[str, str] = {}
    data: dict[str, str] = {}
    for label in labels:
        try:
            of_label = _settings_of(label, files.get(label), values)
            configs = [_checked({**of_label, "seed": seed}) for seed in seeds]
        except UserError as error:
            left_out[label] = str(error)
            continue
        data = data or _digests(configs[0])
        for seed, config in zip(seeds, configs):
            where = str(folder / "runs" / f"{label.replace(':', '.')}-{seed}")
            jobs.append(Job(label, seed, where, {**of_label, "seed": seed}, config.settings(), data))
    if not jobs:
        raise UserError("no model can run:\n" + "\n".join(f"{label}: {why}" for label, why in left_out.items()))
    first = jobs[0]
    for job in jobs:
        for key in (*leaderboard.SAME, "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
            if job.settings.get(key) != first.settings.get(key):
                raise UserError(
                    f"{job.label} and {first.label} would not be comparable: {key} is {job.settings.get(key)!r} for "
                    f"the one and {first.settings.get(key)!r} for the other. Set it for all: --{key}=..."
                )
    return jobs, left_out


def _settings_of(label: str, file: Path | None, values: dict[str, Any]) -> dict[str, Any]:
    """What `run` gets for a label: the common files, the label's own, then the command line."""
    return options.run_values(values, [str(file)] if file else [], model=label, mask_seen=False, group_metrics="length")


def _checked(values: dict[str, Any]) -> Config:
    """The configuration of a run that ranks all items, as a comparison needs; raises UserError if it is not one."""
    config = Config(config_dict=values)
    if config["nproc"] > 1:
        raise UserError("a comparison runs each model in one process: nproc must be 1")
    if config["eval_type"] != EvaluatorType.RANKING or config["eval_args"]["mode"]["test"] != "full":
        raise UserError("it is not evaluated by ranking all items")
    if not config["save_ranks"]:
        raise UserError("the tests per user read the ranks of all targets: save_ranks must be True")
    loaders.check(config)
    return config


def _labels(given: Any) -> list[str]:
    labels = [str(name).strip() for name in (given if isinstance(given, list) else str(given or "").split(","))]
    labels = [name for name in labels if name]
    if not labels or given is True:
        raise UserError("compare needs --models=NAME,NAME,... such as --models=DreamRec,SASRec,Pop")
    twice = {name for name in labels if labels.count(name) > 1}
    if twice:
        raise UserError(f"--models names {', '.join(sorted(twice))} twice")
    return labels


def _seeds(given: Any, values: dict[str, Any]) -> list[int]:
    """The seeds of `--seeds`, a list, or so many from the run's own `seed` on."""
    is_whole = isinstance(given, int) and not isinstance(given, bool)
    if is_whole and given >= 1:
        first = values.get("seed", 2020)
        return list(range(first, first + given))
    is_list = isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given)
    if is_list and len(set(given)) == len(given):
        return given
    raise UserError(f"--seeds must be a number of at least 1 or a list of different seeds, got {given!r}")


def _model_files(given: Any, labels: Sequence[str]) -> dict[str, Path]:
    """The settings file of each label that has one."""
    if given is None:
        return {}
    if isinstance(given, dict):
        unknown = [str(label) for label in given if label not in labels]
        if unknown:
            raise UserError(f"--model_configs names {', '.join(unknown)}, which is not among --models")
        return {label: Path(str(file)) for label, file in given.items()}
    folder = Path(str(given))
    if not folder.is_dir():
        raise UserError(
            f"--model_configs={given}: there is no such folder (it has LABEL.yaml for each model that needs one; a "
            f'mapping is "{{LABEL: file.yaml}}")'
        )
    return {label: folder / f"{label}.yaml" for label in labels if (folder / f"{label}.yaml").is_file()}


def _folder(given: Any, values: dict[str, Any]) -> Path:
    if given is True:
        raise UserError("--output needs the name of a folder")
    name = f"{values.get('dataset')}-{values.get('protocol', 'leave_one_out')}"
    return Path(str(given or Path(str(values.get("checkpoint_dir", "saved"))) / "compare" / name)).absolute()


def _digests(config: Config) -> dict[str, str]:
    """A digest of each file of the data set: its runs are not to be mixed with those on another one of that name."""
    folder = find_dataset(config["dataset"], config["data_path"])
    return {path.name: _digest(path) for path in sorted(folder.glob(f"{config['dataset']}.*")) if path.is_file()}


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _in_sequence(jobs: Sequence[Job]) -> list[str | None]:
    outcomes = []
    for number, job in enumerate(jobs, start=1):
        outcomes.append(work(job))
        print(f"[{number}/{len(jobs)}] {_line(job, outcomes[-1])}", flush=True)
    return outcomes


def _on_ray(jobs: Sequence[Job], address: str | None, resources: cluster.Resources) -> list[str | None]:
    """The same, as many at a time as there are resources; a run whose worker dies goes on on another one."""
    outcomes: list[str | None] = [None] * len(jobs)
    with cluster.connected(address) as ray:
        task = ray.remote(max_retries=2, **resources.of_task(ray))(_remote)
        waiting = {task.remote(asdict(job), resources.cpus): number for number, job in enumerate(jobs)}
        done = 0
        while waiting:
            ready, _ = ray.wait(list(waiting))
            number, done = waiting.pop(ready[0]), done + 1
            try:
                outcomes[number] = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                outcomes[number] = f"its worker process died: {cluster.reason(error)}"
            print(f"[{done}/{len(jobs)}] {_line(jobs[number], outcomes[number])}", flush=True)
    return outcomes


def _remote(job: dict[str, Any], cpus: float) -> str | None:
    import recbole_gen.compare

    job["values"].setdefault("num_threads", max(1, int(cpus)))
    return recbole_gen.compare.work(Job(**job))


def work(job: Job) -> str | None:
    """Make a run, go on with it, or leave it if it is there; returns why it has failed, or None.

    Raises Interrupted on Ctrl-C.
    """
    folder = Path(job.folder)
    values = dict(job.values)
    known = read_json(folder / "job.json")
    if known:
        changed = _changes(known, job)
        if changed:
            print(f"{job.name}: {changed}; it starts anew, what was there is in {_move_aside(folder)}", flush=True)
        elif (folder / "result.json").exists():
            return None
        elif (folder / "last.pth").exists():
            values = {"resume": str(folder / "last.pth"), "seed": job.seed}
    elif folder.exists():
        _move_aside(folder)
    write_json(folder / "job.json", _identity(job))
    values["checkpoint_dir"] = str(folder)
    try:
        run(config_dict=values, run_dir=folder, quiet=True)
    except Interrupted:
        raise Interrupted("stopped by Ctrl-C; the same command goes on from here") from None
    except UserError as error:
        return str(error)
    except Exception as error:  # a mistake of a programmer: the other runs go on, the command fails in the end
        logging.getLogger().error("%s failed", job.name, exc_info=error)
        return f"{type(error).__name__}: {error}"
    return None


def _identity(job: Job) -> dict[str, Any]:
    settings = {key: value for key, value in job.settings.items() if key not in NEUTRAL}
    return json.loads(json.dumps({"settings": settings, "data": job.data}))


def _changes(known: dict[str, Any], job: Job) -> str:
    """What is different from a run that is there, as text; empty for nothing."""
    new = _identity(job)
    told = [
        f"{key} was {known['settings'].get(key)!r} and is {new['settings'].get(key)!r}"
        for key in sorted(known["settings"].keys() | new["settings"].keys())
        if known["settings"].get(key) != new["settings"].get(key)
    ]
    if known["data"] != new["data"]:
        told.append("the files of the data set have changed")
    return ", ".join(told)


def _move_aside(folder: Path) -> Path:
    for number in range(1, 10000):
        target = folder.with_name(f"{folder.name}.old{number}")
        if not target.exists():
            return folder.rename(target)
    raise UserError(f"{folder.parent} is full of old runs: remove some")


def _line(job: Job, outcome: str | None) -> str:
    if outcome:
        return f"{job.name}: FAILED: {outcome}"
    result = read_json(Path(job.folder) / "result.json")
    score = result.get("best_valid_score")
    told = f"valid {result.get('valid_metric')} {score:.4f}" if score is not None else "not validated"
    return f"{job.name}: {told}, {result['epochs']} epochs in {result['seconds']['train']:.0f} s"
