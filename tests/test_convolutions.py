"""How training begins: the convolutions alone, and what stands between them afterwards."""

import h5py
import keras
import numpy as np
import pytest

from model.convolutions import (
    LARGEST,
    ConvolutionsRollOut,
    LinearDynamics,
    NextFrame,
    hand_on,
    hand_on_dynamics,
)
from model.networks import PRESETS, Conv
from model.predictor import FramePredictor
from utils.convolutions import step_weights
from utils.dataset import Dataset
from utils.optimizer import Dion

from . import tiny
from .test_dataset import write

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
    whole = predictor(variant, feed_back=False, reward_weight=0.02)
    alone = NextFrame(whole.network)
    batch = tiny.batch(3, size=40)
    hand_on(whole.network, alone, stacks(600, seed=1))
    predicted = whole.predict_on_batch(batch)
    for step in range(3):
        # The stack of two before each predicted frame, and the action between.
        at = 4 + step
        shown = {
            "frames": batch["frames"][:, at - 2 : at + 1],
            "actions": batch["actions"][:, at - 2 : at],
        }
        expected = alone.predict_on_batch(shown)
        others = alone.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})
        for key in ("frames", "reward"):
            told, wanted = predicted[key][:, step], expected[key][:, 0]
            spread = np.std(wanted - wanted.mean(axis=0))
            assert np.abs(told - wanted).mean() < 0.1 * spread
            assert np.abs(told - others[key][:, 0]).mean() > 0.3 * spread


def test_the_paper_variants_convolutions_see_what_they_have_predicted():
    alone = NextFrame(predictor().network)
    frames = stacks(5, seed=2).astype(np.float32)
    actions = np.random.default_rng(0).integers(0, 3, (5, 4))
    predicted = keras.ops.convert_to_numpy(alone({"frames": frames, "actions": actions})["frames"])
    for step in range(3):
        one = alone({"frames": frames, "actions": actions[:, step : step + 2]})["frames"]
        one = keras.ops.convert_to_numpy(one)
        np.testing.assert_allclose(predicted[:, step], one[:, 0], rtol=1e-4, atol=1e-4)
        frames = np.concatenate([frames[:, 1:], one * 70.0 + 120.0], axis=1)


@pytest.mark.parametrize("kind", [NextFrame, LinearDynamics])
def test_rolled_out_the_convolutions_go_on_from_the_last_frames(kind):
    whole = predictor()
    alone = kind(whole.network)
    batch = tiny.batch(3)
    shown = {"frames": batch["frames"][:, :4], "actions": batch["actions"]}
    found = ConvolutionsRollOut(whole, alone).predict_on_batch(shown)
    expected = alone.predict_on_batch(
        {"frames": batch["frames"][:, 2:4], "actions": batch["actions"][:, 2:]}
    )
    assert found["frames"].shape == (3, 3, 12, 12, 1)
    levels = np.clip(expected["frames"] * 70.0 + 120.0, 0, 255)
    np.testing.assert_allclose(found["frames"], levels, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["reward"].sum(axis=-1), 1, rtol=1e-5)
    assert (found["reward"].argmax(axis=-1) == expected["reward"].argmax(axis=-1)).all()
    np.testing.assert_array_equal(found["termination"], np.zeros((3, 3)))


def test_what_the_lstm_hands_on_it_can_hand_on_again():
    whole = predictor("compression")
    alone = NextFrame(whole.network)
    alone.action_planes.embeddings.assign(np.zeros((3, 8)))
    hand_on(whole.network, alone, stacks(600, seed=1))
    state = whole.observe(stacks(20, seed=2), np.zeros((20, 1), int))
    outputs, _, _ = whole.imagine(state, np.zeros((20, 3), int))
    outputs = keras.ops.convert_to_numpy(outputs)[..., : 2 * 288]
    first, last = outputs[:, 0].ravel(), outputs[:, 2].ravel()
    assert np.corrcoef(first, last)[0, 1] > 0.95
    assert 0.7 < last.std() / first.std() < 1.1


def test_the_lstm_goes_on_as_the_linear_dynamics_do():
    whole = predictor("compression", "tiny_wider", reward_weight=0.02)
    alone = LinearDynamics(whole.network)
    random = np.random.default_rng(3)
    for biases in alone.biases:
        biases.assign(random.normal(0, 0.1, biases.shape))
    hand_on_dynamics(whole.network, alone, stacks(600, seed=1), random.integers(0, 3, (600, 3)))
    batch = tiny.batch(4, size=40)
    predicted = whole.predict_on_batch(batch)
    shown = {"frames": batch["frames"][:, 2:4], "actions": batch["actions"][:, 2:]}
    expected = alone.predict_on_batch(shown)
    others = alone.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})
    for key, close in (("frames", 0.1), ("reward", 0.2)):
        for step in range(4):
            told, wanted = predicted[key][:, step], expected[key][:, step]
            spread = np.std(wanted - wanted.mean(axis=0))
            assert np.abs(told - wanted).mean() < close * spread
            assert np.abs(told - others[key][:, step]).mean() > 0.3 * spread


