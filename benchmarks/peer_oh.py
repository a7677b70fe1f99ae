"""A peer: the recurrent network of Oh et al. 2015, the action after the LSTM, trained as they did.

arXiv 1507.08750: sections 3.1 to 3.3 for the network, 3.4 and 4 and the appendix for the training.
Encoder and decoder are ours. Between them stand an LSTM, which does not see the action, and

    W_dec (W_enc h * W_a a) + b

Shapes are written (batch, time, ...), with 2048 for the preset's number of units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from model.core import lstm_step
from model.loss import frame_loss
from model.networks import FrameDecoder, frame_encoder
from model.operations import multiplications as ours
from model.presets import PRESETS, Preset

WARMUP = 10
PIXEL_SCALE = 255.0  # by which frames are divided, after the mean frame is subtracted
MAX_GRADIENT = 0.1  # of each gate's pre-activation
RMSPROP = {"rho": 0.95, "momentum": 0.9, "epsilon": 0.01, "centered": True}
BATCH_SIZE = 4  # windows a step of the recurrent network


class Phase(NamedTuple):
    """A part of the curriculum."""

    share: float  # of the time, as of the paper's 3.5 million steps
    learning_rate: float
    horizon: int
    feed_back: bool  # if not, each prediction is one step ahead of real frames


CURRICULUM = (
    Phase(3 / 7, 1e-4, 10, feed_back=False),
    Phase(2 / 7, 1e-5, 3, feed_back=True),
    Phase(2 / 7, 1e-5, 5, feed_back=True),
)


@ops.custom_gradient
def clip_gradient(z):
    """Hands z on; its gradient is clipped."""
    return ops.copy(z), lambda gradient: ops.clip(gradient, -MAX_GRADIENT, MAX_GRADIENT)


class ActionAfterLSTM(keras.layers.Layer):
    """An LSTM whose output the action transforms on its way to the decoder.

    Args:
        num_actions: size of the action set.
        units: of the input, the output, the cell and the factors.
        dtype: the layer's dtype or dtype policy.
    """

    def __init__(self, num_actions: int, units: int, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="action_after_lstm")
        self.num_actions, self.units = num_actions, units

    def build(self, input_shape):
        units = self.units
        self.kernel = self.add_weight((input_shape[-1], 4 * units), "glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight(
            (units, 4 * units), "glorot_uniform", name="recurrent_kernel"
        )
        self.bias = self.add_weight((4 * units,), "zeros", name="bias")
        # As wide as in the paper, or the product of two small factors would pass no signal.
        self.encoding_factors = self.add_weight((units, units), _uniform(1.0), name="W_enc")
        self.action_factors = self.add_weight((self.num_actions, units), _uniform(0.1), name="W_a")
        self.output_kernel = self.add_weight((units, units), "glorot_uniform", name="W_dec")
        self.output_bias = self.add_weight((units,), "zeros", name="b_dec")

    def call(self, inputs, h, c):
        """Steps the LSTM alone.

        Args:
            inputs: encodings (batch, time, 2048).
            h, c: its state, (batch, 2048) each, float32.

        Returns:
            outputs of every step, (batch, time, 2048), and the cell after the last, float32.
        """
        dtype, outputs = self.compute_dtype, []
        flat = ops.reshape(ops.cast(inputs, dtype), (-1, inputs.shape[-1]))
        projected = flat @ ops.cast(self.kernel, dtype) + ops.cast(self.bias, dtype)
        projected = ops.reshape(projected, (-1, inputs.shape[1], 4 * self.units))
        recurrent_kernel = ops.cast(self.recurrent_kernel, dtype)
        for t in range(inputs.shape[1]):
            z = projected[:, t] + ops.cast(h, dtype) @ recurrent_kernel
            h, c, _, _ = lstm_step(clip_gradient(ops.cast(z, "float32")), c)
            outputs.append(h)
        return ops.stack(outputs, axis=1), c

    def transform(self, outputs, actions):
        """The decoder's inputs, (batch, time, 2048).

        Args:
            outputs: the LSTM's, (batch, time, 2048).
            actions: int (batch, time), each taken in the frame that was encoded last.
        """
        dtype = self.compute_dtype
        flat = ops.reshape(ops.cast(outputs, dtype), (-1, self.units))
        actions = ops.one_hot(ops.reshape(actions, (-1,)), self.num_actions, dtype=dtype)
        factors = flat @ ops.cast(self.encoding_factors, dtype)
        factors = factors * (actions @ ops.cast(self.action_factors, dtype))
        out = factors @ ops.cast(self.output_kernel, dtype) + ops.cast(self.output_bias, dtype)
        return ops.reshape(out, (-1, outputs.shape[1], self.units))


def _uniform(limit):
    return keras.initializers.RandomUniform(-limit, limit)


class OhPredictor(keras.Model):
    """Predicts frames from the first `WARMUP` frames and all actions.

    A batch is a dict of frames, uint8 (batch, WARMUP, height, width, channels) or, in training,
    (batch, WARMUP + predictions, ...), and actions, int32 (batch, WARMUP + predictions - 1). Action
    t leads from frame t to frame t + 1.

    Args:
        preset: the layer table of encoder and decoder.
        num_actions: size of the action set.
        mean_frame: of the training frames, levels, (height, width, channels).
        precision: dtype policy.

    Attributes:
        feed_back: whether predictions are encoded again, or real frames are.
    """

    def __init__(self, preset: Preset, num_actions: int, mean_frame, precision: str = "float32"):
        super().__init__(name="oh_predictor", dtype=precision)
        self.preset, self.feed_back = preset, True
        policy = self.dtype_policy
        self.encoder = frame_encoder(preset, policy)
        self.core = ActionAfterLSTM(num_actions, preset.units, dtype=policy)
        self.decoder = FrameDecoder(preset, policy)
        self.mean_frame = np.asarray(mean_frame, np.float32)
        for layer in (self.core, self.decoder):
            layer.build((None, preset.units))
        self.built = True

    def normalise(self, frames):
        """uint8 frames -> normalised, float32."""
        return (ops.cast(frames, "float32") - self.mean_frame) / PIXEL_SCALE

    def denormalise(self, frames):
        """Normalised frames -> levels from 0 to 255, float32."""
        return ops.clip(frames * PIXEL_SCALE + self.mean_frame, 0.0, 255.0)

    def call(self, batch, training=None):
        """Normalised predictions, float32 (batch, predictions, height, width, channels)."""
        actions = batch["actions"]
        predictions = actions.shape[1] - WARMUP + 1
        known = batch["frames"][:, :WARMUP] if self.feed_back else batch["frames"][:, :-1]
        known = self.normalise(known)
        h = c = ops.zeros((ops.shape(known)[0], self.preset.units), "float32")
        encodings, recent = self._encode(known)
        outputs, c = self.core(encodings, h, c)
        if not self.feed_back:
            return self._predict(outputs[:, WARMUP - 1 :], actions[:, WARMUP - 1 :])
        frames = [self._predict(outputs[:, -1:], actions[:, WARMUP - 1 : WARMUP])]
        outputs = outputs[:, -1:]
        for t in range(WARMUP, WARMUP + predictions - 1):
            encodings, recent = self._encode(frames[-1], recent)
            outputs, c = self.core(encodings, outputs[:, -1], c)
            frames.append(self._predict(outputs, actions[:, t : t + 1]))
        return ops.concatenate(frames, axis=1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """1/(2K) sum_k ||x_hat - x||^2, section 3.4."""
        return frame_loss(y_pred - self.normalise(x["frames"][:, WARMUP:]))[1]

    def _encode(self, frames, recent=None):
        """Encodes each frame stacked onto the frames before it, as `Network.encode` does."""
        count, stack = frames.shape[1], self.preset.stack
        if recent is None:
            recent = ops.repeat(frames[:, :1], stack - 1, axis=1)
        frames = ops.concatenate([recent, frames], axis=1)
        stacked = ops.concatenate([frames[:, i : i + count] for i in range(stack)], axis=-1)
        encodings = self.encoder(ops.reshape(stacked, (-1, *stacked.shape[2:])))
        return ops.reshape(encodings, (-1, count, self.preset.units)), frames[:, count:]

    def _predict(self, outputs, actions):
        inputs = self.core.transform(outputs, actions)
        frames = self.decoder(ops.reshape(inputs, (-1, self.preset.units)))
        return ops.reshape(frames, (-1, outputs.shape[1], *self.preset.frame_shape))


def multiplications(model: str, num_actions: int) -> int:
    """Of one step: a frame is encoded, the core stepped, a frame decoded.

    Ours has one more product before the LSTM, and this has two more after it.
    """
    units = PRESETS[model].units
    _, encoder, decoder, core = ours(PRESETS[model], num_actions)
    return encoder + decoder + core + units * units


def train(
    predictor: OhPredictor,
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
    begins: float,
    ends: float,
) -> list[float]:
    """Trains by the curriculum until a time; returns the loss of each step.

    Args:
        predictor: what is trained.
        batches: makes the batches of a horizon.
        begins, ends: by `time.perf_counter`; the phases have their shares of what is between.
    """
    optimizer = keras.optimizers.RMSprop(CURRICULUM[0].learning_rate, **RMSPROP)
    losses, until = [], begins
    for phase in CURRICULUM:
        until += phase.share * (ends - begins)
        predictor.feed_back = phase.feed_back
        optimizer.learning_rate = phase.learning_rate
        predictor.compile(optimizer)  # anew, because the graph is another one
        for batch in batches(phase.horizon):
            if time.perf_counter() >= until:
                break
            losses.append(float(predictor.train_on_batch(batch)))
    predictor.feed_back = True
    predictor.compile()
    return losses
