"""The runs that a comparison needs: planned from what is asked for, and refused where they could not be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from recbole.utils import EvaluatorType, ModelType

from recbole_gen.compare.arguments import EVALUATION_KEYS, REFUSED_KEYS, file_name
from recbole_gen.compare.finished_runs import normalised_setting
from recbole_gen.compare.tested_users import require_same_test_rows
from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.config.early_checks import LABEL_HINT, keys_of_others
from recbole_gen.config.layers import Source, layers_of_verb, merge_layers, run_values, with_origins
from recbole_gen.config.papers import DEFAULT_PROTOCOL
from recbole_gen.data import requirements
from recbole_gen.data.set_splits import SET_SPLITS
from recbole_gen.errors import MissingDataset, UserError
from recbole_gen.evaluation import significance
from recbole_gen.files import require_folder_output
from recbole_gen.prepare.missing_dataset import with_dataset_fetched
from recbole_gen.reading.item_vectors import files_of_vectors
from recbole_gen.reading.semantic_ids import find_id_file


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        tie_seed: of a run that is made to see how much the order of simultaneous events matters; None for the others.
        folder: the run's, absolute.
        values: what `run` gets.
        settings: all settings that follow from them.
        data: name of each file of the data set, and key of each other file that is given -> digest.
    """

    label: str
    seed: int
    folder: str
    values: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, str]
    tie_seed: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.label}, seed {self.seed}" + ("" if self.tie_seed is None else f", tie seed {self.tie_seed}")


def plan_jobs(
    labels: Sequence[str],
    seeds: Sequence[int],
    values: dict[str, Any],
    files: Mapping[str, Sequence[Source]],
    folder: Path,
    tie_seeds: Sequence[int] = (),
) -> tuple[list[Job], dict[str, str]]:
    """The runs of a comparison in the order of labels and seeds, and why which labels cannot run on the data set.

    Args:
        values: keys of `run`, for all models that have them.
        files: label -> settings of that model alone, where it has any.
        folder: the comparison's.
        tie_seeds: of orders of simultaneous events, for each of which every label has a run more, with the first seed.

    Raises UserError if none can, for what is mistyped (models, files of single models), and for models whose files
    change what all must share.
    """
    jobs: list[Job] = []
    left_out: dict[str, str] = {}
    data: dict[str, str] = {}
    configs: dict[str, Config] = {}
    own_files: dict[str, Sequence[Source]] = {label: files.get(label, ()) for label in labels}
    digest = cache(_file_digest)  # a file that several models are given is read once
    models = {label: _existing_model(label, values, own) for label, own in own_files.items()}
    not_theirs = keys_of_others(values, own_files)
    for label, own in own_files.items():
        given = run_values(values, own, list(models.values()), model=label, mask_seen=False, group_metrics="length")
        given = {key: value for key, value in given.items() if key not in not_theirs[label]}
        try:
            config = _comparable_config({**given, "seed": max(seeds)})
            if tie_seeds:
                requirements.refuse_split_files_without_order(config)
        except MissingDataset:
            raise  # it is missing for all, and would be asked for once a model
        except UserError as error:
            reason = with_origins(error, values, own)
            if any(f"({file[0] if isinstance(file, tuple) else file})" in reason for file in own):
                raise UserError(f"{label}: {reason}") from None
            left_out[label] = reason
            continue
        configs[label] = config
        settings, data = config.settings(), data or _data_digests(config)
        digests = data | _given_digests(config, digest)
        # One order for all seeds, whose runs are tested on the same events then.
        order = {"tie_seed": seeds[0]} if config["tie_order"] == "random" and config["tie_seed"] is None else {}
        plan: list[tuple[int, int | None, dict[str, Any]]] = [(seed, None, order) for seed in seeds]
        plan += [(seeds[0], each, {"tie_order": "random", "tie_seed": each}) for each in tie_seeds]
        for seed, tie_seed, more in plan:
            own_values = {"seed": seed, **more}
            name = f"{file_name(label)}-{seed}" + ("" if tie_seed is None else f"-ties{tie_seed}")
            where = str(folder / "runs" / name)
            jobs.append(Job(label, seed, where, {**given, **own_values}, {**settings, **own_values}, digests, tie_seed))
    if not jobs:
        reasons = set(left_out.values())
        told = [f"{label}: {reason}" for label, reason in left_out.items()]
        raise UserError(reasons.pop() if len(reasons) == 1 else "\n".join(["no model can run:", *told]))
    _require_comparable([job for job in jobs if job.tie_seed is None])
    require_same_test_rows(configs)
    for label, reason in left_out.items():
        if reason.startswith("unknown key"):
            left_out[label] = f"{reason} Give it to the models that have it alone, in their files (--model_configs)."
    return jobs, left_out


