"""Roll-outs as pictures: side by side, enlarged and captioned, written as mp4 or gif.

Frames are composed and encoded one by one, so that the length of a video does not matter.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from systems.arguments import MAX_FPS
from systems.errors import InputError, check_writable
from systems.files import write_whole

FORMATS = (".mp4", ".gif")
CAPTION_HEIGHT = 16  # pixels of one line of text
GAP = 4  # pixels between panels
DIFFERENCE_GAIN = 4  # so that an error of ten levels is plain to see
SMALL_FRAME = 100  # rows: frames with fewer are enlarged 3 times, others twice


def to_uint8_rgb(frames: np.ndarray) -> np.ndarray:
    """Frames (..., height, width, 1 or 3) in 0 to 255 -> uint8 RGB (..., height, width, 3)."""
    frames = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def difference(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Prediction minus truth, amplified, around mid-grey: brighter means that it is too bright.

    Args:
        truth, prediction: uint8 RGB of one shape.

    Returns:
        uint8 RGB of that shape.
    """
    amplified = DIFFERENCE_GAIN * (prediction.astype(np.int16) - truth.astype(np.int16))
    return np.clip(amplified + 128, 0, 255).astype(np.uint8)


def compare(truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """The three panels of a roll-out.

    Args:
        truth, prediction: frames (time, height, width, 1 or 3) in 0 to 255.

    Returns:
        title -> uint8 RGB (time, height, width, 3).
    """
    truth, prediction = to_uint8_rgb(truth), to_uint8_rgb(prediction)
    return {
        "truth": truth,
        "prediction": prediction,
        "difference": difference(truth, prediction),
    }


def enlargement(rows: int) -> int:
    """How much frames of so many rows are enlarged."""
    return 3 if rows < SMALL_FRAME else 2


def side_by_side(
    panels: Mapping[str, Iterable[np.ndarray]], captions: Sequence[str], scale: int | None = None
) -> Iterator[np.ndarray]:
    """Joins videos and writes captions, one frame at a time.

    Args:
        panels: title -> uint8 RGB frames (height, width, 3), as many in each and all of one size.
            Titles stand above.
        captions: one for each frame, lines separated by newlines. They stand below.
        scale: enlargement by nearest neighbour, so that pixels stay pixels. None: see
            `enlargement`.

    Yields:
        uint8 RGB (height', width', 3). Both sizes are even, because H.264 asks for that.

    Raises:
        ValueError: panels and captions differ in length.
    """
    layout = None
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    for *frames, caption in zip(*panels.values(), captions, strict=True):
        layout = layout or _Layout(list(panels), frames[0].shape, lines, scale)
        yield layout.compose(frames, caption)


class _Layout:
    """Where titles, panels and captions stand.

    Args:
        titles: of the panels.
        shape: of one panel's frame.
        lines: of the longest caption.
        scale: see `side_by_side`.
    """

    ABOVE = CAPTION_HEIGHT + 4
    LEFT, BASELINE = 4, 14  # of a text, from the corner of its line

    def __init__(self, titles, shape, lines, scale):
        rows, columns, _ = shape
        self._titles = titles
        self._scale = scale or enlargement(rows)
        self._panel_height, self._panel_width = rows * self._scale, columns * self._scale
        height = self.ABOVE + self._panel_height + CAPTION_HEIGHT * lines + 6
        width = len(titles) * (self._panel_width + GAP) - GAP
        self._canvas_shape = height + height % 2, width + width % 2, 3

    def compose(self, frames, caption):
        """One frame of the video, uint8 RGB."""
        canvas = np.zeros(self._canvas_shape, np.uint8)
        bottom = self.ABOVE + self._panel_height
        for i, (title, frame) in enumerate(zip(self._titles, frames, strict=True)):
            left = i * (self._panel_width + GAP)
            enlarged = frame.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
            canvas[self.ABOVE : bottom, left : left + self._panel_width] = enlarged
            # Into its own column, so that a long title does not run into the next one.
            self._write(canvas[:, left : left + self._panel_width], title, 0, 0)
        for i, line in enumerate(caption.split("\n")):
            self._write(canvas, line, 0, bottom + i * CAPTION_HEIGHT)
        return canvas

    def _write(self, canvas, text, left, top):
        position = left + self.LEFT, top + self.BASELINE
        white = (255, 255, 255)
        cv2.putText(canvas, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.42, white, 1, cv2.LINE_AA)


def check_output(path: str | Path) -> Path:
    """The path, if a video can be written there.

    Raises:
        InputError: its suffix is not .mp4 or .gif, or see `systems.errors.check_writable`.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"expected an output ending in {' or '.join(FORMATS)}. Received: {path}")
    check_writable(path)
    return path


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int = 15) -> None:
    """Writes a video as H.264 mp4 or as gif, by the path's suffix. Frames are taken one by one.

    Args:
        path: of the file, which appears when it is whole.
        frames: uint8 RGB (height, width, 3), at least one.
        fps: frames a second, 60 at most.

    Raises:
        InputError: the path cannot be written to, see `check_output`.
        ValueError: there are no frames, or `fps` is out of bounds.
    """
    path = check_output(path)
    if not 1 <= fps <= MAX_FPS:
        raise ValueError(f"expected fps from 1 to {MAX_FPS}, received {fps}")
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    write_whole(path, lambda partial: write(partial, frames, fps))


def _first_and_all(frames):
    """The first frame, and all of them."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("expected at least one frame, received none")
    return first, itertools.chain([first], frames)


def _write_mp4(path, frames, fps):
    first, frames = _first_and_all(frames)
    # The whole path, because FFmpeg would take what stands before a colon for a protocol.
    with av.open(os.path.abspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"  # the one that every browser and player shows
        stream.options = {"crf": "14", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path, frames, fps):
    with open(path, "wb") as file:
        _encode_gif(file, frames, fps)


def gif_bytes(frames: Iterable[np.ndarray], fps: int = 15) -> bytes:
    """An endlessly repeating GIF of uint8 RGB frames (height, width, 3).

    It is exact up to 256 colours a frame. Grey and Atari pictures stay below that, predicted RGB
    frames do not. A GIF counts hundredths of a second, and this one shows at most 50 frames in one.

    Raises:
        ValueError: there are no frames.
    """
    buffer = io.BytesIO()
    _encode_gif(buffer, frames, fps)
    return buffer.getvalue()


def _encode_gif(file: BinaryIO, frames: Iterable[np.ndarray], fps: int) -> None:
    """Writes a GIF block by block, because Pillow's own writer holds all frames.

    A frame holds the rectangle that differs from the frame before it.
    """
    first, frames = _first_and_all(frames)
    waiting = _indexed(first)  # written when it is known how long it is shown
    box = (0, 0, *waiting.size)
    header, _ = GifImagePlugin.getheader(waiting, info={"loop": 0})
    file.writelines(header)
    hundredths = began = 0
    for number, frame in enumerate(frames):
        image = _indexed(frame)
        changed = ImageChops.difference(image.convert("RGB"), waiting.convert("RGB")).getbbox()
        if changed:
            _write_gif_frame(file, waiting, box, began, hundredths)
            waiting, box, began = image, changed, hundredths
        hundredths = round((number + 1) * 100 / min(fps, 50))
    _write_gif_frame(file, waiting, box, began, hundredths)
    file.write(b";")


def _write_gif_frame(file, image, box, began, ends):
    blocks = GifImagePlugin.getdata(
        image.crop(box),
        box[:2],
        duration=10 * (ends - began),  # milliseconds
        disposal=1,  # it stays, and the next one is drawn over it
        include_color_table=began > 0,  # the first one's is in the header
    )
    file.writelines(blocks)


def _indexed(frame):
    """A frame as an image of at most 256 colours."""
    # Pillow's own quantisers change colours even where there are few enough of them.
    packed = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours = np.unique(packed)
    if len(colours) > 256:
        return Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
    image = Image.fromarray(np.searchsorted(colours, packed).astype(np.uint8), mode="P")
    palette = colours[:, None] >> np.array([16, 8, 0], np.uint32) & 255
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image
