"""The bar of a training under way."""

import math
import sys

import keras
from tqdm import tqdm

from utils.dataset import Windows


class Progress(keras.callbacks.Callback):
    """A bar of the steps, with loss, frames per second and time left; watches for non-finite.

    Args:
        label: what stands before the bar.
        max_steps: at its end.
        frames_per_step: of all windows of a batch; may be set anew.
        first_step: where the bar begins.
        remedy: what may help where the loss is not finite.
        shown: whether there is one.
    """

    def __init__(
        self,
        label,
        max_steps,
        frames_per_step=0,
        *,
        first_step=0,
        remedy="a smaller --learning_rate",
        shown=True,
    ):
        super().__init__()
        self.remedy = remedy
        self.step, self.frames_per_step = first_step, frames_per_step
        self.bar = tqdm(
            desc=label,
            total=max_steps,
            initial=first_step,
            unit="step",
            file=sys.stderr,
            disable=not shown,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar by a step."""
        loss = logs["loss"]
        self.step += 1  # the batch's number begins anew with each call of `fit`
        require_finite(loss, self.step, self.remedy)
        rate = self.bar.format_dict["rate"] or 0
        self.bar.set_postfix_str(
            f"loss {loss:.4g}, {rate * self.frames_per_step:.0f} frames/s", refresh=False
        )
        self.bar.update()


def fit(model: keras.Model, windows: Windows, progress: Progress) -> keras.callbacks.History:
    """Trains on the windows, one batch after the other; they cannot be read again.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return model.fit(windows, shuffle=False, verbose=0, callbacks=[progress])
    except Exception:
        # They are read in threads, and what reaches us from there is the backend's own error.
        if windows.error:
            raise windows.error from None
        raise
    finally:
        windows.release()  # Keras on TensorFlow keeps for ever what it has read from


def require_finite(loss: float, step: int, remedy: str = "a smaller --learning_rate") -> None:
    """Ends the program where a loss is not a number."""
    if not math.isfinite(loss):
        sys.exit(
            f"error: the loss is {loss} at step {step}. Start over with --overwrite and {remedy}, "
            "or --precision=float32. Until then the weights of the best epoch so far, if there was "
            "one, stay where they are."
        )
