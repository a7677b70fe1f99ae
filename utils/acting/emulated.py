"""The real game in place of the compressed one, for an agent to learn in, as in a perfect model.

Its games begin at the same moments of recorded play as those of `dream.py` and last as long. The
emulator plays them, and the model observes each frame. So what differs between two agents is the
imagination alone.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from model.predictor import FramePredictor, Observation, State
from systems.dataset import Dataset
from systems.errors import InputError
from systems.replay import NotReplayed, replayed, replaying_game
from utils.acting.dream import Starts


class EmulatedGames:
    """Many emulated games from real starts.

    Args:
        predictor: observes them; of the compression variant.
        dataset: where the starts were recorded.
        starts: where games begin.

    Raises:
        InputError: the data set cannot be played again.
    """

    def __init__(self, predictor: FramePredictor, dataset: Dataset, starts: Starts):
        self._observe, self._normalise = Observation(predictor), predictor.network.normalise
        self._dataset, self._starts = dataset, starts
        self._shape, self._before = predictor.preset.frame_shape, predictor.preset.stack - 1
        self._games, self._over = [], np.zeros(0, bool)
        self._moments = [None] * len(starts.moments)
        played = replayed(dataset, starts.moments)
        try:
            for number, game in tqdm(played, desc="emulated starts", total=len(self._moments)):
                self._moments[number] = game.clone_state()
        except NotReplayed as error:
            raise InputError(
                f"{error}. Give another --dataset, or --simulator=compressed."
            ) from error

    def begin(self, games: int, rng: np.random.Generator) -> State:
        """See `Dream.begin`."""
        while len(self._games) < games:
            self._games.append(replaying_game(self._dataset.metadata))
        state, starts = self._starts.drawn(games, rng)
        for game, start in zip(self._games, starts, strict=False):
            game.restore_state(self._moments[start])
        self._over = np.zeros(games, bool)
        return state._replace(recent=self._recent_frames(starts))

    def _recent_frames(self, starts):
        """The frames that the next one is stacked onto, normalised."""
        if not self._before:
            return np.zeros((len(starts), 0, *self._shape), np.float32)
        frames = [
            self._dataset.read(episode, now - self._before + 1, self._before, self._shape)["frames"]
            for episode, now in (self._starts.moments[start] for start in starts)
        ]
        return np.asarray(self._normalise(np.stack(frames)))

    def step(self, state: State, actions: np.ndarray) -> tuple[State, np.ndarray, np.ndarray]:
        """See `Dream.step`. A game that is over stays where it is."""
        rewards = np.zeros(len(actions), np.float32)
        playing = self._games[: len(actions)]
        for i in np.flatnonzero(~self._over):
            _, points, _ = playing[i].step(int(actions[i]))
            rewards[i] = np.sign(points)
            self._over[i] = playing[i].terminated or playing[i].truncated
        frames = np.stack([game.observation(self._shape) for game in playing])
        batch = {"frames": frames[:, None], "actions": actions.astype(np.int32)[:, None]}
        state = self._observe.predict_on_batch({**batch, "state": state})
        return state, rewards, self._over.astype(np.float32)
