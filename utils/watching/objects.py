"""The object that the player controls, by itself: is it in the prediction, and where?

The mean error over pixels hardly notices a small object, and cannot tell one that is missing from
one that is a pixel off. So the object is cut out of the recorded frame and searched for in the
predicted one.

**Cut out.** The emulator's other futures show the same moment with the object elsewhere (see
`systems.controlled_futures`). Where they differ from the recorded frame, one of the two shows the
object and the other what is behind it. The one that is further from the usual frame, the median of
each pixel, shows the object: a connected patch at a time. The object is the patch of most contrast
on which most futures agree. A window is left out where there is no such patch, or where the patch
is not the whole object, because it overlaps that of the futures. Few windows are left within the
first steps, because the futures have not led the object elsewhere yet.

**Searched.** The patch is laid over the prediction at every whole pixel up to an eighth of the
frame's height away. The squared error there, of the patch and of the pixels around it, which are to
show what is behind, is compared with that of the recorded frame without the object. The object is
present if at the best place at most half of that error is left. How far that place is from the true
one is the offset.

A faint object counts as present from 0.3 of its strength on. In games where others react to the
player, the patch may be one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PRESENT = 0.5  # share of the error without the object, at most
CONTRAST = 8  # levels by which a pixel has to differ
MIN_PIXELS = 4  # of an object
MAX_AROUND = 0.25  # contrast of what is not the object, as a share of the object's own
REACH = 8  # the search goes as far as the frame's height over this


@dataclass(frozen=True)
class ControlledObject:
    """Where the recorded frame shows the object.

    Attributes:
        top, left: of the box around it, pixels.
        mask: bool (height, width) of the box, its pixels.
        behind: float32 (height, width, channels) of the box, what is behind it.
    """

    top: int
    left: int
    mask: np.ndarray
    behind: np.ndarray

    def box(self, margin: int = 0) -> tuple[slice, slice]:
        """Rows and columns of the box, with a margin as far as the frame goes."""
        height, width = self.mask.shape
        return (
            slice(max(self.top - margin, 0), self.top + height + margin),
            slice(max(self.left - margin, 0), self.left + width + margin),
        )


def find_object(
    truth: np.ndarray, futures: np.ndarray, usual: np.ndarray
) -> ControlledObject | None:
    """Cuts the object out of a recorded frame; None if the futures do not show it clearly.

    Args:
        truth: the recorded frame, uint8 (height, width, channels).
        futures: the same moment in other futures, uint8 (futures, height, width, channels).
        usual: the median of each pixel over the game, float (height, width, channels).
    """
    truth = truth.astype(np.float32)
    others = [other for other in futures.astype(np.float32) if _differs(truth, other).any()]
    if not others:
        return None
    unusual = np.square(truth - usual).sum(axis=-1)
    votes = sum(_patches_of_truth(truth, other, usual, unusual).astype(int) for other in others)
    mask = (2 * votes > len(others)).astype(np.uint8)
    behind = np.median(others, axis=0)
    contrast = np.square(truth - behind).sum(axis=-1)
    count, labels = cv2.connectedComponents(mask)
    if count == 1:  # what is no patch
        return None
    most = 1 + np.argmax(np.bincount(labels.ravel(), contrast.ravel(), count)[1:])
    mask = labels == most
    around = _around(mask)
    if mask.sum() < MIN_PIXELS or unusual[around].mean() > MAX_AROUND * unusual[mask].mean():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return ControlledObject(int(rows[0]), int(columns[0]), mask[box], behind[box])


def _around(mask):
    """The pixels that touch those of a mask."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~mask


def _differs(truth, other):
    return np.abs(truth - other).max(axis=-1) > CONTRAST


def _patches_of_truth(truth, other, usual, unusual):
    """The patches in which two frames differ and the recorded one is further from the usual."""
    differs = _differs(truth, other)
    count, labels = cv2.connectedComponents(differs.astype(np.uint8))
    further = unusual - np.square(other - usual).sum(axis=-1)
    further, nearer = (
        np.bincount(labels.ravel(), np.maximum(sign * further, 0).ravel(), count)
        for sign in (1, -1)
    )
    # Where both have much, one patch shows both objects, side by side.
    of_truth = nearer < MAX_AROUND * further
    of_truth[0] = False  # where they do not differ
    return of_truth[labels]


def search(prediction: np.ndarray, truth: np.ndarray, found: ControlledObject) -> float | None:
    """How many pixels from its place a prediction shows the object; None if it is not present.

    Args:
        prediction, truth: levels, float (height, width, channels).
        found: in the truth.
    """
    without = truth.astype(np.float32, copy=True)
    patch = np.pad(without[found.box()], ((1, 1), (1, 1), (0, 0)))  # a border for what is around
    without[found.box()][found.mask] = found.behind[found.mask]
    mask = np.pad(found.mask, 1)
    margin = truth.shape[0] // REACH
    rows, columns = found.box(margin)
    seen, behind = (
        np.pad(frame[rows, columns], ((1, 1), (1, 1), (0, 0))).astype(np.float32)
        for frame in (prediction, without)
    )
    error, nothing = (_errors(frame, patch, mask) for frame in (seen, behind))
    # Around the object, what is behind it is to be seen.
    error += _errors(seen - behind, np.zeros_like(patch), _around(mask))
    down = np.arange(error.shape[0]) - min(found.top, margin)
    right = np.arange(error.shape[1]) - min(found.left, margin)
    distances = np.hypot(*np.meshgrid(down, right, indexing="ij"))
    # What is behind may look like the object elsewhere. Nothing can be told there.
    telling = nothing >= nothing[distances == 0] / 2
    shares = np.where(telling, np.maximum(error, 0) / np.maximum(nothing, 1), np.inf)
    if not shares.min() <= PRESENT:
        return None
    # Of places that are alike but for rounding, the nearest.
    best = shares <= shares.min() + 1e-3
    return float(distances[best].min())


def _errors(frame, patch, mask):
    """The squared error of a patch's masked pixels at each place, float (down, right)."""
    weights = np.repeat(mask[..., None], patch.shape[-1], axis=-1).astype(np.float32)
    return cv2.matchTemplate(frame, patch, cv2.TM_SQDIFF, mask=weights)
