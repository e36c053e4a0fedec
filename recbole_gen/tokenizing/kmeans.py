"""Semantic IDs by residual k-means: what the digits leave unexplained beside them."""

from __future__ import annotations

import numpy as np

from recbole_gen.data.residual_kmeans import residual_kmeans
from recbole_gen.tokenizing.quantized import Quantized, share_left


def quantize_by_kmeans(vectors: np.ndarray, levels: int, codes: int, seed: int) -> Quantized:
    """Digits of vectors of `in_one_scale`, [n, width]. The same seed gives the same, with any number of cores."""
    centres, digits = residual_kmeans(vectors, levels, codes, seed)
    left, rest = [], vectors
    for level in range(levels):
        rest = rest - centres[level][digits[:, level]]
        left.append(share_left(float(np.square(rest, dtype=np.float64).sum()), vectors))
    return Quantized(digits, left)
