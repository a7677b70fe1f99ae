"""Weight initialisation after pretraining: dense layers and LSTM compute what was pretrained.

Encoding and LSTM output hold the principal components of the convolutions' features. Each has two
units, one of either sign, because the leaky ReLU all but removes negative values:

    unit                         encoding and LSTM output
    0         ..  count - 1      + component i
    count     ..  2 count - 1    - component i
    2 count + a                  of the output of `NextFrame`: a constant under action a, else 0
    others                       unused

The LSTM's input, gated by the action's factors, differs:

    `NextFrame`                                      factor
    0         ..  2 count - 1    as above            1
    2 count + a                  a constant          1 under action a, else 0

    `LinearDynamics`                                 factor
    0         ..  count - 1      component i         1
    count + a * share  ..        action a's own      1 under action a, else 0
                                 `share` inputs

The LSTM's gates are constant: input and output gates are open, the forget gate is nearly closed.
What it keeps of the old cell would blur whatever moves, so the recurrent kernel takes it away. So
the output is a linear map of the gated input as long as tanh is nearly linear. The gates' kernels
are 0 until the whole network is trained, so fast rollouts leave three of four products out.

The two units of a component differ by twice its value after a step. Their sum holds its value
before the step, for the reward of `LinearDynamics`, and for `Pretraining.motion`: the recurrent
kernel maps the sum to what the features one step earlier add.
"""

import math

import keras
import numpy as np
from keras import ops

from model.components import OnProgress, affine_map, ignored, principal_components
from model.core import ActionGatedLSTM
from model.networks import LEAK, Network
from model.pretraining import LinearDynamics, NextFrame, Pretraining

GATE_BIAS_OPEN = 1.0  # of the input and output gates
GATE_BIAS_CLOSED = -2.0  # of the forget gate, which can still learn to open
# Standard deviation of a component in the encoding, small enough for tanh to be nearly linear:
# once, or many times in a row if the LSTM's output is fed back.
COMPONENT_STD_ONE_STEP, COMPONENT_STD_ROLLOUT = 0.05, 0.02
PREVIOUS_FEATURES_SCALE = 0.25  # of the features before a step in the LSTM's output
PREVIOUS_SUM = PREVIOUS_FEATURES_SCALE * (1 + LEAK)  # a component's two units add up to so much
ACTION_INPUT = 0.3  # the LSTM's input that stands for the action taken
BATCH_SIZE = 25  # of the computations on all frames: those of full frames take 12 MB a frame
FEATURES_SHARE = 0.4  # of the time of a handover, roughly; the components take most of the rest


