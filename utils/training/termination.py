"""The termination head after pretraining, which leaves it untrained.

Pretraining's windows hardly ever end an episode. So the logit of termination is fitted afterwards:
a logistic regression on a few principal components of the features after each step.
"""

from __future__ import annotations

import numpy as np

from model.predictor import FramePredictor
from systems.dataset import Dataset
from systems.windows import Windows, WindowSpec

COMPONENTS = 32  # of the features
SAMPLES = 1000  # steps that end no episode
BATCH_SIZE = 100
ITERATIONS = 30  # of Newton's method, which takes ten or so
PRIOR_PRECISION = 1.0  # of the weights of components of deviation 1, around 0


def fit_termination(
    predictor: FramePredictor, training: Dataset, validation: Dataset, seed: int
) -> tuple[np.ndarray, float]:
    """Fits the logit of termination to the features after a step.

    Args:
        predictor: whose dense layers and LSTM have been set.
        training: what it is fitted to.
        validation: what has to be predicted better than by the rate of terminations alone.
        seed: draws the steps.

    Returns:
        what each feature adds to the logit, float32 (features,), and the logit where all are 0. The
        first is 0 where the features tell nothing, or no episode ends.
    """
    features, ended, weights = _steps(predictor, training, seed)
    rate = (weights * ended).sum() / weights.sum()
    rate = max(rate, 0.5 / (weights.sum() + 1))  # half an episode, where none has ended
    bias = float(np.log(rate / (1 - rate)))
    nothing = np.zeros(features.shape[1], np.float32), bias
    if not ended.any():
        return nothing
    mean = np.average(features, axis=0, weights=weights)
    _, values, directions = np.linalg.svd(features - mean, full_matrices=False)
    directions = directions[:COMPONENTS].T
    directions = directions / np.maximum(values[:COMPONENTS], 1e-6) * len(features) ** 0.5
    fitted, bias = _logistic_regression((features - mean) @ directions, ended, weights, bias)
    direction = (directions @ fitted).astype(np.float32)
    result = direction, float(bias - mean @ direction)
    held_out = _steps(predictor, validation, seed)
    return min(nothing, result, key=lambda logit: _cross_entropy(*logit, *held_out))


def _steps(predictor, dataset, seed):
    """Features after steps, whether these ended the episode, and how many steps each stands for."""
    warmup, shape = predictor.warmup, predictor.preset.frame_shape
    windows = Windows(dataset, shape, WindowSpec(warmup, 1), BATCH_SIZE, seed)
    last = [windows.position(number) for number in range(windows.num_windows)]
    ended = np.array([dataset.terminations[e][first + warmup - 1] for e, first in last])
    going_on = np.flatnonzero(~ended)
    drawn = np.random.default_rng(seed).permutation(going_on)[:SAMPLES]
    numbers = np.concatenate([np.flatnonzero(ended), drawn])
    weights = np.where(ended[numbers], 1.0, len(going_on) / max(len(drawn), 1))
    features = []
    for start in range(0, len(numbers), BATCH_SIZE):
        batch = windows.read([int(number) for number in numbers[start : start + BATCH_SIZE]])
        features.append(_features_after(predictor, batch["frames"][:, :warmup], batch["actions"]))
    return np.concatenate(features), ended[numbers], weights


def _features_after(predictor, frames, actions):
    """The features from which the decoder would make the frame after the last action."""
    network = predictor.network
    encodings, _ = network.encode(network.normalise(frames))
    outputs, _ = network.core(encodings, actions, *predictor.initial_state(len(frames)))
    dense = network.decoder.dense
    return np.asarray(outputs[:, -1]) @ np.asarray(dense.kernel) + np.asarray(dense.bias)


def _logistic_regression(x, y, weights, bias):
    """Weighted logistic regression with a normal prior, by Newton's method.

    Args:
        x: (samples, inputs).
        y: bool (samples,).
        weights: (samples,).
        bias: to start from.

    Returns:
        the inputs' coefficients and the bias.
    """
    x = np.column_stack([x, np.ones(len(x))])
    prior = np.diag([PRIOR_PRECISION] * (x.shape[1] - 1) + [1e-6])
    beta = np.zeros(x.shape[1])
    beta[-1] = bias

    def loss(beta):
        logits = x @ beta
        return weights @ (np.logaddexp(0, logits) - y * logits) + beta @ prior @ beta / 2

    for _ in range(ITERATIONS):
        p = 1 / (1 + np.exp(-x @ beta))
        gradient = x.T @ (weights * (p - y)) + prior @ beta
        step = np.linalg.solve((x.T * (weights * p * (1 - p))) @ x + prior, gradient)
        size = 1.0
        while loss(beta - size * step) > loss(beta) and size > 1e-3:
            size /= 2
        beta = beta - size * step
        if np.abs(size * step).max() < 1e-6:
            break
    return beta[:-1], beta[-1]


def _cross_entropy(direction, bias, features, ended, weights):
    logits = features @ direction + bias
    return float(weights @ (np.logaddexp(0, logits) - ended * logits))
