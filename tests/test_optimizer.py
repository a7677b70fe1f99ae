"""The optimizer against Keras' Adam, against its own plain formulation, and what it is for."""

import keras
import numpy as np
import pytest

from utils.training.optimizer import (
    MOMENTUM,
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    SHORTEST_SIDE,
    TYPICAL_DEVIATION,
    UPDATE_SIZE,
    WORTH_COMPILING,
    Muon,
    ScaledAdam,
)


def schedule(rate):
    return keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=rate, warmup_steps=2)


def moved_by(optimizer, initial, gradients, layer="layer"):
    """How far one kernel of a layer goes under a sequence of gradients."""
    return all_moved_by(optimizer, [initial], [[gradient] for gradient in gradients], layer)[0]


def all_moved_by(optimizer, initial, gradients, layer="layer"):
    """How far each kernel of a layer goes under a sequence of all kernels' gradients."""
    with keras.name_scope(layer):
        kernels = [keras.Variable(values.astype("float32")) for values in initial]
    optimizer.build(kernels)
    for of_all in gradients:
        of_all = [keras.ops.convert_to_tensor(gradient.astype("float32")) for gradient in of_all]
        optimizer.apply(of_all, kernels)
    pairs = zip(kernels, initial, strict=True)
    return [keras.ops.convert_to_numpy(kernel) - values for kernel, values in pairs]


@pytest.mark.parametrize("times", [1.0, 0.25])
@pytest.mark.parametrize(
    "kind, shape",
    [(Muon, (SHORTEST_SIDE - 1, 9000)), (Muon, (3, 3, 40, 4)), (ScaledAdam, (180, 260))],
)
def test_small_kernels_or_all_have_adam_at_a_rate_in_proportion_to_their_size(kind, shape, times):
    rng = np.random.default_rng(0)
    assert 9000 * (SHORTEST_SIDE - 1) > WORTH_COMPILING
    initial = rng.normal(size=shape)
    initial *= times * TYPICAL_DEVIATION / initial.std()
    gradients = rng.normal(size=(5, *shape))
    ours = moved_by(kind(schedule(0.1)), initial, gradients)
    plain = moved_by(keras.optimizers.Adam(schedule(0.1 * times), beta_2=0.99), initial, gradients)
    np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("initial", [np.linspace(-2, 2, 100), np.zeros((5, 4, 5))])
def test_biases_have_adam_at_the_learning_rate(initial):
    gradients = np.random.default_rng(0).normal(size=(5, *initial.shape))
    ours = moved_by(Muon(schedule(0.1)), initial, gradients)
    plain = moved_by(keras.optimizers.Adam(schedule(0.1), beta_2=0.99), initial, gradients)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(100,), (3, 3, 16, 31), (180, 260)])
def test_a_faster_layer_moves_as_at_a_multiple_of_the_rate(shape):
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
    faster = {"decoder": 6.0}
    expected = moved_by(Muon(6e-3), initial, gradients, "encoder")
    ours = moved_by(Muon(1e-3, faster=faster), initial, gradients, "decoder")
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)
    others = moved_by(Muon(6e-3, faster=faster), initial, gradients, "encoder")
    np.testing.assert_array_equal(others, expected)


def reference(initial, gradients, rate):
    """The same polynomials of the singular values that a decomposition finds, in float64."""
    a, b, c = NEWTON_SCHULZ
    shape = initial.shape
    size = rate * UPDATE_SIZE * initial.std() / TYPICAL_DEVIATION
    momentum, moved = 0.0, 0.0
    for gradient in gradients:
        gradient = gradient.reshape(-1, shape[-1])
        momentum = MOMENTUM * momentum + gradient
        left, values, right = np.linalg.svd(MOMENTUM * momentum + gradient, full_matrices=False)
        values = values / np.sum(values**4) ** 0.25
        for _ in range(NEWTON_SCHULZ_STEPS):
            values = a * values + b * values**3 + c * values**5
        moved = moved - size * np.sqrt(max(gradient.shape)) * (left * values) @ right
    return moved.reshape(shape)


SHAPES = [(180, 260), (SHORTEST_SIDE, SHORTEST_SIDE), (3, 3, 20, 160), (4, 4, 160, 180)]


