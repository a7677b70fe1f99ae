"""The errors of roll-outs on held-out windows, beside baselines that need no model.

Errors are mean squared errors in grey levels (or RGB levels) squared, 0 to 255. Step h is the h-th
frame after the warm-up. Baselines stand beside the model: `repeat_last` repeats the last real
frame, `mean_frame` shows the mean of the training frames, `recall` plays back the most alike
training moment (see `utils.watching.recall`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.watching.columns import number
from utils.watching.intervals import interval, left_out, plain_interval, totals
from utils.watching.metrics import (
    Sums,
    average_precision,
    psnr,
    reward_metrics,
    structural_similarity,
)
from utils.watching.objects import ControlledObject, search

if TYPE_CHECKING:
    from model.predictor import RollOut
    from utils.watching.recall import Memory

# Limits of what is decoded at once, because the decoder's layers take the most memory: with full
# frames 10 MB a frame. Stages validate on as many windows, so that the roll-out compiles once.
_WINDOWS_AT_ONCE = 32
_LEVELS_AT_ONCE = 32 * 30 * 84 * 84
# Longer roll-outs are made in pieces, so that many windows fit beside each other. An LSTM of 64
# million weights takes hardly longer for 16 windows than for 4.
_STEPS_AT_ONCE = 30

PIXEL_SETS = ("mse", "mse_moving", "mse_controlled")  # whose errors are reported
GUESSES = ("", "_repeat_last", "_mean_frame", "_recall", "_shuffled_actions")  # "": the model
# Errors as shares of others: key, of what error, of the model or under what guess.
RATIOS = (
    ("ratio", "mse", "_repeat_last"),
    ("ratio_moving", "mse_moving", "_repeat_last"),
    ("ratio_controlled", "mse_controlled", "_repeat_last"),
    ("ratio_mean_frame", "mse", "_mean_frame"),
    ("ratio_recall", "mse", "_recall"),
    ("ratio_moving_recall", "mse_moving", "_recall"),
    ("ratio_controlled_recall", "mse_controlled", "_recall"),
    ("ratio_shuffled", "mse_controlled", "_shuffled_actions"),
)
# What is measured of whole frames and of the object, and under which guesses.
FRAMES = tuple(f"ssim{guess}" for guess in ("", "_repeat_last", "_recall"))
OBJECTS = tuple(
    f"object_{what}{guess}"
    for what in ("present", "offset")
    for guess in ("", "_repeat_last", "_recall", "_shuffled_actions")
)


@dataclass(frozen=True)
class Beside:
    """What is known of windows beside their frames. Each may be missing.

    Attributes:
        controlled: bool (count, reported horizons, height, width), the controlled pixels.
        objects: of each window, at each reported horizon, where the truth shows the object.
        memory: what the training play says of the windows.
        stretch: int (count,), which stretch of play each window is of, see
            `utils.watching.intervals.stretches`. None: each window is one of its own.
    """

    controlled: np.ndarray | None = None
    objects: Sequence[Sequence[ControlledObject | None]] | None = None
    memory: Memory | None = None
    stretch: np.ndarray | None = None


class Forecast(Protocol):
    """Where predictions come from.

    Attributes:
        mean_frame: float (height, width, channels); None if it is not known.
    """

    mean_frame: np.ndarray | None

    def predict(self, part: slice, frames: np.ndarray, shuffled: bool) -> dict | None:
        """What is predicted of some windows.

        Args:
            part: which ones.
            frames: theirs, real.
            shuffled: whether under other windows' actions.

        Returns:
            dict of frames, float (windows, reported horizons, height, width, channels), and of
            reward and termination as `RollOut` returns them, or None each. None if there are no
            predictions under other windows' actions.
        """


def _size(actions, warmup):
    """Windows, and predicted steps of each."""
    return actions.shape[0], actions.shape[1] - warmup + 1


def piece_length(steps: int) -> int:
    """Steps of the equal pieces in which so many are rolled out."""
    return math.ceil(steps / math.ceil(steps / _STEPS_AT_ONCE))


def _parts(shape, count, steps):
    """Slices of windows that are rolled out together."""
    fit = max(1, _LEVELS_AT_ONCE // (steps * math.prod(shape)))
    # A power of two, so that the last part often has the size of the others: each size compiles.
    batch_size = min(_WINDOWS_AT_ONCE, 1 << fit.bit_length() - 1)
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


class Rolled:
    """A `Forecast` by a model.

    Args:
        model: the predictor's roll-out.
        actions, warmup, horizons: of the windows, as `evaluate` takes them.
        keep: of how many of the first windows all predicted frames are kept.

    Attributes:
        kept: their frames, float (windows, steps, height, width, channels), once they are
            predicted. Of longer windows than are rolled out at once none are kept.
    """

    def __init__(self, model: RollOut, actions, warmup: int, horizons: Sequence[int], keep=0):
        self._model, self._warmup, self._keep = model, warmup, keep
        self._steps = _size(actions, warmup)[1]
        self._reported = np.array([step for step in horizons if step <= self._steps]) - 1
        self.kept: np.ndarray | None = None
        self._actions = {False: actions, True: shuffled_actions(actions, warmup)}
        self.mean_frame = np.asarray(model.predictor.network.mean_frame)

    def predict(self, part, frames, shuffled):
        if shuffled and len(self._actions[True]) == 1:
            return None
        actions, frames = self._actions[shuffled][part], frames[:, : self._warmup]
        if piece_length(self._steps) < self._steps:
            return self._in_turn(frames, actions)
        predictions = self._model.predict_on_batch({"frames": frames, "actions": actions})
        if part.start < self._keep and not shuffled:
            more = predictions["frames"][: self._keep - part.start].copy()
            self.kept = more if self.kept is None else np.concatenate([self.kept, more])
        return {**predictions, "frames": predictions["frames"][:, self._reported]}

    def _in_turn(self, frames, actions):
        """Rolls out piece by piece and keeps the frames that are reported."""
        pieces, done = [], 0
        for piece in self._model.in_pieces(frames, actions, piece_length(self._steps)):
            steps, length = self._reported - done, len(piece["termination"][0])
            steps, done = steps[(steps >= 0) & (steps < length)], done + length
            pieces.append({**piece, "frames": piece["frames"][:, steps]})
        return {key: np.concatenate([one[key] for one in pieces], axis=1) for key in pieces[0]}


def pixels(frames: np.ndarray, palette: np.ndarray | None) -> np.ndarray:
    """uint8 frames or palette indices -> uint8 (..., height, width, channels)."""
    return frames if frames.ndim == 5 else palette[frames]


def evaluate(
    model: RollOut | Forecast,
    windows: Mapping[str, Any],
    warmup: int,
    horizons: Sequence[int],
    palette: np.ndarray | None = None,
    *,
    beside: Beside | None = None,
) -> tuple[dict, np.ndarray | None]:
    """Errors by horizon, and how well rewards and terminations are predicted.

    Args:
        model: the predictor's roll-out, or predictions, a `Forecast`.
        windows: frames uint8 (count, warmup + horizon, ...); actions, rewards and terminations
            (count, warmup + horizon - 1). Of the frames, slices along the first axis are taken:
            they may be an array, or anything that reads a slice when it is asked for.
        warmup: real frames that the model sees.
        horizons: steps to report; those beyond the windows' length are left out.
        palette: of windows with palette indices.
        beside: what else is known of the windows. If it is given, errors under shuffled actions, at
            controlled pixels and of recall, SSIM, the object, intervals and `RATIOS` are added.

    Returns:
        {"num_windows", "horizons": {"1": {...}, ...}, "reward": {...}, "termination": {...}}, see
        docs/tools.md for the keys; None stands where there was nothing to measure. And the
        predicted probabilities of the reward's signs, float (count, horizon, 3); None if there are
        none.
    """
    count, steps = _size(windows["actions"], warmup)
    horizons = [horizon for horizon in horizons if horizon <= steps]
    reported = np.array(horizons) - 1  # the steps, from 0
    forecast = model
    if hasattr(model, "predict_on_batch"):
        forecast = Rolled(model, windows["actions"], warmup, horizons)
    sums, heads = Sums(count, len(horizons)), {"reward": [], "termination": []}
    shape = pixels(windows["frames"][:1][:, :1], palette).shape[2:]
    for part in _parts(shape, count, piece_length(steps)):
        frames = windows["frames"][part]
        truth = pixels(frames[:, warmup + reported], palette).astype(np.float32)
        predictions = forecast.predict(part, frames, shuffled=False)
        for head, values in heads.items():
            values.append(predictions[head])
        guesses = {
            "": predictions["frames"],
            "_repeat_last": pixels(frames[:, warmup - 1 : warmup], palette).astype(np.float32),
        }
        if forecast.mean_frame is not None:
            guesses["_mean_frame"] = forecast.mean_frame
        masks = {"mse": np.True_, "mse_moving": moving(frames)[:, None]}
        if beside:
            if misled := forecast.predict(part, frames, shuffled=True):
                guesses["_shuffled_actions"] = misled["frames"]
            if beside.memory:
                guesses["_recall"] = beside.memory.predict(part).astype(np.float32)
            if beside.controlled is not None:
                masks["mse_controlled"] = beside.controlled[part]
        for suffix, guess in guesses.items():
            # Of the training play, only some may go on for so long.
            there = beside.memory.known()[:, None, None] if suffix == "_recall" else np.True_
            squares = np.square(guess - truth).mean(axis=-1)
            for key, mask in masks.items():
                sums.add(key + suffix, part, squares, mask & there)
            if beside:
                guess = np.broadcast_to(guess, truth.shape)
                _add_similarity(sums, suffix, part, guess, truth, there)
                _add_object(sums, suffix, part, guess, truth, there, beside.objects)
    rewards, terminations = (
        None if values[0] is None else np.concatenate(values) for values in heads.values()
    )
    ended = windows["terminations"][:, warmup - 1 :]
    results = {
        "num_windows": count,
        "horizons": {
            str(horizon): _row(sums, i, count, beside) for i, horizon in enumerate(horizons)
        },
        "reward": None
        if rewards is None
        else reward_metrics(windows["rewards"][:, warmup - 1 :], rewards, horizons),
        "termination": None
        if terminations is None
        else {
            "average_precision": average_precision(ended, terminations),
            "positive_rate": float(ended.mean()),
        },
    }
    return results, rewards


def shuffled_actions(actions: np.ndarray, warmup: int) -> np.ndarray:
    """Each window's own actions during the warm-up, then those of the window before it."""
    shuffled = actions.copy()
    shuffled[:, warmup - 1 :] = np.roll(shuffled[:, warmup - 1 :], 1, axis=0)
    return shuffled


