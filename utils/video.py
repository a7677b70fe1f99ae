"""Roll-outs as pictures: side by side, enlarged, labelled; written as mp4 or gif."""

import io
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from systems.errors import InputError, check_writable
from utils.checkpoints import write_whole

FORMATS = (".mp4", ".gif")
CAPTION_HEIGHT = 16  # pixels of one line of text


def to_uint8_rgb(frames: np.ndarray) -> np.ndarray:
    """Frames (..., height, width, 1 or 3) in 0 to 255 -> uint8 RGB (..., height, width, 3)."""
    frames = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def difference(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Prediction minus truth, uint8 RGB each: mid-grey is no difference, brighter is too bright."""
    halved = (prediction.astype(np.int16) - truth.astype(np.int16)) // 2
    return (halved + 128).astype(np.uint8)


def compare(truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """The three panels of a roll-out, from frames (time, height, width, 1 or 3) in 0 to 255."""
    truth, prediction = to_uint8_rgb(truth), to_uint8_rgb(prediction)
    return {
        "truth": truth,
        "prediction": prediction,
        "difference": difference(truth, prediction),
    }


def side_by_side(panels: dict[str, np.ndarray], captions: Sequence[str], scale: int) -> np.ndarray:
    """Joins videos and writes captions.

    Args:
        panels: title -> uint8 RGB (time, height, width, 3), all alike; titles stand above.
        captions: per time step, lines separated by newlines; they stand below.
        scale: enlargement, by nearest neighbour: pixels stay pixels.

    Returns:
        uint8 RGB (time, height', width', 3), height' and width' even, as H.264 wants them.
    """
    enlarged = [
        np.pad(panel.repeat(scale, axis=1).repeat(scale, axis=2), ((0, 0), (0, 0), (0, 4), (0, 0)))
        for panel in panels.values()
    ]
    body = np.concatenate(enlarged, axis=2)[:, :, :-4]
    width = body.shape[2] + body.shape[2] % 2
    lines = max(caption.count("\n") + 1 for caption in captions)
    below = CAPTION_HEIGHT * lines + 6
    above = CAPTION_HEIGHT + 4
    height = above + body.shape[1] + below
    video = np.zeros((len(body), height + height % 2, width, 3), np.uint8)
    video[:, above : above + body.shape[1], : body.shape[2]] = body
    panel_width = enlarged[0].shape[2]
    for canvas, caption in zip(video, captions, strict=True):
        for i, title in enumerate(panels):
            _write(canvas, title, i * panel_width + 4, 14)
        for i, line in enumerate(caption.split("\n")):
            _write(canvas, line, 4, above + body.shape[1] + 14 + i * CAPTION_HEIGHT)
    return video


def _write(canvas, text, x, y):
    cv2.putText(
        canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA
    )


def check_output(path: str | Path) -> Path:
    """The path, if a video can be written there.

    Raises:
        InputError: another suffix than .mp4 or .gif, or see `systems.errors.check_writable`.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"expected an output ending in {' or '.join(FORMATS)}. Received: {path}")
    check_writable(path)
    return path


def write_video(path: str | Path, frames: np.ndarray, fps: int = 15) -> None:
    """Writes uint8 RGB (time, height, width, 3) as H.264 mp4 or as gif, by the path's suffix."""
    path = check_output(path)
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    write_whole(path, lambda partial: write(partial, frames, fps))


def _write_mp4(path, frames, fps):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # the one every browser and player shows
        stream.options = {"crf": "14", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path, frames, fps):
    path.write_bytes(gif_bytes(frames, fps))


def gif_bytes(frames: np.ndarray, fps: int = 15) -> bytes:
    """uint8 RGB (time, height, width, 3) as an endlessly repeating GIF.

    Exact up to 256 colours a frame, which grey and Atari pictures stay below; predicted RGB frames
    have more. A GIF counts hundredths of a second, and shows at most 50 frames in one.
    """
    ends = np.rint(np.arange(len(frames) + 1) * 100 / min(fps, 50)).astype(int)
    images = []
    for frame in frames:
        # Pillow's own quantisers move colours even where there are few enough of them.
        packed = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        colours, codes = np.unique(packed, return_inverse=True)
        if len(colours) <= 256:
            image = Image.fromarray(codes.reshape(packed.shape).astype(np.uint8), mode="P")
            palette = colours[:, None] >> np.array([16, 8, 0], np.uint32) & 255
            image.putpalette(palette.astype(np.uint8).tobytes())
        else:
            image = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
        images.append(image)
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=(10 * np.diff(ends)).tolist(),
        loop=0,
        disposal=1,
        optimize=False,
    )
    return buffer.getvalue()