@pytest.mark.parametrize("shape", SHAPES)
def test_large_kernels_move_as_the_plain_formulation_has_it(shape):
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=shape), rng.normal(size=(4, *shape))
    plain = reference(initial, gradients, 1e-3)
    ours = moved_by(Muon(1e-3), initial, gradients)
    np.testing.assert_allclose(ours, plain, rtol=1e-2, atol=1e-2 * plain.std())
    rounded = moved_by(Muon(1e-3, products="bfloat16"), initial, gradients)
    assert np.corrcoef(rounded.ravel(), plain.ravel())[0, 1] > 0.995


def test_a_matrix_moves_in_the_directions_of_keras_muon():
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=(180, 260)), rng.normal(size=(4, 180, 260))
    ours = moved_by(Muon(1e-3), initial, gradients)
    theirs = keras.optimizers.Muon(1e-3, weight_decay=None, adam_weight_decay=None)
    theirs = moved_by(theirs, initial, gradients)
    # A step more and another bound put each singular value elsewhere between 0.7 and 1.2.
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95


def test_kernels_move_together_as_they_move_alone():
    rng = np.random.default_rng(0)
    # Equal sides, taken upright and lying, others, and what Adam moves between them.
    shapes = [(100, 40), (40,), (40, 90), (3, 3, 8, 40), (5, 7), (180, 260), (2, 20, 40)]
    initial = [rng.normal(size=shape) for shape in shapes]
    gradients = [[rng.normal(size=shape) for shape in shapes] for _ in range(3)]
    together = all_moved_by(Muon(1e-3), initial, gradients)
    for i, ours in enumerate(together):
        alone = moved_by(Muon(1e-3), initial[i], [of_all[i] for of_all in gradients])
        np.testing.assert_allclose(ours, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1e-8, 1e6])
def test_how_far_a_kernel_moves_does_not_depend_on_the_gradients_size(size):
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=(180, 260)), rng.normal(size=(3, 180, 260))
    expected = moved_by(Muon(1e-3), initial, gradients)
    ours = moved_by(Muon(1e-3), initial, size * gradients)
    np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=1e-2 * expected.std())


def test_an_update_has_the_size_that_it_should():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(400, 600)) * 0.02
    moved = moved_by(Muon(1e-3), initial, rng.normal(size=(1, 400, 600)))
    expected = 1e-3 * UPDATE_SIZE * initial.std() / TYPICAL_DEVIATION
    # Of all singular values; each is between 0.7 and 1.2 times this.
    assert np.sqrt(np.square(moved).mean()) == pytest.approx(expected, rel=0.3)


def test_what_is_weak_in_the_gradient_is_learned_as_fast_as_what_is_strong():
    """Adam comes to it last: the same measure is below a twentieth."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(400, 2)))
    right, _ = np.linalg.qr(rng.normal(size=(600, 2)))
    weak_in_strong = np.array([100.0, 1.0])
    gradients = [
        (left * weak_in_strong) @ right.T + 1e-3 * rng.normal(size=(400, 600)) for _ in range(30)
    ]
    initial = rng.normal(size=(400, 600)) * TYPICAL_DEVIATION

    def along(moved):
        strong, weak = np.abs(np.diag(left.T @ moved @ right))
        return weak / strong

    assert along(moved_by(Muon(1e-3), initial, gradients)) > 0.5
    assert along(moved_by(keras.optimizers.Adam(1e-3), initial, gradients)) < 0.05


def test_nothing_moves_without_a_gradient():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(180, 260)) * TYPICAL_DEVIATION
    nothing = np.zeros((180, 260))
    moved = moved_by(Muon(1e-3), initial, [nothing, nothing])
    np.testing.assert_allclose(moved, 0, atol=1e-7)
    gradient = rng.normal(size=(180, 260))
    moved = moved_by(Muon(1e-3), initial, [nothing, gradient])
    assert np.square(moved).mean() > 0


def test_a_gradient_that_is_not_finite_shows_in_the_kernel_and_raises_nothing():
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(180, 260))
    gradient[3, 5] = np.nan
    moved = moved_by(Muon(1e-3), rng.normal(size=(180, 260)), [gradient])
    assert np.isnan(moved).any()
