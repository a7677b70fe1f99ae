"""Cuts data sets into windows, runs of frames within one episode, and reads them in batches.

A window is a warm-up of real frames and the steps that are predicted after it:

    frames    f_0 ... f_9 | f_10 f_11 f_12         warm-up of 10, horizon of 3
    actions   a_0 ... a_8 | a_9  a_10 a_11         a_t leads from f_t to f_t+1
    rewards and terminations are numbered as the actions they follow

A batch is a dict of NumPy arrays, as `model.predictor.FramePredictor` takes it:

    frames         uint8 (batch, warmup + shown, height, width[, channels]), see `Dataset.read`
    actions        int32 (batch, warmup + horizon - 1)
    rewards        float32, terminations bool, both as actions
    steps          int32 (batch, shown), if only some steps are shown: which, ascending from 0
    controlled     uint8 (batch, shown, height, width), if asked for, see `Dataset.read_controlled`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systems.dataset import Dataset
from systems.errors import InputError


@dataclass(frozen=True)
class WindowSpec:
    """What a window holds.

    Attributes:
        warmup: real frames before the first predicted step.
        horizon: steps after them.
        shown: how many of the horizon's frames are read. They are drawn for each window, early
            steps more often. None: all of them.
        controlled: whether to add the controlled pixels of the frames shown.
        reward_within: if not 0, half of a batch's windows are drawn from those with an event. Seven
            in eight have a non-zero reward within so many steps after the warm-up. One in eight
            ends its episode.
    """

    warmup: int
    horizon: int
    shown: int | None = None
    controlled: bool = False
    reward_within: int = 0

    @property
    def length(self) -> int:
        """Frames from the first to the last, shown or not."""
        return self.warmup + self.horizon

    @property
    def num_shown(self) -> int:
        """Frames after the warm-up that are read."""
        return self.horizon if self.shown is None else min(self.shown, self.horizon)

    @property
    def draws_steps(self) -> bool:
        """Whether only some of the horizon's frames are read."""
        return self.num_shown < self.horizon


