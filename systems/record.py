"""Records a data set: episodes of one game, played by one policy.

    python -m systems.record --atari_game=freeway --policy=persistent

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
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame, game_name
from systems.dataset import FRAMES, METADATA
from systems.episodes import ZLIB_LEVEL, Colour, Episode, play_episodes
from systems.errors import (
    InputError,
    exit_on_input_error,
    probability,
    say,
    user_path,
    whole_number,
)
from systems.files import num_cores, refusals_explained, sync, workspace
from systems.policies import POLICIES, LookaheadPolicy, make_policy, policy_name

# The version of Minari whose layout this is. Its readers refuse versions that they do not know.
_MINARI_VERSION = "0.5.4"

# One worker for each core, but many more than eight would wait for the one process that writes.
DEFAULT_NUM_WORKERS = min(num_cores(), 8)


def dataset_directory(
    data_path: str | Path, game: str, policy: str, num_frames: int, seed: int
) -> Path:
    """Returns where `record` puts a data set: `<data_path>/<name in Minari>/data`.

    Minari finds it by that name if the environment variable MINARI_DATASETS_PATH is `data_path`.
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
    known_actions: Sequence[Sequence[int]] = (),
) -> Path:
    """Records a data set unless it is there already.

    The same arguments give the same bytes, whatever the number of workers. If another process is
    recording the same data set, this one waits for it.

    Args:
        game: any name of the game that `systems.atari.game_name` knows.
        policy: who plays, a name in `systems.policies.POLICIES`.
        num_frames: the number of steps of all episodes, at least 1. The last episode is cut.
        seed: of every random choice, at least 0.
        data_path: where all data sets lie.
        num_workers: the number of processes that play, at least 1.
        progress: whether to show a progress bar on stderr.
        overwrite: whether to replace a data set that is there already.
        epsilon: how often `lookahead` acts at random; None for its own 0.3.
        known_actions: what the policy does in the first episodes, where that is known. It need not
            be found out again, which takes `lookahead` most of the time.

    Returns:
        The data set's directory, which is that of `dataset_directory` and `policy_name`.

    Raises:
        InputError: an argument cannot be used, or the data set cannot be written.
        RuntimeError: a worker process died.
    """
    for name, value, minimum in (
        ("num_frames", num_frames, 1),
        ("num_workers", num_workers, 1),
        ("seed", seed, 0),
    ):
        if value < minimum:
            raise InputError(f"expected {name} to be at least {minimum}, received {value}")
    policy = policy_name(policy, epsilon)

    directory = dataset_directory(data_path, game, policy, num_frames, seed)
    if directory.is_dir() and not overwrite:
        return directory
    root = directory.parent
    with refusals_explained(root), workspace(root) as partial:
        if directory.is_dir() and not overwrite:
            return directory  # the process that held the lock before has made it
        new = partial / "new"
        _write_data_set(
            new / "data", game, policy, num_frames, seed, num_workers, progress, known_actions
        )
        if overwrite and root.exists():
            root.rename(partial / "old")
        try:
            new.rename(root)
        except OSError:
            # Without locks another process may have made it meanwhile, with the same bytes.
            if not directory.is_dir():
                raise
        sync(root.parent)
    return directory


def _write_data_set(
    directory: Path,
    game: str,
    policy: str,
    num_frames: int,
    seed: int,
    num_workers: int,
    progress: bool,
    known_actions: Sequence[Sequence[int]],
) -> None:
    """Plays, and writes both files of a data set into `directory`, which does not exist yet."""
    directory.mkdir(parents=True)
    data_file, metadata_file = directory / FRAMES, directory / METADATA
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
                known=known_actions,
            )
        ) as episodes,
        h5py.File(data_file, "w") as file,
    ):
        for index, episode in enumerate(episodes):
            _write_episode(file, index, episode, emulator.screen_shape)
            returns.append(sum(episode.rewards))
            colours += episode.colours
    # The return of an episode that was cut says nothing about the policy.
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
        sync(path)


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
    known: dict[int, tuple[tuple[int, int, int], int]] = {}
    for colour in colours:
        values = (colour.rgb, colour.grey)
        if known.setdefault(colour.index, values) != values:
            raise RuntimeError(
                f"expected palette index {colour.index} to be {known[colour.index]} in every "
                f"episode, received {values}"
            )
    unknown = (None, None)
    rgb, grey = zip(*(known.get(index, unknown) for index in range(256)), strict=True)
    return list(rgb), list(grey)


def _box(shape: tuple[int, int]) -> str:
    """Returns the space of uint8 screens as Minari writes it, with limits for each pixel."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.record`."""
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
        "--num_frames",
        type=whole_number(1),
        default=30_000,
        help="number of steps of all episodes",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, help="another seed gives other actions"
    )
    parser.add_argument(
        "--data_path", type=user_path, default=Path("data"), help="directory of all data sets"
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="random",
        help="who plays: random draws each action anew, persistent holds it for a random time, "
        "lookahead searches in the emulator (40 steps a second and core)",
    )
    parser.add_argument(
        "--epsilon",
        type=probability,
        default=argparse.SUPPRESS,  # because other policies have none
        help=f"how often lookahead acts at random (default: {LookaheadPolicy.EPSILON})",
    )
    parser.add_argument(
        "--num_workers",
        type=whole_number(1),
        default=DEFAULT_NUM_WORKERS,
        help="number of processes that play; the data do not depend on it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the data set if it is there already"
    )
    flags = parser.parse_args(arguments)
    epsilon = getattr(flags, "epsilon", None)
    with exit_on_input_error():
        name = policy_name(flags.policy, epsilon)
        existed = dataset_directory(
            flags.data_path, flags.atari_game, name, flags.num_frames, flags.seed
        ).is_dir()
        try:
            directory = record(
                flags.atari_game,
                flags.policy,
                flags.num_frames,
                flags.seed,
                flags.data_path,
                flags.num_workers,
                overwrite=flags.overwrite,
                epsilon=epsilon,
            )
        except KeyboardInterrupt:
            print("interrupted; nothing was kept", file=sys.stderr)
            raise SystemExit(130) from None
    if existed and not flags.overwrite:
        say(f"{directory} is there already, nothing to do; --overwrite records it again")
    else:
        megabytes = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        say(f"recorded {directory}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
