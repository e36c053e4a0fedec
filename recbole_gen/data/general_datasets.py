"""RecBole's models without sequences (Pop, BPR, MultiVAE, ...) under the protocols that predict sets."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.data.interaction import Interaction

from recbole_gen.data import set_splits
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.sequences import TimedLog, refuse_empty_parts
from recbole_gen.errors import UserError


class HeldOutSets(TimedLog):
    """Splits a log into what is known in training and one row a user, whose positives are a set.

    The rows are those of a sequential model under the same protocol, with the same positives and the same items seen
    before. Under `period` the histories of the users that validate and test are known in training, too: a model of
    users and items has no other way to read them.
    """

    def build(self):
        """Training interactions, and validation and test rows. Raises UserError for an empty part."""
        if self.config["eval_args"]["order"] != "TO":
            raise UserError("these sets are split in the order of time: eval_args needs order: TO")
        self._change_feat_format()
        log = self.inter_feat.interaction
        order = np.lexsort((log[self.time_field].numpy(), log[self.uid_field].numpy()))
        if self.config["last_events"]:
            order = order[set_splits.last_events_mask(log[self.uid_field].numpy()[order], self.config["last_events"])]
        events = {field: values[torch.from_numpy(order)] for field, values in log.items()}
        users, items = events[self.uid_field], events[self.iid_field]
        held = set_splits.held_out_parts(self.config, users.numpy(), events[self.time_field].numpy())
        refuse_empty_parts(self, [np.flatnonzero(held.known), *held.first], set_splits.parts_without_share(self.config))
        self.inter_feat = Interaction(events)
        self._drop_unused_col()
        parts = [self.copy(self.inter_feat[torch.from_numpy(held.known)])]
        for first, size in zip(held.first, held.size, strict=True):
            target = torch.from_numpy(first)
            targets = {self.uid_field: users, self.iid_field: items}
            nothing = torch.zeros_like(target)
            rows = SequenceRows(targets, {}, target, nothing, nothing, 0, self.config["ITEM_LIST_LENGTH_FIELD"])
            rows.future_counts = torch.from_numpy(size)
            rows.seen_counts = target - torch.searchsorted(users, users[target])
            parts.append(self.copy(rows))
        return parts


class GeneralSetDataset(HeldOutSets, Dataset):
    """RecBole's `Dataset` split into sets."""


class KnowledgeSetDataset(HeldOutSets, KnowledgeBasedDataset):
    """The same with a knowledge graph beside it."""
