"""The frame predictor: encode, step the LSTM, decode; and the two ways of looking ahead.

**paper** decodes each predicted frame, encodes it again and feeds it back (Oh et al. 2015, arXiv
1507.08750, section 3.4). **compression** feeds the LSTM's own output back in place of an encoding,
and decodes only what somebody wants to look at. Shapes are written (batch, time, ...).
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from model.loss import frame_loss, reward_loss
from model.networks import PRESETS, Network

VARIANTS = ("paper", "compression")
# Steps of the paper variant's loop that may overlap: one at a time leaves a sixth of the speed.
STEPS_AT_ONCE = 5
REWARD_CLASSES = (-1, 0, 1)  # the sign of the reward, as in Oh et al.'s clipped DQN rewards


class State(NamedTuple):
    """What the predictor knows of the game: everything `imagine` needs to go on.

    `encoding` is the LSTM's next input, of the frame in which the next action will be taken.
    """

    encoding: Any  # (batch, 2048) float32
    h: Any  # (batch, 2048) float32
    c: Any  # (batch, 2048) float32
    recent: Any  # (batch, stack - 1, height, width, channels): the frames before the current one's
    # successor, normalised, oldest first; what the next encoding will be stacked upon


class FramePredictor(keras.Model):
    """Predicts frames, the reward's sign and termination from past frames and all actions.

    A batch to train on is a dict of
        frames        uint8 (batch, warmup + predictions, height, width, channels), or
                      (batch, warmup + predictions, height, width) of palette indices
        actions       int32 (batch, warmup + steps - 1); action t leads from frame t to t + 1
        rewards       float32, like actions; reward t is what action t earned
        terminations  bool, like actions
        steps         int32 (batch, predictions), which of the steps after the warm-up each of the
                      last frames is, from 0; may be left out where they are all of them
        controlled    uint8 (batch, predictions, height, width), how far the player decides each
                      pixel of the last frames, 255: wholly; may be left out

    Args:
        preset: a name in `model.networks.PRESETS`.
        variant: "paper" or "compression".
        num_actions: size of the action set.
        precision: "float32" or "mixed_bfloat16"; weights and LSTM state are float32 in both.
            "bfloat16" keeps the weights in it too: for imagining, which then casts none.
        feed_back: whether training feeds predictions back; without, every prediction is one step
            ahead of real frames. Inference always feeds back.
        warmup: real frames before the first prediction.
        control_weight: how much more a pixel's error counts where the player decides it.
        reward_weight: weight of the reward's and termination's cross-entropy for each pixel of the
            frame, so that it counts alike in frames of any size; 0 leaves both heads untrained.
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
        self.built = True

    def initial_state(self, batch_size: int):
        """The LSTM state (h, c) before the first frame."""
        zeros = ops.zeros((batch_size, self.preset.units), "float32")
        return zeros, zeros

    def observe(self, frames, actions, state: State | None = None) -> State:
        """Takes in real frames.

        Args:
            frames: uint8 (batch, time, height, width[, channels]).
            actions: int (batch, time - 1), between the frames; with a `state` to go on from,
                (batch, time), beginning with the action that led to the first frame.
            state: what is known already; None at the start of an episode or window.
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
        """Looks ahead under `actions` without seeing a frame.

        Args:
            state: what `observe` or `imagine` returned.
            actions: int (batch, time); the first one is taken in the state's current frame.

        Returns:
            outputs: the LSTM's, (batch, time, 2048), for `decode` and the heads.
            frames: normalised predictions, where the variant has to make them (paper), else None.
            state: after the last action. The compression variant's `recent` stays at the last
                real frames: it has no frames of its own.
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
            # A loop's values keep their dtypes: a state may come in float32 or as it was computed.
            after = tuple(ops.cast(x, old.dtype) for x, old in zip(after, carried, strict=True))
            return after, after

        # A loop of the backend's own, not of Python: it is compiled once, and the gradient of a
        # weight is summed step by step where otherwise those of all steps wait for one another.
        unseen = ops.zeros((ops.shape(state.h)[0], *self.preset.frame_shape), "float32")
        (*end, _), (_, outputs, _, _, frames) = ops.scan(
            step, (*state, unseen), ops.swapaxes(actions, 0, 1), unroll=STEPS_AT_ONCE
        )
        return ops.swapaxes(outputs, 0, 1), ops.swapaxes(frames, 0, 1), State(*end)

    def call(self, batch, training=None):
        """What the training loss needs: predictions of the frames from `warmup` on, and logits."""
        frames, actions, warmup = batch["frames"], batch["actions"], self.warmup
        if self.variant == "paper" and self.feed_back:
            state = self.observe(frames[:, :warmup], actions[:, : warmup - 1])
            outputs, predicted, _ = self.imagine(state, actions[:, warmup - 1 :])
        else:
            # Warm-up and predictions as one pass: the weights' gradients are formed once.
            known = warmup if self.feed_back else frames.shape[1] - 1
            encodings, _ = self.network.encode(self.network.normalise(frames[:, :known]))
            h, c = self.initial_state(ops.shape(frames)[0])
            outputs, _ = self.network.core(encodings, actions, h, c)
            outputs = outputs[:, warmup - 1 :]
            shown = outputs
            if "steps" in batch:
                shown = ops.take_along_axis(outputs, batch["steps"][..., None], axis=1)
            predicted = self.network.decode(shown)
        predictions = {"frames": predicted}
        if self.reward_weight:
            predictions["reward"] = self.network.reward_head(outputs)
            predictions["termination"] = self.network.termination_head(outputs)[..., 0]
        return predictions

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`frame_loss`, and the heads' cross-entropy. `pixel_loss` is the plain error."""
        error = y_pred["frames"] - self.network.normalise(x["frames"][:, self.warmup :])
        plain, loss = frame_loss(error, x.get("controlled"), self.control_weight)
        self.pixel_loss.update_state(plain)
        if self.reward_weight:
            told = reward_loss(x["rewards"][:, self.warmup - 1 :], y_pred["reward"])
            terminations = ops.cast(x["terminations"][:, self.warmup - 1 :], "float32")
            termination_loss = keras.losses.binary_crossentropy(
                terminations, y_pred["termination"], from_logits=True
            )
            told = told + ops.mean(termination_loss)
            self.reward_loss.update_state(told)
            loss = loss + self.reward_weight * math.prod(self.preset.frame_shape) * told
        return loss


