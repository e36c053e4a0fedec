"""Which rows train, validate and test: RecBole's RS, LS, TS and benchmark splits, sequences (SS), cuts in time (TC).

Splits whose targets are sets (HO, PS) are in `recbole_gen.data.set_splits`. The functions return arrays of row indices
in the order in which RecBole would hold the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_gen.data import set_splits
from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError

Parts = list[np.ndarray]
SPLITS = ("RS", "LS", "TS", "SS", "TC", *set_splits.SET_SPLITS)
SEQUENCE_ORDERS = ("time", "file", "shuffle")
TRAIN_PAIRS = ("all", "positions", "last", "window", "cut", "after")
LEAVE_ONE_OUT = ("valid_and_test", "valid_only", "test_only")


def history_windows(
    users: np.ndarray, max_length: int, empty_history: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a log sorted by user: every event with at least one event before it (or every event at all).

    Args:
        users: [N], equal values adjacent.
        max_length: histories keep their last ``max_length`` events.
        empty_history: whether a user's first event is a row too, with nothing before it.

    Returns target, start and length, [n] each: row r predicts event target[r] from events start[r] .. target[r] - 1.
    They are 32-bit where the log allows it, lengths 16-bit: with a few columns, they are half of all that there is.
    """
    dtype = _index_type(len(users))
    new_user = np.empty(len(users), dtype=bool)
    new_user[:1] = True
    np.not_equal(users[1:], users[:-1], out=new_user[1:])
    first = np.flatnonzero(new_user).astype(dtype)
    sizes = np.diff(np.append(first, len(users)))
    position = np.arange(len(users), dtype=dtype) - np.repeat(first, sizes)
    target = np.arange(len(users), dtype=dtype) if empty_history else np.flatnonzero(~new_user).astype(dtype)
    length = np.minimum(position[target], max_length, dtype=dtype)
    return target, target - length, length.astype(np.int16) if max_length < 2**15 else length


