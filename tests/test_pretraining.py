"""Pretraining of the convolutions, and the weights that are handed over afterwards."""

import math

import h5py
import keras
import numpy as np
import pytest

from model.fast_imagination import FastImagination, Transitions
from model.handover import hand_over_dynamics, hand_over_next_frame
from model.predictor import FramePredictor
from model.presets import PRESETS, Conv
from model.pretraining import (
    MAX_FEATURE,
    LinearDynamics,
    NextFrame,
    PretrainingRollOut,
    mean_per_cell,
)
from systems.dataset import Dataset
from utils.training.optimizer import Muon
from utils.training.pretraining import step_weights

from . import tiny
from .test_dataset import write

VARIANTS_OF_TINY = {
    # Units for all 288 features, with both signs, and for three actions.
    "tiny_wide": tiny.TINY._replace(units=2 * 288 + 4),
    # The same, and for each action's own map as many.
    "tiny_wider": tiny.TINY._replace(units=6 * 290),
    # The same two for an encoder that sees one frame at a time.
    "tiny_wide_one": tiny.TINY._replace(units=2 * 288 + 4, stack=1),
    "tiny_wider_one": tiny.TINY._replace(units=6 * 290, stack=1),
    # All units hold components, as in the two presets.
    "tiny_full": tiny.TINY._replace(units=2 * 200),
    "tiny_full_one": tiny.TINY._replace(units=2 * 200, stack=1),
    # Channels as the two presets have them.
    "tiny_32": tiny.TINY._replace(
        encoder=(Conv(4, 4, 2), Conv(32, 3, 1)), decoder_start=(6, 6, 32)
    ),
    "tiny_128": tiny.TINY._replace(
        encoder=(Conv(4, 4, 2), Conv(128, 3, 1)), decoder_start=(6, 6, 128)
    ),
}


@pytest.fixture(autouse=True)
def variants_of_tiny(monkeypatch):
    for name, preset in VARIANTS_OF_TINY.items():
        monkeypatch.setitem(PRESETS, name, preset)


def predictor(variant="paper", preset="tiny_wide", **options):
    keras.utils.set_random_seed(0)
    model = FramePredictor(preset, variant, 3, warmup=4, **options)
    model.network.adapt(np.full((12, 12, 1), 120.0), 70.0)
    return model


def crossed(ones, others):
    """All pairs. make test leaves out those that only cross what other pairs hold."""
    return [
        pytest.param(one, other, marks=[] if i == j else [pytest.mark.thorough])
        for i, one in enumerate(ones)
        for j, other in enumerate(others)
    ]


WIDE = ["tiny_wide", "tiny_wide_one"]


def stacks(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 12, 12, 1), dtype=np.uint8)


def with_motion(pretraining):
    """The same with random motion, if it has any."""
    if pretraining.motion is not None:
        shape = pretraining.motion.shape
        pretraining.motion.assign(np.random.default_rng(4).normal(0, 0.05, shape))
    return pretraining


@pytest.mark.parametrize(("variant", "preset"), crossed(["paper", "compression"], WIDE))
def test_after_the_handover_the_network_predicts_as_next_frame_does(variant, preset):
    whole = predictor(variant, preset, feed_back=False, reward_weight=0.02)
    pretraining = with_motion(NextFrame(whole.network))
    batch = tiny.batch(3, size=40)
    hand_over_next_frame(whole.network, pretraining, stacks(600, seed=1))
    predicted = whole.predict_on_batch(batch)
    for step in range(3):
        # The two frames before each predicted one, and the action that leads to it.
        at = 4 + step
        shown = {
            "frames": batch["frames"][:, at - 2 : at + 1],
            "actions": batch["actions"][:, at - 2 : at],
        }
        expected = pretraining.predict_on_batch(shown)
        others = pretraining.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})
        for key in ("frames", "reward"):
            ours, reference = predicted[key][:, step], expected[key][:, 0]
            spread = np.std(reference - reference.mean(axis=0))
            assert np.abs(ours - reference).mean() < 0.1 * spread
            assert np.abs(ours - others[key][:, 0]).mean() > 0.3 * spread


@pytest.mark.parametrize("preset", ["tiny_wide", "tiny_wide_one"])
def test_next_frame_feeds_back_its_predictions(preset):
    pretraining = with_motion(NextFrame(predictor(preset=preset).network))
    frames = stacks(5, seed=2).astype(np.float32)
    actions = np.random.default_rng(0).integers(0, 3, (5, 4))
    predicted = keras.ops.convert_to_numpy(
        pretraining({"frames": frames, "actions": actions})["frames"]
    )
    for step in range(3):
        one = pretraining({"frames": frames, "actions": actions[:, step : step + 2]})["frames"]
        one = keras.ops.convert_to_numpy(one)
        np.testing.assert_allclose(predicted[:, step], one[:, 0], rtol=1e-4, atol=1e-4)
        frames = np.concatenate([frames[:, 1:], one * 70.0 + 120.0], axis=1)


