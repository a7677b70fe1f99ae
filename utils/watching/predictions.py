"""Scores anybody's predictions: writes the windows for them, and reads what they predicted.

`evaluate.py --export_windows FILE` writes an .npz file of arrays, with numpy.savez_compressed:

    frames            uint8 (windows, 10, height, width, channels), the real frames that are shown
    actions           int32 (windows, 10 + steps - 1); action t leads from frame t to frame t + 1,
                      so that the first predicted frame follows action 9
    shuffled_actions  int32, alike: other actions for the steps that are predicted
    horizons          int32 (horizons,), the steps after the real frames that are scored
    targets           uint8 (windows, horizons, height, width, channels), the true frames
    moving            bool (windows, height, width), the moving pixels
    controlled        bool (windows, horizons, height, width), the controlled pixels; missing where
                      they are not known
    starts            int32 (windows, 2), episode and first frame in the test set

`--predictions FILE` takes an .npz file with

    frames            as targets, uint8 or floating point, levels from 0 to 255
    shuffled_frames   the same under shuffled_actions; may be missing
    horizons, starts  as they were exported, so that no other windows are scored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from systems.errors import InputError
from systems.files import write_whole
from utils.arrays import read_npz
from utils.watching.evaluation import moving, pixels, shuffled_actions

SUFFIX = ".npz"


def check_npz(flag: str, path: Path) -> None:
    """Raises InputError unless a flag's file ends as NumPy's do."""
    if path.suffix != SUFFIX:
        raise InputError(f"expected {flag} to end in {SUFFIX}, received {path}")


def write_windows(
    path: Path,
    windows: Mapping[str, Any],
    warmup: int,
    horizons: Sequence[int],
    palette: np.ndarray | None,
    starts: Sequence[tuple[int, int]],
    controlled: np.ndarray | None,
) -> None:
    """Writes windows for others to predict; the module says what is in the file.

    Args:
        path: of the file.
        windows, warmup, horizons, palette: see `utils.watching.evaluation.evaluate`.
        starts: episode and first frame of each window.
        controlled: bool (windows, horizons, height, width), or None.

    Raises:
        InputError: the system refused.
    """
    shown, targets, moves = [], [], []
    for window in range(len(starts)):
        frames = windows["frames"][window : window + 1]
        shown.append(pixels(frames[:, :warmup], palette))
        targets.append(pixels(frames[:, warmup - 1 + np.array(horizons)], palette))
        moves.append(moving(frames))
    arrays = {
        "frames": np.concatenate(shown),
        "actions": windows["actions"],
        "shuffled_actions": shuffled_actions(windows["actions"], warmup),
        "horizons": np.array(horizons, np.int32),
        "targets": np.concatenate(targets),
        "moving": np.concatenate(moves),
        "starts": np.array(starts, np.int32),
    }
    if controlled is not None:
        arrays["controlled"] = controlled
    write_whole(path, lambda partial: np.savez_compressed(partial, **arrays))


class Predictions:
    """A `Forecast` from somebody's file.

    Args:
        path: of the file.
        starts, horizons: of the windows that are scored.
        shape: (height, width, channels) of their frames.
        mean_frame: see `Forecast`.

    Raises:
        InputError: the file is missing, damaged, or of other windows.
    """

    def __init__(
        self,
        path: Path,
        starts: Sequence[tuple[int, int]],
        horizons: Sequence[int],
        shape: tuple[int, int, int],
        mean_frame: np.ndarray | None,
    ):
        self.mean_frame, self._path = mean_frame, path
        given = read_npz(path, f"predictions in {path}, as numpy.savez writes them")
        for name, expected in (("starts", starts), ("horizons", horizons)):
            received = given.get(name)
            if received is None or not np.array_equal(received, np.array(expected)):
                raise InputError(
                    f"expected `{name}` in {path} to be that of the windows to score, received "
                    f"{'none' if received is None else 'others'}. Copy it from the file of "
                    "--export_windows, and give the same --dataset, --horizon, --num_windows and "
                    "--seed as there."
                )
        size = (len(starts), len(horizons), *shape)
        self._frames = {False: self._checked(given.get("frames"), "frames", size)}
        if "shuffled_frames" in given:
            self._frames[True] = self._checked(given["shuffled_frames"], "shuffled_frames", size)

    def _checked(self, frames, name, size):
        if frames is None or frames.shape != size or frames.dtype.kind not in "uif":
            received = "none" if frames is None else f"{frames.dtype} {frames.shape}"
            raise InputError(
                f"expected `{name}` in {self._path} to hold levels of shape {size}, received "
                f"{received}. It has the shape of `targets` in the file of --export_windows."
            )
        if not np.isfinite(frames).all():
            raise InputError(f"expected finite levels as `{name}` in {self._path}, received others")
        return frames

    def predict(self, part: slice, frames: np.ndarray, shuffled: bool) -> dict | None:
        """See `utils.watching.evaluation.Forecast`."""
        if shuffled not in self._frames:
            return None
        levels = self._frames[shuffled][part].astype(np.float32)
        return {"frames": levels, "reward": None, "termination": None}
