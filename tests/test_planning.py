"""Planning by looking ahead, in simulators made by hand, in the emulator and in a model."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import plan
from model.predictor import FramePredictor, RollOut
from systems.atari import AtariGame
from systems.errors import InputError
from systems.planning import METHODS, EmulatorSimulator, Planner, Play, play_side_by_side
from systems.real_game import RealGame
from systems.workers import Worker
from utils.acting import comparison
from utils.acting.comparison import (
    SIMULATORS,
    ComparisonSettings,
    compare_simulators,
    share_kept,
)
from utils.acting.simulator import CompressedSimulator
from utils.checkpoint import Checkpoint

from . import tiny  # noqa: F401 - registers the preset "tiny"
from .checkpoints import write_checkpoint

pytestmark = pytest.mark.slow

MS_PACMAN = AtariGame("ms_pacman").action_meanings
SHAPE = (12, 12, 1)


class Target:
    """Earns a point for each step that is as in a wanted sequence."""

    def __init__(self, wanted):
        self.wanted, self.tried = np.array(wanted), 0

    def values(self, actions, discount):
        self.tried += actions.shape[1]
        return (actions == self.wanted).sum(axis=2).astype(float)


def planner(method, num_actions=3, horizon=12, num_rollouts=120, games=20):
    rngs = [np.random.default_rng(seed) for seed in range(games)]
    return Planner(num_actions, horizon, num_rollouts, method, rngs)


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_is_the_best_of_what_was_tried(method):
    wanted = [1] * 6 + [2] * 6
    simulator = Target(wanted)
    plans = planner(method).plan(simulator)
    assert plans.shape == (20, 12)
    assert simulator.tried == 120
    assert np.mean(plans == wanted) > (0.97 if method == "cem" else 0.8)


def test_sequences_without_reward_are_no_elite():
    """A road of 35 steps: few sequences of 40 steps reach its end, and the others earn nothing."""

    class Road:
        def values(self, actions, discount):
            steps = (actions == 1).astype(int) - (actions == 2)
            return (steps.cumsum(axis=2) >= 35).any(axis=2).astype(float)

    returns = {}
    for method in METHODS:
        plans = planner(method, num_actions=9, horizon=40, num_rollouts=128, games=400).plan(Road())
        returns[method] = Road().values(plans[:, None], 1).mean()
    # cem reached it in 0.69 of the games while the first of equals were an elite.
    assert returns["cem"] > 0.78 and returns["shooting"] > 0.78


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_rollouts", [2, 3, 5])
def test_even_few_sequences_hold_another_one_than_the_plan_before(method, num_rollouts):
    class Few(Target):
        def values(self, actions, discount):
            assert actions.shape[1] >= 2
            return super().values(actions, discount)

    simulator = Few([1] * 12)
    planner(method, num_rollouts=num_rollouts).plan(simulator)
    assert simulator.tried <= num_rollouts


@pytest.mark.parametrize("method", METHODS)
def test_a_game_is_planned_side_by_side_as_it_is_alone(method):
    wanted = [0] * 5 + [1] * 7
    together, alone = planner(method, games=3), planner(method, games=1)
    for _ in range(3):
        plans = together.plan(Target(wanted))
        np.testing.assert_array_equal(plans[:1], alone.plan(Target(wanted)))


@pytest.mark.parametrize("method", METHODS)
def test_the_rest_of_a_plan_is_kept_if_no_sequence_is_better(method):
    class Nothing:
        def values(self, actions, discount):
            return np.zeros(actions.shape[:2])

    ours = planner(method)
    first = ours.plan(Nothing())
    for t in range(1, 12):
        np.testing.assert_array_equal(ours.plan(Nothing())[:, : 12 - t], first[:, t:])


def test_the_emulator_returns_discounted_signs_and_stays_where_it_is():
    game = AtariGame("ms_pacman")
    for _ in range(80):  # the game's own music
        game.step(0)
    simulator = EmulatorSimulator(game)
    before = game.clone_state()
    actions = np.full((1, 1, 12), game.action_meanings.index("LEFT"))
    value = simulator.values(actions, 0.5)[0, 0]
    np.testing.assert_array_equal(game.screen(), before.screen)
    earned = [np.sign(game.step(int(action))[1]) for action in actions[0, 0]]
    assert max(earned) == 1
    assert value == pytest.approx(sum(r * 0.5**t for t, r in enumerate(earned)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained weights, with rewards large enough to see, as a reward stage leaves them."""
    keras.utils.set_random_seed(0)
    predictor = FramePredictor("tiny", "compression", 9)
    predictor.network.adapt(np.full(SHAPE, 90.0), 40.0)
    rng = np.random.default_rng(0)
    heads = predictor.network.reward_head.weights + predictor.network.termination_head.weights
    for weight in [*predictor.network.core.weights, *heads]:
        weight.assign(np.asarray(weight) + rng.normal(size=weight.shape) * 0.5)
    directory = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(
        directory, predictor=predictor, game="ms_pacman", action_meanings=MS_PACMAN
    )


