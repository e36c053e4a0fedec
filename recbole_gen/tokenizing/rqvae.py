"""RQ-VAE: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, sections 3.1 and 4.

An encoder gives a latent z of each vector x. Level by level, from r_0 = z, the digit c_d is the nearest code e of the
level's codebook to r_d, and r_{d+1} = r_d - e_{c_d} goes on. The decoder sees z^ = sum of the codes. The loss is

    L = ||x - x^||^2 + sum over levels of ||sg[r_d] - e_{c_d}||^2 + beta ||r_d - sg[e_{c_d}]||^2,   beta = 0.25

with the gradient of x^ passed straight through to z. Encoder 512, 256, 128 with ReLU to a latent of 32, its mirror
image as decoder, three levels of 256 codes, and codebooks that begin at k-means of a first batch of 1,024, as in the
paper.

What differs, each a setting:

- Adam at 0.001, batches of 256 and about 4,000 steps. The paper trains with Adagrad at 0.4 for 20,000 epochs of batches
  of 1,024, days on a CPU; in a short training its first steps of 0.4 for each weight are not made good.
- Codes that no item has had for a while begin anew at residuals of items that are drawn (`restart_dead_codes`), until
  the last tenth of the training. The paper leaves them dead: on 12,101 items of Amazon Beauty (64 numbers each, 50
  epochs) the first level then uses 53 of 256 codes, in place of all.
- A code learns from what it stands for alone: where the paper does not say it, the gradient of a later level's terms
  stops at r_d, and goes on to the encoder only.
- Vectors are brought to one scale, a root mean square of 1, since collaborative ones have any length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from recbole_gen.data.residual_kmeans import residual_kmeans
from recbole_gen.errors import UserError
from recbole_gen.tokenizing.quantized import Quantized, share_left

STEPS = 4000
"""Of a training whose epochs nobody has named, about."""
FEWEST_EPOCHS = 20
FIRST_ITEMS, FIRST_ITEMS_PER_CODE = 1024, 4
"""At least so many items, and so many for each code, are in the batch that the codebooks begin with."""
STEPS_BETWEEN_RESTARTS = 50
"""At least; and all items are seen at least once."""
ROWS = 8192
"""That are encoded together once the training is over."""
LEARNERS = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Settings:
    """Of network and training; `settings.RQVAE_DEFAULTS` has the defaults. ``epochs`` None: about `STEPS` steps."""

    epochs: int | None
    batch_size: int
    learner: str
    learning_rate: float
    hidden_sizes: Sequence[int]
    latent_size: int
    commitment: float
    restart_dead_codes: bool

    def epochs_for(self, n_items: int) -> int:
        return self.epochs or max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(n_items / self.batch_size)))


class RQVAE(nn.Module):
    """Encoder, codebooks [levels, codes, latent], decoder."""

    def __init__(self, width: int, levels: int, codes: int, settings: Settings):
        super().__init__()
        sizes = [width, *settings.hidden_sizes, settings.latent_size]
        self.commitment = settings.commitment
        self.encoder, self.decoder = _mlp(sizes), _mlp(sizes[::-1])
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, settings.latent_size))

    def quantize(self, z: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Digits [B, levels], and of each level the residual r_d and the code e_{c_d}, [B, latent] each.

        The residuals have the gradient of z alone: a code moves to what it stands for, not to what later levels want.
        """
        residuals, chosen, digits, residual = [], [], [], z
        for codebook in self.codebooks:
            digit = nearest(residual.detach(), codebook.detach())
            code = functional.embedding(digit, codebook)
            residuals.append(residual)
            chosen.append(code)
            digits.append(digit)
            residual = residual - code.detach()
        return torch.stack(digits, dim=1), residuals, chosen

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, the mean over a batch [B, width], and the digits of the batch, [B, levels]."""
        z = self.encoder(x)
        digits, residuals, chosen = self.quantize(z)
        straight_through = z + (sum(chosen) - z).detach()  # type: ignore[operator]
        loss = _squares(x - self.decoder(straight_through))
        for residual, code in zip(residuals, chosen):
            loss = loss + _squares(residual.detach() - code) + self.commitment * _squares(residual - code.detach())
        return loss, digits

    @torch.no_grad()
    def begin_codebooks(self, x: Tensor, seed: int) -> None:
        """Put the codes at the centres of residual k-means in the latents of x, [B, width], B at least codes."""
        levels, codes, _ = self.codebooks.shape
        centres, _ = residual_kmeans(self.encoder(x).numpy(), levels, codes, seed)
        self.codebooks.copy_(torch.from_numpy(centres))

    @torch.no_grad()
    def restart_dead_codes(self, used: Tensor, x: Tensor) -> None:
        """Put codes that are not ``used``, [levels, codes], at residuals of their level of x, rows in random order."""
        _, residuals, _ = self.quantize(self.encoder(x))
        for level, residual in enumerate(residuals):
            dead = (~used[level]).nonzero().flatten()[: len(residual)]
            self.codebooks[level, dead] = residual[: len(dead)]


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """The nearest code [codes, d] of each point [B, d], the first of several; [B]."""
    return (codebook.square().sum(dim=1) - 2 * points @ codebook.T).argmin(dim=1)


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers between these sizes, and a ReLU between two."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _squares(difference: Tensor) -> Tensor:
    return difference.square().sum(dim=1).mean()


def quantize_by_rqvae(
    vectors: np.ndarray, levels: int, codes: int, seed: int, settings: Settings, show_progress: bool | None = None
) -> Quantized:
    """Train on vectors of `in_one_scale`, [n, width], and give all of them digits.

    The same seed gives the same digits, with any number of cores: training has one thread. ``show_progress`` None shows
    it on terminals alone.

    Raises UserError for a training that diverges.
    """
    with _one_thread(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        x = torch.from_numpy(vectors)
        model = RQVAE(x.shape[1], levels, min(codes, len(x)), settings)
        _train(model, x, seed, settings, show_progress)
        return _encode(model, x)


def _train(model: RQVAE, x: Tensor, seed: int, settings: Settings, show_progress: bool | None) -> None:
    draw = torch.Generator().manual_seed(seed)

    def shuffled() -> Tensor:
        return torch.randperm(len(x), generator=draw)

    n_first = max(FIRST_ITEMS, FIRST_ITEMS_PER_CODE * model.codebooks.shape[1])
    model.begin_codebooks(x[shuffled()[:n_first]], seed)
    optimizer = LEARNERS[settings.learner](model.parameters(), lr=settings.learning_rate)
    epochs = settings.epochs_for(len(x))
    used = torch.zeros(model.codebooks.shape[:2], dtype=torch.bool)
    steps = 0
    with tqdm(total=epochs, desc="RQ-VAE", unit="epoch", disable=None if show_progress is None else not show_progress,
              leave=False) as bar:  # fmt: skip
        for epoch in range(epochs):
            for rows in shuffled().split(settings.batch_size):
                loss, digits = model.losses(x[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                for level, digit in enumerate(digits.T):
                    used[level, digit] = True
                steps += 1
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"the RQ-VAE's training has diverged in epoch {epoch + 1}: a smaller --learning_rate than "
                    f"{settings.learning_rate}, or another --learner, may help"
                )
            if steps >= STEPS_BETWEEN_RESTARTS:
                if settings.restart_dead_codes and epoch < 0.9 * epochs:
                    model.restart_dead_codes(used, x[shuffled()[:n_first]])
                used.zero_()
                steps = 0
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.4g}")


@torch.no_grad()
def _encode(model: RQVAE, x: Tensor) -> Quantized:
    levels = len(model.codebooks)
    digits, errors = [], np.zeros(levels)
    for rows in x.split(ROWS):
        digit, _, chosen = model.quantize(model.encoder(rows))
        digits.append(digit.numpy())
        for level in range(levels):
            decoded = model.decoder(torch.stack(chosen[: level + 1]).sum(dim=0))
            errors[level] += (rows - decoded).double().square().sum().item()
    return Quantized(np.concatenate(digits), [share_left(error, x.numpy()) for error in errors])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads add up in another order, and round by it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