@pytest.mark.parametrize(
    ("pretraining_class", "preset"), crossed([NextFrame, LinearDynamics], WIDE)
)
def test_the_roll_out_starts_from_the_last_frames(pretraining_class, preset):
    whole = predictor(preset=preset)
    pretraining = with_motion(pretraining_class(whole.network))
    batch = tiny.batch(3)
    shown = {"frames": batch["frames"][:, :4], "actions": batch["actions"]}
    roll_out = PretrainingRollOut(whole, pretraining)
    rolled_out = roll_out.predict_on_batch(shown)
    # The last batch is a smaller one.
    in_turn = roll_out.predict(shown, batch_size=2, verbose=0)
    np.testing.assert_allclose(in_turn["frames"], rolled_out["frames"], rtol=1e-4, atol=1e-3)
    expected = pretraining.predict_on_batch(
        {"frames": batch["frames"][:, 2:4], "actions": batch["actions"][:, 2:]}
    )
    assert rolled_out["frames"].shape == (3, 3, 12, 12, 1)
    levels = np.clip(expected["frames"] * 70.0 + 120.0, 0, 255)
    np.testing.assert_allclose(rolled_out["frames"], levels, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(rolled_out["reward"].sum(axis=-1), 1, rtol=1e-5)
    assert (rolled_out["reward"].argmax(axis=-1) == expected["reward"].argmax(axis=-1)).all()
    np.testing.assert_array_equal(rolled_out["termination"], np.zeros((3, 3)))


def test_after_the_handover_the_lstm_repeats_its_own_output():
    whole = predictor("compression")
    pretraining = NextFrame(whole.network)
    pretraining.action_planes.embeddings.assign(np.zeros((3, 8)))
    hand_over_next_frame(whole.network, pretraining, stacks(600, seed=1))
    state = whole.observe(stacks(20, seed=2), np.zeros((20, 1), int))
    outputs, _, _ = whole.imagine(state, np.zeros((20, 3), int))
    outputs = keras.ops.convert_to_numpy(outputs)[..., : 2 * 288]
    first, last = outputs[:, 0].ravel(), outputs[:, 2].ravel()
    assert np.corrcoef(first, last)[0, 1] > 0.95
    assert 0.7 < last.std() / first.std() < 1.1


@pytest.mark.parametrize("preset", ["tiny_wide", "tiny_wide_one"])
def test_after_the_handover_old_frames_leave_no_trace(preset):
    whole = predictor("paper", preset, feed_back=False)
    pretraining = with_motion(NextFrame(whole.network))
    hand_over_next_frame(whole.network, pretraining, stacks(600, seed=1))
    batch = tiny.batch(1, size=40)
    others = {**batch, "frames": batch["frames"].copy()}
    others["frames"][:, 1] = 255 - batch["frames"][:, 1]  # the one before the last two
    predicted, of_others = (whole.predict_on_batch(x)["frames"] for x in (batch, others))
    assert np.abs(predicted - of_others).mean() < 0.005 * predicted.std()


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["tiny_wider", pytest.param("tiny_wider_one", marks=pytest.mark.thorough)]
)
def test_after_the_handover_the_lstm_steps_as_the_linear_dynamics_do(preset):
    whole = predictor("compression", preset, reward_weight=0.02)
    pretraining = with_motion(LinearDynamics(whole.network))
    random = np.random.default_rng(3)
    for biases in pretraining.biases:
        biases.assign(random.normal(0, 0.1, biases.shape))
    hand_over_dynamics(
        whole.network, pretraining, stacks(600, seed=1), random.integers(0, 3, (600, 3))
    )
    batch = tiny.batch(4, size=40)
    predicted = whole.predict_on_batch(batch)
    shown = {"frames": batch["frames"][:, 2:4], "actions": batch["actions"][:, 2:]}
    expected = pretraining.predict_on_batch(shown)
    others = pretraining.predict_on_batch({**shown, "actions": (shown["actions"] + 1) % 3})
    for key, tolerance in (("frames", 0.1), ("reward", 0.2)):
        for step in range(4):
            ours, reference = predicted[key][:, step], expected[key][:, step]
            spread = np.std(reference - reference.mean(axis=0))
            assert np.abs(ours - reference).mean() < tolerance * spread
            assert np.abs(ours - others[key][:, step]).mean() > 0.3 * spread


