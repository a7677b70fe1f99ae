"""How long a training will take, roughly: its multiplications over this machine's speed."""

from __future__ import annotations

import math
import time

import keras
from keras import ops

from model.operations import multiplications
from model.presets import PRESETS
from utils.config import CheckpointConfig
from utils.training.phases import PHASES

# What pretraining and training reach of the machine's rate of large matrix products.
SHARE = 0.5
OVERHEAD_SECONDS = 20  # compiling and evaluating
SIZE = 1024  # of the matrices that are timed


def expected_seconds(settings: CheckpointConfig, pretraining_done: int, done: int) -> float:
    """Seconds from here to the end of a stage, good to a factor of two.

    Args:
        settings: how it trains.
        pretraining_done, done: steps that are done already.
    """
    training, preset = settings.training, PRESETS[settings.model]
    rate = _product_rate(training.precision)
    _, encoder, decoder, core = multiplications(preset, len(settings.action_meanings))
    operations = 0.0
    if not done:
        left = 1 - pretraining_done / max(training.pretraining_steps, 1)
        for phase in PHASES.get(settings.stage, ()):
            frames = phase.horizon if settings.variant == "paper" else 1
            frames += preset.context - preset.stack
            windows = phase.windows * training.batch_size
            each = windows * (frames * encoder + phase.shown * decoder)
            steps = left * phase.share * training.pretraining_steps
            operations += 6 * steps * each
    fed_back = training.feed_back and settings.variant == "paper"
    frames = settings.warmup + (training.horizon if fed_back else 0)
    if not training.feed_back:
        frames += training.horizon
    # Each multiplication is two operations forward and four backward. Of an encoder that is not
    # trained, only what is fed back through it has a gradient.
    encoded = frames * (6 if training.encoder_rate or fed_back else 2)
    steps = settings.warmup + training.horizon
    each = encoded * encoder + 6 * training.decoded * decoder + 6 * steps * core
    operations += (training.max_steps - done) * training.batch_size * each
    return operations / (SHARE * rate) + OVERHEAD_SECONDS


def in_words(seconds: float) -> str:
    """Such as `about 20 minutes`, by one digit or a half ten."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            digits = 5 if number > 10 else 1
            return f"about {max(round(number / digits) * digits, 2)} {unit}"
    return "about a minute"


def _product_rate(precision: str) -> float:
    """Operations a second of a large matrix product, as Keras computes it here."""
    dtype = "bfloat16" if "bfloat16" in precision else "float32"
    matrix = ops.ones((SIZE, SIZE), dtype)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        float(ops.cast(ops.matmul(matrix, matrix)[0, 0], "float32"))  # waits for the product
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / min(seconds)


def is_slow_here(settings: CheckpointConfig) -> bool:
    """Whether full frames are trained without a GPU or TPU."""
    on_processor = all("cpu" in device.lower() for device in keras.distribution.list_devices())
    return on_processor and math.prod(PRESETS[settings.model].frame_shape) > 50_000
