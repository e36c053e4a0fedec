"""A log while it is prepared: one flat column a field, tokens as codes; and the filters of the papers over it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_gen.errors import UserError

USER, ITEM, TIME, RATING, SCENE = "user_id", "item_id", "timestamp", "rating", "scene"


@dataclass(frozen=True)
class Log:
    """N events, in the order of their file.

    Attributes:
        columns: field -> [N], int32 codes of a field of tokens (-1 for a missing one), float64 of a field of numbers.
        tokens: field of tokens -> its values; the code of a value is its place.
    """

    columns: dict[str, np.ndarray]
    tokens: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, field: str) -> np.ndarray:
        if field not in self.columns:
            raise UserError(f"this log has no {field}, which the filtering reads")
        return self.columns[field]

    def take(self, rows: np.ndarray) -> Log:
        """The given events, by mask [N] or by index."""
        return replace(self, columns={field: values[rows] for field, values in self.columns.items()})

    def drop(self, *fields: str) -> Log:
        """Without these fields."""
        columns = {field: values for field, values in self.columns.items() if field not in fields}
        return Log(columns, {field: values for field, values in self.tokens.items() if field not in fields})

    def distinct(self, field: str) -> int:
        """How many values of a field of tokens occur."""
        return int(np.count_nonzero(self.counts(field)))

    def counts(self, field: str) -> np.ndarray:
        """How often each value of a field of tokens occurs, by code."""
        codes = self.columns[field]
        return np.bincount(codes[codes >= 0], minlength=len(self.tokens[field]))


class _Codes:
    """Numbers the values of a field in the order in which they first appear."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def read(self, column: pa.Array) -> np.ndarray:
        encoded = column.dictionary_encode()
        codes = [self.known.setdefault(value, len(self.known)) for value in encoded.dictionary.to_pylist()]
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(np.array(codes, dtype=np.int32), np.int32(-1))[places]  # the last one for what is missing


def gather(batches: Iterable[Mapping[str, Any]], fields: Sequence[str], tokens: Collection[str]) -> Log:
    """One log of many batches: field -> column, text of the ``tokens``, numbers of the other fields, NaN for a missing
    one. Memory is that of the codes and numbers, and of each distinct token once.
    """
    codes = {field: _Codes() for field in fields if field in tokens}
    parts: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    for batch in batches:
        for field in fields:
            values = batch[field]
            parts[field].append(codes[field].read(values) if field in codes else np.asarray(values, np.float64))
    columns = {}
    for field in fields:
        kind = np.int32 if field in codes else np.float64
        columns[field] = np.concatenate([np.array([], dtype=kind), *parts.pop(field)])
    return Log(columns, {field: pa.array(list(known.known), pa.string()) for field, known in codes.items()})


def by_time(log: Log, *before: str) -> np.ndarray:
    """The order of time, [N]; of simultaneous events that of the file. ``before``: fields that come first."""
    return np.lexsort((log[TIME], *(log[field] for field in reversed(before))))


def with_value(log: Log, *fields: str) -> Log:
    """Events that have a value in all of these fields."""
    kept = np.ones(len(log), dtype=bool)
    for field in fields:
        kept &= log[field] >= 0 if field in log.tokens else ~np.isnan(log[field])
    return log if kept.all() else log.take(kept)


def above(log: Log, field: str, least: float) -> Log:
    """Events whose number is strictly larger."""
    return log.take(log[field] > least)


def from_time(log: Log, seconds: float) -> Log:
    """Events from this moment on."""
    return log.take(log[TIME] >= seconds)


def at_least(log: Log, field: str, number: int) -> Log:
    """Events of the values of a field that occur so often, counted once."""
    return log.take(log.counts(field)[log[field]] >= number)


def core(log: Log, users: int, items: int) -> Log:
    """Users and items with so many events each, counted again until all have them (the k-core)."""
    while True:
        kept = (log.counts(USER)[log[USER]] >= users) & (log.counts(ITEM)[log[ITEM]] >= items)
        if kept.all():
            return log
        log = log.take(kept)


def keep_last(log: Log, number: int) -> Log:
    """The latest events of each user, so many at most, in the order of the file."""
    order = by_time(log, USER)
    users = log[USER][order]
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True)) if len(users) else np.array([], dtype=np.int64)
    sizes = np.diff(np.append(-1, ends))
    from_end = np.repeat(ends, sizes) - np.arange(len(users))
    kept = np.zeros(len(log), dtype=bool)
    kept[order[from_end < number]] = True
    return log.take(kept)


def first_of_each(log: Log, *fields: str) -> Log:
    """The first event of those that agree in all of these fields, in the order of the file."""
    order = np.lexsort(tuple(log[field] for field in reversed(fields)))  # stable: of equal ones the first comes first
    new = np.ones(len(log), dtype=bool)
    if len(log):
        new[1:] = False
        for field in fields:
            values = log[field][order]
            new[1:] |= values[1:] != values[:-1]
    kept = np.zeros(len(log), dtype=bool)
    kept[order[new]] = True
    return log if kept.all() else log.take(kept)


def sessions(log: Log, gap: float | None = None, day_offset: float | None = None) -> Log:
    """Each user's events cut into sequences, which take the place of the users, numbered in the order of the users.

    Args:
        gap: seconds without an event after which a sequence ends.
        day_offset: or each calendar day is a sequence; seconds that local time is ahead of UTC.
    """
    order = by_time(log, USER)
    users, times = log[USER][order], log[TIME][order]
    new = np.ones(len(log), dtype=bool)
    new[1:] = users[1:] != users[:-1]
    if gap is not None:
        new[1:] |= np.diff(times) > gap
    if day_offset is not None:
        days = np.floor((times + day_offset) / 86400)
        new[1:] |= days[1:] != days[:-1]
    codes = np.empty(len(log), dtype=np.int32)
    codes[order] = np.cumsum(new, dtype=np.int32) - 1
    names = pa.array(np.arange(1, int(new.sum()) + 1)).cast(pa.string())
    return Log({**log.columns, USER: codes}, {**log.tokens, USER: names})


def in_order_of_sequences(log: Log) -> Log:
    """Sequences one after the other, by the time of their last event; in each by time."""
    last = np.full(len(log.tokens[USER]), -np.inf)
    np.maximum.at(last, log[USER], log[TIME])
    return log.take(np.lexsort((log[TIME], log[USER], last[log[USER]])))


def on_both_sides(log: Log, moment: float) -> Log:
    """Users with an event before the moment and one from then on."""
    late = log[TIME] >= moment
    has = [np.bincount(log[USER][side], minlength=len(log.tokens[USER])) > 0 for side in (late, ~late)]
    return log.take((has[0] & has[1])[log[USER]])


def some_users(log: Log, one_of: int) -> Log:
    """A sample of the users that anybody can draw again: those whose MD5 sum is a multiple of ``one_of``."""
    chosen = [int(hashlib.md5(token.encode(), usedforsecurity=False).hexdigest(), 16) % one_of == 0
              for token in log.tokens[USER].to_pylist()]  # fmt: skip
    return log.take(np.array(chosen, dtype=bool)[log[USER]])
