"""The layers of settings that a user gives: files, a dict, a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen.errors import UserError
from recbole_gen.options import parse_arguments, parse_scalar, read_yaml

Layer = tuple[str, dict[str, Any]]


def read_user_layers(
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
) -> list[Layer]:
    """What the user gives, as (origin, values), the weakest first: files, dict, command line."""
    arguments = parse_arguments(argv)
    values = {key: _parse_value(value) for key, value in (config_dict or {}).items()}
    files = [*(config_file_list or []), *_file_list(values.pop("config_files", None))]
    files += _file_list(arguments.pop("config_files", None))
    return [*((str(file), read_yaml(Path(file))) for file in files), ("dict", values), ("command line", arguments)]


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged.update(layer)
    return merged


def _parse_value(value: Any) -> Any:
    """RecBole reads numbers, lists and dicts out of strings in a dict of parameters; other strings stay as they are."""
    if isinstance(value, np.generic):
        return value.item()
    parsed = parse_scalar(value) if isinstance(value, str) else value
    return value if parsed is None else parsed


def _file_list(value: Any) -> list[str]:
    """RecBole's form, names separated by blanks, or a list."""
    if value is True:
        raise UserError("--config_files needs the names of YAML files")
    return list(value) if isinstance(value, (list, tuple)) else str(value).split() if value is not None else []


def run_values(values: dict[str, Any], files: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """What `run` gets, as one dict that any machine can read: files (those of `config_files` first), then the values.

    ``more`` has what is weaker than both. The data path is absolute: workers have working folders of their own.
    """
    merged = merge_layers([("", more), *_layers(values, files)])
    merged["data_path"] = os.path.abspath(str(merged.get("data_path", "dataset")))
    return merged


def with_origins(error: UserError, values: dict[str, Any], files: Sequence[str] = ()) -> str:
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