def moving(frames: np.ndarray) -> np.ndarray:
    """The pixels that change within a window, bool (windows, height, width)."""
    changes = (frames != frames[:, :1]).any(axis=1)
    return changes if changes.ndim == 3 else changes.any(axis=-1)


def _add_similarity(sums, suffix, part, guess, truth, there):
    if f"ssim{suffix}" in FRAMES:
        similarity = structural_similarity(guess, truth)
        if similarity is not None:
            sums.add(f"ssim{suffix}", part, similarity, there.reshape(-1))


def _add_object(sums, suffix, part, guess, truth, there, objects):
    """Whether and where the guess shows the object, of windows whose truth shows it."""
    if objects is None or f"object_present{suffix}" not in OBJECTS:
        return
    found = np.array([[each is not None for each in row] for row in objects[part]])
    found &= there.reshape(-1)
    offsets = np.full(found.shape, np.nan)
    for window, step in zip(*np.nonzero(found), strict=True):
        where = objects[part][window][step]
        offset = search(guess[window, step], truth[window, step], where)
        offsets[window, step] = np.nan if offset is None else offset
    present = ~np.isnan(offsets)
    sums.add(f"object_present{suffix}", part, present.astype(float), found)
    sums.add(f"object_offset{suffix}", part, offsets, present)


