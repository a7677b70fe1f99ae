"""How good a predictor's roll-outs are, beside two that know nothing: on held-out windows.

Errors are mean squared errors in grey levels (or RGB levels) squared, 0 to 255. Step h is the h-th
predicted frame after the warm-up. `repeat_last` predicts the last real frame for ever, `mean_frame`
the training frames' mean.
"""

import math
from collections.abc import Sequence

import numpy as np

from model.predictor import RollOut

# Of what is decoded together: nothing else takes as much memory as the decoder's layers.
_WINDOWS_AT_ONCE = 16
_PIXELS_AT_ONCE = 16 * 30 * 84 * 84


def roll_out(model: RollOut, windows: dict, warmup: int):
    """Rolls windows out, as many at a time as memory has room for.

    Args:
        model: the predictor's roll-out.
        windows: frames uint8 (count, warmup + horizon, ...), actions (count, warmup + horizon - 1).
        warmup: real frames shown first.

    Yields:
        the slice of windows, and `RollOut`'s dict of predictions for it.
    """
    count, steps = len(windows["actions"]), windows["actions"].shape[1] - warmup + 1
    height, width, _ = model.predictor.network.mean_frame.shape
    fit = max(1, _PIXELS_AT_ONCE // (steps * height * width))
    # A power of two, so that the last are as many as the others and nothing is compiled anew.
    batch_size = min(_WINDOWS_AT_ONCE, 1 << fit.bit_length() - 1)
    for start in range(0, count, batch_size):
        part = slice(start, min(start + batch_size, count))
        yield (
            part,
            model.predict_on_batch(
                {"frames": windows["frames"][part, :warmup], "actions": windows["actions"][part]}
            ),
        )


def pixels(frames: np.ndarray, palette: np.ndarray | None) -> np.ndarray:
    """uint8 frames or palette indices -> uint8 (..., height, width, channels)."""
    return frames if frames.ndim == 5 else palette[frames]


def evaluate(
    model: RollOut,
    windows: dict,
    warmup: int,
    horizons: Sequence[int],
    palette: np.ndarray | None = None,
    *,
    controlled: np.ndarray | None = None,
    starts: Sequence[tuple[int, int]] | None = None,
    thorough: bool = False,
) -> tuple[dict, np.ndarray]:
    """Errors by horizon and how well rewards and terminations are told.

    Args:
        model, windows, warmup: as in `roll_out`; windows also holds rewards and
            terminations.
        horizons: steps to report; those beyond the windows' length are left out.
        palette: of windows with palette indices.
        controlled: bool (count, reported horizons, height, width), the pixels that the player's
            choice decides; None where that is not known.
        starts: episode and first frame of each window, for intervals that heed how much of their
            frames neighbours share; None where they share none.
        thorough: whether to ask what the actions do, by giving each window another's, to report
            those pixels, and to add intervals.

    Returns:
        {"num_windows", "horizons": {"1": {...}, ...}, "reward": {...}, "termination": {...}}, see
        `evaluate.py --help` for the keys; None stands where there was nothing to measure. And the
        predicted probabilities of the reward's signs (count, horizon, 3).
    """
    count, steps = windows["actions"].shape[0], windows["actions"].shape[1] - warmup + 1
    horizons = [h for h in horizons if h <= steps]
    mean_frame = np.asarray(model.predictor.network.mean_frame)
    squares = _Squares(count, len(horizons))
    blocks = np.arange(count)
    if starts is not None:
        # What begins within one stretch of play, a window's length, is drawn together or not.
        places = [(episode, first // (warmup + steps)) for episode, first in starts]
        blocks = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    rewards, terminations = [], []
    # Shuffled: the warm-up's own actions, then those of the window before.
    shuffled = windows["actions"].copy()
    shuffled[:, warmup - 1 :] = np.roll(shuffled[:, warmup - 1 :], 1, axis=0)
    for part, predictions in roll_out(model, windows, warmup):
        frames = windows["frames"][part]
        last = pixels(frames[:, warmup - 1 : warmup], palette).astype(np.float32)
        at = np.array(horizons) - 1
        truth = pixels(frames[:, warmup + at], palette).astype(np.float32)
        moving = (frames != frames[:, :1]).any(axis=1)
        masks = {
            "mse": np.True_,
            "mse_moving": (moving if moving.ndim == 3 else moving.any(axis=-1))[:, None],
        }
        guesses = {
            "": predictions["frames"][:, at],
            "_repeat_last": last,
            "_mean_frame": mean_frame,
        }
        if thorough:
            if controlled is not None:
                masks["mse_controlled"] = controlled[part]
            if count > 1:
                others = {"frames": frames, "actions": shuffled[part]}
                _, misled = next(roll_out(model, others, warmup))
                guesses["_shuffled_actions"] = misled["frames"][:, at]
        for suffix, guess in guesses.items():
            square = np.square(guess - truth).mean(axis=-1)
            for name, mask in masks.items():
                squares.add(name, suffix, part, square, mask)
        rewards.append(predictions["reward"])
        terminations.append(predictions["termination"])
    rewards, terminations = np.concatenate(rewards), np.concatenate(terminations)
    errors = [squares.results(i, blocks if thorough else None) for i in range(len(horizons))]
    for row in errors:
        row["psnr"] = 10 * math.log10(255**2 / row["mse"]) if row["mse"] else None
        if thorough:
            # There as keys, in one order, where there was nothing to measure too.
            names = [name + suffix for name in _ERRORS for suffix in _GUESSES]
            row |= {name: row.get(name) for name in names}
    ended = windows["terminations"][:, warmup - 1 :]
    results = {
        "num_windows": count,
        "horizons": dict(zip(map(str, horizons), errors, strict=True)),
        "reward": _told_rewards(windows["rewards"][:, warmup - 1 :], rewards, horizons),
        "termination": {
            "average_precision": average_precision(ended, terminations),
            "positive_rate": float(ended.mean()),
        },
    }
    return results, rewards


_ERRORS = ("mse", "mse_moving", "mse_controlled")
_GUESSES = ("", "_repeat_last", "_mean_frame", "_shuffled_actions")


class _Squares:
    """Squared errors of each window at each horizon, summed over a mask's pixels."""

    BOOTSTRAPS = 1000

    def __init__(self, count, num_horizons):
        self._shape = count, num_horizons
        self._sums, self._counts = {}, {}

    def add(self, name, suffix, part, square, mask):
        """Adds windows' squared errors (batch, horizons, height, width) where the mask is true."""
        sums = self._sums.setdefault(name + suffix, np.zeros(self._shape))
        counts = self._counts.setdefault(name + suffix, np.zeros(self._shape))
        mask = np.broadcast_to(mask, square.shape)
        sums[part] = np.where(mask, square, 0).sum(axis=(2, 3))
        counts[part] = mask.sum(axis=(2, 3))

    def results(self, horizon, blocks):
        """Means over all pixels of all windows, by key, and their 95 % bootstrap intervals.

        `blocks`, int (count,), says which windows are drawn together; None: no intervals.
        """
        sums = {key: value[:, horizon] for key, value in self._sums.items()}
        counts = {key: value[:, horizon] for key, value in self._counts.items()}
        row = {
            key: float(sums[key].sum() / counts[key].sum()) if counts[key].any() else None
            for key in sums
        }
        if blocks is not None:
            # The same draws for all keys.
            count = int(blocks.max()) + 1
            draws = np.random.default_rng(0).integers(count, size=(self.BOOTSTRAPS, count))
            intervals = {}
            for key, mean in row.items():
                if mean is not None and count > 1:
                    total, pixels = (
                        np.bincount(blocks, values[key], count)[draws].sum(axis=1)
                        for values in (sums, counts)
                    )
                    drawn = total[pixels > 0] / pixels[pixels > 0]
                    low, high = np.quantile(drawn, [0.025, 0.975])
                    intervals[key] = [float(low), float(high)]
            row["intervals"] = intervals
        return row


def _told_rewards(rewards, probabilities, horizons):
    """How well the reward's sign is told, from rewards and probabilities of every step."""
    signs = np.sign(rewards)
    # Columns 0 and 2 of the reward head are the probabilities of -1 and +1.
    events = {sign: (signs == sign, probabilities[..., sign + 1]) for sign in (-1, 1)}
    missed = np.cumsum(probabilities[..., 2] - probabilities[..., 0] - signs, axis=1)
    earned = np.cumsum(signs, axis=1)
    return {
        "average_precision": {str(s): average_precision(*e) for s, e in events.items()},
        "average_precision_within": {
            str(h): {str(s): average_precision(*(x[:, :h] for x in e)) for s, e in events.items()}
            for h in horizons
        },
        "positive_rate": {str(s): float(e[0].mean()) for s, e in events.items()},
        "calibration": {str(s): calibration(*e) for s, e in events.items()},
        "cumulative_error": {str(h): float(np.abs(missed[:, h - 1]).mean()) for h in horizons},
        "cumulative_error_zero": {str(h): float(np.abs(earned[:, h - 1]).mean()) for h in horizons},
    }


def calibration(positive: np.ndarray, score: np.ndarray, bins: int = 10) -> list[dict]:
    """How often what was said to have a probability happened, for each tenth of probabilities.

    Args:
        positive: bool, any shape.
        score: probabilities, alike.
    """
    tenth = np.minimum((score * bins).astype(int), bins - 1)
    return [
        {
            "probability": float(score[tenth == i].mean()),
            "rate": float(positive[tenth == i].mean()),
            "count": int((tenth == i).sum()),
        }
        for i in np.unique(tenth)
    ]


def average_precision(positive: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the precision-recall curve, step-wise; None where nothing is positive.

    Args:
        positive: bool, any shape.
        score: float, alike; higher means more likely positive. Equal scores count as one step.
    """
    positive, score = positive.ravel(), score.ravel()
    if not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_ties = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits, taken = hits[last_of_ties], last_of_ties + 1
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / taken))


def table(results: dict) -> str:
    """The errors by horizon as a small text table."""
    lines = ["  step        MSE   repeat last     ratio    mean frame"]
    for horizon, row in results["horizons"].items():
        ratio = row["mse"] / row["mse_repeat_last"] if row["mse_repeat_last"] else float("nan")
        lines.append(
            f"{horizon:>6} {row['mse']:>10.2f} {row['mse_repeat_last']:>13.2f} {ratio:>9.3f}"
            f" {row['mse_mean_frame']:>13.2f}"
        )
    return "\n".join(lines)


def thorough_table(results: dict) -> str:
    """All errors by horizon beside repeating the last frame and under others' actions, as text."""

    def number(value):
        return "-" if value is None else f"{value:.2f}"

    lines = ["  step                      model  repeat last   mean frame  others' actions"]
    for horizon, row in results["horizons"].items():
        for name in _ERRORS:
            values = [number(row[name + guess]) for guess in _GUESSES]
            lines.append(
                f"{horizon if name == 'mse' else '':>6} {name:16}"
                + "".join(f"{value:>{w}}" for value, w in zip(values, (9, 13, 13, 17), strict=True))
            )
    return "\n".join(lines)


def reward_lines(results: dict) -> str:
    """How well each sign of the reward is told, a line each."""
    precision, rate = results["reward"]["average_precision"], results["reward"]["positive_rate"]
    return "\n".join(
        f"reward {int(sign):+d}: in {rate[sign]:.2%} of the steps, average precision "
        + ("undefined" if value is None else f"{value:.2f}")
        for sign, value in precision.items()
    )
