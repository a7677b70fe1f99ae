"""Proximal policy optimisation in the compressed game, from top to bottom.

Each update imagines short games from real starts, with the policy as it is, and then learns from
them:

    starts -> imagined steps -> advantages -> two passes of PPO over all steps -> the next policy

Sources: Schulman et al. 2017, arXiv 1707.06347 (PPO); Schulman et al. 2016, arXiv 1506.02438,
section 3 (advantages); Hafner et al. 2020, arXiv 1912.01603, section 3 (learning in imagination).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np

from model.actor_critic import ActorCritic
from model.predictor import State
from utils.acting.ppo_config import PPOConfig


@dataclass
class Steps:
    """Imagined steps, arrays (horizon, games, ...)."""

    outputs: np.ndarray  # float32 (..., 2048), the LSTM's, in which the action is chosen
    actions: np.ndarray  # int32
    log_policy: np.ndarray  # float32, of the action
    values: np.ndarray  # float32, one row more: also after the last step
    rewards: np.ndarray  # float32, the expected sign
    ends: np.ndarray  # float32, the probability that the step ends the game


class Games(Protocol):
    """What an agent learns in: `Dream` or `EmulatedGames`."""

    def begin(self, games: int, rng: np.random.Generator) -> State:
        """Begins so many games at starts drawn at random."""

    def step(self, state: State, actions: np.ndarray) -> tuple[State, np.ndarray, np.ndarray]:
        """Returns the next state, the rewards, and the probabilities that the step ends a game."""


class PPO:
    """Trains an agent in many short games.

    Args:
        games: those that it plays.
        agent: what is trained; compiled here.
        config: how.
    """

    def __init__(self, games: Games, agent: ActorCritic, config: PPOConfig):
        self._games, self.agent, self._config = games, agent, config
        self.rng = np.random.default_rng(config.seed)
        rate = keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate,
            config.num_updates * self._batches_per_update,
            0.1 * config.learning_rate,
        )
        agent.compile(keras.optimizers.Adam(rate, epsilon=1e-5, clipnorm=0.5))
        agent.optimizer.build(agent.trainable_variables)

    @property
    def _batches_per_update(self):
        config = self._config
        return config.passes * max(1, config.steps_per_update // config.batch_size)

    def update(self) -> dict[str, float]:
        """Imagines and learns once.

        Returns:
            dict of imagined_return, the mean sum of expected rewards of a game; loss, entropy and
            value_error; and steps_per_second.
        """
        started = time.perf_counter()
        steps = self._imagine()
        losses = self._learn(steps)
        alive = survival(steps.ends)
        seconds = time.perf_counter() - started
        return losses | {
            "imagined_return": float((steps.rewards * alive).sum(axis=0).mean()),
            "steps_per_second": steps.rewards.size / seconds,
        }

    def _imagine(self) -> Steps:
        """Plays the policy from drawn starts."""
        config, agent = self._config, self.agent
        state = self._games.begin(config.num_envs, self.rng)
        rows = {
            key: [] for key in ("outputs", "actions", "log_policy", "values", "rewards", "ends")
        }
        for _ in range(config.horizon):
            outputs = np.asarray(state.h)
            predicted = agent.predict_on_batch(outputs)
            log_policy = predicted["log_policy"]
            actions = (log_policy + self.rng.gumbel(size=log_policy.shape)).argmax(axis=1)
            state, rewards, ends = self._games.step(state, actions)
            taken = np.take_along_axis(log_policy, actions[:, None], axis=1)[:, 0]
            row = outputs, actions.astype(np.int32), taken, predicted["value"], rewards, ends
            for values, value in zip(rows.values(), row, strict=True):
                values.append(value)
        rows["values"].append(agent.predict_on_batch(np.asarray(state.h))["value"])
        return Steps(**{key: np.stack(values) for key, values in rows.items()})

    def _learn(self, steps: Steps) -> dict[str, float]:
        """Passes over all steps in random order, in batches."""
        config = self._config
        steps.values = steps.values.clip(*possible_values(steps, config.discount))
        gained = advantages(steps, config.discount, config.trace)
        weights = survival(steps.ends)
        rows = {
            "outputs": steps.outputs.reshape(-1, steps.outputs.shape[-1]),
            "actions": steps.actions.ravel(),
            "log_policy": steps.log_policy.ravel(),
            "advantages": normalised(gained, weights).ravel(),
            "returns": (gained + steps.values[:-1]).ravel(),
            "weights": weights.ravel(),
        }
        count, sums = weights.size, {}
        size = min(config.batch_size, count)
        for _ in range(config.passes):
            order = self.rng.permutation(count)[: count - count % size]
            for part in order.reshape(-1, size):
                batch = {key: values[part].astype(values.dtype) for key, values in rows.items()}
                self.agent.reset_metrics()
                for key, value in self.agent.train_on_batch(batch, return_dict=True).items():
                    sums.setdefault(key, []).append(float(value))
        return {key: float(np.mean(values)) for key, values in sums.items()}


def survival(ends: np.ndarray) -> np.ndarray:
    """The probability that a game is not over before each step, float32 (horizon, games)."""
    after = np.cumprod(1 - ends, axis=0)
    return np.concatenate([np.ones_like(after[:1]), after[:-1]]).astype(np.float32)


def normalised(advantages: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Advantages of mean 0 and deviation 1 over the steps that are played.

    Args:
        advantages: float32 (horizon, games).
        weights: float32 (horizon, games), see `survival`.
    """
    mean = np.average(advantages, weights=weights)
    deviation = np.sqrt(np.average((advantages - mean) ** 2, weights=weights))
    return ((advantages - mean) / (deviation + 1e-8)).astype(np.float32)


def possible_values(steps: Steps, discount: float) -> tuple[float, float]:
    """The least and the most that any state can be worth.

    That is what the worst and the best game earn from any step on, if they went on so for ever.
    Values are learned from values after the last step, which no reward corrects. Without limits
    they grew without end. Where nothing is earned, there are none.

    Args:
        steps: what was imagined.
        discount: see `advantages`.
    """
    later, earned = np.zeros_like(steps.rewards[0]), []
    for rewards, ends in zip(steps.rewards[::-1], steps.ends[::-1], strict=True):
        later = rewards + discount * (1 - ends) * later
        earned.append(later)
    if discount == 1 or not np.any(earned):
        return -np.inf, np.inf
    endless = 1 / (1 - discount ** len(steps.rewards))
    return min(0.0, float(np.min(earned))) * endless, max(0.0, float(np.max(earned))) * endless


def advantages(steps: Steps, discount: float, trace: float) -> np.ndarray:
    """Generalised advantages, float32 (horizon, games).

    What follows a step counts as far as the step is not expected to end the game.

    Args:
        steps: what was imagined.
        discount: what a reward is multiplied by for each step that it is later.
        trace: how far later steps' surprises count; 1: to the end.
    """
    goes_on = discount * (1 - steps.ends)
    surprise = steps.rewards + goes_on * steps.values[1:] - steps.values[:-1]
    result = np.zeros_like(surprise)
    later = np.zeros_like(surprise[0])
    for t in reversed(range(len(surprise))):
        later = surprise[t] + trace * goes_on[t] * later
        result[t] = later
    return result.astype(np.float32)
