"""Who chooses the actions while a data set is recorded."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from systems.atari import AtariGame
from systems.errors import InputError


class Policy(Protocol):
    """Chooses actions for one game.

    Attributes:
        settings: numbers that belong to the policy, for the record.
    """

    settings: dict[str, float]

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        """Takes the game that will be played and where to draw random numbers from."""

    def reset(self) -> None:
        """Begins an episode."""

    def action(self) -> int:
        """Returns the next action, an index into the game's `action_meanings`."""


class RandomPolicy:
    """Draws every action uniformly."""

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        self.settings = {}
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

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        self.settings = {"mean_hold_steps": self.MEAN_HOLD_STEPS}
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


def hold(drawn: np.ndarray, mean_steps, rng: np.random.Generator) -> np.ndarray:
    """Sequences of actions, each held for a random time, from one drawn for every step.

    Args:
        drawn: int (sequences, steps), the action taken up where the one before is let go.
        mean_steps: of holding, a number or one for each sequence, (sequences, 1).
        rng: where the times are drawn from.
    """
    again = rng.random(drawn.shape) < 1 / mean_steps
    again[:, 0] = True
    # Each step takes the action of the last step at which one was taken up.
    steps = np.arange(drawn.shape[1])
    last_taken = np.maximum.accumulate(np.where(again, steps, 0), axis=1)
    return np.take_along_axis(drawn, last_taken, axis=1)


class LookaheadPolicy:
    """Plays well without having learned: looks ahead in the emulator, and at times acts at random.

    For each action it plays `NUM_ROLLOUTS` futures of `NUM_STEPS` steps from the present moment
    under random, held actions and begins the one with the largest discounted reward (random
    shooting, the simplest planner). Where none of them earns anything it goes on as
    `PersistentPolicy` does, so that it gets about. With probability `epsilon` it takes a random
    action instead, as the trained player did whose games Oh et al. 2015 (section 4) recorded.
    """

    NUM_ROLLOUTS = 8
    NUM_STEPS = 13
    MEAN_HOLD_STEPS = 5
    DISCOUNT = 0.97
    EPSILON = 0.3

    def __init__(self, game: AtariGame, rng: np.random.Generator, epsilon: float = EPSILON) -> None:
        self.settings = {
            "num_rollouts": self.NUM_ROLLOUTS,
            "num_steps": self.NUM_STEPS,
            "mean_hold_steps": self.MEAN_HOLD_STEPS,
            "discount": self.DISCOUNT,
            "epsilon": epsilon,
        }
        self._game = game
        self._rng = rng
        self._epsilon = epsilon
        self._otherwise = PersistentPolicy(game, rng)
        self._discounts = self.DISCOUNT ** np.arange(self.NUM_STEPS)

    def reset(self) -> None:
        """Lets go of the action that is held."""
        self._otherwise.reset()

    def action(self) -> int:
        """Returns the next action."""
        # Drawn in every step, so that what is held goes on by itself.
        otherwise = self._otherwise.action()
        if self._rng.random() < self._epsilon:
            return int(self._rng.integers(self._game.num_actions))
        shape = self.NUM_ROLLOUTS, self.NUM_STEPS
        drawn = self._rng.integers(self._game.num_actions, size=shape)
        futures = hold(drawn, self.MEAN_HOLD_STEPS, self._rng)
        values = self._game.rewards_ahead(futures) @ self._discounts
        if values.max() == values.min():
            return otherwise
        return int(futures[values.argmax(), 0])


POLICIES: dict[str, type[Policy]] = {
    "random": RandomPolicy,
    "persistent": PersistentPolicy,
    "lookahead": LookaheadPolicy,
}


def policy_name(policy: str, epsilon: float | None = None) -> str:
    """What a policy is called: lookahead, or lookahead-epsilon0_1 with another epsilon than 0.3.

    Without a dot, which Minari takes in no name.

    Raises:
        InputError: there is no such policy, or it takes no epsilon, or that is no probability.
    """
    if policy not in POLICIES:
        raise InputError(f"expected policy to be one of {', '.join(POLICIES)}, received {policy!r}")
    if epsilon is None:
        return policy
    if policy != "lookahead":
        raise InputError(f"expected an epsilon for lookahead alone, received one for {policy}")
    if not 0 <= epsilon <= 1:
        raise InputError(f"expected epsilon to be between 0 and 1, received {epsilon}")
    if epsilon == LookaheadPolicy.EPSILON:
        return policy
    return f"{policy}-epsilon{epsilon}".replace(".", "_")


def make_policy(name: str, game: AtariGame, rng: np.random.Generator) -> Policy:
    """The policy that `policy_name` called so."""
    policy, _, epsilon = name.partition("-epsilon")
    more = {"epsilon": float(epsilon.replace("_", "."))} if epsilon else {}
    return POLICIES[policy](game, rng, **more)
