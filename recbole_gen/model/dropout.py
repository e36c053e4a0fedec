"""Dropout whose random numbers cost a fifth of torch's on the CPU, and attention with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WORDS = 2**16
"""Values of the random words that decide: a rate is met to within 1 / 2^17, and the scale is that of the rate met."""


def dropout_factors(shape: torch.Size | tuple[int, ...], p: float, like: torch.Tensor) -> torch.Tensor:
    """0 with probability ``p``, else the inverse of the probability to stay: of this shape, in the type of ``like``.

    torch draws a 32-bit number and computes with it for every element; four elements share one of 64 bits here. On the
    CPU only.
    """
    dropped = round(p * WORDS)
    size = torch.Size(shape).numel()
    words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:size]
    scale = WORDS / (WORDS - dropped) if dropped < WORDS else 0.0
    return words.to(like.dtype).ge_(dropped - WORDS // 2).mul_(scale).view(shape)


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """`torch.nn.functional.dropout`, with random numbers of its own on the CPU."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return F.dropout(x, p)
    return x * dropout_factors(x.shape, p, x)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dropout(input, self.p, self.training)


def use_fast_dropout(model: nn.Module) -> None:
    """Have every `torch.nn.Dropout` in a model draw its numbers by `dropout`."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, p: float, is_causal: bool = False
) -> torch.Tensor:
    """`scaled_dot_product_attention` with dropout rate ``p``: q [..., Q, d], k and v [..., K, d] -> [..., Q, d].

    torch has a kernel for the CPU without dropout only; with it, it computes as here, with its own dropout.
    """
    if p == 0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=is_causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return dropout(scores.softmax(-1), p, True) @ v
