"""What is computed from predictions and what really happened: frames, rewards, terminations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

# Of the structural similarity, as Wang et al. (2004) chose them.
_SSIM_SIDE, _SSIM_DEVIATION = 11, 1.5  # of the Gaussian window, pixels
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Sums:
    """What is measured in each window at each horizon: sums, and how much was summed.

    Args:
        num_windows: how many windows there are.
        num_horizons: how many horizons are reported.
    """

    def __init__(self, num_windows: int, num_horizons: int):
        self._shape = num_windows, num_horizons
        self._known = {}

    def add(self, key: str, part: slice, values: np.ndarray, mask: np.ndarray) -> None:
        """Adds what was measured in some windows.

        Args:
            key: what it is.
            part: the windows.
            values: float (windows, horizons), or (windows, horizons, height, width).
            mask: bool, broadcast to that shape: the values that count.
        """
        if key not in self._known:
            self._known[key] = np.zeros(self._shape), np.zeros(self._shape)
        sums, counts = self._known[key]
        mask, axes = np.broadcast_to(mask, values.shape), tuple(range(2, values.ndim))
        sums[part] = np.where(mask, values, 0).sum(axis=axes)
        counts[part] = mask.sum(axis=axes)

    def measured(self) -> list[str]:
        """What was measured."""
        return list(self._known)

    def of(self, key: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts at one horizon, float (windows,) each; zeros if it was not measured.

        Args:
            key: what was measured.
            index: the horizon's number among those that are reported, from 0.
        """
        if key not in self._known:
            return np.zeros(self._shape[0]), np.zeros(self._shape[0])
        return tuple(values[:, index] for values in self._known[key])

    def mean(self, key: str, index: int) -> float | None:
        """The mean over all that counts in all windows; None where nothing does."""
        sums, counts = self.of(key, index)
        return float(sums.sum() / counts.sum()) if counts.any() else None


def structural_similarity(frames: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """The mean structural similarity (SSIM) of frames, 1: alike. Wang et al. 2004, IEEE TIP 13(4).

    Means, variances and covariances are those under a Gaussian window of 11 x 11 pixels and a
    deviation of 1.5. Places where it does not fit into the frame are left out. The mean is over
    channels, too.

    Args:
        frames, truth: levels, 0 to 255 (..., height, width, channels).

    Returns:
        float (...,); None if the window fits nowhere.
    """
    *before, height, width, channels = truth.shape
    if min(height, width) < _SSIM_SIDE:
        return None
    pairs = (x.reshape(-1, height, width, channels).astype(np.float64) for x in (frames, truth))
    return np.array([_similarity(*pair) for pair in zip(*pairs, strict=True)]).reshape(before)


def _similarity(x, y):
    mean_x, mean_y = _weighted(x), _weighted(y)
    variance_x = _weighted(x * x) - mean_x * mean_x
    variance_y = _weighted(y * y) - mean_y * mean_y
    covariance = _weighted(x * y) - mean_x * mean_y
    return (
        (2 * mean_x * mean_y + _SSIM_C1)
        * (2 * covariance + _SSIM_C2)
        / (mean_x * mean_x + mean_y * mean_y + _SSIM_C1)
        / (variance_x + variance_y + _SSIM_C2)
    ).mean(dtype=np.float64)


def _weighted(frame):
    blurred = cv2.GaussianBlur(frame, (_SSIM_SIDE, _SSIM_SIDE), _SSIM_DEVIATION)
    border = _SSIM_SIDE // 2
    return blurred[border:-border, border:-border]


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
