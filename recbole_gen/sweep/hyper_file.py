"""RecBole's files of hyper-parameters (recbole/trainer/hyper_tuning.py): lines of `key kind range`.

There are four kinds: `choice` with a Python list, `uniform low,high`, `quniform low,high,step`, and `loguniform
low,high`, where the bounds are exponents of e. RecBole searches exhaustively unless told otherwise, so in a file of
`choice` lines only, these are a grid; beside other kinds they are drawn.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import parse_scalar
from recbole_gen.sweep.space import KINDS, Dimension
from recbole_gen.sweep.space_checks import Entry, as_plain, checked_bounds, checked_dimension, checked_options, refuse

HYPER_KINDS = ("choice", "uniform", "quniform", "loguniform")


def read_hyper_entries(path: Path) -> list[Entry]:
    """The dimensions in a file of RecBole's. Raises UserError, with the line, for what is not of the form above."""
    entries: list[Entry] = []
    first: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split(None, 2)
        if len(parts) < 3:
            raise UserError(
                f"{path}, line {number}: '{line.strip()}' is not of RecBole's form `key kind range`, such as "
                f"`learning_rate loguniform -8,0` (a file of YAML must have a name that ends in .yaml)"
            )
        name, kind, text = parts
        where = f"{path}, line {number}: {name}"
        if name in first:
            raise UserError(f"{path}, line {number}: '{name}' is there twice, first in line {first[name]}")
        first[name] = number
        entries.append((checked_dimension(Dimension(name, kind, _parse_values(kind, text, where)), where), where))
    if all(dimension.kind == "choice" for dimension, _ in entries):
        return [(Dimension(dimension.name, "grid", dimension.values), where) for dimension, where in entries]
    return entries


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no search space {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the search space {path} cannot be read: {error}") from None


def _parse_values(kind: str, text: str, where: str) -> tuple[Any, ...]:
    if kind not in HYPER_KINDS:
        hint = did_you_mean(kind, HYPER_KINDS)
        refuse(
            where,
            f"RecBole's files have no search '{kind}'.{hint} They have {', '.join(HYPER_KINDS)}; a file whose name "
            f"ends in .yaml may have {', '.join(KINDS)}",
        )
    if kind == "choice":
        # RecBole wants lists among the options quoted, and reads numbers and lists out of text.
        listed = _parse_list(text, where)
        options = [parse_scalar(value) if isinstance(value, str) else as_plain(value) for value in listed]
        return checked_options(options, kind, where)
    numbers = [parse_scalar(part.strip()) for part in text.partition("#")[0].split(",")]
    if kind != "loguniform":
        return checked_bounds(numbers, kind, where)
    exponents = checked_bounds(numbers, "uniform", f"{where}: exponents of e, drawn evenly")
    try:
        return checked_bounds([math.exp(exponent) for exponent in exponents], kind, where)
    except OverflowError:
        refuse(where, f"loguniform takes exponents of e in RecBole's files, and e^{exponents[1]} is too large")


def _parse_list(text: str, where: str) -> list[Any]:
    """RecBole evaluates the text as Python; here it may hold nothing but values."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, (list, tuple)):
        refuse(
            where, f"choice needs a list of plain values as Python writes it, such as [64, 'full'], got {text.strip()}"
        )
    return list(values)
