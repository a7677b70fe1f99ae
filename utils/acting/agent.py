"""Plays the imagined game by planning in the model that imagines it, a little at each step.

The agent tries sequences of actions in the model and takes the one with the largest reward (random
shooting). To look ahead takes far longer than one step of the game. So it is done while the actions
that are chosen already are played:

    step         0 .. AHEAD - 1          AHEAD .. 2 AHEAD - 1    ..
    played       chosen before           the best sequence's beginning
    imagined     those actions, then     the same from there on
                 all sequences

No reward is lost by that in the imagined game, because it goes as the same model has imagined it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from model.predictor import State
from systems.planning import Planner
from systems.policies import hold

if TYPE_CHECKING:
    from utils.acting.twin_game import WorldModel

AHEAD = 12  # actions played while the next ones are chosen
# Tried at a time. The paper variant has to decode and encode each step of each.
SEQUENCES = {"paper": 8, "compression": 32}
STEPS = 24  # of a sequence
IMAGINED_AT_ONCE = (AHEAD + STEPS) // AHEAD  # steps of the look-ahead for each step of the game
# A sequence has to be better than to go on as planned by this much, or noise would decide.
MARGIN = 0.01


class Agent:
    """Chooses the actions of one imagined game.

    Args:
        num_actions: of the game.
        seed: of the sequences.
    """

    def __init__(self, num_actions: int, seed: int):
        self._num_actions, self._rng = num_actions, np.random.default_rng(seed)
        self.forget()

    def forget(self) -> None:
        """Lets go of what was planned, because the game has gone on otherwise."""
        self._plan = self._draw(1)[0]
        self._played, self._look_ahead = 0, None

    def action(self, model: WorldModel, state: State) -> int:
        """Returns the next action.

        Args:
            model: imagines the game.
            state: of the imagined game.
        """
        if self._look_ahead is None:
            self._look_ahead = self._choose(model, state)
        for _ in range(IMAGINED_AT_ONCE):
            next(self._look_ahead, None)
        action = int(self._plan[self._played])
        self._played += 1
        if self._played == AHEAD:
            self._plan, self._played, self._look_ahead = self._best, 0, None
        return action

    def _choose(self, model: WorldModel, state: State) -> Iterator[None]:
        """Chooses what follows the plan's first `AHEAD` actions; yields after each imagined step.

        Sets `_best` before its last yield.
        """
        for action in self._plan[:AHEAD]:
            state = model.imagine(state, np.array([action]))["state"]
            yield
        count = SEQUENCES[model.checkpoint.config.variant]
        sequences = self._draw(count)
        rest = self._plan[AHEAD:]
        sequences[0] = np.pad(rest, (0, AHEAD), mode="edge")
        values, alive, rows = np.zeros(count), np.ones(count), np.zeros(count, int)
        for t in range(STEPS):
            predictions = model.imagine(state, sequences[:, t], rows)
            state, rows = predictions["state"], None
            reward = predictions["reward"][:, 0]
            values += Planner.DISCOUNT**t * alive * (reward[:, 2] - reward[:, 0])
            alive = alive * (1 - predictions["termination"][:, 0])
            if t == STEPS - 1:
                self._best = sequences[self._index(values)]
            yield

    def _index(self, values):
        """The best sequence; one by chance if no reward is in sight, so that the player moves."""
        if values.max() - values.min() < MARGIN:
            return self._rng.integers(len(values))
        return 0 if values.max() < values[0] + MARGIN else values.argmax()

    def _draw(self, count):
        """Draws sequences of held actions, (count, STEPS)."""
        drawn = self._rng.integers(self._num_actions, size=(count, STEPS))
        means = np.resize(Planner.HOLD_STEPS, (count, 1))
        return hold(drawn, means, self._rng)
