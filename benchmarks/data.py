"""Data loading by itself."""

import statistics

from benchmarks.child import seconds_of

BATCHES = 40  # read twice each


def ours(model: str, batch_size: int, data: str) -> dict:
    """Median seconds to read a batch of training windows: one thread, without TensorFlow.

    It is the second time that its frames are read, as nearly always in a training.
    """
    from model.presets import PRESETS
    from systems.dataset import Dataset
    from systems.windows import Windows, WindowSpec

    shape = PRESETS[model].frame_shape
    dataset = Dataset(data)
    dataset.keep_fitted(shape)
    windows = Windows(dataset, shape, WindowSpec(10, 5, controlled=True), batch_size, 0)
    numbers = [*range(BATCHES), *range(BATCHES)]

    def read_next():
        windows.batch(numbers.pop(0))

    return {"seconds": statistics.median(seconds_of(read_next, BATCHES, BATCHES))}
