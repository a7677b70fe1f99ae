"""Keeps the last steps of a twin game and writes them as videos.

Screens are kept compressed, and are drawn and encoded one at a time, because 30 s of full frames
would take gigabytes otherwise.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from zlib_ng import zlib_ng

from utils.watching import video

RECORDED_SECONDS = 30


class RecordedStep(NamedTuple):
    """One step: both screens, as zlib streams of uint8, and a line of text."""

    real: bytes
    imagined: bytes
    caption: str


class Recorder:
    """Keeps the last 30 seconds.

    Args:
        shape: (height, width, channels) of a screen.
        fps: steps a second.

    Attributes:
        shape, fps: as given.
    """

    def __init__(self, shape: tuple[int, int, int], fps: float):
        self.shape, self.fps = shape, fps
        self._steps = deque(maxlen=round(RECORDED_SECONDS * fps))

    def append(self, real: np.ndarray, imagined: np.ndarray, caption: str) -> None:
        """Adds a step.

        Args:
            real, imagined: the screens, uint8 (height, width, channels).
            caption: stands below them.
        """
        streams = (zlib_ng.compress(screen.tobytes(), 1) for screen in (real, imagined))
        self._steps.append(RecordedStep(*streams, caption))

    def clear(self) -> None:
        """Forgets all steps."""
        self._steps.clear()

    def steps(self) -> list[RecordedStep]:
        """The steps so far, the oldest first. The list stays as it is when others are added."""
        return list(self._steps)


def write_recording(
    steps: Sequence[RecordedStep],
    shape: tuple[int, int, int],
    directory: Path,
    game: str,
    fps: float,
) -> list[Path]:
    """Writes steps as mp4 and as gif: the real game, the imagined one and their difference.

    Args:
        steps: at least one.
        shape: (height, width, channels) of a screen.
        directory: made if need be.
        game: begins the files' names.
        fps: steps a second.

    Returns:
        the paths of both files.

    Raises:
        OSError, InputError: the files cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{game}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
    paths = [directory / f"{name}{suffix}" for suffix in video.FORMATS]
    for path in paths:
        video.write_video(path, _drawn(steps, shape), max(1, round(fps)))
    return paths


def _drawn(steps, shape):
    """Yields the frames of the video, so that one at a time is in memory."""

    def screens(stream):
        for step in steps:
            screen = np.frombuffer(zlib_ng.decompress(getattr(step, stream)), np.uint8)
            yield video.to_uint8_rgb(screen.reshape(shape))

    panels = {
        "truth": screens("real"),
        "prediction": screens("imagined"),
        "difference": map(video.difference, screens("real"), screens("imagined")),
    }
    return video.side_by_side(panels, [step.caption for step in steps])