class Windows:
    """Batches of windows. Batch n depends on the seed and n alone, so that runs can be resumed.

    Each pass over the data has its own order, drawn from the seed and the number of the pass.

    Args:
        dataset: what the windows are cut from.
        shape: the preset's (height, width, channels), see `Dataset.read`.
        spec: what a window holds.
        batch_size: windows a batch.
        seed: of the order.
        process, num_processes: each process reads its share of a batch.

    Raises:
        InputError: no episode is long enough.
    """

    def __init__(
        self,
        dataset: Dataset,
        shape: tuple[int, int, int],
        spec: WindowSpec,
        batch_size: int,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
    ):
        require_length(dataset, spec.length)
        self.dataset, self.shape, self.spec = dataset, shape, spec
        self.batch_size, self.seed = batch_size, seed
        share = batch_size // num_processes
        self._share = slice(process * share, (process + 1) * share)
        counts = _window_counts(dataset, spec.length)
        self._ends = np.cumsum(counts)
        everything = np.arange(self.num_windows)
        # Each pool is an array of window numbers, with how many windows a batch takes from it.
        self._pools = [(everything, batch_size)]
        if spec.reward_within:
            half = batch_size // 2
            self._pools = [(everything, batch_size - half), (self._with_event(counts), half)]
        self._orders = {}  # pool -> (pass, order) of the pass asked for last

    @property
    def num_windows(self) -> int:
        """How many windows the data set has."""
        return int(self._ends[-1])

    def position(self, number: int) -> tuple[int, int]:
        """Returns episode and first frame of a window."""
        episode = int(np.searchsorted(self._ends, number, side="right"))
        return episode, int(number - (self._ends[episode - 1] if episode else 0))

    def numbers(self, batch: int) -> list[int]:
        """Returns the windows of a batch, of all processes together."""
        numbers = []
        for pool, (members, count) in enumerate(self._pools):
            for place in range(batch * count, (batch + 1) * count):
                order = self._order(pool, place // len(members))
                numbers.append(int(members[order[place % len(members)]]))
        return numbers

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Returns this process' share of a batch."""
        steps = self._draw_steps(number)[self._share] if self.spec.draws_steps else None
        return self.read(self.numbers(number)[self._share], steps)

    def read(self, numbers: list[int], steps: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Returns some windows as a batch.

        Args:
            numbers: which ones.
            steps: int32 (windows, shown), the steps of the horizon to show, ascending from 0. None:
                all. If a window ends its episode, its last entry is replaced by the last step.
        """
        windows = []
        for i, number in enumerate(numbers):
            episode, first = self.position(number)
            frames = np.arange(self.spec.length)
            if steps is not None:
                if self.dataset.terminations[episode][first + self.spec.length - 2]:
                    # The episode's end is always shown, because it would hardly ever be drawn.
                    steps[i, -1] = self.spec.horizon - 1
                frames = np.concatenate([frames[: self.spec.warmup], self.spec.warmup + steps[i]])
            windows.append(self._read_one(episode, first, frames))
        batch = {key: np.stack([window[key] for window in windows]) for key in windows[0]}
        return batch if steps is None else batch | {"steps": steps}

    def _read_one(self, episode, first, frames):
        window = self.dataset.read(episode, first, self.spec.length, self.shape, frames)
        if self.spec.controlled:
            shown = first + frames[len(frames) - self.spec.num_shown :]
            window["controlled"] = self.dataset.read_controlled(episode, shown, self.shape)
        return window

    def _draw_steps(self, batch):
        """Draws the steps of the horizon that each window shows, int32 (batch, shown)."""
        spec = self.spec
        rng = np.random.default_rng([self.seed, len(self._pools), batch])
        # Of exponential variables, each is the smallest with a probability proportional to its
        # rate. Step s, from 1, has rate 1 / s, because early errors spoil all later steps.
        times = rng.exponential(np.arange(1, spec.horizon + 1), (self.batch_size, spec.horizon))
        return np.sort(np.argsort(times, axis=1)[:, : spec.num_shown], axis=1).astype(np.int32)

    def _with_event(self, counts):
        """Returns the windows with a reward in time, and as one in eight those with an end.

        If there are no rewards, all windows take their place. If there are no ends, none do.
        """
        begin, end = self.spec.warmup - 1, self.spec.length - 1
        within = min(self.spec.reward_within, self.spec.horizon)
        rewarded = self._with_any(self.dataset.rewards, counts, begin, begin + within)
        ending = self._with_any(self.dataset.terminations, counts, begin, end)
        pool = rewarded if len(rewarded) else np.arange(self.num_windows)
        if len(ending):
            pool = np.concatenate([pool, np.tile(ending, -(-len(pool) // (7 * len(ending))))])
        return pool

    def _with_any(self, episodes, counts, begin, end):
        """Returns the windows that have a non-zero value in their steps `begin` to `end` - 1.

        Args:
            episodes: an array of each episode's steps.
            counts: how many windows start in each episode.
            begin, end: steps from a window's first frame.
        """
        numbers, first = [], 0
        for values, count in zip(episodes, counts, strict=True):
            sums = np.concatenate([[0], np.cumsum(values != 0)])
            start = np.arange(count)
            numbers.append(first + np.flatnonzero(sums[start + end] > sums[start + begin]))
            first += count
        return np.concatenate(numbers)

    def _order(self, pool, number):
        known, order = self._orders.get(pool, (None, None))
        if known != number:
            rng = np.random.default_rng([self.seed, pool, number])
            order = rng.permutation(len(self._pools[pool][0]))
            # This is one assignment, because another thread may be asking for another pass.
            self._orders[pool] = number, order
        return order


def _window_counts(dataset, length):
    """Returns how many windows of `length` frames start in each episode."""
    return np.maximum(dataset.lengths + 2 - length, 0)


def require_length(dataset: Dataset, length: int) -> None:
    """Raises InputError unless there is an episode of at least `length` frames."""
    longest = int(dataset.lengths.max()) + 1
    if longest < length:
        raise InputError(
            f"expected an episode of at least {length} frames in {dataset.directory}, the longest "
            f"has {longest}. Record more frames."
        )


def sample(
    dataset: Dataset, shape: tuple[int, int, int], spec: WindowSpec, count: int, seed: int = 0
) -> Windows:
    """Returns `count` windows drawn by the seed, as batch 0; all if there are fewer."""
    count = min(count, int(_window_counts(dataset, spec.length).sum()))
    return Windows(dataset, shape, spec, max(count, 1), seed)
