"""The command lines of the verbs: a verb's own options beside the keys of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from recbole_gen.config import merge, read_user_layers
from recbole_gen.errors import UserError


def split(
    given: dict[str, Any], defaults: dict[str, Any], verb: str, refused: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A verb's own options over their defaults, and the keys of a run; raises UserError for keys in ``refused``."""
    for key in refused:
        if key in given:
            raise UserError(f"--{key} is not for {verb}; `recbole-gen {verb} --help` says what is")
    for key, value in given.items():
        if key in defaults and value is True and not isinstance(defaults[key], bool):
            raise UserError(f"--{key} needs a value: --{key}=...")
    own = {key: value for key, value in given.items() if key in defaults}
    return {**defaults, **own}, {key: value for key, value in given.items() if key not in defaults}


def run_values(values: dict[str, Any], files: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """What `run` gets, as one dict that any machine can read: files (those of `config_files` first), then the values.

    ``more`` has what is weaker than both. The data path is absolute: workers have working folders of their own.
    """
    common = [*str(values.get("config_files") or "").split(), *files]
    given = {key: value for key, value in values.items() if key != "config_files"}
    merged = merge([("", more), *read_user_layers(common), ("command line", given)])
    merged["data_path"] = os.path.abspath(str(merged.get("data_path", "dataset")))
    return merged
