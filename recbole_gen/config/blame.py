"""Whose mistake it is when RecBole's code fails: that of settings which its user has changed, or a defect."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path

from recbole_gen.config import places
from recbole_gen.config.config import Config
from recbole_gen.config.keys import COMMAND_LINE, DICT, RESUMED
from recbole_gen.errors import UserError
from recbole_gen.options import is_number, read_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = {"model": ("model",), "data": ("data", "sampler")}
"""Where RecBole's code for models, and for data sets, is."""
OF_EVERY_MODEL = (
    "MAX_ITEM_LIST_LENGTH", "embedding_size", "reg_weight", "train_neg_sample_args", "eval_args", "enable_amp",
    "numerical_features",
)  # fmt: skip
"""Keys beside its own by which a model can be made to fail."""
FAR = 100
"""A number so many times its default, or such a part of it, is worth a look where something has gone wrong."""
SHOWN = 8
"""Settings that a message names."""


@contextlib.contextmanager
def blaming_settings(config: Config, what: str) -> Iterator[None]:
    """Turn what RecBole's own code raises into a UserError, if settings that the user has changed can be the cause.

    RecBole checks little: a layer of the wrong size is torch's RuntimeError, a wrong word a TypeError. With the
    settings that RecBole ships, an error is a defect and keeps its traceback; so does what our own code, or a class of
    the user's own, raises.

    Args:
        what: `model` for its construction, training and evaluation, `data` for loading and splitting.
    """
    try:
        yield
    except (UserError, MemoryError, ImportError):
        raise
    except Exception as error:
        changed = changed_settings(config, what)
        is_recboles = what == "data" or config.is_recbole_model
        if not (is_recboles and changed and _is_raised_in(FOLDERS[what], error)):
            raise
        subject = config["model"] if what == "model" else f"the data set '{config['dataset']}'"
        raise UserError(
            f"{subject} does not work with these settings ({_describe(config, changed)}): {describe_error(error)} "
            f"(--state=DEBUG writes the traceback into run.log)"
        ) from error


def changed_settings(config: Config, what: str) -> list[str]:
    """Keys that can be the cause, and that neither RecBole nor we set as they are."""
    if what == "data":
        keys = {*config.parameters["Dataset"], "numerical_features", "discretization", "eval_args"}
    else:
        own = read_yaml(places.RECBOLE_PROPERTIES / f"model/{config['model']}.yaml") if config.is_recbole_model else {}
        keys = {*own, *OF_EVERY_MODEL}
    return sorted(key for key in keys if _is_users(config.origins.get(key)))


def far_settings(config: Config) -> list[str]:
    """`key value (default ...)` of the user's real numbers that are FAR times their defaults or more, or as far below,
    the farthest first."""
    distances = {}
    for key, default in config.defaults.items():
        value = config.final_config_dict.get(key)
        if not (is_number(value) and is_number(default) and isinstance(value + default, float) and value and default):
            continue
        distance = abs(math.log(abs(value)) - math.log(abs(default)))
        if distance >= math.log(FAR) and _is_users(config.origins.get(key)):
            distances[key] = distance
    keys = sorted(distances, key=lambda key: -distances[key])
    return [f"{key} {config.final_config_dict[key]} (default {config.defaults[key]})" for key in keys[:SHOWN]]


def _is_users(origin: str | None) -> bool:
    return origin in (DICT, COMMAND_LINE, RESUMED) or (origin is not None and Path(origin).is_file())


def _describe(config: Config, keys: Collection[str]) -> str:
    shown = [f"{key}: {config.final_config_dict[key]!r}" for key in list(keys)[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(keys) > SHOWN else [])])


def describe_error(error: BaseException) -> str:
    """The first line of what an error says, or the statement that raised one that says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    said = lines[0] if lines else (frames[-1].line or "" if frames else "")
    return f"{type(error).__name__}: {said}"


def _is_raised_in(folders: Collection[str], error: BaseException) -> bool:
    """Whether the innermost code of RecBole or ours that the error has passed is in these folders of RecBole."""
    recbole, inner, statement = places.RECBOLE.resolve(), None, ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename).resolve()
        # Shims stand in for RecBole's functions, and Config is read everywhere.
        is_ours = path.is_relative_to(_PACKAGE) and path.parent.name != "compat" and path.name != "config.py"
        if is_ours or path.is_relative_to(recbole):
            inner, statement = path, frame.line or ""
    if "model" in folders and statement.endswith(".backward()"):  # what torch computes there is the model's loss
        return True
    return inner is not None and any(inner.is_relative_to(recbole / folder) for folder in folders)
