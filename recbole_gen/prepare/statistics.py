"""Statistics of a prepared log, beside those that a paper prints."""

from __future__ import annotations

from collections.abc import Mapping

from tabulate import tabulate

from recbole_gen.prepare import filters
from recbole_gen.prepare.fields import ITEM, SCENE, USER
from recbole_gen.prepare.log import Log


def log_statistics(log: Log, sequences: bool = False, counted_last: int | None = None) -> dict[str, float]:
    """Name -> number; the interactions are the latest ``counted_last`` of each user if that is given."""
    counted = log if counted_last is None else filters.keep_last(log, counted_last)
    users, interactions = log.n_distinct(USER), len(counted)
    numbers = {"sequences" if sequences else "users": users, "items": log.n_distinct(ITEM)}
    numbers["interactions"] = interactions
    if SCENE in log.tokens:
        numbers["scenes"] = log.n_distinct(SCENE)
    return {**numbers, "mean length": interactions / users if users else 0.0}


def statistics_table(numbers: Mapping[str, float], paper: str, published: Mapping[str, str]) -> str:
    """The table: what is here, and what the paper says where it says something."""
    rows = [
        [name, _format_number(number), *([published.get(name, "-")] if published else [])]
        for name, number in numbers.items()
    ]
    return tabulate(rows, ["", "here", *([paper] if published else [])], stralign="right", disable_numparse=True)


def differences_from_paper(numbers: Mapping[str, float], published: Mapping[str, str]) -> list[str]:
    """`items: 3,706 here, 3,953 in the paper` for each that differs by more than rounding."""
    return [
        f"{name}: {_format_number(numbers[name])} here, {text} in the paper"
        for name, text in published.items()
        if not agrees_with_print(numbers[name], text)
    ]


def agrees_with_print(number: float, text: str) -> bool:
    """Whether a number is what is printed, as far as that is exact: 575,281 is "580K"."""
    digits = text.replace(",", "").rstrip("KM")
    unit = {"K": 1e3, "M": 1e6}.get(text[-1], 1.0)
    step = 10.0 ** -len(digits.partition(".")[2])
    if unit > 1 and "." not in digits:
        step = 10.0 ** (len(digits) - len(digits.rstrip("0")))  # zeros before K and M may be rounded
    half = 0.0 if unit == 1 and "." not in digits else step / 2
    return abs(number / unit - float(digits)) <= half + 1e-9


def _format_number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.2f}"
