"""What two or more of the model files share identically, or a model with its evaluation; torch only."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.errors import UserError

FUTURE = "future_"
"""Prefix of the columns of a batch with the events that its rows are to predict, the next first."""

NOT_FOUND = torch.finfo(torch.float32).min
"""Score of an item that a model has not come to: below all others, and in no list. (-inf is of what is not ranked.)"""


def _signed(value: int) -> int:
    """The last 64 bits of a whole number, as torch's int64 has them."""
    return (value + 2**63) % 2**64 - 2**63


# splitmix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014
_GAMMA = _signed(0x9E3779B97F4A7C15)
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)

FEW = 128
"""Numbers of which it does not pay to find the distinct ones."""

DRAWN_AHEAD = 2**14
"""Numbers of evaluation noise that are made together where a batch has fewer."""


def _mix(words: torch.Tensor) -> torch.Tensor:
    """splitmix64's bijection of 64-bit words, int64 of any shape, in place: every bit of the result needs all bits."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words.bitwise_xor_(_shift_right(words, shift)).mul_(factor)  # modulo 2^64
    return words.bitwise_xor_(_shift_right(words, 31))


def _shift_right(words: torch.Tensor, number: int) -> torch.Tensor:
    """Zeros come in from the left, where those of int64 would be copies of the sign."""
    return (words >> number).bitwise_and_(2 ** (64 - number) - 1)


# What follows from sizes alone is kept: for a single history, calls cost more than work.


@lru_cache(maxsize=64)
def _place_factors(column: int, width: int, device: torch.device) -> torch.Tensor:
    """r of `HistoryNoise`, [L]."""
    place = torch.arange(1, width + 1, device=device)
    return _mix((place + (column << 32)) * _GAMMA).bitwise_or_(1)


@lru_cache(maxsize=64)
def _counters(draws: int, words: int, device: torch.device) -> torch.Tensor:
    """(2^32 n + i + 1) gamma, [draws, words]."""
    draw = torch.arange(draws, device=device).unsqueeze(1) << 32
    return (draw + torch.arange(1, words + 1, device=device)) * _GAMMA


class HistoryNoise:
    """Standard normal numbers for each row of a batch, as a function of a seed and the row's history alone.

    So an evaluation, a request and a file give a history the same noise in any order, batch and padding, and on every
    device, up to the rounding of logarithm, root, sine and cosine in single precision. Rows with the same history have
    the same noise, as the candidates of a user must have.

    With ``gamma`` and ``mix`` of splitmix64 and arithmetic modulo 2^64, a row's key is mix(seed gamma + sum value r),
    summed over columns (from 0) and places (from 1) of its history, where r = mix((2^32 column + place) gamma), made
    odd; without a history it is mix(seed gamma). Numbers 2i and 2i + 1 of draw n (both from 0) are Box and Muller's
    pair from the two halves of one word, output number 2^32 n + i + 1 of splitmix64 when started at the key.

    Args:
        seed: any whole number.
        item_seq: [B, L] ids, 0 for padding, which is behind the history.
        others: [B, L] int64, what a model reads beside the items; not read where ``item_seq`` is padding.
    """

    def __init__(self, seed: int, item_seq: torch.Tensor, *others: torch.Tensor):
        self._seed, self._item_seq, self._others = seed, item_seq, others
        self._begun, self._ready = 0, list[torch.Tensor]()

    @cached_property
    def keys(self) -> torch.Tensor:
        """[B] int64."""
        width, device = self._item_seq.shape[1], self._item_seq.device
        total = (self._item_seq * _place_factors(0, width, device)).sum(1)
        for number, values in enumerate(self._others, 1):
            real = values.masked_fill(self._item_seq == 0, 0)
            total += (real * _place_factors(number, width, device)).sum(1)
        return _mix(total + _signed(self._seed * _GAMMA))

    def normal(self, *shape: int) -> torch.Tensor:
        """The next draw, float32 [B, *shape], in the same shape every time.

        The numbers at a place of the first dimension of ``shape`` do not depend on how many places there are.
        """
        if not self._ready:
            number = math.prod(shape)
            # The first draw is often the only one. Small ones that follow are made together: calls cost more than work.
            draws = max(1, DRAWN_AHEAD // max(1, len(self.keys) * number)) if self._begun else 1
            self._ready = list(self._draws(self._begun, draws, number).unbind(1))[::-1]
            self._begun += draws
        return self._ready.pop().reshape(len(self.keys), *shape)

    def _draws(self, first: int, draws: int, number: int) -> torch.Tensor:
        """[B, draws, number]"""
        counter = _counters(draws, number // 2 + number % 2, self.keys.device)
        words = _mix((self.keys + _signed((first << 32) * _GAMMA)).view(-1, 1, 1) + counter)
        uniform = _shift_right(words, 32).float().add_(0.5).mul_(2**-32)  # from 2^-33 to 1
        angle = words.to(torch.int32).float().mul_(2 * math.pi * 2**-32)  # the lower half, from -pi to pi
        radius = uniform.log_().mul_(-2).sqrt_()
        pairs = radius.new_empty(*words.shape, 2)
        torch.mul(radius, angle.cos(), out=pairs[..., 0])
        torch.mul(radius, angle.sin_(), out=pairs[..., 1])
        return pairs.flatten(2)[..., :number]


def sinusoid(values: torch.Tensor, size: int, freq: float = 1e4) -> torch.Tensor:
    """sin(v / freq^(2i/d)) in dimension 2i and the cosine in 2i + 1: values [...] -> [..., size], in their precision.

    DiffRec eq. 15 for diffusion steps, PASRec eq. 3 for times.
    """
    if not values.is_floating_point():
        values = values.float()
    exponents = torch.arange(0, size, 2, dtype=values.dtype, device=values.device) / size
    angles = values.unsqueeze(-1) / freq**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def once_each(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """function(values), [...] -> [..., d], for a function of single numbers that is computed once for equal ones."""
    if values.numel() < FEW:
        return function(values)
    distinct, which = values.unique(return_inverse=True)
    return F.embedding(which, function(distinct))


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
        return once_each(self._embed, t)

    def _embed(self, t: torch.Tensor) -> torch.Tensor:
        angles = t.unsqueeze(-1) * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class LinearOfParts(torch.autograd.Function):
    """A linear layer of [x_1 ; x_2 ; ...] whose parts may have different rows: the sum of x_i W_i', which is broadcast.

    The layer's weight gets one gradient. Those of its slices would be put together by a copy, as large as it is.
    """

    @staticmethod
    def forward(ctx, weight: torch.Tensor, bias: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        """weight [d, a_1 + a_2 + ...], bias [d], parts [..., B or 1, a_i] -> [..., B, d]."""
        ctx.save_for_backward(weight, *parts)
        columns = weight.split([part.shape[-1] for part in parts], dim=1)
        bias_of_last = [None] * (len(parts) - 1) + [bias]
        first, *others = reversed([F.linear(*each) for each in zip(parts, columns, bias_of_last)])
        return sum(others, first)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """Gradients of all that need one."""
        weight, *parts = ctx.saved_tensors
        sizes = [part.shape[-1] for part in parts]
        grad = grad.to(weight.dtype)  # under autocast it may have come in another
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[0] else None
        grad_parts = []
        for number, (part, columns) in enumerate(zip(parts, weight.split(sizes, dim=1))):
            own = grad.sum_to_size(*part.shape[:-1], grad.shape[-1])
            if grad_weight is not None:
                of_part = grad_weight.split(sizes, dim=1)[number]
                torch.mm(own.flatten(0, -2).T, part.flatten(0, -2).to(weight.dtype), out=of_part)
            grad_parts.append((own @ columns).to(part.dtype) if ctx.needs_input_grad[number + 2] else None)
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_bias, *grad_parts


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
