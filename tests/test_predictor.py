"""Rolling the network out: what is fed back, in both variants, and the training loss."""

import keras
import numpy as np
import pytest
from keras import ops

from model.predictor import VARIANTS, FramePredictor, Imagination, RollOut

from .tiny import batch, gradients

WARMUP = 4


@pytest.fixture(params=VARIANTS)
def predictor(request):
    keras.utils.set_random_seed(3)
    predictor = FramePredictor("tiny", request.param, 3, warmup=WARMUP)
    predictor.network.adapt(np.full((12, 12, 1), 100.0), 50.0)
    return predictor


def observed(predictor, data):
    return predictor.observe(data["frames"][:, :WARMUP], data["actions"][:, : WARMUP - 1])


def test_unknown_preset_and_variant_are_refused():
    with pytest.raises(ValueError, match="lstm_84x84x1"):
        FramePredictor("lstm", "paper", 3)
    with pytest.raises(ValueError, match="compression"):
        FramePredictor("tiny", "papers", 3)


def test_imagining_five_steps_equals_imagining_one_step_five_times(predictor):
    data = batch(5)
    actions = data["actions"][:, WARMUP - 1 :]
    at_once, frames, end = predictor.imagine(observed(predictor, data), actions)
    state = observed(predictor, data)
    for t in range(5):
        outputs, frame, state = predictor.imagine(state, actions[:, t : t + 1])
        np.testing.assert_allclose(outputs[:, 0], at_once[:, t], rtol=1e-4, atol=1e-5)
        if frames is not None:
            np.testing.assert_allclose(frame[:, 0], frames[:, t], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.encoding, end.encoding, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.c, end.c, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="half a minute of compiling to test JAX's own scan"
)
def test_the_papers_loop_equals_the_plain_formulation_in_frames_and_gradients():
    keras.utils.set_random_seed(3)
    predictor = FramePredictor("tiny", "paper", 3, warmup=WARMUP)
    network, data = predictor.network, batch(7)
    actions = data["actions"][:, WARMUP - 1 :]

    def plain():
        encoding, h, c, recent = observed(predictor, data)
        frames = []
        for t in range(7):
            outputs, cells = network.core(encoding[:, None], actions[:, t : t + 1], h, c)
            h, c = outputs[:, 0], cells[:, 0]
            frames.append(network.decode(outputs))
            encodings, recent = network.encode(frames[-1], recent)
            encoding = encodings[:, 0]
        return ops.concatenate(frames, axis=1)

    def loop():
        return predictor.imagine(observed(predictor, data), actions)[1]

    def loss_of(frames):
        return lambda: ops.mean(
            ops.square(frames() - network.normalise(data["frames"])[:, WARMUP:])
        )

    np.testing.assert_allclose(loop(), plain(), rtol=1e-4, atol=1e-5)
    (_, ours), (_, expected) = (gradients(loss_of(frames), network) for frames in (loop, plain))
    for weight, one, other in zip(network.weights, ours, expected, strict=True):
        if other is None or not np.any(other):  # the heads and the frames' statistics
            continue
        atol = 1e-4 * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=atol, err_msg=weight.path)


