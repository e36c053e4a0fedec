"""The exception for mistakes of the user: the command line prints its message without a traceback."""

from __future__ import annotations

import difflib
import itertools
import shlex
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """Bad input. The message names the cause and the cure."""


class SharedMistake(UserError):
    """Bad input that is found once the data set is loaded, and is the same for all runs of a comparison."""


class MissingDataset(UserError):
    """There is no data set of this name; ``data_path`` is where the user looks for it."""

    def __init__(self, message: str, name: str = "", data_path: str = ""):
        super().__init__(message)
        self.name, self.data_path = name, data_path


def did_you_mean(
    given: object, known: Iterable[object], form: str = " Did you mean {}?", most: int = 1, cutoff: float = 0.6
) -> str:
    """What to add to a message about an unknown name: ``form`` with the nearest of the known ones, at most so many,
    upper and lower case being alike; nothing if none is as near as ``cutoff``, of 1 for the same."""
    names = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(given).lower(), names, n=most, cutoff=cutoff)
    return form.format(" or ".join(names[match] for match in near)) if near else ""


def refuse_shared_columns(columns: Mapping[str, object], hint: str = "") -> None:
    """Raise UserError where two of these, each an option or key -> the column that it names, name one column."""
    for (first, column), (second, other) in itertools.combinations(columns.items(), 2):
        if column and column == other:
            raise UserError(f"{first} and {second} must name two columns, got {column!r} for both{hint}")


def quoted_option(key: str, value: object) -> str:
    """`--key=value` as a message suggests it: in the quotes of a shell where blanks and the like need them."""
    return shlex.quote(f"--{key}={value}")


def counted(number: int, what: str, verb: str = "") -> str:
    """`1 event is` or `2,000 events are`: a number with its noun, which is given in the singular, and perhaps a verb in
    the plural, one of are, were, have and do, or one that gets an s."""
    if number != 1:
        last, before = what[-1:], what[-2:-1]
        if last == "y" and before not in "aeiou":
            what = f"{what[:-1]}ies"
        else:
            what = f"{what}es" if what.endswith(("s", "x", "tch", "sh")) else f"{what}s"
    else:
        verb = {"are": "is", "were": "was", "have": "has", "do": "does", "": ""}.get(verb, f"{verb}s")
    return f"{number:,} {what} {verb}".rstrip()