def _row(sums, index, count, beside):
    """All that is reported of one horizon, by its number among those that are reported."""
    if beside is None:
        row = {key: sums.mean(key, index) for key in sums.measured()}
        return row | {"psnr": psnr(row["mse"])}
    # All keys in one order, also those of which there was nothing to measure.
    errors = [key + suffix for key in PIXEL_SETS for suffix in GUESSES]
    row = {key: sums.mean(key, index) for key in [*errors, *FRAMES, *OBJECTS]}
    row["object_windows"] = int(sums.of("object_present", index)[1].sum())
    row["psnr"] = psnr(row["mse"])
    row["seen"] = float(beside.memory.seen_targets[index]) if beside.memory else None
    row |= {key: _ratio(row[error], row[error + guess]) for key, error, guess in RATIOS}
    stretch = np.arange(count) if beside.stretch is None else beside.stretch
    means = {
        key: left_out(*(totals(values, stretch) for values in sums.of(key, index)))
        for key in sums.measured()
    }
    nothing = np.full(1, np.nan)
    intervals = {key: interval(means.get(key, nothing)) for key in errors}
    for key in [*FRAMES, *OBJECTS]:
        # Similarities and shares end at 1, distances nowhere.
        most = np.inf if key.startswith("object_offset") else 1
        least = -1 if key in FRAMES else 0
        intervals[key] = plain_interval(means.get(key, nothing), least, most)
    for key, error, guess in RATIOS:
        if error in means and error + guess in means:
            intervals[key] = interval(means[error], means[error + guess])
    row["intervals"] = {key: ends for key, ends in intervals.items() if ends is not None}
    return row


def _ratio(error, other):
    """One error as a share of another; None where it is unknown, or nothing to compare with."""
    return error / other if error is not None and other else None


def table(results: dict) -> str:
    """The errors by horizon as a small text table."""
    lines = ["  step        MSE   repeat last     ratio    mean frame"]
    for horizon, row in results["horizons"].items():
        model, last, mean = (row[f"mse{guess}"] for guess in GUESSES[:3])
        ratio = number(_ratio(model, last), 3)
        lines.append(
            f"{horizon:>6} {number(model):>10} {number(last):>13} {ratio:>9} {number(mean):>13}"
        )
    return "\n".join(lines)


def reward_lines(results: dict) -> str:
    """How well each sign of the reward is predicted, a line each."""
    precision, rate = results["reward"]["average_precision"], results["reward"]["positive_rate"]
    return "\n".join(
        f"reward {int(sign):+d}: in {rate[sign]:.2%} of the steps, average precision "
        + ("undefined" if value is None else f"{value:.2f}")
        for sign, value in precision.items()
    )
