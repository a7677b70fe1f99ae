"""What the policies do, as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from systems.atari import AtariGame
from systems.policies import POLICIES, PersistentPolicy, RandomPolicy


@pytest.fixture(scope="module")
def ms_pacman() -> AtariGame:
    return AtariGame("ms_pacman")


def actions_of(policy, length: int) -> np.ndarray:
    return np.array([policy.action() for _ in range(length)])


def test_random_policy_is_uniform_and_without_memory(ms_pacman):
    actions = actions_of(RandomPolicy(ms_pacman, np.random.default_rng(0)), 18_000)
    counts = np.bincount(actions, minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 2000).max() < 200  # under five standard deviations
    assert abs(np.mean(actions[1:] == actions[:-1]) - 1 / 9) < 0.012


def test_persistent_policy_holds_actions_for_a_geometric_time(ms_pacman):
    actions = actions_of(PersistentPolicy(ms_pacman, np.random.default_rng(0)), 100_000)
    counts = np.bincount(actions, minlength=9)
    assert len(counts) == 9 and counts.min() > 8000
    # Of the draws, one in 20 steps, one in 9 repeats the action that was held.
    changed = actions[1:] != actions[:-1]
    assert abs(np.mean(changed) - 8 / 9 / 20) < 0.004
    # Geometric: whether the action changes does not depend on how long it was held.
    changed_just_before = changed[1:][changed[:-1]]
    assert abs(np.mean(changed_just_before) - 8 / 9 / 20) < 0.02


def test_persistent_policy_lets_go_at_reset(ms_pacman):
    policy = PersistentPolicy(ms_pacman, np.random.default_rng(0))
    first_actions = []
    for _ in range(2000):
        policy.reset()
        first_actions.append(policy.action())
    repeats = np.mean(np.array(first_actions[1:]) == first_actions[:-1])
    assert abs(repeats - 1 / 9) < 0.04


@pytest.mark.parametrize("name", POLICIES)
def test_same_seed_same_actions(name, ms_pacman):
    def play(seed):
        return actions_of(POLICIES[name](ms_pacman, np.random.default_rng(seed)), 200).tolist()

    assert play(1) == play(1) != play(2)


def test_only_the_persistent_policy_crosses_the_road():
    game = AtariGame("freeway")
    crossings = {}
    for name, policy_class in POLICIES.items():
        policy = policy_class(game, np.random.default_rng(0))
        game.reset()
        crossings[name] = sum(game.step(policy.action())[1] for _ in range(1000))
    assert crossings["random"] == 0 and crossings["persistent"] >= 1
