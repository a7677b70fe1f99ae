"""What is computed from predictions and what really happened: errors, rewards, terminations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000  # of the windows, for a bootstrap interval


class SquaredErrors:
    """Squared errors of each window at each horizon, summed over chosen pixels.

    Args:
        num_windows: how many windows there are.
        num_horizons: how many horizons are reported.
    """

    def __init__(self, num_windows: int, num_horizons: int):
        self._shape = num_windows, num_horizons
        self._sums, self._counts = {}, {}

    def add(self, key: str, part: slice, squares: np.ndarray, mask: np.ndarray) -> None:
        """Adds the errors of some windows.

        Args:
            key: what the errors are of.
            part: the windows.
            squares: float (windows, horizons, height, width).
            mask: bool, broadcast to that shape: the pixels that count.
        """
        sums = self._sums.setdefault(key, np.zeros(self._shape))
        counts = self._counts.setdefault(key, np.zeros(self._shape))
        mask = np.broadcast_to(mask, squares.shape)
        sums[part] = np.where(mask, squares, 0).sum(axis=(2, 3))
        counts[part] = mask.sum(axis=(2, 3))

    def means(self, horizon: int) -> dict[str, float | None]:
        """The mean over all pixels of all windows, by key; None where no pixel counts.

        Args:
            horizon: the number of the horizon.
        """
        return {
            key: float(sums[:, horizon].sum() / counts[:, horizon].sum())
            if counts[:, horizon].any()
            else None
            for key, sums, counts in self._items()
        }

    def intervals(self, horizon: int, blocks: np.ndarray) -> dict[str, list[float]]:
        """95 % bootstrap intervals of `means`, by key: [low, high].

        A key is missing where no pixel counts, or if all windows are one block.

        Args:
            horizon: the number of the horizon.
            blocks: int (windows,), from 0. Windows with the same number are drawn together.
        """
        num_blocks = int(blocks.max()) + 1
        if num_blocks == 1:
            return {}
        rng = np.random.default_rng(0)
        drawn = rng.integers(num_blocks, size=(RESAMPLES, num_blocks))  # the same for all keys
        intervals = {}
        for key, sums, counts in self._items():
            if counts[:, horizon].any():
                total, pixels = (
                    np.bincount(blocks, values[:, horizon], num_blocks)[drawn].sum(axis=1)
                    for values in (sums, counts)
                )
                means = total[pixels > 0] / pixels[pixels > 0]
                low, high = np.quantile(means, [0.025, 0.975])
                intervals[key] = [float(low), float(high)]
        return intervals

    def _items(self):
        return ((key, sums, self._counts[key]) for key, sums in self._sums.items())


def psnr(mse: float) -> float | None:
    """Peak signal-to-noise ratio in decibels; None where the error is 0 or not a finite number."""
    return 10 * math.log10(255**2 / mse) if 0 < mse < math.inf else None


def reward_metrics(
    rewards: np.ndarray, probabilities: np.ndarray, horizons: Sequence[int]
) -> dict[str, dict]:
    """How well the reward's sign is predicted.

    Args:
        rewards: float (windows, steps), as they were earned.
        probabilities: float (windows, steps, 3), predicted for -1, 0 and +1.
        horizons: steps to report.

    Returns:
        dict of average_precision, positive_rate and calibration by sign, average_precision_within
        by horizon and sign, cumulative_error and cumulative_error_zero by horizon. A sign is "-1"
        or "1".
    """
    signs = np.sign(rewards)
    by_sign = {"-1": (signs == -1, probabilities[..., 0]), "1": (signs == 1, probabilities[..., 2])}

    def precision(steps=None):
        return {
            sign: average_precision(happened[:, :steps], scores[:, :steps])
            for sign, (happened, scores) in by_sign.items()
        }

    errors = probabilities[..., 2] - probabilities[..., 0] - signs
    return {
        "average_precision": precision(),
        "average_precision_within": {str(horizon): precision(horizon) for horizon in horizons},
        "positive_rate": {sign: float(happened.mean()) for sign, (happened, _) in by_sign.items()},
        "calibration": {sign: calibration(*event) for sign, event in by_sign.items()},
        "cumulative_error": _mean_sizes_of_sums(errors, horizons),
        "cumulative_error_zero": _mean_sizes_of_sums(signs, horizons),
    }


def _mean_sizes_of_sums(values, horizons):
    """The mean size, over the windows, of the sum of values up to each horizon."""
    sums = np.cumsum(values, axis=1)
    return {str(horizon): float(np.abs(sums[:, horizon - 1]).mean()) for horizon in horizons}


def calibration(happened: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict]:
    """How often events happened, by the probability that they were given.

    Args:
        happened: bool, any shape.
        probabilities: float, of the same shape.
        bins: into which probabilities are sorted.

    Returns:
        for each bin that is not empty, ascending: dict of probability (the mean predicted one),
        rate (the share that happened) and count.
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {
            "probability": float(probabilities[bin_of == i].mean()),
            "rate": float(happened[bin_of == i].mean()),
            "count": int((bin_of == i).sum()),
        }
        for i in np.unique(bin_of)
    ]


def average_precision(happened: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the step-wise precision-recall curve; None if nothing happened.

    Args:
        happened: bool, any shape.
        scores: float, of the same shape; higher means more likely. Equal scores are one step.
    """
    happened, scores = happened.ravel(), scores.ravel()
    if not happened.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(happened[order])
    last_of_ties = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, taken = hits[last_of_ties], last_of_ties + 1
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / taken))
