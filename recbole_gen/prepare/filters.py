"""The filters of the papers: from a log the events that a paper keeps, or the sequences that it cuts them into."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from recbole_gen.prepare.fields import ITEM, TIME, USER
from recbole_gen.prepare.log import Log


def time_order(log: Log, *before: str) -> np.ndarray:
    """The order of time, [N]; of simultaneous events that of the file. ``before``: fields that come first."""
    return np.lexsort((log[TIME], *(log[field] for field in reversed(before))))


def drop_missing(log: Log, *fields: str) -> Log:
    """Events that have a value in all of these fields."""
    kept = np.ones(len(log), dtype=bool)
    for field in fields:
        kept &= log[field] >= 0 if field in log.tokens else ~np.isnan(log[field])
    return log if kept.all() else log.take(kept)


def keep_above(log: Log, field: str, least: float) -> Log:
    """Events whose number is strictly larger."""
    return log.take(log[field] > least)


def keep_from(log: Log, seconds: float) -> Log:
    """Events from this moment on."""
    return log.take(log[TIME] >= seconds)


def keep_frequent(log: Log, field: str, number: int) -> Log:
    """Events of the values of a field that occur so often, counted once."""
    return log.take(log.value_counts(field)[log[field]] >= number)


def k_core(log: Log, users: int, items: int) -> Log:
    """Users and items with so many events each, counted again until all have them (the k-core)."""
    while True:
        kept = (log.value_counts(USER)[log[USER]] >= users) & (log.value_counts(ITEM)[log[ITEM]] >= items)
        if kept.all():
            return log
        log = log.take(kept)


def keep_last(log: Log, number: int) -> Log:
    """The latest events of each user, so many at most, in the order of the file."""
    order = time_order(log, USER)
    users = log[USER][order]
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True)) if len(users) else np.array([], dtype=np.int64)
    sizes = np.diff(np.append(-1, ends))
    from_end = np.repeat(ends, sizes) - np.arange(len(users))
    kept = np.zeros(len(log), dtype=bool)
    kept[order[from_end < number]] = True
    return log.take(kept)


def drop_duplicates(log: Log, *fields: str) -> Log:
    """The first event of those that agree in all of these fields, in the order of the file."""
    kept = first_of_duplicates(log, *fields)
    return log if kept.all() else log.take(kept)


def first_of_duplicates(log: Log, *fields: str) -> np.ndarray:
    """[N] bool: the first event of those that agree in all of these fields."""
    order = np.lexsort(tuple(log[field] for field in reversed(fields)))  # stable: of equal ones the first comes first
    new = np.ones(len(log), dtype=bool)
    if len(log):
        new[1:] = False
        for field in fields:
            values = log[field][order]
            new[1:] |= values[1:] != values[:-1]
    kept = np.zeros(len(log), dtype=bool)
    kept[order[new]] = True
    return kept


def split_into_sessions(log: Log, gap: float | None = None, day_offset: float | None = None) -> Log:
    """Each user's events cut into sequences, which take the place of the users, numbered in the order of the users.

    Args:
        gap: seconds without an event after which a sequence ends.
        day_offset: or each calendar day is a sequence; seconds that local time is ahead of UTC.
    """
    order = time_order(log, USER)
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


def order_by_sequence(log: Log) -> Log:
    """Sequences one after the other, by the time of their last event; in each by time."""
    last = np.full(len(log.tokens[USER]), -np.inf)
    np.maximum.at(last, log[USER], log[TIME])
    return log.take(np.lexsort((log[TIME], log[USER], last[log[USER]])))


def keep_users_on_both_sides(log: Log, moment: float) -> Log:
    """Users with an event before the moment and one from then on."""
    late = log[TIME] >= moment
    has = [np.bincount(log[USER][side], minlength=len(log.tokens[USER])) > 0 for side in (late, ~late)]
    return log.take((has[0] & has[1])[log[USER]])


def sample_users(log: Log, one_of: int) -> Log:
    """A sample of the users that anybody can draw again: those whose MD5 sum is a multiple of ``one_of``."""
    chosen = [int(hashlib.md5(token.encode(), usedforsecurity=False).hexdigest(), 16) % one_of == 0
              for token in log.tokens[USER].to_pylist()]  # fmt: skip
    return log.take(np.array(chosen, dtype=bool)[log[USER]])