@pytest.mark.parametrize(
    "preset", [pytest.param("tiny_full", marks=pytest.mark.thorough), "tiny_full_one"]
)
def test_after_the_handover_fast_rollouts_take_a_sixteenth_of_the_products(preset):
    whole = predictor("compression", preset, reward_weight=0.02)
    pretraining = with_motion(LinearDynamics(whole.network))
    actions = np.random.default_rng(3).integers(0, 3, (600, 3))
    hand_over_dynamics(whole.network, pretraining, stacks(600, seed=1), actions)
    parts = 1 if pretraining.motion is None else 2
    assert Transitions(whole.network.core).share == parts / 16
    batch = tiny.batch(4, size=40)
    state = whole.observe(batch["frames"][:, :4], batch["actions"][:, :3])
    outputs, _, _ = whole.imagine(state, batch["actions"][:, 3:])
    last = FastImagination(whole)(state, batch["actions"][:, 3:])["state"].h
    np.testing.assert_allclose(last, np.asarray(outputs)[:, -1], atol=1e-6)


def dynamics_of(channels):
    return LinearDynamics(predictor("compression", f"tiny_{channels}").network)


def test_initial_dynamics_shrink_features_with_few_and_with_many_channels():
    remaining = []
    for channels in (32, 128):
        pretraining = dynamics_of(channels)
        features = keras.random.normal((4, 6, 6, channels), seed=0)
        sizes = [float(keras.ops.std(features))]
        for _ in range(5):
            features = pretraining.advance(features, np.array([0, 1, 2, 0]))
            sizes.append(float(keras.ops.std(features)))
        assert (np.diff(sizes) < 0).all()
        remaining.append(sizes[-1] / sizes[0])
    assert remaining[1] == pytest.approx(remaining[0], rel=0.5)
    assert remaining[0] > 0.01  # or the fifth step would have nothing to learn from


@pytest.mark.slow
def test_dynamics_with_few_and_with_many_channels_learn_at_the_same_rate():
    steps = []
    for channels in (32, 128):
        pretraining = dynamics_of(channels)
        before = keras.ops.convert_to_numpy(pretraining.kernels[0])
        optimizer = Muon(1e-3, {pretraining.name: pretraining.own_rate})
        optimizer.build(pretraining.trainable_variables)
        pretraining.compile(optimizer)
        pretraining.train_on_batch(tiny.batch(3))
        moved = keras.ops.convert_to_numpy(pretraining.kernels[0]) - before
        # The spectral norm bounds how much features may grow.
        steps.append(np.linalg.norm(moved.reshape(-1, moved.shape[-1]), 2))
    assert steps[1] == pytest.approx(steps[0], rel=0.5)


def test_diverging_dynamics_have_a_finite_loss():
    pretraining = LinearDynamics(predictor("compression").network)
    for kernel in pretraining.kernels:
        kernel.assign(2 * kernel)
    batch = tiny.batch(40)  # enough steps for features to exceed any bound
    frames, actions = batch["frames"][:, :2], batch["actions"][:, 1:41]
    features = keras.ops.convert_to_numpy(pretraining.roll_out_features(frames, actions))
    assert features.shape[1] == 41
    assert np.abs(features[:, 5]).max() < np.abs(features[:, 40]).max() == MAX_FEATURE
    assert np.isfinite(float(pretraining.compute_loss(batch, y_pred=pretraining(batch))))


def test_only_the_batchs_steps_are_predicted():
    pretraining = LinearDynamics(predictor().network)
    batch = {key: tiny.batch(3)[key] for key in ("frames", "actions")}
    all_steps = pretraining.predict_on_batch(batch)
    steps = np.tile([0, 3], (len(batch["frames"]), 1))
    two_steps = pretraining.predict_on_batch({**batch, "steps": steps})
    for key, predicted in two_steps.items():
        np.testing.assert_allclose(predicted, all_steps[key][:, [0, 3]], rtol=1e-5, atol=1e-5)


def test_the_handover_needs_fewer_frames_than_components():
    whole = predictor("paper", feed_back=False)
    pretraining = NextFrame(whole.network)
    hand_over_next_frame(whole.network, pretraining, stacks(5, seed=1))
    assert np.isfinite(whole.predict_on_batch(tiny.batch(3))["frames"]).all()


