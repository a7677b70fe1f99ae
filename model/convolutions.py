"""How training begins: the convolutions alone, then the layers between them as go-betweens.

Dense layers and an LSTM know nothing of places: what is small they have to learn anew for each
place that it can be in, of which a data set shows some a few times and most never. Convolutions
learn it once for all places. So the encoder's and the decoder's first predict the next frame by
themselves, told the action in every place; then the layers between them start out as what hands on
the encoder's features, by their principal components, and the action.
"""

import math

import keras
import numpy as np
from keras import ops

from model.networks import LEAK, Network, leaky_relu

SPREAD = 0.15  # standard deviation of a component in the encoding: so far tanh is nearly straight
OPEN = 1.0  # bias of the gates that let the LSTM's input in and its cell out
CLOSED = -4.0  # bias of the one that lets the old cell stay, which would blur what moves
ACTION_SPREAD = 0.1  # of the action's factor
ACTION_SIGNAL = 0.3  # input to the LSTM of the unit that stands for the action taken


class Convolutions(keras.Model):
    """Predicts the frame after a stack of frames and an action, by a network's convolutions alone.

    A batch to train on is a dict as `model.predictor.FramePredictor` takes it. Its first `stack`
    frames are shown, and the one after them is predicted.
    """

    def __init__(self, network: Network):
        super().__init__(name="convolutions", dtype=network.dtype_policy)
        self.stack = network.preset.stack
        self.convolutions = [*network.convolutions, *network.decoder.convs]
        self.action_planes = keras.layers.Embedding(
            network.core.num_actions,
            network.preset.decoder_start[-1],
            keras.initializers.RandomNormal(stddev=0.5),
            dtype=network.dtype_policy,
            name="action_planes",
        )
        self.action_planes.build(())
        # As functions: a network among the attributes would be trained as a whole.
        self._normalise, self._features = network.normalise, network.features
        self._draw = network.decoder.draw
        self.built = True

    def call(self, batch):
        """The normalised frame, float32 (batch, height, width, channels)."""
        features = self._features(self._normalise(batch["frames"][:, : self.stack]))
        planes = self.action_planes(batch["actions"][:, self.stack - 1])
        # Activated as the decoder's dense layer is, which will make this.
        return self._draw(leaky_relu(features + planes[:, None, None]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`FramePredictor.compute_loss`'s pixel error."""
        after = self._normalise(x["frames"][:, self.stack : self.stack + 1])[:, 0]
        return 0.5 * ops.mean(ops.sum(ops.square(y_pred - after), axis=(1, 2, 3)))


def hand_on(network: Network, frames: np.ndarray, action_planes: np.ndarray) -> None:
    """Sets all layers between the convolutions so that they predict as `Convolutions` does.

    Half of the encoding holds the features' leading principal components over `frames`, each of one
    standard deviation, the other half the same with the other sign, for the activation would all
    but lose one of them. The LSTM's candidate takes them as they are and its output gives them back
    as large as they came in, so that it can feed itself. Some units stand for one action each.

    Args:
        network: whose convolutions are trained.
        frames: what the components are found by, uint8 (count, stack, height, width[, channels]).
        action_planes: what each action adds to the features in all places, (actions, channels).
    """
    core, units = network.core, network.preset.units
    mean, components, deviations = _principal_components(
        _features(network, frames), units // 2 - math.ceil(core.num_actions / 2)
    )
    count = len(deviations)
    plus, minus = slice(0, count), slice(count, 2 * count)
    actions = slice(2 * count, 2 * count + core.num_actions)

    encoder = network.encoder.layers[-1]
    kernel, bias = _values(encoder.kernel, encoder.bias)
    kernel[:, plus] = components * (SPREAD / deviations)
    bias[plus] = -mean @ kernel[:, plus]
    kernel[:, minus], bias[minus] = -kernel[:, plus], -bias[plus]
    encoder.kernel.assign(kernel)
    encoder.bias.assign(bias)

    # leaky_relu(p) - leaky_relu(-p) = (1 + LEAK) p
    input_kernel = np.zeros((units, units))
    both = np.eye(count) / (1 + LEAK)
    input_kernel[plus, plus] = input_kernel[minus, minus] = both
    input_kernel[plus, minus] = input_kernel[minus, plus] = -both
    core.input_kernel.assign(input_kernel)
    input_bias = np.zeros(units)
    input_bias[actions] = ACTION_SIGNAL
    core.input_bias.assign(input_bias)
    action_kernel = np.random.default_rng(0).normal(0, ACTION_SPREAD, core.action_kernel.shape)
    action_kernel[:, actions] = np.eye(core.num_actions) - 1  # one factor is 1, the others are 0
    core.action_kernel.assign(action_kernel)

    opened, stays = _sigmoid(OPEN), _sigmoid(CLOSED)
    gain = (1 + LEAK) / 2 * (1 - stays) / opened**2  # for outputs as large as the encoding
    kernel, recurrent_kernel = _values(core.kernel, core.recurrent_kernel)
    candidate = slice(2 * units, 3 * units)
    kernel[:, candidate] = gain * np.eye(units)
    recurrent_kernel[:, candidate] = 0
    core.kernel.assign(kernel)
    core.recurrent_kernel.assign(recurrent_kernel)
    core.bias.assign(np.repeat([OPEN, CLOSED, 0, OPEN], units))

    dense = network.decoder.dense
    places = len(mean) // action_planes.shape[-1]
    signal = opened * np.tanh(opened * np.tanh(gain * ACTION_SIGNAL) / (1 - stays))
    kernel = np.zeros(dense.kernel.shape)
    kernel[plus] = (components * (deviations / SPREAD)).T / (1 + LEAK)
    kernel[minus] = -kernel[plus]
    kernel[actions] = np.tile(action_planes, places) / signal
    dense.kernel.assign(kernel)
    dense.bias.assign(mean)


def _features(network, frames, batch_size=100):
    """Flat features of each stack of frames, float32 (count, places * channels)."""
    found = []
    for start in range(0, len(frames), batch_size):
        features = network.features(network.normalise(frames[start : start + batch_size]))
        features = ops.convert_to_numpy(ops.cast(features, "float32"))
        found.append(features.reshape(len(features), -1))
    return np.concatenate(found)


def _principal_components(x, count):
    """Mean of x (samples, n), its leading components (n, count) and their deviations (count,).

    By subspace iteration (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4): all components would
    take minutes.
    """
    mean = x.mean(axis=0)
    x = x - mean
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