def dynamics_of(channels):
    PRESETS["tiny_channels"] = PRESETS["tiny"]._replace(
        encoder=(Conv(4, 4, 2), Conv(channels, 3, 1)), decoder_start=(6, 6, channels)
    )
    return LinearDynamics(predictor("compression", "tiny_channels").network)


def test_features_shrink_from_step_to_step_at_first_however_many_channels_they_have():
    left = []
    for channels in (32, 128):  # as the two presets have them
        alone = dynamics_of(channels)
        features = keras.random.normal((4, 6, 6, channels), seed=0)
        sizes = [float(keras.ops.std(features))]
        for _ in range(5):
            features = alone.advance(features, np.array([0, 1, 2, 0]))
            sizes.append(float(keras.ops.std(features)))
        assert (np.diff(sizes) < 0).all()
        left.append(sizes[-1] / sizes[0])
    assert left[1] == pytest.approx(left[0], rel=0.5)
    assert left[0] > 0.01  # so that the fifth step has something to learn from


def test_dynamics_of_many_channels_learn_in_steps_as_large_as_those_of_few():
    steps = []
    for channels in (32, 128):
        alone = dynamics_of(channels)
        before = keras.ops.convert_to_numpy(alone.kernels[0])
        optimizer = Dion(1e-3, {alone.name: alone.own_rate})
        optimizer.build(alone.trainable_variables)
        alone.compile(optimizer)
        alone.train_on_batch(tiny.batch(3))
        moved = keras.ops.convert_to_numpy(alone.kernels[0]) - before
        # What features may grow by.
        steps.append(np.linalg.norm(moved.reshape(-1, moved.shape[-1]), 2))
    assert steps[1] == pytest.approx(steps[0], rel=0.5)


def test_dynamics_that_have_not_learned_to_go_on_for_so_long_have_an_error_that_is_a_number():
    alone = LinearDynamics(predictor("compression").network)
    for kernel in alone.kernels:
        kernel.assign(2 * kernel)
    batch = tiny.batch(40)  # in which features would grow from 1 beyond any bound
    frames, actions = batch["frames"][:, :2], batch["actions"][:, 1:41]
    features = keras.ops.convert_to_numpy(alone.follow(frames, actions))
    assert features.shape[1] == 41
    assert np.abs(features[:, 5]).max() < np.abs(features[:, 40]).max() == LARGEST
    assert np.isfinite(float(alone.compute_loss(batch, y_pred=alone(batch))))


def test_the_drawn_steps_are_those_that_the_batch_names():
    alone = LinearDynamics(predictor().network)
    batch = {key: tiny.batch(3)[key] for key in ("frames", "actions")}
    everything = alone.predict_on_batch(batch)
    steps = np.tile([0, 3], (len(everything), 1))
    some = alone.predict_on_batch({**batch, "steps": steps})
    for key, found in some.items():
        np.testing.assert_allclose(found, everything[key][:, [0, 3]], rtol=1e-5, atol=1e-5)


def test_fewer_frames_than_components_are_enough():
    whole = predictor("paper", feed_back=False)
    alone = NextFrame(whole.network)
    hand_on(whole.network, alone, stacks(5, seed=1))
    assert np.isfinite(whole.predict_on_batch(tiny.batch(3))["frames"]).all()


@pytest.mark.parametrize("alone_kind", [NextFrame, LinearDynamics])
def test_the_convolutions_alone_are_trained(alone_kind):
    whole = predictor(reward_weight=0.02)
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
    judging = {path for path in moved if path.startswith("reward_head")}
    assert len(judging) == 4
    assert all("conv" in path for path in moved - judging)
    seeing = len(PRESETS["tiny"].encoder) + len(PRESETS["tiny"].decoder)
    assert len(moved - judging) == 2 * seeing


def shown_and_controlled():
    """Two predicted frames after two, in which the player decides two pixels of one place."""
    batch = tiny.batch(2)
    batch = {key: values[:, : 4 if key == "frames" else 3] for key, values in batch.items()}
    batch["controlled"] = np.zeros((3, 2, 12, 12), np.uint8)
    batch["controlled"][:, :, 2:4, 5] = 255
    return batch


@pytest.mark.parametrize("alone_kind", [NextFrame, LinearDynamics])
def test_what_the_player_decides_counts_for_more(alone_kind):
    batch = shown_and_controlled()
    plain, weighted = (alone_kind(predictor().network, weight) for weight in (0.0, 5.0))
    predicted = plain(batch)
    error = keras.ops.convert_to_numpy(predicted["frames"])
    decided = 0.5 * np.square(error - (batch["frames"][:, 2:] - 120.0) / 70.0)[:, :, 2:4, 5].sum()
    loss, more = (float(model.compute_loss(batch, y_pred=predicted)) for model in (plain, weighted))
    assert more - loss == pytest.approx(5 * decided / 6, rel=1e-4)


