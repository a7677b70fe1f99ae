"""Measures trained stages on held-out play: what `evaluate.py` does.

Keras is imported after the inputs are checked, because that takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model.presets import PRESETS
from systems.controlled_futures import controlled_pixels
from systems.dataset import Dataset, find_dataset
from systems.errors import InputError, say
from systems.files import write_json
from systems.provenance import made
from systems.windows import Windows, WindowSpec, sample
from utils.checkpoint import Checkpoint
from utils.config import WEIGHTS
from utils.start import import_keras
from utils.watching import evaluation
from utils.watching.columns import columns, columns_explained
from utils.watching.intervals import ENOUGH_FRAMES, MANY_EPISODES, is_small, stretches
from utils.watching.objects import find_object
from utils.watching.plot import draw_errors
from utils.watching.predictions import Predictions, write_windows
from utils.watching.recall import in_levels, remember

HORIZONS = (1, 3, 5, 10, 30, 50, 100)  # unless others are asked for
_USUAL_FRAMES = 200


class StoredFrames:
    """The frames of a sample of windows. A slice of windows is read when it is asked for.

    Args:
        windows: whose batch 0 is the sample.
    """

    def __init__(self, windows: Windows):
        self._windows, self._numbers = windows, windows.numbers(0)

    def __getitem__(self, part: slice) -> np.ndarray:
        """uint8 (windows, length, height, width[, channels])."""
        return self._windows.read(self._numbers[part])["frames"]


def stored_windows(windows: Windows) -> dict:
    """A sample of windows as `evaluation.evaluate` takes it, with the frames left on the disk.

    Args:
        windows: whose batch 0 is the sample.

    Returns:
        dict of frames, `StoredFrames`; actions int32, rewards float32 and terminations bool, each
        (windows, length - 1).
    """
    dataset, steps = windows.dataset, windows.spec.length - 1
    positions = [windows.position(number) for number in windows.numbers(0)]

    def of_windows(episodes):
        return np.stack([episodes[episode][first : first + steps] for episode, first in positions])

    return {
        "frames": StoredFrames(windows),
        "actions": of_windows(dataset.actions),
        "rewards": of_windows(dataset.rewards),
        "terminations": of_windows(dataset.terminations),
    }


@dataclass(frozen=True)
class _Play:
    """The windows of one data set that checkpoints of one kind are measured on."""

    dataset: Dataset
    windows: Windows
    starts: list[tuple[int, int]]
    warmup: int
    horizons: list[int]

    @property
    def shape(self):
        return self.windows.shape

    @property
    def key(self):
        """What everything depends on that is found once for several checkpoints."""
        image = self.dataset.observations.path
        return self.dataset.directory, image, self.warmup, tuple(self.horizons), self.shape


class HeldOutPlay:
    """What checkpoints are measured on.

    Args:
        dataset: directory of a data set; None: each checkpoint's own test set.
        horizons: steps to report, ascending; None: `HORIZONS`, as far as the longest episode goes.
        num_windows: how many windows are measured, as far as the data goes.
        seed: chooses the windows.
    """

    def __init__(
        self, dataset: Path | None, horizons: Sequence[int] | None, num_windows: int, seed: int
    ):
        self.dataset, self.horizons = dataset, horizons
        self.num_windows, self.seed = num_windows, seed
        self._found = {}  # for the windows of earlier checkpoints

    def measure(self, checkpoint: Checkpoint, predictions: Path | None = None) -> dict:
        """Measures one checkpoint, or somebody's predictions in its place.

        Args:
            checkpoint: the model, and what data sets there are.
            predictions: file of `utils.watching.predictions.Predictions`; None: the model's own.

        Returns:
            dict of checkpoint, predictions, game, dataset, training, notes, overlap, how this was
            made, and the results of `evaluation.evaluate`.

        Raises:
            InputError: no episode reaches a horizon, or data, weights or predictions cannot be
                read.
        """
        play, notes = self._play(checkpoint), []
        training = self._training_set(checkpoint, notes)
        _compare(checkpoint.config, play.dataset, notes)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        forecast = None
        if predictions:
            mean = training and training.frame_statistics(play.shape)[0]
            forecast = Predictions(predictions, play.starts, play.horizons, play.shape, mean)
        controlled, objects = self._futures(play)
        lengths = play.dataset.lengths
        beside = evaluation.Beside(
            controlled=controlled,
            objects=objects,
            memory=training and self._memory(play, training),
            stretch=stretches(play.starts, lengths, play.windows.spec.length),
        )
        results = self._evaluate(checkpoint, forecast, play, beside)
        return {
            "checkpoint": str(checkpoint.directory),
            "predictions": predictions and str(predictions),
            "game": checkpoint.config.game,
            "dataset": str(play.dataset.directory),
            "training": training and str(training.directory),
            "notes": notes,
            "overlap": beside.memory and beside.memory.seen,
            "made": made(windows=self.seed, training=checkpoint.config.training.seed),
            **results,
        }

    def export(self, checkpoint: Checkpoint, path: Path) -> None:
        """Writes the windows that a checkpoint is measured on; see `utils.watching.predictions`.

        Raises:
            InputError: no episode reaches a horizon, or the data cannot be read, or the file not be
                written.
        """
        play = self._play(checkpoint)
        write_windows(
            path,
            stored_windows(play.windows),
            play.warmup,
            play.horizons,
            play.dataset.palette(),
            play.starts,
            self._futures(play)[0],
        )
        say(f"{len(play.starts)} windows of {play.dataset.directory} are in {path}")

    def _evaluate(self, checkpoint, forecast, play, beside):
        arguments = stored_windows(play.windows), play.warmup, play.horizons, play.dataset.palette()
        if forecast:
            return evaluation.evaluate(forecast, *arguments, beside=beside)[0]
        import_keras()
        import keras

        from model.predictor import RollOut

        model = RollOut(checkpoint.predictor())
        results, _ = evaluation.evaluate(model, *arguments, beside=beside)
        keras.backend.clear_session()  # the next checkpoint's graphs take this one's place
        return results

    def _play(self, checkpoint):
        dataset, warmup = checkpoint.test_data(self.dataset), checkpoint.config.warmup
        shape = PRESETS[checkpoint.config.model].frame_shape
        horizons = self._reached(dataset, warmup)
        # Windows overlap, so that each frame is read many times.
        dataset.keep_fitted(shape)
        spec = WindowSpec(warmup, horizons[-1])
        windows = sample(dataset, shape, spec, self.num_windows, self.seed)
        starts = [windows.position(number) for number in windows.numbers(0)]
        return _Play(dataset, windows, starts, warmup, horizons)

    def _reached(self, dataset: Dataset, warmup: int) -> list[int]:
        """The horizons to report: those that were asked for, or those that there are."""
        longest = int(dataset.lengths.max()) + 1 - warmup
        asked = HORIZONS if self.horizons is None else self.horizons
        reached = [horizon for horizon in asked if horizon <= longest]
        if not reached or (self.horizons is not None and len(reached) < len(asked)):
            raise InputError(
                f"expected --horizon of at most {longest}, the frames after the warm-up in the "
                f"longest episode of {dataset.directory}. Received {list(asked)}. Name smaller "
                "ones, or record longer episodes."
            )
        return reached

    def _training_set(self, checkpoint, notes):
        """The training set, or a note that there is none any more, or why it cannot be used."""
        config = checkpoint.config
        directory, actions = config.data["training"], len(config.action_meanings)
        try:
            return find_dataset(directory, config.game, actions, config.observation_key)
        except InputError as error:
            left_out = "recall and the overlap with it are left out"
            if directory and Path(directory).exists():
                notes.append(f"the training set cannot be used, so {left_out}: {error}")
            else:
                name = directory or "which has no name"
                notes.append(f"the training set, {name}, is not there. So {left_out}.")
            return None

    def _memory(self, play, training):
        key = "memory", training.directory, *play.key
        if key not in self._found:
            self._found[key] = remember(
                training, play.dataset, play.starts, play.warmup, play.horizons, play.shape
            )
        return self._found[key]

    def _futures(self, play):
        """Controlled pixels and objects, found once for all checkpoints with the same windows."""
        if play.key not in self._found:
            dataset, shape, palette = play.dataset, play.shape, play.dataset.palette()
            usual, objects = _usual_frame(dataset, shape), [None] * len(play.starts)

            def find(window, truth, futures):
                truth, futures = (
                    in_levels(truth, shape, palette),
                    in_levels(futures, shape, palette),
                )
                objects[window] = [
                    find_object(truth[i], futures[:, i], usual) for i in range(len(truth))
                ]

            controlled = controlled_pixels(
                dataset, play.starts, play.warmup, play.horizons, shape, also=find
            )
            self._found[play.key] = controlled, None if controlled is None else objects
        return self._found[play.key]


def _usual_frame(dataset, shape):
    """The median of each pixel over a sample of frames, float (height, width, channels)."""
    palette, frames = dataset.palette(), []
    ends = np.cumsum(dataset.lengths + 1)  # an episode has a frame more than steps
    # Evenly over all play, because all first frames may be alike.
    numbers = np.unique(np.linspace(0, ends[-1] - 1, _USUAL_FRAMES).astype(int))
    of = np.searchsorted(ends, numbers, side="right")
    for episode in np.unique(of):
        count = int(dataset.lengths[episode]) + 1
        wanted = numbers[of == episode] - (ends[episode] - count)
        read = dataset.read(int(episode), 0, count, shape, wanted)["frames"]
        frames.append(in_levels(read, shape, palette))
    return np.median(np.concatenate(frames), axis=0)


def _compare(config, dataset, notes):
    """Notes where a data set is small, or played otherwise than the model has learned."""
    if is_small(dataset.lengths):
        notes.append(
            f"the test set is small, {dataset.lengths.sum():,} frames. Intervals hold from "
            f"{ENOUGH_FRAMES:,} frames or {MANY_EPISODES} episodes on."
        )
    known, theirs = (
        {
            **asdict(one.emulator),
            "frame_skip": one.frame_skip,
            "pooled_frames": one.pooled_frames,
        }
        for one in (config, dataset)
    )
    for name, value in theirs.items():
        if value != known[name]:
            notes.append(
                f"the test set has {name} {value}, and the model was trained with {known[name]}"
            )


def compare_checkpoints(
    directories: Sequence[Path],
    play: HeldOutPlay,
    output: Path | None = None,
    plot: Path | None = None,
    predictions: Path | None = None,
) -> None:
    """Measures checkpoints and prints a table of each.

    Args:
        directories: of the stages.
        play: what they are measured on.
        output: JSON file of all figures: one checkpoint's results, or a list of them.
        plot: picture of the errors over the horizon, see `utils.watching.plot.draw_errors`.
        predictions: file of somebody's predictions, to measure in place of one checkpoint's.

    Raises:
        InputError: what was given cannot be used.
    """
    # All names are checked before anything is measured.
    if predictions and len(directories) > 1:
        raise InputError(
            f"expected one checkpoint beside --predictions, received {len(directories)}. Its data "
            "sets, frame shape and warm-up are what the predictions are scored by."
        )
    checkpoints = [Checkpoint(directory) for directory in directories]
    if not predictions:
        _require_weights(directories)
    if plot:
        _require_same_play(checkpoints, play.dataset)
    results = []
    for checkpoint in checkpoints:
        results.append(play.measure(checkpoint, predictions))
        if output:
            write_json(output, results[0] if len(checkpoints) == 1 else results)
        _print(results[-1])
    say(columns_explained())
    if plot:
        draw_errors(results, plot)


def export_windows(directories: Sequence[Path], play: HeldOutPlay, path: Path) -> None:
    """Writes the windows that a checkpoint is measured on, for any other model.

    Args:
        directories: of the stages; there has to be one.
        play: what windows they are.
        path: of the file, which ends in .npz.

    Raises:
        InputError: what was given cannot be used.
    """
    if len(directories) > 1:
        raise InputError(
            f"expected one checkpoint beside --export_windows, received {len(directories)}. Its "
            "data, frame shape and warm-up are those of the windows."
        )
    play.export(Checkpoint(directories[0]), path)


def _print(results):
    windows = f"{results['num_windows']} windows"
    say(f"{results['predictions'] or results['checkpoint']} on {results['dataset']}, {windows}:")
    say(columns(results))
    if results["overlap"] is not None:
        say(f"of the test frames, {results['overlap']:.1%} stand in the training set bit for bit")
    if results["reward"]:
        say(evaluation.reward_lines(results))


def _require_weights(directories):
    """Raises InputError where a stage was stopped, or is trained, before its first epoch ends."""
    for directory in directories:
        if not (path := Path(directory) / WEIGHTS).exists():
            raise InputError(
                f"expected a trained stage's weights in {path}, where there are none. They are "
                "there from its first epoch on: train it, or name another stage."
            )


def _entry(config):
    """Which image of the data set, where it has several."""
    return f", {config.observation_key}" if config.observation_key else ""


def _require_same_play(checkpoints, dataset):
    """Raises InputError unless one plot can show all checkpoints: it shows the baselines once."""
    measured = {
        (
            checkpoint.config.game,
            f"{dataset or checkpoint.config.data['test']}{_entry(checkpoint.config)}",
            PRESETS[checkpoint.config.model].frame_shape,
            checkpoint.config.warmup,
        )
        for checkpoint in checkpoints
    }
    if len(measured) > 1:
        raise InputError(
            "expected checkpoints of one game, frame shape and test set for one --plot, received "
            + "; ".join(sorted(f"{game}, {shape}, {path}" for game, path, shape, _ in measured))
            + ". Name one set for all by --dataset, or draw them one by one."
        )
