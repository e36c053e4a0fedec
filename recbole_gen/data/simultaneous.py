"""Simultaneous events of a user: in the order of the file, or in one that a seed draws (`tie_order: random`).

The order of events within a time is what a file happens to have, and it decides which one is the last. A drawn order is
a function of the seed, and of the user's own events: the same for every kind of model, in every process, and whatever
other users there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_gen.data import splits
from recbole_gen.evaluation.ties import token_hashes

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Of SplitMix64, whose last steps mix the hashes of user, item and repetition."""


def tie_seed(config) -> int | None:
    """The seed that draws the order of simultaneous events; None where they keep that of the file.

    config: a configuration, or the settings of one. Those from before there was such an order have none.
    """
    read = config.get if isinstance(config, dict) else config.__getitem__
    if read("tie_order") in (None, "file"):
        return None
    return read("seed") if read("tie_seed") is None else read("tie_seed")


def describe_order(config) -> str:
    """In which order simultaneous events are, for messages."""
    seed = tie_seed(config)
    return "in the order of the file" if seed is None else f"in the order that tie_seed {seed} draws"


def shuffle_simultaneous(dataset) -> None:
    """Put the simultaneous events of each user of a loaded log, which is not split yet, into the order that the
    configuration asks for. All other events keep their places."""
    seed, log = tie_seed(dataset.config), dataset.inter_feat
    fields = (dataset.uid_field, dataset.iid_field, dataset.time_field)
    if seed is None or dataset.time_field not in log:
        return
    users, items, times = (log[field].to_numpy() for field in fields)
    hashes = [token_hashes(dataset.field2id_token[field], seed) for field in fields[:2]]
    places, order = shuffled_ties(users, items, times, *hashes)
    rows = np.arange(len(log))
    rows[places] = order
    dataset.inter_feat = log.iloc[rows].reset_index(drop=True)
    dataset.logger.info(
        f"tie_order: {len(places):,} of {len(log):,} interactions share their time with another of their user, and "
        f"come in the order that tie_seed {seed} draws"
    )


def shuffled_ties(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, user_hashes: np.ndarray, item_hashes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The places of all events that share their time with another one of their user, and which event comes to each.

    Args:
        users, items, times: [N], ids and times.
        user_hashes, item_hashes: of all ids, uint64, which the order depends on.

    Returns two arrays [m]: the events of a user and time, in the order of their places, and the same in another order.
    """
    order = splits.order_by_user_and_time(users, times)
    same = np.zeros(len(order) + 1, dtype=bool)  # [n]: as the event before
    same[1:-1] = (users[order][1:] == users[order][:-1]) & (times[order][1:] == times[order][:-1])
    tied = same[:-1] | same[1:]
    places, group = order[tied], np.cumsum(~same[:-1])[tied]
    of_user, of_item = users[places], items[places]
    # An item that is tied again is drawn anew, in the same tie or in a later one.
    mixed = user_hashes[of_user] * GOLDEN + item_hashes[of_item] + _repetitions(of_user, of_item).astype(np.uint64)
    return places, places[np.lexsort((_mix(mixed), group))]


def _repetitions(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """How often the same user has had the same item before, [m]."""
    order = np.lexsort((items, users))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    begin = np.flatnonzero(first)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    return number


def _mix(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray:
    """SplitMix64's last steps: every bit of the result depends on every bit of the value."""
    values = values * GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
