"""Records a data set: episodes of one game, played by one policy.

A data set is a directory in the layout of Minari (https://minari.farama.org, HDF5 storage):

    <data_path>/<game>/<policy>-<num_frames>-seed<seed>-v1/data/
        main_data.hdf5      for each episode i, T steps long, a group "episode_<i>" with
                                observations  [T + 1, H, W] uint8 palette indices
                                actions       [T] int64 indices into the action meanings
                                rewards       [T] float32 points of the game's score
                                terminations  [T] bool, true where the game was over
                                truncations   [T] bool, true where the episode was cut off
        metadata.json       what Minari needs, how the episodes were played, and the palettes

`actions[t]`, chosen at `observations[t]`, earned `rewards[t]` and led to `observations[t + 1]`.
The directory appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame, game_name
from systems.episodes import ZLIB_LEVEL, Colour, Episode, play_episodes
from systems.errors import InputError, exit_on_input_error
from systems.policies import POLICIES, LookaheadPolicy, make_policy, policy_name

# The version of Minari whose layout this is; its readers refuse versions they do not know.
_MINARI_VERSION = "0.5.4"

# One worker for each core; many more than eight would wait for the one process that writes.
DEFAULT_NUM_WORKERS = min(os.cpu_count() or 1, 8)


def directory_of_files(directory: str | Path) -> Path:
    """Where a data set's files lie: as given, or in `data` below, Minari's own nesting."""
    nested = Path(directory) / "data"
    return nested if (nested / "main_data.hdf5").exists() else Path(directory)


def dataset_directory(
    data_path: str | Path, game: str, policy: str, num_frames: int, seed: int
) -> Path:
    """Returns where `record` puts a data set: `<data_path>/<name in Minari>/data`.

    Minari finds it by that name where the environment variable MINARI_DATASETS_PATH is
    `data_path`.
    """
    return Path(data_path, _minari_name(game, policy, num_frames, seed), "data")


def _minari_name(game: str, policy: str, num_frames: int, seed: int) -> str:
    return f"{game_name(game)}/{policy}-{num_frames}-seed{seed}-v1"


def record(
    game: str,
    policy: str,
    num_frames: int,
    seed: int,
    data_path: str | Path,
    num_workers: int = DEFAULT_NUM_WORKERS,
    progress: bool = True,
    overwrite: bool = False,
    epsilon: float | None = None,
) -> Path:
    """Records a data set, or finds that it is there already.

    The same arguments give the same bytes, whatever the number of workers. If another process is
    recording the same data set, this one waits for it.

    Args:
        game: any name of the game that `systems.atari.game_name` knows.
        policy: who plays, a name in `systems.policies.POLICIES`.
        num_frames: the number of steps over all episodes, at least 1; the last episode is cut to
            fit.
        seed: what every random choice depends on, at least 0.
        data_path: where all data sets lie.
        num_workers: the number of processes that play, at least 1.
        progress: whether to show a progress bar on stderr.
        overwrite: whether to record again, and replace, a data set that is there already.
        epsilon: how often `lookahead` acts at random; None for its own 0.3.

    Returns:
        The data set's directory, which is `dataset_directory` of the same arguments and what
        `policy_name` calls the policy.

    Raises:
        InputError: if an argument cannot be used or the data set cannot be written.
        RuntimeError: if a worker process dies.
    """
    if num_frames < 1:
        raise InputError(f"expected num_frames to be at least 1, received {num_frames}")
    if num_workers < 1:
        raise InputError(f"expected num_workers to be at least 1, received {num_workers}")
    if seed < 0:
        raise InputError(f"expected seed to be at least 0, received {seed}")
    policy = policy_name(policy, epsilon)

    directory = dataset_directory(data_path, game, policy, num_frames, seed)
    if os.path.isdir(directory) and not overwrite:
        return directory
    root = directory.parent
    partial = root.with_name(f".partial-{root.name}")
    with write_errors_explained(root), locked_directory(partial) as workspace:
        if directory.is_dir() and not overwrite:
            return directory  # from the process that held the lock before
        _write_data_set(
            workspace / "new" / "data", game, policy, num_frames, seed, num_workers, progress
        )
        if overwrite and root.exists():
            root.rename(workspace / "old")
        (workspace / "new").rename(root)
        _sync(root.parent)
    return directory


@contextlib.contextmanager
def write_errors_explained(root: Path, else_do: str = "choose another data path") -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 raises either, at the write or only when the file is closed, with a page of text.
        from_hdf5 = re.search(r"error message = '(.+?)'", str(error))
        if from_hdf5 is None and not isinstance(error, OSError):
            raise
        reason = from_hdf5[1] if from_hdf5 else error.strerror or error
        raise InputError(
            f"cannot write {root}: {reason}; nothing was kept. "
            f"Check the disk's free space and permissions, or {else_do}"
        ) from error


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[Path]:
    """Makes an empty directory that no other process uses, and removes it in the end.

    The lock ends with the process, however that ends: what a killed process leaves behind is
    found unlocked, and cleared, by the next.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed by its owner just now
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that is using {path}", file=sys.stderr)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                break  # a file system without locks
            # The owner that was waited for has removed what the descriptor refers to.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                break
            os.close(descriptor)
    try:
        for leftover in path.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _write_data_set(
    directory: Path,
    game: str,
    policy: str,
    num_frames: int,
    seed: int,
    num_workers: int,
    progress: bool,
) -> None:
    """Plays, and writes both files of a data set into `directory`, which does not exist yet."""
    directory.mkdir(parents=True)
    data_file, metadata_file = directory / "main_data.hdf5", directory / "metadata.json"
    emulator = AtariGame(game)
    returns: list[float] = []
    colours: list[Colour] = []
    with (
        tqdm(desc=emulator.name, total=num_frames, unit=" frames", disable=not progress) as bar,
        contextlib.closing(
            play_episodes(
                emulator.name,
                policy,
                seed,
                num_frames,
                num_workers,
                on_progress=lambda played: bar.update(played - bar.n),
            )
        ) as episodes,
        h5py.File(data_file, "w") as file,
    ):
        for index, episode in enumerate(episodes):
            _write_episode(file, index, episode, emulator.screen_shape)
            returns.append(sum(episode.rewards))
            colours += episode.colours
    # The return of an episode that was cut to fit says nothing about the policy.
    complete_returns = returns if episode.terminated else returns[:-1]
    rgb, grey = _palettes(colours)
    metadata = {
        "dataset_id": _minari_name(game, policy, num_frames, seed),
        "minari_version": _MINARI_VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": _box(emulator.screen_shape),
        "action_space": _discrete(emulator.num_actions),
        "total_episodes": len(returns),
        "total_steps": num_frames,
        "dataset_size": round(data_file.stat().st_size / 1e6, 1),
        "game": emulator.name,
        "policy": policy,
        "policy_settings": make_policy(policy, emulator, np.random.default_rng(seed)).settings,
        "seed": seed,
        "frame_skip": emulator.frame_skip,
        "pooled_frames": emulator.pooled_frames,
        "repeat_action_probability": emulator.repeat_action_probability,
        "max_episode_frames": emulator.max_episode_frames,
        "action_meanings": emulator.action_meanings,
        "mean_episode_return": float(np.mean(complete_returns)) if complete_returns else None,
        "versions": {
            name: importlib.metadata.version(name) for name in ("ale-py", "numpy", "h5py")
        },
        "palette": rgb,
        "grey_palette": grey,
    }
    metadata_file.write_text(json.dumps(metadata) + "\n")
    for path in (data_file, metadata_file, directory, directory.parent):
        _sync(path)


