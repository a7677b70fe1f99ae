"""The preset "tiny", small enough for tests of behaviour, and gradients on any backend.

Importing this module registers the preset, also in the subprocesses that tests start.
"""

import keras
import numpy as np

from model.presets import PRESETS, Conv, Preset

TINY = Preset(
    frame_shape=(12, 12, 1),
    stack=2,
    encoder=(Conv(4, 4, 2), Conv(8, 3, 1)),
    decoder_start=(6, 6, 8),
    decoder=(Conv(8, 3, 1), Conv(1, 4, 2)),
    units=32,
)
PRESETS["tiny"] = TINY


def batch(predictions: int, warmup: int = 4, size: int = 3, num_actions: int = 3, seed: int = 0):
    """Random frames, actions, rewards and terminations, as FramePredictor takes them."""
    rng = np.random.default_rng(seed)
    shape = (size, warmup + predictions - 1)
    return {
        "frames": rng.integers(0, 256, (size, warmup + predictions, 12, 12, 1), dtype=np.uint8),
        "actions": rng.integers(0, num_actions, shape, dtype=np.int32),
        "rewards": rng.integers(-1, 2, shape).astype(np.float32),
        "terminations": rng.random(shape) < 0.1,
    }


def gradients(function, layer, *inputs):
    """Value of `function(*inputs)`, and its gradients with respect to weights and inputs."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variables = [weight.value for weight in layer.weights]
        with tf.GradientTape() as tape:
            for tensor in inputs:
                tape.watch(tensor)
            value = function(*inputs)
        return value, tape.gradient(value, [*variables, *inputs])
    import jax

    def stateless(values, *inputs):
        with keras.StatelessScope(state_mapping=list(zip(layer.weights, values, strict=True))):
            return function(*inputs)

    values = [weight.value for weight in layer.weights]
    value, (by_weight, *by_input) = jax.value_and_grad(
        stateless, argnums=tuple(range(len(inputs) + 1))
    )(values, *inputs)
    return value, [*by_weight, *by_input]
