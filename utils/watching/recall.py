"""What replaying the training play would predict, and how much of the test it has seen.

**Recall.** For each test window it looks for the training moment that is most alike: by the last
four frames as the small preset sees them, 84x84 in grey, and by the actions between them. What was
recorded after that moment is its prediction, under whatever actions were recorded there. A model
with a greater error has learned less than the training play holds.

The most alike has the least sum of squared differences of levels. An action that differs counts as
much as one pixel that is white instead of black. For each horizon only moments are compared that
are followed by as many frames in their episode. All of them are: the search is exact, but for the
rounding of float32.

**Overlap.** A frame has been seen if a training frame equals it bit for bit, as the model sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from systems.dataset import Dataset

SHAPE = (84, 84, 1)  # in which moments are compared
FRAMES = 4  # of a moment
ACTION = 255**2  # what a differing action adds to the squared distance
_AT_ONCE = 512  # frames that are in memory


@dataclass(frozen=True)
class Memory:
    """What the training play says of some test windows.

    Attributes:
        training: the data set.
        moments: int (windows, horizons, 2), episode and frame of the most alike; -1 where no
            training moment is followed by so many frames.
        horizons: steps after the moment.
        shape: (height, width, channels) of the frames that are predicted.
        seen: share of the test frames that the training play shows.
        seen_targets: the same of the windows' frames at each horizon, float (horizons,).
    """

    training: Dataset
    moments: np.ndarray
    horizons: Sequence[int]
    shape: tuple[int, int, int]
    seen: float
    seen_targets: np.ndarray

    def known(self) -> np.ndarray:
        """At which horizons there is a prediction, bool (horizons,)."""
        return (self.moments[..., 0] >= 0).all(axis=0)

    def predict(self, part: slice) -> np.ndarray:
        """The predicted frames of some windows, uint8 (windows, horizons, height, width, channels).

        They are black where there is no prediction.
        """
        palette = self.training.palette()
        moments = self.moments[part]
        frames = np.zeros((*moments.shape[:2], *self.shape), np.uint8)
        for window, step in zip(*np.nonzero(moments[..., 0] >= 0), strict=True):
            episode, frame = map(int, moments[window, step])
            found = self.training.read(episode, frame + self.horizons[step], 1, self.shape)
            frames[window, step] = in_levels(found["frames"], self.shape, palette)[0]
        return frames


def in_levels(frames: np.ndarray, shape: tuple[int, ...], palette: np.ndarray | None) -> np.ndarray:
    """Frames as `Dataset.read` returns them, which may be palette indices, in levels.

    Args:
        frames: uint8 (..., height, width[, channels]).
        shape: (height, width, channels).
        palette: of the indices.
    """
    return frames if frames.shape[-3:] == tuple(shape) else palette[frames]


def remember(
    training: Dataset,
    test: Dataset,
    starts: Sequence[tuple[int, int]],
    warmup: int,
    horizons: Sequence[int],
    shape: tuple[int, int, int],
) -> Memory:
    """Looks test windows up in the training play.

    Args:
        training, test: the data sets.
        starts: episode and first frame of each window.
        warmup: real frames of each window.
        horizons: steps after them.
        shape: (height, width, channels) that the model predicts.
    """
    last = [(episode, first + warmup - 1) for episode, first in starts]
    search = _Search(training, test, last, min(FRAMES, warmup), horizons)
    known = set()
    for episode, first, frames in _chunks(training, SHAPE, search.count - 1):
        search.compare(episode, first, frames)
        if shape == SHAPE:
            known.update(_digests(frames))
    # Frames of palette indices are compared as such only with others.
    palettes = training.palette(), test.palette()
    if shape != SHAPE:
        for _, _, frames in _chunks(training, shape):
            known.update(_digests(in_levels(frames, shape, palettes[0])))
    seen = [
        np.array([digest in known for digest in _digests(in_levels(frames, shape, palettes[1]))])
        for _, _, frames in _chunks(test, shape)
    ]
    seen = np.concatenate(seen)
    before = np.concatenate([[0], np.cumsum(test.lengths + 1)])
    rows = np.array([before[episode] + frame for episode, frame in last])
    targets = seen[rows[:, None] + np.array(horizons)]
    return Memory(
        training, search.moments, horizons, shape, float(seen.mean()), targets.mean(axis=0)
    )


class _Search:
    """The training moments most alike to the test windows, by chunks of training play.

    Args:
        training, test: the data sets.
        last: episode and last real frame of each window.
        count: frames of a moment.
        horizons: steps after it.

    Attributes:
        count: as given.
        moments: int (windows, horizons, 2), the best so far; -1: none.
    """

    def __init__(self, training, test, last, count, horizons):
        self.count, self._training, self._horizons = count, training, horizons
        self.moments = np.full((len(last), len(horizons), 2), -1)
        self._best = np.full((len(last), len(horizons)), np.inf)
        # Differences from what the game usually looks like are small, so that float32 sums up
        # their squares without rounding, or next to none.
        self._usual = np.round(training.frame_statistics(SHAPE)[0])
        moments = [
            test.read(episode, frame - count + 1, count, SHAPE)["frames"] for episode, frame in last
        ]
        self._windows = self._rows(np.concatenate(moments))
        self._squares = np.square(self._windows).sum(axis=1)
        self._actions = np.array(
            [test.actions[episode][frame - count + 1 : frame] for episode, frame in last]
        ).reshape(len(last), count - 1)

    def _rows(self, frames):
        return (frames.astype(np.float32) - self._usual).reshape(len(frames), -1)

    def compare(self, episode: int, first: int, frames: np.ndarray) -> None:
        """Compares the moments that end in some frames of an episode, but for the first few."""
        rows, count = self._rows(frames), self.count
        number = len(rows) - count + 1
        if number < 1:
            return
        products = self._windows @ rows.T
        distances = self._squares[:, None] + np.square(rows).sum(axis=1) - 2 * products
        distances = distances.reshape(-1, count, len(rows))
        actions = self._training.actions[episode][first : first + len(rows) - 1]
        total = np.zeros((len(distances), number), np.float32)
        for t in range(count):
            total += distances[:, t, t : t + number]
            if t < count - 1:
                differs = self._actions[:, t, None] != actions[t : t + number]
                total += ACTION * differs
        ends = first + count - 1 + np.arange(number)
        for i, horizon in enumerate(self._horizons):
            followed = ends + horizon <= self._training.lengths[episode]
            if followed.any():
                self._keep(i, episode, ends[followed], total[:, followed])

    def _keep(self, horizon, episode, ends, total):
        best = total.argmin(axis=1)
        least = total[np.arange(len(total)), best]
        better = least < self._best[:, horizon]
        self._best[better, horizon] = least[better]
        self.moments[better, horizon, 0] = episode
        self.moments[better, horizon, 1] = ends[best[better]]


def _chunks(dataset, shape, again=0) -> Iterator[tuple[int, int, np.ndarray]]:
    """All frames: episode, first frame, uint8 frames. Each chunk begins with `again` known ones."""
    for episode, steps in enumerate(dataset.lengths):
        for start in range(0, int(steps) + 1, _AT_ONCE):
            first = max(start - again, 0)
            count = min(start + _AT_ONCE, int(steps) + 1) - first
            yield episode, first, dataset.read(episode, first, count, shape)["frames"]


def _digests(frames):
    return [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in frames]
