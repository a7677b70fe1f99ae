"""Planning by looking ahead, in simulators made by hand, in the emulator and in a model."""

import argparse
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import plan
from model.predictor import FramePredictor, RollOut
from systems.atari import AtariGame
from systems.compressed_simulator import CompressedSimulator
from systems.errors import InputError
from systems.planning import METHODS, EmulatorSimulator, Planner, Play
from systems.workers import Worker
from utils import checkpoints

from . import tiny  # noqa: F401 - makes the preset "tiny" known

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
    found = planner(method).plan(simulator)
    assert found.shape == (20, 12)
    assert simulator.tried == 120
    assert np.mean(found == wanted) > (0.97 if method == "cem" else 0.8)


def test_what_earns_nothing_is_no_elite():
    """A road of 35 steps ahead and back: 40 steps reach its end just so, and most earn nothing."""

    class Road:
        def values(self, actions, discount):
            steps = (actions == 1).astype(int) - (actions == 2)
            return (steps.cumsum(axis=2) >= 35).any(axis=2).astype(float)

    found = {}
    for method in METHODS:
        plans = planner(method, num_actions=9, horizon=40, num_rollouts=128, games=400).plan(Road())
        found[method] = Road().values(plans[:, None], 1).mean()
    # Where the first of equals were taken for an elite, cem found it in 0.69 of the games.
    assert found["cem"] > 0.78 and found["shooting"] > 0.78


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_rollouts", [2, 3, 5])
def test_something_beside_the_plan_before_is_tried_however_few_they_are(method, num_rollouts):
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
def test_the_rest_of_a_plan_is_gone_on_with_where_nothing_earns_more(method):
    class Nothing:
        def values(self, actions, discount):
            return np.zeros(actions.shape[:2])

    ours = planner(method)
    first = ours.plan(Nothing())
    for t in range(1, 12):
        np.testing.assert_array_equal(ours.plan(Nothing())[:, : 12 - t], first[:, t:])


def test_the_emulator_tells_discounted_signs_and_stays_where_it_is():
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
    directory = tmp_path_factory.mktemp("checkpoint")
    keras.utils.set_random_seed(0)
    predictor = FramePredictor("tiny", "compression", 9)
    predictor.network.adapt(np.full(SHAPE, 90.0), 40.0)
    rng = np.random.default_rng(0)
    heads = predictor.network.reward_head.weights + predictor.network.termination_head.weights
    for weight in [*predictor.network.core.weights, *heads]:
        weight.assign(np.asarray(weight) + rng.normal(size=weight.shape) * 0.5)
    checkpoints.save_weights(predictor.network, directory)
    config = {
        "model": "tiny",
        "variant": "compression",
        "game": "ms_pacman",
        "stage": "compress_seq_5_reward",
        "action_meanings": list(AtariGame("ms_pacman").action_meanings),
        "warmup": 10,
        "training": {"reward_weight": 0.02},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_the_model_kept_in_step_frame_by_frame_values_as_a_roll_out_does(checkpoint):
    predictor = checkpoints.load_predictor(checkpoint)
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
    told = RollOut(predictor).predict_on_batch(
        {"frames": np.tile(frames, (5, 1, 1, 1, 1)), "actions": actions}
    )
    for i in range(5):
        value, going_on = 0.0, 1.0
        for t in range(6):
            value += 0.9**t * going_on * (told["reward"][i, t, 2] - told["reward"][i, t, 0])
            going_on *= 1 - told["termination"][i, t]
        assert values[i] == pytest.approx(value, abs=1e-4)
    assert np.ptp(values) > 0.01
    imagined = simulator.frames(futures[0])
    np.testing.assert_allclose(imagined, told["frames"][0], atol=0.01)


def arguments(checkpoint, **others):
    return argparse.Namespace(
        **{
            "checkpoint": checkpoint,
            "simulator": None,
            "method": "cem",
            "horizon": 8,
            "num_rollouts": 24,
            "episodes": 2,
            "max_steps": 120,
            "seed": 0,
            "output": None,
            "video": None,
            **others,
        }
    )


def test_three_simulators_compared(checkpoint, tmp_path, capsys):
    output, film = tmp_path / "results.json", tmp_path / "play.gif"
    simulators = ["compressed", "emulator", "none"]
    plan.compare(arguments(checkpoint, simulator=simulators, output=output, video=str(film)))
    assert "share kept" in capsys.readouterr().out
    results = json.loads(output.read_text())
    assert film.read_bytes()[:4] == b"GIF8"
    found = results["simulators"]
    assert found["emulator"]["mean_return"] > found["none"]["mean_return"]
    for name in simulators:
        assert len(found[name]["returns"]) == 2
        low, high = found[name]["interval"]
        assert low <= found[name]["mean_return"] <= high
        assert found[name]["steps"] == [120, 120]
        assert found[name]["decisions_per_second"] > 0
    again = tmp_path / "again.json"
    plan.compare(arguments(checkpoint, simulator=simulators, output=again, episodes=1))
    for name in simulators:
        same = json.loads(again.read_text())["simulators"][name]
        assert same["returns"] == found[name]["returns"][:1]


def test_those_who_play_by_themselves_need_no_keras():
    ask = "import sys, systems.planning; print('keras' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_a_worker_whose_parent_has_gone_ends_in_the_middle_of_its_episode():
    worker = Worker("systems.planning")
    play = Play("ms_pacman", 4, 10, "cem", 20, 128, 10_000, 0)  # for hours
    worker.send((play, "emulator", 0))
    worker.connection.close()
    try:
        assert worker._process.wait(timeout=60) == 0
    finally:
        worker.stop()


def test_share_kept_by_hand():
    kept = plan.share_kept([6, 6, 6], [10, 10], [2, 2, 2])
    assert kept["share"] == pytest.approx(0.5)
    assert kept["interval"] == pytest.approx([0.5, 0.5])
    assert plan.share_kept([5], [1], [3]) is None


def test_one_episode_has_no_interval(checkpoint, tmp_path):
    output = tmp_path / "results.json"
    few = {"simulator": ["none"], "episodes": 1, "max_steps": 3, "output": output}
    plan.compare(arguments(checkpoint, **few))
    assert json.loads(output.read_text())["simulators"]["none"]["interval"] is None
    assert plan.share_kept([6], [10], [2]) == {"share": 0.5, "interval": None}


def test_the_share_of_a_gain_that_may_be_nothing_has_no_interval():
    kept = plan.share_kept([2, 2, 2, 2, 2, 3], [2, 0, 0, 2, 2, 2], [1, 2, 1, 0, 0, 1])
    assert kept["share"] == pytest.approx(8 / 3)
    assert kept["interval"] is None


def test_what_cannot_be_planned_with_is_said(checkpoint, tmp_path):
    with pytest.raises(InputError, match="shows what that saw"):
        plan.compare(arguments(checkpoint, simulator=["none"], video=str(tmp_path / "play.gif")))
    config = json.loads((checkpoint / "config.json").read_text())
    config["training"]["reward_weight"] = 0.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="a stage that predicts rewards"):
        plan.compare(arguments(tmp_path))
    config["training"]["reward_weight"] = 0.02
    config["action_meanings"][1:3] = config["action_meanings"][2:0:-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="actions of ms_pacman"):
        plan.compare(arguments(tmp_path))