def test_each_steps_error_counts_as_its_weight_says():
    batch = tiny.batch(3)  # frames 2 to 6 after the stack
    alone = LinearDynamics(predictor().network)

    def losses(shown):
        alone.step_weights = None
        predicted = alone(shown)
        plain = float(alone.compute_loss(shown, y_pred=predicted))
        alone.step_weights = np.array([3, 1, 0.5, 2, 1], np.float32)
        return plain, float(alone.compute_loss(shown, y_pred=predicted)), predicted["frames"]

    plain, weighted, predicted = losses(batch)
    errors = 0.5 * np.square(predicted - (batch["frames"][:, 2:] - 120.0) / 70.0)
    first, third, fourth = (float(errors[:, step].sum()) / 15 for step in (0, 2, 3))
    assert weighted - plain == pytest.approx(2 * first - 0.5 * third + fourth, rel=1e-3)
    # Of steps that are drawn, each by its own number.
    some = {**batch, "frames": batch["frames"][:, [0, 1, 2, 5]]}
    some["steps"] = np.tile(np.array([0, 3], np.int32), (3, 1))
    plain, weighted, _ = losses(some)
    assert weighted - plain == pytest.approx((2 * first + fourth) * 15 / 6, rel=1e-3)


def test_a_step_counts_for_less_the_more_has_changed_by_then(tmp_path):
    # Frame t of an episode is t levels brighter than its first.
    path = write(tmp_path, [7])
    network = predictor().network
    found = step_weights(network, Dataset(path), 3, seed=0)
    expected = np.array([1, 1 / 4, 1 / 9])
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        file["episode_0/observations"][:] = 7
    np.testing.assert_array_equal(step_weights(network, Dataset(path), 3, seed=0), [1, 1, 1])


@pytest.mark.parametrize("alone_kind", [NextFrame, LinearDynamics])
def test_the_reward_is_told_and_where_it_is_told_by(alone_kind):
    batch = shown_and_controlled()
    alone = alone_kind(predictor().network)
    predicted = {key: keras.ops.convert_to_numpy(value) for key, value in alone(batch).items()}
    assert predicted["reward"].shape == (3, 2, 3)
    assert predicted["where"].shape == (3, 2, 36)
    errors = 0.5 * np.square(predicted["frames"] - (batch["frames"][:, 2:] - 120.0) / 70.0)

    def cross_entropy(logits, index):
        logits = logits.astype(np.float64)
        logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return -np.take_along_axis(logits, index[..., None], axis=-1).mean()

    signs = np.sign(batch["rewards"][:, 1:]).astype(int) + 1
    expected = errors.sum() / 6 + 0.1 * 144 * (
        cross_entropy(predicted["reward"], signs)
        # Rows 2 and 3, column 5 of the pixels lie in row 1, column 2 of six by six places.
        + 0.3 * cross_entropy(predicted["where"], np.full((3, 2), 1 * 6 + 2))
    )
    assert float(alone.compute_loss(batch, y_pred=predicted)) == pytest.approx(expected, rel=1e-5)
    # Without knowing what the player decides, it finds out for itself where to look.
    del batch["controlled"]
    expected -= 0.1 * 144 * 0.3 * cross_entropy(predicted["where"], np.full((3, 2), 8))
    assert float(alone.compute_loss(batch, y_pred=predicted)) == pytest.approx(expected, rel=1e-5)


def test_the_reward_is_what_is_told_where_it_looks():
    head = predictor().network.reward_head
    places = np.zeros((1, 6, 6, 8), np.float32)
    kernel = np.zeros(head.conv.kernel.shape)
    kernel[1, 1, 0, 0], kernel[1, 1, 1, 1] = 1, 1  # a place's own first and second channel
    head.conv.kernel.assign(kernel)
    verdict = np.zeros((1, 1, 32, 4))
    verdict[0, 0, 0, 2] = 3  # rewarded by one
    verdict[0, 0, 1, 3] = 50  # looked at by the other
    head.verdict.kernel.assign(verdict)
    places[0, 2, 3] = [1, 1, 0, 0, 0, 0, 0, 0]
    places[0, 4, 4] = [9, 0, 0, 0, 0, 0, 0, 0]
    logits, where = head.judge(places.reshape(1, -1))
    np.testing.assert_allclose(logits, [[0, 0, 3]], atol=1e-4)
    assert int(np.argmax(where)) == 2 * 6 + 3


def test_wherever_it_happens_it_is_the_same_reward():
    head = predictor().network.reward_head
    random = np.random.default_rng(0)
    places = np.zeros((2, 6, 6, 8), np.float32)
    places[0, 1:4, 1:4] = places[1, 2:5, 2:5] = random.normal(size=(3, 3, 8))
    logits, _ = head.judge(places.reshape(2, -1))
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(logits)).max() > 1e-3
