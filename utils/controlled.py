"""What the player's choice decides: found by playing on from a window under other actions.

Our data sets can be played again: the emulator draws nothing at random, so the recorded actions
lead from the start of an episode to the very frames. From a window's last real frame on the game is
then played under other actions, and a pixel counts as controlled at a step if in any of those
futures it differs from the recorded one.
"""

import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame
from systems.control import obstacle
from systems.policies import PersistentPolicy
from utils.dataset import Dataset

ALTERNATIVES = 4  # futures a window


def controlled_pixels(
    dataset: Dataset,
    starts: list[tuple[int, int]],
    warmup: int,
    horizons: list[int],
    shape: tuple[int, int, int],
    seed: int = 0,
) -> np.ndarray | None:
    """The controlled pixels of each window at each horizon.

    Args:
        dataset: where the windows were cut from.
        starts: episode and first frame of each window.
        warmup: real frames of each window.
        horizons: steps after them, ascending, within the episode.
        shape: (height, width, channels) that frames are fitted to.
        seed: of the other actions: each is held for a random time, 20 steps on average.

    Returns:
        bool (windows, horizons, height, width); None where the data cannot be played again.
    """
    about = dataset.metadata
    if obstacle(about, dataset.frame_shape):
        return None
    game = AtariGame(
        dataset.game,
        frame_skip=about["frame_skip"],
        max_episode_frames=about["max_episode_frames"],
    )
    found = np.zeros((len(starts), len(horizons), *shape[:2]), bool)
    at = None  # episode and frame where the game stands
    for window in tqdm(sorted(range(len(starts)), key=starts.__getitem__), desc="other futures"):
        episode, first = starts[window]
        now = first + warmup - 1
        if at is None or at[0] != episode or at[1] > now:
            game.reset()
            at, actions = (episode, 0), dataset.actions[episode]
        for action in actions[at[1] : now]:
            if game.terminated or game.truncated:
                return None
            game.step(int(action))
        at = (episode, now)
        recorded = dataset.read(episode, now, horizons[-1] + 1, shape)["frames"]
        if not np.array_equal(dataset.fit(game.screen()[None], shape)[0], recorded[0]):
            return None
        moment = game.clone_state()
        for alternative in range(ALTERNATIVES):
            rng = np.random.default_rng([seed, episode, first, alternative])
            screens = dataset.fit(_play_on(game, rng, horizons), shape)
            differs = screens != recorded[horizons]
            found[window] |= differs if differs.ndim == 3 else differs.any(axis=-1)
            game.restore_state(moment)
    return found


def _play_on(game, rng, horizons):
    """Screens at the horizons under actions drawn anew; the last one stays once it is over."""
    policy = PersistentPolicy(game, rng)
    screens = []
    for step in range(1, horizons[-1] + 1):
        if not (game.terminated or game.truncated):
            game.step(policy.action())
        if step in horizons:
            screens.append(game.screen())
    return np.stack(screens)
