"""A trained model as what a planner looks ahead in; see `systems.planning`."""

from __future__ import annotations

import functools

import numpy as np

from model.predictor import FramePredictor, Observation, State
from model.transitions import FastImagination


class CompressedSimulator:
    """A trained model: all sequences of all games are imagined as one batch.

    No frame is decoded but by the paper variant, which has to.

    Args:
        predictor: of either variant, with a trained reward head; fastest in bfloat16.
    """

    def __init__(self, predictor: FramePredictor):
        self._begin, self._observe = Observation(predictor), Observation(predictor)
        self._look_ahead = FastImagination(predictor, decode=False)
        self._predictor, self._state = predictor, None

    @functools.cached_property
    def _show(self):
        return FastImagination(self._predictor)

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """See `systems.planning.Simulator`."""
        batch = {"frames": frames, "actions": actions.astype(np.int32)}
        self._state = self._begin.predict_on_batch(batch)

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """See `systems.planning.Simulator`."""
        actions = actions.astype(np.int32)[:, None]
        batch = {"frames": frames[:, None], "actions": actions, "state": self._state}
        self._state = self._observe.predict_on_batch(batch)

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `systems.planning.Simulator`.

        Expected rewards, each times the chance that the game is still on.
        """
        games, sequences, steps = actions.shape
        found = self._look_ahead(
            self._state,
            actions.reshape(-1, steps).astype(np.int32),
            np.repeat(np.arange(games), sequences),
        )
        rewards = found["reward"][..., 2] - found["reward"][..., 0]
        going_on = np.cumprod(1 - found["termination"], axis=1)
        going_on = np.concatenate([np.ones_like(going_on[:, :1]), going_on[:, :-1]], axis=1)
        return ((rewards * going_on) @ discount ** np.arange(steps)).reshape(games, sequences)

    def frames(self, actions: np.ndarray) -> np.ndarray:
        """Where actions, int (steps,), would lead the first game: (steps, h, w, c) in 0 to 255."""
        state = State(*(part[:1] for part in self._state))
        return self._show(state, actions[None].astype(np.int32))["frames"][0]
