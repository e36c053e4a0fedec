"""The exception for mistakes of the user: the command line prints its message without a traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message names the cause and the cure."""


class MissingDataset(UserError):
    """There is no data set of this name; ``data_path`` is where the user looks for it."""

    def __init__(self, message: str, name: str = "", data_path: str = ""):
        super().__init__(message)
        self.name, self.data_path = name, data_path


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """` Did you mean NAME?`, with the nearest of the known names; nothing if none is near."""
    near = difflib.get_close_matches(str(given), list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def quoted_option(key: str, value: object) -> str:
    """`--key=value` as a message suggests it: in the quotes of a shell where blanks and the like need them."""
    return shlex.quote(f"--{key}={value}")
