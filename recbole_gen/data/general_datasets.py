"""RecBole's models without sequences (Pop, BPR, MultiVAE, ...) on the test rows that sequential models have."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.data.interaction import Interaction, cat_interactions

from recbole_gen.data import set_splits
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.sequences import TimedLog, refuse_empty_parts
from recbole_gen.errors import UserError

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset as _DatasetBase
else:
    _DatasetBase = object


class TestedAsSequences(_DatasetBase):
    """RecBole's data set, with the test rows and the items that a sequential model has.

    The histories of split files, where they are loaded, hold items as their targets do: an item that is in histories
    only is one of those that are ranked. What learns from rows reads their targets alone, as in RecBole.

    By leave-one-out RecBole leaves out the last interaction of everybody with two or more; of a sequence model it
    leaves out the last ROW, and a user's first interaction is none: with two interactions he has one row, which trains,
    and with three he has none to validate. The same here for all, so that models of both kinds are compared on the
    same rows.
    """

    def _set_alias(self, alias_name, default_value):
        lists = [field + self.config["LIST_SUFFIX"] for field in default_value if field]
        if alias_name == "item_id" and self.benchmark_filename_list is not None:
            default_value = [*default_value, *(name for name in lists if name in self.field2type)]
        super()._set_alias(alias_name, default_value)

    def build(self):
        """RecBole's parts, with what too short users would be tested on moved to training.

        Raises UserError for an empty part.
        """
        parts, config = super().build(), self.config
        split, in_time = config["eval_args"]["split"] or {}, config["eval_args"]["order"] == "TO"
        if self.benchmark_filename_list is not None or "LS" not in split or not in_time or config["empty_history"]:
            return parts
        users = [part.inter_feat[self.uid_field] for part in parts]
        sizes = torch.bincount(torch.cat(users), minlength=self.user_num)
        least = {"valid_and_test": (4, 3)}.get(split["LS"], (3, 3))
        moved = []
        for part, of_row, enough in zip(parts[1:], users[1:], least, strict=True):
            short = sizes[of_row] < enough
            if short.any():
                moved.append(part.inter_feat[short])
                part.inter_feat = part.inter_feat[~short]
        if moved:
            parts[0].inter_feat = cat_interactions([parts[0].inter_feat, *moved])
            logging.getLogger().info(
                f"{sum(map(len, moved))} interactions of users with two or three train, as with a sequential model: "
                f"testing takes three interactions of a user, and validating four"
            )
        may_be_empty = {"valid_only": ("test",), "test_only": ("validation",)}.get(split["LS"], ())
        refuse_empty_parts(self, [part.inter_feat for part in parts], may_be_empty)
        return parts


class GeneralDataset(TestedAsSequences, Dataset):
    """RecBole's `Dataset` with the test rows of sequential models."""


class KnowledgeDataset(TestedAsSequences, KnowledgeBasedDataset):
    """The same with a knowledge graph beside it."""


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
