"""From the tokens of histories to what a model reads: ids, and the columns of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from recbole.data.interaction import Interaction

from recbole_gen.config.config import Config
from recbole_gen.data.requirements import model_needs
from recbole_gen.data.times import DayRange
from recbole_gen.errors import UserError
from recbole_gen.recommending.histories import Histories

NUMBER = r"^-?\d+(\.0)?$"
"""What has two spellings."""


class KnownHistories:
    """Histories in the ids of a model: n users, N events that it knows.

    Attributes:
        sizes: [n] events of each.
        items, times, scenes: [N]; times in Unix seconds, None where there are none.
        users: [n] their ids, at most 0 for those that the model does not know.
        n_unknown, unknown_examples: events left out, and up to three of their items.
        rows: which of all users these are.
    """

    def __init__(self, sizes, items, times, scenes, users, n_unknown=0, unknown_examples=(), rows=None):
        self.sizes, self.items, self.times, self.scenes, self.users = sizes, items, times, scenes, users
        self.n_unknown, self.unknown_examples = n_unknown, unknown_examples
        self.rows = slice(0, len(sizes)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.sizes)

    def batches(self, size: int) -> Iterator[KnownHistories]:
        """They all, ``size`` users at a time."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        for first in range(0, len(self), size):
            rows = slice(first, min(first + size, len(self)))
            events = slice(int(ends[rows.start]), int(ends[rows.stop]))
            times, scenes = (None if each is None else each[events] for each in (self.times, self.scenes))
            yield KnownHistories(self.sizes[rows], self.items[events], times, scenes, self.users[rows], rows=rows)

    def select(self, mask: np.ndarray) -> KnownHistories:
        """Those for which ``mask`` [n] is True; without times and scenes."""
        return KnownHistories(self.sizes[mask], self.items[np.repeat(mask, self.sizes)], None, None, self.users[mask])


