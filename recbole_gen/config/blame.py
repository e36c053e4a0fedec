"""Whose mistake it is when a model of RecBole's fails: that of the settings which its user has changed, or a defect."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path

from recbole_gen.config import places
from recbole_gen.config.config import Config
from recbole_gen.config.keys import COMMAND_LINE, DICT, RESUMED
from recbole_gen.errors import UserError
from recbole_gen.options import read_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
SHOWN = 8
"""Settings that a message names."""


@contextlib.contextmanager
def blaming_settings(config: Config) -> Iterator[None]:
    """Turn what a model of RecBole's raises, in its own code, into a UserError if settings that its user has changed
    can be the cause.

    RecBole checks little: a layer of the wrong size is torch's RuntimeError, a wrong word a TypeError. With the
    settings that RecBole ships, an error is a defect and keeps its traceback; so does what our own code, or a class of
    the user's own, raises.
    """
    try:
        yield
    except (UserError, MemoryError, ImportError):
        raise
    except Exception as error:
        changed = changed_settings(config)
        if not (config.is_recbole_model and changed and _is_raised_in_model(error)):
            raise
        settings = _describe(config, changed)
        raise UserError(
            f"{config['model']} does not run with these settings ({settings}): {describe_error(error)}"
        ) from error


def changed_settings(config: Config) -> list[str]:
    """The model's own keys, and the length of histories, that neither RecBole nor we set as they are."""
    own = read_yaml(places.RECBOLE_PROPERTIES / f"model/{config['model']}.yaml") if config.is_recbole_model else {}
    keys = {*own, "MAX_ITEM_LIST_LENGTH", "embedding_size", "reg_weight", "train_neg_sample_args", "eval_args"}
    return sorted(key for key in keys if _is_users(config.origins.get(key)))


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


def _is_raised_in_model(error: BaseException) -> bool:
    """Whether the innermost code of RecBole or ours that the error has passed is that of RecBole's models."""
    ours = [
        Path(frame.filename).resolve()
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(places.RECBOLE.resolve())
        or Path(frame.filename).resolve().is_relative_to(_PACKAGE)
    ]
    inner = [path for path in ours if path.name not in ("kernels.py", "configurator.py")]
    return bool(inner) and inner[-1].is_relative_to((places.RECBOLE / "model").resolve())
