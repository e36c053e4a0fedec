"""Whitening of item vectors from elsewhere, as Zhang et al. do it ("Are ID Embeddings Necessary? Whitening Pre-trained
Text Embeddings for Effective Sequential Recommendation", ICDE 2024).

Vectors of an encoder of texts lie in a narrow cone: most of each is what all have in common, and a diffusion's noise,
which is as large in every direction, drowns what tells them apart. Whitened, they have mean 0 and the same variance
1 in each direction, none correlated with another. Here by their principal components (the paper's ZCA is the same but
for a rotation), so that a table of fewer dimensions gets those in which they differ most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROWS_AT_ONCE = 4096
"""Of which a copy in double precision is made."""
ROUNDINGS = 10
"""Of the size of the vectors' numbers: along a direction with a smaller standard deviation they do not differ."""


@dataclass(frozen=True)
class Whitening:
    """v -> (v - mean) axes.

    Attributes:
        mean: [width] float32.
        axes: [width, size] float32, those along which the vectors vary most first.
        explained: share of the vectors' variance that is along these axes.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    explained: float = 1.0

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors [n, width] as whitened ones [n, size], float32."""
        return (vectors.float() - self.mean) @ self.axes


def fit_whitening(vectors: torch.Tensor, size: int | None = None) -> Whitening:
    """The map to mean 0, and to variance 1 along each of the ``size`` axes with the largest variance.

    Args:
        vectors: [n, width].
        size: None for all along which they vary at all. Fewer than ``size`` axes are found where the vectors vary
            along fewer.
    """
    mean = torch.stack([part.double().sum(0) for part in vectors.split(ROWS_AT_ONCE)]).sum(0) / len(vectors)
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for part in vectors.split(ROWS_AT_ONCE):
        centred = part.double() - mean
        covariance += centred.T @ centred
    covariance /= len(vectors)
    variances, axes = (each.flip(-1) for each in torch.linalg.eigh(covariance))
    # Below that a direction is rounding of the numbers, float32 at best, which the division would blow up.
    rounding = ROUNDINGS * torch.finfo(torch.float32).eps
    varies = variances > rounding**2 * (variances[0].clamp(min=0) + mean.square().max())
    kept = min(int(varies.sum()), len(varies) if size is None else size)
    axes = axes[:, :kept]
    # An axis can point either way: with its largest number above 0 it is the same on every machine.
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * largest.sign() / variances[:kept].sqrt()
    explained = variances[:kept].sum() / variances.sum().clamp(min=1e-300)
    return Whitening(mean.float(), axes.float(), explained.item())