class ModelInput:
    """What one model reads, from histories.

    Attributes:
        items, users, scenes: tokens in the order of their ids, padding first; no scenes for a model that reads none.
        reads_times, reads_scenes: what histories must come with.
    """

    def __init__(self, config: Config, model: Any, content: dict[str, Any]):
        self.config, self.model = config, model
        vocabulary, scenes = content["vocabulary"], content["serving"]["scenes"]
        self.items = pa.array(vocabulary[config["ITEM_ID_FIELD"]], pa.string())
        self.users = pa.array(vocabulary[config["USER_ID_FIELD"]], pa.string())
        self.scenes = None if scenes is None else pa.array(scenes, pa.string())
        self.reads_times, self.reads_scenes = model_needs(config, "times"), model_needs(config, "scenes")

    def known(self, histories: Histories) -> KnownHistories:
        """Histories in ids, without what the model does not know. Raises UserError without times or scenes it reads."""
        for reads, have, name in (
            (self.reads_times, histories.times is not None, "times"),
            (self.reads_scenes, histories.scenes is not None, "scenes"),
        ):
            if reads and not have and len(histories.items):
                raise UserError(f"{self.config['model']} reads the {name} of histories: give {name}, one an item")
        ids = token_ids(histories.items, self.items)
        kept = ids > 0
        rows = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
        examples = histories.items.filter(pa.array(~kept)).slice(0, 3).to_pylist() if not kept.all() else []
        has_scenes = histories.scenes is not None and self.scenes is not None
        return KnownHistories(
            np.bincount(rows[kept], minlength=len(histories)),
            ids[kept],
            None if histories.times is None else histories.times[kept],
            token_ids(histories.scenes, self.scenes)[kept] if has_scenes else None,
            token_ids(histories.users, self.users),
            int((~kept).sum()),
            examples,
        )

    def candidate_mask(self, candidates: Sequence[Any]) -> tuple[torch.Tensor, list[str]]:
        """[n_items] bool, True for the candidates, and what to warn of. Raises UserError if all are unknown."""
        ids = token_ids(pa.array([str(token) for token in candidates], pa.string()), self.items)
        if not (ids > 0).any():
            raise UserError("none of the candidates is an item that the model knows")
        unknown = int((ids <= 0).sum())
        warnings = [f"{unknown} of {len(ids)} candidates are unknown and left out"] if unknown else []
        mask = torch.zeros(len(self.items), dtype=torch.bool)
        mask[torch.from_numpy(ids[ids > 0])] = True
        return mask.to(self.config["device"]), warnings

    def interaction(self, batch: KnownHistories) -> Interaction:
        """The columns that an evaluation gives a model, for histories cut to their last items."""
        config, width = self.config, self.config["MAX_ITEM_LIST_LENGTH"]
        suffix = config["LIST_SUFFIX"]
        ends = np.cumsum(batch.sizes)
        length = np.minimum(batch.sizes, width)
        step = np.arange(width)
        real = step < length[:, None]  # [B, L]
        place = np.where(real, (ends - length)[:, None] + step, 0)

        def windows(values: np.ndarray) -> torch.Tensor:
            if not len(values):
                return torch.zeros(real.shape, dtype=torch.from_numpy(values).dtype)
            return torch.from_numpy(np.where(real, values[place], 0).astype(values.dtype))

        columns = {
            config["USER_ID_FIELD"]: torch.from_numpy(np.maximum(batch.users, 0)),
            config["ITEM_ID_FIELD"] + suffix: windows(batch.items),
            config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(np.maximum(length, 1)),
        }
        if batch.times is not None and self.reads_times:
            first, last = self.model.day_range.tolist()
            scaled = DayRange(first, last).scale(torch.from_numpy(batch.times)).numpy()
            columns[config["TOI_FIELD"] + suffix] = windows(scaled)
        elif self.reads_times:
            columns[config["TOI_FIELD"] + suffix] = torch.zeros(real.shape)
        if self.reads_scenes:
            none = np.zeros(0, dtype=np.int64)
            columns[config["SCENE_FIELD"] + suffix] = windows(
                none if batch.scenes is None else np.maximum(batch.scenes, 0)
            )
        return Interaction(columns).to(config["device"])

    def random_interaction(self, n: int) -> Interaction:
        """Of histories of random items and lengths, always the same ones, on the last day of the data."""
        draw = np.random.default_rng(0)
        sizes = draw.integers(1, self.config["MAX_ITEM_LIST_LENGTH"], n, endpoint=True)
        items = draw.integers(1, len(self.items), int(sizes.sum()))
        times = np.full(len(items), 86400.0 * int(self.model.day_range[1])) if self.reads_times else None
        scenes = np.ones_like(items) if self.reads_scenes else None
        return self.interaction(KnownHistories(sizes, items, times, scenes, np.ones(n, dtype=np.int64)))


def token_ids(tokens: pa.Array, vocabulary: pa.Array) -> np.ndarray:
    """Places in a vocabulary, int64; -1 for what is not in it, and for what is missing. 5 and 5.0 are one name, unless
    both are in it."""
    ids = _places(tokens, vocabulary)
    unknown = pa.array(ids < 0)
    if pc.any(pc.and_(unknown, pc.match_substring_regex(tokens, NUMBER))).as_py():
        others = tokens.filter(unknown)
        others = pc.if_else(pc.match_substring_regex(others, NUMBER), others, None)
        bare = pc.replace_substring_regex(others, r"\.0$", "")
        written = pc.if_else(pc.equal(bare, others), pc.binary_join_element_wise(others, ".0", ""), bare)
        ids[ids < 0] = _places(written, vocabulary)
    return ids


def _places(tokens: pa.Array, vocabulary: pa.Array) -> np.ndarray:
    # Padding, the first entry, is not looked up: an item of the log may have its name, [PAD].
    places = pc.index_in(tokens, vocabulary.slice(1))
    return pc.fill_null(places, -2).to_numpy(zero_copy_only=False).astype(np.int64) + 1
