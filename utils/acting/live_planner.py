"""Plays the imagined game by planning in the model that imagines it, a little at each step.

It tries sequences of actions in the model and takes the one with the largest reward (random
shooting). To look ahead takes far longer than one step of the game. So it is done while the actions
that are chosen already are played:

    step         0 .. AHEAD - 1          AHEAD .. 2 AHEAD - 1    ..
    played       chosen before           the best sequence's beginning
    imagined     those actions, then     the same from there on
                 all sequences

No reward is lost by that in the imagined game, because it goes as the same model has imagined it.
"""

from __future__ import annotations

import math
import time
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


class LivePlanner:
    """Chooses the actions of one imagined game.

    Args:
        num_actions: of the game.
        seed: of the sequences.
        seconds: of each step that looking ahead may take, roughly. On a machine that is too slow
            it looks less far ahead.
    """

    def __init__(self, num_actions: int, seed: int, seconds: float = math.inf):
        self._num_actions, self._rng = num_actions, np.random.default_rng(seed)
        self._seconds = seconds
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
        end = time.monotonic() + self._seconds
        if self._look_ahead is None:
            self._begin(model)
            self._look_ahead = self._look(model, state)
        for _ in range(IMAGINED_AT_ONCE):
            next(self._look_ahead, None)
            if time.monotonic() > end:
                break
        action = int(self._plan[self._played])
        self._played += 1
        if self._played == AHEAD:
            self._plan = self._sequences[self._best()]
            self._played, self._look_ahead = 0, None
        return action

    def _begin(self, model):
        """Draws the sequences. The first one is to go on as planned, with the last action held."""
        self._sequences = self._draw(SEQUENCES[model.checkpoint.config.variant])
        self._sequences[0] = np.pad(self._plan[AHEAD:], (0, AHEAD), mode="edge")
        self._values = np.zeros(len(self._sequences))

    def _look(self, model: WorldModel, state: State) -> Iterator[None]:
        """Adds up what the sequences earn after the plan; yields after each imagined step."""
        for action in self._plan[:AHEAD]:
            state = model.look(state, np.array([action]))["state"]
            yield
        rows, alive = np.zeros(len(self._sequences), int), 1.0
        for t in range(STEPS):
            predictions = model.look(state, self._sequences[:, t], rows)
            state, rows = predictions["state"], None
            reward = predictions["reward"][:, 0]
            self._values += Planner.DISCOUNT**t * alive * (reward[:, 2] - reward[:, 0])
            alive = alive * (1 - predictions["termination"][:, 0])
            yield

    def _best(self):
        """The best sequence; one by chance if no reward is in sight, so that the player moves."""
        values = self._values
        if values.max() - values.min() < MARGIN:
            return self._rng.integers(len(values))
        return 0 if values.max() < values[0] + MARGIN else values.argmax()

    def _draw(self, count):
        """Draws sequences of held actions, (count, STEPS)."""
        drawn = self._rng.integers(self._num_actions, size=(count, STEPS))
        means = np.resize(Planner.HOLD_STEPS, (count, 1))
        return hold(drawn, means, self._rng)
