"""A transposed convolution computed as an ordinary one at the resolution of its input.

A transposed convolution with few filters is slow, because processors and libraries compute many
filters at once. Each of its output pixels depends on its phase (its place within a stride) and on
few input pixels. So one convolution computes all phases of an input pixel as channels, and these
are then laid out as pixels. The results are the same.

Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv
1609.07009.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with padding "same", for few filters.

    Weights and results are those of its parent. So is its name, because Keras names the weights in
    a file by it. Kernels and strides are square, and the stride is at most the kernel's side.
    Channels come last.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self._places = places(self.kernel_size[0], self.strides[0])

    def call(self, inputs):
        """Maps (batch, height, width, channels) to (batch, height', width', filters).

        Height and width grow by the stride.
        """
        stride, filters = self.strides[0], self.filters
        height, width, channels = inputs.shape[1:]
        places = ops.cast(self._places, self.compute_dtype)
        kernel = ops.cast(ops.convert_to_tensor(self.kernel), self.compute_dtype)
        kernel = ops.einsum("ypa,xqb,abfc->yxcpqf", places, places, kernel)
        size = self._places.shape[0]
        kernel = ops.reshape(kernel, (size, size, channels, stride * stride * filters))
        phases = ops.conv(inputs, kernel, padding="same", data_format="channels_last")
        phases = ops.reshape(phases, (-1, height, width, stride, stride, filters))
        x = ops.transpose(phases, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, height * stride, width * stride, filters))
        if self.use_bias:
            x = ops.add(x, ops.cast(self.bias, x.dtype))
        return self.activation(x)


def places(size: int, stride: int) -> np.ndarray:
    """Where each row of a transposed convolution's kernel stands in the ordinary one's.

    Args:
        size: rows of the kernel.
        stride: at most `size`.

    Returns:
        float32 (rows of the ordinary kernel, phases, rows of the kernel): 1 at the row and phase
        for which a row of the kernel stands, else 0. A column of the kernel alike.
    """
    before = (size - stride) // 2  # rows that "same" cuts off before the first
    found = []
    for phase in range(stride):
        shift, first = divmod(phase + before, stride)
        for number, row in enumerate(range(first, size, stride)):
            found.append((shift - number, phase, row))
    reach = max(abs(offset) for offset, _, _ in found)
    result = np.zeros((2 * reach + 1, stride, size), np.float32)
    for offset, phase, row in found:
        result[reach + offset, phase, row] = 1
    return result
