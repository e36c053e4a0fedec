"""Targets that a user had before: where what was seen leaves the ranking, they would give the answer away.

With `mask_seen: True` the target stays whatever the user had, so that where people take things again it competes with
new items only. `mask_seen: all` drops these rows: what is left are targets that are new to their users. With
`mask_history: True` such a target leaves the ranking with the rest of its history, and cannot be hit.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError


def masks_seen(config, is_sequential: bool) -> bool:
    """Whether what the user had before leaves the ranking; without `mask_seen`, as in RecBole, by the kind of model."""
    given = config["mask_seen"]
    return not is_sequential if given is None else bool(given)


def seen_targets(parts, phase: int) -> torch.Tensor:
    """Which targets of part 1 (validation) or 2 (test) their user had before, [n] bool, in the order of its rows."""
    part = parts[phase]
    rows, fields = part.inter_feat, (part.uid_field, part.iid_field)
    if isinstance(rows, SequenceRows):  # one log of all events, sorted by user and time
        users, items = (rows.targets[field].numpy() for field in fields)
        pairs = users.astype(np.int64) * part.item_num + items
        _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
        target = rows.target.numpy()
        before = first[which[target]]
        seen = before < target
        if rows.seen_counts is not None:
            seen &= before >= target - rows.seen_counts.numpy()
        return torch.from_numpy(seen)
    pairs = [_pairs(each.inter_feat, fields, part.item_num) for each in parts[: phase + 1]]
    return torch.isin(pairs[-1], torch.cat(pairs[:-1]))


def targets_in_history(part) -> torch.Tensor:
    """Which targets are in the (truncated) history that the model reads, [n] bool, in the order of the part's rows."""
    rows, item = part.inter_feat, part.iid_field
    if not isinstance(rows, SequenceRows):
        return (rows[item + part.config["LIST_SUFFIX"]] == rows[item].unsqueeze(1)).any(1)
    pairs = _pairs(rows.targets, (part.uid_field, item), part.item_num).numpy()
    order = np.argsort(pairs, kind="stable")
    again = pairs[order][1:] == pairs[order][:-1]
    before = np.full(len(pairs), -1)
    before[order[1:][again]] = order[:-1][again]
    target = rows.target.numpy()
    return torch.from_numpy((before[target] >= 0) & (before[target] >= target - rows.history_length.numpy()))


def tell_masked_targets(config, parts) -> None:
    """Warn of targets that `mask_history` takes out of the ranking of a sequential model with the rest of a history."""
    drop = "" if config["benchmark_filename"] else ", --mask_seen=all drops these rows"
    for part, name in zip(parts[1:], ("validation", "test"), strict=True):
        if not config["mask_history"] or not len(part.inter_feat):
            continue
        masked = targets_in_history(part)
        if number := int(masked.sum()):
            logging.getLogger().warning(
                f"{number:,} of {len(masked):,} {name} targets ({number / len(masked):.1%}) are items of the history, "
                f"which mask_history takes out of the ranking: they cannot be hit. --mask_history=false ranks all "
                f"items{drop}"
            )


def _pairs(rows, fields: tuple[str, str], n_items: int) -> torch.Tensor:
    return rows[fields[0]] * n_items + rows[fields[1]]


def without_seen_targets(config, parts, is_sequential: bool) -> list:
    """The parts, the rows dropped that `mask_seen: all` drops; where they stay, and help, a warning says how many.

    Raises UserError if none are left.
    """
    parts = list(parts)
    if not masks_seen(config, is_sequential):
        return parts
    found = {phase: seen_targets(parts, phase) for phase in (1, 2) if len(parts[phase].inter_feat)}
    for phase, seen in found.items():
        if is_sequential and config["mask_history"] and config["mask_seen"] != "all":
            seen = seen & ~targets_in_history(parts[phase])  # else it leaves the ranking all the same
        number, name = int(seen.sum()), ("validation", "test")[phase - 1]
        if not number:
            continue
        share = f"{number:,} of {len(seen):,} {name} targets ({number / len(seen):.1%})"
        told = f"{share} are items that their user had before"
        if config["mask_seen"] != "all":
            logging.getLogger().warning(
                f"{told}, and stay in a ranking that everything else that he had leaves: their metrics are too good. "
                f"--mask_seen=all drops these rows, --mask_seen=false ranks all items"
            )
            continue
        if number == len(seen):
            raise UserError(f"{told}: mask_seen: all leaves no {name} rows")
        logging.getLogger().warning(f"{told}: mask_seen: all drops these rows")
        part = parts[phase]
        rows = part.inter_feat
        kept = rows.take((~seen).nonzero().squeeze(1)) if isinstance(rows, SequenceRows) else rows[~seen]
        parts[phase] = part.copy(kept)
    return parts
