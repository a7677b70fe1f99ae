"""What the policies do, as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from systems.atari import AtariGame
from systems.errors import InputError
from systems.planning import METHODS, Play, play_in_processes, play_side_by_side
from systems.policies import (
    POLICIES,
    LookaheadPolicy,
    MixedPolicy,
    PersistentPolicy,
    RandomPolicy,
    SkilledPolicy,
    hold,
    make_policy,
    policy_name,
)
from systems.real_game import RealGame
from systems.seeds import PURPOSES, generator

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough) if name in ("lookahead", "skilled") else name
        for name in POLICIES
    ],
)
def test_same_seed_same_actions(name, ms_pacman):
    def play(seed):
        return actions_of(POLICIES[name](ms_pacman, np.random.default_rng(seed)), 30).tolist()

    assert play(1) == play(1) != play(2)


def test_the_persistent_policy_crosses_the_road_where_the_random_one_does_not():
    game = AtariGame("freeway")
    crossings = {}
    for name in ("random", "persistent"):
        policy = make_policy(name, game, np.random.default_rng(0))
        game.reset()
        crossings[name] = sum(game.step(policy.action())[1] for _ in range(1000))
    assert crossings["random"] == 0 and crossings["persistent"] >= 1


def score(game, policy, steps):
    game.reset()
    return sum(game.step(policy.action())[1] for _ in range(steps))


def test_lookahead_scores_and_epsilon_one_is_random_play():
    game = AtariGame("ms_pacman")
    scores = {
        epsilon: score(game, LookaheadPolicy(game, np.random.default_rng(0), epsilon), 150)
        for epsilon in (0.0, 1.0)
    }
    assert scores[0.0] > 2 * scores[1.0]
    actions = actions_of(LookaheadPolicy(game, np.random.default_rng(0), 1.0), 9000)
    assert np.abs(np.bincount(actions, minlength=9) - 1000).max() < 160


def test_held_actions_change_now_and_then():
    rng = np.random.default_rng(0)
    futures = hold(rng.integers(9, size=(16_000, 13)), 5, rng)
    assert futures.shape == (16_000, 13)
    assert abs(np.mean(futures[:, 1:] != futures[:, :-1]) - 8 / 9 / 5) < 0.005
    assert np.bincount(futures[:, 0], minlength=9).min() > 1600


def test_looking_ahead_leaves_the_game_as_it_is():
    game, untouched = AtariGame("ms_pacman"), AtariGame("ms_pacman")
    rng = np.random.default_rng(0)
    for _ in range(90):
        action = int(rng.integers(9))
        game.step(action)
        untouched.step(action)
    futures = rng.integers(9, size=(4, 12))
    rewards = game.rewards_ahead(futures)
    np.testing.assert_array_equal(game.rewards_ahead(futures), rewards)
    assert rewards.any()
    played = [untouched.step(int(action))[1] for action in futures[1]]
    assert played == rewards[1].tolist()
    game.rewards_ahead(futures)
    again = [game.step(int(action)) for action in futures[1]]
    assert [reward for _, reward, _ in again] == played
    np.testing.assert_array_equal(game.screen(), untouched.screen())


def test_futures_that_begin_alike_earn_what_each_would_alone():
    """Also where the episode ends before they do."""
    game = AtariGame("ms_pacman", max_episode_frames=4 * 120)
    rng = np.random.default_rng(0)
    for _ in range(90):
        game.step(int(rng.integers(9)))
    futures = rng.integers(9, size=(12, 40))
    futures[3:6, :10], futures[6:9, :25] = futures[0, :10], futures[1, :25]
    futures[9:11] = futures[2]
    alone = np.concatenate([game.rewards_ahead(future[None]) for future in futures])
    assert len(np.unique(alone, axis=0)) > 3
    assert not alone[:, 30:].any()
    np.testing.assert_array_equal(game.rewards_ahead(futures), alone)


def test_a_policys_name_tells_its_epsilon(ms_pacman):
    assert policy_name("lookahead") == policy_name("lookahead", 0.3) == "lookahead"
    assert policy_name("lookahead", 0.1) == "lookahead-epsilon0_1"
    for name, epsilon in (("lookahead", 0.3), ("lookahead-epsilon0_1", 0.1)):
        policy = make_policy(name, ms_pacman, np.random.default_rng(0))
        assert policy.settings["epsilon"] == epsilon
    for arguments, message in (
        (("greedy",), "lookahead"),
        (("random", 0.1), "lookahead or skilled alone"),
        (("random:0.5,greedy:0.5",), "received 'random:0.5,greedy:0.5'"),
        (("random:0.5,skilled:0.4",), "add up to 1"),
        (("random:half,skilled:0.5",), "add up to 1"),
        (("random:0.5,random:0.5",), "several with their shares"),
        (("random:nan,skilled:0.5",), "add up to 1"),
        (("random:0.5,skilled:nan",), "add up to 1"),
        (("random:1e-9,skilled:1",), "shares of at least 0.000001 that"),
        (("lookahead", 1.5), "between 0 and 1"),
        (("lookahead", 1e-9), "at least 0.000001 if it is not 0, received 1e-09"),
    ):
        with pytest.raises(InputError, match=message):
            policy_name(*arguments)


def test_names_are_exact(ms_pacman):
    for epsilon in (0.00001, 0.1234567, 0.12345678, 1 / 3, 1e-6, 0.0, -0.0, 1.0):
        policy = make_policy(policy_name("lookahead", epsilon), ms_pacman, None)
        assert policy.settings["epsilon"] == epsilon
    assert policy_name("lookahead", 0.00001) == "lookahead-epsilon0_00001"
    assert policy_name("random:0.00001,skilled:0.99999") == "random0_00001-skilled0_99999"


@pytest.mark.parametrize("last", ["0.3333334", "0.3333333"])
def test_shares_that_add_up_to_about_1_are_played(last, ms_pacman):
    name = policy_name(f"random:0.3333333,persistent:0.3333333,skilled:{last}")
    assert f"skilled{last.replace('.', '_')}" in name
    policy = make_policy(name, ms_pacman, np.random.default_rng(1))
    assert actions_of(policy, 3).shape == (3,)


def test_several_policies_play_as_much_as_their_shares_say(ms_pacman):
    name = policy_name("random:0.2,persistent:0.8")
    assert name == "random0_2-persistent0_8"
    policy = make_policy(name, ms_pacman, np.random.default_rng(0))
    actions = [policy.action() for _ in range(60_000)]
    kept = np.mean(np.array(actions[1:]) == np.array(actions[:-1]))
    # A persistent player keeps an action for 20 steps on average, a random one by chance alone.
    assert kept == pytest.approx(0.2 / 9 + 0.8 * (1 - 8 / 9 / 20), abs=0.02)
    both = make_policy(policy_name("lookahead:0.5,skilled:0.5", 0.2), ms_pacman, None)
    assert isinstance(both, MixedPolicy)


def test_a_skilled_players_plans_are_what_the_emulator_then_does():
    game = AtariGame("ms_pacman")
    rng = np.random.default_rng(0)
    for _ in range(150):
        game.step(int(rng.integers(9)))
    before, lives = game.screen(), game.lives
    plans = SkilledPolicy(game, rng)._plans()
    np.testing.assert_array_equal(game.screen(), before)
    assert {plan.action for plan in plans} == set(range(9))
    assert min(plans).survived < SkilledPolicy.NUM_STEPS
    moment = game.clone_state()
    for plan in [min(plans), max(plans), *plans[::7]]:
        earned = 0.0
        for step in range(plan.survived):
            action = plan.action if step < plan.hold_steps else 0
            earned += SkilledPolicy.DISCOUNT**step * game.step(action)[1]
            assert game.lives == lives
        assert earned == pytest.approx(plan.reward)
        if plan.survived < SkilledPolicy.NUM_STEPS:
            game.step(plan.action if plan.survived < plan.hold_steps else 0)
            assert game.lives < lives
        game.restore_state(moment)


@pytest.mark.thorough
def test_a_skilled_player_scores_where_looking_ahead_a_little_does_not():
    """Pong: the first points are won within 300 steps, whose strokes lie some 40 before them."""
    points = {}
    for policy in (SkilledPolicy, LookaheadPolicy):
        game = AtariGame("pong")
        player = policy(game, np.random.default_rng(0), epsilon=0.1)
        points[policy] = sum(game.step(player.action())[1] for _ in range(300))
    assert points[SkilledPolicy] > 0 > points[LookaheadPolicy]


class Actions:
    """Remembers the actions that a game is played with."""

    def __init__(self):
        self.taken = []

    def watch(self, game, plan):
        self.taken.append(int(plan[0]))


def test_planning_without_a_simulator_does_not_play_a_recording_again(ms_pacman):
    """A seed and an episode's number give a recording and a plan different random numbers."""
    for seed, episode in ((1, 0), (1, 3), (0, 0)):
        watcher = Actions()
        play = Play(RealGame("ms_pacman"), 1, METHODS[0], 1, 2, 60, seed)
        play_side_by_side(play, [episode], None, watcher=watcher)
        recorder = PersistentPolicy(ms_pacman, generator("recording", seed, episode))
        assert watcher.taken != [recorder.action() for _ in watcher.taken]
        again = Actions()
        play_side_by_side(play, [episode], None, watcher=again)
        assert again.taken == watcher.taken and len(set(watcher.taken)) > 1