def _write_episode(
    file: h5py.File, index: int, episode: Episode, screen_shape: tuple[int, int]
) -> None:
    group = file.create_group(f"episode_{index}")
    group.attrs["id"] = index
    group.attrs["total_steps"] = len(episode)
    observations = group.create_dataset(
        "observations",
        shape=(len(episode.frames), *screen_shape),
        dtype=np.uint8,
        chunks=(1, *screen_shape),
        compression="gzip",
        compression_opts=ZLIB_LEVEL,
    )
    for t, frame in enumerate(episode.frames):
        observations.id.write_direct_chunk((t, 0, 0), frame)
    ends = np.zeros(len(episode), bool)
    ends[-1] = True
    group["actions"] = np.array(episode.actions, np.int64)
    group["rewards"] = np.array(episode.rewards, np.float32)
    group["terminations"] = ends & episode.terminated
    group["truncations"] = ends & (not episode.terminated)


def _palettes(
    colours: Iterable[Colour],
) -> tuple[list[tuple[int, int, int] | None], list[int | None]]:
    """Returns the tables, 256 entries each, from palette index to RGB and to grey.

    The entry of an index that no frame shows is None.
    """
    looks: dict[int, tuple[tuple[int, int, int], int]] = {}
    for colour in colours:
        look = (colour.rgb, colour.grey)
        if looks.setdefault(colour.index, look) != look:
            raise RuntimeError(
                f"expected palette index {colour.index} to look like {looks[colour.index]} in "
                f"every episode, received {look}"
            )
    nothing = (None, None)
    rgb, grey = zip(*(looks.get(index, nothing) for index in range(256)), strict=True)
    return list(rgb), list(grey)


def _box(shape: tuple[int, int]) -> str:
    """Returns the space of uint8 screens as Minari writes it, limits pixel by pixel included."""
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


def _discrete(num_actions: int) -> str:
    """Returns the space of actions as Minari writes it."""
    return json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": num_actions})


def _sync(path: Path) -> None:
    """Returns when a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Is the command `python -m systems.record`."""
    parser = argparse.ArgumentParser(
        prog="python -m systems.record",
        description="Plays an Atari game and records frames, actions and rewards as a data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--atari_game",
        default="ms_pacman",
        help='name of the game, such as "freeway" or "space_invaders"',
    )
    parser.add_argument(
        "--num_frames", type=int, default=30_000, help="number of steps, over all episodes"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed gives other actions; at least 0"
    )
    parser.add_argument("--data_path", default="data", help="directory of all data sets")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="random",
        help="who plays: random draws each action anew, persistent holds it for a random time, "
        "lookahead searches in the emulator (40 steps a second and core)",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        help=f"how often lookahead acts at random; by default {LookaheadPolicy.EPSILON}",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=DEFAULT_NUM_WORKERS,
        help="number of processes that play; the data do not depend on it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the data set if it is there already"
    )
    flags = parser.parse_args(arguments)
    with exit_on_input_error():
        name = policy_name(flags.policy, flags.epsilon)
        existed = os.path.isdir(
            dataset_directory(flags.data_path, flags.atari_game, name, flags.num_frames, flags.seed)
        )
        try:
            directory = record(
                flags.atari_game,
                flags.policy,
                flags.num_frames,
                flags.seed,
                flags.data_path,
                flags.num_workers,
                overwrite=flags.overwrite,
                epsilon=flags.epsilon,
            )
        except KeyboardInterrupt:
            print("interrupted; nothing was kept", file=sys.stderr)
            raise SystemExit(130) from None
    if existed and not flags.overwrite:
        print(f"{directory} is there already, nothing to do; --overwrite records it again")
    else:
        megabytes = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        print(f"recorded {directory}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
