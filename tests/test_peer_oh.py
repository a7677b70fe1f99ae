"""The network of Oh et al. among the peers: where the action stands, and how it is trained."""

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks import peer_oh
from model.operations import multiplications
from model.presets import PRESETS

from . import tiny

WARMUP = peer_oh.WARMUP
MODEL = "lstm_84x84x1"  # what peers are compared with


def constant_core(units=2, num_actions=3):
    """A core whose weights are the same numbers whenever it is built."""
    core = peer_oh.ActionAfterLSTM(num_actions, units)
    core.build((None, units))
    for weight in core.weights:
        count = int(np.prod(weight.shape))
        weight.assign(np.linspace(-0.5, 0.7, count, dtype=np.float32).reshape(weight.shape))
    return core


def test_the_action_stands_after_the_lstm():
    core = constant_core()
    kernel, recurrent, bias, w_enc, w_a, w_dec, b_dec = (np.asarray(w) for w in core.weights)
    inputs = np.array([[[0.5, -1.0], [2.0, 0.25]]], np.float32)
    h = c = np.zeros((1, 2), np.float32)
    outputs, cell = core(inputs, h, c)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for t in range(2):
        i, f, g, o = np.split(inputs[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(outputs[:, t], h, rtol=1e-5)
    np.testing.assert_allclose(cell, c, rtol=1e-5)
    seen = core.transform(outputs, np.array([[2, 0]]))
    for t, action in enumerate((2, 0)):
        expected = (np.asarray(outputs)[0, t] @ w_enc * w_a[action]) @ w_dec + b_dec
        np.testing.assert_allclose(seen[0, t], expected, rtol=1e-5)
    # Computed once in NumPy, in double precision.
    np.testing.assert_allclose(outputs[0, 1], [-0.02945946, 0.02774296], rtol=1e-5)
    np.testing.assert_allclose(seen[0, 1], [-0.4959814, 0.69708202], rtol=1e-5)


def test_only_gradients_of_the_gates_are_clipped():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    layer.build((None, 1))
    z = ops.convert_to_tensor(np.array([[3.0], [0.05]], np.float32))
    value, gradients = tiny.gradients(
        lambda z: ops.sum(peer_oh.clip_gradient(layer(z)) * z), layer, z
    )
    # d/dz of z' z, where the gradient of the clipped factor is z: 3 becomes 0.1, 0.05 stays.
    assert float(value) == pytest.approx(9.0025)
    np.testing.assert_allclose(gradients[-1][:, 0], [3.0 + 0.1, 0.05 + 0.05], rtol=1e-5)


@pytest.fixture
def predictor():
    keras.utils.set_random_seed(2)
    return peer_oh.OhPredictor(tiny.TINY, 3, np.full((12, 12, 1), 100.0))


def test_without_feedback_predictions_are_one_step_ahead(predictor):
    data = tiny.batch(4, warmup=WARMUP)
    predictor.feed_back = False
    ahead = np.asarray(predictor(data))
    assert ahead.shape == (3, 4, 12, 12, 1)
    changed = {**data, "frames": data["frames"].copy()}
    changed["frames"][:, WARMUP + 1] = 0
    after = np.asarray(predictor(changed))
    assert (after[:, :2] == ahead[:, :2]).all() and (after[:, 2] != ahead[:, 2]).any()
    # Fed back, no frame after the warm-up is seen. The first prediction is the same.
    predictor.feed_back = True
    fed_back, blind = np.asarray(predictor(data)), np.asarray(predictor(changed))
    np.testing.assert_array_equal(fed_back, blind)
    np.testing.assert_allclose(fed_back[:, 0], ahead[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(fed_back[:, 1] - ahead[:, 1]).max() > 1e-4


def test_each_action_matters_from_its_own_step_on(predictor):
    data = tiny.batch(4, warmup=WARMUP)
    before = np.asarray(predictor(data))
    data["actions"][:, WARMUP] = (data["actions"][:, WARMUP] + 1) % 3
    after = np.asarray(predictor(data))
    assert (after[:, 0] == before[:, 0]).all() and (after[:, 1] != before[:, 1]).any()


def test_frames_are_divided_by_255_and_come_back(predictor):
    frames = np.array([0, 90, 255], np.uint8).reshape(1, 3, 1, 1, 1) * np.ones(
        (1, 3, 12, 12, 1), np.uint8
    )
    normalised = predictor.normalise(frames)
    assert float(normalised[0, 1, 0, 0, 0]) == pytest.approx(-10 / 255)
    np.testing.assert_allclose(predictor.denormalise(normalised), frames, atol=1e-4)


def test_multiplications_and_parameters_of_the_peer(predictor):
    units, actions = tiny.TINY.units, 3
    ours = multiplications(tiny.TINY, actions)
    core = (2 + 1) * units * 4 * units - units * 4 * units  # two kernels of the LSTM
    after = 2 * units * units + actions * units
    expected = ours.encoder + ours.decoder + core + after
    assert peer_oh.multiplications("tiny", actions) == expected
    weights = sum(int(np.prod(weight.shape)) for weight in predictor.core.weights)
    assert weights == core + 4 * units + after + units


@pytest.mark.thorough
def test_the_curriculum_has_the_papers_phases_and_the_loss_falls(predictor, monkeypatch):
    phases = [(phase.horizon, phase.learning_rate) for phase in peer_oh.CURRICULUM]
    assert phases == [(10, 1e-4), (3, 1e-5), (5, 1e-5)]
    assert sum(phase.share for phase in peer_oh.CURRICULUM) == pytest.approx(1)
    # A clock that ticks once whenever it is asked.
    ticks = itertools.count()
    monkeypatch.setattr(peer_oh, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    asked = []

    def batches(horizon):
        asked.append(horizon)
        while True:
            yield tiny.batch(horizon, warmup=WARMUP)

    losses = peer_oh.train(predictor, batches, 0, 70)
    assert asked == [10, 3, 5]
    assert len(losses) == 30 + 19 + 19  # the tick that ends a phase trains nothing
    assert np.isfinite(losses).all() and losses[29] < losses[0]
    assert predictor.feed_back


def test_it_costs_about_as_much_as_ours():
    ours = multiplications(PRESETS[MODEL], 9)
    whole = ours.encoder + ours.core + ours.decoder
    assert peer_oh.multiplications(MODEL, 9) == pytest.approx(whole, rel=0.03)
