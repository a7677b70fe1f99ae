"""Finds the controlled pixels far ahead: the emulator plays emulated futures from a window.

From a window's last real frame on, the game is played under other actions. A pixel is controlled at
a step if it differs from the recorded one in any of those futures.
"""

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from systems.controlled import future_screens
from systems.dataset import Dataset
from systems.policies import PersistentPolicy
from systems.replay import NotReplayed, replayed

FUTURES = 4  # a window


def controlled_pixels(
    dataset: Dataset,
    starts: Sequence[tuple[int, int]],
    warmup: int,
    horizons: Sequence[int],
    shape: tuple[int, int, int],
    seed: int = 0,
    also: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> np.ndarray | None:
    """Returns the controlled pixels of each window at each horizon.

    Args:
        dataset: what the windows were cut from.
        starts: episode and first frame of each window.
        warmup: real frames of each window.
        horizons: steps after them, ascending, within the episode.
        shape: (height, width, channels) that frames are fitted to.
        seed: of the other actions. Each is held for a random time, 20 steps on average.
        also: is called for each window with its number, the recorded frames at the horizons, uint8
            (horizons, height, width[, channels]), and those of the futures, one axis more in front.

    Returns:
        bool (windows, horizons, height, width); None if the data set cannot be replayed.
    """
    controlled = np.zeros((len(starts), len(horizons), *shape[:2]), bool)
    moments = [(episode, first + warmup - 1) for episode, first in starts]
    games = tqdm(replayed(dataset, moments), desc="emulated futures", total=len(moments))
    try:
        for window, game in games:
            episode, first = starts[window]
            now = moments[window][1]
            recorded = dataset.read(episode, now, horizons[-1] + 1, shape, horizons)["frames"]
            moment, futures = game.clone_state(), []
            for future in range(FUTURES):
                rng = np.random.default_rng([seed, episode, first, future])
                policy = PersistentPolicy(game, rng)
                actions = (policy.action() for _ in range(horizons[-1]))
                screens = [moment.screen, *future_screens(game, moment, actions)]
                # After the episode's end its last screen stays.
                screens = np.stack([screens[min(step, len(screens) - 1)] for step in horizons])
                futures.append(dataset.fit(screens, shape))
                differs = futures[-1] != recorded
                controlled[window] |= differs if differs.ndim == 3 else differs.any(axis=-1)
                game.restore_state(moment)
            if also:
                also(window, recorded, np.stack(futures))
    except NotReplayed:
        return None
    return controlled
