"""Finds what the player decides: the pixels of a recorded game that other actions would change.

    python -m systems.control data/freeway/persistent-30000-seed1-v1/data

plays a data set's actions again and, every few steps, others instead, from the same moment. A pixel
of a recorded frame is controlled if it differs in one of those futures, begun at most ten steps
before. The answer is written beside the data set's own files:

    controlled.hdf5     for each episode i, T steps long, "episode_<i>", uint8 (T + 1, H, W / 8),
                        the pixels as bits in the order of numpy.packbits

The file appears under its name only when it is whole. The training scripts make it where it is
missing, and let these pixels count for more.

That the agent can be told from the scenery by what its actions change is Bellemare et al.'s
contingency awareness (2012, AAAI); here the emulator says it exactly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm
from zlib_ng import zlib_ng

from systems.atari import AtariGame
from systems.episodes import ZLIB_LEVEL
from systems.errors import InputError, exit_on_input_error, one_line, whole_number
from systems.record import (
    DEFAULT_NUM_WORKERS,
    directory_of_files,
    locked_directory,
    write_errors_explained,
)
from systems.workers import answers, parent, require_parent

FILE = "controlled.hdf5"
STEPS = 10  # that other actions are played
INTERVAL = 5  # steps between the moments from which they are
ALTERNATIVES = 2  # other actions from each moment, each held to the end


def obstacle(metadata: dict, frame_shape: tuple[int, ...]) -> str | None:
    """What keeps a data set's actions from leading to its frames again; None: nothing does.

    Args:
        metadata: of metadata.json.
        frame_shape: of its observations.
    """
    needed = ("game", "frame_skip", "max_episode_frames", "action_meanings")
    needed += ("pooled_frames", "repeat_action_probability")
    missing = [key for key in needed if key not in metadata]
    if missing:
        return f"metadata.json has no {', '.join(missing)}"
    if metadata["repeat_action_probability"]:
        return f"repeat_action_probability is {metadata['repeat_action_probability']}"
    if metadata["pooled_frames"] != AtariGame.pooled_frames:
        return f"pooled_frames is {metadata['pooled_frames']}"
    if len(frame_shape) != 2:
        return "its frames are not palette indices"
    if tuple(metadata["action_meanings"]) != AtariGame(metadata["game"]).action_meanings:
        return "its actions are not those of the game"
    return None


def find_controlled(
    directory: str | Path, num_workers: int = DEFAULT_NUM_WORKERS, progress: bool = True
) -> Path:
    """Makes the file, or finds that it is there already.

    Args:
        directory: of metadata.json and main_data.hdf5, or its parent.
        num_workers: the number of processes that play, at least 1; the file is the same for any.
        progress: whether to show a progress bar on stderr.

    Returns:
        The file's path.

    Raises:
        InputError: if there is no such data set, it cannot be played again, or the file cannot be
            written.
    """
    directory = directory_of_files(directory).resolve()
    path = directory / FILE
    if path.exists():
        return path
    lengths = _lengths(directory)
    with (
        write_errors_explained(path, "train with --control_weight=0"),
        locked_directory(directory / f".partial-{FILE}") as workspace,
    ):
        if not path.exists():  # else from the process that held the lock before
            _write(workspace / FILE, directory, lengths, num_workers, progress)
            (workspace / FILE).rename(path)
    return path


def _lengths(directory) -> dict[str, int]:
    """Steps of each episode of a data set that can be played again."""
    try:
        metadata = json.loads((directory / "metadata.json").read_text())
        with h5py.File(directory / "main_data.hdf5") as file:
            lengths = {name: len(file[name]["actions"]) for name in file}
            frame_shape = file[min(lengths)]["observations"].shape[1:]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected a data set's directory, with metadata.json and main_data.hdf5, received "
            f"{directory}: {one_line(error)}. Record one: python -m systems.record --help"
        ) from error
    reason = obstacle(metadata, frame_shape)
    if reason:
        raise InputError(
            f"expected a data set that can be played again, as systems.record makes them, but of "
            f"{directory} {reason}. Train on it with --control_weight=0"
        )
    return lengths


def _write(path, directory, lengths, num_workers, progress):
    bar = tqdm(
        desc="what the player decides",
        total=sum(lengths.values()),
        unit=" frames",
        disable=not progress,
    )
    played = contextlib.closing(_play_again(directory, lengths, num_workers))
    with bar, played as episodes, h5py.File(path, "w") as file:
        for name, (shape, frames) in episodes:
            dataset = file.create_dataset(
                name,
                shape=(len(frames), *shape),
                dtype=np.uint8,
                chunks=(1, *shape),
                compression="gzip",
                compression_opts=ZLIB_LEVEL,
            )
            for t, frame in enumerate(frames):
                dataset.id.write_direct_chunk((t, 0, 0), frame)
            bar.update(lengths[name])
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def _play_again(directory, lengths, num_workers) -> Iterator[tuple]:
    """Each episode's name and what `work` says of it, as they come."""
    # The longest first, so that no worker is left with one when the others are done.
    names = sorted(lengths, key=lengths.get, reverse=True)
    played = answers(num_workers, names, "systems.control", str(directory))
    with contextlib.closing(played):
        for name, found in played:
            if found is None:
                raise InputError(
                    f"expected the actions of {name} in {directory} to lead to its last frame, but "
                    "they do not: another version of ale-py may play otherwise. Record the data "
                    "set again, or train with --control_weight=0"
                )
            yield name, found


