"""Which items a loss is over, where some of the catalogue are to be unknown in training (the key `cold_items`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

OWN_SOFTMAX = ("BERT4Rec", "RepeatNet", "SASRecCPR", "GRU4RecCPR")
"""RecBole's sequential models whose loss is over all items by code of their own, which cannot be told."""


class KeptItems:
    """The items that are left.

    Attributes:
        ids: [k] of those that are left, ascending, padding first.
        place: [n_items] where each of these is in ``ids``; 0 for the others.
    """

    def __init__(self, left_out: torch.Tensor):
        """left_out: [n_items] bool."""
        self.ids = (~left_out).nonzero().squeeze(1)
        self.place = torch.zeros(len(left_out), dtype=torch.int64, device=left_out.device)
        self.place[self.ids] = torch.arange(len(self.ids), device=left_out.device)


def rows_of_kept(table: torch.Tensor, kept: KeptItems | None) -> torch.Tensor:
    """The rows of a table [n_items, ...] that are left: [k, ...]."""
    return table if kept is None else table[kept.ids]


def places_of_kept(items: torch.Tensor, kept: KeptItems | None) -> torch.Tensor:
    """Where items are among those rows; of any shape."""
    return items if kept is None else kept.place[items]


class _CrossEntropyOfKept(nn.CrossEntropyLoss):
    """Gives the logits of what is left out, where there is a logit an item, no share of the softmax."""

    left_out: torch.Tensor

    def __init__(self, loss: nn.CrossEntropyLoss, left_out: torch.Tensor):
        super().__init__(loss.weight, ignore_index=loss.ignore_index, reduction=loss.reduction,
                         label_smoothing=loss.label_smoothing)  # fmt: skip
        self.register_buffer("left_out", left_out, persistent=False)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if input.shape[-1] == len(self.left_out):
            input = input.masked_fill(self.left_out, -torch.inf)
        return super().forward(input, target)


def leave_out_of_losses(model: Any, left_out: torch.Tensor) -> None:
    """Have the loss of a model be over the other items only.

    ``model.kept_items`` says which these are; each `ItemLoss` that is an attribute has it, too, and the cross-entropy
    of RecBole's models, ``loss_fct``, is replaced.

    Args:
        left_out: [n_items] bool, on the model's device.
    """
    model.kept_items = KeptItems(left_out)
    for loss in vars(model).values():
        if hasattr(loss, "kept_items"):
            loss.kept_items = model.kept_items
    if type(getattr(model, "loss_fct", None)) is nn.CrossEntropyLoss:
        model.loss_fct = _CrossEntropyOfKept(model.loss_fct, left_out)
