"""Histories of alike lengths are encoded together, cut to their own length: little is computed on padding."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.errors import UserError

SPREAD = 1.3
"""How many times as long as its shortest history the longest one of a large group is at most."""

PLACES = {"cpu": 256}
"""Places, rows times width, up to which a group takes shorter histories, too: a call has its price."""

PLACES_ELSEWHERE = 2**14
"""The same on devices that need more work at once to be busy."""

WORTHWHILE = 0.85
"""Share of a batch's places that groups must do with, or the batch stays in one piece."""

HISTORY_NAMES = ("item_seq", "seq_item")
"""What the `forward` of a sequential model of RecBole calls the ids of the history [B, L]."""


def used_lengths(item_seq: torch.Tensor) -> torch.Tensor:
    """Where the last id is that is no padding, counted from 1, and 1 for a row of nothing else: [B, L] -> int64 [B]."""
    place = torch.arange(1, item_seq.shape[1] + 1, device=item_seq.device)
    return place.where(item_seq != 0, 1).amax(1)


def split_by_length(lengths: Sequence[int], places: int, most_rows: int | None = None) -> list[slice]:
    """Groups of alike lengths as parts of ``lengths`` [B], which ascend; see SPREAD and WORTHWHILE.

    Args:
        places: rows times width up to which histories count as alike.
        most_rows: of a group.
    """
    groups, stop, needed = list[slice](), len(lengths), 0
    while stop:
        longest, start = lengths[stop - 1], stop - 1
        # The group may begin at the first row that is long enough, or at that with which it has `places`.
        while start and (SPREAD * lengths[start - 1] >= longest or (stop - start + 1) * longest <= places):
            if stop - start == most_rows:
                break
            start -= 1
        groups.append(slice(start, stop))
        needed += (stop - start) * longest
        stop = start
    if most_rows is None and lengths and needed > WORTHWHILE * len(lengths) * lengths[-1]:
        return [slice(0, len(lengths))]
    return groups[::-1]


def encode_by_length(
    encode: Callable[..., torch.Tensor],
    length: torch.Tensor,
    histories: Sequence[torch.Tensor],
    others: Sequence[torch.Tensor] = (),
    most_rows: int | None = None,
    places: int | None = None,
) -> torch.Tensor:
    """``encode(*histories, *others)`` of a whole batch, [B, ...], called for groups of rows of alike lengths.

    Equal to one call where what ``encode`` gives for a row depends neither on padding nor on other rows.

    Args:
        length: [B] of each history, at least 1; nothing behind it is read.
        histories: [B, L, ...] each, cut to the longest of a group.
        others: [B, ...] each.
        most_rows: of a group, for an encoder that takes much memory for a row.
        places: as of `split_by_length`, for an encoder that does more for a row than for a place; by default PLACES.
    """
    ordered, order = length.sort()
    lengths = ordered.tolist()
    places = max(places or 0, PLACES.get(length.device.type, PLACES_ELSEWHERE))
    groups = split_by_length(lengths, places, most_rows)
    if len(groups) <= 1:  # in the order in which they are
        width = lengths[-1] if lengths else 1
        return encode(*(each[:, :width] for each in histories), *others)
    parts = []
    for group in groups:
        rows, width = order[group], lengths[group.stop - 1]
        cut = (each[:, :width].index_select(0, rows) for each in histories)
        parts.append(encode(*cut, *(each.index_select(0, rows) for each in others)))
    return torch.cat(parts).index_select(0, order.argsort())


@contextlib.contextmanager
def looked_up_once(table: Any, ids: torch.Tensor) -> Iterator[None]:
    """While the block runs, have an embedding table answer for ``ids`` [...] from the rows that they name, read once.

    Each look-up in the table itself would give a gradient of the size of the table. A block within one for the same
    table changes nothing.
    """
    trains = isinstance(table, nn.Embedding) and torch.is_grad_enabled() and table.weight.requires_grad
    if not trains or "forward" in vars(table):
        yield
        return
    distinct = torch.cat([ids.new_zeros(1), ids.flatten()]).unique()
    vectors = table(distinct)
    place = ids.new_full((table.num_embeddings,), -1)
    place[distinct] = torch.arange(len(distinct), device=ids.device)
    in_table = table.forward

    def in_vectors(wanted: torch.Tensor) -> torch.Tensor:
        found = place[wanted]
        return in_table(wanted) if (found < 0).any() else F.embedding(found, vectors)

    table.forward = in_vectors  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del table.forward


def encodes_by_length(
    forward: Callable[..., torch.Tensor],
    applies: Callable[[Any, dict[str, Any]], bool],
    all_positions: bool = False,
) -> Callable[..., torch.Tensor]:
    """The `forward` of a sequential model, called for groups of rows of alike lengths.

    The history is its argument `item_seq` or `seq_item` [B, L]; other tensors with a place for each event are cut like
    it, and those with a row for each history are divided.

    Args:
        applies: whether to, given the model and the arguments by name.
        all_positions: whether ``forward`` gives the states of all positions, [B, L, d], of which nothing is read on
            padding (there they become 0), instead of one result a row.
    """
    names = list(inspect.signature(forward).parameters)[1:]
    history_name = next(name for name in names if name in HISTORY_NAMES)

    @functools.wraps(forward)
    def grouped(self, *values, **named):
        arguments = dict(zip(names, values)) | named
        item_seq = arguments.get(history_name)
        if item_seq is None or len(values) > len(names) or not applies(self, arguments):
            return forward(self, *values, **named)
        shape = item_seq.shape
        tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        histories = {name: value for name, value in tensors.items() if value.shape[:2] == shape}
        rows = {
            name: value
            for name, value in tensors.items()
            if name not in histories and value.dim() and len(value) == shape[0]
        }

        def encode(*parts: torch.Tensor) -> torch.Tensor:
            out = forward(self, **{**arguments, **dict(zip([*histories, *rows], parts))})
            return F.pad(out, (0, 0, 0, shape[1] - out.shape[1])) if all_positions else out

        with looked_up_once(getattr(self, "item_embedding", None), item_seq):
            return encode_by_length(encode, used_lengths(item_seq), [*histories.values()], [*rows.values()])

    grouped.encodes_by_length = True  # type: ignore[attr-defined]
    return grouped


def encode_class_by_length(model_class: type) -> None:
    """Have a model's own class encode by length if it says of itself `ignores_padding = True`.

    Raises UserError if its `forward` takes no history.
    """
    declared, forward = vars(model_class).get("ignores_padding", False), model_class.forward  # type: ignore[attr-defined]
    if not declared or ("forward" in vars(model_class) and hasattr(forward, "encodes_by_length")):
        return
    if not set(HISTORY_NAMES) & inspect.signature(forward).parameters.keys():
        raise UserError(
            f"{model_class.__name__} has ignores_padding = True, and its forward takes no histories: they are its "
            f"argument {' or '.join(HISTORY_NAMES)}"
        )
    model_class.forward = encodes_by_length(inspect.unwrap(forward), lambda *_: True)  # type: ignore[attr-defined]
