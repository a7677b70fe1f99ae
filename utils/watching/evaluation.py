"""The errors of roll-outs on held-out windows, beside baselines that need no model.

Errors are mean squared errors in grey levels (or RGB levels) squared, 0 to 255. Step h is the h-th
frame after the warm-up. Two baselines stand beside the model: `repeat_last` repeats the last real
frame, `mean_frame` shows the mean of the training frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.watching.metrics import SquaredErrors, average_precision, psnr, reward_metrics

if TYPE_CHECKING:
    from model.predictor import RollOut

# Limits of what is decoded at once, because the decoder's layers take the most memory.
_WINDOWS_AT_ONCE = 16
_PIXELS_AT_ONCE = 16 * 30 * 84 * 84

PIXEL_SETS = ("mse", "mse_moving", "mse_controlled")  # whose errors are reported
# Errors as shares of others: key, of what error, of the model or under what guess.
RATIOS = (
    ("ratio", "mse", "_repeat_last"),
    ("ratio_moving", "mse_moving", "_repeat_last"),
    ("ratio_controlled", "mse_controlled", "_repeat_last"),
    ("ratio_mean_frame", "mse", "_mean_frame"),
    ("ratio_shuffled", "mse_controlled", "_shuffled_actions"),
)
# Of `columns`: head, digits, key and meaning.
COLUMNS = (
    ("step", 0, "horizon", "how many steps after the last real frame"),
    ("mse", 2, "mse", "mean squared error over all pixels, grey (RGB) levels squared, 0 to 255"),
    ("psnr", 1, "psnr", "of mse, decibels: 10 log10(255^2 / mse)"),
    ("ratio", 3, "ratio", "mse over that of repeating the last real frame; below 1 is better"),
    ("moving", 3, "ratio_moving", "that ratio over the pixels that change within a window"),
    ("controlled", 3, "ratio_controlled", "that ratio over the pixels that the player decides"),
    (
        "shuffled",
        3,
        "ratio_shuffled",
        "their error over that under other actions; 1: ignores them",
    ),
    ("mean frame", 3, "ratio_mean_frame", "mse over that of the mean training frame"),
    ("reward-1", 2, "reward-1", "average precision of points lost within so many steps"),
    ("reward+1", 2, "reward1", "average precision of points won; -: there were none"),
)
_LEAST_WIDTH = 7  # of a column
GUESSES = ("", "_repeat_last", "_mean_frame", "_shuffled_actions")  # the model and its baselines


def roll_out(
    model: RollOut, windows: Mapping[str, Any], warmup: int
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Rolls windows out, as many at a time as memory allows.

    Args:
        model: the predictor's roll-out.
        windows: frames uint8 (count, warmup + horizon, ...) and actions (count, warmup + horizon -
            1). Of the frames, slices along the first axis are taken: they may be an array, or
            anything that reads a slice when it is asked for.
        warmup: real frames that the model sees.

    Yields:
        the slice of windows, and the `RollOut`'s dict of predictions for it.
    """
    actions = windows["actions"]
    for part in _parts(model, *_size(actions, warmup)):
        yield part, _predict(model, windows["frames"][part], actions[part], warmup)


def _size(actions, warmup):
    """Windows, and predicted steps of each."""
    return actions.shape[0], actions.shape[1] - warmup + 1


