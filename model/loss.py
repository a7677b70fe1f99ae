"""The losses of predicted frames, of the reward's sign and of termination."""

import keras
from keras import ops


def frame_loss(error, controlled=None, control_weight: float = 0.0, step_weights=None):
    """The squared error of predicted frames, plain and weighted.

    Both are ``1/(2K) sum_k ||x_hat - x||^2`` over K steps (Oh et al. 2015, arXiv 1507.08750,
    section 3.4), averaged over the batch.

    Args:
        error: prediction minus truth, normalised, float32 (batch, time, height, width, channels).
        controlled: uint8 (batch, time, height, width), how far the player controls each pixel, 255:
            wholly. A controlled pixel's error counts `1 + control_weight` times. Such pixels are
            few, and the rest of the screen is learned long before them.
        control_weight: the additional weight of a controlled pixel.
        step_weights: float32 (time,) or (batch, time), the weight of each frame's error; None
            weighs all frames alike.

    Returns:
        The plain loss, without either weight, and the weighted loss to be minimised; scalars.
    """
    errors = 0.5 * ops.sum(ops.square(error), axis=-1)
    by_frame = ops.sum(errors, axis=(2, 3))
    plain = ops.mean(by_frame)
    if controlled is not None:
        weights = ops.cast(controlled, "float32") * (control_weight / 255)
        by_frame = by_frame + ops.sum(weights * errors, axis=(2, 3))
    if step_weights is not None:
        by_frame = by_frame * step_weights
    return plain, ops.mean(by_frame)


def reward_cross_entropy(rewards, logits):
    """Mean cross-entropy of the reward's sign, a scalar.

    Args:
        rewards: float32 (batch, time).
        logits: of -1, 0 and +1, float32 (batch, time, 3).
    """
    classes = ops.cast(ops.sign(rewards), "int32") + 1
    return ops.mean(keras.losses.sparse_categorical_crossentropy(classes, logits, from_logits=True))


def termination_cross_entropy(terminations, logits):
    """Mean cross-entropy of termination, a scalar.

    Args:
        terminations: bool (batch, time).
        logits: of termination, float32 (batch, time).
    """
    terminations = ops.cast(terminations, "float32")
    return ops.mean(keras.losses.binary_crossentropy(terminations, logits, from_logits=True))