@pytest.mark.parametrize("length", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_rolling_out_in_pieces_equals_rolling_out_at_once(predictor, length):
    data = batch(5)
    frames, actions = np.array(data["frames"][:, :WARMUP]), np.array(data["actions"])
    model = RollOut(predictor)
    whole = model.predict_on_batch({"frames": frames, "actions": actions})
    pieces = list(model.in_pieces(frames, actions, length))
    assert max(len(piece["termination"][0]) for piece in pieces) <= length
    for key, values in whole.items():
        joined = np.concatenate([piece[key] for piece in pieces], axis=1)
        np.testing.assert_allclose(joined, values, rtol=1e-4, atol=1e-4)


def test_observing_in_pieces_equals_observing_at_once(predictor):
    data = batch(3)
    frames, actions = data["frames"], data["actions"]
    whole = predictor.observe(frames, actions)
    pieces = predictor.observe(frames[:, :2], actions[:, :1])
    pieces = predictor.observe(frames[:, 2:], actions[:, 1:], pieces)
    for ours, expected in zip(pieces, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_paper_feeds_back_its_frame_and_compression_its_output(predictor):
    data = batch(2)
    state = observed(predictor, data)
    action = data["actions"][:, WARMUP - 1 : WARMUP]
    outputs, frames, after = predictor.imagine(state, action)
    if predictor.variant == "compression":
        assert frames is None
        np.testing.assert_array_equal(after.encoding, outputs[:, 0])
    else:
        frame = predictor.network.decode(outputs)
        np.testing.assert_allclose(frames, frame, rtol=1e-5, atol=1e-5)
        encoding, _ = predictor.network.encode(frame, state.recent)
        np.testing.assert_allclose(after.encoding, encoding[:, 0], rtol=1e-4, atol=1e-5)


def test_roll_out_predicts_as_training_does(predictor):
    data = batch(5)
    rolled_out = RollOut(predictor).predict_on_batch(
        {"frames": data["frames"][:, :WARMUP], "actions": data["actions"]}
    )
    trained = predictor.network.denormalise(predictor(data)["frames"])
    assert rolled_out["frames"].shape == (3, 5, 12, 12, 1)
    np.testing.assert_allclose(rolled_out["frames"], trained, atol=1e-2)
    np.testing.assert_allclose(rolled_out["reward"].sum(axis=-1), 1, atol=1e-5)
    assert rolled_out["termination"].shape == (3, 5)


def test_the_compression_variant_decodes_only_the_batchs_steps():
    predictor = FramePredictor("tiny", "compression", 3, warmup=WARMUP)
    data = batch(5)
    steps = np.array([[0, 4], [1, 2], [3, 4]], np.int32)
    every = np.asarray(predictor(data)["frames"])
    decoded = predictor({**data, "steps": steps})["frames"]
    np.testing.assert_allclose(decoded, every[np.arange(3)[:, None], steps], atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "bfloat16"])
def test_imagination_continues_from_a_state_as_the_roll_out_does(predictor, precision):
    data = batch(5)
    weights = predictor.network.get_weights()
    predictor = FramePredictor("tiny", predictor.variant, 3, warmup=WARMUP, precision=precision)
    predictor.network.set_weights(weights)
    tolerance = 1 if precision == "float32" else 100
    rolled_out = RollOut(predictor).predict_on_batch(
        {"frames": data["frames"][:, :WARMUP], "actions": data["actions"]}
    )
    imagination = Imagination(predictor)
    state = observed(predictor, data)
    # Float32 whatever it was computed in, as the environment keeps it.
    state = type(state)(*(np.asarray(ops.cast(part, "float32")) for part in state))
    for t in range(5):
        actions = data["actions"][:, WARMUP - 1 + t : WARMUP + t]
        imagined = imagination.predict_on_batch({"state": state, "actions": actions})
        state = imagined["state"]
        for key, atol in (("frames", 0.1), ("reward", 1e-4), ("termination", 1e-4)):
            np.testing.assert_allclose(
                imagined[key][:, 0], rolled_out[key][:, t], atol=atol * tolerance
            )
        assert state.c.dtype == np.float32
    without_frames = Imagination(predictor, decode=False)
    imagined = without_frames.predict_on_batch({"state": state, "actions": actions})
    assert imagined.keys() == {"state", "reward", "termination"}


def test_predictions_depend_on_actions_but_not_on_later_frames_or_actions(predictor):
    data = batch(5)
    predictions = np.asarray(predictor(data)["frames"])
    later = {**data, "frames": data["frames"].copy(), "actions": data["actions"].copy()}
    later["frames"][:, WARMUP:] = 0
    later["actions"][:, WARMUP + 1 :] = (later["actions"][:, WARMUP + 1 :] + 1) % 3
    changed = np.asarray(predictor(later)["frames"])
    np.testing.assert_allclose(changed[:, :2], predictions[:, :2], atol=1e-5)
    assert np.abs(changed[:, 2:] - predictions[:, 2:]).max() > 1e-3


def test_without_feeding_back_every_prediction_follows_a_real_frame():
    keras.utils.set_random_seed(3)
    predictor = FramePredictor("tiny", "compression", 3, warmup=WARMUP, feed_back=False)
    data = batch(5)
    predictions = np.asarray(predictor(data)["frames"])
    for t in range(5):
        state = predictor.observe(
            data["frames"][:, : WARMUP + t], data["actions"][:, : WARMUP + t - 1]
        )
        outputs, _, _ = predictor.imagine(state, data["actions"][:, WARMUP + t - 1 : WARMUP + t])
        expected = predictor.network.decode(outputs)
        np.testing.assert_allclose(predictions[:, t], expected[:, 0], rtol=1e-3, atol=1e-4)


def test_loss_is_half_the_squared_error_of_a_frame_averaged_over_steps(predictor):
    data = batch(5)
    predicted = predictor(data)
    truth = (data["frames"][:, WARMUP:].astype(np.float64) - 100) / 50
    errors = np.square(np.asarray(predicted["frames"]) - truth).sum(axis=(2, 3, 4))
    expected = errors.sum(axis=1).mean() / (2 * 5)
    assert float(predictor.compute_loss(data, y_pred=predicted)) == pytest.approx(expected, 1e-5)


def test_errors_of_controlled_pixels_are_weighted(predictor):
    data = batch(2)
    predicted = {"frames": np.zeros((3, 2, 12, 12, 1), np.float32)}
    plain = float(predictor.compute_loss(data, y_pred=predicted))
    controlled = np.zeros((3, 2, 12, 12), np.uint8)
    controlled[1, 0, 4, 5], controlled[2, 1, 0, 0] = 255, 51
    errors = np.square((data["frames"][:, WARMUP:, ..., 0].astype(np.float64) - 100) / 50)
    more = (errors[1, 0, 4, 5] + 0.2 * errors[2, 1, 0, 0]) / (2 * 3 * 2)
    predictor.control_weight = 10.0
    predictor.pixel_loss.reset_state()
    loss = float(predictor.compute_loss(data | {"controlled": controlled}, y_pred=predicted))
    assert loss - plain == pytest.approx(10 * more, rel=1e-3)
    assert float(predictor.pixel_loss.result()) == pytest.approx(plain)
    assert float(predictor.compute_loss(data, y_pred=predicted)) == pytest.approx(plain)


def test_heads_exist_in_every_stage_and_are_trained_only_with_a_reward_weight():
    without, with_reward = (
        FramePredictor("tiny", "compression", 3, warmup=WARMUP, reward_weight=weight)
        for weight in (0.0, 0.5)
    )
    assert len(without.network.weights) == len(with_reward.network.weights) == 29
    network = with_reward.network
    heads = [*network.reward_head.weights, *network.termination_head.weights]
    assert len(without.trainable_variables) + len(heads) == len(with_reward.trainable_variables)
    trained = {id(variable) for variable in with_reward.trainable_variables}
    assert {id(variable) for variable in heads} <= trained


def test_an_untrained_termination_head_expects_no_end_and_moves_nothing():
    predictor = FramePredictor("tiny", "compression", 3, warmup=WARMUP, reward_weight=0.5)
    predicted = predictor(batch(5))["termination"]
    np.testing.assert_allclose(keras.ops.sigmoid(predicted), 1 / 150, rtol=0.02)
    kernel = keras.ops.convert_to_numpy(predictor.network.termination_head.kernel)
    assert not kernel.any()  # so that its gradient does not reach the LSTM


def test_head_losses_are_the_cross_entropies_of_sign_and_termination():
    keras.utils.set_random_seed(0)
    predictor = FramePredictor("tiny", "compression", 3, warmup=WARMUP, reward_weight=0.5)
    data = batch(5)
    predicted = predictor(data)
    with_reward = float(predictor.compute_loss(data, y_pred=predicted))
    pixels = float(predictor.pixel_loss.result())
    classes = np.sign(data["rewards"][:, WARMUP - 1 :]).astype(int) + 1
    logits = np.asarray(predicted["reward"], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    reward = -np.log(np.take_along_axis(probabilities, classes[..., None], -1)).mean()
    ends = 1 / (1 + np.exp(-np.asarray(predicted["termination"], np.float64)))
    happened = data["terminations"][:, WARMUP - 1 :]
    termination = -np.log(np.where(happened, ends, 1 - ends)).mean()
    expected = pixels + 0.5 * 12 * 12 * (reward + termination)
    assert with_reward == pytest.approx(expected, rel=1e-5)
    assert float(predictor.reward_loss.result()) == pytest.approx(reward, rel=1e-5)
    assert float(predictor.termination_loss.result()) == pytest.approx(termination, rel=1e-5)


def test_gradients_reach_every_trained_weight(predictor):
    data = batch(3)

    def loss():
        return predictor.compute_loss(data, y_pred=predictor(data))

    _, by_weight = gradients(loss, predictor.network)
    for weight, gradient in zip(predictor.network.weights, by_weight, strict=True):
        if weight.trainable:
            assert np.abs(gradient).max() > 0, weight.path


def test_bfloat16_predicts_about_the_same_in_float32():
    keras.utils.set_random_seed(0)
    plain = FramePredictor("tiny", "compression", 3, warmup=WARMUP)
    mixed = FramePredictor("tiny", "compression", 3, warmup=WARMUP, precision="mixed_bfloat16")
    mixed.network.set_weights(plain.network.get_weights())
    data = batch(5)
    expected, predicted = np.asarray(plain(data)["frames"]), np.asarray(mixed(data)["frames"])
    assert predicted.dtype == np.float32
    assert all(weight.dtype == "float32" for weight in mixed.network.weights)
    assert np.abs(predicted - expected).max() < 0.1 * np.abs(expected).max()
    half = FramePredictor("tiny", "compression", 3, warmup=WARMUP, precision="bfloat16")
    half.network.set_weights(plain.network.get_weights())
    assert half.network.core.kernel.dtype == "bfloat16"
    assert half.network.mean_frame.dtype == "float32"
    predicted = np.asarray(half(data)["frames"])
    assert predicted.dtype == np.float32
    assert np.abs(predicted - expected).max() < 0.1 * np.abs(expected).max()


def moving_dots(rng, length, size=16):
    """A dot that the action moves left or right; at the edge it reappears at the other side."""
    actions = rng.integers(0, 2, (size, length - 1), dtype=np.int32)
    steps = np.cumsum(np.where(actions == 1, 2, -2), axis=1)
    columns = (rng.integers(0, 12, (size, 1)) + np.pad(steps, ((0, 0), (1, 0)))) % 12
    frames = np.zeros((size, length, 12, 12, 1), np.uint8)
    for b in range(size):
        for t in range(length):
            frames[b, t, 5:7, columns[b, t], 0] = 200
    return {"frames": frames, "actions": actions}


def test_the_mean_frame_is_never_rounded():
    """If the decoder's output is 0, the prediction is the mean frame: 142.37 everywhere."""
    predictor = FramePredictor("tiny", "compression", 3, precision="mixed_bfloat16", warmup=WARMUP)
    predictor.network.adapt(np.full((12, 12, 1), 142.37), 50.0)
    predictor.network.decoder.convs[-1].kernel.assign(np.zeros((4, 4, 1, 8)))
    data = batch(2)
    rolled_out = RollOut(predictor).predict_on_batch(
        {"frames": data["frames"][:, :WARMUP], "actions": data["actions"]}
    )
    np.testing.assert_allclose(rolled_out["frames"], 142.37, atol=1e-3)


@pytest.mark.thorough
def test_training_fits_one_batch_within_forty_steps(predictor):
    data = moving_dots(np.random.default_rng(0), WARMUP + 3)
    frames = data["frames"].astype(np.float32)
    mean = frames.mean(axis=(0, 1))
    predictor.network.adapt(mean, float((frames - mean).std()))
    predictor.compile(keras.optimizers.Adam(1e-2))
    losses = [predictor.train_on_batch(data)[0] for _ in range(40)]
    mean_frames_loss = 12 * 12 / 2  # half the number of pixels
    assert losses[0] > 0.9 * mean_frames_loss
    assert losses[-1] < 0.3 * mean_frames_loss