def test_the_model_kept_in_step_frame_by_frame_values_as_a_roll_out_does(checkpoint):
    predictor = Checkpoint(checkpoint).predictor()
    simulator = CompressedSimulator(predictor)
    rng = np.random.default_rng(1)
    # Two games; what is checked is the first.
    games = rng.integers(0, 256, (2, 14, *SHAPE), dtype=np.uint8)
    taken = rng.integers(0, 9, (2, 13))
    simulator.begin(games[:, :10], taken[:, :9])
    for t in range(10, 14):
        simulator.observe(games[:, t], taken[:, t - 1])
    frames, seen = games[0], taken[0]
    futures = rng.integers(0, 9, (5, 6))
    values = simulator.values(np.stack([futures, futures[::-1]]), 0.9)[0]
    actions = np.concatenate([np.tile(seen, (5, 1)), futures], axis=1).astype(np.int32)
    predictions = RollOut(predictor).predict_on_batch(
        {"frames": np.tile(frames, (5, 1, 1, 1, 1)), "actions": actions}
    )
    for i in range(5):
        value, survival = 0.0, 1.0
        for t in range(6):
            reward = predictions["reward"][i, t]
            value += 0.9**t * survival * (reward[2] - reward[0])
            survival *= 1 - predictions["termination"][i, t]
        assert values[i] == pytest.approx(value, abs=1e-4)
    assert np.ptp(values) > 0.01
    imagined = simulator.frames(futures[0])
    np.testing.assert_allclose(imagined, predictions["frames"][0], atol=0.01)


def compare(checkpoint, **changes):
    settings = {
        "simulators": ("compressed",),
        "method": "cem",
        "horizon": 8,
        "num_rollouts": 12,
        "num_episodes": 2,
        "max_episode_steps": 120,
        "seed": 0,
    }
    compare_simulators(ComparisonSettings(checkpoint, **{**settings, **changes}))


@pytest.mark.thorough
def test_three_simulators_compared(checkpoint, tmp_path, capsys):
    output, film = tmp_path / "results.json", tmp_path / "play.gif"
    compare(checkpoint, simulators=SIMULATORS, json=output, video=film)
    assert "share kept" in capsys.readouterr().out
    results = json.loads(output.read_text())
    assert film.read_bytes()[:4] == b"GIF8"
    by_simulator = results["simulators"]
    assert by_simulator["emulator"]["mean_return"] > by_simulator["none"]["mean_return"]
    for name in SIMULATORS:
        assert len(by_simulator[name]["returns"]) == 2
        low, high = by_simulator[name]["interval"]
        assert low <= by_simulator[name]["mean_return"] <= high
        assert by_simulator[name]["steps"] == [120, 120]
        assert by_simulator[name]["decisions_per_second"] > 0
    again = tmp_path / "again.json"
    compare(checkpoint, simulators=SIMULATORS, json=again, num_episodes=1)
    for name in SIMULATORS:
        same = json.loads(again.read_text())["simulators"][name]
        assert same["returns"] == by_simulator[name]["returns"][:1]


def test_the_command_line_offers_what_there_is(monkeypatch, tmp_path):
    for choices in (SIMULATORS, METHODS):
        assert f"{{{','.join(choices)}}}" in plan.parser().format_help()
    received = []
    monkeypatch.setattr(comparison, "compare_simulators", received.append)
    command = ["plan.py", "--checkpoint=there", "--simulator=none", "--simulator=none"]
    monkeypatch.setattr(sys, "argv", [*command, "--seed=3", f"--json={tmp_path / 'x.json'}"])
    plan.main()
    assert received == [
        ComparisonSettings(
            Path("there"), ("none",), "cem", 20, 128, 10, 1000, 3, tmp_path / "x.json", None
        )
    ]


