"""What the options of `compare` say: labels of models, seeds, files of single models, the test."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_gen.config.layers import GIVEN_FILES
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_whole, read_yaml
from recbole_gen.sweep.cluster import Resources

REFUSED_KEYS = ("model", "paper", "resume")
"""Keys of a run that would make all models one."""
SHARED_KEYS = ("dataset", "protocol", "seed", "paper", "resume")
"""Keys that the file of a single model may not set."""

EVALUATION_KEYS = (
    "dataset", "protocol", "metrics", "topk", "valid_metric", "eval_args", "benchmark_filename", "mask_history",
    "positives", "targets", "empty_history", "sequence_order", "last_events", "period_start", "least_history",
    "least_future", "val_interval", "user_inter_num_interval", "item_inter_num_interval",
    "filter_inter_by_user_or_item", "rm_dup_inter", "tie_order", "tie_seed", "cold_items",
)  # fmt: skip
"""Keys of a run that decide what is ranked, for whom, and how that is measured."""

KEYS_WITHOUT_EFFECT = (
    "checkpoint_dir", "data_path", "show_progress", "state", "num_threads", "tensorboard", "worker", "log_wandb",
    "wandb_project", "use_gpu", "gpu_id", "resume",
)  # fmt: skip
"""Keys that two starts of one run may differ in: its numbers are the same."""
IGNORED_KEYS = (*KEYS_WITHOUT_EFFECT, "config_files")
"""Those, and the files whose keys are among the run's settings by then: one moved elsewhere is no other run."""

PLACES = ("data_path", *GIVEN_FILES, "checkpoint_dir", "output", "docs", "address")
"""Options that name a place of the machine; the command of a page has FOLDER there, or does without."""
FOLDERS = ("data_path", *GIVEN_FILES, "model_configs", "spaces", "winners")
"""Those of which the page's reader has one of his own, unless they are relative: in the checkout."""
TESTS = ("t", "wilcoxon")
"""Names of the tests that `significance.paired_test` has."""


def parse_labels(given: Any, verb: str = "compare", others: Iterable[str] = ()) -> list[str]:
    """The labels of `--models`. Raises UserError if there are none, one is twice, or one cannot name a folder.

    ``others`` are the keys given beside it, one of which may be it with a slip.
    """
    labels = [str(name).strip() for name in (given if isinstance(given, list) else str(given or "").split(","))]
    labels = [name for name in labels if name]
    if not labels:
        near = did_you_mean("models", others, ". Did you mean --models by --{}?", cutoff=0.7)
        raise UserError(f"{verb} needs --models=NAME,NAME,... such as --models=DreamRec,SASRec,Pop{near}")
    for label in labels:
        if not re.fullmatch(r"\w[\w.:+ -]*", label):
            raise UserError(f"--models: '{label}' cannot be a label: letters, digits and . : + - _ can be in one")
    names = [file_name(label).lower() for label in labels]
    twice = [label for label, name in zip(labels, names) if names.count(name) > 1]
    if twice:
        raise UserError(f"--models names {', '.join(dict.fromkeys(twice))} more than once")
    return labels


def file_name(label: str) -> str:
    """What a label is in names of files and folders."""
    return label.replace(":", ".")


def parse_seeds(given: Any) -> int | list[int]:
    """What `--seeds` says: how many, or which. Raises UserError for anything else."""
    if isinstance(given, str) and re.fullmatch(r"\d+(\s*,\s*\d+)*", given.strip()):
        given = [int(number) for number in given.split(",")] if "," in given else int(given)
    if type(given) is int and given >= 1:
        return given
    is_list = isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given)
    if is_list and len(set(given)) == len(given):
        return given
    raise UserError(f'--seeds must be a number of at least 1 or a list of different seeds "[1, 2]", got {given!r}')


def parse_tie_seeds(given: Any) -> list[int]:
    """The seeds of the orders that `--tie_orders` asks for: 1, 2, ... of a number, or a list of them.

    Raises UserError for anything else, and for one order alone, which has no spread.
    """
    if given is None:
        return []
    with contextlib.suppress(UserError):
        seeds = parse_seeds(given)
        listed = list(range(1, seeds + 1)) if isinstance(seeds, int) else seeds
        if len(listed) > 1:
            return listed
    raise UserError(f'--tie_orders must be a number of at least 2 or a list of different seeds "[1, 2]", got {given!r}')


def model_files(given: Any, labels: Sequence[str]) -> dict[str, Path]:
    """The settings file of each label that has one. Raises UserError for files that set what all must share."""
    if given is None:
        return {}
    if isinstance(given, dict):
        unknown = [str(label) for label in given if label not in labels]
        if unknown:
            raise UserError(f"--model_configs names {', '.join(unknown)}, which is not among --models")
        files = {label: Path(str(file)) for label, file in given.items()}
    else:
        files = _model_files_in(Path(str(given)), labels)
    for label, file in files.items():
        keys = [key for key in SHARED_KEYS if key in read_yaml(file)]
        if keys:
            raise UserError(f"{file} is for {label} alone and sets {', '.join(keys)}, which all models share")
    return files


def _model_files_in(folder: Path, labels: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(
            f"--model_configs={folder}: there is no such folder (it has LABEL.yaml for each model that needs one; a "
            f'mapping is "{{LABEL: file.yaml}}")'
        )
    files = {label: folder / f"{file_name(label)}.yaml" for label in labels}
    files = {label: file for label, file in files.items() if file.is_file()}
    if not files:
        raise UserError(f"--model_configs={folder}: no file there is that of a model, such as {labels[0]}.yaml")
    return files


def check_options(asked: dict[str, Any], verb: str, others: Iterable[str]) -> None:
    """Raise UserError for values that the options of a comparison cannot have; labels, seeds and files take the form
    that its runs read.

    ``others`` are the keys given beside the options of the verb.
    """
    require_test(asked["test"], asked["resamples"])
    asked["models"] = labels = parse_labels(asked["models"], verb, others)
    if asked["baseline"] is not None and asked["baseline"] not in labels:
        raise UserError(f"--baseline={asked['baseline']} is not among --models={','.join(labels)}")
    Resources("run", asked["cpus_per_run"], asked["gpus_per_run"])
    asked["seeds"] = parse_seeds(asked["seeds"])
    asked["tie_orders"] = parse_tie_seeds(asked["tie_orders"])
    asked["model_configs"] = model_files(asked["model_configs"], labels)


def page_command(verb: str, arguments: Sequence[str]) -> str:
    """The command line as a page shows it, without the places of this machine."""
    kept = []
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and key in FOLDERS and (key in PLACES or Path(value).is_absolute()):
            kept.append(f"--{key}=FOLDER")
        elif not (argument.startswith("--") and key in PLACES):
            kept.append(argument)
    return shlex.join(["python", "run_recbole_gen.py", verb, *kept])


def require_test(test: Any, resamples: Any) -> None:
    """Raise UserError unless there is such a test, and the bootstrap has enough resamples for intervals."""
    if test not in TESTS:
        raise UserError(f"there is no test '{test}'; there are: {', '.join(TESTS)}")
    if not is_whole(resamples) or resamples < 100:
        raise UserError(f"resamples must be a whole number of at least 100, got {resamples!r}")
