"""Pretraining: the convolutions are trained alone, before the dense layers and the LSTM.

A dense layer must learn a small object again at every position, and the data shows most positions
never. A convolution learns it once. So the convolutions of the encoder, the decoder and the reward
head are first trained to predict by themselves. What joins encoder and decoder meanwhile depends on
the variant:

- paper: `NextFrame` adds an embedding of the action to the features, predicts one frame, and takes
  that frame as input again.
- compression: `LinearDynamics` steps the features on by two linear convolutions.

Afterwards `handover.py` sets the dense layers and the LSTM to compute the same.
"""

import math

import keras
import numpy as np
from keras import ops

from model.loss import frame_loss, reward_cross_entropy
from model.networks import Network, leaky_relu
from model.predictor import FramePredictor
from model.presets import Preset

# Initial standard deviation of what an action adds to a feature. It is so much larger than the
# features that the action switches the units after it. With smaller ones training ignores the
# action for long.
ACTION_EMBEDDING_STD = 6.0
ACTION_CHANNELS = 32  # of the linear dynamics, beyond those that start as the identity
# Initial gain of each of the linear dynamics' two kernels, in place of the identity's 1. Features
# must shrink at first, because features that grow destroy what the first steps have learned.
INITIAL_GAIN = 0.55
MOTION_STD = 0.01  # initial deviation of the motion's kernel
POSITION_FACTOR_STD = 0.3  # initial deviation of the linear dynamics' factors between positions
# Initial deviation of the linear dynamics' factors between actions: of the channels that start as
# the identity, and of the action channels.
ACTION_FACTOR_STDS = 0.3, 1.0
# Bound of the linear dynamics' features. Only untrained dynamics on long horizons reach it, and it
# keeps their loss finite.
MAX_FEATURE = 1e5
REWARD_WEIGHT = 0.1  # of the reward's cross-entropy, per pixel of the frame
ATTENTION_WEIGHT = 0.3  # of the attention's cross-entropy, relative to the reward's


