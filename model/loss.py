"""What errors cost: a predicted frame's, and the reward's."""

import keras
from keras import ops


def frame_loss(error, controlled=None, control_weight: float = 0.0, step_weights=None):
    """Oh et al.'s pixel error, ``1/(2K) sum_k ||x_hat - x||^2`` (2015, section 3.4), two ways.

    Args:
        error: normalised, float32 (batch, time, height, width, channels).
        controlled: uint8 (batch, time, height, width), how far the player decides each pixel, 255:
            wholly. Its errors count `1 + control_weight` times there: such pixels are few, and what
            fills the screen is learned long before them.
        control_weight: see above.
        step_weights: float32 (time,) or (batch, time), how much each frame's errors count; None:
            all alike.

    Returns:
        The plain error and the one to be minimised, scalars.
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


def reward_loss(rewards, logits):
    """Mean cross-entropy of the reward's sign, a scalar.

    Args:
        rewards: float32 (batch, time).
        logits: of -1, 0 and +1, (batch, time, 3).
    """
    classes = ops.cast(ops.sign(rewards), "int32") + 1
    return ops.mean(keras.losses.sparse_categorical_crossentropy(classes, logits, from_logits=True))
