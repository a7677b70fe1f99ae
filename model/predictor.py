"""The frame predictor: encode frames, step the LSTM, decode frames; and its two variants.

**paper** encodes each predicted frame again and feeds it back (Oh et al. 2015, arXiv 1507.08750,
section 3.4). **compression** feeds the LSTM's own output back in place of an encoding. It decodes
frames only on request. Shapes are written (batch, time, ...), with 2048 for the preset's number of
units.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from model.loss import frame_loss, reward_cross_entropy, termination_cross_entropy
from model.networks import Network
from model.presets import PRESETS

VARIANTS = ("paper", "compression")
# Steps of the paper variant's loop that are unrolled. They may then overlap, which saves a sixth of
# the time.
UNROLLED_STEPS = 5
REWARD_CLASSES = (-1, 0, 1)  # signs of the reward, as in Oh et al.'s clipped DQN rewards


class State(NamedTuple):
    """The predictor's state: all that `FramePredictor.imagine` needs to continue.

    `encoding` is the LSTM's next input: of the current frame, in which the next action is taken.
    """

    encoding: Any  # (batch, 2048) float32
    h: Any  # (batch, 2048) float32, the LSTM's output
    c: Any  # (batch, 2048) float32, the LSTM's cell
    # (batch, stack - 1, height, width, channels): the latest frames, normalised, oldest first. The
    # next frame is stacked onto them.
    recent: Any


class FramePredictor(keras.Model):
    """Predicts frames, the reward's sign and termination from past frames and all actions.

    A training batch is a dict of
        frames        uint8 (batch, warmup + predictions, height, width, channels), or palette
                      indices (batch, warmup + predictions, height, width)
        actions       int32 (batch, warmup + steps - 1); action t leads from frame t to t + 1
        rewards       float32, like actions; reward t is earned by action t
        terminations  bool, like actions
        steps         int32 (batch, predictions), optional: which step after the warm-up each of the
                      last frames is, from 0; without it they are all steps
        controlled    uint8 (batch, predictions, height, width), optional: how far the player
                      controls each pixel of the last frames, 255: wholly

    Args:
        preset: a name in `model.presets.PRESETS`.
        variant: "paper" or "compression".
        num_actions: size of the action set.
        precision: "float32", "mixed_bfloat16" or "bfloat16". Weights and LSTM state are float32 in
            the first two. "bfloat16" stores the weights in it too, which saves inference the casts.
        feed_back: whether training feeds predictions back. Without it every prediction is one step
            ahead of real frames. Inference always feeds back.
        warmup: number of real frames before the first prediction.
        control_weight: additional weight of a controlled pixel's error.
        reward_weight: weight of the reward's and termination's cross-entropy. It is multiplied by
            the number of pixels, so that it means the same at every frame size. 0 leaves both heads
            untrained.

    Raises:
        ValueError: preset or variant is unknown.
    """

    def __init__(
        self,
        preset: str,
        variant: str,
        num_actions: int,
        *,
        precision: str = "float32",
        feed_back: bool = True,
        warmup: int = 10,
        control_weight: float = 0.0,
        reward_weight: float = 0.0,
    ):
        super().__init__(name="frame_predictor", dtype=precision)
        if preset not in PRESETS:
            raise ValueError(f"Expected preset to be one of {list(PRESETS)}. Received: {preset!r}")
        if variant not in VARIANTS:
            raise ValueError(f"Expected variant to be one of {VARIANTS}. Received: {variant!r}")
        self.preset = PRESETS[preset]
        self.variant = variant
        self.num_actions = num_actions
        self.feed_back = feed_back
        self.warmup = warmup
        self.control_weight = control_weight
        self.reward_weight = reward_weight
        self.network = Network(preset, num_actions, precision)
        self.network.reward_head.trainable = reward_weight > 0
        self.network.termination_head.trainable = reward_weight > 0
        self.pixel_loss = keras.metrics.Mean(name="pixel_loss")
        if reward_weight:
            self.reward_loss = keras.metrics.Mean(name="reward_loss")
            self.termination_loss = keras.metrics.Mean(name="termination_loss")
        self.built = True

    def initial_state(self, batch_size: int):
        """The LSTM state h and c before the first frame, zeros (batch_size, 2048) each."""
        zeros = ops.zeros((batch_size, self.preset.units), "float32")
        return zeros, zeros

    def observe(self, frames, actions, state: State | None = None) -> State:
        """Updates the state with real frames (warm-up).

        Args:
            frames: uint8 (batch, time, height, width[, channels]).
            actions: int (batch, time - 1), the actions between the frames. With a `state`, int
                (batch, time), starting with the action that led to the first frame.
            state: the state before the frames; None at the start of an episode or window.
        """
        frames = self.network.normalise(frames)
        if state is None:
            h, c = self.initial_state(ops.shape(frames)[0])
            encodings, recent = self.network.encode(frames)
            inputs = encodings[:, :-1]
        else:
            encoding, h, c, recent = state
            encodings, recent = self.network.encode(frames, recent)
            inputs = ops.concatenate([encoding[:, None], encodings[:, :-1]], axis=1)
        if inputs.shape[1]:
            outputs, cells = self.network.core(inputs, actions, h, c)
            h, c = outputs[:, -1], cells[:, -1]
        return State(encodings[:, -1], h, c, recent)

    def imagine(self, state: State, actions):
        """Rolls out under `actions` without seeing a frame.

        Args:
            state: as `observe` or `imagine` returns it.
            actions: int (batch, time); the first one is taken in the state's current frame.

        Returns:
            outputs: the LSTM's, (batch, time, 2048), for `Network.decode` and the heads.
            frames: normalised predictions (batch, time, height, width, channels) in the paper
                variant; None in the compression variant.
            state: after the last action. The compression variant predicts no frames, so its
                `recent` remains the last real frames.
        """
        network = self.network
        if self.variant == "compression":
            outputs, cells = network.core(state.encoding[:, None], actions, state.h, state.c)
            h = outputs[:, -1]
            return outputs, None, State(h, h, cells[:, -1], state.recent)

        def step(carried, action):
            encoding, h, c, recent, _ = carried
            outputs, cells = network.core(encoding[:, None], action[:, None], h, c)
            frame = network.decode(outputs)
            encodings, recent = network.encode(frame, recent)
            after = encodings[:, 0], outputs[:, 0], cells[:, 0], recent, frame[:, 0]
            # A scan's carry keeps its dtypes, but a state may come in float32 or as computed.
            after = tuple(ops.cast(x, old.dtype) for x, old in zip(after, carried, strict=True))
            return after, after

        # The backend's scan and not a Python loop, because it is compiled once. It also sums a
        # weight's gradient step by step, where a Python loop would hold those of all steps.
        no_frame = ops.zeros((ops.shape(state.h)[0], *self.preset.frame_shape), "float32")
        (*end, _), (_, outputs, _, _, frames) = ops.scan(
            step, (*state, no_frame), ops.swapaxes(actions, 0, 1), unroll=UNROLLED_STEPS
        )
        return ops.swapaxes(outputs, 0, 1), ops.swapaxes(frames, 0, 1), State(*end)

    def call(self, batch, training=None):
        """Predicts what the training loss needs.

        Returns:
            dict of frames, normalised, float32 (batch, predictions, height, width, channels); and,
            with a reward weight, the logits reward (batch, steps, 3) and termination (batch,
            steps).
        """
        frames, actions, warmup = batch["frames"], batch["actions"], self.warmup
        if self.variant == "paper" and self.feed_back:
            state = self.observe(frames[:, :warmup], actions[:, : warmup - 1])
            outputs, predicted, _ = self.imagine(state, actions[:, warmup - 1 :])
        else:
            # Warm-up and predictions in one pass, so that weight gradients are formed once.
            given = warmup if self.feed_back else frames.shape[1] - 1
            encodings, _ = self.network.encode(self.network.normalise(frames[:, :given]))
            h, c = self.initial_state(ops.shape(frames)[0])
            outputs, _ = self.network.core(encodings, actions, h, c)
            outputs = outputs[:, warmup - 1 :]
            decoded = outputs
            if "steps" in batch:
                decoded = ops.take_along_axis(outputs, batch["steps"][..., None], axis=1)
            predicted = self.network.decode(decoded)
        predictions = {"frames": predicted}
        if self.reward_weight:
            predictions["reward"] = self.network.reward_head(outputs)
            predictions["termination"] = self.network.termination_head(outputs)[..., 0]
        return predictions

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted frame loss plus the heads' weighted cross-entropies.

        The metric `pixel_loss` is the frame loss without weights; `reward_loss` and
        `termination_loss` are the heads' cross-entropies.
        """
        error = y_pred["frames"] - self.network.normalise(x["frames"][:, self.warmup :])
        plain, loss = frame_loss(error, x.get("controlled"), self.control_weight)
        self.pixel_loss.update_state(plain)
        if self.reward_weight:
            predicted_steps = slice(self.warmup - 1, None)
            reward = reward_cross_entropy(x["rewards"][:, predicted_steps], y_pred["reward"])
            termination = termination_cross_entropy(
                x["terminations"][:, predicted_steps], y_pred["termination"]
            )
            self.reward_loss.update_state(reward)
            self.termination_loss.update_state(termination)
            num_pixels = math.prod(self.preset.frame_shape)
            loss = loss + self.reward_weight * num_pixels * (reward + termination)
        return loss