def _parts(model, count, steps):
    """Slices of windows that are rolled out together."""
    height, width, _ = model.predictor.network.mean_frame.shape
    fit = max(1, _PIXELS_AT_ONCE // (steps * height * width))
    # A power of two, so that the last part often has the size of the others: each size compiles.
    batch_size = min(_WINDOWS_AT_ONCE, 1 << fit.bit_length() - 1)
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


def _predict(model, frames, actions, warmup):
    return model.predict_on_batch({"frames": frames[:, :warmup], "actions": actions})


def pixels(frames: np.ndarray, palette: np.ndarray | None) -> np.ndarray:
    """uint8 frames or palette indices -> uint8 (..., height, width, channels)."""
    return frames if frames.ndim == 5 else palette[frames]


def evaluate(
    model: RollOut,
    windows: Mapping[str, Any],
    warmup: int,
    horizons: Sequence[int],
    palette: np.ndarray | None = None,
    *,
    controlled: np.ndarray | None = None,
    starts: Sequence[tuple[int, int]] | None = None,
    thorough: bool = False,
) -> tuple[dict, np.ndarray]:
    """Errors by horizon, and how well rewards and terminations are predicted.

    Args:
        model, windows, warmup: as in `roll_out`. The windows also hold rewards and terminations, of
            the shape of the actions.
        horizons: steps to report; those beyond the windows' length are left out.
        palette: of windows with palette indices.
        controlled: bool (count, reported horizons, height, width), the controlled pixels; None
            where they are not known.
        starts: episode and first frame of each window. Intervals then take into account that
            neighbours share frames. None: no windows share frames.
        thorough: whether to add the errors under shuffled actions, those at controlled pixels,
            intervals and `RATIOS`.

    Returns:
        {"num_windows", "horizons": {"1": {...}, ...}, "reward": {...}, "termination": {...}}, see
        `evaluate.py --help` for the keys; None stands where there was nothing to measure. And the
        predicted probabilities of the reward's signs, float (count, horizon, 3).
    """
    count, steps = _size(windows["actions"], warmup)
    horizons = [horizon for horizon in horizons if horizon <= steps]
    reported = np.array(horizons) - 1  # the steps, from 0
    mean_frame = np.asarray(model.predictor.network.mean_frame)
    shuffled = _shuffled(windows["actions"], warmup) if thorough and count > 1 else None
    errors = SquaredErrors(count, len(horizons))
    rewards, terminations = [], []
    for part in _parts(model, count, steps):
        frames = windows["frames"][part]
        predictions = _predict(model, frames, windows["actions"][part], warmup)
        rewards.append(predictions["reward"])
        terminations.append(predictions["termination"])
        truth = pixels(frames[:, warmup + reported], palette).astype(np.float32)
        guesses = {
            "": predictions["frames"][:, reported],
            "_repeat_last": pixels(frames[:, warmup - 1 : warmup], palette).astype(np.float32),
            "_mean_frame": mean_frame,
        }
        if shuffled is not None:
            misled = _predict(model, frames, shuffled[part], warmup)
            guesses["_shuffled_actions"] = misled["frames"][:, reported]
        masks = {"mse": np.True_, "mse_moving": _moving(frames)[:, None]}
        if thorough and controlled is not None:
            masks["mse_controlled"] = controlled[part]
        for suffix, guess in guesses.items():
            squares = np.square(guess - truth).mean(axis=-1)
            for key, mask in masks.items():
                errors.add(key + suffix, part, squares, mask)
    rewards, terminations = np.concatenate(rewards), np.concatenate(terminations)
    blocks = _blocks(starts, count, warmup + steps) if thorough else None
    ended = windows["terminations"][:, warmup - 1 :]
    results = {
        "num_windows": count,
        "horizons": {
            str(horizon): _errors_at(errors, i, blocks) for i, horizon in enumerate(horizons)
        },
        "reward": reward_metrics(windows["rewards"][:, warmup - 1 :], rewards, horizons),
        "termination": {
            "average_precision": average_precision(ended, terminations),
            "positive_rate": float(ended.mean()),
        },
    }
    return results, rewards


def _shuffled(actions, warmup):
    """Each window's own actions during the warm-up, then those of the window before it."""
    shuffled = actions.copy()
    shuffled[:, warmup - 1 :] = np.roll(shuffled[:, warmup - 1 :], 1, axis=0)
    return shuffled


def _moving(frames):
    """The pixels that change within a window, bool (windows, height, width)."""
    changes = (frames != frames[:, :1]).any(axis=1)
    return changes if changes.ndim == 3 else changes.any(axis=-1)


def _blocks(starts, count, length):
    """Which windows share frames, int (windows,): those that begin within one window's length."""
    if starts is None:
        return np.arange(count)
    stretches = [(episode, first // length) for episode, first in starts]
    return np.unique(stretches, axis=0, return_inverse=True)[1].reshape(-1)


def _errors_at(errors, horizon, blocks):
    """All that is reported of one horizon; with intervals if `blocks` are given."""
    row = errors.means(horizon)
    intervals = {} if blocks is None else {"intervals": errors.intervals(horizon, blocks)}
    row |= intervals | {"psnr": psnr(row["mse"])}
    if blocks is not None:
        # All keys in one order, also those of which there was nothing to measure.
        row |= {key + suffix: row.get(key + suffix) for key in PIXEL_SETS for suffix in GUESSES}
        row |= {key: _ratio(row[error], row[error + guess]) for key, error, guess in RATIOS}
    return row


def _ratio(error, other):
    """One error as a share of another; None where it is unknown, or nothing to compare with."""
    return error / other if error is not None and other else None


def table(results: dict) -> str:
    """The errors by horizon as a small text table."""
    lines = ["  step        MSE   repeat last     ratio    mean frame"]
    for horizon, row in results["horizons"].items():
        model, last, mean = (row[f"mse{guess}"] for guess in GUESSES[:3])
        ratio = _number(_ratio(model, last), 3)
        lines.append(
            f"{horizon:>6} {_number(model):>10} {_number(last):>13} {ratio:>9} {_number(mean):>13}"
        )
    return "\n".join(lines)


def columns(results: dict) -> str:
    """The figures that the documents quote, by horizon, as a text table; `COLUMNS` explains it."""
    widths = [max(len(head), _LEAST_WIDTH) + 2 for head, *_ in COLUMNS]

    def line(cells):
        return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines = [line(head for head, *_ in COLUMNS)]
    within = results["reward"]["average_precision_within"]
    for horizon, row in results["horizons"].items():
        known = {"horizon": int(horizon), **row}
        known |= {f"reward{sign}": value for sign, value in within[horizon].items()}
        lines.append(line(_number(known[key], digits) for _, digits, key, _ in COLUMNS))
    return "\n".join(lines)


def columns_explained() -> str:
    """A line for each column of `columns`."""
    return "\n".join(f"{head:>14}  {meaning}" for head, *_, meaning in COLUMNS)


def _number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def reward_lines(results: dict) -> str:
    """How well each sign of the reward is predicted, a line each."""
    precision, rate = results["reward"]["average_precision"], results["reward"]["positive_rate"]
    return "\n".join(
        f"reward {int(sign):+d}: in {rate[sign]:.2%} of the steps, average precision "
        + ("undefined" if value is None else f"{value:.2f}")
        for sign, value in precision.items()
    )
