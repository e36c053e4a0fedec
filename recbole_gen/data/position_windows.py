"""Training batches of windows of histories, in which every event but a user's first is a target once an epoch."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction

from recbole_gen import distributed
from recbole_gen.data.row_batches import rows_of_this_process
from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError
from recbole_gen.model.positions import NEXT


class PositionWindows:
    """The training events of each user, cut into windows of at most ``width`` targets.

    The history of a user who has no more than that is one window, so that each target has the history that its row
    has. Of a longer one, the first window of an epoch has a random number of targets from 1 to ``width``, and the
    others adjoin: a target's history then begins with the event before its window.

    Attributes:
        begin: [U] first event of each user's windows.
        number: [U] how many events behind it may be targets.
        is_target: [N] which events are.
    """

    def __init__(self, rows: SequenceRows, user_field: str, list_field: str):
        item_field = next((field for field, each in rows.targets.items() if each is rows.lists[list_field]), None)
        if item_field is None:
            raise UserError("train_pairs: positions needs rows over one log")
        self.width, self._user_field = rows.width, user_field
        target = rows.target.long()
        self.is_target = torch.zeros(len(rows.targets[user_field]), dtype=torch.bool)
        self.is_target[target] = True
        users, at = rows.targets[user_field][target].long().unique(return_inverse=True)
        first = torch.full((len(users),), len(self.is_target)).scatter_reduce(
            0, at, target - rows.history_length.long(), "amin"
        )
        last = torch.zeros_like(first).scatter_reduce(0, at, target, "amax")
        self.begin, self.number = first, last - first

    def expected(self) -> float:
        """How many windows an epoch has on average."""
        more = (self.number - 1).clamp(min=0).double() / self.width
        return float(torch.where(self.number > self.width, 1 + more, 1.0).sum())

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows of an epoch: their first events and how many targets are behind it, [n] each."""
        drawn = torch.randint(1, self.width + 1, self.number.shape, generator=generator)
        head = torch.where(self.number > self.width, drawn, self.number)  # targets of the first window
        count = 1 + (self.number - head + self.width - 1) // self.width
        user = torch.repeat_interleave(torch.arange(len(count)), count)
        place = torch.arange(len(user)) - (count.cumsum(0) - count)[user]
        start = torch.where(place == 0, 0, head[user] + (place - 1) * self.width)
        size = torch.where(place == 0, head[user], (self.number[user] - start).clamp(max=self.width))
        return self.begin[user] + start, size

    def batch(self, begin: torch.Tensor, size: torch.Tensor, length_field: str, rows: SequenceRows) -> Interaction:
        """Windows as a batch, the longest first; see `recbole_gen.model.positions`.

        For a model that learns sets it has the events behind the first of each window, [W, F], up to the user's last
        target: from column p on they are what is ahead of position p.

        ``rows`` are those of this object, or a copy of them on another device, where the batch is gathered.
        """
        device = rows.target.device
        order = size.argsort(descending=True, stable=True)
        begin, size = begin[order].to(device), size[order].to(device)
        step = torch.arange(int(size[0]), device=device)
        padding = step >= size.unsqueeze(1)
        at = torch.where(padding, 0, begin.unsqueeze(1) + step)
        behind = torch.where(padding, 0, at + 1)
        no_target = padding | ~self._is_target_on(device)[behind]
        batch = {length_field: size, self._user_field: rows.targets[self._user_field][begin].long()}
        list_fields = {id(values): field for field, values in rows.lists.items()}
        for field, values in rows.lists.items():
            batch[field] = rows.gather(values, at, padding)
        for values in rows.targets.values():
            if id(values) in list_fields:
                batch[NEXT + list_fields[id(values)]] = rows.gather(values, behind, no_target)
        if rows.future_fields:
            user = torch.searchsorted(self.begin, begin.cpu(), right=True) - 1
            ahead = (self.begin + self.number)[user].to(device) - begin
            step = torch.arange(int(ahead.max()), device=device)
            none = step >= ahead.unsqueeze(1)
            at = torch.where(none, 0, begin.unsqueeze(1) + 1 + step)
            for field, column in rows.future_fields.items():
                batch[column] = rows.gather(rows.targets[field], at, none)
        return Interaction(batch)

    def _is_target_on(self, device) -> torch.Tensor:
        if self.is_target.device != device:
            self.is_target = self.is_target.to(device)
        return self.is_target


def windows_of_this_process(batch: torch.Tensor) -> torch.Tensor:
    """The share of this process: every window is in one, as `training_loss` weighs shares by what is in them.

    Of fewer windows than processes, some are in several.
    """
    world = distributed.world_size()
    return batch[distributed.rank() :: world] if len(batch) >= world else rows_of_this_process(batch)


class WindowBatches(torch.utils.data.Sampler):
    """Batches of the windows of an epoch, (first events, numbers of targets) each; every epoch has as many."""

    def __init__(self, windows: PositionWindows, batch_size: int, generator: torch.Generator, shuffle: bool):
        self.windows, self.generator, self.shuffle = windows, generator, shuffle
        self.batches = max(1, round(windows.expected() / batch_size))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        begin, size = self.windows.draw(self.generator)
        order = torch.arange(len(begin))
        if self.shuffle:
            order = torch.randperm(len(begin), generator=self.generator)
        for batch in order.tensor_split(min(self.batches, len(order))):
            mine = windows_of_this_process(batch)
            yield begin[mine], size[mine]
