"""How training begins: the convolutions alone, then the layers between them as go-betweens.

Dense layers and an LSTM know nothing of places: what is small they have to learn anew for each
place that it can be in, of which a data set shows some a few times and most never. Convolutions
learn it once for all places. So the encoder's and the decoder's first predict by themselves, told
the action in every place. The paper variant's predict the next frame, and see it again to predict
the one after; between the compression variant's the features go on from step to step by a linear
map, itself two convolutions. The reward's convolutions learn along with them. Then the layers
between them start out as what does the same to the features' principal components.
"""

import math

import keras
import numpy as np
from keras import ops

from model.loss import frame_loss, reward_loss
from model.networks import LEAK, Network, leaky_relu
from model.predictor import FramePredictor

OPEN = 1.0  # bias of the gates that let the LSTM's input in and its cell out
CLOSED = -4.0  # bias of the one that lets the old cell stay, which would blur what moves
# Standard deviation of a component in the encoding: so far tanh is nearly straight, once or, where
# the LSTM goes on from its own output, many times in a row.
SPREAD_ONCE, SPREAD_AGAIN = 0.15, 0.05
BEFORE = 0.25  # how large the features before a step are in its output, beside those after it
# Standard deviation of what an action adds to a feature, at first: so much larger than the feature
# that the units after it are switched by the action. Smaller, it takes long to be heeded at all.
ACTION_PLANES = 6.0
ACTION_CHANNELS = 32  # of the linear dynamics, beside those that start out as the identity
REWARD_WEIGHT = 0.1  # of the reward's cross-entropy for each pixel of the frame
PLACE_WEIGHT = 0.3  # of the cross-entropy of where to look, over the reward's
# Of the linear dynamics' two kernels, over the identity's, at first: features shrink from step to
# step until they have learned to last. Ones that grow drown what the first steps have learned.
KERNEL_SIZE = 0.55
PLACE_SPREAD = 0.3  # deviation of the linear dynamics' factors from place to place, at first
ACTION_SPREAD = 0.1  # of the action's factor
ACTION_SIGNAL = 0.3  # input to the LSTM of the unit that stands for the action taken
# Bound of the features that are followed: none comes near it but where the dynamics have not yet
# learned to go on for so long, and there it keeps their error a number.
LARGEST = 1e5


