"""Protocols whose targets are sets of events: the tail of each user (HO), and what comes after a moment (PS).

The functions take a log sorted by user and time, and say which of its events train and which sets are to be predicted.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_gen.errors import UserError

SET_SPLITS = ("HO", "PS")
POSITIVES = ("next", "set", "both")


@dataclass(frozen=True)
class HeldOut:
    """The parts of a log of N events.

    Attributes:
        train: [N] bool, the events that sequences train on, as targets or in histories.
        known: [N] bool, the events that a model of users and items learns from: also what is read as history of the
            users that validate and test.
        first, size: for validation and for test, [m] each: the first event of every set, and how many it has.
        cut: [k] the first event after the moment, of every training user; None where there is no such moment.
    """

    train: np.ndarray
    known: np.ndarray
    first: tuple[np.ndarray, np.ndarray]
    size: tuple[np.ndarray, np.ndarray]
    cut: np.ndarray | None = None


def held_out_parts(config, users: np.ndarray, times: np.ndarray) -> HeldOut:
    """The parts that ``eval_args`` ask for by one of SET_SPLITS. Raises UserError for a moment outside of the log."""
    ((kind, shares),) = config["eval_args"]["split"].items()
    if kind == "HO":
        return hold_out_last(users, shares)
    start = parse_period_start(config["period_start"], times)
    least = (config["least_history"], config["least_future"])
    return hold_out_period(users, times, start, shares, config["sequence_order"], config["seed"], *least)


def parts_without_share(config) -> tuple[str, ...]:
    """The parts that get no share."""
    (shares,) = config["eval_args"]["split"].values()
    return tuple(name for name, share in zip(("validation", "test"), shares[1:], strict=True) if share == 0)


def hold_out_last(users: np.ndarray, shares: list[float]) -> HeldOut:
    """The last events of each user test, the last of the rest validate (ACVAE section 4.1 and its code).

    Of n events floor(n * test share) test, and of those before them floor(rest * validation share / the two others).
    """
    first, sizes = user_groups(users)
    test = np.floor(sizes * (shares[2] / sum(shares)) + 1e-9).astype(np.int64)
    valid = np.floor((sizes - test) * (shares[1] / (shares[0] + shares[1])) + 1e-9).astype(np.int64)
    end = first + sizes
    train = np.zeros(len(users) + 1, dtype=np.int64)
    np.add.at(train, first, 1)
    np.add.at(train, end - test - valid, -1)
    is_train = train.cumsum()[:-1] > 0
    starts = (end - test - valid, end - test)
    held = (valid > 0, test > 0)
    return HeldOut(
        is_train,
        is_train,
        (starts[0][held[0]], starts[1][held[1]]),
        (valid[held[0]], test[held[1]]),
    )


def hold_out_period(
    users: np.ndarray,
    times: np.ndarray,
    start: float,
    shares: list[float],
    order: str,
    seed: int,
    least_history: int,
    least_future: int,
) -> HeldOut:
    """Events before ``start`` are history, those from then on are the future; users train, validate and test by shares.

    Users with fewer than ``least_history`` or ``least_future`` events on a side are left out (DSPnet section 4.1).
    ``order`` ranks the others before they are cut: by ``time`` of their last event, as in the ``file``, ``shuffle``.
    """
    begin, sizes = user_groups(users)
    history = np.add.reduceat((times < start).astype(np.int64), begin) if len(begin) else begin
    enough = (history >= least_history) & (sizes - history >= least_future)
    begin, sizes, history = begin[enough], sizes[enough], history[enough]
    chosen = split_ranked(times[begin + sizes - 1], shares, order, seed)

    def mask(which: np.ndarray, number: np.ndarray) -> np.ndarray:
        edges = np.zeros(len(users) + 1, dtype=np.int64)
        np.add.at(edges, begin[which], 1)
        np.add.at(edges, begin[which] + number[which], -1)
        return edges.cumsum()[:-1] > 0

    train = mask(chosen[0], sizes)
    cut = begin + history
    return HeldOut(
        train,
        train | mask(np.concatenate(chosen[1:]), history),
        (cut[chosen[1]], cut[chosen[2]]),
        ((sizes - history)[chosen[1]], (sizes - history)[chosen[2]]),
        np.sort(cut[chosen[0]]),
    )


def user_groups(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First index and size of each run of equal values."""
    first = np.flatnonzero(np.append(True, users[1:] != users[:-1])) if len(users) else np.array([], dtype=np.int64)
    return first, np.diff(np.append(first, len(users)))


def split_ranked(last_times: np.ndarray, shares: list[float], order: str, seed: int) -> list[np.ndarray]:
    """Sequences to training, validation and test: cut at floor(n * r) of the cumulated shares.

    last_times: [n] time of each sequence's last event, in the order of the file. ``order`` ranks them before the cut.
    """
    if order == "time":
        ranked = np.argsort(last_times, kind="stable")
    elif order == "file":
        ranked = np.arange(len(last_times))
    else:
        ranked = np.random.default_rng(seed).permutation(len(last_times))
    cumulated = np.cumsum(shares[:-1]) / np.sum(shares)
    return np.split(ranked, np.floor(len(ranked) * cumulated + 1e-9).astype(np.int64))


def last_events_mask(users: np.ndarray, number: int) -> np.ndarray:
    """[N] bool: the last ``number`` events of each user of a sorted log."""
    first, sizes = user_groups(users)
    return np.repeat(first + sizes, sizes) - np.arange(len(users)) <= number


def parse_period_start(start: Any, times: np.ndarray) -> float:
    """When the future begins, in the times of the log: a share of its events (0 to 1), a time, or a date (UTC).

    At a share the moment is the time of the event there, so events of equal time stay together. Raises UserError for
    what is none of these, and for a moment before the first or after the last event.
    """
    value = _parse_number_or_date(start)
    if 0 < value < 1:
        value = float(np.sort(times)[int(np.floor(len(times) * value + 1e-9))])
    if not times.min() < value <= times.max():
        raise UserError(
            f"period_start {start} is not within the log, whose times go from {times.min():.0f} to {times.max():.0f}: "
            f"give a share of its events such as 0.8, a time, or a date such as 2024-08-01"
        )
    return value


def _parse_number_or_date(start: Any) -> float:
    if isinstance(start, (int, float)) and not isinstance(start, bool):
        return float(start)
    try:
        date = datetime.datetime.fromisoformat(str(start))
    except ValueError:
        raise UserError(
            f"period_start must be a share of the events such as 0.8, a time, or a date such as 2024-08-01, got "
            f"{start!r}"
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)).timestamp()
