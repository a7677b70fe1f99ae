"""Frames made ready once: decompressed and resized, they are kept on the disk as they are read."""

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np


class FrameCache:
    """Frames by number, each made when it is first asked for and read from the disk from then on.

    They lie in a file without a name, which is gone with the process however that ends, and take
    no memory but what the system has to spare for files. Once half of what was free on the disk at
    first is taken, by whomever, no more are kept, and what is missing is made anew each time.
    Threads may read at once; processes each have their own.

    Args:
        directory: where the file lies; where that cannot be written, with the system's temporary
            files.
        count: how many frames there are.
        shape: of each, uint8.
    """

    def __init__(self, directory: Path, count: int, shape: tuple[int, ...]):
        try:
            file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it lives as long as this
        except OSError:
            file = tempfile.TemporaryFile()  # noqa: SIM115
        self._descriptor = file.fileno()
        self._to_be_left = self._free() // 2
        weakref.finalize(self, file.close)
        self._shape = shape
        self._size = int(np.prod(shape))
        self._there = np.zeros(count, bool)

    def read(self, numbers: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Some frames, uint8 (frames, *shape).

        Args:
            numbers: theirs, int (frames,).
            make: of such numbers, the frames.
        """
        frames = np.empty((len(numbers), *self._shape), np.uint8)
        there = self._there[numbers]
        # Runs of numbers one after the other, all there or none, are read as one.
        breaks = (np.diff(numbers) != 1) | (np.diff(there) != 0)
        starts = [0, *(np.flatnonzero(breaks) + 1)]
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            if there[start]:
                os.preadv(self._descriptor, [frames[start:stop]], int(numbers[start]) * self._size)
        if not there.all():
            frames[~there] = made = make(numbers[~there])
            for number, frame in zip(numbers[~there], made, strict=True):
                self._write(int(number), frame)
        return frames

    def _free(self):
        """Bytes on the disk."""
        disk = os.fstatvfs(self._descriptor)
        return disk.f_bavail * disk.f_frsize

    def _write(self, number, frame):
        if self._free() < self._to_be_left:
            return
        data = np.ascontiguousarray(frame)
        try:
            written = os.pwrite(self._descriptor, data, number * self._size)
        except OSError:  # the disk is full
            return
        # Only then: another thread may be reading.
        self._there[number] = written == self._size