class Convolutions(keras.Model):
    """Predicts the frames after a stack of frames, by a network's convolutions alone.

    A batch to train on is a dict as `model.predictor.FramePredictor` takes it. Its first `stack`
    frames are shown, and those after them are predicted, `steps` where the batch has it.

    How what is seen goes on from step to step, a kind of these says by `call`, which returns a dict
    of frames, normalised, float32 (batch, predictions, height, width, channels); reward, logits of
    its sign, (batch, predictions, 3); and where, logits of the place that this is told by, (batch,
    predictions, places).

    Args:
        network: whose convolutions they are, the reward head's among them.
        control_weight: as `FramePredictor` takes it.

    Attributes:
        step_weights: float32 (steps,), how much the error of each step counts; None: all alike.
    """

    TOLD_BY = 1  # how many moments' features the reward is told by
    own_rate = 1.0  # learning rate of the weights that are no network's, over the others'

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(name="convolutions", dtype=network.dtype_policy)
        self.control_weight, self.step_weights = control_weight, None
        self.stack, self.grid = network.preset.stack, network.preset.decoder_start
        self.convolutions = [*network.convolutions, *network.decoder.convs]
        head = network.reward_head
        self.convolutions += [head.conv, head.verdict]
        # Which of a place's features the reward is told by.
        shape = self.grid[-1], head.CHANNELS
        self.reward_channels = [
            self.add_weight(shape, "he_normal", name=f"reward_channels_{i}")
            for i in range(self.TOLD_BY)
        ]
        # As functions: a network among the attributes would be trained as a whole.
        self._normalise, self._features = network.normalise, network.features
        self._draw, self._judge = network.decoder.draw, head.judge

    def draw(self, features):
        """Normalised frames from features (batch, *decoder_start)."""
        return self._draw(leaky_relu(features))  # as the decoder's dense layer will make them

    def judge(self, *moments):
        """What the reward head makes of features (batch, *decoder_start) of `TOLD_BY` moments."""
        told_by = [
            ops.matmul(features, ops.cast(ops.convert_to_tensor(channels), features.dtype))
            for features, channels in zip(moments, self.reward_channels, strict=True)
        ]
        return self._judge(sum(told_by))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`model.loss.frame_loss`, and the cross-entropy of the reward and of where it is told by.

        Most rewards are earned where the player decides something, so there is where to look:
        without being told so, to find the place takes far longer than to tell what happens there.
        """
        error = y_pred["frames"] - self._normalise(x["frames"][:, self.stack :])
        weights = self.step_weights
        if weights is not None and "steps" in x:
            weights = ops.take(weights, x["steps"], axis=0)
        loss = frame_loss(error, x.get("controlled"), self.control_weight, weights)[1]
        rewards = x["rewards"][:, self.stack - 1 :]
        if "steps" in x:
            rewards = ops.take_along_axis(rewards, x["steps"], axis=1)
        telling = reward_loss(rewards, y_pred["reward"])
        if "controlled" in x:
            decided = self._by_place(x["controlled"])
            where = ops.log_softmax(y_pred["where"])
            looked = ops.sum(decided * where, axis=-1) / ops.maximum(ops.sum(decided, axis=-1), 1)
            telling = telling - PLACE_WEIGHT * ops.mean(looked)
        return loss + REWARD_WEIGHT * math.prod(error.shape[2:]) * telling

    def _by_place(self, controlled):
        """Mean of `controlled` (batch, time, height, width) over each place's pixels.

        float32 (batch, time, places).
        """
        _, time, height, width = controlled.shape
        pixels = math.ceil(height / self.grid[0]), math.ceil(width / self.grid[1])
        x = ops.reshape(ops.cast(controlled, "float32"), (-1, height, width, 1))
        x = ops.average_pool(x, pixels, pixels, padding="same")
        return ops.reshape(x, (-1, time, self.grid[0] * self.grid[1]))


class NextFrame(Convolutions):
    """Sees the next frame alone: the action is added to the features, in all places alike.

    What comes after that it predicts from its own predictions, as the paper variant does.
    """

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(network, control_weight)
        self.action_planes = keras.layers.Embedding(
            network.core.num_actions,
            self.grid[-1],
            keras.initializers.RandomNormal(stddev=ACTION_PLANES),
            dtype=network.dtype_policy,
            name="action_planes",
        )
        self.action_planes.build(())
        self.built = True

    def call(self, batch):
        """One frame for each action from the stack's last frame on."""
        frames, found = self._normalise(batch["frames"][:, : self.stack]), []
        actions = batch["actions"][:, self.stack - 1 :]
        for t in range(actions.shape[1]):
            planes = self.action_planes(actions[:, t])[:, None, None]
            features = self._features(frames) + planes
            frame = self.draw(features)
            found.append((frame, *self.judge(features)))
            frames = ops.concatenate([frames[:, 1:], frame[:, None]], axis=1)
        predicted, reward, where = (ops.stack(part, axis=1) for part in zip(*found, strict=True))
        return {"frames": predicted, "reward": reward, "where": where}


