"""Planning by looking ahead: action sequences are tried in a simulator, the best is begun.

A simulator says what sequences of actions would earn from the present moment of a real game: the
emulator itself, cloned, or a trained model that is kept in step with the game.
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np

from model.predictor import FramePredictor, Observation, State
from model.transitions import FastImagination
from systems.atari import AtariGame
from systems.policies import hold

METHODS = ("shooting", "cem")


class Simulator(Protocol):
    """Looks ahead from the present moment of real games, of all of them at once."""

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Takes in the first frames of each game.

        Args:
            frames: uint8 (games, time, height, width, channels).
            actions: int (games, time - 1), between the frames.
        """

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Takes in each game's next frame, uint8 (games, ...), and the action that led to it."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """What sequences of actions would earn from here, discounted.

        Rewards count by their sign, as the model predicts them.

        Args:
            actions: int (games, sequences, steps).
            discount: of each step.

        Returns:
            float (games, sequences).
        """


class EmulatorSimulator:
    """The game's own emulator, cloned: a perfect model."""

    def __init__(self, game: AtariGame):
        self._game = game

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`; of one game."""
        rewards = np.sign(self._game.rewards_ahead(actions[0]))
        return (rewards @ discount ** np.arange(actions.shape[2]))[None]


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
        """See `Simulator`."""
        batch = {"frames": frames, "actions": actions.astype(np.int32)}
        self._state = self._begin.predict_on_batch(batch)

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """See `Simulator`."""
        actions = actions.astype(np.int32)[:, None]
        batch = {"frames": frames[:, None], "actions": actions, "state": self._state}
        self._state = self._observe.predict_on_batch(batch)

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`; expected rewards, each times the chance that the game is still on."""
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


class Planner:
    """Model-predictive control: chooses sequences of actions at every step, to begin with.

    "shooting" (random shooting) draws sequences of held actions and takes the one that earns most.
    "cem" (the cross-entropy method) draws them in rounds: from the second on, each step's action is
    drawn as often as the best of the round before took it there. Either way the rest of the plan
    before is among them, and is gone on with where nothing earns more.

    Args:
        num_actions: of the game.
        horizon: steps looked ahead.
        num_rollouts: sequences tried for a game in each decision, of all rounds together; 2 at
            least.
        method: one of `METHODS`.
        rngs: where the sequences of each game are drawn from.
    """

    DISCOUNT = 0.97
    HOLD_STEPS = (32, 16, 8, 4, 2)  # mean times that actions are held, as many sequences with each
    ROUNDS = 3  # of the cross-entropy method
    ELITE = 0.15  # of a round's sequences
    SMOOTHING = 0.1  # of each step's action drawn uniformly all the same

    def __init__(
        self,
        num_actions: int,
        horizon: int,
        num_rollouts: int,
        method: str,
        rngs: list[np.random.Generator],
    ):
        self._num_actions, self._rngs = num_actions, rngs
        # Rounds of one size, which compile once; what a division leaves over is not tried.
        # The plan before is one of a round's: at least one beside it is new.
        self._rounds = max(1, min(self.ROUNDS, num_rollouts // 2)) if method == "cem" else 1
        self._size = num_rollouts // self._rounds
        self._uniform = np.full((len(rngs), horizon, num_actions), 1 / num_actions)
        self._plans = self._draw(self._uniform, 1)[:, 0]

    def plan(self, simulator: Simulator) -> np.ndarray:
        """Each game's sequence of actions that earns most from here, int (games, horizon)."""
        games = np.arange(len(self._rngs))
        likely, best = self._uniform, self._plans
        for i in range(self._rounds):
            tried = self._draw(likely, self._size)
            tried[:, 0] = best
            values = simulator.values(tried, self.DISCOUNT)
            # Of equals the first: what is going on already.
            best = tried[games, values.argmax(axis=1)]
            if i + 1 < self._rounds:
                count = max(1, int(self._size * self.ELITE))
                order = np.argsort(-values, axis=1, kind="stable")[:, :count]
                elite = np.take_along_axis(tried, order[..., None], axis=1)
                # Where most earn the same, nothing mostly, those are no better than any others.
                better = np.take_along_axis(values, order, 1) > values.min(axis=1, keepdims=True)
                taken = elite[..., None] == np.arange(self._num_actions)
                taken = (taken * better[..., None, None]).sum(axis=1)
                taken = taken / np.maximum(better.sum(axis=1), 1)[:, None, None]
                found = (1 - self.SMOOTHING) * taken + self.SMOOTHING * self._uniform
                likely = np.where(better.any(axis=1)[:, None, None], found, likely)
        # What follows the first action is where the next decision starts from.
        self._plans = np.stack([self._go_on(*one) for one in zip(best, self._rngs, strict=True)])
        return best

    def _go_on(self, plan, rng):
        """The rest of a plan and one action more: mostly the last one held."""
        other = rng.integers(self._num_actions)
        held = rng.random() < 1 - 1 / np.mean(self.HOLD_STEPS)
        return np.append(plan[1:], plan[-1] if held else other)

    def _draw(self, likely, count):
        """Held actions (games, count, horizon), from each step's probabilities."""
        limits = np.cumsum(likely, axis=2)[..., :-1]
        means = np.resize(self.HOLD_STEPS, (count, 1))
        drawn = []
        for limit, rng in zip(limits, self._rngs, strict=True):
            actions = (rng.random((count, len(limit), 1)) >= limit).sum(axis=2)
            drawn.append(hold(actions, means, rng))
        return np.stack(drawn)