def work() -> None:
    """Is a worker process: plays the episodes it is asked for again until the parent goes away.

    It answers with the shape of a frame's bits and each frame's as a zlib stream, or None where the
    actions do not lead to the recorded end.
    """
    with parent() as (connection, (directory,)):
        metadata = json.loads(Path(directory, "metadata.json").read_text())
        game = AtariGame(
            metadata["game"],
            frame_skip=metadata["frame_skip"],
            max_episode_frames=metadata["max_episode_frames"],
        )
        with h5py.File(Path(directory, "main_data.hdf5")) as file:
            while True:
                group = file[connection.recv()]
                controlled = _controlled(game, group["actions"][:], connection)
                found = None
                again = controlled is not None
                if again and np.array_equal(game.screen(), group["observations"][-1]):
                    frames = [zlib_ng.compress(bits, ZLIB_LEVEL) for bits in controlled]
                    found = controlled.shape[1:], frames
                connection.send(found)


def _controlled(game, actions, connection):
    """The pixels that others than `actions` change, as bits; leaves the game where those lead.

    Returns:
        uint8 (T + 1, H, W / 8); None where the game ends before they do.

    Raises:
        EOFError: the parent has gone away.
    """
    game.reset()
    height, width = game.screen_shape
    controlled = np.zeros((len(actions) + 1, height, -(-width // 8)), np.uint8)
    # By the episode's length, so that it does not matter who plays it.
    rng = np.random.default_rng(len(actions))
    moments, screens = {}, {}  # of the steps that are still compared with
    played = 0
    for start in range(0, len(actions), INTERVAL):
        require_parent(connection)
        end = min(start + STEPS, len(actions))
        while played < end:
            if game.terminated or game.truncated:
                return None
            if played % INTERVAL == 0:
                moments[played] = game.clone_state()
            screens[played + 1], _, _ = game.step(int(actions[played]))
            played += 1
        here = game.clone_state()
        moment = moments.pop(start)
        others = np.delete(np.arange(game.num_actions), actions[start])
        for action in rng.choice(others, min(ALTERNATIVES, len(others)), replace=False):
            game.restore_state(moment)
            for t in range(start + 1, end + 1):
                if game.terminated or game.truncated:
                    break
                screen, _, _ = game.step(int(action))
                controlled[t] |= np.packbits(screen != screens[t], axis=1)
        game.restore_state(here)
        for t in range(start + 1, start + INTERVAL + 1):
            screens.pop(t, None)
    return controlled


def main(arguments: Sequence[str] | None = None) -> None:
    """Is the command `python -m systems.control`."""
    parser = argparse.ArgumentParser(
        prog="python -m systems.control",
        description="Finds the pixels of a recorded game that the player's actions decide.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "dataset", help="directory of metadata.json and main_data.hdf5, or its parent"
    )
    parser.add_argument(
        "--num_workers",
        type=whole_number(1),
        default=DEFAULT_NUM_WORKERS,
        help="number of processes that play; the result does not depend on it",
    )
    flags = parser.parse_args(arguments)
    with exit_on_input_error():
        try:
            print(find_controlled(flags.dataset, flags.num_workers))
        except KeyboardInterrupt:
            print("interrupted; nothing was kept", file=sys.stderr)
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
