"""The planner that plays the imagined game on the page."""

from collections import Counter

import keras
import numpy as np
import pytest

from model.predictor import FramePredictor
from utils.acting import live_planner
from utils.acting.live_planner import AHEAD, STEPS, LivePlanner
from utils.acting.twin_game import TwinGame, WorldModel
from utils.checkpoint import Checkpoint

from . import tiny  # noqa: F401 - registers the preset "tiny"
from .checkpoints import write_checkpoint

pytestmark = pytest.mark.slow

REWARDED = 2  # Freeway's DOWN


def rewarding_predictor(variant):
    """A network whose LSTM's first output is positive after one action, which earns the reward."""
    keras.utils.set_random_seed(0)
    predictor = FramePredictor("tiny", variant, 3)
    predictor.network.adapt(np.full((12, 12, 1), 90.0), 40.0)
    core, head = predictor.network.core, predictor.network.reward_head
    values = {variable.name: np.zeros(variable.shape) for variable in core.weights}
    values["input_bias"][0] = 1.0
    values["action_kernel"][:, 0] = -1.0
    values["action_kernel"][REWARDED, 0] = 1.0
    units = core.units
    values["kernel"][0, 2 * units] = 3.0  # the candidate's
    values["bias"][:units] = values["bias"][3 * units :] = 2.0  # open gates
    values["bias"][units : 2 * units] = -5.0
    for variable in core.weights:
        variable.assign(values[variable.name])
    for layer, kernel in (
        (head.dense, np.eye(units, head.dense.kernel.shape[1])),
        (head.conv, np.ones(head.conv.kernel.shape)),
        (head.verdict, np.zeros(head.verdict.kernel.shape)),
    ):
        layer.kernel.assign(kernel)
        layer.bias.assign(np.zeros(layer.bias.shape))
    dense = np.zeros(head.dense.kernel.shape)
    dense[0] = 1.0
    head.dense.kernel.assign(dense)
    verdict = np.zeros(head.verdict.kernel.shape)
    verdict[..., 2] = 0.05
    head.verdict.kernel.assign(verdict)
    termination = predictor.network.termination_head
    termination.kernel.assign(np.zeros(termination.kernel.shape))
    termination.bias.assign([-5.0])
    return predictor


@pytest.fixture(
    scope="module", params=[pytest.param("paper", marks=pytest.mark.thorough), "compression"]
)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    predictor = rewarding_predictor(request.param)
    return WorldModel(
        Checkpoint(write_checkpoint(path / "a", predictor=predictor, variant=request.param))
    )


def test_the_planner_takes_what_the_model_rewards(model):
    twin = TwinGame([model])
    planner = LivePlanner(3, seed=0)
    actions, rewards = [], []
    for _ in range(AHEAD + 3 * STEPS):
        actions.append(twin.planned_action(planner))
        twin.step(actions[-1])
        rewards.append(twin.predicted_reward)
    later = Counter(actions[AHEAD:])
    assert later[REWARDED] > 0.8 * later.total()
    of_it = np.array(actions) == REWARDED
    assert np.mean(np.array(rewards)[of_it]) > np.mean(np.array(rewards)[~of_it]) + 0.05


@pytest.mark.thorough
def test_the_same_seed_plays_alike_and_plans_are_forgotten(model):
    def played(seed, forget=False):
        twin, planner = TwinGame([model]), LivePlanner(3, seed)
        actions = []
        for i in range(3 * AHEAD):
            if forget and i == AHEAD // 2:
                twin.resynchronise()
                planner.forget()
            actions.append(twin.planned_action(planner))
            twin.step(actions[-1])
        return actions

    assert played(0) == played(0)
    assert played(0, forget=True)[: AHEAD // 2] == played(0)[: AHEAD // 2]
    assert played(0, forget=True) != played(0)


def test_without_a_reward_in_sight_the_planner_moves_about(model, monkeypatch):
    monkeypatch.setattr(live_planner, "MARGIN", 1000.0)
    twin, planner = TwinGame([model]), LivePlanner(3, seed=0)
    actions = []
    for _ in range(6 * AHEAD):
        actions.append(twin.planned_action(planner))
        twin.step(actions[-1])
    assert set(actions) == {0, 1, 2}
