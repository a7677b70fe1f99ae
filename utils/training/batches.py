"""Training windows as Keras reads them, in threads beside the training."""

from __future__ import annotations

import keras

from systems.errors import InputError
from systems.files import num_cores
from systems.windows import Windows
from utils.training.progress import Progress


class Batches(keras.utils.PyDataset):
    """Some of a data set's batches, for one call of `fit`.

    Args:
        windows: where they come from.
        first: number of the first batch.
        count: how many there are.

    Attributes:
        error: the InputError that reading has ended with, or None.
    """

    def __init__(self, windows: Windows, first: int, count: int):
        # Two threads at least: with one, Keras reads through tf.data, whose autotuner's thread may
        # sleep for up to a minute after the last batch while `fit` waits for it.
        super().__init__(workers=min(max(2, num_cores()), 16))
        self._windows, self._first, self._count = windows, first, count
        self.error: InputError | None = None

    @property
    def num_batches(self):
        """How many batches there are."""
        return self._count

    def release(self) -> None:
        """Lets go of the windows, because Keras on TensorFlow keeps for ever what it has read."""
        self._windows = None

    def __getitem__(self, index):
        try:
            return self._windows.batch(self._first + index)
        except InputError as error:
            self.error = error
            raise


def fit(
    model: keras.Model, windows: Windows, first: int, count: int, progress: Progress
) -> dict[str, float]:
    """Trains on `count` batches from batch `first` on; returns the mean losses.

    Raises:
        InputError: they cannot be read.
    """
    batches = Batches(windows, first, count)
    try:
        history = model.fit(batches, shuffle=False, verbose=0, callbacks=[progress]).history
    except Exception:
        # What reaches us from the reading threads is the backend's own error.
        if batches.error:
            raise batches.error from None
        raise
    finally:
        batches.release()
    return {key: float(values[0]) for key, values in history.items()}