@pytest.mark.parametrize(
    ("pretraining_class", "preset"), crossed([NextFrame, LinearDynamics], WIDE)
)
def test_only_convolutions_are_trained(pretraining_class, preset):
    whole = predictor(preset=preset, reward_weight=0.02)
    before = {v.path: v.numpy() for v in whole.network.trainable_variables}
    pretraining = pretraining_class(whole.network)
    own = [v for v in pretraining.trainable_variables if v.path not in before]
    own_before = [v.numpy() for v in own]
    optimizer = Muon(1e-5)
    optimizer.build(pretraining.trainable_variables)
    pretraining.compile(optimizer)
    pretraining.fit(tiny.batch(3), verbose=0)
    assert all((v.numpy() != old).any() for v, old in zip(own, own_before, strict=True))
    moved = {
        v.path for v in whole.network.trainable_variables if (v.numpy() != before[v.path]).any()
    }
    assert moved
    of_reward_head = {path for path in moved if path.startswith("reward_head")}
    assert len(of_reward_head) == 4
    assert all("conv" in path for path in moved - of_reward_head)
    num_convolutions = len(tiny.TINY.encoder) + len(tiny.TINY.decoder)
    assert len(moved - of_reward_head) == 2 * num_convolutions


def batch_with_controlled_pixels():
    """Two frames to predict after a stack of two, with two controlled pixels in one cell."""
    batch = tiny.batch(2)
    batch = {key: values[:, : 4 if key == "frames" else 3] for key, values in batch.items()}
    batch["controlled"] = np.zeros((3, 2, 12, 12), np.uint8)
    batch["controlled"][:, :, 2:4, 5] = 255
    return batch


@pytest.mark.parametrize("pretraining_class", [NextFrame, LinearDynamics])
def test_errors_of_controlled_pixels_are_weighted(pretraining_class):
    batch = batch_with_controlled_pixels()
    plain, weighted = (pretraining_class(predictor().network, weight) for weight in (0.0, 5.0))
    predicted = plain(batch)
    error = keras.ops.convert_to_numpy(predicted["frames"])
    of_controlled = (
        0.5 * np.square(error - (batch["frames"][:, 2:] - 120.0) / 70.0)[:, :, 2:4, 5].sum()
    )
    loss, more = (float(model.compute_loss(batch, y_pred=predicted)) for model in (plain, weighted))
    assert more - loss == pytest.approx(5 * of_controlled / 6, rel=1e-4)


def test_step_weights_weigh_each_steps_error():
    batch = tiny.batch(3)  # frames 2 to 6 after the stack
    pretraining = LinearDynamics(predictor().network)

    def losses(shown):
        pretraining.step_weights = None
        predicted = pretraining(shown)
        plain = float(pretraining.compute_loss(shown, y_pred=predicted))
        pretraining.step_weights = np.array([3, 1, 0.5, 2, 1], np.float32)
        return plain, float(pretraining.compute_loss(shown, y_pred=predicted)), predicted["frames"]

    plain, weighted, predicted = losses(batch)
    errors = 0.5 * np.square(predicted - (batch["frames"][:, 2:] - 120.0) / 70.0)
    first, third, fourth = (float(errors[:, step].sum()) / 15 for step in (0, 2, 3))
    assert weighted - plain == pytest.approx(2 * first - 0.5 * third + fourth, rel=1e-3)
    # If only some steps are decoded, each has the weight of its number.
    two_steps = {**batch, "frames": batch["frames"][:, [0, 1, 2, 5]]}
    two_steps["steps"] = np.tile(np.array([0, 3], np.int32), (3, 1))
    plain, weighted, _ = losses(two_steps)
    assert weighted - plain == pytest.approx((2 * first + fourth) * 15 / 6, rel=1e-3)


def test_step_weights_fall_with_the_change_since_the_first_frame(tmp_path):
    # Frame t of an episode is t levels brighter than its first.
    path = write(tmp_path, [7])
    network = predictor().network
    weights = step_weights(network, Dataset(path), 3, seed=0)
    expected = np.array([1, 1 / 4, 1 / 9])
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-4)
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        file["episode_0/observations"][:] = 7
    np.testing.assert_array_equal(step_weights(network, Dataset(path), 3, seed=0), [1, 1, 1])