class LinearDynamics(Convolutions):
    """Goes on for as many steps as there are actions, each a linear map of the features.

    Two convolutions of three by three, with a bias for each place, and between them more channels
    than the features have, each with a factor for each action and one for each place: a maze does
    not move, and what an action does depends on where. The first of these channels start out as,
    nearly, a share of the identity, the others as what differs from action to action.

    The reward of a step is told by the features after it and before it: that a pill was there and
    is there no more is no linear matter, so that features which go on linearly cannot hold it.
    """

    TOLD_BY = 2

    def __init__(self, network: Network, control_weight: float = 0.0):
        super().__init__(network, control_weight)
        height, width, channels = self.grid
        # An identity of many channels is a large matrix, of which a share is a large step, but what
        # it may grow by from step to step is the same.
        self.own_rate = min(1.0, math.sqrt(32 / channels))
        between = channels + ACTION_CHANNELS

        def kernel(shape, name, seed):
            def nearly_identity(shape, dtype=None):
                # In all no more than half as large as what comes in, however many channels it has.
                deviation = min(0.03, 0.5 / math.sqrt(9 * channels))
                noise = keras.random.normal(shape, stddev=deviation, seed=seed, dtype=dtype)
                middle = np.zeros(shape)
                middle[1, 1, :channels, :channels] = np.eye(channels)
                return KERNEL_SIZE * (noise + ops.convert_to_tensor(middle, dtype))

            return self.add_weight((3, 3, *shape), nearly_identity, name=name)

        def by_place(name, channels, initializer="zeros"):
            return self.add_weight((height, width, channels), initializer, name=name)

        def action_factors(shape, dtype=None):
            around = np.repeat([1.0, 0.0], [channels, ACTION_CHANNELS])
            spread = np.repeat([0.3, 1.0], [channels, ACTION_CHANNELS])
            noise = keras.random.normal(shape, seed=3, dtype=dtype)
            return noise * ops.convert_to_tensor(spread, dtype) + around

        self.kernels = (
            kernel((channels, between), "before", 1),
            kernel((between, channels), "after", 2),
        )
        self.biases = by_place("before_bias", between), by_place("after_bias", channels)
        place_factors = keras.initializers.RandomNormal(1.0, PLACE_SPREAD, seed=4)
        self.place_factors = by_place("place_factors", between, place_factors)
        shape = network.core.num_actions, between
        self.action_factors = self.add_weight(shape, action_factors, name="action_factors")
        self.built = True

    def call(self, batch):
        """Of all steps, or of those that the batch's `steps` names."""
        stack = self.stack
        features = self.follow(batch["frames"][:, :stack], batch["actions"][:, stack - 1 :])
        after, before = features[:, 1:], features[:, :-1]
        if "steps" in batch:
            steps = batch["steps"][..., None, None, None]
            after, before = (ops.take_along_axis(x, steps, axis=1) for x in (after, before))
        time = after.shape[1]
        after, before = (ops.reshape(x, (-1, *self.grid)) for x in (after, before))
        found = self.draw(after), *self.judge(after, before)
        found = (ops.reshape(part, (-1, time, *part.shape[1:])) for part in found)
        return dict(zip(("frames", "reward", "where"), found, strict=True))

    def follow(self, frames, actions):
        """Features now and after each action, (batch, 1 + time, *decoder_start).

        After the actions they are those before the decoder's activation.

        Args:
            frames: uint8 (batch, stack, height, width[, channels]).
            actions: int (batch, time), the first one taken in the last of the frames.
        """
        found = [self._features(self._normalise(frames))]
        for t in range(actions.shape[1]):
            found.append(ops.clip(self.advance(found[-1], actions[:, t]), -LARGEST, LARGEST))
        return ops.stack(found, axis=1)

    def advance(self, features, actions):
        """The features (batch, *decoder_start) one step on, in their own dtype."""
        before, after, before_bias, after_bias, by_place, by_action = (
            ops.cast(ops.convert_to_tensor(weight), features.dtype)
            for weight in (*self.kernels, *self.biases, self.place_factors, self.action_factors)
        )
        x = ops.conv(features, before, padding="same") + before_bias
        x = x * by_place * ops.take(by_action, actions, axis=0)[:, None, None]
        return ops.conv(x, after, padding="same") + after_bias


class ConvolutionsRollOut(keras.Model):
    """What the convolutions foresee by themselves, as `model.predictor.RollOut` returns it.

    No termination is told yet: its probability is 0.

    Args:
        predictor: whose network's convolutions they are.
        alone: those.
    """

    def __init__(self, predictor: FramePredictor, alone: Convolutions):
        super().__init__(name="convolutions_roll_out", dtype=predictor.dtype_policy)
        self.predictor, self.alone = predictor, alone
        self.built = True

    def call(self, batch):
        """Rolls out from the last of the frames; see `model.predictor.RollOut`."""
        before = batch["frames"].shape[1] - self.alone.stack
        found = self.alone.call({key: batch[key][:, before:] for key in ("frames", "actions")})
        return {
            "frames": self.predictor.network.denormalise(found["frames"]),
            "reward": ops.softmax(found["reward"]),
            "termination": ops.zeros(found["reward"].shape[:2]),
        }


