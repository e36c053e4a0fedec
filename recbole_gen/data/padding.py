"""Split files whose histories somebody has filled to one length, as with `0`: the fill would count as an item."""

from __future__ import annotations

import numpy as np

from recbole_gen.compat.filters import note

LEAST_ROWS = 2
"""Histories that must end, or begin, with the same token twice for it to be suspected."""


def padding_values(values: np.ndarray, lengths: np.ndarray, is_target: np.ndarray) -> list[int]:
    """What fills the ends of histories, and is nowhere else.

    Args:
        values: [N] ids in all histories, one history after the other.
        lengths: [n] of each.
        is_target: [ids] bool, what is a target somewhere.
    """
    if not len(values):
        return []
    ends = np.cumsum(lengths)
    starts = ends - lengths
    long = lengths >= 2
    found = []
    for edge, step in ((ends[long] - 1, -1), (starts[long], 1)):
        twice = values[edge][values[edge] == values[edge + step]]
        suspects = np.flatnonzero(np.bincount(twice, minlength=len(is_target)) >= LEAST_ROWS)
        # Where a fill stands, it stands from there to the edge.
        inner = np.ones(len(values), dtype=bool)
        inner[(ends if step < 0 else starts + 1)[lengths > 0] - 1] = False
        for value in suspects[~is_target[suspects]]:
            places = np.flatnonzero((values == value) & inner)
            if (values[places - step] == value).all():
                found.append(int(value))
    return sorted(set(found))


def tell_padding(dataset) -> None:
    """Warn of what fills the histories of a data set that is loaded from split files, and not yet split."""
    field = dataset.iid_field
    list_field = field + dataset.config["LIST_SUFFIX"]
    if dataset.benchmark_filename_list is None or list_field not in dataset.inter_feat:
        return
    tokens, targets = dataset.field2id_token[list_field], dataset.inter_feat[field].to_numpy(np.int64)
    is_target = np.zeros(len(tokens), dtype=bool)
    if tokens is dataset.field2id_token[field]:
        is_target[targets] = True
    else:
        is_target[:] = np.isin(tokens, dataset.field2id_token[field][np.unique(targets)])
    is_target[0] = True  # nobody wrote it
    histories = dataset.inter_feat[list_field]
    lengths = histories.map(len).to_numpy(np.int64)
    values = np.concatenate(histories.to_numpy()).astype(np.int64, copy=False)
    row = np.repeat(np.arange(len(lengths)), lengths)
    fills = padding_values(values, lengths, is_target)
    strange = values[~is_target[values] & ~np.isin(values, fills)]
    if 2 * len(strange) > len(values):
        note(
            dataset,
            f"{len(strange):,} of {len(values):,} entries of the histories in {list_field} are never a target, such as "
            f"'{tokens[strange[0]]}': an item has the same name in both, and the entries of a list are divided by "
            f"{dataset.config['seq_separator']!r} (seq_separator)",
        )
    for value in fills:
        filled = len(np.unique(row[values == value]))
        note(
            dataset,
            f"'{tokens[value]}' fills {filled} of {len(lengths)} histories in {list_field}, and is never a target: it "
            f"looks like padding, and counts as an item that models read and rank. Leave it out of the files (of every "
            f"list of a row): a history has as many entries as events, and is padded in memory",
        )
