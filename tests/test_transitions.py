"""One matrix an action does what the core's three do."""

import keras
import numpy as np
import pytest

from benchmarks import limits
from model.predictor import VARIANTS, FramePredictor, Imagination, State
from model.transitions import FastImagination, Steps, Transitions

from . import tiny  # noqa: F401 - makes the preset "tiny" known


def predictor(variant="compression", num_actions=3, precision="float32"):
    keras.utils.set_random_seed(3)
    found = FramePredictor("tiny", variant, num_actions, precision=precision)
    found.network.adapt(np.full((12, 12, 1), 100.0), 50.0)
    # Biases that count, and outputs large enough to see.
    for weight in found.network.core.weights:
        noise = np.random.default_rng(1).normal(size=weight.shape) * 0.3
        weight.assign(np.asarray(weight, np.float32) + noise)
    return found


def state(batch, fresh, seed=0):
    """LSTM states of which the first `fresh` have just seen a real frame."""
    rng = np.random.default_rng(seed)
    h, c = (rng.normal(size=(batch, 32)).astype(np.float32) for _ in range(2))
    encoding = h.copy()
    encoding[:fresh] = rng.normal(size=(fresh, 32))
    return State(encoding, h, c, np.zeros((batch, 1, 12, 12, 1), np.float32))


def stepped(transitions, start, actions):
    fresh = (start.encoding != start.h).any(axis=1)
    steps = Steps.of(actions, np.arange(len(actions)), fresh, 3)
    parents, counts, first = steps.parents, steps.counts, steps.actions
    return steps, transitions(start.h, start.c, start.encoding, first, parents, counts)


def test_what_sequences_begin_alike_with_is_one_node():
    """By hand: four sequences from two states, the second of which has just seen a frame."""
    actions = np.array([[0, 2, 1], [0, 2, 0], [2, 1, 1], [2, 1, 1]])
    steps = Steps.of(actions, np.array([0, 0, 0, 1]), np.array([False, True]), 3)
    # First action 0 and 2 of state 0, then 2 of state 1, fed with its encoding.
    # Second: action 1 after nodes 1 and 2, action 2 after node 0, which two sequences share.
    # Third: action 0 after the last of those, 1 after each of the three.
    np.testing.assert_array_equal(steps.parents, [0, 0, 1, 1, 2, 0, 2, 0, 1, 2])
    np.testing.assert_array_equal(steps.counts.T, [[1, 0, 1, 1], [0, 2, 1, 0], [1, 3, 0, 0]])
    np.testing.assert_array_equal(steps.actions, [2])
    np.testing.assert_array_equal(steps.nodes, [[0, 5, 9], [0, 5, 6], [1, 3, 7], [2, 4, 8]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_sequences_from_one_state_are_those_from_copies_of_it(variant):
    look_ahead = FastImagination(predictor(variant))
    start, rows = state(3, 2), np.repeat(np.arange(3), 20)
    actions = np.random.default_rng(2).integers(3, size=(60, 4), dtype=np.int32)
    expected = look_ahead(State(*(part[rows] for part in start)), actions)
    found = look_ahead(start, actions, rows)
    for value, other in zip(expected.pop("state"), found.pop("state"), strict=True):
        np.testing.assert_allclose(other, value, atol=1e-5)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("batch, fresh", [(7, 0), (7, 3), (7, 7), (1, 0), (1, 1)])
def test_transitions_are_the_cores_steps(batch, fresh):
    model = predictor()
    start = state(batch, fresh)
    actions = np.random.default_rng(2).integers(3, size=(batch, 6), dtype=np.int32)
    actions[:, 3] = 2  # two of the actions have no rows in this step
    expected, _, end = model.imagine(start, actions)
    steps, (outputs, h, c) = stepped(Transitions(model.network.core), start, actions)
    np.testing.assert_allclose(np.asarray(outputs)[steps.nodes], expected, atol=1e-4)
    last = steps.nodes[:, -1] - (len(outputs) - len(h))
    np.testing.assert_allclose(np.asarray(h)[last], end.h, atol=1e-4)
    np.testing.assert_allclose(np.asarray(c)[last], end.c, atol=1e-4)


def test_transitions_keep_the_weights_they_were_made_from():
    model = predictor()
    transitions = Transitions(model.network.core)
    start, actions = state(2, 1), np.zeros((2, 2), np.int32)
    before = stepped(transitions, start, actions)[1][0]
    for weight in model.network.core.weights:
        weight.assign(weight * 2)
    after = stepped(transitions, start, actions)[1][0]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch, num_actions", [(1, 18), (4, 18), (5, 3)])
def test_fast_imagination_finds_what_imagination_finds(variant, batch, num_actions):
    """The second case is one that matrices would not make faster."""
    model = predictor(variant, num_actions)
    fast = FastImagination(model)
    actions = np.random.default_rng(2).integers(num_actions, size=(batch, 6), dtype=np.int32)
    expected_state = found_state = state(batch, batch // 2)
    for steps in np.split(actions, [1, 2, 4], axis=1):  # it goes on from its own state
        plain = Imagination(model)
        expected = plain.predict_on_batch({"state": expected_state, "actions": steps})
        found = fast(found_state, steps)
        expected_state, found_state = expected.pop("state"), found.pop("state")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=2e-3, err_msg=key)
        for value, other in zip(expected_state, found_state, strict=True):
            np.testing.assert_allclose(other, value, atol=1e-4)
        # Not copied to NumPy's and back.
        assert all(keras.ops.is_tensor(part) for part in (found_state.h, found_state.c))


def test_fast_imagination_decodes_nothing_unasked_and_keeps_a_float32_state():
    model = predictor(precision="bfloat16")
    found = FastImagination(model, decode=False)(state(5, 2), np.zeros((5, 3), np.int32))
    assert "frames" not in found
    assert {np.asarray(part).dtype for part in found["state"]} == {np.dtype(np.float32)}


def test_operations_are_counted_as_by_hand():
    """Of the preset "tiny": 12x12x1 frames, two stacked, 32 units."""
    per = limits._per_frame("tiny", num_actions=3)
    assert per["first"] == 6 * 6 * 4 * (4 * 4 * 2)
    assert per["encoder"] == per["first"] + 6 * 6 * 8 * (3 * 3 * 4) + 6 * 6 * 8 * 32
    assert per["decoder"] == 32 * 6 * 6 * 8 + 6 * 6 * (3 * 3 * 8 * 8) + 6 * 6 * (4 * 4 * 8)
    core = predictor().network.core
    biases = 32 + 32 + 4 * 32
    assert per["core"] == core.count_params() - biases
