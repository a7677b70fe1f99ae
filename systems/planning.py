"""Planning by looking ahead: action sequences are tried in a simulator, the best is begun.

A simulator says what sequences of actions would earn from the present moment of a real game: the
emulator itself, cloned, or a trained model that is kept in step with the game.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from model.predictor import FramePredictor, Observation, State
from model.transitions import FastImagination
from systems.atari import AtariGame
from systems.policies import hold

METHODS = ("shooting", "cem")


class Simulator(Protocol):
    """Looks ahead from the present moment of a real game."""

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Takes in a game's first frames, uint8 (time, height, width, channels), and actions."""

    def observe(self, frame: np.ndarray, action: int) -> None:
        """Takes in the game's next frame and the action that led to it."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """What sequences of actions, int (sequences, steps), would earn from here, discounted.

        Rewards count by their sign, as the model predicts them.
        """


class EmulatorSimulator:
    """The game's own emulator, cloned: a perfect model."""

    def __init__(self, game: AtariGame):
        self._game = game

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def observe(self, frame: np.ndarray, action: int) -> None:
        """Does nothing: the emulator is where it is."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`."""
        rewards = np.sign(self._game.rewards_ahead(actions))
        return rewards @ discount ** np.arange(actions.shape[1])


class CompressedSimulator:
    """A trained model: all sequences are imagined as one batch, and no frame is decoded.

    Args:
        predictor: of either variant, with a trained reward head; fastest in bfloat16.
    """

    def __init__(self, predictor: FramePredictor):
        self._begin, self._observe = Observation(predictor), Observation(predictor)
        self._look_ahead = FastImagination(predictor, decode=False)
        self._show = FastImagination(predictor)
        self._state = None

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """See `Simulator`."""
        batch = {"frames": frames[None], "actions": np.asarray(actions, np.int32)[None]}
        self._state = self._begin.predict_on_batch(batch)

    def observe(self, frame: np.ndarray, action: int) -> None:
        """See `Simulator`."""
        actions = np.array([[action]], np.int32)
        batch = {"frames": frame[None, None], "actions": actions, "state": self._state}
        self._state = self._observe.predict_on_batch(batch)

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`; expected rewards, each times the chance that the game is still on."""
        state = State(*(np.repeat(part, len(actions), axis=0) for part in self._state))
        found = self._look_ahead(state, actions.astype(np.int32))
        rewards = found["reward"][..., 2] - found["reward"][..., 0]
        going_on = np.cumprod(1 - found["termination"], axis=1)
        going_on = np.concatenate([np.ones_like(going_on[:, :1]), going_on[:, :-1]], axis=1)
        return (rewards * going_on) @ discount ** np.arange(actions.shape[1])

    def frames(self, actions: np.ndarray) -> np.ndarray:
        """Where actions, int (steps,), would lead: frames (steps, h, w, channels) in 0 to 255."""
        return self._show(self._state, actions[None].astype(np.int32))["frames"][0]


class Planner:
    """Model-predictive control: chooses a sequence of actions at every step, to begin with.

    "shooting" (random shooting) draws sequences of held actions and takes the one that earns most.
    "cem" (the cross-entropy method) draws them in rounds: from the second on, each step's action is
    drawn as often as the best of the round before took it there. Either way the rest of the plan
    before is among them, and is gone on with where nothing earns more.

    Args:
        num_actions: of the game.
        horizon: steps looked ahead.
        num_rollouts: sequences tried in each decision, of all rounds together.
        method: one of `METHODS`.
        rng: where they are drawn from.
    """

    DISCOUNT = 0.97
    MEAN_HOLD_STEPS = 8
    ROUNDS = 3  # of the cross-entropy method
    ELITE = 0.15  # of a round's sequences
    SMOOTHING = 0.1  # of each step's action drawn uniformly all the same

    def __init__(
        self,
        num_actions: int,
        horizon: int,
        num_rollouts: int,
        method: str,
        rng: np.random.Generator,
    ):
        self._num_actions, self._rng = num_actions, rng
        rounds = min(self.ROUNDS, num_rollouts) if method == "cem" else 1
        sizes = np.full(rounds, num_rollouts // rounds)
        sizes[0] += num_rollouts % rounds
        self._sizes, self._horizon = sizes.tolist(), horizon
        self._plan = self._draw(np.full((horizon, num_actions), 1 / num_actions), 1)[0]

    def plan(self, simulator: Simulator) -> np.ndarray:
        """The sequence of actions, int (horizon,), that earns most from the present moment."""
        uniform = np.full((self._horizon, self._num_actions), 1 / self._num_actions)
        likely, best, best_value = uniform, self._plan, -np.inf
        for i, size in enumerate(self._sizes):
            tried = self._draw(likely, size)
            tried[0] = best
            values = simulator.values(tried, self.DISCOUNT)
            # Of equals the first: what is going on already.
            if values.max() > best_value:
                best, best_value = tried[values.argmax()], values.max()
            if i + 1 < len(self._sizes):
                elite = tried[np.argsort(-values, kind="stable")[: max(1, int(size * self.ELITE))]]
                taken = (elite[:, :, None] == np.arange(self._num_actions)).mean(axis=0)
                likely = (1 - self.SMOOTHING) * taken + self.SMOOTHING * uniform
        # What follows the first action is where the next decision starts from.
        more = self._rng.integers(self._num_actions)
        held = self._rng.random() < 1 - 1 / self.MEAN_HOLD_STEPS
        self._plan = np.append(best[1:], best[-1] if held else more)
        return best

    def _draw(self, likely, count):
        """Held actions (count, horizon), from each step's probabilities (horizon, actions)."""
        limits = np.cumsum(likely, axis=1)[:, :-1]
        draws = self._rng.random((count, self._horizon, 1))
        return hold((draws >= limits).sum(axis=2), self.MEAN_HOLD_STEPS, self._rng)
