"""What two or more of the model files share identically, or a model with its evaluation; torch only."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.errors import UserError

FUTURE = "future_"
"""Prefix of the columns of a batch with the events that its rows are to predict, the next first."""


def sinusoid(values: torch.Tensor, size: int, freq: float = 1e4) -> torch.Tensor:
    """sin(v / freq^(2i/d)) in dimension 2i and the cosine in 2i + 1: values [...] -> [..., size], in their precision.

    DiffRec eq. 15 for diffusion steps, PASRec eq. 3 for times.
    """
    if not values.is_floating_point():
        values = values.float()
    exponents = torch.arange(0, size, 2, dtype=values.dtype, device=values.device) / size
    angles = values.unsqueeze(-1) / freq**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class StepEmbedding(nn.Module):
    """Embed diffusion steps: a sinusoid, then Linear d -> 2d, GELU, Linear 2d -> d.

    Shared by DreamRec and PreferDiff/PASRec (neither paper describes it; the layout is that of their released code):
    all sines first, then all cosines, with d/2 frequencies from 1 down to 1e-4.
    """

    frequencies: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        if size < 4 or size % 2:
            raise UserError(f"hidden_size must be an even number of at least 4, got {size}")
        half = size // 2
        frequencies = torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t [...] (integers) -> [..., d]."""
        angles = t.unsqueeze(-1) * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


def item_denoiser(kind: str, size: int) -> Any:
    """The denoiser of DreamRec and PreferDiff/PASRec on [x_t ; guidance ; step], [..., 3d] -> [..., d].

    ``linear`` is the one layer that their released code runs; ``mlp`` has a hidden layer of 2d with GELU.
    """
    if kind == "linear":
        return nn.Linear(3 * size, size)
    return nn.Sequential(nn.Linear(3 * size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))


def distinct(future: torch.Tensor) -> torch.Tensor:
    """The set of ids in each row [B, W]: sorted, with zeros for padding and repetitions."""
    ordered = future.sort(dim=1).values
    repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0), value=False)
    return ordered.masked_fill(repeated, 0).sort(dim=1).values


def one_of(config, key: str, choices: tuple[str, ...]) -> str:
    """config[key], or a UserError that lists the choices."""
    if config[key] not in choices:
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {config[key]!r}")
    return config[key]
