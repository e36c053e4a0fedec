"""Rows of histories and targets as windows into flat arrays: O(N) memory, where a padded history for each takes N x L.

The log is kept once, sorted by user and time; a row is the position of its target and the length of the window before
it, and a batch gathers its histories by one vectorised index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from recbole.data.interaction import Interaction

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset


class SequenceRows(Interaction):
    """Rows (history, target) over shared flat arrays; any subset of rows is a dense `Interaction` with `rows[index]`.

    A list column on its own, `rows["item_id_list"]`, is made dense for all rows and kept: FEARec reads it row by
    row. Rows are read-only, but for their order and which columns there are.

    Args:
        targets: field -> values of every event, [N, ...].
        lists: list field -> values of every event that can lie in a history, [M, ...].
        target: [n] index of each row's target in ``targets``.
        start, length: [n] window of each row's history in ``lists``.
        width: columns of a dense history; shorter ones are padded with 0 on the right.
        length_field: name of the column with the history's length, at least 1: an empty history is one padding item.

    Attributes:
        future_counts: [n] how many events from the target on are to be predicted, or None where it is the target alone.
        future_fields: field of these events -> the column, [B, W] padded with 0, in which a dense row has its values.
        seen_counts: [n] how many events the user had before the target, or None where nothing asks for them;
            ``length`` is at most this.
        further_events: [m] events of the training part that are in no row, those of users who have only one.
    """

    future_counts: torch.Tensor | None = None
    seen_counts: torch.Tensor | None = None
    further_events: torch.Tensor | None = None

    def __init__(
        self,
        targets: dict[str, torch.Tensor],
        lists: dict[str, torch.Tensor],
        target: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor,
        width: int,
        length_field: str,
    ):
        self.targets, self.lists = targets, lists
        self.target, self.start, self.history_length = target, start, length
        self.width, self.length_field = width, length_field
        self.future_fields: dict[str, str] = {}
        self._dense: dict[str, torch.Tensor] = {}

    @property
    def length(self) -> int:
        return len(self.target)

    @property
    def columns(self) -> list[str]:
        return [*self.targets, self.length_field, *self.lists]

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        return self[:].interaction

    def __iter__(self):
        return iter(self.columns)

    def __contains__(self, field) -> bool:
        return field in self.targets or field in self.lists or field == self.length_field

    def __getitem__(self, index):
        if isinstance(index, str):
            return self._column(index)
        index = _as_index(index, self.target.device)
        target, length = self.target[index], self.history_length[index]
        dense = {field: _gather(values, target) for field, values in self.targets.items()}
        dense[self.length_field] = length.clamp(min=1).long()
        for field, column in self.future_fields.items():
            dense[column] = self.future_values(field, index)
        return Interaction(dense | self._histories(self.lists, index))

    def future_values(self, field: str, index) -> torch.Tensor:
        """The values of the events that the rows are to predict, the target first: [B, W], 0 where there are fewer."""
        values, target = self.targets[field], self.target[index]
        if self.future_counts is None:
            return _gather(values, target).unsqueeze(-1)
        number = self.future_counts[index]
        step = torch.arange(int(number.max()) if len(number) else 1, device=target.device)
        padding = step >= number.unsqueeze(-1)
        return _zero_padding(padding, _gather(values, torch.where(padding, 0, target.unsqueeze(-1) + step)))

    def seen_before(self, field: str, index) -> tuple[torch.Tensor, torch.Tensor]:
        """Row (in the batch) and value of every event before the targets, also of those that histories leave out."""
        if self.seen_counts is None:
            raise ValueError("these rows do not know how many events were before them")
        number, target = self.seen_counts[index].long(), self.target[index].long()
        row = torch.repeat_interleave(torch.arange(len(number)), number)
        before = torch.arange(len(row)) - (number.cumsum(0) - number)[row]  # 0 .. number - 1 in each row
        return row, _gather(self.targets[field], (target - number)[row] + before)

    @staticmethod
    def gather(values: torch.Tensor, index: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """``values[index]``, whole numbers as int64, and 0 where ``padding`` is, both of one shape."""
        return _zero_padding(padding, _gather(values, index))

    def _histories(self, fields, index) -> dict[str, torch.Tensor]:
        """One index for all fields; padding reads event 0, and is then overwritten."""
        step = torch.arange(self.width, dtype=self.start.dtype, device=self.start.device)
        padding = step >= self.history_length[index].unsqueeze(-1)  # [B, L]
        window = torch.where(padding, 0, self.start[index].unsqueeze(-1) + step)
        return {field: _zero_padding(padding, _gather(self.lists[field], window)) for field in fields}

    def _column(self, field: str) -> torch.Tensor:
        if field in self.targets:
            return _gather(self.targets[field], self.target)
        if field == self.length_field:
            return self.history_length.clamp(min=1).long()
        if field not in self._dense:
            if field not in self.lists:
                raise KeyError(field)
            self._dense.update(self._histories([field], slice(None)))
        return self._dense[field]

    def take(self, index) -> SequenceRows:
        """The same flat arrays with the given rows only."""
        index = _as_index(index, self.target.device)
        windows = (self.target[index], self.start[index], self.history_length[index])
        taken = SequenceRows(self.targets, self.lists, *windows, self.width, self.length_field)
        taken.future_fields = self.future_fields
        taken.future_counts, taken.seen_counts = (
            None if value is None else value[index] for value in (self.future_counts, self.seen_counts)
        )
        return taken

    def in_some_history(self, whole: bool = False) -> torch.Tensor:
        """Which events lie in the history of at least one row: [M] bool; ``whole``: also what `width` cuts off it."""
        size = len(next(iter(self.lists.values())))
        begin, end = self.start, self.start + self.history_length
        if whole and self.seen_counts is not None:
            begin = (end - self.seen_counts).to(self.start.dtype)
        # +1 where a window opens, -1 behind its end: positive sums lie in some window.
        edges = torch.zeros(size + 1, dtype=self.start.dtype)
        edges.index_add_(0, begin, torch.ones_like(begin))
        edges.index_add_(0, end, -torch.ones_like(begin))
        return edges.cumsum(0)[:size] > 0

    def add_field(self, field: str, list_field: str, targets: torch.Tensor, lists: torch.Tensor) -> None:
        """Add a derived column, its values at the events that are targets [N] and at those of histories [M]."""
        self.targets = {**self.targets, field: targets}
        self.lists = {**self.lists, list_field: lists}

    def to(self, device, selected_field=None) -> SequenceRows:
        """The same rows with all arrays on ``device``, where batches are then gathered; arrays there are not copied.

        Raises ValueError for ``selected_field``: the columns share their arrays.
        """
        if selected_field is not None:
            raise ValueError("SequenceRows move to a device with all columns")
        moved = {id(values): values.to(device) for values in self._arrays()}
        targets = {field: moved[id(values)] for field, values in self.targets.items()}
        lists = {field: moved[id(values)] for field, values in self.lists.items()}
        target, start, length = (moved[id(values)] for values in (self.target, self.start, self.history_length))
        rows = SequenceRows(targets, lists, target, start, length, self.width, self.length_field)
        rows.future_fields = self.future_fields
        rows.future_counts, rows.seen_counts = (
            None if each is None else moved[id(each)] for each in (self.future_counts, self.seen_counts)
        )
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those that columns share once."""
        return sum({id(values): values.nbytes for values in self._arrays()}.values())

    def _arrays(self) -> list[torch.Tensor]:
        windows = (self.target, self.start, self.history_length, self.future_counts, self.seen_counts)
        return [*self.targets.values(), *self.lists.values(), *(each for each in windows if each is not None)]

    def _reindex(self, index) -> None:
        index = _as_index(index, self.target.device)
        self.target, self.start = self.target[index], self.start[index]
        self.history_length = self.history_length[index]
        self.future_counts, self.seen_counts = (
            None if value is None else value[index] for value in (self.future_counts, self.seen_counts)
        )
        self._dense.clear()

    def sort(self, by, ascending=True) -> None:
        keys = Interaction({field: self[field] for field in ([by] if isinstance(by, str) else by)})
        keys.update(Interaction({"row": torch.arange(len(self))}))
        keys.sort(by, ascending)
        self._reindex(keys["row"])

    def drop(self, column: str) -> None:
        if column not in self or column == self.length_field:
            raise ValueError(f"Column [{column}] is not among {[*self.targets, *self.lists]}.")
        self.targets = {field: values for field, values in self.targets.items() if field != column}
        self.lists = {field: values for field, values in self.lists.items() if field != column}
        self._dense.pop(column, None)

    def _read_only(self, *_):
        raise TypeError("SequenceRows share their values with other parts of the data: change a batch, rows[index]")

    __setitem__ = __delitem__ = update = add_prefix = _read_only

    def __str__(self) -> str:
        return f"{self.length} rows over {len(next(iter(self.targets.values())))} events, columns {self.columns}"


