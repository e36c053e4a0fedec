"""What a training batch costs a model, as the keys `train_pairs` and `loss` say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from recbole_gen import distributed
from recbole_gen.data.requirements import trains_on_positions
from recbole_gen.model.item_losses import ItemLoss
from recbole_gen.model.positions import BY_CROSS_ENTROPY, NEXT, recbole_positions_loss


def _recbole_rows_loss(model: Any, loss: ItemLoss, interaction) -> torch.Tensor:
    """What `calculate_loss` of a model of BY_CROSS_ENTROPY returns: a number."""
    states = model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    return loss(states, model.item_embedding.weight, interaction[model.POS_ITEM_ID])


def _weighted_by_share(calculate: Callable, column: str, counts_windows: bool, interaction):
    """A loss that averages over the targets, or windows, of this process, such that the mean over processes is that of
    all of them."""
    following = interaction[column]
    number = following.new_tensor(len(following)) if counts_windows else (following != 0).sum()
    number = number.double()
    share = (number / distributed.all_reduce_mean(number)).float()
    losses = calculate(interaction)
    return tuple(each * share for each in losses) if isinstance(losses, tuple) else losses * share


def training_loss(config, model: Any) -> Callable[[Any], Any]:
    """What a training batch costs a model: its `calculate_loss`, or that of every position, as the keys say."""
    ours = config.is_recbole_model and config["model"] in BY_CROSS_ENTROPY and config["loss_type"] == "CE"
    kept_items = getattr(model, "kept_items", None)
    if not trains_on_positions(config):
        loss = ItemLoss(config, 0, kept_items)
        return partial(_recbole_rows_loss, model, loss) if ours else model.calculate_loss
    calculate = getattr(model, "calculate_positions_loss", None)
    if calculate is None:
        calculate = partial(recbole_positions_loss, model, ItemLoss(config, 0, kept_items))
    if distributed.world_size() > 1:
        counts_windows = getattr(model, "averages_windows", False)
        return partial(_weighted_by_share, calculate, NEXT + model.ITEM_SEQ, counts_windows)
    return calculate
