"""The optimizer against Keras' Adam, against its own plain formulation, and what it is for."""

import keras
import numpy as np
import pytest

from utils.training.optimizer import (
    MOMENTUM,
    RANK,
    TYPICAL_DEVIATION,
    UPDATE_SIZE,
    WORTH_COMPILING,
    Dion,
    ScaledAdam,
)


def schedule(rate):
    return keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=rate, warmup_steps=2)


def moved_by(optimizer, initial, gradients, layer="layer"):
    """How far one kernel of a layer goes under a sequence of gradients."""
    with keras.name_scope(layer):
        kernel = keras.Variable(initial.astype("float32"))
    optimizer.build([kernel])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [kernel])
    return keras.ops.convert_to_numpy(kernel) - initial


@pytest.mark.parametrize("times", [1.0, 0.25])
@pytest.mark.parametrize(
    "kind, shape",
    [(Dion, (RANK - 1, 5000)), (Dion, (3, 3, 16, 32)), (ScaledAdam, (180, 260))],
)
def test_small_kernels_or_all_have_adam_at_a_rate_in_proportion_to_their_size(kind, shape, times):
    rng = np.random.default_rng(0)
    assert 5000 * (RANK - 1) > WORTH_COMPILING
    initial = rng.normal(size=shape)
    initial *= times * TYPICAL_DEVIATION / initial.std()
    gradients = rng.normal(size=(5, *shape))
    ours = moved_by(kind(schedule(0.1)), initial, gradients)
    plain = moved_by(keras.optimizers.Adam(schedule(0.1 * times), beta_2=0.99), initial, gradients)
    np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("initial", [np.linspace(-2, 2, 100), np.zeros((5, 4, 5))])
def test_biases_have_adam_at_the_learning_rate(initial):
    gradients = np.random.default_rng(0).normal(size=(5, *initial.shape))
    ours = moved_by(Dion(schedule(0.1)), initial, gradients)
    plain = moved_by(keras.optimizers.Adam(schedule(0.1), beta_2=0.99), initial, gradients)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(100,), (3, 3, 16, 32), (180, 260)])
def test_a_faster_layer_moves_as_at_a_multiple_of_the_rate(shape):
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
    faster = {"decoder": 6.0}
    expected = moved_by(Dion(6e-3), initial, gradients, "encoder")
    ours = moved_by(Dion(1e-3, faster=faster), initial, gradients, "decoder")
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)
    others = moved_by(Dion(6e-3, faster=faster), initial, gradients, "encoder")
    np.testing.assert_array_equal(others, expected)


def reference(initial, gradients, rate):
    """Ahn et al.'s algorithm 1 with QR's orthonormal basis, in float64."""
    shape = initial.shape
    initial = initial.reshape(-1, shape[-1])
    rows, columns = initial.shape
    basis = keras.random.normal((columns, RANK), seed=0)
    q = keras.ops.convert_to_numpy(basis).astype(np.float64)
    momentum, kernel = np.zeros((rows, columns)), initial.copy()
    size = rate * UPDATE_SIZE * initial.std() / TYPICAL_DEVIATION
    for gradient in gradients:
        momentum = momentum + gradient.reshape(rows, columns)
        p, _ = np.linalg.qr(momentum @ q)
        r = momentum.T @ p
        momentum -= (1 - MOMENTUM) * p @ r.T
        q = r / np.linalg.norm(r, axis=0)
        kernel -= size * np.sqrt(rows * columns / RANK) * p @ q.T
    return (kernel - initial).reshape(shape)


@pytest.mark.parametrize("shape", [(180, 260), (3, 3, 20, 160)])
def test_large_kernels_move_as_the_plain_formulation_has_it(shape):
    rng = np.random.default_rng(0)
    initial, gradients = rng.normal(size=shape), rng.normal(size=(4, *shape))
    ours = moved_by(Dion(1e-3), initial, gradients)
    # The two bases of the same space differ; with unit columns so do the products, a little.
    plain = reference(initial, gradients, 1e-3)
    assert np.corrcoef(ours.ravel(), plain.ravel())[0, 1] > 0.97


def test_an_update_has_the_size_that_it_should():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(400, 600)) * 0.02
    moved = moved_by(Dion(1e-3), initial, rng.normal(size=(1, 400, 600)))
    expected = 1e-3 * UPDATE_SIZE * initial.std() / TYPICAL_DEVIATION
    assert np.sqrt(np.square(moved).mean()) == pytest.approx(expected, rel=0.01)


def test_what_is_weak_in_the_gradient_is_learned_as_fast_as_what_is_strong():
    """Adam comes to it last: the same measure is below a fiftieth."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(400, 2)))
    right, _ = np.linalg.qr(rng.normal(size=(600, 2)))
    weak_in_strong = np.array([1000.0, 1.0])
    gradients = [
        (left * weak_in_strong) @ right.T + 1e-3 * rng.normal(size=(400, 600)) for _ in range(30)
    ]
    initial = rng.normal(size=(400, 600)) * TYPICAL_DEVIATION

    def along(moved):
        strong, weak = np.abs(np.diag(left.T @ moved @ right))
        return weak / strong

    assert along(moved_by(Dion(1e-3), initial, gradients)) > 0.5
    assert along(moved_by(keras.optimizers.Adam(1e-3), initial, gradients)) < 0.02


def test_nothing_moves_without_a_gradient():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(180, 260)) * TYPICAL_DEVIATION
    nothing = np.zeros((180, 260))
    moved = moved_by(Dion(1e-3), initial, [nothing, nothing])
    np.testing.assert_allclose(moved, 0, atol=1e-7)
    gradient = rng.normal(size=(180, 260))
    moved = moved_by(Dion(1e-3), initial, [nothing, gradient])
    assert np.square(moved).mean() > 0


def test_a_gradient_that_is_not_finite_shows_in_the_kernel_and_raises_nothing():
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(180, 260))
    gradient[3, 5] = np.nan
    moved = moved_by(Dion(1e-3), rng.normal(size=(180, 260)), [gradient])
    assert np.isnan(moved).any()
