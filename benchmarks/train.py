"""Training: the real stage script beside PyTorch and beside the way of 2016."""

import dataclasses
import importlib
import math
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import STARTED

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
SCRIPTS = {"compression": "compress_seq_5_train", "paper": "paper_seq_5_train"}


def ours(model, variant, batch_size, data, steps):
    """The stage script with its data loading; no stage before it.

    Returns the median seconds from one step's end to the next, seconds from the process' start to
    the end of the first step and the process' peak memory in bytes.
    """
    import keras

    from utils import progress, stages, training

    ends = []  # of each step, an inner list an epoch
    ended = progress.Progress.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            ends.append([])
        ends[-1].append(time.time())
        ended(self, batch, logs)

    progress.Progress.on_train_batch_end = on_train_batch_end
    stage = importlib.import_module(SCRIPTS[variant]).STAGE
    with tempfile.TemporaryDirectory() as directory:
        flags = {
            "atari_game": "freeway",
            "model": model,
            "train_dir": directory,
            "batch_size": batch_size,
            "max_steps": steps + 3,
            # In the second epoch nothing is compiled any more.
            "steps_per_epoch": (steps + 4) // 2,
            "encoder_rate": 1,  # by default it is left as it is: as the peers, all is trained
        }
        flags |= {f"{role}_data": data for role in stages.DATA_SEEDS}
        stages.main(
            # As the peers: five predictions, five steps.
            dataclasses.replace(stage, restore=None, horizon=None),
            [f"--{key}={value}" for key, value in flags.items()],
        )
        history = next(Path(directory).rglob("history.csv")).read_text().splitlines()
    # The first steps, the compilation among them, are left out, as they are of the peer's.
    seconds = statistics.median([step for epoch in ends for step in np.diff(epoch)][3:])
    if keras.backend.backend() == "jax":
        # A step's end is when it has been asked for, not when it is computed: the second epoch's.
        rate = dict(zip(history[0].split(","), history[2].split(","), strict=True))
        length = training.WARMUP + stage.predictions
        seconds = batch_size * length / float(rate["frames_per_second"])
    return {
        "seconds": seconds,
        "first_step": ends[0][0] - STARTED,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT,
    }


def pytorch(model, variant, batch_size, data, steps, precision):
    """The same step in PyTorch, on such windows, which have been read before."""
    from benchmarks import peer_torch

    predictor, windows = model_and_windows(model, variant, batch_size, data, steps)
    read = [windows[i] for i in range(4)]
    batches = (read[i % len(read)] for i in range(steps))
    seconds = peer_torch.train(counterpart(predictor), batches, 5, variant, precision)
    return {"seconds": statistics.median(seconds)}


def way_of_2016(model, variant, batch_size, data, steps):
    """The same step in Keras the way the 2016 code did it.

    Frame by frame: each is encoded by itself, stepped and decoded, the warm-up's too; in float32,
    with Keras' own Adam.
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

    predictor, windows = model_and_windows(
        model, variant, batch_size, data, steps, kind=FrameByFrame
    )
    predictor.compile(keras.optimizers.Adam(1e-4))
    seconds = []
    for i in range(steps):
        batch = windows[i]
        started = time.perf_counter()
        predictor.train_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[3:])}


def agreement(model, variant, data):
    """How far the peer's float32 predictions are from ours for the same weights, and the sizes.

    `told` is how far its probabilities of reward and termination are.
    """
    import torch

    from model.predictor import look

    predictor, windows = model_and_windows(model, variant, 2, data, 1)
    batch = windows[0]
    network = counterpart(predictor)
    outputs = np.random.default_rng(0).normal(size=(2, 3, predictor.preset.units)).astype("float32")
    with torch.no_grad():
        theirs = network(
            torch.from_numpy(batch["frames"]), torch.from_numpy(batch["actions"]), 5, variant
        )
        told = network.tell(torch.from_numpy(outputs))
    own = np.asarray(predictor(batch)["frames"])
    own_told = look(predictor.network, outputs, decode=False)
    pairs = zip(told, (own_told["reward"], own_told["termination"]), strict=True)
    return {
        "told": max(float(np.abs(their.numpy() - np.asarray(our)).max()) for their, our in pairs),
        "difference": float(np.abs(theirs.numpy() - own).max()),
        "largest": float(np.abs(own).max()),
        "parameters": sum(math.prod(weight.shape) for weight in _trained(predictor.network)),
        "peer_parameters": sum(p.numel() for p in network.parameters()),
    }


def model_and_windows(model, variant, batch_size, data, steps, precision="float32", kind=None):
    """A new model, the same every time, and training windows from the data set."""
    import keras

    from model.networks import PRESETS
    from model.predictor import FramePredictor
    from utils.dataset import Dataset, Windows

    keras.utils.set_random_seed(0)
    dataset = Dataset(data)
    shape = PRESETS[model].frame_shape
    predictor = (kind or FramePredictor)(
        model, variant, len(dataset.action_meanings), precision=precision
    )
    palette = dataset.palette() if shape[-1] == 3 else None
    predictor.network.adapt(*dataset.frame_statistics(shape), palette)
    return predictor, Windows(dataset, shape, 15, batch_size, 0, num_batches=steps)


def _trained(network):
    constant = ("mean_frame", "pixel_scale", "palette")
    return [weight for weight in network.weights if weight.name not in constant]


def counterpart(predictor):
    """The peer with a predictor's weights."""
    from benchmarks.peer_torch import TorchNetwork

    network = predictor.network
    return TorchNetwork(
        network.preset_name,
        predictor.num_actions,
        [np.asarray(weight) for weight in _trained(network)],
        np.asarray(network.mean_frame),
        np.asarray(network.pixel_scale),
        np.asarray(network.palette) if hasattr(network, "palette") else None,
    )