class Observation(keras.Model):
    """Taking in real frames: `FramePredictor.observe`, compiled for any backend.

    ``Observation(predictor).predict_on_batch({"frames": ..., "actions": ..., "state": ...})``; one
    instance for each number of frames, with or without a state to go on from.
    """

    def __init__(self, predictor: FramePredictor):
        super().__init__(name="observation", dtype=predictor.dtype_policy, autocast=False)
        self.predictor = predictor
        self.built = True

    def call(self, batch):
        """The `State` after the frames; see `FramePredictor.observe`."""
        return self.predictor.observe(batch["frames"], batch["actions"], batch.get("state"))


class Imagination(keras.Model):
    """Looking ahead from a state, as planners and environments do it.

    ``Imagination(predictor).predict_on_batch({"state": state, "actions": actions})`` compiles it
    for any backend.

    Args:
        predictor: whose roll-out it is.
        decode: whether frames are wanted; the compression variant does without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        # The state stays float32 whatever the products are computed in.
        super().__init__(name="imagination", dtype=predictor.dtype_policy, autocast=False)
        self.predictor = predictor
        self.decode = decode
        self.built = True

    def call(self, batch):
        """Looks ahead.

        Args:
            batch: dict of state, a `State`, and actions, int (batch, horizon).

        Returns:
            dict of state, the `State` after the last action; reward float32 (batch, horizon, 3),
            the probabilities of -1, 0 and +1; termination (batch, horizon), its probability; and,
            if they are decoded, frames (batch, horizon, height, width, channels) in 0 to 255.
        """
        outputs, frames, state = self.predictor.imagine(batch["state"], batch["actions"])
        return {"state": state, **look(self.predictor.network, outputs, self.decode, frames)}


def look(network: Network, outputs, decode: bool, frames=None) -> dict:
    """What the LSTM's outputs (batch, time, 2048) say, as `Imagination` returns it.

    Args:
        network, outputs: whose they are.
        decode: whether frames are wanted.
        frames: normalised, where they have been decoded already.
    """
    result = {
        "reward": ops.softmax(network.reward_head(outputs)),
        "termination": ops.sigmoid(network.termination_head(outputs)[..., 0]),
    }
    if decode:
        frames = network.decode(outputs) if frames is None else frames
        result["frames"] = network.denormalise(frames)
    return result


class RollOut(keras.Model):
    """A predictor as its user sees it: warm-up frames and actions in, predictions out.

    ``RollOut(predictor).predict_on_batch(batch)`` compiles it for any backend.
    """

    def __init__(self, predictor: FramePredictor):
        super().__init__(name="roll_out", dtype=predictor.dtype_policy)
        self.predictor = predictor
        self.imagination = Imagination(predictor)
        self.built = True

    def call(self, batch):
        """Rolls out.

        Args:
            batch: dict of frames, uint8 (batch, warmup, height, width[, channels]), and actions,
                int (batch, warmup - 1 + horizon).

        Returns:
            dict of float32 frames (batch, horizon, height, width, channels) in 0 to 255, reward
            (batch, horizon, 3), the probabilities of -1, 0 and +1, and termination (batch,
            horizon), its probability.
        """
        frames, actions = batch["frames"], batch["actions"]
        warmup = frames.shape[1]
        state = self.predictor.observe(frames, actions[:, : warmup - 1])
        found = self.imagination.call({"state": state, "actions": actions[:, warmup - 1 :]})
        return {key: found[key] for key in ("frames", "reward", "termination")}


def paper_model(preset: str, num_actions: int, **options) -> FramePredictor:
    """The paper variant: predicted frames are encoded again. See FramePredictor for options."""
    return FramePredictor(preset, "paper", num_actions, **options)


def compression_model(preset: str, num_actions: int, **options) -> FramePredictor:
    """The compression variant: the LSTM feeds itself. See FramePredictor for options."""
    return FramePredictor(preset, "compression", num_actions, **options)
