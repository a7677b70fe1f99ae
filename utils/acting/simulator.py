"""A trained model as the simulator that a planner looks ahead in; see `systems.planning`."""

from __future__ import annotations

import functools

import numpy as np

from model.fast_imagination import FastImagination
from model.predictor import FramePredictor, Observation, State


class CompressedSimulator:
    """A trained model, which imagines all sequences of all games as one batch.

    The compression variant decodes no frame. The paper variant has to, to encode it again.

    Args:
        predictor: of either variant, with a trained reward head; fastest in bfloat16.
    """

    def __init__(self, predictor: FramePredictor):
        self._begin, self._observe = Observation(predictor), Observation(predictor)
        self._imagination = FastImagination(predictor, decode=False)
        self._predictor, self._state = predictor, None

    @functools.cached_property
    def _decoding_imagination(self):
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

    def keep(self, games: np.ndarray) -> None:
        """See `systems.planning.Simulator`."""
        self._state = State(*(np.asarray(part)[games] for part in self._state))

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `systems.planning.Simulator`.

        Each expected reward is multiplied by the probability that the game is not over yet.
        """
        games, sequences, steps = actions.shape
        predictions = self._imagination(
            self._state,
            actions.reshape(-1, steps).astype(np.int32),
            np.repeat(np.arange(games), sequences),
        )
        rewards = predictions["reward"][..., 2] - predictions["reward"][..., 0]
        survival = np.cumprod(1 - predictions["termination"], axis=1)
        survival = np.concatenate([np.ones_like(survival[:, :1]), survival[:, :-1]], axis=1)
        return ((rewards * survival) @ discount ** np.arange(steps)).reshape(games, sequences)

    def frames(self, actions: np.ndarray) -> np.ndarray:
        """Imagines the first game's next frames.

        Args:
            actions: int (steps,).

        Returns:
            float32 (steps, height, width, channels) in 0 to 255.
        """
        state = State(*(part[:1] for part in self._state))
        return self._decoding_imagination(state, actions[None].astype(np.int32))["frames"][0]