def hand_over_next_frame(
    network: Network,
    next_frame: NextFrame,
    frames: np.ndarray,
    on_progress: OnProgress = ignored,
) -> None:
    """Sets the dense layers and the LSTM to predict as `NextFrame` does.

    The LSTM's output repeats the encoding at the same scale, so that it can be fed back, and adds
    motion. In addition it names the action, from which the decoder's dense layer adds the action's
    embedding.

    Args:
        network: the network with the pretrained convolutions.
        next_frame: what trained them.
        frames: whose features have the components, uint8 (count, context, height, width[,
            channels]), or what has a length and gives these when it is sliced.
        on_progress: called now and then.

    Raises:
        numpy.linalg.LinAlgError: the features are not finite.
    """
    core, units = network.core, network.preset.units
    count = units // 2 - math.ceil(core.num_actions / 2)

    def of_batch(batch):
        seen, earlier = next_frame.context_features(network.normalise(batch))
        seen = [seen] if next_frame.motion is None else [seen, next_frame.add_motion(seen, earlier)]
        return ops.stack(seen, axis=1)

    features = _in_batches(of_batch, on_progress, frames)
    features = features.reshape(-1, math.prod(network.preset.decoder_start))
    components = principal_components(features, count, _after_features(on_progress))
    plus, minus = _assign_components(network, components, COMPONENT_STD_ONE_STEP)
    action_units = slice(2 * count, 2 * count + core.num_actions)

    input_kernel = np.zeros((units, units))
    # leaky_relu(p) - leaky_relu(-p) = (1 + LEAK) p
    difference = np.eye(count) / (1 + LEAK)
    input_kernel[plus, plus] = input_kernel[minus, minus] = difference
    input_kernel[plus, minus] = input_kernel[minus, plus] = -difference
    input_bias = np.zeros(units)
    input_bias[action_units] = ACTION_INPUT
    action_kernel = np.zeros((core.num_actions, units))
    # Added to the action bias, 1: the factor is 1 under the unit's action and 0 under all others.
    action_kernel[:, action_units] = np.eye(core.num_actions) - 1
    core.action_kernel.assign(action_kernel)
    candidate, candidate_bias = np.eye(units), np.zeros(units)
    if next_frame.motion is not None:
        candidate[plus, plus] += PREVIOUS_FEATURES_SCALE * np.eye(count)
        candidate[plus, minus] += PREVIOUS_FEATURES_SCALE * np.eye(count)
    gain = _assign_lstm(core, input_kernel, input_bias, candidate, candidate_bias)
    _assign_motion(core, gain, plus, minus, next_frame, components, COMPONENT_STD_ONE_STEP)

    open_gate = _sigmoid(GATE_BIAS_OPEN)
    action_output = open_gate * np.tanh(open_gate * np.tanh(gain * ACTION_INPUT))
    dense = network.decoder.dense
    (decoder_kernel,) = _values(dense.kernel)
    (action_planes,) = _values(next_frame.action_planes.embeddings)
    positions = decoder_kernel.shape[-1] // action_planes.shape[-1]
    decoder_kernel[action_units] = np.tile(action_planes, positions) / action_output
    dense.kernel.assign(decoder_kernel)
    _assign_reward_head(network, next_frame, decoder_kernel)


