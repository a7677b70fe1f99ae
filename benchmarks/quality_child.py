"""What `benchmarks.quality` runs in processes of their own: trainings, predictions and scores.

A training's clock starts with its process and runs until its weights are there. Imports, compiling,
reading and validation count for everybody. Data sets and controlled pixels are made before.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import STARTED

SEED = 0  # of the initial weights and the order of windows
SCORED_AT_ONCE = 16  # windows


def stage(name: str, flags: list[str]) -> dict:
    """Trains a stage by its own script's `main`.

    Args:
        name: of the stage.
        flags: of its script.

    Returns:
        dict of seconds, since this process began; and epochs: of each one of pretraining and
        training in turn, [steps, median seconds of one].
    """
    from benchmarks.train import step_ends
    from utils.training import stage as stages

    script = importlib.import_module(stages.script_module(name))
    with step_ends() as ends:
        stages.main(script.STAGE, flags)
    return {
        "seconds": time.perf_counter() - STARTED,
        # Of a single step nothing is known but that it ended.
        "epochs": [
            [len(epoch), float(np.median(np.diff(epoch))) if len(epoch) > 1 else 0.0]
            for epoch in ends
        ],
    }


def oh(training: str, model: str, seconds: float, exported: str, predictions: str) -> dict:
    """Trains the network of Oh et al. and predicts.

    Args:
        training: directory of the training set.
        model: preset of encoder and decoder.
        seconds: since this process began, after which training ends.
        exported: file of `evaluate.py --export_windows`.
        predictions: file to write for `evaluate.py --predictions`.

    Returns:
        dict of seconds, steps, parameters and multiplications (of a step), and the last losses.
    """
    import keras

    from benchmarks import peer_oh
    from model.presets import PRESETS
    from systems.windows import Windows, WindowSpec
    from utils.checkpoint import fastest_precision

    keras.utils.set_random_seed(SEED)
    preset = PRESETS[model]
    dataset, mean = _dataset(training, preset.frame_shape)
    num_actions, precision = len(dataset.action_meanings), fastest_precision(training=True)
    predictor = peer_oh.OhPredictor(preset, num_actions, mean, precision)

    def batches(horizon):
        spec = WindowSpec(peer_oh.WARMUP, horizon)
        return _read(Windows(dataset, preset.frame_shape, spec, peer_oh.BATCH_SIZE, SEED))

    losses = peer_oh.train(predictor, batches, STARTED, STARTED + seconds)
    trained = time.perf_counter() - STARTED

    def predict(frames, actions, steps):
        predicted = predictor.predict_on_batch({"frames": frames, "actions": actions})
        return np.asarray(predictor.denormalise(predicted[:, steps]))

    _write_predictions(exported, predictions, predict)
    return {
        "seconds": trained,
        "steps": len(losses),
        "parameters": predictor.count_params(),
        "multiplications": peer_oh.multiplications(model, num_actions),
        "losses": losses[-10:],
    }


def rssm(
    training: str,
    model: str,
    seconds: float,
    exported: str,
    predictions: str,
    sizes: dict[str, int] | None = None,
) -> dict:
    """Trains the recurrent state-space model and predicts; see `oh`.

    Args:
        sizes: of the layers, see `peer_rssm.Sizes`.
    """
    import torch

    from benchmarks import peer_rssm
    from model.presets import PRESETS
    from systems.windows import Windows, WindowSpec
    from utils.checkpoint import fast_bfloat16

    torch.manual_seed(SEED)
    shape = PRESETS[model].frame_shape
    dataset, mean = _dataset(training, shape)
    num_actions, sizes = len(dataset.action_meanings), peer_rssm.Sizes(**(sizes or {}))
    network = peer_rssm.RecurrentStateSpaceModel(shape, num_actions, mean, sizes)
    spec = WindowSpec(1, peer_rssm.LENGTH - 1)
    batches = _read(Windows(dataset, shape, spec, peer_rssm.BATCH_SIZE, SEED))
    losses = peer_rssm.train(network, batches, STARTED + seconds, fast_bfloat16())
    trained = time.perf_counter() - STARTED

    @torch.inference_mode()
    def predict(frames, actions, steps):
        frames, actions = torch.as_tensor(frames), torch.as_tensor(actions)
        return network.roll_out(frames, actions, steps).numpy()

    _write_predictions(exported, predictions, predict)
    return {
        "seconds": trained,
        "steps": len(losses),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiplications": peer_rssm.multiplications(shape, num_actions, sizes),
        "losses": losses[-10:],
    }


def export(checkpoint: str, horizons: list[int], num_windows: int, path: str) -> dict:
    """Writes the windows, as `evaluate.py --export_windows` does."""
    from utils.checkpoint import Checkpoint
    from utils.watching.measure import HeldOutPlay

    play = HeldOutPlay(None, horizons, num_windows, SEED)
    play.export(Checkpoint(checkpoint), Path(path))
    return {}


def score(
    checkpoint: str, horizons: list[int], num_windows: int, predictions: str | None = None
) -> dict:
    """Scores a checkpoint, or predictions in its place, as `evaluate.py` does."""
    from utils.checkpoint import Checkpoint
    from utils.watching.measure import HeldOutPlay

    play = HeldOutPlay(None, horizons, num_windows, SEED)
    return play.measure(Checkpoint(checkpoint), predictions and Path(predictions))


def _dataset(directory, shape):
    """The training set, whose frames are kept as they are fitted, and its mean frame."""
    from systems.dataset import Dataset

    dataset = Dataset(directory)
    dataset.keep_fitted(shape)
    return dataset, dataset.frame_statistics(shape)[0]


def _read(windows) -> Iterator[dict[str, np.ndarray]]:
    """All batches, of frames and actions alone."""
    number = 0
    while True:
        batch = windows.batch(number)
        palette = windows.dataset.palette()
        frames = batch["frames"]
        yield {
            "frames": frames if frames.ndim == 5 else palette[frames],
            "actions": batch["actions"],
        }
        number += 1


def _write_predictions(exported, path, predict):
    """Predicts exported windows under both kinds of actions."""
    with np.load(exported) as arrays:
        windows = {name: arrays[name] for name in arrays.files}
    frames, steps = windows["frames"], windows["horizons"] - 1

    def under(actions):
        parts = [
            predict(frames[start:end], actions[start:end], steps)
            for start in range(0, len(frames), SCORED_AT_ONCE)
            for end in [start + SCORED_AT_ONCE]
        ]
        return np.concatenate(parts)

    np.savez(
        path,
        frames=under(windows["actions"]),
        shuffled_frames=under(windows["shuffled_actions"]),
        starts=windows["starts"],
        horizons=windows["horizons"],
    )
