"""The command lines of the verbs: a verb's own options beside the keys of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from recbole_gen.config.config import Layer, merge, read_user_layers
from recbole_gen.errors import UserError


def split(
    given: dict[str, Any], defaults: dict[str, Any], verb: str, refused: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A verb's own options over their defaults, and the keys of a run; raises UserError for keys in ``refused``."""
    for key in refused:
        if key in given:
            raise UserError(f"--{key} is not for {verb}; `recbole-gen {verb} --help` says what is")
    own = {key: value for key, value in given.items() if key in defaults}
    for key, value in own.items():
        is_switch = isinstance(defaults[key], bool)
        if value is True and not is_switch:
            raise UserError(f"--{key} needs a value: --{key}=...")
        if is_switch and not isinstance(value, bool):
            raise UserError(f"--{key} must be true or false, got {value!r}")
    return {**defaults, **own}, {key: value for key, value in given.items() if key not in defaults}


def own(given: dict[str, Any], defaults: dict[str, Any], verb: str) -> dict[str, Any]:
    """The options of a verb that takes no keys of a run, over their defaults; raises UserError for any other key."""
    values, others = split(given, defaults, verb, ())
    if others:
        known = ", ".join("--" + key for key in defaults)
        raise UserError(f"{verb} has no option --{next(iter(others))}; its options are {known}")
    return values


def run_values(values: dict[str, Any], files: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """What `run` gets, as one dict that any machine can read: files (those of `config_files` first), then the values.

    ``more`` has what is weaker than both. The data path is absolute: workers have working folders of their own.
    """
    merged = merge([("", more), *_layers(values, files)])
    merged["data_path"] = os.path.abspath(str(merged.get("data_path", "dataset")))
    return merged


def told(error: UserError, values: dict[str, Any], files: Sequence[str] = ()) -> str:
    """What `Config` says against the result of `run_values`, with the file of each key in place of `(dict)`."""
    origins = {key: origin for origin, layer in _layers(values, files) for key in layer}
    lines = []
    for line in str(error).splitlines():
        origin = next((origins[word] for word in re.findall(r"\w+", line) if word in origins), "dict")
        lines.append(line.replace("(dict)", f"({origin})"))
    return "\n".join(line for line in lines if not line.startswith("--print-config"))  # the verbs do not have it


def _layers(values: dict[str, Any], files: Sequence[str]) -> list[Layer]:
    """What the user gives, the weakest first."""
    common = str(values.get("config_files") or "").split()
    given = {key: value for key, value in values.items() if key != "config_files"}
    return [*read_user_layers([*common, *files]), ("command line", given)]