@pytest.mark.parametrize("pretraining_class", [NextFrame, LinearDynamics])
def test_the_loss_holds_the_cross_entropies_of_reward_and_attention(pretraining_class):
    batch = batch_with_controlled_pixels()
    pretraining = pretraining_class(predictor().network)
    predicted = {
        key: keras.ops.convert_to_numpy(value) for key, value in pretraining(batch).items()
    }
    assert predicted["reward"].shape == (3, 2, 3)
    assert predicted["attention_logits"].shape == (3, 2, 36)
    errors = 0.5 * np.square(predicted["frames"] - (batch["frames"][:, 2:] - 120.0) / 70.0)

    def cross_entropy(logits, index):
        logits = logits.astype(np.float64)
        logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return -np.take_along_axis(logits, index[..., None], axis=-1).mean()

    signs = np.sign(batch["rewards"][:, 1:]).astype(int) + 1
    expected = errors.sum() / 6 + 0.1 * 144 * (
        cross_entropy(predicted["reward"], signs)
        # Rows 2 and 3, column 5 of the pixels lie in row 1, column 2 of six by six cells.
        + 0.3 * cross_entropy(predicted["attention_logits"], np.full((3, 2), 1 * 6 + 2))
    )
    assert float(pretraining.compute_loss(batch, y_pred=predicted)) == pytest.approx(
        expected, rel=1e-5
    )
    # Without controlled pixels the attention has no targets.
    del batch["controlled"]
    expected -= 0.1 * 144 * 0.3 * cross_entropy(predicted["attention_logits"], np.full((3, 2), 8))
    assert float(pretraining.compute_loss(batch, y_pred=predicted)) == pytest.approx(
        expected, rel=1e-5
    )


def receptive_field_centres(size, convs):
    """Centres of the cells' receptive fields, in pixels, after convolutions padded as "same"."""
    centre, distance, cells = 0.0, 1, size
    for conv in convs:
        cells_before, cells = cells, math.ceil(cells / conv.stride)
        padding = max((cells - 1) * conv.stride + conv.size - cells_before, 0)
        centre += distance * ((conv.size - 1) / 2 - padding // 2)
        distance *= conv.stride
    return centre + distance * np.arange(cells)


@pytest.mark.parametrize("name", ["lstm_84x84x1", "lstm_210x160x3"])
def test_each_pixel_belongs_to_the_cell_that_is_centred_on_it(name):
    preset = PRESETS[name]
    height, width, _ = preset.frame_shape
    rows, columns, _ = preset.decoder_start
    side = math.prod(conv.stride for conv in preset.encoder)
    lines = np.zeros((2, max(height, width), height, width), np.uint8)
    lines[0, np.arange(height), np.arange(height)] = 255  # one row of pixels at a time
    lines[1, np.arange(width), :, np.arange(width)] = 255  # one column at a time
    means = np.asarray(mean_per_cell(lines, preset)).reshape(2, -1, rows, columns)
    for size, by_cell in ((height, means[0].mean(axis=2)), (width, means[1].mean(axis=1))):
        assert (np.count_nonzero(by_cell[:size], axis=1) == 1).all()
        centres = receptive_field_centres(size, preset.encoder)[by_cell[:size].argmax(axis=1)]
        assert np.abs(centres - np.arange(size)).max() <= side / 2
        # Each cell's lines add up to its mean over a frame that is all 255.
        np.testing.assert_allclose(by_cell.sum(axis=0), 255, rtol=1e-5)


def test_the_reward_is_that_of_the_attended_cell():
    head = predictor().network.reward_head
    cells = np.zeros((1, 6, 6, 8), np.float32)
    kernel = np.zeros(head.conv.kernel.shape)
    kernel[1, 1, 0, 0], kernel[1, 1, 1, 1] = 1, 1  # a cell's own first and second channel
    head.conv.kernel.assign(kernel)
    verdict = np.zeros((1, 1, 32, 4))
    verdict[0, 0, 0, 2] = 3  # the first channel gives a reward
    verdict[0, 0, 1, 3] = 50  # the second one attracts attention
    head.verdict.kernel.assign(verdict)
    cells[0, 2, 3] = [1, 1, 0, 0, 0, 0, 0, 0]
    cells[0, 4, 4] = [9, 0, 0, 0, 0, 0, 0, 0]
    logits, attention_logits = head.logits_and_attention(cells.reshape(1, -1))
    np.testing.assert_allclose(logits, [[0, 0, 3]], atol=1e-4)
    assert int(np.argmax(attention_logits)) == 2 * 6 + 3


def test_the_reward_is_alike_at_all_positions():
    head = predictor().network.reward_head
    random = np.random.default_rng(0)
    cells = np.zeros((2, 6, 6, 8), np.float32)
    cells[0, 1:4, 1:4] = cells[1, 2:5, 2:5] = random.normal(size=(3, 3, 8))
    logits, _ = head.logits_and_attention(cells.reshape(2, -1))
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(logits)).max() > 1e-3
