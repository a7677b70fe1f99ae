"""Data loading by itself."""

import statistics
import time


def ours(model, batch_size, data):
    """Seconds to read a batch of training windows, one thread, without TensorFlow."""
    from model.networks import PRESETS
    from utils.dataset import Dataset, Windows

    windows = Windows(Dataset(data), PRESETS[model].frame_shape, 15, batch_size, 0, num_batches=40)
    seconds = []
    for i in range(windows.num_batches):
        started = time.perf_counter()
        windows[i]
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds)}