def hand_on(network: Network, next_frame: NextFrame, frames: np.ndarray) -> None:
    """Sets all layers between the convolutions so that they predict as `NextFrame` does.

    Half of the encoding holds the features' leading principal components over `frames`, each of one
    standard deviation, the other half the same with the other sign, for the activation would all
    but lose one of them. The LSTM's candidate takes them as they are and its output gives them back
    as large as they came in, so that it can feed itself. Some units stand for one action each.

    Args:
        network: whose convolutions are trained.
        next_frame: what they were trained with.
        frames: what the components are found by, uint8 (count, stack, height, width[, channels]).
    """
    core, units = network.core, network.preset.units
    (action_planes,) = _values(next_frame.action_planes.embeddings)
    count = units // 2 - math.ceil(core.num_actions / 2)
    found = _principal_components(_features(network, frames), count)
    plus, minus = _through_components(network, *found, SPREAD_ONCE)
    actions = slice(2 * count, 2 * count + core.num_actions)

    input_kernel = np.zeros((units, units))
    # leaky_relu(p) - leaky_relu(-p) = (1 + LEAK) p
    both = np.eye(count) / (1 + LEAK)
    input_kernel[plus, plus] = input_kernel[minus, minus] = both
    input_kernel[plus, minus] = input_kernel[minus, plus] = -both
    input_bias = np.zeros(units)
    input_bias[actions] = ACTION_SIGNAL
    action_kernel = np.random.default_rng(0).normal(0, ACTION_SPREAD, core.action_kernel.shape)
    action_kernel[:, actions] = np.eye(core.num_actions) - 1  # one factor is 1, the others are 0
    core.action_kernel.assign(action_kernel)
    gain = _through_gates(core, input_kernel, input_bias, np.eye(units), np.zeros(units))

    opened, stays = _sigmoid(OPEN), _sigmoid(CLOSED)
    signal = opened * np.tanh(opened * np.tanh(gain * ACTION_SIGNAL) / (1 - stays))
    dense = network.decoder.dense
    (kernel,) = _values(dense.kernel)
    places = kernel.shape[-1] // action_planes.shape[-1]
    kernel[actions] = np.tile(action_planes, places) / signal
    dense.kernel.assign(kernel)
    _hand_on_reward(network, next_frame, kernel)


def hand_on_dynamics(
    network: Network, dynamics: LinearDynamics, frames: np.ndarray, actions: np.ndarray
) -> None:
    """Sets all layers between the convolutions so that they predict as `LinearDynamics` does.

    Encoding and LSTM output hold principal components as in `hand_on`, here of what is seen and
    what is foreseen. Of the inputs to the LSTM as many as there are components hold them as the
    average action moves them. The others are shared out among the actions: each has the leading
    singular vectors of what it does otherwise, and is switched off under all others.

    With both signs, a component takes two of the LSTM's outputs, and their difference tells it. So
    their sum is free to tell what the component was before the step, for the reward.

    Args:
        network: whose convolutions are trained.
        dynamics: what they were trained with.
        frames: what the components are found by, uint8 (count, stack, height, width[, channels]).
        actions: int (count, time), from each stack's last frame on.
    """
    core, units = network.core, network.preset.units
    num_actions, count = core.num_actions, units // 2
    everything = _batches(dynamics.follow, frames, actions)
    everything = everything.reshape(-1, math.prod(network.preset.decoder_start))
    mean, components, deviations = _principal_components(everything, count)
    plus, minus = _through_components(network, mean, components, deviations, SPREAD_AGAIN)

    # What each action does to the components, and to 1, in the encoding's units.
    scale = SPREAD_AGAIN / deviations

    def moved(features, action):
        features = features.reshape(-1, *network.preset.decoder_start).astype(np.float32)
        after = dynamics.advance(features, np.full(len(features), action))
        return ops.convert_to_numpy(after).reshape(len(features), -1)

    maps = np.empty((num_actions, count + 1, count))
    for action in range(num_actions):
        after_mean = moved(mean, action)
        matrix = (moved(mean + components.T, action) - after_mean) @ components
        maps[action, :count] = matrix * scale / scale[:, None]
        maps[action, count] = (after_mean - mean)[0] @ components * scale
    average = maps.mean(axis=0)

    input_kernel, input_bias = np.zeros((units, units)), np.zeros(units)
    input_kernel[plus, plus] = np.eye(count)
    candidate = np.zeros((units, count))
    candidate[plus] = average[:count]
    action_kernel = np.zeros((num_actions, units))
    share = (units - count) // num_actions
    for action in range(num_actions):
        # As large as a component is where it stands for 1, so that no factor is out of scale.
        otherwise = maps[action] - average
        otherwise[count] /= SPREAD_AGAIN
        left, values, right = np.linalg.svd(otherwise, full_matrices=False)
        left, right = left * np.sqrt(values), right * np.sqrt(values)[:, None]
        own = slice(count + action * share, count + (action + 1) * share)
        input_kernel[plus, own] = left[:count, :share]
        input_bias[own] = left[count, :share] * SPREAD_AGAIN
        candidate[own] = right[:share]
        action_kernel[:, own] = np.eye(num_actions)[:, action : action + 1] - 1
    input_kernel[minus] = -input_kernel[plus]
    core.action_kernel.assign(action_kernel)
    before = np.zeros((units, count))
    before[plus] = BEFORE * np.eye(count)
    _through_gates(
        core,
        input_kernel / (1 + LEAK),
        input_bias,
        np.concatenate([before + candidate, before - candidate], axis=1),
        np.concatenate([average[count], -average[count]]),
    )
    (after_kernel,) = _values(network.decoder.dense.kernel)
    before_kernel = after_kernel / BEFORE
    before_kernel[minus] *= -1
    _hand_on_reward(network, dynamics, after_kernel, before_kernel)


