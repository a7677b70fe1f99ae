"""Adam with a learning rate in proportion to each kernel, and Muon's orthonormal updates."""

import math
from collections import defaultdict

import keras
import numpy as np
from keras import ops

SHORTEST_SIDE = 32  # of the kernels that Muon moves
MOMENTUM = 0.95
# Jordan et al.'s polynomial. It takes singular values fast to between 0.7 and 1.2.
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
# A fifth would reach directions a thousand times weaker than the strongest, which four do not. But
# GPUs round the products to TF32, and after five some directions come out fifteen times too large.
NEWTON_SCHULZ_STEPS = 4
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


class Muon(ScaledAdam):
    """Moves each large kernel about equally far in all directions of its momentum.

    Most of the error, such as the lanes of cars, dominates a gradient. The one small object that
    the player moves adds a gradient that is orders of magnitude weaker. Adam, which scales
    elements and not directions, learns it last. Muon (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon) orthonormalises the update, and Liu et al. 2025
    (arXiv 2502.16982, section 2.2) give kernels of all shapes updates of one size.

    It is for learning from scratch. Near the end most directions are noise, and an orthonormal
    update moves as far in those as in any others.

    A kernel is taken as the matrix (all axes but the last, last axis). Kernels with a side shorter
    than `SHORTEST_SIDE`, and biases, are left to `ScaledAdam`. Its rates hold for all.
    `keras.optimizers.Muon` takes kernels of two axes alone, which leaves out the convolutions.

    Args:
        learning_rate, faster: as `ScaledAdam` has them.
        products: dtype of the products that make the updates; all else is float32.
    """

    def __init__(
        self, learning_rate, faster: dict[str, float] | None = None, products: str = "float32"
    ):
        super().__init__(learning_rate, faster)
        self.products = products

    def _second_moment(self, variable, index):
        return None if _is_large(variable) else super()._second_moment(variable, index)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Updates all variables: kernels with equal shorter sides together, others one by one."""
        others, by_side = [], defaultdict(list)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            side = min(_as_matrix(variable))
            (by_side[side] if side >= SHORTEST_SIDE else others).append((gradient, variable))
        if others:
            super()._backend_update_step(*zip(*others, strict=True), learning_rate)
        for pairs in by_side.values():
            self._update_together(pairs, learning_rate)

    def _update_together(self, pairs, learning_rate):
        """Updates kernels whose shorter sides are equal, each by an orthonormal matrix."""
        tall = []
        for gradient, variable in pairs:
            old = self._momentums[self._get_variable_index(variable)]
            momentum = MOMENTUM * old + gradient
            self.assign(old, momentum)
            # What the momentum would be after the same gradient again (Nesterov).
            ahead = ops.reshape(MOMENTUM * momentum + gradient, _as_matrix(variable))
            tall.append(ahead if ahead.shape[0] >= ahead.shape[1] else ops.transpose(ahead))
        for (_, variable), x, factor in zip(pairs, tall, _factors(tall), strict=True):
            rate = self._rates[self._get_variable_index(variable)]
            rate = rate * ops.cast(learning_rate, "float32")
            # The root mean square of an orthonormal matrix is 1 / sqrt(its longer side).
            rate = rate * UPDATE_SIZE * math.sqrt(x.shape[0])
            update = ops.cast(x, self.products) @ ops.cast(rate * factor, self.products)
            rows, columns = _as_matrix(variable)
            update = update if rows >= columns else ops.transpose(update)
            self.assign_sub(variable, ops.reshape(ops.cast(update, "float32"), variable.shape))


def _as_matrix(variable):
    """Its rows and columns; a bias is one row."""
    return math.prod(variable.shape[:-1]), math.prod(variable.shape[-1:])


def _is_large(variable):
    return min(_as_matrix(variable)) >= SHORTEST_SIDE


def _factors(tall):
    """What makes matrices nearly orthonormal, multiplied from the right.

    A step of Newton and Schulz' iteration multiplies X by a polynomial of X'X. The polynomials
    commute, so all steps are taken on the small matrices X'X, of all kernels at once.

    Args:
        tall: matrices with as many columns as each other, and as many rows or more, float32.

    Returns:
        A list of float32 (columns, columns).
    """
    # In float32, because rounding makes eigenvalues negative, and these grow with each step.
    gram = ops.stack([ops.transpose(x) @ x for x in tall])
    # This norm bounds the largest eigenvalue, closer than X's own norm does.
    scale = 1 / (ops.norm(gram, axis=(1, 2), keepdims=True) + 1e-18)
    gram = scale * gram
    identity = ops.eye(gram.shape[-1])
    factors = ops.sqrt(scale)
    a, b, c = NEWTON_SCHULZ
    for step in range(NEWTON_SCHULZ_STEPS):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        factors = factors @ polynomial if step else factors * polynomial
        if step < NEWTON_SCHULZ_STEPS - 1:
            gram = polynomial @ gram @ polynomial
    return ops.unstack(factors, len(tall))
