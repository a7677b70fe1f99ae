"""Principal components of features, and functions of features as maps of components."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

OnProgress = Callable[[float], None]  # called with the share that is done, now and then


def ignored(share: float) -> None:
    """Is the `OnProgress` of callers that show none."""


class Components(NamedTuple):
    """Principal components of features."""

    mean: np.ndarray  # (features,)
    directions: np.ndarray  # (features, count)
    deviations: np.ndarray  # (count,), of the features along each direction


def affine_map(
    function: Callable, feature_shape: tuple[int, int, int], components: Components, std: float
) -> np.ndarray:
    """An affine function of features, as a map of components in units of the encoding.

    Args:
        function: maps (rows, *feature_shape) to as many.
        feature_shape: height, width, channels.
        components: of the features.
        std: of a component in the encoding.

    Returns:
        (count + 1, count): rows are the components and, last, the function of the mean features.
    """
    mean, directions, deviations = components
    scale = std / deviations

    def rows(features):
        features = features.reshape(-1, *feature_shape).astype(np.float32)
        return ops.convert_to_numpy(function(features)).reshape(len(features), -1)

    of_mean = rows(mean)
    matrix = (rows(mean + directions.T) - of_mean) @ directions
    return np.concatenate([matrix * scale / scale[:, None], of_mean @ directions * scale])


def principal_components(
    x: np.ndarray, count: int, on_progress: OnProgress = ignored
) -> Components:
    """The leading `count` principal components of x (samples, features), which is left centred.

    It is centred in place because it may take most of a gigabyte. The method is subspace iteration
    (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4), because all components would take minutes.
    """
    mean = x.mean(axis=0)
    x -= mean
    there = min(count, *x.shape)
    basis = np.random.default_rng(0).normal(size=(x.shape[1], there)).astype(np.float32)
    for i in range(1, 4):
        basis = _orthonormal(x.T @ _orthonormal(x @ basis))
        on_progress(i / 4)
    variances, rotation = _eigen(x @ basis)
    directions = np.zeros((x.shape[1], count), np.float32)
    directions[:, :there] = basis @ rotation
    deviations = np.zeros(count, np.float32)
    deviations[:there] = np.sqrt(variances / len(x))
    # A lower bound, because a component that hardly varies here may vary in other play. It would
    # then dominate the encoding.
    deviations = np.maximum(deviations, max(0.01 * deviations[0], 1e-6))
    return Components(mean, directions, deviations)


def _orthonormal(columns):
    """An orthonormal basis of what the columns span, as wide; directions that are missing are 0.

    It is found by the columns' products, in a third of the time of a QR decomposition.
    """
    variances, rotation = _eigen(columns)
    there = variances > 1e-12 * variances[0]
    scale = np.where(there, 1 / np.sqrt(np.where(there, variances, 1)), 0)
    return (columns @ (rotation * scale)).astype(np.float32)


def _eigen(columns):
    """Eigenvalues, largest first, and eigenvectors of the columns' products, float64."""
    columns = columns.astype(np.float64)  # their products have the square of their condition
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return np.maximum(values[::-1], 0), vectors[:, ::-1]
