"""Augmented views of histories by masking and reordering: DSPnet, section 3.3."""

from __future__ import annotations

import torch


def reorder(seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Shuffle one window of each row of seq [B, L]: size uniform in 2..length, then its start, then the order."""
    position = torch.arange(seq.shape[1], device=seq.device)
    length = length.unsqueeze(1)
    draw = torch.rand(2, len(seq), 1, device=seq.device)
    size = 2 + (draw[0] * (length - 1)).long()
    start = (draw[1] * (length - size + 1)).long()
    inside = (position >= start) & (position < (start + size).minimum(length))
    key = torch.where(inside, start + torch.rand(seq.shape, device=seq.device), position)  # start..start + 1 inside
    return seq.gather(1, key.argsort(dim=1))


def mask(seq: torch.Tensor, length: torch.Tensor, mask_id: int, ratio: float | None) -> torch.Tensor:
    """Replace some events of each row of seq [B, L] by mask_id, never all of them.

    ratio: floor(length r) events with r ~ Beta(3, 3) if None; else round(ratio length), but at least one of two.
    """
    if ratio is None:
        share = torch.distributions.Beta(3.0, 3.0).sample((len(seq),)).to(seq.device)
        count = (length * share).long()
    else:
        count = (length * ratio).round().long().clamp(min=1)
    count = count.minimum(length - 1)
    position = torch.arange(seq.shape[1], device=seq.device)
    key = torch.rand(seq.shape, device=seq.device).masked_fill(position >= length.unsqueeze(1), 2.0)
    first = position < count.unsqueeze(1)  # of the order of the keys
    return seq.masked_fill(torch.zeros_like(first).scatter_(1, key.argsort(dim=1), first), mask_id)


def augment(length: torch.Tensor, width: int, ratio: float | None) -> torch.Tensor:
    """A(.) as positions [B, width] from which a view takes its events; `width` stands for [MASK]."""
    positions = torch.arange(width, device=length.device).expand(len(length), -1)
    coin = torch.rand(len(length), 1, device=length.device) < 0.5
    return torch.where(coin, reorder(positions, length), mask(positions, length, width, ratio))
