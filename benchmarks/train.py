"""Training: the real stage script, beside PyTorch and beside the way of 2016."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from benchmarks import STARTED

if TYPE_CHECKING:
    from benchmarks.peer_torch import TorchNetwork
    from model.networks import Network
    from model.predictor import FramePredictor
    from systems.windows import Windows

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
SCRIPTS = {"compression": "compress_seq_5_train", "paper": "paper_seq_5_train"}
WARMUP, HORIZON = 10, 5  # frames of a window, in all that is compared
UNCOUNTED = 3  # first steps, the compilation among them


def ours(model: str, variant: str, batch_size: int, data: str, steps: int) -> dict:
    """A stage with its data loading, but with no stage before it.

    Returns:
        dict of seconds, the median from one step's end to the next; first_step, seconds from the
        process' start to the end of the first step; and peak_memory of the process, bytes.
    """
    import keras

    from utils.training import stage as stages

    stage = importlib.import_module(SCRIPTS[variant]).STAGE
    # As the peers: five predictions, five steps, nothing restored.
    stage = dataclasses.replace(stage, restore=None, horizon=HORIZON, decoded=HORIZON)
    with tempfile.TemporaryDirectory() as directory:
        flags = stage_flags(
            model,
            batch_size,
            data,
            directory,
            max_steps=steps + UNCOUNTED,
            # Nothing compiles any more in the second epoch.
            steps_per_epoch=(steps + UNCOUNTED + 1) // 2,
            encoder_rate=1,  # all is trained, as it is by the peers
            pretraining_steps=0,
        )
        with step_ends() as ends:
            stages.main(stage, flags)
        with open(next(Path(directory).rglob("history.csv"))) as file:
            history = list(csv.DictReader(file))
    seconds = statistics.median([step for epoch in ends for step in np.diff(epoch)][UNCOUNTED:])
    if keras.backend.backend() == "jax":
        # JAX's steps end when they are asked for, not when they are computed.
        frames = batch_size * (WARMUP + HORIZON)
        seconds = frames / float(history[1]["frames_per_second"])
    return {
        "seconds": seconds,
        "first_step": ends[0][0] - STARTED,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT,
    }


def stage_flags(model: str, batch_size: int, data: str, train_dir: str, **more: float) -> list[str]:
    """Flags of a stage's script, which takes one data set for all purposes."""
    from utils.training.command_line import ROLES

    flags = {"atari_game": "freeway", "model": model, "train_dir": train_dir}
    flags |= {"batch_size": batch_size, **more, **{f"{role}_data": data for role in ROLES}}
    return [f"--{key}={value}" for key, value in flags.items()]


@contextlib.contextmanager
def step_ends() -> Iterator[list[list[float]]]:
    """Notes when each training step ends: a list of `time.perf_counter` for each epoch."""
    from utils.training.progress import Progress

    ends, show = [], Progress.on_train_batch_end

    def note_and_show(progress, batch, logs=None):
        if batch == 0:
            ends.append([])
        ends[-1].append(time.perf_counter())
        show(progress, batch, logs)

    with mock.patch.object(Progress, "on_train_batch_end", note_and_show):
        yield ends


def pytorch(
    model: str, variant: str, batch_size: int, data: str, steps: int, precision: str
) -> dict:
    """Median seconds of the same step in PyTorch, on windows that have been read before."""
    from benchmarks import peer_torch

    predictor, windows = model_and_windows(model, variant, batch_size, data)
    read = [windows.batch(number) for number in range(4)]
    batches = (read[i % len(read)] for i in range(steps))
    seconds = peer_torch.train(
        counterpart(predictor), batches, HORIZON, variant, precision, uncounted=UNCOUNTED
    )
    return {"seconds": statistics.median(seconds)}