class Observation(keras.Model):
    """`FramePredictor.observe`, compiled for any backend.

    ``Observation(predictor).predict_on_batch({"frames": ..., "actions": ..., "state": ...})``. Make
    one instance for each number of frames, with or without a state.
    """

    def __init__(self, predictor: FramePredictor):
        super().__init__(name="observation", dtype=predictor.dtype_policy, autocast=False)
        self.predictor = predictor
        self.built = True

    def call(self, batch):
        """The `State` after the frames; see `FramePredictor.observe`."""
        return self.predictor.observe(batch["frames"], batch["actions"], batch.get("state"))


class Moments(keras.Model):
    """The states at the last frames of a run, each as if the run had ended there.

    ``Moments(predictor).predict_on_batch({"frames": ..., "actions": ...})``, of the compression
    variant. Each frame is encoded once, however many states there are.
    """

    def __init__(self, predictor: FramePredictor):
        super().__init__(name="moments", dtype=predictor.dtype_policy, autocast=False)
        self.predictor = predictor
        self.built = True

    def call(self, batch):
        """Observes the frames from the LSTM's initial state on.

        Args:
            batch: dict of frames, uint8 (batch, time, height, width[, channels]), and actions, int
                (batch, time - 1).

        Returns:
            a `State` of arrays (batch, time - warmup + 1, ...). `recent` is empty, because the
            compression variant needs it for real frames alone.
        """
        predictor, frames = self.predictor, batch["frames"]
        encodings, _ = predictor.network.encode(predictor.network.normalise(frames))
        zeros = predictor.initial_state(ops.shape(frames)[0])
        outputs, cells = predictor.network.core(encodings[:, :-1], batch["actions"], *zeros)
        first = predictor.warmup - 1
        last = outputs[:, first - 1 :], cells[:, first - 1 :]
        return State(encodings[:, first:], *last, encodings[:, first:, :0])


