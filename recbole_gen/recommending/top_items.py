"""The best items of each history that may be recommended: of all scores, or by an index."""

from __future__ import annotations

import logging

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_gen.evaluation.ties import sort_scored, top_scored
from recbole_gen.recommending.item_index import RECALL_AT, TARGET_RECALL, ApproximateSearch, ExactSearch, Search
from recbole_gen.recommending.model_input import KnownHistories, ModelInput
from recbole_gen.recommending.scoring import Scorer

INDEX_PROBES = 64
"""Random histories by which an index is tried."""
MAX_SEEN = 1000
"""Places that are searched in an index beyond k, for what a user has seen."""


def build_index(scorer: Scorer, model_input: ModelInput, order: torch.Tensor) -> ApproximateSearch:
    """An index that searches as widely as the vectors of random histories need it to; its quality is logged.

    order: [n_items] which of equal scores comes first, see `evaluation.ties`.
    """
    items = scorer.require_item_vectors()
    index = ApproximateSearch(items, order)
    recall = index.fit(scorer.user_vectors(model_input.random_interaction(INDEX_PROBES)))
    quality = f"the index finds {recall:.1%} of the best {RECALL_AT} of {len(items) - 1:,} items for random histories"
    if recall < TARGET_RECALL:
        logging.getLogger().warning(f"{quality}: --search=exact finds all")
    else:
        logging.getLogger().info(quality)
    return index


class TopItems:
    """Ranks items for one model.

    Args:
        popularity: [n_items], how often each has been in the training part: the scores where the model has none.
        order: [n_items] which of equal scores comes first, the same as in evaluation, see `evaluation.ties`.

    Attributes:
        index: None to score every item.
    """

    index: ApproximateSearch | None = None

    def __init__(self, scorer: Scorer, popularity: torch.Tensor, order: torch.Tensor):
        self._scorer, self._popularity, self.order = scorer, popularity, order

    def top(
        self, interaction: Interaction, batch: KnownHistories, by_popularity: np.ndarray, k: int, exclude_seen: bool,
        allowed: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Scores and ids [B, k] of the best items, the best first; -inf where nothing is left.

        Args:
            interaction: the columns of the batch.
            by_popularity: [B] True for users whom the model cannot answer.
            allowed: [n_items] bool, None for all; with it, each of these items is scored.
        """
        if self.index is None or allowed is not None:
            return self._of_all_scores(interaction, batch, by_popularity, k, exclude_seen, allowed)
        return self._by_index(self.index, interaction, batch, by_popularity, k, exclude_seen)

    def _of_all_scores(
        self, interaction: Interaction, batch: KnownHistories, by_popularity: np.ndarray, k: int, exclude_seen: bool,
        allowed: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        scores = self._scorer.item_scores(interaction, allowed)
        if by_popularity.any():
            scores[torch.from_numpy(by_popularity).to(scores.device)] = self._popularity.to(scores.dtype)
        scores[:, 0] = -torch.inf
        if allowed is not None:
            scores.masked_fill_(~allowed, -torch.inf)
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), batch.sizes)
            scores[torch.from_numpy(rows), torch.from_numpy(batch.items)] = -torch.inf
        return top_scored(scores, k, self.order)

    def _by_index(
        self, index: Search, interaction: Interaction, batch: KnownHistories, by_popularity: np.ndarray, k: int,
        exclude_seen: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Users for whom the index finds too few unseen items are compared with all."""
        queries = self._scorer.user_vectors(interaction)
        self._scorer.refuse_nan(queries)
        seen = int(batch.sizes.max(initial=0)) if exclude_seen else 0
        values, ids = self._search_unseen(index, queries, batch, k, min(seen, MAX_SEEN), exclude_seen)
        short = ((values == -torch.inf).any(1).cpu().numpy()) & ~by_popularity
        # Popularity is an inner product too, of one dimension.
        popular_items = ExactSearch(self._popularity.to(queries.dtype).unsqueeze(1), self.order)
        for mask, search, vectors in (
            (short, ExactSearch(self._scorer.require_item_vectors(), self.order), queries),
            (by_popularity, popular_items, queries.new_ones(len(batch), 1)),
        ):
            if mask.any():
                chosen = torch.from_numpy(mask).to(queries.device)
                values[chosen], ids[chosen] = self._search_unseen(
                    search, vectors[chosen], batch.select(mask), k, seen, exclude_seen
                )
        return values, ids

    def _search_unseen(
        self, search: Search, queries: torch.Tensor, batch: KnownHistories, k: int, extra: int, exclude_seen: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of what a search finds and the histories have not; ``extra``: places to search beyond k."""
        n_items = len(self._popularity)
        values, ids = search.search(queries, min(k + extra, n_items - 1))
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), batch.sizes)
            seen = torch.from_numpy(rows * n_items + batch.items).to(ids.device)
            places = torch.arange(len(batch), device=ids.device).unsqueeze(1) * n_items + ids
            values = values.masked_fill(torch.isin(places, seen), -torch.inf)
        return sort_scored(values, ids, self.order, k)