def order_by_user_and_time(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The order by user, then time, then place in the log: [N]. users: [N], from 0.

    As ``np.lexsort((times, users))``, but users are sorted by their digits, which is linear in N.
    """
    order = compact_indices(np.argsort(times, kind="stable"))
    for digit in range(0, int(users.max(initial=0)).bit_length(), 16):
        digits = ((users >> digit) & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _index_type(size: int) -> type[np.signedinteger]:
    return np.int32 if size < 2**31 else np.int64


def compact_indices(order: np.ndarray) -> np.ndarray:
    """An order of rows in the least memory."""
    return order.astype(_index_type(len(order)), copy=False)


@dataclass(frozen=True)
class Split:
    """Training, validation and test rows, as indices; the names of parts that may be empty.

    Attributes:
        sizes: for validation and test, [m] each: how many events from the target on are to be predicted; None for one.
        cut: the training rows at the moment of protocol `period`; None elsewhere.
    """

    parts: Parts
    may_be_empty: tuple[str, ...] = ()
    sizes: tuple[np.ndarray, np.ndarray] | None = None
    cut: np.ndarray | None = None


def split_rows(dataset) -> Split:
    """The split of a sequence data set that its ``eval_args`` ask for. Raises UserError for one that does not exist."""
    config, rows = dataset.config, dataset.inter_feat
    if dataset.benchmark_filename_list is not None:
        cuts = np.cumsum(dataset.file_size_list)[:-1]
        return Split(np.split(np.arange(len(rows)), cuts))
    wanted = config["eval_args"]["split"]
    if not isinstance(wanted, dict) or len(wanted) != 1 or not wanted.keys() <= set(SPLITS):
        raise UserError(f"eval_args: split must be one of {', '.join(SPLITS)} with its value, got {wanted!r}")
    ((kind, value),) = wanted.items()
    if kind != "LS" and not _are_ratios(value):
        raise UserError(f"eval_args: split: {kind} needs three shares such as [8, 1, 1], got {value!r}")

    order = config["sequence_order"]
    if kind in ("SS", "PS") and order not in SEQUENCE_ORDERS:
        raise UserError(f"sequence_order must be one of {', '.join(SEQUENCE_ORDERS)}, got {order!r}")
    if kind in set_splits.SET_SPLITS:
        events = (rows.targets[field].numpy() for field in (dataset.uid_field, dataset.time_field))
        return _split_of_held_out(
            set_splits.held_out_parts(config, *events), rows.target.numpy(), set_splits.parts_without_share(config)
        )
    users = rows[dataset.uid_field].numpy()
    if kind == "SS":
        if config["targets"] not in ("all", "last"):
            raise UserError(f"targets must be 'all' or 'last', got {config['targets']!r}")
        times = rows[dataset.time_field].numpy()
        return Split(split_sequences(users, times, value, order, config["targets"] == "last", config["seed"]))

    times = rows[dataset.time_field].numpy()
    grouped, sizes = group_by_user(users, times)
    if kind == "LS":
        if value not in LEAVE_ONE_OUT:
            raise UserError(f"LS must be one of {', '.join(LEAVE_ONE_OUT)}, got {value!r}")
        empty = {"valid_only": ("test",), "test_only": ("validation",)}.get(value, ())
        return Split(split_leave_one_out(grouped, sizes, value), empty)
    ratios = [part / sum(value) for part in value]
    if kind == "TS":
        return Split(split_by_time(grouped, sizes, times, ratios))
    if kind == "TC":
        return Split(split_at_times(times, ratios))
    group_by = str(config["eval_args"]["group_by"] or "none").lower()
    if group_by not in ("user", "none"):
        raise UserError(f"eval_args: group_by must be 'user' or 'none', got {config['eval_args']['group_by']!r}")
    if group_by == "none":
        order = np.argsort(times, kind="stable")
        return Split(np.split(order, dataset._calcu_split_ids(len(order), ratios)))
    return Split(split_by_ratio(grouped, sizes, ratios, dataset._calcu_split_ids))


def _split_of_held_out(held: set_splits.HeldOut, target: np.ndarray, may_be_empty: tuple[str, ...]) -> Split:
    """Rows whose targets are the first events of the sets; target: [n], ascending, the event of each row."""
    parts = [np.flatnonzero(held.train[target]), *(np.searchsorted(target, first) for first in held.first)]
    cut = None if held.cut is None else np.searchsorted(target, held.cut)
    return Split(parts, may_be_empty, held.size, cut)


def _are_ratios(value) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return False
    return all(isinstance(share, (int, float)) and share >= 0 for share in value) and value[0] > 0


def group_by_user(users: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row indices grouped by user, oldest first, and the size of each group.

    The rows come sorted by user and time. The groups are in the order in which users appear when all rows are sorted by
    time, which is where RecBole's dictionary of groups meets them.
    """
    first, sizes = set_splits.user_groups(users)
    order = np.argsort(times[first], kind="stable")
    first, sizes = first[order], sizes[order]
    grouped = _positions_in_groups(sizes)
    grouped += np.repeat(first.astype(grouped.dtype), sizes)
    return grouped, sizes


def _positions_in_groups(sizes: np.ndarray) -> np.ndarray:
    """0, 1, ..., size - 1 for each group, in one array."""
    total = int(sizes.sum())
    position = np.arange(total, dtype=_index_type(total))
    position -= np.repeat((np.cumsum(sizes) - sizes).astype(position.dtype), sizes)
    return position


def split_leave_one_out(grouped: np.ndarray, sizes: np.ndarray, mode: str) -> Parts:
    """The last row of each user tests, the one before validates, the rest trains; a user's only row trains."""
    ends = np.cumsum(sizes)
    last, second_last, nothing = (np.zeros(len(grouped), dtype=bool) for _ in range(3))
    last[ends[sizes >= 2] - 1] = True
    second_last[ends[sizes >= 3] - 2] = True
    valid, test = {
        "valid_and_test": (second_last, last),
        "valid_only": (last, nothing),
        "test_only": (nothing, last),
    }[mode]
    return [grouped[~(valid | test)], grouped[valid], grouped[test]]


def split_by_ratio(grouped: np.ndarray, sizes: np.ndarray, ratios: list[float], cut_points) -> Parts:
    """The first part of each user's rows trains, the next validates, the last tests; ``cut_points(total, ratios)``."""
    distinct, which = np.unique(sizes, return_inverse=True)
    cuts = np.array([cut_points(int(total), ratios) for total in distinct], dtype=np.int64).reshape(-1, 2)
    position, cuts = _positions_in_groups(sizes), np.repeat(cuts[which], sizes, axis=0)
    part = (position >= cuts[:, 0]).astype(np.int64) + (position >= cuts[:, 1])
    return [grouped[part == index] for index in range(3)]


def split_by_time(grouped: np.ndarray, sizes: np.ndarray, times: np.ndarray, ratios: list[float]) -> Parts:
    """RecBole's TS: later than the global quantile tests; of each user's rows before it, the first part trains."""
    test = times[grouped] > np.percentile(times, 100 * (1 - ratios[-1]))
    group = np.repeat(np.arange(len(sizes)), sizes)
    before = np.bincount(group, weights=~test, minlength=len(sizes)).astype(np.int64)
    training = (before * (ratios[0] / (1 - ratios[2]))).astype(np.int64)[group]
    train = ~test & (_positions_in_groups(sizes) < training)
    return [grouped[train], grouped[~test & ~train], grouped[test]]


def split_at_times(times: np.ndarray, ratios: list[float]) -> Parts:
    """Two moments cut all rows: what is earlier than the first trains, what is earlier than the second validates.

    They are the times of the rows at the shares of ``ratios``, so rows of equal time are never torn apart.
    """
    order = np.argsort(times, kind="stable")
    at = np.floor(len(order) * np.cumsum(ratios[:-1]) + 1e-9).astype(np.int64)
    moments = np.append(times[order], np.inf)[at]  # a last share of 0 is cut off at no time
    return np.split(order, np.searchsorted(times[order], moments, side="left"))


def training_pairs(
    config, rows: SequenceRows, user_field: str, train: np.ndarray, cut: np.ndarray | None = None
) -> np.ndarray:
    """Those of the training rows ``train`` that the key `train_pairs` keeps, in their order.

    ``all``, ``prefixes`` and ``positions``: every one (`every_prefix` adds what split files hold in their histories,
    `position_windows` makes windows of them). ``last``: the latest of each user (PreferDiff's code, PASRec).
    ``window``: the latest, and from there back every ``window_step``-th whose history is full: the targets of windows
    that slide over a long sequence; without a step the windows adjoin, and a sequence's first may be shorter. ``cut``:
    of each user the one at the moment of protocol `period` (DSPnet), which are in ``cut``; ``after``: that one and all
    later ones. Raises UserError where there is no such moment.
    """
    kept = config["train_pairs"]
    if kept in ("all", "prefixes", "positions"):
        return train
    of_rows = rows[user_field].numpy()
    users = of_rows[train]
    if kept in ("cut", "after"):
        if cut is None:
            raise UserError(
                f"train_pairs: {kept} is for --protocol=period, whose moment it means: use all, last or window"
            )
        if kept == "cut":
            return cut
        moment = np.full(users.max(initial=0) + 1, len(rows), dtype=np.int64)
        moment[of_rows[cut]] = cut
        return train[train >= moment[users]]
    if not len(train):
        return train
    order = np.lexsort((train, users))  # rows are held in the order of time
    ends = np.flatnonzero(np.append(users[order][1:] != users[order][:-1], True))
    sizes = np.diff(np.append(-1, ends))
    from_end = np.repeat(sizes, sizes) - 1 - _positions_in_groups(sizes)
    chosen = from_end == 0
    if kept == "window" and config["window_step"] is None:
        chosen |= from_end % rows.width == 0
    elif kept == "window":
        is_full = rows.history_length.numpy()[train[order]] == rows.width
        chosen |= is_full & (from_end % config["window_step"] == 0)
    return train[np.sort(order[chosen])]


def split_sequences(
    users: np.ndarray, times: np.ndarray, ratios: list[float], order: str, last_only: bool, seed: int
) -> Parts:
    """Whole sequences to training, validation and test.

    Sequences are cut at floor(n * r) of the cumulated ratios, ordered by the time of their last event (`time`), as they
    come in the file (`file`), or shuffled by ``seed`` (`shuffle`). With ``last_only`` a validation or test sequence has
    one row, the prediction of its last event.
    """
    first, sizes = set_splits.user_groups(users)
    last = first + sizes - 1
    parts = []
    ranked = set_splits.split_ranked(times[last], ratios, order, seed)
    for name, chosen in zip(("train", "valid", "test"), ranked, strict=True):
        if last_only and name != "train":
            parts.append(last[chosen])
        else:
            parts.append(np.repeat(first[chosen], sizes[chosen]) + _positions_in_groups(sizes[chosen]))
    return parts


def cuts_users(dataset) -> bool:
    """Whether the last events of each user are held out, and a user who has only one trains with it."""
    args = dataset.config["eval_args"]
    if dataset.benchmark_filename_list is not None or dataset.config["empty_history"]:
        return False
    ((kind, _),) = args["split"].items()
    return kind in ("LS", "HO") or (kind == "RS" and str(args["group_by"]).lower() == "user")


def only_events(users: np.ndarray) -> np.ndarray:
    """The events of users who have no other, in a log sorted by user, [m]. users: [N]."""
    first, sizes = set_splits.user_groups(users)
    return first[sizes == 1]


def training_future_counts(users: np.ndarray, train: np.ndarray, most: int | None) -> np.ndarray:
    """How many events there are from each training target to its user's last training event, at most ``most``.

    users: [N] of all events, which are sorted by user and time; train: which of them are targets that train. Returns
    [N], 0 for events that are none.
    """
    last = np.full(int(users.max(initial=0)) + 1, -1)
    np.maximum.at(last, users[train], train)
    future = np.zeros(len(users), dtype=np.int32)
    future[train] = last[users[train]] - train + 1
    return future if most is None else np.minimum(future, most, dtype=np.int32)
