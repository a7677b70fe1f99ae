"""A player that wins in most games without learning: it tries plans in the cloned emulator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from systems.atari import AtariGame


class _Plan(NamedTuple):
    """Holds an action and then does nothing. The largest plan is the best one."""

    survived: int  # the step that loses a life, or `NUM_STEPS`
    reward: float  # discounted
    tie: float  # at random
    action: int
    hold_steps: int


class SkilledPolicy:
    """Plays to win by far-sighted plans of one held action each.

    A plan holds one action for one of `HOLD_STEPS` and then does nothing, until `NUM_STEPS` or a
    lost life. Of the plans that live longest, the one with the largest discounted reward is carried
    out for `STEPS_CARRIED_OUT`, and then there is a new one.

    `LookaheadPolicy` sees 13 steps of random play. A point of Pong is won some 40 steps after the
    stroke that wins it, if the player then stays where it is.

    With probability `epsilon` it takes a random action instead, and then plans anew.

    Args:
        game: that is played.
        rng: draws random actions and breaks ties.
        epsilon: how often an action is random.
    """

    HOLD_STEPS = 1, 2, 4, 7, 11, 16, 50
    NUM_STEPS = 50
    STEPS_CARRIED_OUT = 6
    DISCOUNT = 0.99
    EPSILON = 0.1

    def __init__(self, game: AtariGame, rng: np.random.Generator, epsilon: float = EPSILON) -> None:
        self.settings = {
            "num_steps": self.NUM_STEPS,
            "steps_carried_out": self.STEPS_CARRIED_OUT,
            "discount": self.DISCOUNT,
            "epsilon": epsilon,
        }
        self._game, self._rng, self._epsilon = game, rng, epsilon
        self.reset()

    def reset(self) -> None:
        """Forgets the plan."""
        self._left: list[int] = []

    def action(self) -> int:
        """Returns the next action."""
        if self._rng.random() < self._epsilon:
            self.reset()
            return int(self._rng.integers(self._game.num_actions))
        if not self._left:
            best = max(self._plans())
            steps = range(self.STEPS_CARRIED_OUT)
            self._left = [best.action if step < best.hold_steps else 0 for step in steps]
        return self._left.pop(0)

    def _plans(self) -> list[_Plan]:
        """All plans, played from here on. The game stays as it is."""
        game, begin = self._game, self._game.clone_state()
        lives, plans = game.lives, []
        # What doing nothing gives from a step and a memory on. Many plans meet again: a paddle that
        # has stopped is where it is, whatever brought it there.
        known: dict[tuple[int, bytes], tuple[int, float]] = {}
        for action in range(game.num_actions):
            game.restore_state(begin)
            reward, step, lost = 0.0, 0, False
            for hold_steps in self.HOLD_STEPS if action else (0,):
                while step < hold_steps and not lost:
                    reward += self.DISCOUNT**step * game.step_unseen(action)
                    step, lost = step + 1, self._lost(lives)
                if lost:  # and longer holds lose it, too
                    plans.append(_Plan(step - 1, reward, self._rng.random(), action, hold_steps))
                    break
                held = game.clone_state()
                survived, rest = self._do_nothing(step, lives, known)
                game.restore_state(held)
                tie = self._rng.random()
                plans.append(_Plan(survived, reward + rest, tie, action, hold_steps))
        game.restore_state(begin)
        return plans

    def _do_nothing(self, step, lives, known):
        """The step that loses a life, and the discounted reward from `step` on."""
        played, survived, reward = [], self.NUM_STEPS, 0.0
        while step < self.NUM_STEPS:
            moment = step, self._game.memory()
            if moment in known:
                survived, reward = known[moment]
                break
            played.append((moment, self.DISCOUNT**step * self._game.step_unseen(0)))
            if self._lost(lives):
                survived = step
                break
            step += 1
        for moment, earned in reversed(played):
            reward += earned
            known[moment] = survived, reward
        return survived, reward

    def _lost(self, lives):
        return self._game.lives < lives or self._game.terminated
