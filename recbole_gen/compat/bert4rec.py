"""What RecBole's BERT4Rec loses: targets of its loss, and the first item of a history."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F


def give_every_masked_item_a_target(module: ModuleType) -> None:
    """transform.py:54 has room for mask_ratio * MAX_ITEM_LIST_LENGTH targets of a history, while each item is masked by
    a draw of its own: of histories of 10, 24 % of the masked items are [MASK] in the input and in no target, and where
    the room is 0, it fails. Here there is as much room as a batch needs."""
    transform: Any = module.MaskItemSequence
    call = transform.__call__

    def __call__(self, dataset, interaction):
        self.mask_item_length = interaction[self.ITEM_SEQ].shape[1]
        masked = call(self, dataset, interaction)
        room = max(int((masked[self.POS_ITEMS] > 0).sum(1).max()), 1)
        for field in (self.POS_ITEMS, self.NEG_ITEMS, self.MASK_INDEX):
            masked.interaction[field] = masked[field][:, -room:]  # padding stands in front
        return masked

    transform.__call__ = __call__


def learn_every_target(module: ModuleType) -> None:
    """bert4rec.py:175, 198 leave out the targets whose place is 0, the first of a history, as if they were padding, and
    a batch in which nothing is masked has the loss nan. Computed at the targets alone, too."""
    BERT4Rec: Any = module.BERT4Rec

    def calculate_loss(self, interaction):
        states = self.forward(interaction[self.MASK_ITEM_SEQ])
        rows, places = (interaction[self.POS_ITEMS] > 0).nonzero(as_tuple=True)
        if not len(rows):
            return states.sum() * 0.0
        states = states[rows, interaction[self.MASK_INDEX][rows, places]]
        items = interaction[self.POS_ITEMS][rows, places]
        if self.loss_type == "BPR":
            others = interaction[self.NEG_ITEMS][rows, places]
            positive, negative = (
                (states * self.item_embedding(each)).sum(-1) + self.output_bias[each] for each in (items, others)
            )
            return -torch.log(1e-14 + torch.sigmoid(positive - negative)).mean()
        logits = states @ self.item_embedding.weight[: self.n_items].T + self.output_bias
        return F.cross_entropy(logits, items)

    BERT4Rec.calculate_loss = calculate_loss


def read_the_first_item(module: ModuleType) -> None:
    """bert4rec.py:122 takes the first item of each history away to have room for the [MASK] behind it, also where there
    is room: of a history of one item nothing is left."""
    BERT4Rec: Any = module.BERT4Rec

    def state_of_next(self, interaction):
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        is_full = lengths == items.shape[1]
        place = (lengths - is_full.to(lengths.dtype)).unsqueeze(1)
        items = torch.where(is_full.unsqueeze(1), F.pad(items[:, 1:], (0, 1)), items)
        states = self.forward(items.scatter(1, place, self.mask_token))
        return self.gather_indexes(states, place.squeeze(1))

    def predict(self, interaction):
        items = interaction[self.ITEM_ID]
        return (state_of_next(self, interaction) * self.item_embedding(items)).sum(1) + self.output_bias[items]

    def full_sort_predict(self, interaction):
        items = self.item_embedding.weight[: self.n_items]  # without that of [MASK]
        return state_of_next(self, interaction) @ items.T + self.output_bias

    BERT4Rec.predict, BERT4Rec.full_sort_predict = predict, full_sort_predict
