"""Intervals of numbers as RecBole writes them: `[5,inf)`, `(0,10]`, several of them divided by `;`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf)"
_INTERVAL = re.compile(rf"([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])")


@dataclass(frozen=True)
class Interval:
    """The numbers between two ends, either of which may count or not."""

    low: float
    high: float
    has_low: bool
    has_high: bool


def parse_intervals(text: str) -> list[Interval] | None:
    """The intervals in a text; None if it is anything else, or one of them has no number in it."""
    found = []
    for part in text.split(";"):
        match = _INTERVAL.fullmatch(part.strip())
        if match is None:
            return None
        left, low, high, right = match[1], float(match[2]), float(match[3]), match[4]
        one = Interval(low, high, left == "[" and math.isfinite(low), right == "]" and math.isfinite(high))
        if low > high or (low == high and not (one.has_low and one.has_high)):
            return None
        found.append(one)
    return found
