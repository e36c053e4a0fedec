"""Evaluation among sampled candidates (`mode: uni100`, `pop100`): a row an event, drawn once for all models and passes.

Which items a target has to compete with depends on seed, user and target alone, by hashes of their tokens: it is the
same for every model, pass, batch size and order of the file. RecBole draws with repeats, anew for every pass, and makes
one row of all events of a user.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_gen.data.row_batches import RowBatchLoader
from recbole_gen.data.rows import training_item_counts
from recbole_gen.data.seen_targets import masks_seen
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ties import token_hashes

KEYS_AT_ONCE = 1 << 22
"""Random numbers that are in memory at once."""
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def random_bits(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A 64-bit number for each pair of numbers, uint64 [n] and [m]: [n, m] uint64 (the finaliser of SplitMix64)."""
    bits = rows[:, None] + columns[None, :] * _ODD[0]
    bits ^= bits >> np.uint64(30)
    bits *= _ODD[1]
    bits ^= bits >> np.uint64(27)
    bits *= _ODD[2]
    bits ^= bits >> np.uint64(31)
    return bits


def draw_candidates(
    bits: np.ndarray, number: int, excluded: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Different items for each row: columns [n, number] of bits [n, m], and which of them could be drawn, bool.

    excluded: [n, m] bool. weights: [m] of the items, which are drawn one after the other in proportion to them, as by
    Efraimidis and Spirakis (2006); None for equal ones.
    """
    keys = (bits >> np.uint64(11)).astype(np.float64) + 0.5  # of 2**53
    if weights is not None:
        with np.errstate(divide="ignore"):
            keys = -np.log(keys / 2.0**53) / weights
    keys[excluded] = np.inf
    chosen = np.argpartition(keys, number - 1, axis=1)[:, :number]
    return chosen, np.isfinite(np.take_along_axis(keys, chosen, axis=1))


class SampledCandidatesLoader(RowBatchLoader):
    """Rows of events, each with its target and the candidates drawn for it, in RecBole's form.

    Of `mask_seen` and `mask_history` the meaning is that of the full ranking: what they take out is no candidate; a
    target that `mask_history` takes out is none either.

    Args:
        sampler: RecBole's; of a model without sequences it knows what each user had.
        phase: `valid` or `test`.
        train: the training part, by whose interactions `pop100` draws.

    Raises UserError for more candidates than there are items.
    """

    def __init__(self, config, dataset, sampler, phase: str, train):
        args = config[f"{phase}_neg_sample_args"]
        self.number: int = args["sample_num"]
        self._used_items: Any = getattr(sampler, "used_ids", None)
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        if self.number > dataset.item_num - 2:
            raise UserError(
                f"eval_args: mode {config['eval_args']['mode'][phase]} draws {self.number} items beside the target, "
                f"and there are {dataset.item_num - 2}: mode full ranks all of them"
            )
        self._history_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.sample_size = len(dataset.inter_feat)
        super().__init__(config, dataset, sampler)
        self._masks_seen = masks_seen(config, self.is_sequential)
        self._hashes = [
            token_hashes(dataset.field2id_token[field], config["seed"]) for field in (self.uid_field, self.iid_field)
        ]
        self._weights = None
        if args["distribution"] == "popularity":
            self._weights = training_item_counts(train).double().numpy()
        self._drawn: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._told = False

    def _init_batch_size_and_step(self):
        self.step = max(self.config["eval_batch_size"] // (1 + self.number), 1)
        self.set_batch_size(self.step)

    def collate_fn(self, index):
        """(a row a candidate, number of the event of each, that of each target, item of each target)."""
        index = torch.as_tensor(index)
        interaction = self.transform(self._dataset, self._dataset[index])
        first = int(index[0])
        if first not in self._drawn:
            self._drawn[first] = self._draw(index, interaction)
        row, item = self._drawn[first]
        target = interaction[self.iid_field]
        candidates = interaction[row]
        candidates.update(Interaction({self.iid_field: item.long()}))
        return self._dataset.join(candidates), row, torch.arange(len(target)), target

    def _draw(self, index: torch.Tensor, interaction: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and item of every candidate of a batch, the target among them; those of a row are adjacent."""
        users, targets = (interaction[field].numpy() for field in (self.uid_field, self.iid_field))
        of_user, of_item = self._hashes
        keys = random_bits(of_user[users], np.zeros(1, np.uint64))[:, 0] + of_item[targets] * _ODD[2]
        masked_row, masked_item = self._masked(index, interaction, users, targets)
        rows, items = [], []
        size = max(1, KEYS_AT_ONCE // len(of_item))
        for begin in range(0, len(users), size):
            chunk = np.arange(begin, min(begin + size, len(users)))
            excluded = np.zeros((len(chunk), len(of_item)), dtype=bool)
            here = (masked_row >= begin) & (masked_row < begin + size)
            excluded[masked_row[here] - begin, masked_item[here]] = True
            keeps_target = ~excluded[chunk - begin, targets[chunk]]
            excluded[:, 0] = excluded[chunk - begin, targets[chunk]] = True
            chosen, possible = draw_candidates(random_bits(keys[chunk], of_item), self.number, excluded, self._weights)
            self._tell_of_few(possible)
            chosen = np.concatenate([targets[chunk][:, None], chosen], axis=1)
            possible = np.concatenate([keeps_target[:, None], possible], axis=1)
            place, column = possible.nonzero()
            rows.append(chunk[place])
            items.append(chosen[place, column].astype(np.int32))
        return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(items))

    def _masked(self, index, interaction, users: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and item of what leaves the ranking, as in a full one."""
        rows, items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if self._masks_seen:
            if self.is_sequential:
                row, item = (part.numpy() for part in self._dataset.inter_feat.seen_before(self.iid_field, index))
            else:
                seen = [np.fromiter(self._used_items[user], np.int64) for user in users]
                row, item = np.repeat(np.arange(len(users)), list(map(len, seen))), np.concatenate(seen)
            other = item != targets[row]  # the target stays, as in a full ranking
            rows.append(row[other])
            items.append(item[other])
        if self.config["mask_history"] and self._history_field in interaction:
            history = interaction[self._history_field].numpy()
            row, column = history.nonzero()
            rows.append(row)
            items.append(history[row, column])
        return np.concatenate(rows), np.concatenate(items)

    def _tell_of_few(self, possible: np.ndarray) -> None:
        few = np.flatnonzero((~possible).any(axis=1))
        if len(few) and not self._told:
            self._told = True
            logging.getLogger().warning(
                f"some events, {len(few)} of the first {len(possible)}, have fewer than {self.number} items left to "
                f"be drawn beside the target: they have all that there are"
            )
