"""Adam with a learning rate in proportion to each kernel, and Dion's orthonormal updates."""

import math

import keras
import numpy as np
from keras import ops

RANK = 64  # directions in which an update moves a kernel
MOMENTUM = 0.95
TYPICAL_DEVIATION = 0.06  # initial standard deviation of a convolution's kernel
# Root mean square of an update over the learning rate. Adam's is 0.2 to 0.4 (Liu et al. 2025, arXiv
# 2502.16982, section 2.2).
UPDATE_SIZE = 0.5
WARMUP_STEPS = 50  # over which the learning rate rises from 0
# Elements from which on a variable's Adam update is compiled, which takes a tenth of a second.
WORTH_COMPILING = 1 << 18


def rise_and_fall(learning_rate: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """A learning rate that rises over the first steps, then falls to 0 along a cosine."""
    warmup = min(WARMUP_STEPS, steps // 2)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(steps - warmup, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )


class ScaledAdam(keras.optimizers.Adam):
    """Adam with a learning rate for each kernel in proportion to its size, for the stages.

    A kernel's rate is `learning_rate` times its initial standard deviation over
    `TYPICAL_DEVIATION` (equalised learning rates: Karras et al. 2018, arXiv 1710.10196, section
    4.1). With one rate for all, a step would be a seventh of an LSTM kernel's deviation and a
    hundredth of the decoder's. Biases and constant variables have `learning_rate` itself.

    `build` measures the deviations, so a stage calls it before its first step. Each phase of
    pretraining has an optimizer of its own, which measures the kernels as they are by then.

    Args:
        learning_rate: a number or a schedule.
        faster: the factor of a layer's rate, by the first name in its variables' paths.
    """

    def __init__(self, learning_rate, faster: dict[str, float] | None = None):
        super().__init__(learning_rate, beta_2=0.99)
        self.faster = faster or {}

    def build(self, variables):
        """Measures the deviations and makes the moments."""
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)
        rates, self._momentums, self._velocities = [], [], []
        for i, variable in enumerate(variables):
            rate = self.faster.get(variable.path.partition("/")[0], 1.0)
            deviation = float(np.std(ops.convert_to_numpy(variable)))
            if len(variable.shape) > 1 and deviation:  # constant variables have a deviation of 0
                rate *= deviation / TYPICAL_DEVIATION
            rates.append(rate)
            self._momentums.append(self.add_variable_from_reference(variable, "momentum"))
            self._velocities.append(self._second_moment(variable, i))
        # Saved with the rest, because a resumed run no longer has the initial weights.
        self._rates = self.add_variable((len(rates),), name="rates")
        self._rates.assign(rates)

    def _second_moment(self, variable, index):
        return self.add_variable_from_reference(variable, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; on TensorFlow by one compiled kernel."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, "float32") * self._rates[index]
        small = math.prod(variable.shape) < WORTH_COMPILING
        if small or keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, rate)
            return
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def update(gradient, rate):
            super(ScaledAdam, self).update_step(gradient, variable, rate)

        update(gradient, rate)


class Dion(ScaledAdam):
    """Moves each large kernel equally far in the leading directions of its momentum.

    Most of the error, such as the lanes of cars, dominates a gradient. The one small object that
    the player moves adds a gradient that is orders of magnitude weaker. Adam, which scales
    elements and not directions, learns it last. Muon (Jordan et al. 2024) orthonormalises the
    update. Dion (Ahn et al. 2025, arXiv 2504.05295, algorithm 1) does so in the leading `RANK`
    directions alone. One step of a power iteration at each update finds them.

    It is for learning from scratch. Near the end the leading directions are noise, and an
    orthonormal update moves as far in those as in any others.

    A kernel is taken as the matrix (all axes but the last, last axis). Kernels with a side shorter
    than `RANK`, and biases, are left to `ScaledAdam`. Its rates hold for all.

    Args:
        learning_rate, faster: as `ScaledAdam` has them.
        products: dtype of the matrix products; all else is float32.
    """

    def __init__(
        self, learning_rate, faster: dict[str, float] | None = None, products: str = "float32"
    ):
        super().__init__(learning_rate, faster)
        self.products = products

    def _second_moment(self, variable, index):
        if not _is_large(variable):
            return super()._second_moment(variable, index)
        # The power iteration may begin with any basis.
        normal = keras.initializers.RandomNormal(stddev=1.0, seed=index)
        return self.add_variable((variable.shape[-1], RANK), normal, name=f"basis_{index}")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; a large kernel by P Q', P orthonormal and Q of unit columns."""
        if not _is_large(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        momentum, basis = self._momentums[index], self._velocities[index]
        rate = ops.cast(learning_rate, "float32") * self._rates[index]
        columns = variable.shape[-1]
        rows = math.prod(variable.shape) // columns
        # In place wherever possible, because the passes through memory take the time.
        self.assign_add(momentum, gradient)
        m = ops.cast(ops.reshape(momentum, (rows, columns)), self.products)
        p = _orthonormal(ops.cast(m @ ops.cast(basis, self.products), "float32"))
        p = ops.cast(p, self.products)
        r = ops.cast(ops.transpose(m) @ p, "float32")
        norms = ops.norm(r, axis=0, keepdims=True)
        # Without a gradient the basis stays.
        q = ops.where(norms > 0, r / ops.maximum(norms, 1e-30), ops.convert_to_tensor(basis))
        self.assign(basis, q)

        def subtract(from_, right):
            product = p @ ops.transpose(ops.cast(right, self.products))
            self.assign_sub(from_, ops.cast(ops.reshape(product, variable.shape), "float32"))

        # What is applied leaves the momentum; the rest stays in full (error feedback).
        subtract(momentum, (1 - MOMENTUM) * r)
        # The root mean square of P Q' is sqrt(RANK / (rows * columns)).
        subtract(variable, rate * UPDATE_SIZE * math.sqrt(rows * columns / RANK) * q)


def _is_large(variable):
    if len(variable.shape) < 2:
        return False
    return min(math.prod(variable.shape[:-1]), variable.shape[-1]) >= RANK


def _orthonormal(p):
    """An orthonormal basis of the columns of p, (rows, RANK), float32.

    Shifted Cholesky QR (Fukaya et al. 2020, arXiv 1809.11085) takes a fifth of Householder's time.
    The first shift keeps the factor real for nearly dependent columns. The later passes restore
    the length that the shift took.
    """
    p = p / (ops.norm(p, axis=0, keepdims=True) + 1e-30)
    for shift in (1e-4, 1e-6, 1e-6):
        gram = ops.transpose(p) @ p + shift * ops.eye(RANK)
        # A factor of what is not finite would raise here. It stays in p, and shows in the loss.
        factor = ops.cholesky(ops.where(ops.isfinite(gram), gram, ops.eye(RANK)))
        p = p @ ops.transpose(ops.solve_triangular(factor, ops.eye(RANK), lower=True))
    return p
