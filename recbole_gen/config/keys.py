"""Which keys a run can have: those of the YAML files, ours and RecBole's, and RecBole's lists of arguments.

Nothing is imported for it: the lists are read from RecBole's source.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_gen.config import places
from recbole_gen.config.registry import MODELS, ModelInfo
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import read_yaml

Layer = tuple[str, dict[str, Any]]
"""Where values come from, and the values."""
UNLISTED_KEYS = {
    "model", "dataset", "protocol", "paper", "resume", "MODEL_INPUT_TYPE", "reg_weight", "embedding_size",
    "user_defined_transform",
}  # fmt: skip
"""Keys that RecBole's code reads without a default in its YAML files, and those that choose the layers."""
PROTOCOL_KEYS = (
    "eval_args", "benchmark_filename", "targets", "empty_history", "sequence_order", "positives", "period_start",
    "least_history", "least_future",
)  # fmt: skip
"""Keys of protocols that decide what is held out."""
DICT, COMMAND_LINE, RESUMED = "dict", "command line", "resumed run"
"""Origins of values that are for this run alone; all other origins are files."""
SHOWN = 4
"""Models that a message names."""


class UnknownKeys(UserError):
    """Keys that nothing reads, or that other models do: ``unknown``, key -> the layer that set it."""

    def __init__(self, message: str, unknown: dict[Any, str] | None = None):
        super().__init__(message)
        self.unknown = unknown or {}


def argument_lists() -> dict[str, list[str]]:
    """RecBole's arguments by their kind, as its Config has them: General, Training, Evaluation, Dataset."""
    tree = ast.parse((places.RECBOLE / "utils/argument_list.py").read_text(encoding="utf-8"))
    lists = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    kinds = ("general", "training", "evaluation", "dataset")
    return {kind.capitalize(): ast.literal_eval(lists[f"{kind}_arguments"]) for kind in kinds}


def known_keys(shipped: Iterable[Layer]) -> set[str]:
    """The keys that a run with these layers of files, RecBole's and ours, can have."""
    return UNLISTED_KEYS.union(*argument_lists().values(), *(layer for _, layer in shipped))


def keys_of_every_model() -> set[str]:
    """The keys that a run has whatever its model: RecBole's arguments, and those of the files for all models."""
    files = [read_yaml(places.PROPERTIES / f"{name}.yaml") for name in ("overall", "recbole")]
    return set().union(*argument_lists().values(), *files)


def is_key(name: Any) -> bool:
    """Whether runs of all models, or of some, have a key of this name."""
    return name in UNLISTED_KEYS | keys_of_every_model() or bool(models_with(name))


def models_with(key: Any) -> list[str]:
    """The models that have a key of this name in their YAML file: ours, then RecBole's."""
    ours = _keys_of_models(places.PROPERTIES / "model")
    theirs = _keys_of_models(places.RECBOLE_PROPERTIES / "model")
    owners = [name for name, names in ours.items() if key in names]
    return owners + [f"recbole.{name}" if name in MODELS else name for name, names in theirs.items() if key in names]


@functools.cache
def _keys_of_models(folder: Path) -> dict[str, set[Any]]:
    return {file.stem: set(read_yaml(file)) for file in sorted(folder.glob("*.yaml"))}


def require_known_keys(
    info: ModelInfo, shipped: Sequence[Layer], given: Sequence[Layer], options: Iterable[str] = ()
) -> tuple[list[Layer], list[str]]:
    """What `without_keys_of_others` returns. Raises UnknownKeys for all other keys that the model does not have: with
    the nearest one that it has, of the command line also the nearest of a verb's ``options``, or the models that have
    it."""
    kept, ignored = without_keys_of_others(info, shipped, given)
    known = known_keys(shipped)
    wrong = {key: origin for origin, layer in kept for key in layer if key not in known}
    if wrong:
        raise UnknownKeys(_describe_unknown(info, wrong, known, options), wrong)
    return kept, ignored


def without_keys_of_others(
    info: ModelInfo, shipped: Sequence[Layer], given: Sequence[Layer], compared: Sequence[str] = ()
) -> tuple[list[Layer], list[str]]:
    """The layers that the user gives without the keys of other models in his files, and a line about each of these,
    which names of the models that have the key those that are ``compared`` first.

    One file may serve several models, as in RecBole. What is given for this run alone, on the command line or in a
    dict, stays, and so does what is for a class of the user's own that does not declare its keys.
    """
    known = known_keys(shipped)
    kept: list[Layer] = []
    ignored: list[str] = []
    for origin, layer in given:
        left = dict(layer)
        if origin not in (DICT, COMMAND_LINE, RESUMED) and not info.missing_settings:
            for key in layer.keys() - known:
                if owners := models_with(key):
                    del left[key]
                    does = "does" if len(owners) == 1 else "do"
                    who = _list_models(owners, compared)
                    ignored.append(f"{key} ({origin}) is ignored: {info.name} does not read it, {who} {does}")
        kept.append((origin, left))
    return kept, sorted(ignored)


def _list_models(models: Sequence[str], first: Sequence[str] = ()) -> str:
    models = sorted(models, key=lambda name: name not in first)  # in their order otherwise
    return ", ".join(models[:SHOWN]) + (" ..." if len(models) > SHOWN else "")


def _nearest(key: Any, origin: str, known: set[str], options: Iterable[str]) -> str:
    """What to add to a message about an unknown key; options of a verb are on its command line only."""
    return did_you_mean(key, known.union(options if origin == COMMAND_LINE else ()), ": did you mean '{}'?") or "."


def _describe_unknown(info: ModelInfo, unknown: dict[Any, str], known: set[str], options: Iterable[str]) -> str:
    lines = []
    for key, origin in unknown.items():
        hint, owners = _nearest(key, origin, known, options), models_with(key)
        if owners:
            hint = f" for {info.name}: it is a key of {_list_models(owners)}."
            if not info.missing_settings:
                hint += f" Leave it out, take --model={owners[0]}, or put it into a file of --config_files, which"
                hint += " several models may share: there it is ignored, with a warning."
        lines.append(f"unknown key '{key}' ({origin}){hint}")
    if info.missing_settings:
        lines.append(f"{info.name}'s own keys have their defaults in {info.missing_settings}, which does not exist.")
    return "\n".join([*lines, "--print-config shows every key of a run with its value and origin."])


def describe_unknown_to_all(
    models: Sequence[str], unknown: dict[Any, str], known: set[str], options: Iterable[str] = ()
) -> str:
    """The message about keys that none of several models has; ``known`` are those that some of them has, ``options``
    those of a verb."""
    lines = []
    for key, origin in unknown.items():
        hint, owners = _nearest(key, origin, known, options), models_with(key)
        if owners:
            hint = f": it is a key of {_list_models(owners)}, and not of {' or '.join(models)}. Leave it out."
        lines.append(f"unknown key '{key}' ({origin}){hint}")
    return "\n".join(lines)