def _as_index(index, device):
    if isinstance(index, slice):
        return index
    index = torch.as_tensor(index, device=device)
    return index if index.numel() else index.long()  # an empty list says nothing about its type


def compact_integers(values: torch.Tensor) -> torch.Tensor:
    """int64 as int32 where it fits: ids are most of what a log takes. In batches `_gather` makes them int64 again."""
    fits = values.dtype == torch.int64 and values.numel() and values.min() >= 0 and values.max() < 2**31
    return values.int() if fits else values


def _gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``values[index]``, whole numbers as int64."""
    picked = values.index_select(0, index.reshape(-1)).reshape(index.shape + values.shape[1:])
    return picked.long() if picked.dtype == torch.int32 else picked


def _zero_padding(padding: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values.masked_fill_(padding.reshape(padding.shape + (1,) * (values.dim() - padding.dim())), 0)


def training_pairs_of_items(
    train_rows: Interaction, item_field: str, list_field: str, length_field: str, apart: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The item ``apart`` places before the target of each training row, and the target, [n] each.

    Rows whose history has no such item are left out; but with ``apart`` 1 an empty history has the padding item, 0.
    """
    if isinstance(train_rows, SequenceRows):
        length, start, values = train_rows.history_length, train_rows.start, train_rows.lists[list_field]
    else:
        lists = train_rows[list_field]
        length, values = train_rows[length_field], lists.flatten()
        start = torch.arange(len(lists), device=lists.device) * lists.shape[1]
    if apart == 1:
        previous = _gather(values, (start + length - 1).clamp(min=0)).masked_fill_(length == 0, 0)
        return previous, train_rows[item_field]
    known = length >= apart
    return _gather(values, (start + length - apart)[known]), train_rows[item_field][known]


