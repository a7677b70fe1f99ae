"""What the machine can do at best, and how much work a model asks of it."""

import math

import keras
import numpy as np

from benchmarks.child import seconds_of
from model.networks import PRESETS, RewardHead


def machine():
    """Matrix-product rates (FLOP/s) and the bandwidth of reading memory (bytes/s), all threads.

    Of the GPU, if there is one, by PyTorch; of a processor by PyTorch or TensorFlow, whichever is
    faster. The bandwidth is that of a dot product, which does nothing but read. `precision` is the
    dtype with the higher rate: without instructions of its own for it, a processor is slower in
    bfloat16.
    """
    import torch

    device = torch_device()
    gpu = device == "cuda"
    size = 8192 if gpu else 2048
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    flops = 2 * size**3
    rates = {}
    for name in ("float32", "bfloat16"):
        x = torch.from_numpy(a).to(device, getattr(torch, name))
        seconds = seconds_of(lambda x=x: finished(x @ x))
        if not gpu:
            import tensorflow as tf

            y = tf.cast(a, name)
            seconds += seconds_of(lambda y=y: tf.matmul(y, y))
        rates[name] = flops / min(seconds)
    x = torch.ones(1 << (30 if gpu else 27), device=device)  # more than any cache
    return {
        **rates,
        "device": torch.cuda.get_device_name() if gpu else None,
        "precision": max(rates, key=rates.get),
        "bandwidth": x.numel() * 4 / min(seconds_of(lambda: finished(torch.dot(x, x)))),
    }


def torch_device():
    """Where PyTorch computes: "cuda" or, also beside TensorFlow, "cpu"."""
    import torch

    # To ask PyTorch for CUDA in one process with TensorFlow ends that.
    on_jax = keras.backend.backend() == "jax"
    return "cuda" if on_jax and torch.cuda.is_available() else "cpu"


def finished(result):
    """Waits until what PyTorch has been asked for so far is computed."""
    import torch

    if torch_device() == "cuda":
        torch.cuda.synchronize()
    return result


def train_flops(model, num_actions, batch, warmup, predictions, variant):
    """Floating-point operations of a training step: twice its multiplications, three times over.

    Once forward, once for the gradients of the weights and once for those of the inputs, which the
    first layer does without.
    """
    per = _per_frame(model, num_actions)
    steps = warmup + predictions - 1
    encoded = warmup if variant == "compression" else steps
    fed_back = predictions - 1
    forward = encoded * per["encoder"] + predictions * per["decoder"] + steps * per["core"]
    first = encoded * per["first"]
    if variant == "paper":
        first = (encoded - fed_back) * per["first"]
    return 2 * batch * (3 * forward - first)


def imagine_flops(model, num_actions, batch, decoded):
    """Floating-point operations of one imagined step of the compression variant."""
    per = _per_frame(model, num_actions)
    return 2 * batch * (per["core"] + per["reward"] + (per["decoder"] if decoded else 0))


def core_weights(model, num_actions):
    """How many weights one step of the core reads."""
    return _per_frame(model, num_actions)["core"]


def _per_frame(model, num_actions):
    """Multiplications for one frame or one step, by part."""
    preset = PRESETS[model]
    height, width, channels = preset.frame_shape
    channels *= preset.stack
    encoder = []
    for conv in preset.encoder:
        height, width = math.ceil(height / conv.stride), math.ceil(width / conv.stride)
        encoder.append(height * width * channels * conv.filters * conv.size**2)
        channels = conv.filters
    units = preset.units
    dense = height * width * channels * units
    height, width, channels = preset.decoder_start
    told_by, filters = RewardHead.CHANNELS, RewardHead.FILTERS
    reward = height * width * (units * told_by + 9 * told_by * filters + 4 * filters)
    decoder = units * height * width * channels
    for conv, made in zip(preset.decoder, preset.decoder_sizes(), strict=True):
        decoder += height * width * channels * conv.filters * conv.size**2
        height, width, channels = *made, conv.filters
    core = units * units + num_actions * units + 2 * units * 4 * units
    return {
        "first": encoder[0],
        "encoder": sum(encoder) + dense,
        "decoder": decoder,
        "core": core,
        "reward": reward,
    }
