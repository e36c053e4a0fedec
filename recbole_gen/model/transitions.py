"""Transitions: the first-order Markov chain of Shani, Heckerman and Brafman, "An MDP-Based Recommender System",
JMLR 2005, in its plainest form: counts of what has followed what.

A baseline that tells memory from learning: it learns no vectors, and knows no more than which item has come right after
which, how often. What a sequential model has above it, it has learned; what is below it could have been looked up.

    C[a, b]     how many training rows have a as the last item of their history and b as their target; with skip_decay,
                a further back counts, too: skip_decay^j if it is the j-th before the last
    p[b]        how many interactions of the training part are of b, as Pop counts them
    score(b) =  sum over k of decay^k C[a_k, b]  +  w p[b] / (1 + max p)

a_0 is the last item of the history, a_1 the one before it, and so on through the MAX_ITEM_LIST_LENGTH items that are
read; `decay: 0` reads a_0 alone. w is the least weight of an item that is read times that of a pair that is counted, so
that popularity stays below a single count: it decides between equal counts, and ranks what has never followed the
history.

What is counted is what any other sequential model would train on under the same settings, and nothing of validation and
test: with `train_pairs: all` these are all adjacent pairs of a user's training events, with `train_pairs: last` one
pair a user. Where a row has an empty history (`empty_history: true`), its target follows the padding item.

With `order: 0` no history is read: items are ranked by how often they are the target of a training row, then by
popularity. Where the training rows are only some of a user's events (under the protocol `period` those that come after
its moment), this one list for everybody is not Pop's.

Differences from the paper
    - Its states are the last k items and its scores maximum-likelihood estimates, smoothed by clustering and by mixing
      k. Here k is 1, and counts are not divided by those of their item: with `decay: 0` this changes no ranking.
    - `order: 0` is not in the paper.
    - Its skipping counts the pairs of items further apart, halved with each step: `skip_decay: 0.5`. By default pairs
      are adjacent. Weighing the history that is read (`decay`) is not in the paper.

Session-based evaluations (Ludewig and Jannach, UMUAI 2018) have the plain chain as `mc`. No code of others is used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

Pairs = tuple[torch.Tensor, torch.Tensor]
"""Items, and those that have come behind them: [n] each."""

LEAST_WEIGHT = 1e-6
"""Items of the history whose decay^k is smaller are not read: popularity, which stays below it, keeps its digits."""

LEAST_COUNT = 1e-3
"""Pairs so far apart that skip_decay^j is smaller are not counted, for the same reason."""


def decreasing_weights(decay: float, number: int, least: float) -> list[float]:
    """1, decay, decay^2, ..., at most so many and none below ``least``; 1 alone for a decay of 0."""
    return [weight for weight in (decay**k for k in range(number if decay else 1)) if weight >= least]


class TransitionCounts(nn.Module):
    """How often which item has followed which, and how popular each item is; empty until `count`.

    Only pairs that have occurred are held: 12 bytes each. Of equal counts the more popular item scores higher.

    Attributes:
        pairs: [P] int64, ascending: item * n_items + the item behind it.
        times: [P] float32, how often, with the weight that each time has.
        popularity: [n_items] float64.
    """

    pairs: torch.Tensor
    times: torch.Tensor
    popularity: torch.Tensor

    def __init__(self, n_items: int):
        super().__init__()
        self.n_items = n_items
        self.register_buffer("pairs", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("times", torch.zeros(0))
        self.register_buffer("popularity", torch.zeros(n_items, dtype=torch.float64))

    def count(self, previous: torch.Tensor, following: torch.Tensor, popularity: torch.Tensor) -> None:
        """Count these pairs, [n] each, in place of all before; popularity: [n_items]."""
        pairs, times = self._unique(previous, following)
        self.pairs, self.times = pairs, times.float()
        self.popularity = popularity.double().to(self.popularity.device)

    def add(self, previous: torch.Tensor, following: torch.Tensor, weight: float) -> None:
        """Count these pairs, [n] each, ``weight`` times, beside those that have been counted."""
        pairs, times = self._unique(previous, following)
        self.pairs, place = torch.unique(torch.cat([self.pairs, pairs]), return_inverse=True)
        weighted = torch.cat([self.times.double(), weight * times.double()])
        self.times = weighted.new_zeros(len(self.pairs)).index_add_(0, place, weighted).float()

    def _unique(self, previous: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs as in ``pairs``, and how often each occurs."""
        pairs, times = torch.unique(previous.long() * self.n_items + following, return_counts=True)
        return pairs.to(self.pairs.device), times.to(self.pairs.device)

    def popularity_scores(self) -> torch.Tensor:
        """[n_items] in [0, 1): below a single count."""
        return self.popularity / (1 + self.popularity.max())

    def add_followers(self, scores: torch.Tensor, items: torch.Tensor, weight: float = 1.0) -> None:
        """Add to scores [B, n_items], in place, how often each item has followed that of the row, times ``weight``.

        items: [B], -1 where there is none.
        """
        start = self._begin_of(torch.where(items < 0, self.n_items, items))
        number = self._begin_of(torch.where(items < 0, self.n_items, items + 1)) - start
        row = torch.repeat_interleave(torch.arange(len(items), device=items.device), number)
        at = torch.arange(len(row), device=items.device) + (start - number.cumsum(0) + number)[row]
        scores[row, self.pairs[at] - items[row] * self.n_items] += weight * self.times[at].to(scores.dtype)

    def times_followed(self, items: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """How often ``following`` has come behind ``items``, of which -1 is none: [n] each."""
        if not len(self.pairs):
            return torch.zeros_like(items)
        pair = items * self.n_items + following
        at = torch.searchsorted(self.pairs, pair).clamp(max=len(self.pairs) - 1)
        return torch.where(self.pairs[at] == pair, self.times[at], 0)

    def _begin_of(self, items: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(self.pairs, items * self.n_items)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors):
        """Take on the number of pairs that were saved."""
        stored = {name: state_dict.get(prefix + name) for name in ("pairs", "times")}
        if all(isinstance(each, torch.Tensor) for each in stored.values()):
            pairs, times = stored["pairs"], stored["times"]
            n = self.n_items
            if pairs.shape != times.shape or pairs.dim() != 1:
                errors.append(f"{prefix}pairs and {prefix}times differ in size")
            elif len(pairs) and (pairs[0] < 0 or pairs[-1] >= n * n or not (pairs[1:] > pairs[:-1]).all()):
                errors.append(f"{prefix}pairs are not those of {n} items")
            else:
                self.pairs = self.pairs.new_empty(len(pairs))
                self.times = self.times.new_empty(len(times))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors)


