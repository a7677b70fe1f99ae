"""Who chooses the actions while a data set is recorded."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from systems.atari import AtariGame


class Policy(Protocol):
    """Chooses actions for one game.

    Attributes:
        settings: numbers that belong to the policy, for the record.
    """

    settings: ClassVar[dict[str, float]]

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        """Takes the game that will be played and where to draw random numbers from."""

    def reset(self) -> None:
        """Begins an episode."""

    def action(self) -> int:
        """Returns the next action, an index into the game's `action_meanings`."""


class RandomPolicy:
    """Draws every action uniformly."""

    settings: ClassVar[dict[str, float]] = {}

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        self._num_actions = game.num_actions
        self._rng = rng

    def reset(self) -> None:
        """Does nothing: no action depends on another."""

    def action(self) -> int:
        """Returns the next action."""
        return int(self._rng.integers(self._num_actions))


class PersistentPolicy:
    """Draws actions uniformly and holds each for a random time, geometric with mean 20 steps.

    It gets somewhere where single random actions cancel each other out. Freeway's chicken needs
    some 35 steps of UP to cross the road: under `RandomPolicy` it never does, under this policy
    2 to 7 times in each episode of 2,048 steps, 3.8 on average (1 at a mean of 5 steps, 3 at 10,
    7 at 40). The actions change often enough to tell what each does.
    """

    MEAN_HOLD_STEPS = 20
    settings: ClassVar[dict[str, float]] = {"mean_hold_steps": MEAN_HOLD_STEPS}

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        self._num_actions = game.num_actions
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        """Lets go of the action that is held."""
        self._steps_left = 0

    def action(self) -> int:
        """Returns the next action."""
        if self._steps_left == 0:
            self._held = int(self._rng.integers(self._num_actions))
            self._steps_left = int(self._rng.geometric(1 / self.MEAN_HOLD_STEPS))
        self._steps_left -= 1
        return self._held


POLICIES: dict[str, type[Policy]] = {"random": RandomPolicy, "persistent": PersistentPolicy}
