"""The progress bar of a training."""

import math
import sys

import keras
from tqdm import tqdm


class Progress(keras.callbacks.Callback):
    """A bar of the steps with loss, frames a second and time left.

    It ends the program where the loss is not finite.

    Args:
        label: what stands before the bar.
        max_steps: at its end.
        frames_per_step: in all windows of a batch.
        first_step: where the bar begins.
        remedy: what may help where the loss is not finite.
        shown: whether the bar is shown.
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
        self.step += 1  # `batch` starts at 0 in each call of `fit`
        require_finite(loss, self.step, self.remedy)
        rate = self.bar.format_dict["rate"] or 0
        self.bar.set_postfix_str(
            f"loss {loss:.4g}, {rate * self.frames_per_step:.0f} frames/s", refresh=False
        )
        self.bar.update()


def require_finite(loss: float, step: int, remedy: str = "a smaller --learning_rate") -> None:
    """Ends the program with exit code 1 where a loss is not a number."""
    if not math.isfinite(loss):
        sys.exit(
            f"error: the loss is {loss} at step {step}. Start over with --overwrite and {remedy}, "
            "or --precision=float32. The weights of the best epoch so far, if there was one, are "
            "kept."
        )
