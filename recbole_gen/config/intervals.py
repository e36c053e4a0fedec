"""Intervals of numbers as RecBole writes them, `[5,inf)` or several as `[0,3];[5,10)`: read, or refused.

RecBole warns of what it cannot read, and goes on without the filter.
"""

from __future__ import annotations

import math
import re
from typing import Any

from recbole_gen.errors import UserError
from recbole_gen.options import is_number

INTERVAL_KEYS = (
    "user_inter_num_interval", "item_inter_num_interval", "entity_kg_num_interval", "relation_kg_num_interval",
)  # fmt: skip
"""Keys whose value is one interval, or several; `val_interval` has one for each column of numbers."""
FORM = "an interval in quotes such as '[5,inf)' or '(0,10]', or several as '[0,3];[5,10)'"

Interval = tuple[str, float, float, str]
"""Bracket, bounds, bracket: `(` and `)` leave their bound out."""
_INTERVAL = re.compile(r"([\[(])([^,\[\]()]+),([^,\[\]()]+)([\])])")


def parse_intervals(text: str) -> list[Interval]:
    """The intervals of a text. Raises ValueError, with what is wrong, for all else."""
    intervals: list[Interval] = []
    for part in text.split(";"):
        found = _INTERVAL.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"'{part.strip()}' is not two bounds in brackets")
        left, right = found[1], found[4]
        low, high = (_bound(bound) for bound in (found[2], found[3]))
        if (math.isinf(low) and left == "[") or (math.isinf(high) and right == "]"):
            raise ValueError("no number is infinite: an interval without a bound ends in '(-inf' or 'inf)'")
        if low > high or (low == high and left + right != "[]"):
            raise ValueError(f"no number lies in '{part.strip()}'")
        intervals.append((left, low, high, right))
    return intervals


def _bound(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"'{text.strip()}' is not a number")
    return value


def read_interval(key: str, value: Any, origin: str | None = None) -> str | None:
    """The value of a key that holds intervals as RecBole reads it; None is no filter.

    A list of two numbers is a closed interval: that is what YAML makes of `[5,10]` without quotes. Raises UserError,
    with key, value and form, for what is no interval.
    """
    if value is None:
        return None
    text, reason = value, "it is no text"
    if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)):
        text = f"[{value[0]},{value[1]}]"
    if isinstance(text, str):
        try:
            parse_intervals(text)
            return text
        except ValueError as error:
            reason = str(error)
    raise UserError(f"{key} must be {FORM}, got {value!r}{f' ({origin})' if origin else ''}: {reason}")


def read_value_intervals(value: Any, origin: str | None = None) -> dict[str, Any] | None:
    """The value of `val_interval`, column -> intervals of a column of numbers, or a list of tokens.

    Which of the two a list of two numbers is, only the column's type tells; it stays one. Raises UserError for a value
    that is neither.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(
            f"val_interval must be a mapping such as {{rating: '[4,inf)'}}, with intervals in quotes, got {value!r} "
            f"({origin})"
        )
    read: dict[str, Any] = {}
    for column, wanted in value.items():
        if isinstance(wanted, list) and wanted and all(isinstance(each, str) or is_number(each) for each in wanted):
            read[str(column)] = wanted
        elif isinstance(wanted, str):
            read[str(column)] = read_interval(f"val_interval: {column}", wanted, origin)
        else:
            raise UserError(
                f"val_interval: {column} must be {FORM}, or for a column of tokens a list of them, got {wanted!r} "
                f"({origin})"
            )
    return read
