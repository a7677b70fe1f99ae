"""How good a predictor's roll-outs are, beside two that know nothing: on held-out windows.

Errors are mean squared errors in grey levels (or RGB levels) squared, 0 to 255. Step h is the h-th
predicted frame after the warm-up. `repeat_last` predicts the last real frame for ever, `mean_frame`
the training frames' mean.
"""

from collections.abc import Sequence

import numpy as np

from model.predictor import RollOut


def roll_out(model: RollOut, windows: dict, warmup: int, batch_size: int = 16):
    """Rolls a batch of windows out, `batch_size` at a time.

    Args:
        model: the predictor's roll-out.
        windows: frames uint8 (count, warmup + horizon, ...), actions (count, warmup + horizon - 1).
        warmup: real frames shown first.

    Yields:
        the slice of windows, and `RollOut`'s dict of predictions for it.
    """
    count = len(windows["actions"])
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
) -> tuple[dict, np.ndarray]:
    """Errors by horizon and how well the reward is told.

    Args:
        model, windows, warmup: as in `roll_out`; windows also holds rewards.
        horizons: steps to report; those beyond the windows' length are left out.
        palette: of windows with palette indices.

    Returns:
        {"num_windows": int, "horizons": {"1": {"mse", "mse_repeat_last", "mse_mean_frame"}, ...},
        "reward": {"average_precision": {"-1": float or None, "1": ...}, "positive_rate": {...}}};
        average precision is over all predicted steps, None where no such reward occurs. And the
        predicted probabilities of the reward's signs (count, horizon, 3).
    """
    mean_frame = np.asarray(model.predictor.network.mean_frame)
    sums = {"mse": 0.0, "mse_repeat_last": 0.0, "mse_mean_frame": 0.0}
    probabilities = []
    for part, predictions in roll_out(model, windows, warmup):
        truth = pixels(windows["frames"][part, warmup - 1 :], palette).astype(np.float32)
        last, truth = truth[:, :1], truth[:, 1:]
        for key, guess in (
            ("mse", predictions["frames"]),
            ("mse_repeat_last", last),
            ("mse_mean_frame", mean_frame),
        ):
            sums[key] += np.square(guess - truth).mean(axis=(2, 3, 4)).sum(axis=0)
        probabilities.append(predictions["reward"])
    count = len(windows["actions"])
    signs = np.sign(windows["rewards"][:, warmup - 1 :])
    probabilities = np.concatenate(probabilities)
    # Columns 0 and 2 of the reward head are the probabilities of -1 and +1.
    events = {sign: (signs == sign, probabilities[..., sign + 1]) for sign in (-1, 1)}
    results = {
        "num_windows": count,
        "horizons": {
            str(h): {key: float(total[h - 1] / count) for key, total in sums.items()}
            for h in horizons
            if h <= signs.shape[1]
        },
        "reward": {
            "average_precision": {str(s): average_precision(*e) for s, e in events.items()},
            "positive_rate": {str(s): float(e[0].mean()) for s, e in events.items()},
        },
    }
    return results, probabilities


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


def reward_lines(results: dict) -> str:
    """How well each sign of the reward is told, a line each."""
    precision, rate = results["reward"]["average_precision"], results["reward"]["positive_rate"]
    return "\n".join(
        f"reward {int(sign):+d}: in {rate[sign]:.2%} of the steps, average precision "
        + ("undefined" if value is None else f"{value:.2f}")
        for sign, value in precision.items()
    )
