"""Rollouts by one matrix for each action, compared with those by the core."""

import keras
import numpy as np
import pytest

from benchmarks import limits
from model.affine_maps import MirroredMap
from model.fast_imagination import FastImagination, Steps, Transitions
from model.predictor import VARIANTS, FramePredictor, Imagination, State

from . import tiny  # noqa: F401 - importing it registers the preset "tiny"


def predictor(variant="compression", num_actions=3, precision="float32", constant_gates=False):
    keras.utils.set_random_seed(3)
    model = FramePredictor("tiny", variant, num_actions, precision=precision)
    model.network.adapt(np.full((12, 12, 1), 100.0), 50.0)
    # Biases other than 0, and outputs that are not negligible.
    for weight in model.network.core.weights:
        noise = np.random.default_rng(1).normal(size=weight.shape) * 0.3
        weight.assign(np.asarray(weight, np.float32) + noise)
    if constant_gates:  # all but the candidate, the third of four
        for kernel in (model.network.core.kernel, model.network.core.recurrent_kernel):
            value = np.array(kernel)
            value[:, :64] = value[:, 96:] = 0
            kernel.assign(value)
    return model


def state(batch, num_encoded, seed=0):
    """LSTM states; the next input of the first `num_encoded` is an encoding."""
    rng = np.random.default_rng(seed)
    h, c = (rng.normal(size=(batch, 32)).astype(np.float32) for _ in range(2))
    encoding = h.copy()
    encoding[:num_encoded] = rng.normal(size=(num_encoded, 32))
    return State(encoding, h, c, np.zeros((batch, 1, 12, 12, 1), np.float32))


def stepped(transitions, start, actions):
    needs_encoding = (start.encoding != start.h).any(axis=1)
    steps = Steps.of(actions, np.arange(len(actions)), needs_encoding, 3)
    arguments = steps.encoded_actions, steps.parents, steps.counts
    return steps, transitions(start.h, start.c, start.encoding, *arguments)