def _require_comparable(jobs: Sequence[Job]) -> None:
    first = jobs[0]
    for job in jobs:
        for key in (*EVALUATION_KEYS, "mask_seen", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
            if normalised_setting(job.settings, key) != normalised_setting(first.settings, key):
                raise UserError(
                    f"{job.label} and {first.label} would not be comparable: {key} is {job.settings.get(key)!r} for "
                    f"the one and {first.settings.get(key)!r} for the other. Set it for all: --{key}=..."
                )


def _existing_model(label: str, values: dict[str, Any], own: Sequence[Source]) -> str:
    """The name of a label's model. Raises UserError for one that no model has; one whose packages are missing is left
    to `_comparable_config`."""
    name = str(merge_layers([("", {"model": label}), *layers_of_verb(values, own)])["model"])
    try:
        registry.resolve_model(name)
    except UserError as error:
        if not isinstance(error.__cause__, ImportError):
            raise UserError(f"{error}{'' if own else LABEL_HINT}") from None
    return name


def _comparable_config(values: dict[str, Any]) -> Config:
    """The configuration of a run that ranks all items, as a comparison needs; raises UserError if it is not one."""
    config = with_dataset_fetched(partial(Config, config_dict=values))
    if config["nproc"] > 1:
        raise UserError("a comparison runs each model in one process: nproc must be 1")
    if config["eval_type"] != EvaluatorType.RANKING or config["eval_args"]["mode"]["test"] != "full":
        raise UserError(
            "it is not evaluated by ranking all items, which a comparison needs: eval_args: mode: full, and a model "
            "that ranks"
        )
    if not config["save_ranks"]:
        raise UserError("the tests per user read the ranks of all targets: save_ranks must be True")
    if not any(metric.lower() in significance.PER_ROW_METRICS for metric in config["metrics"]):
        raise UserError(f"none of the metrics {', '.join(config['metrics'])} has a value for each user: add NDCG, say")
    sets = not config["benchmark_filename"] and set(config["eval_args"]["split"] or ()) & set(SET_SPLITS)
    if config["mask_history"] and config["MODEL_TYPE"] != ModelType.SEQUENTIAL and not sets:
        raise UserError(
            "mask_history takes items out of the rankings of sequential models only: give --mask_seen=true, which does "
            "so for all alike"
        )
    requirements.check_before_loading(config)
    return config


def shared_values(values: dict[str, Any]) -> dict[str, Any]:
    """What all runs get. Raises UserError for files with keys that a comparison cannot give to all."""
    common = run_values(values)
    for key in REFUSED_KEYS:
        if key in common:
            raise UserError(f"config_files sets `{key}`, which would be for all models of the comparison: take it out")
    return common


def choose_seeds(seeds: int | list[int], common: dict[str, Any]) -> list[int]:
    """The seeds as a list; where they are a number, so many from the run's own `seed` on."""
    if isinstance(seeds, list):
        return seeds
    first = common.get("seed", 2020)
    if type(first) is not int or first < 0:
        raise UserError(f"seed must be a whole number of at least 0, got {first!r}")
    return list(range(first, first + seeds))


def output_folder(given: Any, common: dict[str, Any]) -> Path:
    """Where the comparison goes, absolute: ``given``, or a folder named after data set and protocol.

    Raises UserError if it cannot be written, or something else lies there.
    """
    name = f"{common.get('dataset')}-{common.get('protocol') or DEFAULT_PROTOCOL}"
    folder = Path(str(given or Path(str(common.get("checkpoint_dir", "saved"))) / "compare" / name)).absolute()
    require_folder_output(folder)
    others = [path.name for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else []
    if others and not (folder / "runs").is_dir():
        raise UserError(f"{folder} is no empty folder, and no comparison lies in it: name another --output")
    return folder


def _data_digests(config: Config) -> dict[str, str]:
    """A digest of each file of the data set: its runs are not to be mixed with those on another one of that name."""
    folder = Path(config["data_path"])
    return {path.name: _file_digest(path) for path in sorted(folder.glob(f"{config['dataset']}.*")) if path.is_file()}


def _given_digests(config: Config, digest: Callable[[Path], str]) -> dict[str, str]:
    """The same by key of what `item_vectors` and `semantic_ids` name, where they do."""
    found = {}
    if config["item_vectors"]:
        found["item_vectors"] = " ".join(map(digest, files_of_vectors(config["item_vectors"])))
    if config["semantic_ids"]:
        found["semantic_ids"] = digest(find_id_file(config["semantic_ids"]))
    return found


def _file_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