class Imagination(keras.Model):
    """A rollout from a state, as planners and environments need it.

    ``Imagination(predictor).predict_on_batch({"state": state, "actions": actions})`` compiles it
    for any backend.

    Args:
        predictor: the predictor to roll out.
        decode: whether to return frames; the compression variant is faster without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        # Without autocast, because the state is float32 whatever the products are computed in.
        super().__init__(name="imagination", dtype=predictor.dtype_policy, autocast=False)
        self.predictor = predictor
        self.decode = decode
        self.built = True

    def call(self, batch):
        """Rolls out from the state.

        Args:
            batch: dict of state, a `State`, and actions, int (batch, horizon).

        Returns:
            dict of state, the `State` after the last action, and what `decode_outputs` returns.
        """
        outputs, frames, state = self.predictor.imagine(batch["state"], batch["actions"])
        predictions = decode_outputs(self.predictor.network, outputs, self.decode, frames)
        return {"state": state, **predictions}


def decode_outputs(network: Network, outputs, decode: bool, frames=None) -> dict:
    """Reward, termination and frames predicted by the LSTM's outputs.

    Args:
        network: the network that made the outputs.
        outputs: (batch, time, 2048).
        decode: whether to return frames.
        frames: normalised frames, if they are decoded already.

    Returns:
        dict of reward, probabilities of -1, 0 and +1, float32 (batch, time, 3); termination,
        probability, float32 (batch, time); and, if asked for, frames, grey levels in 0 to 255,
        float32 (batch, time, height, width, channels).
    """
    predictions = {
        "reward": ops.softmax(network.reward_head(outputs)),
        "termination": ops.sigmoid(network.termination_head(outputs)[..., 0]),
    }
    if decode:
        frames = network.decode(outputs) if frames is None else frames
        predictions["frames"] = network.denormalise(frames)
    return predictions


class RollOut(keras.Model):
    """A rollout from warm-up frames, as evaluation and videos need it.

    ``RollOut(predictor).predict_on_batch(batch)`` compiles it for any backend.
    """

    def __init__(self, predictor: FramePredictor):
        super().__init__(name="roll_out", dtype=predictor.dtype_policy)
        self.predictor = predictor
        self._observation, self._imagination = Observation(predictor), Imagination(predictor)
        self.built = True

    def in_pieces(self, frames, actions, length: int) -> Iterator[dict[str, np.ndarray]]:
        """Rolls out some steps after the other, so that not all frames are held at once.

        Args:
            frames, actions: as `call` takes them.
            length: steps of each piece. The last one may have fewer.

        Yields:
            what `call` returns, of each piece.
        """
        known, ahead = np.split(actions, [frames.shape[1] - 1], axis=1)
        state = self._observation.predict_on_batch({"frames": frames, "actions": known})
        # All pieces are of one length, for which the roll-out is compiled once.
        steps = ahead.shape[1]
        ahead = np.pad(ahead, ((0, 0), (0, -steps % length)))
        for start in range(0, steps, length):
            batch = {"state": state, "actions": ahead[:, start : start + length]}
            piece = self._imagination.predict_on_batch(batch)
            state = piece.pop("state")
            yield {key: values[:, : steps - start] for key, values in piece.items()}

    def call(self, batch):
        """Observes the frames, then rolls out.

        Args:
            batch: dict of frames, uint8 (batch, warmup, height, width[, channels]), and actions,
                int (batch, warmup - 1 + horizon).

        Returns:
            dict of frames, reward and termination of `horizon` steps; see `decode_outputs`.
        """
        frames, actions = batch["frames"], batch["actions"]
        warmup = frames.shape[1]
        state = self.predictor.observe(frames, actions[:, : warmup - 1])
        predictions = self._imagination.call({"state": state, "actions": actions[:, warmup - 1 :]})
        return {key: predictions[key] for key in ("frames", "reward", "termination")}
