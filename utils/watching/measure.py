"""Measures trained stages on held-out play: what `evaluate.py` does.

Keras is imported after the inputs are checked, because that takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.presets import PRESETS
from systems.controlled_futures import controlled_pixels
from systems.dataset import Dataset
from systems.errors import InputError, say
from systems.files import write_json
from systems.provenance import made
from systems.windows import Windows, WindowSpec, sample
from utils.checkpoint import Checkpoint
from utils.start import import_keras
from utils.watching import evaluation
from utils.watching.plot import check_plot, draw_errors


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


class HeldOutPlay:
    """What checkpoints are measured on.

    Args:
        dataset: directory of a data set; None: each checkpoint's own test set.
        horizons: steps to report, ascending. Those beyond the longest episode are left out.
        num_windows: how many windows are measured, as far as the data goes.
        seed: chooses the windows.
    """

    def __init__(self, dataset: Path | None, horizons: Sequence[int], num_windows: int, seed: int):
        self.dataset, self.horizons = dataset, horizons
        self.num_windows, self.seed = num_windows, seed
        self._controlled = {}  # what was found for the windows of earlier checkpoints

    def measure(self, checkpoint: Checkpoint) -> dict:
        """Measures one checkpoint.

        Returns:
            dict of checkpoint, game, dataset, how this was made, and the results of
            `evaluation.evaluate`.

        Raises:
            InputError: no episode reaches a horizon, or data or weights cannot be read.
        """
        dataset = checkpoint.test_data(self.dataset)
        horizons = self._reached(dataset, checkpoint.config.warmup)
        return {
            "checkpoint": str(checkpoint.directory),
            "game": checkpoint.config.game,
            "dataset": str(dataset.directory),
            "made": made(windows=self.seed, training=checkpoint.config.training.seed),
            **self._evaluate(checkpoint, dataset, horizons),
        }

    def _evaluate(self, checkpoint, dataset, horizons):
        import_keras()
        import keras

        from model.predictor import RollOut

        predictor, warmup = checkpoint.predictor(), checkpoint.config.warmup
        spec = WindowSpec(warmup, horizons[-1])
        windows = sample(dataset, predictor.preset.frame_shape, spec, self.num_windows, self.seed)
        starts = [windows.position(number) for number in windows.numbers(0)]
        results, _ = evaluation.evaluate(
            RollOut(predictor),
            stored_windows(windows),
            warmup,
            horizons,
            dataset.palette(),
            controlled=self._controlled_pixels(windows, starts, horizons),
            starts=starts,
            thorough=True,
        )
        keras.backend.clear_session()  # the next checkpoint's graphs take this one's place
        return results

    def _reached(self, dataset: Dataset, warmup: int) -> list[int]:
        """The horizons that the longest episode reaches."""
        longest = int(dataset.lengths.max()) + 1 - warmup
        horizons = [horizon for horizon in self.horizons if horizon <= longest]
        if not horizons:
            raise InputError(
                f"expected --horizon of at most {longest}, the frames after the warm-up in the "
                f"longest episode of {dataset.directory}. Received {list(self.horizons)}."
            )
        return horizons

    def _controlled_pixels(self, windows, starts, horizons):
        """Found once for all checkpoints that are measured on the same windows."""
        dataset, warmup, shape = windows.dataset, windows.spec.warmup, windows.shape
        key = dataset.directory, warmup, tuple(horizons), shape
        if key not in self._controlled:
            self._controlled[key] = controlled_pixels(dataset, starts, warmup, horizons, shape)
        return self._controlled[key]


def compare_checkpoints(
    directories: Sequence[Path],
    play: HeldOutPlay,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measures checkpoints and prints a table of each.

    Args:
        directories: of the stages.
        play: what they are measured on.
        output: JSON file of all figures: one checkpoint's results, or a list of them.
        plot: picture of the errors over the horizon.

    Raises:
        InputError: what was given cannot be used.
    """
    if plot:
        check_plot(plot)
    # All names are checked before anything is measured.
    checkpoints = [Checkpoint(directory) for directory in directories]
    if plot:
        _require_same_play(checkpoints, play.dataset)
    results = []
    for checkpoint in checkpoints:
        results.append(play.measure(checkpoint))
        if output:
            write_json(output, results[0] if len(checkpoints) == 1 else results)
        _print(results[-1])
    say(evaluation.columns_explained())
    if plot:
        draw_errors(results, plot)


def _print(results):
    windows = f"{results['num_windows']} windows"
    say(f"{results['checkpoint']} on {results['dataset']}, {windows}:")
    say(evaluation.columns(results))
    say(evaluation.reward_lines(results))


def _require_same_play(checkpoints, dataset):
    """Raises InputError unless one plot can show all checkpoints: it shows the baselines once."""
    measured = {
        (
            checkpoint.config.game,
            str(dataset or checkpoint.config.data["test"]),
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