class Pretraining(keras.Model):
    """Predicts frames and rewards by a network's convolutions alone.

    A training batch is a dict as `model.predictor.FramePredictor` takes it. The first `context`
    frames are the input and the frames after them are predicted: all, or those that `steps` names.

    Where the encoder sees one frame at a time, a 3x3 convolution of the features one step earlier
    adds to what is predicted. So two frames tell which way things move.

    Subclasses implement `call`. It returns a dict of frames, normalised, float32 (batch,
    predictions, height, width, channels); reward, logits of its sign, float32 (batch, predictions,
    3); and attention_logits, of the reward head's cells, float32 (batch, predictions, cells).

    Args:
        network: the network whose convolutions are trained, those of the reward head included.
        control_weight: additional weight of a controlled pixel's error.

    Attributes:
        context: how many frames a prediction is made from.
        step_weights: float32 (steps,), the weight of each step's frame loss; None weighs all steps
            alike.
        motion: kernel of the features one step earlier, (3, 3, channels, channels); None where the
            encoder sees several frames.
    """

    REWARD_INPUTS = 1  # how many steps' features a reward is predicted from
    own_rate = 1.0  # learning rate of the pretraining's own weights, relative to the network's

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(name="pretraining", dtype=network.dtype_policy)
        self.control_weight, self.step_weights = control_weight, None
        self.preset = network.preset
        self.stack, self.feature_shape = network.preset.stack, network.preset.decoder_start
        self.convolutions = [*network.convolutions, *network.decoder.convs]
        head = network.reward_head
        self.convolutions += [head.conv, head.verdict]
        # Linear maps from features to the reward head's cells, one for each input step.
        shape = self.feature_shape[-1], head.CHANNELS
        self.reward_channels = [
            self.add_weight(shape, "he_normal", name=f"reward_channels_{i}")
            for i in range(self.REWARD_INPUTS)
        ]
        self.motion, self.context = None, network.preset.context
        if self.context > self.stack:
            shape = 3, 3, self.feature_shape[-1], self.feature_shape[-1]
            small = keras.initializers.RandomNormal(stddev=MOTION_STD, seed=5)
            self.motion = self.add_weight(shape, small, name="motion")
        # Methods and not the network, because Keras would train a network among the attributes.
        self._normalise, self._features = network.normalise, network.features
        self._decode_features = network.decoder.decode_features
        self._logits_and_attention = head.logits_and_attention

    def named_variables(self) -> dict[str, keras.Variable]:
        """All that is trained here, by names that do not depend on what Keras made before."""
        named = {
            f"convolution_{i}.{variable.name}": variable
            for i, layer in enumerate(self.convolutions)
            for variable in layer.variables
        }
        known = {id(variable) for variable in named.values()}
        own = [variable for variable in self.trainable_variables if id(variable) not in known]
        return named | {variable.name: variable for variable in own}

    def context_features(self, frames):
        """Features of the last stack of frames, and those one step earlier.

        Args:
            frames: normalised (batch, context, height, width, channels).

        Returns:
            two of (batch, *decoder_start); the second is None without `motion`.
        """
        if self.motion is None:
            return self._features(frames), None
        features = self._features(ops.reshape(frames, (-1, 1, *frames.shape[2:])))
        features = ops.reshape(features, (-1, 2, *self.feature_shape))
        return features[:, 1], features[:, 0]

    def add_motion(self, features, earlier):
        """Adds what the features one step earlier tell of a step's features, if anything."""
        if self.motion is None:
            return features
        kernel = ops.cast(ops.convert_to_tensor(self.motion), features.dtype)
        return features + ops.conv(earlier, kernel, padding="same", data_format="channels_last")

    def decode(self, features):
        """Normalised frames, decoded from features (batch, *decoder_start)."""
        # The activation of the decoder's dense layer, whose place the features take.
        return self._decode_features(leaky_relu(features))

    def reward_logits_and_attention(self, *features):
        """Reward logits and attention logits; see `RewardHead.logits_and_attention`.

        Args:
            features: of `REWARD_INPUTS` steps, latest first, (batch, *decoder_start) each.
        """
        cells = [
            ops.matmul(step, ops.cast(ops.convert_to_tensor(channels), step.dtype))
            for step, channels in zip(features, self.reward_channels, strict=True)
        ]
        return self._logits_and_attention(sum(cells))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`frame_loss` plus the cross-entropies of the reward and of its attention.

        The attention's targets are the controlled pixels, because most rewards are earned at them.
        Without targets, training takes far longer to find the position than to predict the reward.
        """
        error = y_pred["frames"] - self._normalise(x["frames"][:, self.context :])
        weights = self.step_weights
        if weights is not None and "steps" in x:
            weights = ops.take(weights, x["steps"], axis=0)
        _, loss = frame_loss(error, x.get("controlled"), self.control_weight, weights)
        rewards = x["rewards"][:, self.context - 1 :]
        if "steps" in x:
            rewards = ops.take_along_axis(rewards, x["steps"], axis=1)
        reward_loss = reward_cross_entropy(rewards, y_pred["reward"])
        if "controlled" in x:
            targets = mean_per_cell(x["controlled"], self.preset)
            log_attention = ops.log_softmax(y_pred["attention_logits"])
            log_likelihood = ops.sum(targets * log_attention, axis=-1)
            log_likelihood = log_likelihood / ops.maximum(ops.sum(targets, axis=-1), 1)
            reward_loss = reward_loss - ATTENTION_WEIGHT * ops.mean(log_likelihood)
        return loss + REWARD_WEIGHT * math.prod(error.shape[2:]) * reward_loss


def mean_per_cell(pixels, preset: Preset):
    """Mean of the pixels of each cell of the encoder's last feature map.

    A cell is as wide as the product of the encoder's strides. The last row and column of cells may
    reach beyond the frame; their mean is over the pixels inside it.

    Args:
        pixels: (batch, time, height, width).
        preset: the network's.

    Returns:
        float32 (batch, time, rows * columns of cells).
    """
    _, time, height, width = pixels.shape
    rows, columns, _ = preset.decoder_start
    side = math.prod(conv.stride for conv in preset.encoder)
    x = ops.reshape(ops.cast(pixels, "float32"), (-1, height, width, 1))
    padding = (0, 0), (0, rows * side - height), (0, columns * side - width), (0, 0)
    x = ops.average_pool(ops.pad(x, padding), side, side, data_format="channels_last")
    inside = [
        np.minimum(side, size - side * np.arange(cells))
        for size, cells in ((height, rows), (width, columns))
    ]
    correction = side * side / np.outer(*inside)
    x = x * ops.convert_to_tensor(correction[..., None], "float32")
    return ops.reshape(x, (-1, time, rows * columns))


class NextFrame(Pretraining):
    """Predicts the next frame from features plus an embedding of the action, alike everywhere.

    Further frames are predicted from predicted frames, as the paper variant does it.
    """

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(network, control_weight)
        self.action_planes = keras.layers.Embedding(
            network.core.num_actions,
            self.feature_shape[-1],
            keras.initializers.RandomNormal(stddev=ACTION_EMBEDDING_STD),
            dtype=network.dtype_policy,
            name="action_planes",
        )
        self.action_planes.build(())
        self.built = True

    def call(self, batch):
        """Predicts one frame for each action, from the context's last frame on."""
        frames, predictions = self._normalise(batch["frames"][:, : self.context]), []
        actions = batch["actions"][:, self.context - 1 :]
        seen, earlier = self.context_features(frames)
        frames = frames[:, -self.stack :]
        for t in range(actions.shape[1]):
            if t:
                frames = ops.concatenate([frames[:, 1:], predictions[-1][0][:, None]], axis=1)
                seen, earlier = self._features(frames), seen
            planes = self.action_planes(actions[:, t])[:, None, None]
            features = self.add_motion(seen + planes, earlier)
            frame = self.decode(features)
            predictions.append((frame, *self.reward_logits_and_attention(features)))
        predictions = (ops.stack(steps, axis=1) for steps in zip(*predictions, strict=True))
        return dict(zip(("frames", "reward", "attention_logits"), predictions, strict=True))


