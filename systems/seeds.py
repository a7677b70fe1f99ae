"""Random numbers by purpose: two purposes never draw the same ones, whatever their seeds are.

NumPy pads a short seed with zeros: default_rng(1), default_rng([1, 0]) and default_rng([1, 0, 0])
draw alike. A spawn key stands behind that padding, so a seed that has one equals none without.

Appending a purpose changes no other one's draws, so what was recorded or measured can be repeated.
"""

from __future__ import annotations

import numpy as np

PURPOSES = (
    "planning",
    "play",
    "video",
    "environment",
    "recording",
    "agent",
)  # append only: a place in this list is part of the seed


def generator(purpose: str, *seed: int) -> np.random.Generator:
    """Returns a generator for one purpose.

    Args:
        purpose: one of `PURPOSES`.
        seed: numbers from 0 to 2**32 - 1, such as the user's seed and an episode's number.
    """
    key = (PURPOSES.index(purpose),)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def episode_seed(purpose: str, *seed: int) -> int:
    """Returns what the real game is reset with in an episode, see `generator`.

    Args:
        purpose: for which it is played, one of `PURPOSES`.
        seed: the user's seed and the episode's number.
    """
    return int(generator("environment", PURPOSES.index(purpose), *seed).integers(2**31))
