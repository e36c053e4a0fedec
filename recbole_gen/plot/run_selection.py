"""Runs as figures need them: found, read, told apart; and where a figure of them goes."""

from __future__ import annotations

import glob
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.evaluator.register import metrics_dict

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.files import require_file_output, require_no_folder
from recbole_gen.options import read_yaml
from recbole_gen.plot.scalars import read_scalars

# Settings that say where and how a run computes, and what it tells; not what it learns.
INCIDENTAL = frozenset(
    {
        "checkpoint_dir", "data_path", "dataloaders_save_path", "dataset_save_path", "diagnostics", "eval_batch_size",
        "gpu_id", "group_metrics", "log_wandb", "loss_decimal_place", "metric_decimal_place", "metrics", "nproc",
        "num_threads", "resume", "save_dataloaders", "save_dataset", "save_ranks", "show_progress", "state",
        "tensorboard", "topk", "use_gpu", "wandb_project", "worker",
    }
)  # fmt: skip
MOST_KEYS = 3
"""With more settings than these to tell runs apart, a label has the name of the run's folder instead."""


@dataclass(frozen=True)
class Run:
    """A run's folder, all of its settings, and the content of result.json, None if the run has not ended."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any] | None

    @property
    def model(self) -> str:
        """The model's name as the user gives it, of a class of the user's own the class."""
        return str(self.config["model"]).rpartition(":")[2]


def run_folders(options: dict[str, Any], figure: str) -> list[Path]:
    """The folders that --runs or --run names. Raises UserError if one does not exist."""
    given = options["runs"] if options["runs"] is not None else options["run"]
    if given is None or given is True or (options["runs"] is not None and options["run"] is not None):
        raise UserError(f'plot {figure} needs --runs="FOLDER FOLDER ..." or --run=FOLDER, folders of runs')
    names = [str(name) for name in given] if isinstance(given, list) else str(given).split()
    found = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        folders = [Path(match) for match in matches if Path(match).is_dir()]
        if not folders:
            raise UserError(f"there is no folder {name}")
        found += folders
    return list(dict.fromkeys(found))


def named_model(options: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The model of a run, if --model names it."""
    return config["model"] if config["model"] in str(options["model"]).split() else None


def find_runs(folders: Sequence[Path], finished: bool = True, pruned: bool = False) -> list[Run]:
    """The runs in these folders and below them, each once, in the order of the folders and then of their names.

    ``finished`` leaves out runs without a result.json; with ``pruned``, trials that their sweep has ended early are
    among them, with what they have validated. Raises UserError if a folder has none, and for damaged files.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        files = list(folder.rglob("result.json"))
        if not finished:
            files += [file.with_name("config.yaml") for file in folder.rglob("events.out.tfevents.*")]
        if pruned:
            files += folder.rglob("trial.json")
        places = sorted({file.parent for file in files})
        found_here = [_read_run(place, finished) or (_read_pruned_trial(place) if pruned else None) for place in places]
        runs = [run for run in found_here if run]
        if not runs:
            what = "result.json" if finished else "result.json, nor TensorBoard events beside a config.yaml"
            raise UserError(f"there is no run in {folder}: neither it nor a folder below it has a readable {what}")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def _read_run(folder: Path, finished: bool) -> Run | None:
    """The run in ``folder``; None if its files are of something else, such as Ray's own result.json of a trial.

    Raises UserError for a run whose result.json is damaged.
    """
    result = _read_json(folder / "result.json")
    if result is None and (folder / "result.json").exists() and (folder / "config.yaml").exists():
        raise UserError(f"{folder / 'result.json'} is damaged: run it again, or take its folder out of --runs")
    if isinstance(result, dict) and {"model", "config", "best_valid_result"} <= result.keys():
        return Run(folder, result["config"], result)
    if finished or not (folder / "config.yaml").is_file():
        return None
    config = read_yaml(folder / "config.yaml")
    return Run(folder, config, None) if {"model", "dataset", "protocol", "seed"} <= config.keys() else None


def _read_pruned_trial(folder: Path) -> Run | None:
    """A trial that its sweep has ended early, which leaves no result.json, as a run with the validation metrics of its
    best epoch; None for any other. Without TensorBoard's events only the metric that chose that epoch is known.

    Raises UserError for an epochs.jsonl that is damaged.
    """
    trial = _read_json(folder / "trial.json")
    if not isinstance(trial, dict) or trial.get("status") != "pruned" or not (folder / "config.yaml").is_file():
        return None
    config, path = read_yaml(folder / "config.yaml"), folder / "epochs.jsonl"
    try:
        last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        best, score, metric = last["best_epoch"], last["score"], str(config["valid_metric"]).lower()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): take the folder of this trial out of --runs") from None
    if score is None:
        return Run(folder, config, {"best_valid_result": None, "test_result": None})
    digits = config.get("metric_decimal_place") or 4
    values = {tag: series[best] for tag, series in read_scalars(folder).items() if best in series}
    metrics = {tag.removeprefix("valid/"): round(v, digits) for tag, v in values.items() if tag.startswith("valid/")}
    return Run(folder, config, {"best_valid_result": {**metrics, metric: score}, "test_result": None})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValueError:
        return None


def differing_settings(runs: Iterable[Run], but: Collection[str] = ()) -> dict[str, list[Any]]:
    """Keys whose values differ between the runs, with the distinct values; without INCIDENTAL ones and those of
    ``but``. A run that does not have a key has None."""
    runs = list(runs)
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: distinct_values(run.config.get(key) for run in runs) for key in keys if key not in INCIDENTAL}
    return {key: each for key, each in values.items() if len(each) > 1 and key not in but}


def distinct_values(values: Iterable[Any]) -> list[Any]:
    """The different ones of values that need not be hashable."""
    out: list[Any] = []
    for value in values:
        if value not in out:
            out.append(value)
    return out


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its model, data set and protocol if they differ, and what differs between runs of one model,
    or else the folder's name."""
    named = [model_label(run, runs) for run in runs]
    out = []
    for run, name in zip(runs, named, strict=True):
        alike = [other for other, other_name in zip(runs, named, strict=True) if other_name == name]
        settings = differing_settings(alike)
        plain = [key for key, values in settings.items() if not any(isinstance(v, (dict, list)) for v in values)]
        keys = plain or list(settings)
        same = [other for other in alike if all(other.config.get(key) == run.config.get(key) for key in keys)]
        parts = [f"{key}={format_value(run.config.get(key))}" for key in keys]
        if len(same) > 1 or len(keys) > MOST_KEYS:
            parts = [run.folder.resolve().name]
        out.append(", ".join([name, *parts] if len(alike) > 1 else [name]))
    return out


