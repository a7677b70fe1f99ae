"""Affine maps of the LSTM's output h, (rows, 2048): z = h M + m.

After a handover units i and i + 1024 hold a principal component with either sign, and a share of
what it was one step before (see `handover.py`). In the sums and the differences of such pairs most
of a map is diagonal:

    sums'        = sums S + differences T        S and T are diagonal
    differences' = sums U + differences V        U, too, unless there is motion

A diagonal part takes no product. So one product is left, of a quarter of the size. The formula
holds for every square map, but then no part need be diagonal.
"""

import keras
import numpy as np
from keras import ops

ROUNDING = 1e-6  # an entry of this share of the largest one counts as 0


class AffineMap(keras.layers.Layer):
    """A map by one product.

    Args:
        matrix: M, float32 (2048, any).
        offset: m, float32 (any,).
        dtype: of the product; what comes in and goes out is float32.

    Attributes:
        multiplications: of the products, for each row.
    """

    def __init__(self, matrix, offset, dtype=None):
        super().__init__(dtype=dtype, autocast=False)
        self.multiplications = 0
        self._assign(np.asarray(matrix))
        self.offset = constant(self, offset, "float32")
        self.built = True

    def _assign(self, matrix):
        self.matrix = self._matrix(matrix)

    def _matrix(self, value):
        """Transposed, because a product with few rows then reads memory in order.

        It takes two thirds of the time.
        """
        self.multiplications += value.size
        return constant(self, value.T, self.variable_dtype)

    def call(self, h):
        """Maps h, float32 (rows, 2048)."""
        return _product(h, self.matrix) + self.offset


class MirroredMap(AffineMap):
    """The same by sums and differences, for a square matrix.

    Attributes:
        parts: [[S, U], [T, V]]; a diagonal part as a vector, another one transposed.
    """

    def _assign(self, matrix):
        limit = ROUNDING * np.abs(matrix).max()
        # Rows by the sign of what comes in, and columns by that of what goes out.
        signs = [np.split(rows, 2, axis=1) for rows in np.split(matrix, 2)]
        self.parts = []
        for sign in (1, -1):
            plus, minus = (one + sign * other for one, other in zip(*signs, strict=True))
            row = (plus + minus) / 2, (plus - minus) / 2
            self.parts.append([self._part(value, limit) for value in row])

    def _part(self, value, limit):
        diagonal = np.diag(value)
        if np.abs(value - np.diag(diagonal)).max() <= limit:
            return constant(self, diagonal, "float32")
        return self._matrix(value)

    def call(self, h):
        """Maps h, float32 (rows, 2048)."""
        plus, minus = ops.split(h, 2, axis=-1)
        of_sums, of_differences = (
            [_product(value, part) for part in parts]
            for value, parts in zip((plus + minus, plus - minus), self.parts, strict=True)
        )
        # Keras' own addition fails in TensorFlow if there are no rows.
        sums, differences = (
            one + other for one, other in zip(of_sums, of_differences, strict=True)
        )
        z = ops.concatenate([sums + differences, sums - differences], axis=-1)
        return z / 2 + self.offset


def constant(layer, value, dtype):
    """A weight of the layer that is not trained, with this value."""
    value = ops.cast(ops.convert_to_tensor(value), dtype)
    return layer.add_weight(value.shape, lambda *_, **__: value, dtype, trainable=False)


def _product(value, part):
    if len(part.shape) == 1:
        return value * part
    return ops.cast(ops.cast(value, part.dtype) @ ops.transpose(part), "float32")
