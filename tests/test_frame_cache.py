"""Frames kept on the disk are the frames that were made, whatever the disk does."""

import errno
import os
import types

import numpy as np
import pytest

from systems.frame_cache import FrameCache

SHAPE = (2, 3)


class Maker:
    """Makes frames that are filled with their numbers, and remembers which."""

    def __init__(self):
        self.made = []

    def __call__(self, numbers):
        self.made.extend(numbers.tolist())
        return np.repeat(numbers, 6).reshape(-1, *SHAPE).astype(np.uint8)


def check(frames, numbers):
    expected = np.repeat(numbers, 6).reshape(-1, *SHAPE)
    np.testing.assert_array_equal(frames, expected)


def test_each_frame_is_made_once(tmp_path):
    cache, make = FrameCache(tmp_path, 10, SHAPE), Maker()
    for numbers in ([4], [3, 4, 5], [9, 1], [0, 1, 2, 3, 4, 5]):
        check(cache.read(np.array(numbers), make), numbers)
    assert sorted(make.made) == [0, 1, 2, 3, 4, 5, 9]
    assert not os.listdir(tmp_path)


def test_a_short_read_is_read_on(tmp_path, monkeypatch):
    cache, make = FrameCache(tmp_path, 10, SHAPE), Maker()
    cache.read(np.arange(5), make)
    whole = os.preadv

    def a_few_bytes(descriptor, buffers, offset):
        return whole(descriptor, [memoryview(buffers[0]).cast("B")[:4]], offset)

    monkeypatch.setattr(os, "preadv", a_few_bytes)
    check(cache.read(np.array([1, 2, 3]), make), [1, 2, 3])
    assert make.made == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failure", ["no more bytes", "an error"])
def test_what_cannot_be_read_whole_is_made_anew(tmp_path, monkeypatch, failure):
    cache, make = FrameCache(tmp_path, 10, SHAPE), Maker()
    cache.read(np.arange(5), make)
    whole = os.preadv

    def broken(descriptor, buffers, offset):
        if failure == "an error":
            raise OSError(errno.EIO, "Input/output error")
        # The file ends after the first four bytes of frame 2.
        count = min(len(buffers[0]), max(0, 16 - offset))
        return whole(descriptor, [buffers[0][:count]], offset) if count else 0

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        check(cache.read(np.array([2, 3, 7]), make), [2, 3, 7])
    assert make.made == [0, 1, 2, 3, 4, 2, 3, 7]
    check(cache.read(np.array([2, 3, 7]), make), [2, 3, 7])
    assert make.made == [0, 1, 2, 3, 4, 2, 3, 7]


def test_frames_that_find_no_room_are_made_each_time(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    make, free = Maker(), [100]

    def disk(_):
        return types.SimpleNamespace(f_bavail=free[0], f_frsize=20)

    monkeypatch.setattr(os, "fstatvfs", disk)
    cache = FrameCache(tmp_path, 10, SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        cache.read(np.array([4]), make)
    check(cache.read(np.array([4]), make), [4])
    free[0] = 49  # others have taken more than half of it
    check(cache.read(np.array([4, 7]), make), [4, 7])
    check(cache.read(np.array([7, 4, 2]), make), [7, 4, 2])
    assert make.made == [4, 4, 7, 7, 2]


def test_frames_lie_elsewhere_if_the_directory_cannot_be_written_to(tmp_path):
    cache, make = FrameCache(tmp_path / "none", 10, SHAPE), Maker()
    for _ in range(2):
        check(cache.read(np.array([1]), make), [1])
    assert make.made == [1]
