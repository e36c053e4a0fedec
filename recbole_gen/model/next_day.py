"""Times as vectors, and predicted vectors as days: what PASRec reads and predicts beside items.

Sections and equations are those of Chai et al., "When and What to Recommend", see `recbole_gen.model.pasrec`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.day_search import search_days
from recbole_gen.model.layers import sinusoid


class When(NamedTuple):
    """Predicted days of the next interaction, int64 [B] each, counted from 1970-01-01.

    ``day`` is the best, ``earliest`` and ``latest`` bound the days that cannot be told from it.
    """

    day: torch.Tensor
    earliest: torch.Tensor
    latest: torch.Tensor


class TimeEncoding(nn.Module):
    """TE(t) of times t in [0, 1], eq. 3-5; nothing in it is learned. Works in the precision of its input."""

    frequencies: torch.Tensor

    def __init__(self, name: str, size: int, sigma: float, freq: float, time_scale: float, seed: int):
        super().__init__()
        self.name, self.size, self.sigma, self.freq, self.time_scale = name, size, sigma, freq, time_scale
        if not (sigma > 0 and freq > 1 and time_scale > 0):
            raise UserError(
                f"sigma and time_scale must be positive and freq above 1, got {sigma}, {time_scale} and {freq}"
            )
        if name == "gaussian" and time_scale != 1:
            raise UserError(f"the gaussian encoding has its centers in [0, 1]: time_scale must be 1, got {time_scale}")
        if name == "rff":
            draw = torch.Generator().manual_seed(seed)
            self.register_buffer("frequencies", sigma * torch.randn(size // 2, generator=draw))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t [...] -> [..., d]."""
        t = t * self.time_scale
        if self.name == "sinusoidal":
            return sinusoid(t, self.size, self.freq)
        if self.name == "gaussian":
            centers = torch.linspace(0, 1, self.size, dtype=t.dtype, device=t.device)
            return torch.exp(-((t.unsqueeze(-1) - centers) ** 2) / (2 * self.sigma**2))
        angles = 2 * math.pi * t.unsqueeze(-1) * self.frequencies.to(t.dtype)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Calendar:
    """The days that a model of scaled times predicts: of PASRec what leads from a predicted time to the calendar."""

    time_encoding: TimeEncoding
    day_range: torch.Tensor
    TOI_SEQ: str
    ITEM_SEQ_LEN: str
    represent: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

    @torch.no_grad()
    def when(self, interaction, horizon: int = 365, noise: float = 0.01) -> When:
        """The day of each user's next interaction, by `decode`. Reads histories and their times only.

        Raises UserError for a model that reads no times.
        """
        _, tau_hat = self.represent(interaction)
        if tau_hat is None:
            raise UserError(f"this {type(self).__name__} reads no times and predicts none: train PASRec")
        return self.decode(tau_hat, self.last_day(interaction), horizon, noise)

    def last_day(self, interaction) -> torch.Tensor:
        """Day of the latest interaction of each history, counted from 1970-01-01: int64 [B]."""
        last = (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0).unsqueeze(1)
        return self.day_of(interaction[self.TOI_SEQ].gather(1, last).squeeze(1))

    def day_of(self, t: torch.Tensor) -> torch.Tensor:
        """Days since 1970-01-01 of scaled times: int64, of the same shape."""
        return (t.double() * (self.day_range[1] - self.day_range[0])).round().long() + self.day_range[0]

    @torch.no_grad()
    def decode(self, tau_hat: torch.Tensor, not_before: torch.Tensor, horizon: int = 365, noise: float = 0.01) -> When:
        """The days whose encodings are most similar to tau_hat [B, d], searched in float64; ties go to the earliest.

        An encoding tells a day from its neighbours only so well: ``earliest`` and ``latest`` bound the days that an
        error of tau_hat of at most ``noise`` times its length could make the answer. The sinusoid is so flat on [0, 1]
        that this is years. (Of a log over more than SEARCHED_DAYS they are found among every n-th day.)

        Args:
            tau_hat: predicted encodings.
            not_before: [B] days since 1970-01-01; earlier days are no answer.
            horizon: how many days after the data's last the search ends (Gaussian: at 1.1, behind its last center),
                or a day after a history that ends later.

        Raises UserError if tau_hat is not finite.
        """
        if not torch.isfinite(tau_hat).all():
            raise UserError(
                "predicted times are not numbers: the training has diverged, or a setting is far from the usual"
            )
        first, last = (int(day) for day in self.day_range)
        end = last + horizon
        if self.time_encoding.name == "gaussian":
            end = min(end, last + (last - first) // 10)
        tau = F.normalize(tau_hat.double(), dim=-1)
        return When(*search_days(self._encode_days, tau, not_before, (first, end), noise))

    def _encode_days(self, days: torch.Tensor) -> torch.Tensor:
        """Encodings of length 1 of days since 1970-01-01: [...] -> [..., d], float64."""
        first, last = (int(day) for day in self.day_range)
        return F.normalize(self.time_encoding((days - first).double() / (last - first)), dim=-1)
