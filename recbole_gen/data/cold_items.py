"""The key `cold_items`: a share of the items that training does not see, as if they had come into the catalogue later.

Which ones is a draw by the run's seed from the items' names, whatever the order of the file. No training row has one of
them as its target or in its history, as if training had been cut from a log without their events; and none is counted,
nor drawn as a negative item, nor among the items of a softmax (`model.kept_items`). Validation and test rows are those
of a run without the key: targets may be cold, and so may what is read in a history, through its vector.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_gen.data import splits
from recbole_gen.data.rows import SequenceRows, count_items
from recbole_gen.data.whole_lines import every_prefix
from recbole_gen.errors import UserError, counted
from recbole_gen.evaluation.ties import token_hashes

OTHER_DRAW = "cold_items "
"""Before each name, so that which items are cold has nothing to do with which of equal scores comes first."""


def describe_draw(settings) -> tuple[float, int] | None:
    """The share and the seed by which settings draw their cold items; None where there are none. Those from before
    there was such a key have none."""
    share = settings.get("cold_items")
    return None if share is None else (share, settings.get("seed"))


def drawn_items(dataset) -> torch.Tensor | None:
    """Which items of a loaded data set are cold: [n_items] bool, padding first; None without the key.

    Raises UserError for a share that is no item, or all of them.
    """
    share = dataset.config["cold_items"]
    if share is None:
        return None
    names = dataset.field2id_token[dataset.iid_field][1:]
    number = round(share * len(names))
    if not 0 < number < len(names):
        raise UserError(
            f"cold_items: {share} of {counted(len(names), 'item')} of data set '{dataset.dataset_name}' is "
            f"{'all of them' if number else 'none'}: take {'less' if number else 'more'}"
        )
    hashes = token_hashes([f"{OTHER_DRAW}{name}" for name in names], dataset.config["seed"])
    cold = torch.zeros(len(names) + 1, dtype=torch.bool)
    cold[1 + torch.from_numpy(np.argsort(hashes, kind="stable")[:number])] = True
    return cold


@dataclass(frozen=True)
class TrainingSource:
    """Rows that training takes its own from.

    Attributes:
        chosen: [n] which of the rows train, before `train_pairs` keeps some of them.
        cut: as of `splits.Split`.
        left_out: events of cold items that were in the training part.
    """

    rows: SequenceRows
    chosen: np.ndarray
    cut: np.ndarray | None
    left_out: int = 0


def training_source(dataset, split: splits.Split, cold: torch.Tensor | None) -> TrainingSource:
    """All rows of a sequence data set; or, where items are cold, the training rows that a log without the events of
    these items would have."""
    rows, config = dataset.inter_feat, dataset.config
    if cold is None:
        return TrainingSource(rows, split.parts[0], split.cut)
    users, items = dataset.uid_field, dataset.iid_field
    lists, kept = items + config["LIST_SUFFIX"], config["train_pairs"]
    every = rows.take(split.parts[0])
    if splits.cuts_users(dataset):
        every.further_events = torch.from_numpy(splits.only_events(rows.targets[users].numpy()))
    if dataset.benchmark_filename_list is not None and kept in ("prefixes", "positions"):
        every = every_prefix(every, config["LIST_SUFFIX"], users, kept)
    warm = _WarmRows(every, cold, (users, items, lists), bool(config["empty_history"]))
    cut = None if split.cut is None else warm.rows_at(rows.target[split.cut].long())
    counts = count_items(every, items, lists, dataset.item_num)
    return TrainingSource(warm.rows, np.arange(len(warm.rows)), cut, int(counts[cold].sum()))


class _WarmRows:
    """Training rows over a log without the events of cold items.

    Args:
        every: the training rows over the whole log, those of a user in the order of time.
        fields: of the users, the items and the histories' items.
        empty_history: whether a row stays that has lost all of its history.

    Attributes:
        rows: those that are left, in their order.
    """

    def __init__(self, every: SequenceRows, cold: torch.Tensor, fields: tuple[str, str, str], empty_history: bool):
        user_field, item_field, list_field = fields
        self._users = every.targets[user_field]
        self._is_log = every.lists[list_field] is every.targets[item_field]
        kept = ~cold[every.lists[list_field].long()]
        self._before = torch.zeros(len(kept) + 1, dtype=torch.int64)  # [i]: how many of the events before i are kept
        torch.cumsum(kept, 0, out=self._before[1:])
        target, end = every.target.long(), every.start.long() + every.history_length
        seen = every.seen_counts
        if seen is None:
            seen = target - torch.searchsorted(self._users, self._users[target])
        left = self._before[end] - self._before[end - seen.long()]
        stays = ~cold[every.targets[item_field][target].long()] & ((left > 0) | (seen == 0) | empty_history)
        target, left = target[stays], left[stays]
        self._kept, self._every = kept, every
        self._target = self._before[target] if self._is_log else target
        width = left.clamp(max=every.width)
        lists = self._filtered(every.lists)
        self.rows = SequenceRows(
            {field: lists[1].get(id(values), values) for field, values in every.targets.items()},
            lists[0],
            self._target.to(every.target.dtype),
            (self._before[end[stays]] - width).to(every.start.dtype),
            width.to(every.history_length.dtype),
            every.width,
            every.length_field,
        )
        self.rows.seen_counts = None if every.seen_counts is None else left
        if self._is_log:
            self.rows.further_events = self._in_no_row(target)

    def _filtered(self, lists: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[int, torch.Tensor]]:
        """The columns of histories without the cold events, by their names, and by what they are made from; of one log
        they are the columns of its targets, too."""
        columns = {**lists, **self._every.targets} if self._is_log else lists
        made = {id(values): values[self._kept] for values in {id(each): each for each in columns.values()}.values()}
        return {field: made[id(values)] for field, values in lists.items()}, made

    def _in_no_row(self, targets: torch.Tensor) -> torch.Tensor:
        """Events that belong to training and are in no row: those of users who had one event only, and of those who
        have lost all of their rows. targets: [n], in the whole log, of the rows that are left."""
        shown = torch.zeros(len(self._kept), dtype=torch.bool)
        shown[self._every.target.long()] = True
        shown |= self._every.in_some_history()
        users = self._users[targets].unique()
        shown &= ~torch.isin(self._users, users)
        if self._every.further_events is not None:
            shown[self._every.further_events] = True
        return self._before[:-1][shown & self._kept]

    def rows_at(self, events: torch.Tensor) -> np.ndarray:
        """The rows whose targets are these events of the whole log, [m], or the next ones of the same users that are
        not cold; fewer than m where a user has no such row."""
        users = self._users[self._kept]
        row_of = torch.full((len(users),), -1, dtype=torch.int64)
        row_of[self._target] = torch.arange(len(self._target))
        at, user = self._before[events], self._users[events]
        at, user = at[at < len(users)], user[at < len(users)]
        found = row_of[at[users[at] == user]]
        return np.sort(found[found >= 0].numpy())


def tell_cold_items(dataset, cold: torch.Tensor, parts) -> None:
    """Say in the log how many items are cold, how much training has lost by it, and how many test targets it makes."""
    train, test = parts[0], parts[2]
    targets, all_targets = _cold_targets(test.inter_feat, test.iid_field, cold)
    logging.getLogger().info(
        f"cold_items: {int(cold.sum()):,} of {counted(len(cold) - 1, 'item')} are held out of training, with "
        f"{counted(train.cold_events, 'event')}; {targets:,} of {counted(all_targets, 'test target')} are cold"
    )


def _cold_targets(rows, item_field: str, cold: torch.Tensor) -> tuple[int, int]:
    """How many targets of rows are cold, and how many there are."""
    if not isinstance(rows, SequenceRows) or rows.future_counts is None:
        items = rows[item_field]
        return int(cold[items].sum()), len(items)
    before = torch.cat([torch.zeros(1, dtype=torch.int64), cold[rows.targets[item_field].long()].cumsum(0)])
    first, number = rows.target.long(), rows.future_counts.long()
    return int((before[first + number] - before[first]).sum()), int(number.sum())


def without_cold_items(part, cold: torch.Tensor):
    """The training part of a model without sequences, without interactions with cold items; in the histories of split
    files they are made padding."""
    rows, items = part.inter_feat, part.iid_field
    histories = items + part.config["LIST_SUFFIX"]
    is_cold = cold[rows[items]]
    left_out = int(is_cold.sum())
    columns = {field: values[~is_cold] for field, values in rows.interaction.items()}
    if histories in columns:
        left_out += int(cold[rows[histories]].sum())
        columns[histories] = columns[histories].masked_fill(cold[columns[histories]], 0)
    if not len(columns[items]):
        raise UserError("cold_items: every training interaction is with a cold item: take a smaller share")
    warm = part.copy(Interaction(columns))
    warm.cold_events = left_out
    return warm


def draw_no_cold_items(sampler, cold: torch.Tensor) -> None:
    """Have the sampler of the negative items of training, if there is one, draw none that is cold.

    Raises UserError where a user would have none left.
    """
    if sampler is None:
        return
    is_cold = cold.numpy()
    warm = np.flatnonzero(~is_cold[1:]) + 1
    most = max((sum(not is_cold[item] for item in used) for used in sampler.used_ids), default=0)
    if max(most, 1) >= len(warm):
        raise UserError(
            f"cold_items: {counted(len(warm), 'item')} are left to draw negative ones from, and some user has had all "
            f"of them: take a smaller share"
        )
    sampler._uni_sampling = lambda number: warm[np.random.randint(0, len(warm), number)]
    every = sampler._get_candidates_list
    sampler._get_candidates_list = lambda: [item for item in every() if not is_cold[item]]
    if sampler.distribution == "popularity":
        sampler._build_alias_table()
