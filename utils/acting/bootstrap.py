"""Intervals of means over episodes, by drawing episodes again."""

from __future__ import annotations

import numpy as np

QUANTILES = (0.025, 0.975)  # between which the interval holds 95 %
_BOOTSTRAPS = 10_000


def resampled(count: int, seed: int = 0) -> np.ndarray:
    """Episodes drawn with replacement, int (bootstraps, count)."""
    return np.random.default_rng(seed).integers(count, size=(_BOOTSTRAPS, count))


def interval_of(values: np.ndarray) -> list[float]:
    """The low and high end that hold 95 % of the bootstraps' values, (bootstraps,)."""
    low, high = np.quantile(values, QUANTILES)
    return [float(low), float(high)]