def way_of_2016(model: str, variant: str, batch_size: int, data: str, steps: int) -> dict:
    """Median seconds of the same step in Keras, the way the 2016 code did it.

    It encodes, steps and decodes frame by frame, those of the warm-up too; in float32, with Keras'
    own Adam.
    """
    import keras
    from keras import ops

    from model.predictor import FramePredictor

    class FrameByFrame(FramePredictor):
        def call(self, batch, training=None):
            frames, actions = batch["frames"], batch["actions"]
            h, c = self.initial_state(ops.shape(frames)[0])
            recent, predicted = None, []
            for t in range(actions.shape[1]):
                if t < self.warmup or self.variant == "paper":
                    frame = (
                        self.network.normalise(frames[:, t : t + 1])
                        if t < self.warmup
                        else predicted[-1]
                    )
                    encoding, recent = self.network.encode(frame, recent)
                else:
                    encoding = h[:, None]
                outputs, cells = self.network.core(encoding, actions[:, t : t + 1], h, c)
                h, c = outputs[:, 0], cells[:, 0]
                predicted.append(self.network.decode(outputs))
            return {"frames": ops.concatenate(predicted[self.warmup - 1 :], axis=1)}

    predictor, windows = model_and_windows(model, variant, batch_size, data, kind=FrameByFrame)
    predictor.compile(keras.optimizers.Adam(1e-4))
    seconds = []
    for number in range(steps):
        batch = windows.batch(number)
        started = time.perf_counter()
        predictor.train_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[UNCOUNTED:])}


def agreement(model: str, variant: str, data: str) -> dict:
    """How far the peer's float32 predictions are from ours with the same weights.

    Returns:
        dict of frames_difference, the largest between normalised frames; largest, of our frames'
        values; heads_difference, the largest between probabilities of rewards and terminations;
        parameters and peer_parameters, how many there are.
    """
    import torch

    from model.predictor import decode_outputs

    predictor, windows = model_and_windows(model, variant, 2, data)
    batch = windows.batch(0)
    network = counterpart(predictor)
    outputs = np.random.default_rng(0).normal(size=(2, 3, predictor.preset.units)).astype("float32")
    with torch.no_grad():
        their_frames = network(
            torch.from_numpy(batch["frames"]), torch.from_numpy(batch["actions"]), HORIZON, variant
        )
        their_heads = network.heads(torch.from_numpy(outputs))
    our_frames = np.asarray(predictor(batch)["frames"])
    decoded = decode_outputs(predictor.network, outputs, decode=False)
    heads = zip(their_heads, (decoded["reward"], decoded["termination"]), strict=True)
    return {
        "frames_difference": float(np.abs(their_frames.numpy() - our_frames).max()),
        "largest": float(np.abs(our_frames).max()),
        "heads_difference": max(
            float(np.abs(theirs.numpy() - np.asarray(our)).max()) for theirs, our in heads
        ),
        "parameters": sum(math.prod(weight.shape) for weight in _trained(predictor.network)),
        "peer_parameters": sum(p.numel() for p in network.parameters()),
    }


def model_and_windows(
    model: str,
    variant: str,
    batch_size: int,
    data: str,
    precision: str = "float32",
    kind: type[FramePredictor] | None = None,
) -> tuple[FramePredictor, Windows]:
    """A new model, the same every time, and training windows from the data set.

    Args:
        model: the preset's name.
        variant, precision: as `FramePredictor` takes them.
        batch_size: windows a batch.
        data: directory of the data set.
        kind: the model's class; None: `FramePredictor`.
    """
    import keras

    from model.predictor import FramePredictor
    from model.presets import PRESETS
    from systems.dataset import Dataset
    from systems.windows import Windows, WindowSpec

    keras.utils.set_random_seed(0)
    dataset = Dataset(data)
    shape = PRESETS[model].frame_shape
    predictor = (kind or FramePredictor)(
        model, variant, len(dataset.action_meanings), precision=precision
    )
    palette = dataset.palette() if shape[-1] == 3 else None
    predictor.network.adapt(*dataset.frame_statistics(shape), palette)
    return predictor, Windows(dataset, shape, WindowSpec(WARMUP, HORIZON), batch_size, 0)


def _trained(network):
    """The weights that are trained, in the network's order."""
    constants = ("mean_frame", "pixel_scale", "palette")
    return [weight for weight in network.weights if weight.name not in constants]


def counterpart(predictor: FramePredictor) -> TorchNetwork:
    """The peer with a predictor's weights."""
    from benchmarks.peer_torch import TorchNetwork

    network = predictor.network
    return TorchNetwork(
        network.preset_name,
        predictor.num_actions,
        [np.asarray(weight) for weight in _trained(network)],
        *frame_constants(network),
    )


def frame_constants(network: Network) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A network's mean frame, pixel scale and palette, as the peers take them."""
    palette = np.asarray(network.palette) if hasattr(network, "palette") else None
    return np.asarray(network.mean_frame), np.asarray(network.pixel_scale), palette