class LinearDynamics(Pretraining):
    """Steps the features on by a linear map for each action; see `advance`.

    Most hidden channels of the map start as nearly a share of the identity. `ACTION_CHANNELS`
    further ones start with factors that differ between actions.

    A reward is predicted from the features after and before its step. Features that step linearly
    cannot hold that a pill was there and is gone, because that is not linear.
    """

    REWARD_INPUTS = 2

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(network, control_weight)
        height, width, channels = self.feature_shape
        # An optimizer's step is a share of a kernel's norm, and the identity's norm grows with its
        # channels. How fast features may grow does not. Motion lets them grow, too.
        self.own_rate = min(1.0, math.sqrt(32 / channels))
        hidden = channels + ACTION_CHANNELS

        def per_position(name, channels, initializer="zeros"):
            return self.add_weight((height, width, channels), initializer, name=name)

        self.kernels = (
            self.add_weight((3, 3, channels, hidden), _near_identity(channels, 1), name="before"),
            self.add_weight((3, 3, hidden, channels), _near_identity(channels, 2), name="after"),
        )
        self.biases = per_position("before_bias", hidden), per_position("after_bias", channels)
        position_factors = keras.initializers.RandomNormal(1.0, POSITION_FACTOR_STD, seed=4)
        self.place_factors = per_position("place_factors", hidden, position_factors)
        shape = network.core.num_actions, hidden
        action_factors = _initial_action_factors(channels)
        self.action_factors = self.add_weight(shape, action_factors, name="action_factors")
        self.built = True

    def call(self, batch):
        """Predicts all steps, or those that the batch's `steps` names."""
        context = self.context
        features = self.roll_out_features(
            batch["frames"][:, :context], batch["actions"][:, context - 1 :]
        )
        after, before = features[:, 1:], features[:, :-1]
        if "steps" in batch:
            steps = batch["steps"][..., None, None, None]
            after, before = (ops.take_along_axis(x, steps, axis=1) for x in (after, before))
        time = after.shape[1]
        after, before = (ops.reshape(x, (-1, *self.feature_shape)) for x in (after, before))
        predictions = self.decode(after), *self.reward_logits_and_attention(after, before)
        predictions = (ops.reshape(x, (-1, time, *x.shape[1:])) for x in predictions)
        return dict(zip(("frames", "reward", "attention_logits"), predictions, strict=True))

    def roll_out_features(self, frames, actions):
        """Features of the frames and after each action, without the decoder's activation.

        Args:
            frames: uint8 (batch, context, height, width[, channels]).
            actions: int (batch, time), the first one taken in the last frame.

        Returns:
            (batch, 1 + time, *decoder_start), within +-`MAX_FEATURE` after the first.
        """
        seen, earlier = self.context_features(self._normalise(frames))
        features = [seen]
        for t in range(actions.shape[1]):
            after = self.add_motion(self.advance(features[-1], actions[:, t]), earlier)
            earlier = features[-1]
            features.append(ops.clip(after, -MAX_FEATURE, MAX_FEATURE))
        return ops.stack(features, axis=1)

    def advance(self, features, actions):
        """One step of the dynamics: two linear 3x3 convolutions with factors between them.

        Each hidden channel has a factor for each action and one for each position, and each
        position has biases. A maze does not move, and an action's effect depends on the position.

        Args:
            features: (batch, *decoder_start).
            actions: int (batch,).

        Returns:
            The features after the step, in the dtype of those before it.
        """
        kernel_in, kernel_out, bias_in, bias_out, position_factors, action_factors = (
            ops.cast(ops.convert_to_tensor(weight), features.dtype)
            for weight in (*self.kernels, *self.biases, self.place_factors, self.action_factors)
        )
        x = ops.conv(features, kernel_in, padding="same", data_format="channels_last") + bias_in
        x = x * position_factors * ops.take(action_factors, actions, axis=0)[:, None, None]
        return ops.conv(x, kernel_out, padding="same", data_format="channels_last") + bias_out