def _hand_on_reward(network, trained, *kernels):
    """Makes the reward head find in the LSTM's output what it is told by in the features.

    `kernels` are what finds there the features of each moment.
    """
    head, kernel, bias = network.reward_head.dense, 0, 0
    (mean,) = _values(network.decoder.dense.bias)
    for found, channels in zip(kernels, _values(*trained.reward_channels), strict=True):
        kernel += found.reshape(-1, len(channels)) @ channels
        bias += mean.reshape(-1, len(channels)) @ channels
    head.kernel.assign(kernel.reshape(head.kernel.shape))
    head.bias.assign(bias.reshape(head.bias.shape))


def _through_components(network, mean, components, deviations, spread):
    """Makes the encoder's dense layer find the components and the decoder's draw from them.

    Returns the units that hold them and those that hold them with the other sign, as slices.
    """
    count = len(deviations)
    plus, minus = slice(0, count), slice(count, 2 * count)
    encoder, decoder = network.encoder.layers[-1], network.decoder.dense
    kernel, bias = _values(encoder.kernel, encoder.bias)
    kernel[:, plus] = components * (spread / deviations)
    bias[plus] = -mean @ kernel[:, plus]
    kernel[:, minus], bias[minus] = -kernel[:, plus], -bias[plus]
    encoder.kernel.assign(kernel)
    encoder.bias.assign(bias)
    kernel = np.zeros(decoder.kernel.shape)
    kernel[plus] = (components * (deviations / spread)).T / (1 + LEAK)
    kernel[minus] = -kernel[plus]
    decoder.kernel.assign(kernel)
    decoder.bias.assign(mean)
    return plus, minus


def _through_gates(core, input_kernel, input_bias, candidate, candidate_bias):
    """Makes the LSTM's output `candidate` of its gated input and nothing else.

    Half of it with each sign, as large as the encoding that comes in. Returns the factor for that.
    """
    units = core.units
    opened, stays = _sigmoid(OPEN), _sigmoid(CLOSED)
    gain = (1 + LEAK) / 2 * (1 - stays) / opened**2
    core.input_kernel.assign(input_kernel)
    core.input_bias.assign(input_bias)
    kernel, recurrent_kernel = _values(core.kernel, core.recurrent_kernel)
    third = slice(2 * units, 3 * units)
    kernel[:, third] = gain * candidate
    recurrent_kernel[:, third] = 0
    core.kernel.assign(kernel)
    core.recurrent_kernel.assign(recurrent_kernel)
    bias = np.repeat([OPEN, CLOSED, 0, OPEN], units)
    bias[third] = gain * candidate_bias
    core.bias.assign(bias)
    return gain


def _features(network, frames):
    """Flat features of each stack of frames, float32 (count, places * channels)."""
    found = _batches(lambda some: network.features(network.normalise(some)), frames)
    return found.reshape(len(found), -1)


def _batches(function, *arrays, batch_size=100):
    """What `function` returns for the arrays a batch at a time, float32."""
    count, found = len(arrays[0]), None
    for start in range(0, count, batch_size):
        part = function(*(array[start : start + batch_size] for array in arrays))
        part = ops.convert_to_numpy(ops.cast(part, "float32"))
        if found is None:  # written into, as it may be the better part of a gigabyte
            found = np.empty((count, *part.shape[1:]), np.float32)
        found[start : start + len(part)] = part
    return found


def _principal_components(x, count):
    """Mean of x (samples, n), its leading components (n, count) and their deviations (count,).

    Leaves x centred: it may be the better part of a gigabyte.

    By subspace iteration (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4): all components would
    take minutes.
    """
    mean = x.mean(axis=0)
    x -= mean
    basis = np.random.default_rng(0).normal(size=(x.shape[1], count)).astype(np.float32)
    for _ in range(3):
        basis, _ = np.linalg.qr(x.T @ (x @ basis))
    _, values, rows = np.linalg.svd(x @ basis, full_matrices=False)
    components = np.zeros((x.shape[1], count), np.float32)
    components[:, : len(rows)] = basis @ rows.T
    deviations = np.zeros(count, np.float32)
    deviations[: len(values)] = values / math.sqrt(len(x))
    # What hardly varies here may vary elsewhere, and must not fill the encoding there.
    return mean, components, np.maximum(deviations, max(0.01 * deviations[0], 1e-6))


def _values(*variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))
