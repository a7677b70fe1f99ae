"""Writes a data set in Minari's HDF5 layout, whole or not at all.

`systems.record` and `systems.import_video` say what is written; `systems.dataset` reads it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from systems.episodes import ZLIB_LEVEL, Episode
from systems.files import refusals_explained, sync, workspace
from systems.metadata import FRAMES, METADATA, NO_OPS

# The version of Minari whose layout this is. Its readers refuse versions that they do not know.
_MINARI_VERSION = "0.5.4"


@contextlib.contextmanager
def new_data_set(directory: Path, overwrite: bool) -> Iterator[Path | None]:
    """Gives a directory to write into, which gets its name `directory` when the block ends.

    If another process is making the same data set, this one waits for it.

    Args:
        directory: of the data set's files. Its parent appears with it.
        overwrite: whether to replace a data set that is there already.

    Yields:
        a directory that does not exist yet; None if the data set is there already.

    Raises:
        InputError: the system refuses to write.
    """
    root = directory.parent
    if directory.is_dir() and not overwrite:
        yield None
        return
    with refusals_explained(root), workspace(root) as partial:
        if directory.is_dir() and not overwrite:
            yield None  # the process that held the lock before has made it
            return
        yield partial / "new" / "data"
        if overwrite and root.exists():
            root.rename(partial / "old")
        try:
            (partial / "new").rename(root)
        except OSError:
            # Without locks another process may have made it meanwhile, with the same bytes.
            if not directory.is_dir():
                raise
        sync(root.parent)


class EpisodesWriter:
    """Writes episodes, and then the metadata that go with them.

    Args:
        directory: where the files go, which does not exist yet.
        frame_shape: (height, width) of palette indices or (height, width, channels).
        first_action: the number that action 0 is written as.

    Attributes:
        returns: the sum of rewards of each episode.
        num_steps: of all episodes.
    """

    def __init__(self, directory: Path, frame_shape: tuple[int, ...], first_action: int = 0):
        directory.mkdir(parents=True)
        self._directory, self._shape, self._first = directory, frame_shape, first_action
        self._file = h5py.File(directory / FRAMES, "w")
        self.returns: list[float] = []
        self.num_steps = 0
        self._last_terminated = True

    def __enter__(self) -> EpisodesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, episode: Episode) -> None:
        """Writes the next episode."""
        index = len(self.returns)
        group = self._file.create_group(f"episode_{index}")
        group.attrs["id"] = index
        group.attrs["total_steps"] = len(episode)
        if episode.seed is not None:
            group.attrs["seed"] = episode.seed  # where Minari has it too
        if episode.no_ops is not None:
            group.attrs[NO_OPS] = episode.no_ops
        observations = group.create_dataset(
            "observations",
            shape=(len(episode.frames), *self._shape),
            dtype=np.uint8,
            chunks=(1, *self._shape),
            compression="gzip",
            compression_opts=ZLIB_LEVEL,
        )
        start = (0,) * len(self._shape)
        for t, frame in enumerate(episode.frames):
            observations.id.write_direct_chunk((t, *start), frame)
        ends = np.zeros(len(episode), bool)
        ends[-1] = True
        group["actions"] = np.array(episode.actions, np.int64) + self._first
        group["rewards"] = np.array(episode.rewards, np.float32)
        group["terminations"] = ends & episode.terminated
        group["truncations"] = ends & (not episode.terminated)
        self.returns.append(sum(episode.rewards))
        self.num_steps += len(episode)
        self._last_terminated = episode.terminated

    def finish(
        self, dataset_id: str, num_actions: int, packages: tuple[str, ...], **about: Any
    ) -> None:
        """Closes the file of frames and writes metadata.json.

        Args:
            dataset_id: the data set's name in Minari.
            num_actions: how many actions there are.
            packages: whose versions the metadata name.
            about: the other entries.
        """
        self._file.close()
        data_file, metadata_file = self._directory / FRAMES, self._directory / METADATA
        # The return of an episode that was cut says nothing about who played.
        complete = self.returns if self._last_terminated else self.returns[:-1]
        metadata = {
            "dataset_id": dataset_id,
            "minari_version": _MINARI_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": _box(self._shape),
            "action_space": _discrete(num_actions, self._first),
            "total_episodes": len(self.returns),
            "total_steps": self.num_steps,
            "dataset_size": round(data_file.stat().st_size / 1e6, 1),
            "mean_episode_return": float(np.mean(complete)) if complete else None,
            "versions": {name: importlib.metadata.version(name) for name in packages},
            **about,
        }
        metadata_file.write_text(json.dumps(metadata) + "\n")
        for path in (data_file, metadata_file, self._directory, self._directory.parent):
            sync(path)


def _box(shape: tuple[int, ...]) -> str:
    """Returns the space of uint8 frames as Minari writes it, with limits for each number."""
    low, high = np.zeros(shape, int), np.full(shape, 255)
    return json.dumps(
        {
            "type": "Box",
            "dtype": "uint8",
            "shape": shape,
            "low": low.tolist(),
            "high": high.tolist(),
        },
        separators=(",", ":"),
    )


def _discrete(num_actions: int, start: int) -> str:
    """Returns the space of actions as Minari writes it."""
    return json.dumps({"type": "Discrete", "dtype": "int64", "start": start, "n": num_actions})