def _near_identity(channels, seed):
    """Initializer of a 3x3 kernel: `INITIAL_GAIN` times identity plus noise."""

    def initializer(shape, dtype=None):
        # The noise maps features to at most half their size, however many channels they have.
        deviation = min(0.03, 0.5 / math.sqrt(9 * channels))
        noise = keras.random.normal(shape, stddev=deviation, seed=seed, dtype=dtype)
        identity = np.zeros(shape)
        identity[1, 1, :channels, :channels] = np.eye(channels)
        return INITIAL_GAIN * (noise + ops.convert_to_tensor(identity, dtype))

    return initializer


def _initial_action_factors(channels):
    """Initializer of the action factors: around 1 on the identity's channels, 0 on the others."""

    def initializer(shape, dtype=None):
        means = np.repeat([1.0, 0.0], [channels, ACTION_CHANNELS])
        deviations = np.repeat(ACTION_FACTOR_STDS, [channels, ACTION_CHANNELS])
        noise = keras.random.normal(shape, seed=3, dtype=dtype)
        return noise * ops.convert_to_tensor(deviations, dtype) + means

    return initializer


KINDS = {"paper": NextFrame, "compression": LinearDynamics}  # by variant


class PretrainingRollOut(keras.Model):
    """A rollout by the pretrained convolutions, with the outputs of `model.predictor.RollOut`.

    Pretraining does not predict termination, so its probability is 0.

    Args:
        predictor: the predictor whose network is pretrained.
        pretraining: what trains that network's convolutions.
    """

    def __init__(self, predictor: FramePredictor, pretraining: Pretraining):
        super().__init__(name="pretraining_roll_out", dtype=predictor.dtype_policy)
        self.predictor, self.pretraining = predictor, pretraining
        self.built = True

    def call(self, batch):
        """Rolls out from the last frames; see `model.predictor.RollOut`."""
        start = batch["frames"].shape[1] - self.pretraining.context
        predictions = self.pretraining.call(
            {key: batch[key][:, start:] for key in ("frames", "actions")}
        )
        return {
            "frames": self.predictor.network.denormalise(predictions["frames"]),
            "reward": ops.softmax(predictions["reward"]),
            "termination": ops.zeros_like(predictions["reward"][..., 0]),
        }
