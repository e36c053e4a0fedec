"""The days whose encodings are most similar to vectors, searched without more memory for more days."""

from __future__ import annotations

from collections.abc import Callable

import torch

SEARCHED_DAYS = 1 << 15
"""Days that are searched one by one, 90 years; of more, every n-th first, then those around the best."""
DAY_BLOCK = 4096
"""Days that are searched at a time: what a search takes of memory does not grow with the times in the data."""
Encode = Callable[[torch.Tensor], torch.Tensor]


def search_days(
    encode: Encode, tau: torch.Tensor, not_before: torch.Tensor, span: tuple[int, int], noise: float
) -> torch.Tensor:
    """The best day for each vector, and the first and the last that are like it: int64 [3, B].

    Args:
        encode: days [...] -> vectors of length 1, float64 [..., d].
        tau: vectors of length 1, float64 [B, d].
        not_before: [B] days; each row is searched from there to the end, or to a day later if that is later.
        span: first and last day of all.
        noise: days are alike that an error of ``tau`` of this size could make the best.
    """
    first, end = span
    parts = []
    for part, earliest in zip(tau.split(1024), not_before.split(1024), strict=True):
        found = _search_common(encode, part, earliest, first, end, noise)
        late = (earliest >= end).nonzero().squeeze(1)  # two days each, of their own
        found[:, late] = _search_window(encode, part[late], earliest[late], earliest[late] + 1, noise)
        parts.append(found)
    return torch.cat(parts, dim=1)


def _search_common(
    encode: Encode, tau: torch.Tensor, earliest: torch.Tensor, first: int, end: int, noise: float
) -> torch.Tensor:
    """Best day, and first and last that are like it, [3, B], from ``earliest`` [B] to ``end``."""
    step = -(-(end - first + 1) // SEARCHED_DAYS)
    blocks = torch.arange(first, end + 1, step, device=tau.device).split(DAY_BLOCK)
    best, begin, until = earliest.clone(), earliest.clone(), earliest.clone()
    highest = torch.full(earliest.shape, -torch.inf, dtype=tau.dtype, device=tau.device)

    def similarities(days: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = encode(days)  # [G, d]
        return grid, (tau @ grid.T).masked_fill_(days < earliest.unsqueeze(1), -torch.inf)

    for days in blocks:
        grid, similarity = similarities(days)
        top = similarity.max(dim=1).values
        higher = top > highest  # of equal days in two blocks the earlier
        best = torch.where(higher, days[_first(similarity == top.unsqueeze(1))], best)
        highest = torch.where(higher, top, highest)
    of_best = encode(best)
    found = torch.zeros_like(best, dtype=torch.bool)
    for days in blocks:
        if len(blocks) > 1:
            grid, similarity = similarities(days)
        distance = (2 - 2 * (of_best @ grid.T)).clamp(min=0).sqrt()
        alike = (highest.unsqueeze(1) - similarity) <= noise * distance
        here, last_place = alike.any(dim=1), len(days) - 1
        begin = torch.where(here & ~found, days[_first(alike).clamp(max=last_place)], begin)
        until = torch.where(here, days[(last_place - _first(alike.flip(1))).clamp(min=0)], until)
        found |= here
    if step == 1:
        return torch.stack([best, begin, until])
    around = (best - step).maximum(earliest), (best + step).clamp(max=end).maximum(earliest)
    best, first_alike, last_alike = _search_window(encode, tau, *around, noise)
    return torch.stack([best, begin.minimum(first_alike), until.maximum(last_alike)])


def _search_window(
    encode: Encode, tau: torch.Tensor, start: torch.Tensor, end: torch.Tensor, noise: float
) -> torch.Tensor:
    """The same from a day ``start`` [B] to a day ``end`` [B] of each row."""
    width = int((end - start).max()) + 1 if len(tau) else 1
    days = start.unsqueeze(1) + torch.arange(width, device=tau.device)  # [B, W]
    grid = encode(days)  # [B, W, d]
    similarity = (grid @ tau.unsqueeze(2)).squeeze(2).masked_fill_(days > end.unsqueeze(1), -torch.inf)
    highest = similarity.max(dim=1, keepdim=True).values
    best = _first(similarity == highest)
    of_best = grid.gather(1, best.view(-1, 1, 1).expand(-1, 1, grid.shape[2]))  # [B, 1, d]
    distance = (2 - 2 * (grid @ of_best.transpose(1, 2)).squeeze(2)).clamp(min=0).sqrt()
    alike = (highest - similarity) <= noise * distance
    return start + torch.stack([best, _first(alike), width - 1 - _first(alike.flip(1))])


def _first(mask: torch.Tensor) -> torch.Tensor:
    """Index of the first True in each row, [B, G] -> [B]."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, mask.shape[1]).min(dim=1).values
