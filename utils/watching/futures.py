"""What may follow a real start: actions by their names, and what the emulator makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from systems.dataset import Dataset
from systems.errors import InputError
from systems.replay import replayed


def actions_of(text: str, meanings: Sequence[str]) -> np.ndarray:
    """The actions that a list such as "UP*20,NOOP*10" names, int32 (steps,).

    Args:
        text: names in upper or lower case, separated by commas, each with how often it is repeated.
        meanings: the name of each of the game's actions.

    Raises:
        InputError: it is no such list, or the game has no action of a name.
    """
    known = {name.upper(): action for action, name in enumerate(meanings)}
    actions = []
    for part in text.split(","):
        name, star, count = (piece.strip() for piece in part.partition("*"))
        times = int(count) if count.isdecimal() else 0 if star else 1
        if name.upper() not in known or times < 1:
            example = f"{meanings[-1]}*20,{meanings[0]}*10"
            raise InputError(
                f"expected --actions to be replay, random or a list such as {example}, received "
                f"{part.strip()!r} in {text!r}. The game's actions are {', '.join(meanings)}."
            )
        actions += [known[name.upper()]] * times
    return np.array(actions, np.int32)


class RecordedMoment:
    """The emulator at a recorded moment, from which it can play any actions.

    Args:
        dataset: where the moment was recorded.
        episode, frame: the moment.
        shape: (height, width, channels) that frames are fitted to.

    Raises:
        NotReplayed: the data set cannot be played again.
    """

    def __init__(self, dataset: Dataset, episode: int, frame: int, shape: tuple[int, int, int]):
        ((_, self._game),) = replayed(dataset, [(episode, frame)])
        self._start, self._shape = self._game.clone_state(), shape

    def play(self, actions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Plays from the moment on, until the actions or the game end.

        Returns:
            frames uint8 (steps, height, width, channels) and rewards float32 (steps,).
        """
        self._game.restore_state(self._start)
        frames, rewards = [], []
        for action in actions:
            if self._over():
                break
            _, reward, _ = self._game.step(int(action))
            frames.append(self._game.observation(self._shape))
            rewards.append(reward)
        return np.array(frames), np.array(rewards, np.float32)

    def _over(self):
        return self._game.terminated or self._game.truncated