class Transitions(SequentialRecommender):
    """Scores items by how often they have followed the last items of the history, see the top of the file.

    The trainer gives it all training rows at once (`count_transitions`) in place of epochs of steps.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.order = config["order"]
        self.weights = decreasing_weights(config["decay"], self.max_seq_length, LEAST_WEIGHT)
        self.skip_weights = decreasing_weights(config["skip_decay"], self.max_seq_length, LEAST_COUNT)
        self.transitions = TransitionCounts(self.n_items)
        self.no_weight = nn.Parameter(torch.zeros(1))  # optimisers refuse a model that has none

    def count_transitions(self, pairs_apart: Callable[[int], Pairs], popularity: torch.Tensor) -> None:
        """Learn from the pairs of items so many places apart, [n] and [n], which the training rows have.

        popularity: [n_items].
        """
        previous, targets = pairs_apart(1)
        if self.order == 0:
            # What comes behind every item alike: of equally frequent targets the more popular one is first, as there.
            times = torch.bincount(targets, minlength=self.n_items)
            popularity = times + popularity.double() / (1 + popularity.max())
            return self.transitions.count(previous[:0], targets[:0], popularity)
        self.transitions.count(previous, targets, popularity)
        for apart, weight in enumerate(self.skip_weights[1:], 2):
            self.transitions.add(*pairs_apart(apart), weight)

    def calculate_loss(self, interaction) -> torch.Tensor:
        """0: steps teach it nothing."""
        return 0 * self.no_weight.sum()

    calculate_positions_loss = calculate_loss  # every event but a user's first is the target of a row anyway

    def popularity_scores(self) -> torch.Tensor:
        """[n_items] float64: below the least that a pair can add to a score."""
        return self.weights[-1] * self.skip_weights[-1] * self.transitions.popularity_scores()

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items, [B, n_items] float64: counts and popularity side by side need its digits."""
        scores = self.popularity_scores().repeat(len(interaction), 1)
        for items, weight in self._weighted_history(interaction):
            self.transitions.add_followers(scores, items, weight)
        return scores

    def predict(self, interaction) -> torch.Tensor:
        """Scores of the items in the batch, [B] float64, the same as among all items."""
        item = interaction[self.ITEM_ID]
        scores = self.popularity_scores()[item]
        for items, weight in self._weighted_history(interaction):
            scores = scores + weight * self.transitions.times_followed(items, item).double()
        return scores

    def _weighted_history(self, interaction):
        """The items of the histories, the last ones first, [B] each with -1 where there is none, and their weights."""
        item_seq, last = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN] - 1
        for k, weight in enumerate(self.weights[: item_seq.shape[1]]):
            place = (last - k).unsqueeze(1)
            items = item_seq.gather(1, place.clamp(min=0)).squeeze(1)
            yield torch.where(place.squeeze(1) < 0, -1, items), weight
