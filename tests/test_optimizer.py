"""The fused update against Keras' own."""

import keras
import numpy as np

from utils.optimizer import WORTH_COMPILING, FusedAdam


def trained(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(600)])
    assert model.layers[0].kernel.shape == (512, 600) and WORTH_COMPILING < 512 * 600
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    for _ in range(5):
        model.train_on_batch(rng.normal(size=(8, 512)), rng.normal(size=(8, 600)))
    return model, optimizer


def test_fused_adam_is_adam():
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=2)
    ours, our_optimizer = trained(FusedAdam(schedule, beta_2=0.99))
    plain, optimizer = trained(keras.optimizers.Adam(schedule, beta_2=0.99))
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(our_optimizer.variables, optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
