"""Recording beside the bare emulator."""

import multiprocessing
import tempfile
import time

import numpy as np

GAME = "freeway"


def ours(num_frames: int, num_workers: int) -> dict:
    """Steps a second of `systems.record`, from the command to the data set on the disk."""
    from systems.record import record

    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        record(GAME, "random", num_frames, 1, directory, num_workers, progress=False)
        return {"frames_per_second": num_frames / (time.perf_counter() - started)}


def emulator(num_frames: int, num_workers: int = 1) -> dict:
    """Steps a second of the bare emulator under random play, in `num_workers` processes."""
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        rates = pool.map(_play, [num_frames] * num_workers)
    return {"frames_per_second": sum(rates)}


def _play(num_frames):
    from systems.atari import AtariGame

    game = AtariGame(GAME)
    actions = np.random.default_rng(0).integers(game.num_actions, size=num_frames)
    started = time.perf_counter()
    for action in actions:
        game.step(action)
        if game.terminated or game.truncated:
            game.reset()
    return num_frames / (time.perf_counter() - started)
