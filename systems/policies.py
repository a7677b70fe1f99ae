"""Policies: they choose the actions while a data set is recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from systems.atari import AtariGame
from systems.errors import InputError
from systems.skilled import SkilledPolicy


class Policy(Protocol):
    """Chooses actions for one game.

    Attributes:
        settings: the policy's own numbers, which metadata.json records.
    """

    settings: dict[str, float]

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        """Receives the game that will be played and the random numbers to use."""

    def reset(self) -> None:
        """Starts an episode."""

    def action(self) -> int:
        """Returns the next action, an index into the game's `action_meanings`."""


class RandomPolicy:
    """Draws every action uniformly."""

    def __init__(self, game: AtariGame, rng: np.random.Generator) -> None:
        self.settings = {}
        self._num_actions = game.num_actions
        self._rng = rng

    def reset(self) -> None:
        """Does nothing, because no action depends on another."""

    def action(self) -> int:
        """Returns the next action."""
        return int(self._rng.integers(self._num_actions))


class PersistentPolicy:
    """Draws actions uniformly and holds each for a random time, geometric with mean 20 steps.

    Single random actions cancel each other out; held ones move the player. Freeway's chicken needs
    some 35 steps of UP to cross the road. Under `RandomPolicy` it never crosses. Under this policy
    it crosses 3.8 times in an episode of 2,048 steps. Means of 5, 10 and 40 steps give 1, 3 and 7.
    A model still sees each action often enough to learn what it does.
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
    """Returns sequences in which each action is held for a random time.

    Args:
        drawn: int (sequences, steps), an action for every step, used where a new one begins.
        mean_steps: of holding, a number or one for each sequence, (sequences, 1).
        rng: draws the times.
    """
    begins = rng.random(drawn.shape) < 1 / mean_steps
    begins[:, 0] = True
    # Each step takes the action of the last step at which one began.
    steps = np.arange(drawn.shape[1])
    last_begun = np.maximum.accumulate(np.where(begins, steps, 0), axis=1)
    return np.take_along_axis(drawn, last_begun, axis=1)


class LookaheadPolicy:
    """Plays well without learning: it looks ahead in the emulator, and at times acts at random.

    For each action it plays `NUM_ROLLOUTS` futures of `NUM_STEPS` steps under random, held actions.
    It begins the future with the largest discounted reward (random shooting, the simplest planner).
    If all futures earn the same, it acts as `PersistentPolicy` does, so that it moves about.

    With probability `epsilon` it takes a random action instead. So did the trained player whose
    games Oh et al. 2015 (section 4) recorded.
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
        # This is drawn at every step, so that the time of a held action runs on.
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


class MixedPolicy:
    """Lets several policies play in turns, each for a random time, geometric with mean 60 steps.

    A model that is planned in must also know what bad play leads to, and how to go on from there.

    Args:
        policies: who play, each with the share of all steps that it plays.
        rng: draws who plays for how long.
    """

    MEAN_TURN_STEPS = 60

    def __init__(
        self, policies: Sequence[Policy], shares: Sequence[float], rng: np.random.Generator
    ) -> None:
        self.settings = {"mean_turn_steps": self.MEAN_TURN_STEPS}
        self._policies, self._shares, self._rng = policies, shares, rng
        self.reset()

    def reset(self) -> None:
        """Ends the turn."""
        self._steps_left = 0

    def action(self) -> int:
        """Returns the next action."""
        if self._steps_left == 0:
            self._playing = self._policies[self._rng.choice(len(self._policies), p=self._shares)]
            self._playing.reset()
            self._steps_left = int(self._rng.geometric(1 / self.MEAN_TURN_STEPS))
        self._steps_left -= 1
        return self._playing.action()


class KnownActions:
    """Repeats the first actions that a policy took in an episode, without the time to choose them.

    Args:
        policy: what took them, which takes those after them.
        actions: indices into the game's `action_meanings`.
    """

    def __init__(self, policy: Policy, actions: Sequence[int]) -> None:
        self.settings = policy.settings
        self._policy, self._actions = policy, actions
        self.reset()

    def reset(self) -> None:
        """Starts over."""
        self._policy.reset()
        self._left = iter(self._actions)

    def action(self) -> int:
        """Returns the next action."""
        known = next(self._left, None)
        return self._policy.action() if known is None else int(known)


