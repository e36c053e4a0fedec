"""Histories of users whom a model need not know, as flat arrays of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_gen.errors import UserError, counted
from recbole_gen.reading.file_readers import name_of_number
from recbole_gen.reading.parsing import TimeParser, in_calendar


@dataclass(frozen=True)
class Histories:
    """n histories with N events, one after the other, oldest first.

    Attributes:
        users: [n] tokens.
        offsets: [n + 1] where each history begins and ends, int64.
        items: [N] tokens.
        times: [N] Unix seconds, float64, or None.
        scenes: [N] tokens, or None.
    """

    users: pa.Array
    offsets: np.ndarray
    items: pa.Array
    times: np.ndarray | None = None
    scenes: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def from_lists(
        cls,
        histories: Sequence[Sequence[Any]],
        times: Sequence[Sequence[Any] | None] | None = None,
        scenes: Sequence[Sequence[Any] | None] | None = None,
        users: Sequence[Any] | None = None,
        parser: TimeParser | None = None,
    ) -> Histories:
        """From lists of tokens, with lists of times (numbers, or dates) and scenes of the same lengths.

        An empty history needs none of these, None will do. The times are read by ``parser``, or one of their own. Users
        without a name are called by their place, from 0.
        Raises UserError where lengths differ, for values that are no tokens, and for times that are none.
        """
        if isinstance(histories, (str, bytes, Mapping)):
            raise UserError("histories are lists of items, one for each user: [['item 1', 'item 2'], ['item 3']]")
        rows = [_require_list(row) for row in histories]
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        if users is not None and len(users) != len(rows):
            raise UserError(
                f"users and histories must be as many: {counted(len(users), 'user')}, {counted(len(rows), 'history')}"
            )
        seconds = None if times is None else _unix_seconds(_flatten("times", times, sizes), parser or TimeParser())
        return cls(
            _token_array(range(len(rows)) if users is None else users),
            offsets,
            _token_array(chain.from_iterable(rows)),
            seconds,
            None if scenes is None else _token_array(_flatten("scenes", scenes, sizes)),
        ).sorted_by_time()

    def sorted_by_time(self) -> Histories:
        """Each history by time, where there are times; simultaneous events stay as they are."""
        if self.times is None or not len(self.times):
            return self
        row = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        falls = (np.diff(self.times) < 0) & (np.diff(row) == 0)
        if not falls.any():
            return self
        order = np.lexsort((self.times, row))
        scenes = None if self.scenes is None else self.scenes.take(pa.array(order))
        return Histories(self.users, self.offsets, self.items.take(pa.array(order)), self.times[order], scenes)


def _require_list(row: Any) -> Sequence[Any]:
    if isinstance(row, (str, bytes)) or not hasattr(row, "__iter__"):
        raise UserError(f"a history is a list of items, and not {row!r:.60}")
    return row if hasattr(row, "__len__") else list(row)


def _flatten(name: str, values: Sequence[Any], sizes: np.ndarray) -> list[Any]:
    if len(values) != len(sizes):
        raise UserError(f"there are {len(values)} lists of {name} for {len(sizes)} histories")
    flat: list[Any] = []
    for place, (value, size) in enumerate(zip(values, sizes)):
        if value is None and size:
            raise UserError(f"history {place} has {counted(size, 'item')} and no {name}")
        own = () if value is None else _require_list(value)
        if len(own) != size:
            raise UserError(f"history {place} has {counted(size, 'item')} and {len(own)} {name}")
        flat += own
    return flat


def _token_array(values: Any) -> pa.Array:
    found = list(values)
    if set(map(type, found)) <= {str}:
        return pa.array(found, pa.string())
    for value in found:
        if not isinstance(value, (str, int, float, np.number)) or isinstance(value, bool) or value != value:
            raise UserError(f"{value!r:.60} cannot be the name of a user, item or scene: a token is text or a number")
    names = (name_of_number(float(each)) if isinstance(each, (float, np.floating)) else str(each) for each in found)
    return pa.array(names, pa.string())


def _unix_seconds(values: list[Any], parser: TimeParser) -> np.ndarray:
    if not values:
        return np.empty(0)
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise UserError("times are Unix seconds, or dates such as 2024-05-31T12:00:00Z, all of one kind") from None
    return checked_times(column, parser)


def checked_times(column: pa.Array, parser: TimeParser) -> np.ndarray:
    """The times of a column. Raises UserError if one is missing, infinite, or beyond the calendar."""
    seconds = parser.parse(column)
    bad = ~in_calendar(seconds)
    if bad.any():
        raise UserError(
            f"{counted(int(bad.sum()), 'time', 'are')} missing, or are no Unix seconds and no dates of the years 1 to "
            f"9999 (all numbers are of one unit: s, ms, us or ns)"
        )
    parser.look_at(seconds)
    return seconds