@pytest.mark.parametrize(("method", "asked", "tried"), [("cem", 128, 126), ("shooting", 128, 128)])
def test_the_sequences_that_are_tried_are_recorded(
    checkpoint, tmp_path, monkeypatch, method, asked, tried
):
    simulator = Target([1] * 12)
    planner(method, num_rollouts=asked).plan(simulator)
    assert simulator.tried == tried
    output = tmp_path / "results.json"
    few = {"simulators": ("none",), "num_episodes": 1, "max_episode_steps": 3, "json": output}
    compare(checkpoint, method=method, num_rollouts=asked, **few)
    results = json.loads(output.read_text())
    assert results["num_rollouts"] == tried
    assert results["made"]["seeds"] == {"playing": 0, "training": 0}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux has it")
def test_no_more_processes_play_than_this_one_may_use_cores(checkpoint, monkeypatch):
    received = []

    def play_in_processes(play, num_episodes, simulator, num_workers):
        received.append(num_workers)
        return played(play, num_episodes, simulator, 1)

    played = comparison.play_in_processes
    monkeypatch.setattr(comparison, "play_in_processes", play_in_processes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    compare(checkpoint, simulators=("none",), num_episodes=1, max_episode_steps=3)
    assert received == [3]


def test_games_that_are_over_are_planned_no_more():
    class Sizes(Target):
        """Prefers to serve, and notes how many games it looks ahead in."""

        def __init__(self, games):
            super().__init__([1, 1])
            self.sizes, self.games, self.decisions = set(), len(games), 0

        def keep(self, games):
            assert len(games) == self.games
            self.games = games.sum()

        def values(self, actions, discount):
            assert len(actions) == self.games
            self.sizes.add(self.games)
            self.decisions += 1
            return super().values(actions, discount)

    begun = []

    def simulator_of(games):
        begun.append(Sizes(games))
        return begun[-1]

    play = Play(RealGame("breakout"), 10, "shooting", 2, 4, 2000, 0)
    together = play_side_by_side(play, [0, 1, 2, 3], simulator_of)
    assert max(played.steps for played in together) < 2000
    assert 1 in begun[0].sizes and 3 not in begun[0].sizes
    for episode, played in enumerate(together):
        (alone,) = play_side_by_side(play, [episode], simulator_of)
        assert (alone.earned, alone.steps) == (played.earned, played.steps)
        assert begun[-1].decisions == alone.steps  # and none for the game that is over


def test_worker_processes_import_no_keras():
    ask = "import sys, systems.planning; print('keras' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_more_processes_than_the_system_starts_are_refused():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # stdin, stdout and stderr
    try:
        with pytest.raises(InputError, match="Too many open files. Use fewer workers"):
            Worker("systems.planning", "serve_planned_episodes")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_whose_parent_has_gone_ends_in_the_middle_of_its_episode():
    worker = Worker("systems.planning", "serve_planned_episodes")
    play = Play(RealGame("ms_pacman"), 10, "cem", 20, 128, 10_000, 0)  # for hours
    worker.send((play, "emulator", 0))
    worker.connection.close()
    try:
        assert worker.process.wait(timeout=60) == 0
    finally:
        worker.stop()


def test_share_kept_by_hand():
    kept = share_kept([6, 6, 6], [10, 10], [2, 2, 2])
    assert kept["share"] == pytest.approx(0.5)
    assert kept["interval"] == pytest.approx([0.5, 0.5])
    assert share_kept([5], [1], [3]) is None


def test_one_episode_has_no_interval(checkpoint, tmp_path):
    output = tmp_path / "results.json"
    compare(checkpoint, simulators=("none",), num_episodes=1, max_episode_steps=3, json=output)
    assert json.loads(output.read_text())["simulators"]["none"]["interval"] is None
    assert share_kept([6], [10], [2]) == {"share": 0.5, "interval": None}


def test_the_share_of_a_gain_that_may_be_nothing_has_no_interval():
    kept = share_kept([2, 2, 2, 2, 2, 3], [2, 0, 0, 2, 2, 2], [1, 2, 1, 0, 0, 1])
    assert kept["share"] == pytest.approx(8 / 3)
    assert kept["interval"] is None


def test_what_cannot_be_planned_with_is_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match="what that simulator imagines"):
        compare(checkpoint, simulators=("none",), video=tmp_path / "play.gif")
    game = {"game": "ms_pacman", "action_meanings": MS_PACMAN}
    unrewarded = write_checkpoint(tmp_path / "seq_5", reward_weight=0.0, **game)
    with pytest.raises(InputError, match="a stage that predicts rewards"):
        compare(unrewarded)
    game["action_meanings"] = (MS_PACMAN[0], *MS_PACMAN[2:0:-1], *MS_PACMAN[3:])
    with pytest.raises(InputError, match="actions of ms_pacman"):
        compare(write_checkpoint(tmp_path / "other", **game))
