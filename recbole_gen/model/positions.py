"""Training on every position of a window of a user's history at once (`train_pairs: positions`).

A batch has windows instead of histories, [W, L] padded with 0 on the right, the longest first, and beside each list
column `item_id_list` a column `next_item_id_list`, [W, L]: the value of the event behind each position, 0 where it is
no training target. A model offers it by a method `calculate_positions_loss(interaction)`, which returns what
`calculate_loss` does, its mean over all targets; its state at a position must depend on what came before only.

RecBole's models get it here, from their own `forward`: one that gathers the last state of a history gives all of them
if it gathers nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import looked_up_once
from recbole_gen.model.item_losses import ItemLoss

NEXT = "next_"
"""Prefix of the columns with the events behind each position."""

GROUP = 16
"""Windows that are encoded together, at least, of alike lengths: short ones do not pay for the padding of long ones."""

GROUP_EVENTS = 512
"""Events of short windows that are encoded together: with fewer, calls cost more than work."""

BY_CROSS_ENTROPY = (
    "SASRec",
    "GRU4Rec",
    "SASRecF",
    "GRU4RecF",
    "GRU4RecKG",
    "FDSA",
    "NARM",
    "STAMP",
    "LightSANs",
    "SRGNN",
)
"""RecBole's models whose loss is the cross-entropy of `forward(item_seq, item_seq_len) @ item_embedding.weight.T`."""

CAUSAL = ("SASRec", "GRU4Rec", "SASRecF", "GRU4RecF", "GRU4RecKG", "FDSA")
"""Those of them whose state at a position depends on what came before only, and is gathered from all states."""

WHY_NOT = {
    "BERT4Rec": "it learns masked items from what is before and behind them",
    "Caser": "its convolutions run over the whole window",
    "CORE": "it weighs all items of a history together",
    "DIN": "it reads the target item together with the history",
    "DIEN": "it reads the target item together with the history",
    "FEARec": "its Fourier transform runs over the whole window",
    "FOSSIL": "it weighs all items of a history together",
    "FPMC": "it reads the last item only, so that every row is a position already",
    "GCSAN": "it builds a graph of a whole history",
    "GRU4RecCPR": "its loss is over a context that it re-ranks for each history",
    "HGN": "its gates read the whole window",
    "HRM": "it pools the last items of a history",
    "KSR": "it attends to a memory from the last state of a history",
    "LightSANs": "its attention projects the whole window",
    "NARM": "it attends to a whole history from its last state",
    "NPE": "it sums the items of a whole history",
    "NextItNet": "it reads the last column of the window, and regularises its filters",
    "RepeatNet": "it attends to a whole history from its last state",
    "S3Rec": "it is pretrained on masked items, in steps of its own",
    "SASRecCPR": "its loss is over a context that it re-ranks for each history",
    "SHAN": "it attends to a whole history",
    "SINE": "it attends to a whole history",
    "SRGNN": "it builds a graph of a whole history",
    "STAMP": "it attends to a whole history from its last item",
    "TransRec": "it reads the last item only, so that every row is a position already",
}


def refuse_unless_positions(config) -> None:
    """Raise UserError unless the model of a configuration can train on every position of a window."""
    name = config["model"]
    cure = f"use --train_pairs={'prefixes' if config['benchmark_filename'] else 'all'}"
    why = getattr(config.model_class, "why_no_positions", None)
    if why is not None and (reason := why(config)):
        raise UserError(f"train_pairs: positions is not for this {name}: {reason}")
    if not hasattr(config.model_class, "calculate_positions_loss"):
        if not config.is_recbole_model:
            raise UserError(
                f"train_pairs: positions: {name} has no method calculate_positions_loss, which CONTRIBUTING.md "
                f"describes: {cure}"
            )
        if name not in CAUSAL:
            reason = WHY_NOT.get(name, "it does not read sequences step by step")
            raise UserError(f"train_pairs: positions is not for {name}: {reason}. {cure.capitalize()}")
        if config["loss_type"] != "CE":
            raise UserError(f"train_pairs: positions needs loss_type: CE, got {config['loss_type']!r}")
    if (config["train_neg_sample_args"] or {}).get("distribution", "none") != "none":
        raise UserError(f"train_pairs: positions draws no negative items: leave train_neg_sample_args unset, or {cure}")
    if config["transform"]:
        raise UserError(f"train_pairs: positions knows no transform, got {config['transform']!r}: {cure}")
    if config["empty_history"]:
        raise UserError(f"train_pairs: positions learns no event from an empty history (empty_history: True): {cure}")


