"""Adam, fused, with each kernel's learning rate in proportion to its initial size."""

import math

import keras
import numpy as np

WORTH_COMPILING = 1 << 18  # elements; compiling a kernel takes a tenth of a second
TYPICAL_DEVIATION = 0.06  # initial standard deviation of a convolution's kernel


class FusedAdam(keras.optimizers.Adam):
    """keras.optimizers.Adam, with two changes.

    The update of a variable is one XLA kernel on TensorFlow. Op by op it moves each of 64 M weights
    and moments through memory a dozen times: on two cores that is a fifth of the whole training
    step, and four times what the fused kernel takes.

    Adam's steps have the size of the learning rate whatever the weight's. At 1e-3 that is a seventh
    of an LSTM kernel's deviation and a hundredth of the decoder's, and the first things to be
    learned sweep all others out of the LSTM. So a kernel's rate is `learning_rate` times its
    deviation over `TYPICAL_DEVIATION`, as equalised learning rates have it (Karras et al. 2018,
    arXiv 1710.10196, section 4.1); biases have `learning_rate`.

    `build` takes the deviations: call it while the weights are still the initial ones.
    """

    def build(self, variables):
        """Takes the initial deviations; makes the moments."""
        super().build(variables)
        self._scales = [
            float(np.std(keras.ops.convert_to_numpy(variable))) / TYPICAL_DEVIATION
            if len(variable.shape) > 1
            else 1.0
            for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        """One variable's update; the arithmetic is Adam's own."""
        learning_rate = learning_rate * self._scales[self._get_variable_index(variable)]
        small = math.prod(variable.shape) < WORTH_COMPILING
        if small or keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def update(gradient):
            super(FusedAdam, self).update_step(gradient, variable, learning_rate)

        update(gradient)
