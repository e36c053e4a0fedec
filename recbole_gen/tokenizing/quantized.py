"""What both methods work on, and what they find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_VARIANCE = 1e-6
"""Vectors that differ by less than this share of their largest number are one: float32 knows no better."""


@dataclass(frozen=True)
class Quantized:
    """Items as digits.

    Attributes:
        digits: [n, levels] int64, from 0.
        variance_left: of each level, the share of the vectors' variance that the digits up to it leave unexplained;
            0 of vectors that have none.
    """

    digits: np.ndarray
    variance_left: list[float]


def in_one_scale(vectors: np.ndarray) -> np.ndarray:
    """Vectors about their mean, with a root mean square of 1; 0 where all are the same. [n, width] float32.

    One number scales all of them, so that what is near stays near; neither method depends on it but for the settings
    of a training.
    """
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest == 0:
        return np.zeros_like(vectors, dtype=np.float32)
    scaled = vectors / np.float32(largest)  # squares of large numbers would overflow
    scaled -= scaled.mean(axis=0, dtype=np.float64).astype(np.float32)
    rms = float(np.sqrt(np.square(scaled).mean(dtype=np.float64)))
    return np.zeros_like(scaled) if rms < NO_VARIANCE else scaled / np.float32(rms)


def share_left(squared_error: float, vectors: np.ndarray) -> float:
    """A sum of squared errors as a share of that of vectors about their mean; 0 of vectors without any."""
    total = float(np.square(vectors, dtype=np.float64).sum())
    return squared_error / total if total > 0 else 0.0