def test_seeds_of_different_purposes_never_meet():
    def numbers(rng):
        return tuple(rng.integers(2**63, size=2))

    seeds = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2, 1), (1, 2), (0, 0, 1)]
    recorded = {numbers(np.random.default_rng(seed)) for seed in seeds}
    drawn = {
        purpose: {numbers(generator(purpose, *seed)) for seed in seeds} for purpose in PURPOSES
    }
    # NumPy pads seeds with zeros: (1,) and (1, 0) are the same seed, of one purpose.
    assert all(len(found) == 6 for found in drawn.values())
    assert len(set.union(recorded, *drawn.values())) == len(recorded) + 6 * len(PURPOSES)


def test_speed_is_not_measured_by_the_wall_clock(monkeypatch):
    clock = iter(range(10**6, 0, -1000))  # set back again and again
    monkeypatch.setattr("time.time", lambda: next(clock))
    play = Play(RealGame("freeway"), 2, METHODS[0], 1, 2, 20, 0)
    played = play_side_by_side(play, [0, 1], None)
    assert [one.steps for one in played] == [20, 20]
    assert all(0 < one.ended - one.begun < 60 for one in played)


def test_episodes_are_played_alike_in_processes_and_side_by_side():
    play = Play(RealGame("freeway"), 5, METHODS[0], 1, 2, 300, 7)
    alone = play_in_processes(play, 2, "none", num_workers=2)
    together = play_side_by_side(play, range(2), None)
    assert [(p.earned, p.steps) for p in alone] == [(p.earned, p.steps) for p in together]