def refuse_unless_loss(config) -> None:
    """Raise UserError unless the model of a configuration learns by the item loss that the key ``loss`` names."""
    if config["loss"] == "softmax" or getattr(config.model_class, "reads_item_loss", False):
        return
    name, kind = config["model"], config["loss"]
    if not config.is_recbole_model or name not in BY_CROSS_ENTROPY:
        raise UserError(
            f"loss: {kind} is for models that learn by cross-entropy over all items, and can be computed from vectors "
            f"of histories and items: {', '.join(BY_CROSS_ENTROPY)}, DiffRec, ACVAE. {name} has a loss of its own"
        )
    if config["loss_type"] != "CE":
        raise UserError(f"loss: {kind} needs loss_type: CE, got {config['loss_type']!r}")


def encode_windows(
    encode: Callable[..., torch.Tensor], length: torch.Tensor, *windows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """States at all events of windows, without those of padding, and which events they are.

    Args:
        encode: (length [G], *windows [G, l]) -> states [G, l, d] of some windows, cut to the longest of them.
        length: [W] events of each window, the longest first.
        windows: [W, L, ...] each.

    Returns states [P, d], and their positions [P] in windows that are laid one behind the other, [W L].
    """
    width, sizes = windows[0].shape[1], _group_sizes(length.tolist())
    states, places, start = [], [], 0
    for some, *parts in zip(*(each.split(sizes) for each in (length, *windows)), strict=True):
        longest = int(some[0])
        step = torch.arange(longest, device=length.device)
        real = step < some.unsqueeze(1)  # [G, l]
        encoded = encode(some, *(part[:, :longest] for part in parts))
        rows = torch.arange(start, start + len(real), device=length.device).unsqueeze(1)
        states.append(encoded[real])
        places.append((rows * width + step)[real])
        start += len(real)
    return torch.cat(states), torch.cat(places)


def _group_sizes(lengths: list[int]) -> list[int]:
    """How many windows, the longest first, are encoded together."""
    sizes, start = [], 0
    while start < len(lengths):
        sizes.append(min(max(GROUP, GROUP_EVENTS // lengths[start]), len(lengths) - start))
        start += sizes[-1]
    return sizes


@contextmanager
def _gathering_nothing(model: Any):
    """RecBole's models end in `gather_indexes`, which takes the last state of each history."""
    model.gather_indexes = lambda output, _: output
    try:
        yield
    finally:
        del model.gather_indexes


def recbole_states(model: Any, item_seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """States at all positions of a model of CAUSAL: item_seq [W, L], length [W] -> [W, L, d]."""
    # `forward` as it is of one batch in one piece: `encode_windows` forms groups of its own
    forward = inspect.unwrap(getattr(type(model), "forward_by_gathering", type(model).forward))
    with _gathering_nothing(model):
        return forward(model, item_seq, length)


def recbole_positions_loss(model: Any, loss: ItemLoss, interaction) -> torch.Tensor:
    """Cross-entropy of a model of CAUSAL at every position of the windows of a batch: a number."""

    def encode(length: torch.Tensor, item_seq: torch.Tensor) -> torch.Tensor:
        return recbole_states(model, item_seq, length)

    with looked_up_once(model.item_embedding, interaction[model.ITEM_SEQ]):
        states, targets = states_and_targets(model, interaction, encode, model.ITEM_SEQ)
    return loss(states, model.item_embedding.weight, targets)


def states_and_targets(
    model: Any, interaction, encode: Callable[..., torch.Tensor], *columns: str | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [P, d] at the positions of a batch that have a target, window by window, and the items there [P].

    ``encode`` as in `encode_windows`, called with the named columns of the batch, or with other windows [W, L, ...].
    """
    windows = (interaction[column] if isinstance(column, str) else column for column in columns)
    states, places = encode_windows(encode, interaction[model.ITEM_SEQ_LEN], *windows)
    targets = interaction[NEXT + model.ITEM_SEQ].flatten()[places]
    counted = targets != 0
    return (states, targets) if counted.all() else (states[counted], targets[counted])
