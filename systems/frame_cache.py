"""Keeps frames on the disk once they are decompressed and resized."""

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np


class FrameCache:
    """Frames by number. Each is made at its first reading and read from the disk after that.

    They lie in a file without a name, which the system removes when the process ends. The cache
    stops growing when less than half of the initially free space is left. Frames that it does not
    hold, or cannot read whole, are made anew.

    Threads may read at the same time. Each process has a cache of its own.

    Args:
        directory: where the file lies. If it cannot be written, the file lies with the system's
            temporary files.
        count: how many frames there are.
        shape: of each, uint8.
    """

    def __init__(self, directory: Path, count: int, shape: tuple[int, ...]):
        try:
            file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it lives as long as this
        except OSError:
            file = tempfile.TemporaryFile()  # noqa: SIM115
        self._descriptor = file.fileno()
        self._reserve = self._free() // 2
        weakref.finalize(self, file.close)
        self._shape = shape
        self._size = int(np.prod(shape))
        self._held = np.zeros(count, bool)

    def read(self, numbers: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Returns some frames, uint8 (frames, *shape).

        Args:
            numbers: theirs, int (frames,).
            make: makes the frames of some numbers.
        """
        frames = np.empty((len(numbers), *self._shape), np.uint8)
        held = self._held[numbers]
        # Consecutive numbers that are all held, or all missing, form a run. A run is read at once.
        breaks = (np.diff(numbers) != 1) | (np.diff(held) != 0)
        starts = [0, *(np.flatnonzero(breaks) + 1)]
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            if held[start] and not self._read_run(frames[start:stop], int(numbers[start])):
                held[start:stop] = self._held[numbers[start:stop]] = False
        if not held.all():
            frames[~held] = made = make(numbers[~held])
            for number, frame in zip(numbers[~held], made, strict=True):
                self._write(int(number), frame)
        return frames

    def _read_run(self, frames, first):
        """Fills `frames` from the disk; returns whether all of them could be read."""
        data = memoryview(frames).cast("B")
        done = 0
        try:
            # The system may return fewer bytes than asked for.
            while done < len(data):
                count = os.preadv(self._descriptor, [data[done:]], first * self._size + done)
                if count == 0:  # the file ends here
                    return False
                done += count
        except OSError:
            return False
        return True

    def _free(self):
        """Free bytes on the disk."""
        disk = os.fstatvfs(self._descriptor)
        return disk.f_bavail * disk.f_frsize

    def _write(self, number, frame):
        if self._free() < self._reserve:
            return
        data = np.ascontiguousarray(frame)
        try:
            written = os.pwrite(self._descriptor, data, number * self._size)
        except OSError:  # the disk is full
            return
        # This comes last because another thread may be reading.
        self._held[number] = written == self._size