def training_item_counts(train: Dataset) -> torch.Tensor:
    """How often each item occurs in the training part of a data set: as a target, only in a history, or in no row:
    [n_items], float.

    For models with and without sequences it is the same number, also where split files have events in histories only.
    """
    train_rows, item_field, n_items = train.inter_feat, train.iid_field, train.item_num
    if not isinstance(train_rows, SequenceRows):
        items, histories = train_rows[item_field], item_field + train.config["LIST_SUFFIX"]
        if train.benchmark_filename_list is not None and histories in train_rows:
            listed = train_rows[histories]
            items = torch.cat([items, listed[listed > 0]])  # the rest is padding
        return torch.bincount(items, minlength=n_items).float()
    list_field = min((name for name in train_rows.lists if name.startswith(item_field)), key=len)  # not item_id2_list
    return count_items(train_rows, item_field, list_field, n_items)


def count_items(rows: SequenceRows, item_field: str, list_field: str, n_items: int) -> torch.Tensor:
    """How often each item occurs in rows, as a target or in a history, or in their further events: [n_items], float."""
    targets, histories = rows.targets[item_field], rows.lists[list_field]
    shown = rows.in_some_history(whole=histories is not targets)  # files hold all of a line, however much is read
    if histories is targets:  # one log: an event that is both counts once
        shown[rows.target] = True
        if rows.further_events is not None:
            shown[rows.further_events] = True
        return torch.bincount(histories[shown], minlength=n_items).float()
    return torch.bincount(torch.cat([histories[shown], targets[rows.target]]), minlength=n_items).float()
