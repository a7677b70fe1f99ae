"""Reads data sets in Minari's HDF5 layout and cuts them into windows.

A data set is a directory with `metadata.json` and `main_data.hdf5`,
whose group `episode_N` holds

    observations   uint8 (T + 1, height, width) palette indices, or (T + 1, height, width, 3) RGB
    actions        int (T,); action t leads from observation t to t + 1
    rewards        float (T,); what action t earned
    terminations   bool (T,)

Beside them may lie what the player decides, `controlled.hdf5`, see `systems.control`.
"""

import functools
import hashlib
import json
import os
from pathlib import Path

import cv2
import h5py
import keras
import numpy as np

from systems.atari import game_name, resize
from systems.control import FILE as CONTROLLED
from systems.errors import InputError, one_line
from systems.record import directory_of_files
from utils.frame_cache import FrameCache

KEYS = ("observations", "actions", "rewards", "terminations")


class Dataset:
    """One data set on disk, read lazily: memory holds its actions and rewards and no frames.

    Args:
        directory: of metadata.json and main_data.hdf5, or its parent (Minari's own nesting).

    Raises:
        InputError: no data set, a damaged one, or one of another layout.
    """

    def __init__(self, directory: str | Path):
        self.directory = directory = directory_of_files(directory)
        self.path = directory / "main_data.hdf5"
        if not directory.exists():
            raise InputError(
                f"expected a data set in {directory.absolute()}, where there is none. Go to where "
                "this path is right, or name another (--dataset, dataset=, --training_data)."
            )
        try:
            self.metadata = json.loads((directory / "metadata.json").read_text())
            self._read_index()
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"expected a data set in Minari's layout (metadata.json and main_data.hdf5 with "
                f"{', '.join(KEYS)} per episode) in {directory}, but reading it failed: "
                f"{one_line(error)} Give another, or record it again: python -m systems.record "
                "--help"
            ) from error
        if not len(self.lengths):
            raise InputError(f"expected at least one episode, found none in {directory}")

    def _read_index(self):
        episodes = []
        with h5py.File(self.path) as file:
            for name in file:
                group = file[name]
                actions = group["actions"][:].astype(np.int32)
                frames, steps = group["observations"].shape[0], len(actions)
                if frames != steps + 1:
                    raise ValueError(
                        f"{name} has {steps} actions and so should have {steps + 1} observations, "
                        f"but has {frames}"
                    )
                rewards = group["rewards"][:].astype(np.float32)
                terminations = group["terminations"][:].astype(bool)
                number = int(name.rsplit("_", 1)[1])
                episodes.append((number, name, actions, rewards, terminations))
            episodes.sort()
            if episodes:
                self.frame_shape = file[episodes[0][1]]["observations"].shape[1:]
        self._names = [name for _, name, *_ in episodes]
        self.actions, self.rewards, self.terminations = (
            [episode[part] for episode in episodes] for part in (2, 3, 4)
        )
        self.lengths = np.array([len(rewards) for rewards in self.rewards], np.int64)
        self._caches = {}

    def keep_fitted(self, shape: tuple[int, int, int]) -> None:
        """From now on keeps what it has made of frames, and of what is controlled in them.

        For who reads the same frames many times, fitted to one preset's frame shape: of 32 windows
        with what the player decides, five frames of 84x84 each, 3 ms of a core are left of 40.
        """
        count = int(self.lengths.sum() + len(self.lengths))
        fitted = self.fit(np.zeros((1, *self.frame_shape), np.uint8), shape).shape[1:]
        for what, size in (("frames", fitted), ("controlled", shape[:2])):
            self._caches[what, shape] = FrameCache(self.directory, count, size)

    def _kept(self, what, shape, episode, numbers, make):
        """Some of an episode's frames: made, or those that were before."""
        cache = self._caches.get((what, shape))
        if cache is None:
            return make(numbers)
        # The episodes' frames one after the other: each has one more than steps.
        first = int(self.lengths[:episode].sum()) + episode
        return cache.read(first + numbers, lambda missing: make(missing - first))

    @functools.cached_property
    def _file(self):
        # Opened at the first read: an open handle does not survive a fork into a worker.
        return h5py.File(self.path)

    @functools.cached_property
    def _controlled_file(self):
        try:
            return h5py.File(self.directory / CONTROLLED)
        except OSError as error:
            raise self._controlled_unread(error) from error

    def _controlled_unread(self, error):
        return InputError(
            f"expected what the player decides in {self.directory / CONTROLLED}, but reading "
            f"it failed: {one_line(error)} Remove it if it is there, then make it: "
            f"python -m systems.control {self.directory}"
        )

    def __getstate__(self):
        files = ("_file", "_controlled_file")
        state = {key: value for key, value in self.__dict__.items() if key not in files}
        return state | {"_caches": {}}

    def fingerprint(self) -> str:
        """Tells this data set from others, wherever it lies: by what was played, and how."""
        content = [json.dumps(self.metadata, sort_keys=True).encode(), self.lengths.tobytes()]
        content += [rewards.tobytes() for rewards in self.rewards]
        return hashlib.sha256(b"".join(content)).hexdigest()[:16]

    @property
    def game(self) -> str | None:
        """The game's name; None where the data set does not tell."""
        if "game" in self.metadata:
            return self.metadata["game"]
        spec = self.metadata.get("env_spec")
        spec = json.loads(spec) if isinstance(spec, str) else spec
        return game_name(spec["id"]) if spec else None

    @property
    def action_meanings(self) -> list[str]:
        """What each action is called, in order."""
        if "action_meanings" in self.metadata:
            return self.metadata["action_meanings"]
        space = self.metadata["action_space"]
        space = json.loads(space) if isinstance(space, str) else space
        return [str(action) for action in range(int(space["n"]))]

    def palette(self) -> np.ndarray | None:
        """RGB of each palette index, uint8 (256, 3); None where the observations are RGB."""
        return self._table("palette")

    def grey_palette(self) -> np.ndarray | None:
        """Grey level of each palette index, uint8 (256,); None where the observations are RGB."""
        return self._table("grey_palette")

    def _table(self, key):
        if key not in self.metadata or len(self.frame_shape) == 3:
            return None
        table = self.metadata[key]
        seen = [index for index, entry in enumerate(table) if entry is not None]
        # An index that this data set never shows takes the colour of its nearest neighbour.
        nearest = [min(seen, key=lambda known: abs(known - index)) for index in range(256)]
        return np.array([table[index] for index in nearest], np.uint8)

    def read(self, episode: int, start: int, count: int, shape, wanted=None):
        """A run of `count` frames, fitted to a preset's frame shape, with all that lies between.

        Args:
            episode, start: where it begins.
            count: number of frames; actions, rewards and terminations are one fewer.
            shape: (height, width, channels) of the preset. One channel is grey. Frames of another
                size (games of 214 to 250 rows, or the 84x84 preset) are resized by area. Palette
                indices that fit are left as they are, (count, height, width), for the model to
                look up: a third of the bytes.
            wanted: which of the run's frames are read and returned, by their numbers from 0; None:
                all of them.

        Returns:
            dict of frames uint8, actions int32, rewards float32, terminations bool.
        """
        steps = slice(start, start + count - 1)
        numbers = start + (np.arange(count) if wanted is None else np.asarray(wanted))
        try:
            frames = self._kept(
                "frames",
                shape,
                episode,
                numbers,
                lambda some: self.fit(self._stored(episode, some), shape),
            )
        except OSError as error:
            raise InputError(
                f"expected frames {start} to {start + count - 1} of {self._names[episode]} in "
                f"{self.path}, but reading failed: {one_line(error)} Record the data set again."
            ) from error
        return {
            "frames": frames,
            "actions": self.actions[episode][steps],
            "rewards": self.rewards[episode][steps],
            "terminations": self.terminations[episode][steps],
        }

    def _stored(self, episode, numbers):
        """Some of an episode's frames as they were recorded."""
        frames = self._file[self._names[episode]]["observations"]
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first == len(numbers) - 1:  # read as one, in half the time
            return frames[first : last + 1]
        return np.stack([frames[number] for number in numbers])

    def read_controlled(self, episode: int, frames, shape) -> np.ndarray:
        """How far the player decides the pixels of some frames, fitted to a preset's frame shape.

        Args:
            episode: where the frames are.
            frames: their numbers.
            shape: (height, width, channels) of the preset.

        Returns:
            uint8 (frames, height, width), 255 where all of a pixel's area is controlled.
        """
        try:
            return self._kept(
                "controlled",
                shape,
                episode,
                np.asarray(frames),
                lambda some: self._make_controlled(episode, some, shape),
            )
        except (OSError, KeyError) as error:
            raise self._controlled_unread(error) from error

    def _make_controlled(self, episode, frames, shape):
        bits = self._controlled_file[self._names[episode]]
        height, width = self.frame_shape[:2]
        found = np.empty((len(frames), *shape[:2]), np.uint8)
        for frame, out in zip(frames, found, strict=True):
            whole = np.unpackbits(bits[frame], axis=1, count=width) * np.uint8(255)
            out[:] = resize(whole.reshape(height, width), (*shape[:2], 1))[..., 0]
        return found

    @functools.cached_property
    def _tables(self):
        return self.palette(), self.grey_palette()

    def fit(self, frames: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Frames as they are stored, fitted to a preset's frame shape as `read` has it."""
        height, width, channels = shape
        same_size = frames.shape[1:3] == (height, width)
        palette, grey_palette = self._tables
        indices = frames.ndim == 3
        if indices and channels == 3 and same_size:
            return frames
        fitted = np.empty((len(frames), *shape), np.uint8)
        for frame, out in zip(frames, fitted, strict=True):
            if indices:
                frame = palette[frame] if channels == 3 else cv2.LUT(frame, grey_palette)
            elif channels == 1:
                frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            out[:] = resize(frame, shape)
        return fitted

    def frame_statistics(self, shape, samples: int = 1000) -> tuple[np.ndarray, float]:
        """Mean frame (height, width, channels) and root mean square deviation of pixels from it.

        In grey levels, float32, from at most `samples` frames spread evenly over the data set.
        """
        ends = np.cumsum(self.lengths)
        positions = np.unique(np.linspace(0, ends[-1] - 1, samples).astype(np.int64))
        total, squares = np.zeros(shape), 0.0
        for position in positions:
            episode = int(np.searchsorted(ends, position, side="right"))
            start = int(position - ends[episode] + self.lengths[episode])
            frame = self.read(episode, start, 1, shape)["frames"][0]
            if frame.ndim == 2:
                frame = self._tables[0][frame]
            total += frame
            squares += np.square(frame, dtype=np.float32).mean(dtype=np.float64)
        mean = total / len(positions)
        variance = squares / len(positions) - float(np.square(mean).mean())
        # At least one level: a picture that never changes has no deviation to divide by.
        return mean.astype(np.float32), max(variance, 1.0) ** 0.5


class Windows(keras.utils.PyDataset):
    """Batches of windows: runs of `length` frames that lie within one episode.

    Batch n is a function of (seed, n) alone, so a run resumed at batch n goes on as if it had never
    stopped. Each pass over the data has its own order, drawn from (seed, pass).

    Args:
        dataset: where the windows are cut from.
        shape: the preset's (height, width, channels).
        length: frames a window.
        batch_size: windows a batch.
        seed: of the order.
        first_batch: number of the first batch to be yielded.
        num_batches: how many are yielded.
        process, num_processes: which share of each batch is yielded, of how many.
        predictions, horizon: if given, only so many of each window's last `horizon` frames, drawn
            anew for each window and the first more often than the last, are yielded after the
            frames before them; `steps`, int32 (batch, predictions), says which of them, from 0.
            The last is always among them where the episode ends with it.
        reward_steps: if not 0, half of each batch's windows are drawn from those with something to
            tell: a non-zero reward in the first `reward_steps` of their last `horizon` (without
            that, in their last `reward_steps`), or in one of eight the episode's end. Where the
            data has no rewards, or no ends, any windows take their place.
        controlled_steps: if not 0, `controlled`, uint8 (batch, controlled_steps, height, width),
            is of the last so many frames yielded what `Dataset.read_controlled` returns.

    Attributes:
        error: the InputError that reading has ended with, or None.

    Yields:
        a dict as `model.predictor.FramePredictor` wants it.
    """

    def __init__(
        self,
        dataset: Dataset,
        shape: tuple[int, int, int],
        length: int,
        batch_size: int,
        seed: int,
        *,
        first_batch: int = 0,
        num_batches: int = 1,
        process: int = 0,
        num_processes: int = 1,
        predictions: int = 0,
        horizon: int = 0,
        reward_steps: int = 0,
        controlled_steps: int = 0,
    ):
        # Two threads at least: with one, Keras reads through tf.data and its autotuner, whose
        # thread may sleep on for up to a minute after the last batch while `fit` waits for it.
        super().__init__(workers=min(max(2, os.cpu_count() or 1), 16))
        self.dataset = dataset
        self.shape = shape
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.first_batch = first_batch
        share = batch_size // num_processes
        self._share = slice(process * share, (process + 1) * share)
        self._num_batches = num_batches
        self._predictions, self._horizon = predictions, horizon
        self._controlled_steps = controlled_steps
        self.error: InputError | None = None
        counts = _window_counts(dataset, length)
        self._ends = np.cumsum(counts)
        require_length(dataset, length)
        everything = np.arange(self._ends[-1])
        self._orders = {}  # kind of pool -> (pass, order) of the last pass asked for
        # Pools of window numbers, and how many of each batch come from each.
        self._pools = [(everything, batch_size)]
        if reward_steps:
            half = batch_size // 2
            telling = self._telling(counts, reward_steps)
            self._pools = [(everything, batch_size - half), (telling, half)]

    @property
    def num_batches(self):
        """How many batches there are."""
        return self._num_batches

    @property
    def num_windows(self):
        """How many windows there are to choose from."""
        return int(self._ends[-1])

    def _telling(self, counts, steps):
        """Windows with a reward in those steps, and those with an end, as one of eight."""
        end = self.length - 1
        begin = end - (self._horizon or steps)
        rewarded = self._with_any(self.dataset.rewards, counts, begin, begin + steps)
        ending = self._with_any(self.dataset.terminations, counts, begin, end)
        pool = rewarded if len(rewarded) else np.arange(self._ends[-1])
        if len(ending):
            pool = np.concatenate([pool, np.tile(ending, -(-len(pool) // (7 * len(ending))))])
        return pool

    def _with_any(self, episodes, counts, begin, end):
        """Windows in whose steps from `begin` to `end` an array of each episode is not zero."""
        numbers = []
        first = 0
        for values, count in zip(episodes, counts, strict=True):
            sums = np.concatenate([[0], np.cumsum(values != 0)])
            start = np.arange(count)
            numbers.append(first + np.flatnonzero(sums[start + end] > sums[start + begin]))
            first += count
        return np.concatenate(numbers)

    def release(self) -> None:
        """Lets go of the window numbers, 16 bytes for each window there is."""
        self._pools, self._orders = [], {}

    def window(self, number: int) -> tuple[int, int]:
        """Episode and first frame of a window, by its number."""
        episode = int(np.searchsorted(self._ends, number, side="right"))
        return episode, int(number - (self._ends[episode - 1] if episode else 0))

    def numbers(self, batch: int) -> list[int]:
        """The numbers of a batch's windows."""
        chosen = []
        for kind, (pool, count) in enumerate(self._pools):
            for position in range(batch * count, (batch + 1) * count):
                order = self._order(kind, position // len(pool))
                chosen.append(int(pool[order[position % len(pool)]]))
        return chosen

    def _order(self, kind, epoch):
        known, order = self._orders.get(kind, (None, None))
        if known != epoch:
            rng = np.random.default_rng([self.seed, kind, epoch])
            order = rng.permutation(len(self._pools[kind][0]))
            # One assignment: another thread may be asking for another pass.
            self._orders[kind] = epoch, order
        return order

    def __getitem__(self, index):
        try:
            return self._batch(self.first_batch + index)
        except InputError as error:
            self.error = error
            raise

    def _batch(self, batch):
        numbers = self.numbers(batch)[self._share]
        wanted, steps = [None] * len(numbers), {}
        if self._predictions:
            drawn = self._draw_steps(batch)[self._share]
            known = self.length - self._horizon
            # An end is always a window's last step, which would hardly ever be drawn.
            for number, row in zip(numbers, drawn, strict=True):
                episode, first = self.window(number)
                if self.dataset.terminations[episode][first + self.length - 2]:
                    row[-1] = self._horizon - 1
            wanted = [np.concatenate([np.arange(known), known + row]) for row in drawn]
            steps = {"steps": drawn}
        windows = [
            self._read(number, frames) for number, frames in zip(numbers, wanted, strict=True)
        ]
        return {key: np.stack([window[key] for window in windows]) for key in windows[0]} | steps

    def _read(self, number, wanted):
        episode, first = self.window(number)
        window = self.dataset.read(episode, first, self.length, self.shape, wanted)
        if self._controlled_steps:
            frames = np.arange(self.length) if wanted is None else wanted
            last = first + frames[-self._controlled_steps :]
            window["controlled"] = self.dataset.read_controlled(episode, last, self.shape)
        return window

    def _draw_steps(self, batch):
        """Which of its last frames each window of a batch shows, int32 (batch, predictions)."""
        rng = np.random.default_rng([self.seed, len(self._pools), batch])
        # The smallest of exponential variables are drawn in proportion to their rates, without
        # putting back: step s, from 1, has 1 / s. What goes wrong early is wrong ever after.
        drawn = rng.exponential(np.arange(1, self._horizon + 1), (self.batch_size, self._horizon))
        first = np.argsort(drawn, axis=1)[:, : self._predictions]
        return np.sort(first, axis=1).astype(np.int32)


def _window_counts(dataset, length):
    """How many windows of `length` frames start in each episode."""
    return np.maximum(dataset.lengths + 2 - length, 0)


def require_length(dataset: Dataset, length: int) -> None:
    """Raises InputError unless there is an episode of at least `length` frames."""
    longest = int(dataset.lengths.max()) + 1
    if longest < length:
        raise InputError(
            f"expected an episode of at least {length} frames in {dataset.directory}, the longest "
            f"has {longest}. Record more frames."
        )


def held_out_windows(
    dataset: Dataset, shape, length: int, count: int, seed: int = 0, **options
) -> Windows:
    """`count` windows fixed by the seed, as its one batch; fewer where the data has fewer."""
    count = min(count, int(_window_counts(dataset, length).sum()))
    return Windows(dataset, shape, length, max(count, 1), seed, **options)


def held_out(dataset: Dataset, shape, length: int, count: int, seed: int = 0, **options) -> dict:
    """The batch of `held_out_windows`."""
    return held_out_windows(dataset, shape, length, count, seed, **options)[0]


def find_dataset(directory: str | Path, game: str, num_actions: int | None = None) -> Dataset:
    """Opens a data set and checks that it is of this game and, if given, this action set.

    Raises:
        InputError: it is not.
    """
    dataset = Dataset(directory)
    if dataset.game not in (None, game):
        raise InputError(
            f"expected a data set of {game} in {dataset.directory}, but it is of {dataset.game}. "
            f"Name that game (in training --atari_game={dataset.game}) or give another directory."
        )
    if num_actions is not None and len(dataset.action_meanings) != num_actions:
        raise InputError(
            f"expected a data set with {num_actions} actions in {dataset.directory}, but it has "
            f"{len(dataset.action_meanings)}: {', '.join(dataset.action_meanings)}."
        )
    return dataset
