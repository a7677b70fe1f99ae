"""Finds the controlled pixels far ahead: the emulator plays emulated futures from a window.

A recorded data set can be replayed, because the emulator draws nothing at random: the recorded
actions lead from an episode's start to the recorded frames. From a window's last real frame on,
the game is then played under other actions. A pixel is controlled at a step if it differs from the
recorded one in any of those futures.
"""

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from systems.controlled import future_screens, replaying_game, why_not_replayable
from systems.dataset import Dataset
from systems.policies import PersistentPolicy

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
    if why_not_replayable(dataset.metadata, dataset.frame_shape):
        return None
    game = replaying_game(dataset.metadata)
    controlled = np.zeros((len(starts), len(horizons), *shape[:2]), bool)
    position = None  # episode and frame that the game shows
    order = sorted(range(len(starts)), key=starts.__getitem__)
    for window in tqdm(order, desc="emulated futures"):
        episode, first = starts[window]
        now = first + warmup - 1
        if position is None or position[0] != episode or position[1] > now:
            game.reset()
            position = (episode, 0)
        for action in dataset.actions[episode][position[1] : now]:
            if game.terminated or game.truncated:
                return None
            game.step(int(action))
        position = (episode, now)
        wanted = [0, *horizons]
        recorded = dataset.read(episode, now, horizons[-1] + 1, shape, wanted)["frames"]
        if not np.array_equal(dataset.fit(game.screen()[None], shape)[0], recorded[0]):
            return None
        moment, futures = game.clone_state(), []
        for future in range(FUTURES):
            policy = PersistentPolicy(game, np.random.default_rng([seed, episode, first, future]))
            actions = (policy.action() for _ in range(horizons[-1]))
            screens = [moment.screen, *future_screens(game, moment, actions)]
            # After the episode's end its last screen stays.
            screens = np.stack([screens[min(step, len(screens) - 1)] for step in horizons])
            futures.append(dataset.fit(screens, shape))
            differs = futures[-1] != recorded[1:]
            controlled[window] |= differs if differs.ndim == 3 else differs.any(axis=-1)
            game.restore_state(moment)
        if also:
            also(window, recorded[1:], np.stack(futures))
    return controlled
