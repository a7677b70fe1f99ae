"""Data loading by itself."""

import statistics
import time


def ours(model, batch_size, data):
    """Seconds to read a batch of training windows, one thread, without TensorFlow.

    From the second time on that a frame is read, as nearly always in a training.
    """
    from model.networks import PRESETS
    from utils.dataset import Dataset, Windows

    shape, kept = PRESETS[model].frame_shape, {"num_batches": 40, "controlled_steps": 5}
    dataset = Dataset(data)
    dataset.keep_fitted(shape)
    windows = Windows(dataset, shape, 15, batch_size, 0, **kept)
    for i in range(windows.num_batches):
        windows[i]
    seconds = []
    for i in range(windows.num_batches):
        started = time.perf_counter()
        windows[i]
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds)}
