"""The network's parts: sizes, golden values, and the fused LSTM against the plain formulation."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from model import subpixel
from model.core import ActionGatedLSTM
from model.networks import Network
from model.presets import PRESETS

from .tiny import gradients  # importing it registers the preset "tiny"

USERS_PRESETS = ("lstm_84x84x1", "lstm_210x160x3")


@pytest.fixture(scope="module")
def networks():
    return {name: Network(name, num_actions=6) for name in USERS_PRESETS}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, parameters", [("lstm_84x84x1", 67_354_583), ("lstm_210x160x3", 116_220_937)]
)
def test_number_of_parameters(networks, name, parameters):
    assert networks[name].count_params() == parameters


@pytest.mark.thorough
@pytest.mark.parametrize("name", USERS_PRESETS)
def test_encoded_and_decoded_shapes_are_the_presets(networks, name):
    network, shape = networks[name], PRESETS[name].frame_shape
    encodings, recent = network.encode(np.zeros((2, 3, *shape), np.float32))
    assert encodings.shape == (2, 3, 2048)
    assert recent.shape == (2, PRESETS[name].stack - 1, *shape)
    assert network.decode(encodings).shape == (2, 3, *shape)


@pytest.mark.parametrize("size, stride", [(8, 3), (8, 2), (4, 2), (3, 2), (3, 1), (1, 1), (5, 5)])
@pytest.mark.parametrize("filters", [1, 3])
def test_the_last_layer_is_a_transposed_convolution(size, stride, filters):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 5, 4, 6)).astype(np.float32)
    flags = {"padding": "same", "data_format": "channels_last", "activation": "tanh"}
    theirs = keras.layers.Conv2DTranspose(filters, size, stride, **flags)
    ours = subpixel.Conv2DTranspose(filters, size, stride, **flags)
    theirs.build(x.shape)
    ours.build(x.shape)
    ours.set_weights([rng.normal(size=w.shape) for w in ours.weights])
    theirs.set_weights(ours.get_weights())
    expected = np.array(theirs(x))
    assert expected.shape == (2, 5 * stride, 4 * stride, filters)
    np.testing.assert_allclose(ours(x), expected, atol=1e-5)


def test_a_kernels_rows_stand_for_phases_and_offsets():
    # Stride 3 and 8 rows: the first two rows of output are cut off, so phase 0 is row 2 or 5.
    table = subpixel.places(8, 3)
    assert [list(map(tuple, np.argwhere(table[i]))) for i in range(3)] == [
        [(0, 5), (1, 6), (2, 7)],  # from the pixel before
        [(0, 2), (1, 3), (2, 4)],
        [(1, 0), (2, 1)],
    ]


def test_no_two_kernels_have_the_same_initial_values():
    kernels = [w for w in Network("tiny", num_actions=3).weights if "kernel" in w.path]
    for i, one in enumerate(kernels):
        for other in kernels[:i]:
            assert one.shape != other.shape or np.abs(one - other).max() > 0, one.path


# Names and shapes in a weight file of the preset "tiny" with three actions, as all checkpoints have
# them.
WEIGHT_FILE = {
    "convolutions/conv2d": [(4, 4, 2, 4), (4,)],
    "convolutions/conv2d_1": [(3, 3, 4, 8), (8,)],
    "core": [(32, 32), (32,), (3, 32), (32,), (32, 128), (32, 128), (128,)],
    "decoder/convs/conv2d_transpose": [(3, 3, 8, 8), (8,)],
    "decoder/convs/conv2d_transpose_1": [(4, 4, 1, 8), (1,)],
    "decoder/dense": [(32, 288), (288,)],
    "encoder/layers/dense": [(288, 32), (32,)],
    "layers/dense": [(32, 1), (1,)],  # the termination head
    "layers/reward_head/conv": [(3, 3, 8, 32), (32,)],
    "layers/reward_head/dense": [(32, 288), (288,)],
    "layers/reward_head/verdict": [(1, 1, 32, 4), (4,)],
    "": [(12, 12, 1), ()],  # mean frame and pixel scale
}


def test_weight_files_have_the_names_of_old_checkpoints(tmp_path):
    Network("tiny", num_actions=3).save_weights(tmp_path / "network.weights.h5")
    shapes = {}
    with h5py.File(tmp_path / "network.weights.h5") as file:

        def add(name, item):
            if isinstance(item, h5py.Dataset):
                shapes[name] = item.shape

        file.visititems(add)
    expected = {
        f"{layer}/vars/{i}".lstrip("/"): shape
        for layer, of_layer in WEIGHT_FILE.items()
        for i, shape in enumerate(of_layer)
    }
    assert shapes == expected


ZERO = np.zeros((1, 1), np.float32)


def constant_core(units):
    core = ActionGatedLSTM(num_actions=2, units=units)
    core.build((None, None, units))
    for weight in core.weights:
        weight.assign(np.full(weight.shape, 0.1, np.float32))
    return core


def test_core_golden_values_from_constant_weights():
    """One unit, all weights 0.1: worked by hand with the standard LSTM equations."""
    outputs, cells = constant_core(1)(
        np.ones((1, 1, 1), np.float32), np.array([[0, 1]]), ZERO, ZERO
    )
    # x = (0.1 * 1 + 0.1) * (0.1 + 0.1) = 0.04; z = 0.1 * 0.04 + 0.1 = 0.104 for every gate.
    sigmoid = 1 / (1 + np.exp(-0.104))
    c1 = sigmoid * np.tanh(0.104)
    h1 = sigmoid * np.tanh(c1)
    # The output comes back in place of the input: x = (0.1 * h1 + 0.1) * 0.2.
    z = 0.1 * (0.1 * h1 + 0.1) * 0.2 + 0.1 + 0.1 * h1
    sigmoid = 1 / (1 + np.exp(-z))
    c2 = sigmoid * c1 + sigmoid * np.tanh(z)
    np.testing.assert_allclose(cells[0, :, 0], [c1, c2], rtol=1e-5)
    np.testing.assert_allclose(outputs[0, :, 0], [h1, sigmoid * np.tanh(c2)], rtol=1e-5)


def plain_core(core, inputs, actions, h, c):
    """The core's equations step by step, with the backend's own gradients."""
    outputs, cells = [], []
    for t in range(actions.shape[1]):
        y = inputs[:, t] if t < inputs.shape[1] else h
        action = ops.one_hot(actions[:, t], core.num_actions)
        gate = action @ core.action_kernel + core.action_bias
        x = (y @ core.input_kernel + core.input_bias) * gate
        z = x @ core.kernel + core.bias + h @ core.recurrent_kernel
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        outputs.append(h)
        cells.append(c)
    return ops.stack(outputs, 1), ops.stack(cells, 1)


@pytest.mark.parametrize("given, time", [(1, 1), (4, 4), (1, 5), (3, 6)])
@pytest.mark.parametrize("held", [False, True])
def test_core_equals_the_plain_formulation_in_outputs_and_gradients(given, time, held):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    core = ActionGatedLSTM(num_actions=3, units=5)
    core.build((None, None, 5))
    core.action_bias.assign(rng.normal(1, 0.3, 5))
    core.bias.assign(rng.normal(size=20))
    candidate = np.arange(20) // 5 == 2
    if held:
        for kernel in (core.kernel, core.recurrent_kernel):
            kernel.assign(kernel * candidate)
    core.hold_gates()
    assert core.gates_are_held == held
    inputs = ops.convert_to_tensor(rng.normal(size=(2, given, 5)).astype("float32"))
    h, c = (ops.convert_to_tensor(rng.normal(size=(2, 5)).astype("float32")) for _ in range(2))
    actions = rng.integers(0, 3, (2, time))
    weigh = rng.normal(size=(2, 2, time, 5)).astype("float32")

    def loss(step):
        def value(inputs, h, c):
            outputs, cells = step(inputs, actions, h, c)
            return ops.sum(outputs * weigh[0]) + ops.sum(cells * weigh[1])

        return value

    fused, fused_gradients = gradients(loss(core), core, inputs, h, c)
    plain, plain_gradients = gradients(
        loss(lambda *arguments: plain_core(core, *arguments)), core, inputs, h, c
    )
    np.testing.assert_allclose(fused, plain, rtol=1e-5)
    assert len(fused_gradients) == len(core.weights) + 3
    for weight, ours, expected in zip(
        [*core.weights, None, None, None], fused_gradients, plain_gradients, strict=True
    ):
        if held and weight is not None and weight.shape == (5, 20):
            expected *= candidate  # the gates' kernels stay as they are
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_encoding_in_pieces_equals_encoding_at_once(monkeypatch):
    # A stack that reaches beyond the first piece.
    monkeypatch.setitem(PRESETS, "tiny_four", PRESETS["tiny"]._replace(stack=4))
    network = Network("tiny_four", num_actions=6)
    frames = np.random.default_rng(0).normal(size=(1, 6, 12, 12, 1)).astype("float32")
    whole, _ = network.encode(frames)
    first, recent = network.encode(frames[:, :2])
    second, _ = network.encode(frames[:, 2:], recent)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_palette_indices_are_looked_up_and_normalised():
    network = Network("lstm_210x160x3", num_actions=2)
    palette = np.random.default_rng(0).integers(0, 256, (256, 3))
    mean = np.full((210, 160, 3), 7.0)
    network.adapt(mean, 4.0, palette)
    indices = np.random.default_rng(1).integers(0, 256, (1, 2, 210, 160), dtype=np.uint8)
    normalised = network.normalise(indices)
    np.testing.assert_allclose(normalised, (palette[indices] - 7.0) / 4.0, rtol=1e-5)
    np.testing.assert_allclose(network.denormalise(normalised), palette[indices], atol=1e-3)
    np.testing.assert_array_equal(normalised, network.normalise(palette[indices].astype(np.uint8)))
