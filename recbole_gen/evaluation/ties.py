"""Which of several items with the same score comes first: one seeded permutation of the items decides.

The permutation is of the items' tokens, by a keyed hash of each, so that it is the same for every model, cut-off,
batch, device and order of the items in the file; another seed gives another one, and the mean over seeds is fair to
all. The exact expectation over all orders would need no seed, but it has no list: metrics that read rows of hits or of
items (RecBole's diversity metrics, and those of one's own) could not be had, nor could `recommend` give the lists in
which the evaluator has counted. `rank` in ranks.test.tsv is that expectation: equal scores share the mean of their
ranks.

A score matrix has one row a user (or history) and one column an item; excluded items score -inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

KEY = "{:016d}"
"""The key of the hash, 16 characters, made of the seed."""


def token_hashes(tokens: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """A 64-bit number for each token, [n] uint64, that depends on token and seed alone (SipHash, of pandas)."""
    texts = np.asarray(tokens, dtype=object)
    return pd.util.hash_array(texts, hash_key=KEY.format(seed), categorize=False)


def tie_order(tokens: Sequence[str] | np.ndarray, seed: int) -> torch.Tensor:
    """The place of each item in the permutation that decides ties, [n] int64; the padding, item 0, has the last one.

    tokens: [n] of the items in the order of their ids, padding first.
    """
    hashes = token_hashes(tokens, seed)
    order = np.empty(len(hashes), dtype=np.int64)
    order[1 + np.argsort(hashes[1:], kind="stable")] = np.arange(len(hashes) - 1)
    order[:1] = len(hashes) - 1
    return torch.from_numpy(order)


def top_scored(scores: torch.Tensor, k: int, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and columns [B, k] of the best k of each row of scores [B, I], the best first; of equal ones those that
    are earlier in ``order`` [I].

    torch's own top-k leaves the choice to chance, and another k makes another one. Here one more is asked for than is
    wanted, which shows every row with a tie; only these rows are looked at again.
    """
    wide = scores.topk(min(k + 1, scores.shape[1]), dim=-1)
    values, ids = wide.values, wide.indices
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    values, ids = values[:, :k], ids[:, :k]
    if not tied.any():
        return values, ids
    rows = tied.nonzero().squeeze(1)
    values, ids = values.clone(), ids.clone()
    values[rows], ids[rows] = _resolve(scores[rows], values[rows], ids[rows], order.to(scores.device))
    return values, ids


def _resolve(
    scores: torch.Tensor, values: torch.Tensor, ids: torch.Tensor, order: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for rows with ties: scores [b, I] and what torch has found, [b, k]."""
    k, last = values.shape[1], torch.iinfo(order.dtype).max  # behind all places, also those of a part of the items
    least = values[:, -1:]
    # Of all that score as the last one, those that are first in the order; the better ones are there already.
    places = torch.where(scores == least, order, last).topk(k, dim=-1, largest=False)
    equal = torch.where(places.values < last, least, -torch.inf)
    better = values > least
    values = torch.cat([values.masked_fill(~better, -torch.inf), equal], dim=1)
    ids = torch.cat([ids, places.indices], dim=1)
    return sort_scored(values, ids, order, k)


def sort_scored(
    values: torch.Tensor, ids: torch.Tensor, order: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of scores and ids [B, n] of each row, the best first, of equal scores those earlier in ``order``."""
    by_order = order[ids].argsort(dim=1)
    values, by_score = values.gather(1, by_order).sort(dim=1, descending=True, stable=True)
    return values[:, :k], ids.gather(1, by_order).gather(1, by_score[:, :k])
