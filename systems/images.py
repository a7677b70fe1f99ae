"""Frames as images: their size and their channels."""

from __future__ import annotations

import cv2
import numpy as np


def resize(frame: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns a frame resized to (height, width, channels) by area, which skips no small object.

    Args:
        frame: uint8, grey (H, W) or RGB (H, W, 3), with as many channels as `shape`.
        shape: height, width and channels.
    """
    height, width, _ = shape
    if frame.shape[:2] != (height, width):
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return frame.reshape(shape)


def in_channels(frame: np.ndarray, channels: int) -> np.ndarray:
    """Returns a frame in grey or RGB.

    Args:
        frame: uint8, grey (H, W, 1) or RGB (H, W, 3).
        channels: 1 or 3.
    """
    if frame.shape[-1] == channels:
        return frame
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY if channels == 1 else cv2.COLOR_GRAY2RGB)
