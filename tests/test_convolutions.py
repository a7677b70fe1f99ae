"""How training begins: the convolutions alone, and what stands between them afterwards."""

import keras
import numpy as np
import pytest

from model.convolutions import LinearDynamics, NextFrame, hand_on, hand_on_dynamics
from model.networks import PRESETS
from model.predictor import FramePredictor
from utils.optimizer import Dion

from . import tiny

# As many units as it takes to hand on all 288 features and the three actions.
PRESETS["tiny_wide"] = PRESETS["tiny"]._replace(units=2 * 288 + 4)
# The same, and for each action as many.
PRESETS["tiny_wider"] = PRESETS["tiny"]._replace(units=6 * 290)


def predictor(variant="paper", preset="tiny_wide", **options):
    keras.utils.set_random_seed(0)
    found = FramePredictor(preset, variant, 3, warmup=4, **options)
    found.network.adapt(np.full((12, 12, 1), 120.0), 70.0)
    return found


def stacks(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 12, 12, 1), dtype=np.uint8)


@pytest.mark.parametrize("variant", ["paper", "compression"])
def test_what_the_convolutions_predict_alone_the_whole_network_then_predicts(variant):
    whole = predictor(variant, feed_back=False)
    alone = NextFrame(whole.network)
    batch = tiny.batch(3, size=40)
    hand_on(whole.network, stacks(600, seed=1), alone.action_planes.get_weights()[0])
    predicted = whole.predict_on_batch(batch)["frames"]
    for step in range(3):
        # The stack of two before each predicted frame, and the action between.
        at = 4 + step
        shown = {
            "frames": batch["frames"][:, at - 2 : at + 1],
            "actions": batch["actions"][:, at - 2 : at],
        }
        expected = alone.predict_on_batch(shown)[:, 0]
        spread = np.std(expected - expected.mean(axis=0))
        assert np.abs(predicted[:, step] - expected).mean() < 0.1 * spread
        others = alone.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})[:, 0]
        assert np.abs(predicted[:, step] - others).mean() > 0.3 * spread


def test_the_paper_variants_convolutions_see_what_they_have_predicted():
    alone = NextFrame(predictor().network)
    frames = stacks(5, seed=2).astype(np.float32)
    actions = np.random.default_rng(0).integers(0, 3, (5, 4))
    predicted = keras.ops.convert_to_numpy(alone({"frames": frames, "actions": actions}))
    for step in range(3):
        one = alone({"frames": frames, "actions": actions[:, step : step + 2]})
        one = keras.ops.convert_to_numpy(one)
        np.testing.assert_allclose(predicted[:, step], one[:, 0], rtol=1e-4, atol=1e-4)
        frames = np.concatenate([frames[:, 1:], one * 70.0 + 120.0], axis=1)


def test_what_the_lstm_hands_on_it_can_hand_on_again():
    whole = predictor("compression")
    hand_on(whole.network, stacks(600, seed=1), np.zeros((3, 8)))
    state = whole.observe(stacks(20, seed=2), np.zeros((20, 1), int))
    outputs, _, _ = whole.imagine(state, np.zeros((20, 3), int))
    outputs = keras.ops.convert_to_numpy(outputs)[..., : 2 * 288]
    first, last = outputs[:, 0].ravel(), outputs[:, 2].ravel()
    assert np.corrcoef(first, last)[0, 1] > 0.95
    assert 0.7 < last.std() / first.std() < 1.1


def test_the_lstm_goes_on_as_the_linear_dynamics_do():
    whole = predictor("compression", "tiny_wider")
    alone = LinearDynamics(whole.network)
    random = np.random.default_rng(3)
    for biases in alone.biases:
        biases.assign(random.normal(0, 0.1, biases.shape))
    hand_on_dynamics(whole.network, alone, stacks(600, seed=1), random.integers(0, 3, (600, 3)))
    batch = tiny.batch(4, size=40)
    predicted = whole.predict_on_batch(batch)["frames"]
    shown = {"frames": batch["frames"][:, 2:4], "actions": batch["actions"][:, 2:]}
    expected = alone.predict_on_batch(shown)
    others = alone.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})
    for step in range(4):
        spread = np.std(expected[:, step] - expected[:, step].mean(axis=0))
        assert np.abs(predicted[:, step] - expected[:, step]).mean() < 0.1 * spread
        assert np.abs(predicted[:, step] - others[:, step]).mean() > 0.3 * spread


def test_the_drawn_steps_are_those_that_the_batch_names():
    alone = LinearDynamics(predictor().network)
    batch = {key: tiny.batch(3)[key] for key in ("frames", "actions")}
    everything = alone.predict_on_batch(batch)
    steps = np.tile([0, 3], (len(everything), 1))
    some = alone.predict_on_batch({**batch, "steps": steps})
    np.testing.assert_allclose(some, everything[:, [0, 3]], rtol=1e-5, atol=1e-5)


def test_fewer_frames_than_components_are_enough():
    whole = predictor("paper", feed_back=False)
    alone = NextFrame(whole.network)
    hand_on(whole.network, stacks(5, seed=1), alone.action_planes.get_weights()[0])
    assert np.isfinite(whole.predict_on_batch(tiny.batch(3))["frames"]).all()


@pytest.mark.parametrize("alone_kind", [NextFrame, LinearDynamics])
def test_the_convolutions_alone_are_trained(alone_kind):
    whole = predictor()
    before = {v.path: v.numpy() for v in whole.network.trainable_variables}
    alone = alone_kind(whole.network)
    own = [v for v in alone.trainable_variables if v.path not in before]
    own_before = [v.numpy() for v in own]
    optimizer = Dion(1e-5)
    optimizer.build(alone.trainable_variables)
    alone.compile(optimizer)
    alone.fit(tiny.batch(3), verbose=0)
    assert all((v.numpy() != old).any() for v, old in zip(own, own_before, strict=True))
    moved = {
        v.path for v in whole.network.trainable_variables if (v.numpy() != before[v.path]).any()
    }
    assert moved
    assert all("conv" in path for path in moved)
    assert len(moved) == 2 * (len(PRESETS["tiny"].encoder) + len(PRESETS["tiny"].decoder))


@pytest.mark.parametrize("alone_kind", [NextFrame, LinearDynamics])
def test_what_the_player_decides_counts_for_more(alone_kind):
    batch = tiny.batch(2)
    batch = {"frames": batch["frames"][:, :4], "actions": batch["actions"][:, :3]}
    batch["controlled"] = np.zeros((3, 2, 12, 12), np.uint8)
    batch["controlled"][:, :, 2:4, 5] = 255
    plain, weighted = (alone_kind(predictor().network, weight) for weight in (0.0, 5.0))
    error = keras.ops.convert_to_numpy(plain(batch)) - (batch["frames"][:, 2:] - 120.0) / 70.0
    squares = 0.5 * np.square(error)[..., 0]
    everywhere, decided = squares.sum(), squares[:, :, 2:4, 5].sum()
    for model, expected in ((plain, everywhere), (weighted, everywhere + 5 * decided)):
        loss = model.compute_loss(x=batch, y_pred=model(batch))
        np.testing.assert_allclose(float(loss), expected / 6, rtol=1e-4)
