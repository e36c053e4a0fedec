"""The lines of split files as sequences, each of whose events may be a training target."""

from __future__ import annotations

import torch

from recbole_gen.data import splits
from recbole_gen.data.rows import SequenceRows, compact_integers
from recbole_gen.errors import UserError, counted


def every_prefix(rows: SequenceRows, list_suffix: str, user_field: str, kept: str) -> SequenceRows:
    """Rows of split files as rows over one log, in which every event but the first of a line is a target.

    The rows that there were are among them, as the last of each line, also where its history is empty; a history
    reaches back to the line's begin, also where `rows` cut it.

    Args:
        rows: the training part, whose ``seen_counts`` are the lengths of the lines' histories.
        kept: the value of `train_pairs`, for messages.

    Raises UserError where a user has several lines, which may be such prefixes already, for a column of histories
    without one of targets, and for windows of a line that has no history.
    """
    users = rows.targets[user_field][rows.target]
    number = torch.bincount(users.long())
    if len(users) and number.max() > 1:
        several = counted(int((number > 1).sum()), "user")
        raise UserError(
            f"train_pairs: {kept} makes a target of every event of a line, and the training file has several lines of "
            f"{several}, whose histories may be parts of each other: use train_pairs: all, one target a line, or a "
            f"file with one line a user"
        )
    fields = {field: field.removesuffix(list_suffix) for field in rows.lists}
    if alone := sorted(field for field, of_target in fields.items() if of_target not in rows.targets):
        raise UserError(
            f"train_pairs: {kept} makes a target of every event of a line, and the split files have no column "
            f"'{fields[alone[0]]}' beside '{alone[0]}': use train_pairs: all"
        )
    length = rows.history_length.long() if rows.seen_counts is None else rows.seen_counts.long()
    if kept == "positions" and (empty := int((length == 0).sum())):
        raise UserError(
            f"train_pairs: positions learns no event from an empty history, and {counted(empty, 'line')} of the "
            f"training file have none: use train_pairs: prefixes"
        )
    if not length.any():
        return rows
    begin = rows.start.long() + rows.history_length.long() - length
    line = torch.repeat_interleave(torch.arange(len(length)), length + 1)
    place = torch.arange(len(line)) - ((length + 1).cumsum(0) - length - 1)[line]
    is_target = place == length[line]
    source = torch.where(is_target, 0, begin[line] + place)
    of_line = rows.target.long()[line]
    log = {field: compact_integers(values[of_line]) for field, values in rows.targets.items()}
    lists = {}
    for list_field, field in fields.items():
        values = rows.lists[list_field][source]
        shape = is_target.view(-1, *[1] * (values.dim() - 1))
        log[field] = lists[list_field] = torch.where(shape, log[field], values)  # in the wider of their types
    windows = splits.history_windows(line.numpy(), rows.width, True)
    is_row = ((place > 0) | (length[line] == 0)).numpy()
    target, start, size = (torch.from_numpy(each[is_row]) for each in windows)
    prefixes = SequenceRows(log, lists, target, start, size, rows.width, rows.length_field)
    prefixes.seen_counts = place[target.long()]
    return prefixes
