"""Reads data sets in Minari's HDF5 layout.

A data set is a directory with `metadata.json` and `main_data.hdf5`, whose group `episode_N` holds

    observations   uint8 (T + 1, height, width) palette indices, or any image that
                   `systems.observations` understands
    actions        int (T,); action t leads from observation t to observation t + 1
    rewards        float (T,) of the actions
    terminations   bool (T,); true where the game was over after the action
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np

from systems.emulation import emulation_of
from systems.errors import InputError, one_line
from systems.frame_cache import FrameCache
from systems.images import in_channels, resize
from systems.metadata import (
    FRAMES,
    METADATA,
    NO_OPS,
    action_meanings_of,
    directory_of_files,
    environment_of,
    game_of,
    read_metadata,
)
from systems.observations import understand
from systems.palette import complete, palette
from systems.spaces import SpaceError, parsed
from systems.steps import STEP_KEYS, first_action, read_steps

CONTROLLED = "controlled.hdf5"  # made by `systems.controlled`
KEYS = ("observations", *STEP_KEYS)


class Dataset:
    """One data set on disk. Actions and rewards are in memory; frames are read when needed.

    Args:
        directory: of metadata.json and main_data.hdf5, or its parent (Minari's own nesting).
        observation_key: which entry of Dict observations is the image. None: the only one.

    Attributes:
        directory: where the files lie.
        path: of main_data.hdf5.
        metadata: what metadata.json says.
        game: the game's name; None if the metadata names none.
        action_meanings: what each action is called, in order.
        frame_skip, pooled_frames, emulator: how the emulator was set, see
            `systems.emulation.emulation_of`.
        environment: what `systems.record` played, see `systems.metadata.environment_of`.
        names: of the episodes' groups, in order.
        no_ops: of each episode, the emulated frames of nothing before its first frame.
        actions, rewards, terminations: of each episode: int32 (T,), float32 (T,), bool (T,).
        lengths: int64 (episodes,), the steps T of each episode.
        observations: what the observations are and how frames are made of them.
        frame_shape: (height, width) of palette indices, (height, width, 1) of grey frames or
            (height, width, 3) of RGB.

    Raises:
        InputError: there is no data set, it is damaged, or it has another layout.
    """

    def __init__(self, directory: str | Path, observation_key: str | None = None):
        self.directory = directory = directory_of_files(directory)
        self.path = directory / FRAMES
        if not directory.exists():
            raise InputError(
                f"expected a data set in {directory.absolute()}, where there is none. Run this "
                "where the path is right, or name another (--dataset, dataset=, --training_data)."
            )
        try:
            self.metadata = read_metadata(directory / METADATA)
            about = parsed(self.metadata)
            start = first_action(about.get("action_space"))
            self.game = game_of(about)
            self.action_meanings = action_meanings_of(about)
            self.frame_skip, self.pooled_frames, self.emulator = emulation_of(about)
            self.environment = environment_of(about)
            self._read_index(about, start, observation_key)
        except InputError:
            raise
        except SpaceError as error:
            raise InputError(f"{error} The data set is {directory}.") from error
        except KeyError as error:
            raise self._damaged(f"{one_line(error)} is missing.") from error
        except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise self._damaged(one_line(error)) from error
        self._observation_key = observation_key
        self._caches = {}

    def _read_index(self, about, start, observation_key):
        episodes = []
        with h5py.File(self.path) as file:
            for name in file:
                number = re.fullmatch(r"episode_(\d+)", name)
                if number is None:
                    raise ValueError(f"{name} is no episode's name (episode_0, episode_1, ...).")
                observations = understand(file[name], about, observation_key)
                count = len(file[name][observations.path]) - 1
                steps = read_steps(name, file[name], count, start, len(self.action_meanings))
                about_it = int(number[1]), name, int(file[name].attrs.get(NO_OPS, 0))
                episodes.append((*about_it, *steps, observations))
        if not episodes:
            raise ValueError("it has no episode.")
        columns = zip(*sorted(episodes, key=lambda episode: episode[0]), strict=True)
        _, self.names, self.no_ops, self.actions, self.rewards, self.terminations, kinds = (
            list(column) for column in columns
        )
        self.lengths = np.array([len(actions) for actions in self.actions], np.int64)
        # Values up to 1 alone may also be those of dark frames, as other episodes tell.
        self.observations = min(kinds, key=lambda kind: kind.unit)
        self.frame_shape = self.observations.frame_shape
        stored = {kind.stored for kind in kinds}
        if len(stored) > 1:
            raise ValueError(f"its episodes have frames of several shapes: {stored}.")

    def _damaged(self, reason):
        return InputError(
            f"expected a data set in Minari's layout ({METADATA} and {FRAMES} with "
            f"{', '.join(KEYS)} per episode) in {self.directory}, but reading it failed: "
            f"{reason.rstrip('.')}. Name another, or record it: python -m systems.record --help"
        )

    def keep_fitted(self, shape: tuple[int, int, int]) -> None:
        """Keeps fitted frames and controlled pixels on the disk from now on.

        Training reads the same frames many times, ten times as fast from the cache.
        """
        count = int(self.lengths.sum() + len(self.lengths))
        fitted = self.fit(np.zeros((1, *self.frame_shape), np.uint8), shape).shape[1:]
        for what, size in (("frames", fitted), ("controlled", shape[:2])):
            self._caches[what, shape] = FrameCache(self.directory, count, size)

    def _kept(self, what, shape, episode, numbers, make):
        """Returns some of an episode's frames, from the cache if there is one."""
        cache = self._caches.get((what, shape))
        if cache is None:
            return make(numbers)
        # The cache numbers the frames of all episodes in one row. An episode has T + 1 frames.
        first = int(self.lengths[:episode].sum()) + episode
        return cache.read(first + numbers, lambda missing: make(missing - first))

    @functools.cached_property
    def _file(self):
        return h5py.File(self.path)  # at the first read: no open handle survives a fork

    @functools.cached_property
    def _controlled_file(self):
        try:
            return h5py.File(self.directory / CONTROLLED)
        except OSError as error:
            raise self._controlled_unread(error) from error

    def _controlled_unread(self, error):
        return InputError(
            f"expected the controlled pixels in {self.directory / CONTROLLED}, but reading "
            f"it failed: {one_line(error)} Remove the file if it is there, then make it: "
            f"python -m systems.controlled --dataset {self.directory}"
        )

    def __getstate__(self):
        state = {k: v for k, v in self.__dict__.items() if not k.endswith("_file")}
        return state | {"_caches": {}}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of metadata, episodes and `observation_key`, wherever the data set lies."""
        content = hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode())
        with open(self.path, "rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
        if self._observation_key:
            content.update(self._observation_key.encode())
        return content.hexdigest()[:16]

    def palette(self) -> np.ndarray | None:
        """Returns the RGB of each palette index, uint8 (256, 3); None if there are none."""
        return palette([self])

    def grey_palette(self) -> np.ndarray | None:
        """Returns the grey level of each palette index, uint8 (256,); None if there are none."""
        table = self.known_colours("grey_palette")
        return None if table is None else complete(table)

    def known_colours(self, key: str = "palette") -> list | None:
        """Returns 256 entries of a palette in metadata.json; None if there are none.

        The entry of an index that no frame shows is None.
        """
        return None if len(self.frame_shape) == 3 else self.metadata[key]

    def read(
        self,
        episode: int,
        start: int,
        count: int,
        shape: tuple[int, int, int],
        wanted: Sequence[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns a run of `count` frames, fitted to a preset, with the steps between them.

        Args:
            episode, start: where it begins.
            count: number of frames. There is one action, reward and termination fewer.
            shape: (height, width, channels) of the preset; one channel is grey. See `fit`.
            wanted: which of the run's frames to read, ascending from 0. None: all of them.

        Returns:
            dict of frames uint8, actions int32, rewards float32, terminations bool.

        Raises:
            InputError: the frames cannot be read.
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
        except (OSError, ValueError) as error:
            raise InputError(
                f"expected frames {start} to {start + count - 1} of {self.names[episode]} in "
                f"{self.path}, but reading failed: {one_line(error)} Record the data set again."
            ) from error
        return {
            "frames": frames,
            "actions": self.actions[episode][steps],
            "rewards": self.rewards[episode][steps],
            "terminations": self.terminations[episode][steps],
        }

    def _stored(self, episode, numbers):
        """Returns some of an episode's frames, not fitted to anything."""
        return self.observations.read(self._file[self.names[episode]], numbers)

    def read_controlled(self, episode: int, frames, shape) -> np.ndarray:
        """Returns the controlled pixels of some frames, fitted to a preset.

        Args:
            episode: where the frames are.
            frames: their numbers.
            shape: (height, width, channels) of the preset.

        Returns:
            uint8 (frames, height, width), the controlled share of a pixel's area times 255.

        Raises:
            InputError: the controlled pixels cannot be read.
        """
        try:
            return self._kept(
                "controlled",
                shape,
                episode,
                np.asarray(frames),
                lambda some: self._make_controlled(episode, some, shape),
            )
        except InputError:
            raise
        except (OSError, LookupError, ValueError) as error:
            raise self._controlled_unread(error) from error

    def _make_controlled(self, episode, frames, shape):
        bits = self._controlled_file[self.names[episode]]
        height, width = self.frame_shape[:2]
        controlled = np.empty((len(frames), *shape[:2]), np.uint8)
        for frame, out in zip(frames, controlled, strict=True):
            whole = np.unpackbits(bits[frame], axis=1, count=width) * np.uint8(255)
            out[:] = resize(whole.reshape(height, width), (*shape[:2], 1))[..., 0]
        return controlled

    @functools.cached_property
    def _tables(self):
        return self.palette(), self.grey_palette()

    def fit(self, frames: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns stored frames, fitted to a preset's (height, width, channels).

        Frames of another size are resized by area. Palette indices of the right size stay (frames,
        height, width), because the model looks the colours up itself: a third of the bytes.
        """
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
            else:
                frame = in_channels(frame, channels)
            out[:] = resize(frame, shape)
        return fitted

    def frame_statistics(self, shape, samples: int = 1000) -> tuple[np.ndarray, float]:
        """Returns the mean frame and the root mean square deviation of pixels from it.

        Args:
            shape: (height, width, channels) of the preset.
            samples: how many frames are read at most, spread evenly over the data set.

        Returns:
            float32 (height, width, channels) and a number, both in levels from 0 to 255.
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
        # At least one level, because the deviation of frames that never change would be 0.
        return mean.astype(np.float32), max(variance, 1.0) ** 0.5


def find_dataset(
    directory: str | Path,
    game: str,
    num_actions: int | None = None,
    observation_key: str | None = None,
) -> Dataset:
    """Opens a data set and checks its game and its number of actions.

    Args:
        directory: see `Dataset`.
        game: the canonical name of the game.
        num_actions: how many actions there should be; None: any number.
        observation_key: see `Dataset`.

    Raises:
        InputError: there is no such data set, or it has another game or number of actions.
    """
    dataset = Dataset(directory, observation_key)
    if dataset.game not in (None, game):
        raise InputError(
            f"expected a data set of {game} in {dataset.directory}, but it is of {dataset.game}. "
            f"Name that game (in training --atari_game={dataset.game}) or another directory."
        )
    if num_actions is not None and len(dataset.action_meanings) != num_actions:
        raise InputError(
            f"expected a data set with {num_actions} actions in {dataset.directory}, but it has "
            f"{len(dataset.action_meanings)}: {', '.join(dataset.action_meanings)}. Name another."
        )
    return dataset
