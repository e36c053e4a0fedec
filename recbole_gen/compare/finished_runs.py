"""Finished runs, read from their folders; those that do not answer the same question are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import EVALUATION_KEYS
from recbole_gen.data.set_splits import SET_SPLITS
from recbole_gen.errors import UserError

BEFORE = {
    "tie_order": "file",
    "item_vectors_whiten": False,
    "causal": False,
    "positions_from": "end",
    "digit_softmax": "all",
}
"""Keys that are newer than some runs -> the value that these runs, which do not have it, were made with."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, and the content of its result.json."""

    folder: Path
    result: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """All settings of the run."""
        return self.result["config"]

    @property
    def seed(self) -> int:
        """The run's, which tells it from the others of its model."""
        return self.result["seed"]


def read_runs(label: str, folders: Sequence[Path]) -> list[FinishedRun]:
    """The runs of one contender by seed. Raises UserError if they are not of one model, or a seed comes twice."""
    runs = sorted((read_run(Path(folder)) for folder in folders), key=lambda run: run.seed)
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"{label} has two runs with seed {one.seed}, {one.folder} and {other.folder}: give one")
        if one.config["model"] != other.config["model"]:
            raise UserError(f"{label} has runs of two models, {one.config['model']} and {other.config['model']}")
    return runs


def read_run(folder: Path) -> FinishedRun:
    """The run in a folder. Raises UserError if there is none, or none that can be compared."""
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no finished run: there is no result.json in it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run it again") from None
    if not isinstance(result, dict) or not isinstance(result.get("config"), dict):
        raise UserError(f"{path} is not the result of a run")
    if not result.get("test_result"):
        raise UserError(f"{folder} has no test result: only tested runs can be compared")
    if not result.get("scoring"):
        raise UserError(f"{path} was written by an older version, which measured no scoring times: run it again")
    return FinishedRun(folder, result)


def describe_run(run: FinishedRun) -> str:
    """Model, seed and folder, for messages."""
    return f"{run.config['model']} with seed {run.seed} ({run.folder})"


def require_comparable(runs: Sequence[FinishedRun], but: Sequence[str] = ()) -> None:
    """Raise UserError, with two runs and the key, unless all rank the same for the same users, measured alike.

    They may differ in the keys of ``but``.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in (key for key in EVALUATION_KEYS if key not in but):
            mine, theirs = normalised_setting(first.config, key), normalised_setting(run.config, key)
            if mine != theirs:
                raise UserError(
                    f"{describe_run(first)} and {describe_run(run)} cannot be compared: {key} is {mine!r} and "
                    f"{theirs!r}. Run both with the same {key}"
                )
        given = [each.config.get("mask_seen") for each in (first, run)]
        drops_rows = given[0] != given[1] and "all" in given
        if drops_rows or (masks_seen_items(first.config) != masks_seen_items(run.config) and given != [None, None]):
            raise UserError(
                f"{describe_run(first)} and {describe_run(run)} cannot be compared: mask_seen is {given[0]!r} and "
                f"{given[1]!r}. Run both with the same mask_seen"
            )


def normalised_setting(config: dict[str, Any], key: str) -> Any:
    """A setting in a form that is equal for equal meanings: metrics in any order and case, one cut-off or a list; what
    is said of the split does not matter where the parts come as files."""
    value = config.get(key, BEFORE.get(key))
    if key == "eval_args" and config.get("benchmark_filename") and isinstance(value, dict):
        return {name: each for name, each in value.items() if name not in ("split", "group_by")}
    if key in ("metrics", "topk"):
        return sorted(str(each).lower() for each in (value if isinstance(value, list) else [value]))
    return str(value).lower() if key == "valid_metric" else value


def masks_seen_items(config: dict[str, Any]) -> bool:
    """Whether what a user has seen leaves the ranking; by default it does for general models, as in RecBole, unless the
    protocol predicts sets."""
    split = (config.get("eval_args") or {}).get("split") or {}
    if not config.get("benchmark_filename") and set(split) & set(SET_SPLITS):
        return bool(config.get("mask_history") or config.get("mask_seen"))
    if config.get("mask_seen") is not None:
        return bool(config["mask_seen"])
    return not config.get("repeatable")
