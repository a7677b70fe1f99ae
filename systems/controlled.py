"""Finds the controlled pixels of a data set: those that other actions of the player would change.

    python -m systems.controlled --dataset data/freeway/persistent-30000-seed1-v2/data

plays a data set's actions again. Every few steps it also plays other actions from the same moment,
for ten steps. A pixel of a recorded frame is controlled if it differs in one of those futures. The
result is written beside the data set's own files:

    controlled.hdf5     for each episode i, T steps long, "episode_<i>", uint8 (T + 1, H, W / 8),
                        the pixels as bits in the order of numpy.packbits

The file appears under its name only when it is whole. The training scripts make it if it is
missing, and give these pixels more weight in the loss.

Bellemare et al. (2012, AAAI) learn which pixels an agent controls and call it contingency
awareness. Here the emulator gives the exact answer.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm
from zlib_ng import zlib_ng

from systems.arguments import Parser, add_dataset, add_num_workers
from systems.atari import AtariGame, Moment
from systems.dataset import CONTROLLED, Dataset
from systems.episodes import ZLIB_LEVEL
from systems.errors import InputError, exit_on_input_error, say
from systems.files import refusals_explained, sync, workspace
from systems.metadata import directory_of_files
from systems.record import DEFAULT_NUM_WORKERS
from systems.replay import recorded_screen, replaying_game, why_not_replayable
from systems.workers import answers, parent, require_parent

STEPS = 10  # length of a future
INTERVAL = 5  # steps between the moments at which futures begin
ALTERNATIVES = 2  # futures from each moment; each holds another action throughout


def future_screens(game: AtariGame, start: Moment, actions: Iterable[int]) -> Iterator[np.ndarray]:
    """Plays a future and yields the screen, [H, W] uint8, after each action.

    It ends with the actions or with the episode. The game stays where the future ends.

    Args:
        game: that plays.
        start: where the future begins.
        actions: of the future.
    """
    game.restore_state(start)
    for action in actions:
        if game.terminated or game.truncated:
            return
        screen, _, _ = game.step(int(action))
        yield screen


def find_controlled(
    directory: str | Path, num_workers: int = DEFAULT_NUM_WORKERS, progress: bool = True
) -> Path:
    """Makes the file of controlled pixels unless it is there already.

    Args:
        directory: of metadata.json and main_data.hdf5, or its parent.
        num_workers: the number of processes that play, at least 1. The result does not depend on
            it.
        progress: whether to show a progress bar on stderr.

    Returns:
        The file's path.

    Raises:
        InputError: there is no such data set, it cannot be replayed, or the file cannot be written.
    """
    directory = directory_of_files(directory).resolve()
    path = directory / CONTROLLED
    if path.exists():
        return path
    dataset = Dataset(directory)
    reason = why_not_replayable(dataset.metadata, dataset.frame_shape)
    if reason:
        raise InputError(
            f"expected a data set that can be replayed, as systems.record makes them, but of "
            f"{directory} {reason}. Train on it with --control_weight=0."
        )
    advice = "make room or train with --control_weight=0"
    with refusals_explained(path, advice), workspace(path) as partial:
        if not path.exists():  # the process that held the lock before may have made it
            _write_file(partial / CONTROLLED, dataset, num_workers, progress)
            (partial / CONTROLLED).rename(path)
            sync(directory)
    return path


def _write_file(path, dataset, num_workers, progress):
    bar = tqdm(
        desc="controlled pixels",
        total=int(dataset.lengths.sum()),
        unit=" frames",
        disable=not progress,
    )
    replayed = contextlib.closing(_replay(dataset, num_workers))
    with bar, replayed as episodes, h5py.File(path, "w") as file:
        for episode, shape, frames in episodes:
            pixels = file.create_dataset(
                dataset.names[episode],
                shape=(len(frames), *shape),
                dtype=np.uint8,
                chunks=(1, *shape),
                compression="gzip",
                compression_opts=ZLIB_LEVEL,
            )
            for t, frame in enumerate(frames):
                pixels.id.write_direct_chunk((t, 0, 0), frame)
            bar.update(int(dataset.lengths[episode]))
    sync(path)


def _replay(dataset, num_workers) -> Iterator[tuple]:
    """Yields each episode's number and what `serve_controlled_pixels` answers, as they come."""
    # The longest come first, so that no worker still has one when the others are done.
    episodes = sorted(range(len(dataset.lengths)), key=lambda i: -dataset.lengths[i])
    module, directory = "systems.controlled", str(dataset.directory)
    replayed = answers(num_workers, episodes, module, "serve_controlled_pixels", directory)
    with contextlib.closing(replayed):
        for episode, answer in replayed:
            if answer is None:
                raise InputError(
                    f"expected the actions of {dataset.names[episode]} in {directory} to lead to "
                    "its last frame, but they do not: another version of ale-py may play "
                    "otherwise. Record the data set again, or train with --control_weight=0."
                )
            yield episode, *answer


def serve_controlled_pixels() -> None:
    """Runs in a worker process: replays the episodes that the parent asks for.

    It answers with the shape of a frame's bits and each frame's bits as a zlib stream. It answers
    with None if the actions do not lead to the recorded last frame.
    """
    with parent() as (connection, (directory,)):
        dataset = Dataset(directory)
        game = replaying_game(dataset.metadata)
        while True:
            episode = connection.recv()
            game.start(dataset.no_ops[episode])
            bits = controlled_bits(game, dataset.actions[episode], connection)
            answer = None
            last = recorded_screen(dataset, episode, int(dataset.lengths[episode]))
            if bits is not None and np.array_equal(game.screen(), last):
                answer = bits.shape[1:], [zlib_ng.compress(frame, ZLIB_LEVEL) for frame in bits]
            connection.send(answer)


def controlled_bits(
    game: AtariGame, actions: np.ndarray, connection: Connection
) -> np.ndarray | None:
    """Returns the controlled pixels of an episode, as bits. The game ends where `actions` lead.

    Args:
        game: at the start of the episode.
        actions: int (T,), the episode's.
        connection: to the parent process.

    Returns:
        uint8 (T + 1, H, W / 8); None if the game ends before the actions do.

    Raises:
        EOFError: the parent has gone.
    """
    height, width = game.screen_shape
    controlled = np.zeros((len(actions) + 1, height, -(-width // 8)), np.uint8)
    # The seed is the episode's length, so that the result does not depend on who plays it.
    rng = np.random.default_rng(len(actions))
    moments, screens = {}, {}  # of the recorded steps that futures still need
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
            future = future_screens(game, moment, itertools.repeat(action, end - start))
            for t, screen in enumerate(future, start + 1):
                controlled[t] |= np.packbits(screen != screens[t], axis=1)
        game.restore_state(here)
        for t in range(start + 1, start + INTERVAL + 1):
            screens.pop(t, None)
    return controlled


def parser() -> Parser:
    """The command line."""
    command = "python -m systems.controlled"
    parser = Parser(
        "Finds the pixels of a recorded game that the player's actions decide.",
        prog=command,
        examples=[f"{command} --dataset data/freeway/persistent-30000-seed1-v2/data"],
    )
    what = "directory of metadata.json and main_data.hdf5, or its parent"
    add_dataset(parser.add_argument, what, required=True)
    add_num_workers(parser.add_argument, DEFAULT_NUM_WORKERS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.controlled`."""
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        try:
            say(find_controlled(flags.dataset, flags.num_workers))
        except KeyboardInterrupt:
            print("interrupted; nothing was kept", file=sys.stderr)
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
