"""The items with the largest inner products with a vector: among all of them, or by an index that may miss some."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from recbole_gen.errors import UserError
from recbole_gen.evaluation.ties import sort_scored, top_scored

SCORES_AT_ONCE = 1 << 24
"""Numbers that are in memory at once."""
GRAPH_NEIGHBOURS, BUILD_WIDTH = 32, 80
"""Of the graph: neighbours of an item, and how many of the best are kept while it is built."""
SEARCH_WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
"""How many of the best are kept while it is searched: the first that is enough."""
TARGET_RECALL, RECALL_AT = 0.98, 20
"""Enough: so large a share of so many exact best."""


class Search(Protocol):
    """How items are found."""

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids [B, k] of the best items for queries [B, d], the best first.

        The padding, id 0, is never among them: with the score -inf, it stands where nothing was found.
        """
        ...


class ExactSearch:
    """Compares with every item, a block of them at a time.

    Args:
        items: [n_items, d], padding first.
        order: [n_items] which of equal scores comes first, see `evaluation.ties`; None for that of the ids.
    """

    def __init__(self, items: torch.Tensor, order: torch.Tensor | None = None):
        self.items, self._order = items, _order_on(items, order)

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Search.search`."""
        scores = queries.new_full((len(queries), k), -torch.inf)
        ids = torch.zeros(scores.shape, dtype=torch.int64, device=queries.device)
        block = max(k, SCORES_AT_ONCE // max(1, len(queries)))
        for first in range(1, len(self.items), block):
            some = self.items[first : first + block]
            order = self._order[first : first + block]
            values, places = top_scored(queries @ some.T, min(k, len(some)), order)
            both = torch.cat([scores, values], dim=1), torch.cat([ids, places + first], dim=1)
            scores, ids = sort_scored(*both, self._order, k)
        return scores, ids


class ApproximateSearch:
    """Walks a graph of near items (HNSW, of faiss), on the CPU; the scores of what it finds are computed anew.

    A partition of the space (IVF) would be built in a hundredth of the time, but finds half as much where items do not
    lie in clusters (benchmarks/search.py). The graph is of inner products themselves: one of distances, to which a
    further dimension reduces them, finds the less the more vectors differ in length. Several threads (those of torch)
    build it in an order of chance, so that two of the same items may miss different ones.

    Args:
        items, order: as of `ExactSearch`.

    Raises UserError without faiss.
    """

    def __init__(self, items: torch.Tensor, order: torch.Tensor | None = None):
        self.items, self._order, self._faiss = items, _order_on(items, order), _import_faiss()
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = self._faiss.IndexHNSWFlat(items.shape[1], GRAPH_NEIGHBOURS, self._faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = BUILD_WIDTH
        self.index.add(_to_numpy(items[1:]))
        self.width = SEARCH_WIDTHS[-1]

    def fit(self, queries: torch.Tensor) -> float:
        """Choose the width by queries [n, d] like those to come; returns the share of their best that it finds."""
        exact, recall = ExactSearch(self.items, self._order).search(queries, RECALL_AT)[1], 0.0
        for self.width in SEARCH_WIDTHS:
            found = self.search(queries, RECALL_AT)[1]
            recall = float((exact.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean())
            if recall >= TARGET_RECALL:
                break
        return recall

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Search.search`, but for what is missed."""
        width = self._faiss.SearchParametersHNSW(efSearch=max(self.width, 2 * k))
        _, found = self.index.search(_to_numpy(queries), k, params=width)
        ids = torch.from_numpy(found).to(queries.device) + 1  # -1 stands for nothing
        rows = max(1, SCORES_AT_ONCE // (k * queries.shape[1]))
        scores = torch.cat(
            [(self.items[i] @ q.unsqueeze(-1)).squeeze(-1) for i, q in zip(ids.split(rows), queries.split(rows))]
        )
        return sort_scored(scores.masked_fill_(ids == 0, -torch.inf), ids, self._order, k)


def _order_on(items: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(len(items), device=items.device) if order is None else order.to(items.device)


def _to_numpy(vectors: torch.Tensor) -> Any:
    return vectors.detach().float().cpu().contiguous().numpy()


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "approximate search needs faiss, which is not installed: pip install faiss-cpu (or 'recbole-gen[ann]'). "
            "Exact search needs nothing"
        ) from None
    return faiss
