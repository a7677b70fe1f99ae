"""What the machine can do at best, and how many operations a model asks of it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from benchmarks.child import seconds_of

Result = TypeVar("Result")


def machine() -> dict:
    """What all threads of the processor can do or, if there is one, the GPU.

    PyTorch measures a GPU. Of a processor it is the faster of PyTorch and TensorFlow.

    Returns:
        dict of float32 and bfloat16, rates of matrix products in FLOP/s, without bfloat16 where
        there are no instructions for it; precision, the one with the higher rate; bandwidth, of a
        dot product's reading, bytes/s; and device, the GPU's name.
    """
    device = torch_device()
    import torch

    from utils.checkpoint import fast_bfloat16

    gpu = device == "cuda"
    size = 8192 if gpu else 2048
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    flops = 2 * size**3
    rates = {}
    # Without instructions for it, PyTorch's product in bfloat16 takes half a minute.
    for name in ("float32", "bfloat16") if gpu or fast_bfloat16() else ("float32",):
        x = torch.from_numpy(a).to(device, getattr(torch, name))
        seconds = seconds_of(lambda x=x: finished(x @ x))
        if not gpu:
            import tensorflow as tf

            y = tf.cast(a, name)
            seconds += seconds_of(lambda y=y: tf.matmul(y, y))
        rates[name] = flops / min(seconds)
    x = torch.ones(1 << (30 if gpu else 27), device=device)  # more than any cache holds
    return {
        **rates,
        "device": torch.cuda.get_device_name() if gpu else None,
        "precision": max(rates, key=rates.get),
        "bandwidth": x.numel() * 4 / min(seconds_of(lambda: finished(torch.dot(x, x)))),
    }


def torch_device() -> str:
    """Where PyTorch computes: "cuda" or, also beside TensorFlow, "cpu"."""
    import keras
    import torch

    # Only beside JAX, because PyTorch's CUDA ends a process that has loaded TensorFlow.
    on_jax = keras.backend.backend() == "jax"
    return "cuda" if on_jax and torch.cuda.is_available() else "cpu"


def finished(result: Result) -> Result:
    """Returns `result` when all that PyTorch has been asked for is computed."""
    import torch

    if torch_device() == "cuda":
        torch.cuda.synchronize()
    return result


def train_flops(
    model: str, num_actions: int, batch: int, warmup: int, horizon: int, variant: str
) -> int:
    """Floating-point operations of a training step that feeds back and decodes `horizon` steps.

    A multiplication counts twice, because each comes with an addition. It is done three times:
    forward, for the gradients of the weights, and for those of the inputs. The first layer needs no
    gradient of its inputs.
    """
    per = _of(model, num_actions)
    steps = warmup + horizon - 1
    encoded = warmup if variant == "compression" else steps
    fed_back = horizon - 1
    forward = encoded * per.encoder + horizon * per.decoder + steps * per.core
    first = encoded * per.first_layer
    if variant == "paper":
        first = (encoded - fed_back) * per.first_layer
    return 2 * batch * (3 * forward - first)


def imagine_flops(model: str, num_actions: int, batch: int, decoded: bool) -> int:
    """Floating-point operations of one imagined step of the compression variant."""
    per = _of(model, num_actions)
    return 2 * batch * (per.core + _reward_head(model) + (per.decoder if decoded else 0))


def core_weights(model: str, num_actions: int) -> int:
    """How many weights one step of the core reads."""
    return _of(model, num_actions).core


def _of(model, num_actions):
    """The multiplications of a preset's parts, by its name."""
    from model.operations import multiplications
    from model.presets import PRESETS

    return multiplications(PRESETS[model], num_actions)


def _reward_head(model):
    """Multiplications of the reward head for one step."""
    from model.networks import RewardHead
    from model.presets import PRESETS

    height, width, _ = PRESETS[model].decoder_start
    per_cell, filters = RewardHead.CHANNELS, RewardHead.FILTERS
    per_position = PRESETS[model].units * per_cell + 9 * per_cell * filters + 4 * filters
    return height * width * per_position
