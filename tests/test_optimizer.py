"""The fused update against Keras' own."""

import keras
import numpy as np
import pytest

from utils.optimizer import TYPICAL_DEVIATION, WORTH_COMPILING, FusedAdam


def trained(optimizer, deviation):
    keras.utils.set_random_seed(0)
    initial = keras.initializers.RandomNormal(stddev=deviation)
    dense = keras.layers.Dense(600, kernel_initializer=initial)
    model = keras.Sequential([keras.Input((512,)), dense])
    assert dense.kernel.shape == (512, 600) and WORTH_COMPILING < 512 * 600
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    before = [np.asarray(weight) for weight in model.weights]
    for _ in range(5):
        model.train_on_batch(rng.normal(size=(8, 512)), rng.normal(size=(8, 600)))
    moved = [np.asarray(weight) - was for weight, was in zip(model.weights, before, strict=True)]
    return moved, optimizer


def schedule(rate):
    return keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=rate, warmup_steps=2)


def test_fused_adam_is_adam_where_kernels_have_the_typical_size():
    ours, our_optimizer = trained(FusedAdam(schedule(0.1), beta_2=0.99), TYPICAL_DEVIATION)
    adam = keras.optimizers.Adam(schedule(0.1), beta_2=0.99)
    plain, optimizer = trained(adam, TYPICAL_DEVIATION)
    for a, b in zip(ours, plain, strict=True):
        # The drawn kernel's deviation is the typical one to a thousandth.
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-3)
    for a, b in zip(our_optimizer.variables, optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-2, atol=1e-2)


@pytest.mark.parametrize("times", [0.1, 4.0])
def test_a_kernel_moves_in_proportion_to_its_initial_size(times):
    """Adam's first step moves every weight by the learning rate."""
    rates = {}
    for deviation in (TYPICAL_DEVIATION, times * TYPICAL_DEVIATION):
        keras.utils.set_random_seed(0)
        initial = keras.initializers.RandomNormal(stddev=deviation)
        dense = keras.layers.Dense(600, kernel_initializer=initial)
        model = keras.Sequential([keras.Input((512,)), dense])
        model.compile(FusedAdam(1e-3), "mse")
        model.optimizer.build(model.trainable_variables)
        before = [np.asarray(weight) for weight in model.weights]
        model.train_on_batch(np.ones((1, 512)), np.full((1, 600), 100.0))
        rates[deviation] = [
            np.abs(np.asarray(weight) - was).mean()
            for weight, was in zip(model.weights, before, strict=True)
        ]
    (kernel, bias), (other_kernel, other_bias) = rates.values()
    assert kernel == pytest.approx(1e-3, rel=0.01)
    assert other_kernel == pytest.approx(times * 1e-3, rel=0.01)
    assert bias == pytest.approx(1e-3, rel=0.01)
    assert other_bias == pytest.approx(1e-3, rel=0.01)