def test_common_beginnings_of_sequences_share_nodes():
    """By hand: four sequences from two states, the second of which needs its encoding."""
    actions = np.array([[0, 2, 1], [0, 2, 0], [2, 1, 1], [2, 1, 1]])
    steps = Steps.of(actions, np.array([0, 0, 0, 1]), np.array([False, True]), 3)
    # Step 1: actions 0 and 2 of state 0, then action 2 of state 1 with its encoding.
    # Step 2: action 1 after nodes 1 and 2, action 2 after node 0, which two sequences share.
    # Step 3: action 0 after the last of those, action 1 after each of the three.
    np.testing.assert_array_equal(steps.parents, [0, 0, 1, 1, 2, 0, 2, 0, 1, 2])
    np.testing.assert_array_equal(steps.counts.T, [[1, 0, 1, 1], [0, 2, 1, 0], [1, 3, 0, 0]])
    np.testing.assert_array_equal(steps.encoded_actions, [2])
    np.testing.assert_array_equal(steps.nodes, [[0, 5, 9], [0, 5, 6], [1, 3, 7], [2, 4, 8]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_sequences_from_one_row_equal_those_from_copies_of_it(variant):
    fast = FastImagination(predictor(variant))
    start, rows = state(3, 2), np.repeat(np.arange(3), 20)
    actions = np.random.default_rng(2).integers(3, size=(60, 4), dtype=np.int32)
    expected = fast(State(*(part[rows] for part in start)), actions)
    imagined = fast(start, actions, rows)
    for value, other in zip(expected.pop("state"), imagined.pop("state"), strict=True):
        np.testing.assert_allclose(other, value, atol=1e-5)
    for key, value in expected.items():
        np.testing.assert_allclose(imagined[key], value, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("batch, num_encoded", [(7, 0), (7, 3), (7, 7), (1, 0), (1, 1)])
@pytest.mark.parametrize("constant_gates", [False, True])
def test_transitions_equal_the_cores_steps(batch, num_encoded, constant_gates):
    model = predictor(constant_gates=constant_gates)
    start = state(batch, num_encoded)
    actions = np.random.default_rng(2).integers(3, size=(batch, 6), dtype=np.int32)
    actions[:, 3] = 2  # the other two actions have no nodes in this step
    expected, _, end = model.imagine(start, actions)
    transitions = Transitions(model.network.core)
    # Constant gates are not computed.
    assert transitions.share == (1 / 4 if constant_gates else 1)
    steps, (outputs, h, c) = stepped(transitions, start, actions)
    np.testing.assert_allclose(np.asarray(outputs)[steps.nodes], expected, atol=1e-4)
    last = steps.nodes[:, -1] - (len(outputs) - len(h))
    np.testing.assert_allclose(np.asarray(h)[last], end.h, atol=1e-4)
    np.testing.assert_allclose(np.asarray(c)[last], end.c, atol=1e-4)


def test_an_affine_map_in_sums_and_differences():
    rng = np.random.default_rng(0)

    def difference(matrix):
        """From the plain map, and how many products of a quarter of the size there are."""
        offset, h = (rng.normal(size=shape).astype(np.float32) for shape in (8, (3, 8)))
        mapped = MirroredMap(matrix, offset)
        return np.abs(mapped(h) - (h @ matrix + offset)).max(), mapped.multiplications / 16

    error, products = difference(rng.normal(size=(8, 8)).astype(np.float32))
    assert error < 1e-5 and products == 4
    # Two signs, what was before, and what is kept of the output, as a handover makes them.
    part, one = rng.normal(size=(4, 4)), np.eye(4)
    before, kept = 0.25 * one, -0.3 * np.eye(8)
    mirrored = np.block([[before + part, before - part], [-before - part, -before + part]]) + kept
    error, products = difference(mirrored.astype(np.float32))
    assert error < 1e-5 and products == 1
    # With motion, which adds what the sums hold.
    motion = np.block([[one + part, -one - part]] * 2)
    error, products = difference((mirrored + motion).astype(np.float32))
    assert error < 1e-5 and products == 2


def test_transitions_do_not_follow_later_weights():
    model = predictor()
    transitions = Transitions(model.network.core)
    start, actions = state(2, 1), np.zeros((2, 2), np.int32)
    before = stepped(transitions, start, actions)[1][0]
    for weight in model.network.core.weights:
        weight.assign(weight * 2)
    after = stepped(transitions, start, actions)[1][0]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "batch, num_actions, constant_gates",
    [(1, 18, False), (4, 18, False), (5, 3, False), (4, 18, True)],
)
def test_fast_imagination_equals_imagination(variant, batch, num_actions, constant_gates):
    """In the second case `Transitions` would be slower, so it is not used."""
    model = predictor(variant, num_actions, constant_gates=constant_gates)
    fast = FastImagination(model)
    actions = np.random.default_rng(2).integers(num_actions, size=(batch, 6), dtype=np.int32)
    expected_state = fast_state = state(batch, batch // 2)
    for steps in np.split(actions, [1, 2, 4], axis=1):  # each continues from its own state
        plain = Imagination(model)
        expected = plain.predict_on_batch({"state": expected_state, "actions": steps})
        imagined = fast(fast_state, steps)
        expected_state, fast_state = expected.pop("state"), imagined.pop("state")
        assert imagined.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(imagined[key], value, atol=2e-3, err_msg=key)
        for value, other in zip(expected_state, fast_state, strict=True):
            np.testing.assert_allclose(other, value, atol=1e-4)
        # The state stays on the device.
        assert all(keras.ops.is_tensor(part) for part in (fast_state.h, fast_state.c))


def test_fast_imagination_without_frames_keeps_a_float32_state():
    model = predictor(precision="bfloat16")
    imagined = FastImagination(model, decode=False)(state(5, 2), np.zeros((5, 3), np.int32))
    assert "frames" not in imagined
    assert {np.asarray(part).dtype for part in imagined["state"]} == {np.dtype(np.float32)}


def test_operations_are_counted_as_by_hand():
    """Of the preset "tiny": 12x12x1 frames, two stacked, 32 units."""
    first = 6 * 6 * 4 * (4 * 4 * 2)
    encoder = first + 6 * 6 * 8 * (3 * 3 * 4) + 6 * 6 * 8 * 32
    decoder = 32 * 6 * 6 * 8 + 6 * 6 * (3 * 3 * 8 * 8) + 6 * 6 * (4 * 4 * 8)
    reward = 32 * 6 * 6 * 8 + 6 * 6 * (3 * 3 * 8 * 32) + 6 * 6 * 32 * 4
    biases = 32 + 32 + 4 * 32
    core = predictor().network.core.count_params() - biases
    assert limits.core_weights("tiny", num_actions=3) == core
    for decoded in (False, True):
        flops = limits.imagine_flops("tiny", num_actions=3, batch=5, decoded=decoded)
        assert flops == 2 * 5 * (core + reward + decoded * decoder)
    # One warm-up frame and three predictions: the paper variant encodes two of them again.
    for variant, encoded, without_input_gradient in (("paper", 3, 1), ("compression", 1, 1)):
        flops = limits.train_flops("tiny", 3, 5, 1, 3, variant)
        forward = encoded * encoder + 3 * decoder + 3 * core
        assert flops == 2 * 5 * (3 * forward - without_input_gradient * first)