def model_label(run: Run, runs: Sequence[Run], but: Collection[str] = ()) -> str:
    """The run's model, with data set and protocol where those of ``runs`` differ."""
    keys = [key for key in ("dataset", "protocol") if key not in but]
    parts = [
        format_value(run.config[key]) for key in keys if len(distinct_values(other.config[key] for other in runs)) > 1
    ]
    return ", ".join([*([] if "model" in but else [run.model]), *parts])


def common_title(runs: Sequence[Run], but: Collection[str] = ()) -> str:
    """Data set and protocol, where all runs have the same one; the title of their figure."""
    keys = [key for key in ("dataset", "protocol") if key not in but]
    values = {key: distinct_values(run.config[key] for run in runs) for key in keys}
    return ", ".join(format_value(each[0]) for each in values.values() if len(each) == 1 and each[0] is not None)


def format_value(value: Any) -> str:
    """A setting's value as people write it."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def suggestion(given: Any, known: Iterable[str]) -> str:
    """What to add to a message about an unknown name."""
    return did_you_mean(given, known, "; did you mean {}?")


def smaller_is_better(metric: str) -> bool:
    """Whether a metric such as ndcg@10 or scene_recall@5 is an error rather than a gain."""
    known = metrics_dict.get(metric.partition("@")[0].rpartition("_")[2])
    return bool(known and known.smaller)


def output_path(options: dict[str, Any], folders: Sequence[Path], name: str, beside: Sequence[str] = ()) -> Path:
    """--output, or NAME.png in the one folder, in the current one if there are several.

    Raises UserError for what cannot be the name of a figure, and where it, or a file ``beside`` it of such an ending,
    cannot be written or would replace a file of a run.
    """
    given = options["output"]
    path = (folders[0] if len(folders) == 1 else Path()) / f"{name}.png" if given is None else Path(str(given))
    if given is True or not path.name or path.suffix not in ("", ".png", ".svg"):
        raise UserError(
            f"the figure {given} cannot be written: --output needs the name of a file that ends in .png or .svg, or in "
            f"neither; both are written"
        )
    if not path.suffix:
        require_no_folder(path, given=given)
    for suffix in (".png", ".svg", *beside):
        require_file_output(path.with_suffix(suffix), given=given)
    return path