POLICIES: dict[str, type[Policy]] = {
    "random": RandomPolicy,
    "persistent": PersistentPolicy,
    "lookahead": LookaheadPolicy,
    "skilled": SkilledPolicy,
}
LOOK_AHEAD = "lookahead", "skilled"  # the policies that need the Atari emulator and have an epsilon
SMALLEST = 1e-6  # share or epsilon above 0; names would grow long with the digits of smaller ones


def shares_of(policy: str) -> dict[str, float]:
    """Returns the share of the steps that each policy plays.

    Args:
        policy: a name in `POLICIES`, or several with their shares: "random:0.2,skilled:0.8".

    Raises:
        InputError: there is no such policy, a share is too small, or they do not add up to 1.
    """
    shares = {}
    for part in policy.split(","):
        name, colon, share = part.partition(":")
        try:
            value = float(share) if colon else float(policy == name)
        except ValueError:
            value = 0.0
        if name not in POLICIES or name in shares:
            raise InputError(
                f"expected policy to be one of {', '.join(POLICIES)}, or several with their "
                f"shares such as random:0.2,skilled:0.8, received {policy!r}; choose one"
            )
        shares[name] = value
    # Asked this way round, so that nan is refused, too.
    if not (min(shares.values()) >= SMALLEST and abs(sum(shares.values()) - 1) <= 1e-6):
        raise InputError(
            f"expected shares of at least {_digits(SMALLEST)} that add up to 1, such as "
            f"random:0.2,skilled:0.8, received {policy!r}; choose others"
        )
    return shares


def policy_name(policy: str, epsilon: float | None = None) -> str:
    """Returns a policy's name in data sets.

    It is made of letters, digits, hyphens and underscores, because Minari allows no others. An
    underscore stands for a dot: lookahead-epsilon0_1, or random0_2-skilled0_8.

    Args:
        policy: as `shares_of` takes it.
        epsilon: of those that look ahead; None for their own.

    Raises:
        InputError: there is no such policy, it takes no epsilon, or epsilon is no probability or
            too small.
    """
    shares = shares_of(policy)
    name = "-".join(each + (_digits(share) if share != 1 else "") for each, share in shares.items())
    if epsilon is not None:
        with_epsilon = [POLICIES[each] for each in shares if each in LOOK_AHEAD]
        if not with_epsilon:
            raise InputError(
                f"expected an epsilon for {' or '.join(LOOK_AHEAD)} alone, received one for "
                f"{policy}; leave it out or choose one of these"
            )
        if not (epsilon == 0 or SMALLEST <= epsilon <= 1):
            raise InputError(
                f"expected epsilon to be between 0 and 1, and at least {_digits(SMALLEST)} if it "
                f"is not 0, received {epsilon}; choose another"
            )
        if any(epsilon != kind.EPSILON for kind in with_epsilon):
            name += f"-epsilon{_digits(epsilon)}"
    return name.replace(".", "_")


def _digits(number: float) -> str:
    """A number of 0 or above, exactly and without an exponent, as `make_policy` reads it."""
    # abs, because -0.0 is 0, too, and would be written with its sign.
    return np.format_float_positional(abs(number), trim="-")


def looks_ahead(policy: str) -> bool:
    """Whether a policy needs the Atari emulator; `policy` as `shares_of` takes it."""
    return not set(shares_of(policy)).isdisjoint(LOOK_AHEAD)


def make_policy(name: str, game: AtariGame, rng: np.random.Generator) -> Policy:
    """Returns the policy that `policy_name` called `name`."""
    parts = re.findall(r"([a-z]+)([0-9_]*)", name)
    number = {part: float(value.replace("_", ".") or 1) for part, value in parts}
    epsilon = number.pop("epsilon", None)
    policies = []
    for each in number:
        more = {} if epsilon is None or each not in LOOK_AHEAD else {"epsilon": epsilon}
        policies.append(POLICIES[each](game, rng, **more))
    if len(policies) == 1:
        return policies[0]
    # The user's shares add up to 1 less exactly than NumPy asks for.
    shares = np.array(list(number.values()))
    return MixedPolicy(policies, shares / shares.sum(), rng)