def hand_over_dynamics(
    network: Network,
    dynamics: LinearDynamics,
    frames: np.ndarray,
    actions: np.ndarray,
    on_progress: OnProgress = ignored,
) -> None:
    """Sets the dense layers and the LSTM to predict as `LinearDynamics` does.

    The components are those of features seen and predicted. The LSTM maps them as the average
    action does, and adds a low-rank map for each action. The two units of a component differ by
    twice its value after the step. Their sum holds its value before the step.

    Args:
        network: the network with the pretrained convolutions.
        dynamics: what trained them.
        frames: uint8 (count, context, height, width[, channels]), or what has a length and gives
            these when it is sliced.
        actions: int (count, time), from each context's last frame on.
        on_progress: called now and then.

    Raises:
        numpy.linalg.LinAlgError: the features are not finite.
    """
    units = network.preset.units
    features = _in_batches(dynamics.roll_out_features, on_progress, frames, actions)
    features = features.reshape(-1, math.prod(network.preset.decoder_start))
    components = principal_components(features, units // 2, _after_features(on_progress))
    plus, minus = _assign_components(network, components, COMPONENT_STD_ROLLOUT)
    maps = _action_maps(dynamics, components, network.core.num_actions)
    average = maps.mean(axis=0)
    factors = _factorise(maps - average, (units - units // 2) // network.core.num_actions)
    gain = _assign_action_maps(network.core, plus, minus, average, factors)
    _assign_motion(network.core, gain, plus, minus, dynamics, components, COMPONENT_STD_ROLLOUT)

    (kernel_after,) = _values(network.decoder.dense.kernel)
    kernel_before = kernel_after / PREVIOUS_FEATURES_SCALE
    kernel_before[minus] *= -1
    _assign_reward_head(network, dynamics, kernel_after, kernel_before)


def _action_maps(dynamics, components, num_actions):
    """What each action does to the components, in units of the encoding.

    Returns (num_actions, count + 1, count): rows are the components and a constant 1 before the
    step, columns are the components after it.
    """
    mean, directions, deviations = components
    scale = COMPONENT_STD_ROLLOUT / deviations
    maps = []
    for action in range(num_actions):

        def advance(features, action=action):
            return dynamics.advance(features, np.full(len(features), action))

        one = affine_map(advance, dynamics.feature_shape, components, COMPONENT_STD_ROLLOUT)
        one[-1] -= mean @ directions * scale
        maps.append(one)
    return np.stack(maps)


def _assign_motion(core, gain, plus, minus, pretraining, components, std):
    """Lets the recurrent kernel add the motion, if there is any; see the module."""
    if pretraining.motion is None:
        return

    def motion(features):
        return pretraining.add_motion(ops.zeros(features.shape), features)

    *matrix, constant = affine_map(motion, pretraining.feature_shape, components, std)
    matrix = gain * np.array(matrix) / PREVIOUS_SUM
    recurrent_kernel, bias = _values(core.recurrent_kernel, core.bias)
    candidate = core.candidate.start
    for units, sign in ((plus, 1), (minus, -1)):
        columns = slice(candidate + units.start, candidate + units.stop)
        recurrent_kernel[plus, columns] += sign * matrix
        recurrent_kernel[minus, columns] += sign * matrix
        bias[columns] += sign * gain * constant
    core.recurrent_kernel.assign(recurrent_kernel)
    core.bias.assign(bias)


def _factorise(maps, rank):
    """Each action's map as a product of the given rank.

    Args:
        maps: (num_actions, count + 1, count), changed in place.
        rank: of the products.

    Returns:
        One pair for each action: left (count + 1, rank) and right (rank, count).
    """
    # The constant is scaled to a component's size, so that no factor is out of scale.
    maps[:, -1] /= COMPONENT_STD_ROLLOUT
    pairs = []
    for one in maps:
        left, values, right = np.linalg.svd(one, full_matrices=False)
        left, right = left * np.sqrt(values), right * np.sqrt(values)[:, None]
        left[-1] *= COMPONENT_STD_ROLLOUT
        pairs.append((left[:, :rank], right[:rank]))
    return pairs


def _assign_action_maps(core, plus, minus, average, factors):
    """Sets the core to the average action's map plus each action's own; see the module.

    Returns:
        As `_assign_lstm`.
    """
    units, (_, count) = core.units, average.shape
    input_kernel, input_bias = np.zeros((units, units)), np.zeros(units)
    input_kernel[plus, plus] = np.eye(count)
    candidate = np.zeros((units, count))
    candidate[plus] = average[:count]
    action_kernel = np.zeros((core.num_actions, units))
    for action, (left, right) in enumerate(factors):
        start = count + action * len(right)
        own = slice(start, start + len(right))
        input_kernel[plus, own], input_bias[own] = left[:count], left[count]
        candidate[own] = right
        action_kernel[:, own] = np.eye(core.num_actions)[:, action : action + 1] - 1
    input_kernel[minus] = -input_kernel[plus]
    core.action_kernel.assign(action_kernel)
    before = np.zeros((units, count))
    before[plus] = PREVIOUS_FEATURES_SCALE * np.eye(count)
    return _assign_lstm(
        core,
        input_kernel / (1 + LEAK),
        input_bias,
        np.concatenate([before + candidate, before - candidate], axis=1),
        np.concatenate([average[count], -average[count]]),
    )


def _assign_components(network, components, std):
    """Sets the encoder's dense layer to find the components and the decoder's to invert it.

    Args:
        std: of a component in the encoding.

    Returns:
        The units of the components with positive and with negative sign, as slices.
    """
    mean, directions, deviations = components
    count = len(deviations)
    plus, minus = slice(0, count), slice(count, 2 * count)
    encoder, decoder = network.encoder.layers[-1], network.decoder.dense
    kernel, bias = _values(encoder.kernel, encoder.bias)
    kernel[:, plus] = directions * (std / deviations)
    bias[plus] = -mean @ kernel[:, plus]
    kernel[:, minus], bias[minus] = -kernel[:, plus], -bias[plus]
    encoder.kernel.assign(kernel)
    encoder.bias.assign(bias)
    kernel = np.zeros(decoder.kernel.shape)
    kernel[plus] = (directions * (deviations / std)).T / (1 + LEAK)
    kernel[minus] = -kernel[plus]
    decoder.kernel.assign(kernel)
    decoder.bias.assign(mean)
    return plus, minus


def _assign_lstm(core: ActionGatedLSTM, input_kernel, input_bias, candidate, candidate_bias):
    """Sets the core's output to a linear map, `candidate`, of its gated input.

    Half of the output comes with each sign, at the scale of the encoding. The output before, which
    is nearly `open_gate` times the old cell, makes up for what the forget gate keeps of that cell.

    Returns:
        The gain of the candidate's kernel that makes up for the gates.
    """
    units = core.units
    open_gate, forget_gate = _sigmoid(GATE_BIAS_OPEN), _sigmoid(GATE_BIAS_CLOSED)
    gain = (1 + LEAK) / 2 / open_gate**2
    core.input_kernel.assign(input_kernel)
    core.input_bias.assign(input_bias)
    kernel, recurrent_kernel = np.zeros((2, units, 4 * units))
    columns = core.candidate
    kernel[:, columns] = gain * candidate
    recurrent_kernel[:, columns] = -forget_gate / open_gate**2 * np.eye(units)
    core.kernel.assign(kernel)
    core.recurrent_kernel.assign(recurrent_kernel)
    bias = np.repeat([GATE_BIAS_OPEN, GATE_BIAS_CLOSED, 0, GATE_BIAS_OPEN], units)
    bias[columns] = gain * candidate_bias
    core.bias.assign(bias)
    return gain


def _assign_reward_head(network: Network, pretraining: Pretraining, *kernels):
    """Sets the reward head's dense layer to find its cells in the LSTM's output.

    Args:
        kernels: for each of the `REWARD_INPUTS` steps, the map from the LSTM's output to the
            features (2048, features).
    """
    head, kernel, bias = network.reward_head.dense, 0, 0
    (mean,) = _values(network.decoder.dense.bias)
    all_channels = _values(*pretraining.reward_channels)
    for to_features, channels in zip(kernels, all_channels, strict=True):
        kernel += to_features.reshape(-1, len(channels)) @ channels
        bias += mean.reshape(-1, len(channels)) @ channels
    head.kernel.assign(kernel.reshape(head.kernel.shape))
    head.bias.assign(bias.reshape(head.bias.shape))


def assign_termination_head(network: Network, direction: np.ndarray, bias: float) -> None:
    """Sets the termination head to a linear function of the features after a handover.

    Args:
        network: after `hand_over_next_frame` or `hand_over_dynamics`.
        direction: (features,), what each feature adds to the logit of termination.
        bias: of the logit.
    """
    dense, head = network.decoder.dense, network.termination_head
    kernel, mean = _values(dense.kernel, dense.bias)
    head.kernel.assign((kernel @ direction)[:, None])
    head.bias.assign([bias + mean @ direction])


def _after_features(on_progress):
    """Tells of the components' part of a handover, which comes after that of the features."""
    return lambda share: on_progress(FEATURES_SHARE + (1 - FEATURES_SHARE) * share)


def _in_batches(function, on_progress, *arrays):
    """`function` of the arrays, computed in batches, float32."""
    count, results = len(arrays[0]), None
    for start in range(0, count, BATCH_SIZE):
        part = function(*(array[start : start + BATCH_SIZE] for array in arrays))
        part = ops.convert_to_numpy(ops.cast(part, "float32"))
        if results is None:  # allocated once, because it may take most of a gigabyte
            results = np.empty((count, *part.shape[1:]), np.float32)
        results[start : start + len(part)] = part
        on_progress(FEATURES_SHARE * (start + len(part)) / count)
    return results


def _values(*variables: keras.Variable) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))
