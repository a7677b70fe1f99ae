"""The compressed game as a Gymnasium environment."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import systems.compressed_env  # noqa: F401 - registers CompressedAtari-v0, as docs/tools.md has it
from model.predictor import FramePredictor
from systems.dataset import Dataset
from systems.errors import InputError
from systems.record import record
from utils.acting import gymnasium_env
from utils.acting.gymnasium_env import CompressedAtariEnv, CompressedAtariVectorEnv

from . import tiny  # noqa: F401 - registers the preset "tiny"
from .checkpoints import write_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    return record("ms_pacman", "random", 120, 1, path, progress=False)


def make_checkpoint(directory, data, variant, termination_bias):
    """Untrained weights, with outputs large enough to see, as a stage leaves them."""
    keras.utils.set_random_seed(0)
    dataset = Dataset(data)
    predictor = FramePredictor("tiny", variant, 9)
    predictor.network.adapt(*dataset.frame_statistics((12, 12, 1)))
    rng = np.random.default_rng(0)
    for weight in [*predictor.network.core.weights, *predictor.network.reward_head.weights]:
        weight.assign(np.asarray(weight) + rng.normal(size=weight.shape) * 0.5)
    predictor.network.termination_head.bias.assign([termination_bias])
    return write_checkpoint(
        directory,
        data,
        predictor,
        variant=variant,
        game="ms_pacman",
        action_meanings=tuple(dataset.action_meanings),
    )


@pytest.fixture(
    scope="module", params=["compression", pytest.param("paper", marks=pytest.mark.thorough)]
)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(variant, data, tmp_path_factory):
    """A checkpoint that predicts no end."""
    return make_checkpoint(tmp_path_factory.mktemp(variant), data, variant, -20.0)


@pytest.mark.parametrize("observation_type", gymnasium_env.OBSERVATION_TYPES)
@pytest.mark.parametrize("reward_type", gymnasium_env.REWARD_TYPES)
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasiums_own_checker_passes(checkpoint, observation_type, reward_type):
    env = gymnasium.make(
        "CompressedAtari-v0",
        checkpoint=checkpoint,
        observation_type=observation_type,
        reward_type=reward_type,
        render_mode="rgb_array",
    )
    check_env(env.unwrapped)
    env.reset(seed=1)
    assert env.render().shape == (12, 12, 3)
    assert env.render().dtype == np.uint8


def test_gymnasiums_limit_is_the_one_that_counts(checkpoint):
    def steps(env, most=503):
        env.reset(seed=0)
        for step in range(1, most + 1):
            if np.any(env.step(env.action_space.sample())[3]):
                return step

    make = {"checkpoint": checkpoint, "observation_type": "latent"}
    single = gymnasium.make("CompressedAtari-v0", max_episode_steps=3, **make)
    many = gymnasium.make_vec("CompressedAtari-v0", num_envs=2, max_episode_steps=3, **make)
    assert steps(single) == steps(many) == 3
    assert steps(gymnasium.make("CompressedAtari-v0", max_episode_steps=502, **make)) == 502
    assert steps(gymnasium.make("CompressedAtari-v0", **make)) == 500
    assert steps(gymnasium.make_vec("CompressedAtari-v0", num_envs=2, **make)) == 500
    assert steps(gymnasium.make("CompressedAtari-v0", max_episode_steps=-1, **make)) is None


def example(page, begins):
    """The Python example of a page that begins with a text."""
    found = re.findall(r"^```python\n(.*?)```", (ROOT / page).read_text(), re.M | re.S)
    (code,) = (code for code in found if code.startswith(begins))
    return compile(code, page, "exec")


def test_the_example_of_the_tools_page_makes_both_environments(checkpoint, monkeypatch):
    # The game's own weights would be computed for a minute.
    monkeypatch.setattr(gymnasium_env, "checkpoint_or_pretrained", lambda *named: checkpoint)
    made = {}
    exec(example("docs/tools.md", "import gymnasium"), made)
    made["env"].reset(seed=0)
    assert made["env"].step(1)[0].shape == (12, 12, 1)
    assert made["many"].reset(seed=0)[0].shape[0] == made["many"].num_envs == 256


def test_the_example_of_the_readme_imagines(checkpoint, tmp_path, monkeypatch):
    (named,) = re.findall(r'Checkpoint\("(.*?)"\)', (ROOT / "README.md").read_text())
    (tmp_path / named).parent.mkdir(parents=True)
    (tmp_path / named).symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    names = {
        "frames": np.zeros((2, 10, 12, 12, 1), np.uint8),
        "actions": np.zeros((2, 9), np.int32),
        "next_actions": np.zeros((2, 4), np.int32),
    }
    exec(example("README.md", "from utils.start"), names)
    assert names["seen"]["frames"].shape == (2, 4, 12, 12, 1)
    assert names["seen"]["reward"].shape == (2, 4, 3)
    assert names["seen"]["termination"].shape == (2, 4)


def test_no_episode_starts_where_one_has_ended(checkpoint, tmp_path):
    dataset = Dataset(record("ms_pacman", "random", 11, 1, tmp_path, progress=False))
    # 12 frames: the ten may be the first or the second, but not the last.
    env = CompressedAtariEnv(checkpoint, dataset.directory)
    last = dataset.read(0, 11, 1, (12, 12, 1))["frames"][0]
    assert not any(np.array_equal(env.reset(seed=seed)[0], last) for seed in range(20))
    assert env.games.num_starts == 2


def play(env, seed, actions):
    observation, _ = env.reset(seed=seed)
    return [(observation.copy(), 0.0, False, False), *(env.step(a)[:4] for a in actions)]


def assert_same_play(play, other):
    for step, other_step in zip(play, other, strict=True):
        np.testing.assert_array_equal(step[0], other_step[0])
        assert step[1:] == other_step[1:]


def test_a_seed_decides_the_start_and_what_is_drawn(checkpoint):
    env = CompressedAtariEnv(checkpoint, reward_type="sampled")
    actions = [1, 2, 3, 4, 5]
    first = play(env, 1, actions)
    assert_same_play(play(env, 1, actions), first)
    starts = {play(env, seed, [])[0][0].tobytes() for seed in range(5)}
    assert len(starts) > 1
    assert {reward for _, reward, *_ in first} <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("observation_type", gymnasium_env.OBSERVATION_TYPES)
def test_branches_from_a_state_are_exact(checkpoint, observation_type):
    env = CompressedAtariEnv(checkpoint, None, observation_type, "sampled", max_episode_steps=6)
    play(env, 3, [0, 1])
    state = env.get_state()
    ahead = [env.step(a)[:4] for a in (2, 3, 4, 5)]
    env.set_state(state)
    for a in (8, 7):  # a detour
        env.step(a)
    env.set_state(state)
    again = [env.step(a)[:4] for a in (2, 3, 4, 5)]
    assert_same_play(again, ahead)
    assert [truncated for *_, truncated in ahead] == [False, False, False, True]


def test_games_side_by_side_are_the_single_games(checkpoint):
    """Each row of the vector environment goes on from its own start as a single game would."""
    many = gymnasium.make_vec("CompressedAtari-v0", num_envs=3, checkpoint=checkpoint)
    many.reset(seed=5)
    single = CompressedAtariEnv(checkpoint)
    single.reset(seed=0)
    starts = many.unwrapped.games.state
    actions = np.random.default_rng(0).integers(9, size=(4, 3))
    steps = [many.step(a) for a in actions]
    for game in range(3):
        rows = type(starts)(*(part[game : game + 1] for part in starts))
        single.set_state(single.get_state()._replace(predictor=rows, steps=0))
        for t in range(4):
            observation, reward, *_ = single.step(actions[t, game])
            # bfloat16 products of other shapes
            assert np.abs(observation.astype(int) - steps[t][0][game]).mean() < 2
            assert reward == pytest.approx(steps[t][1][game], abs=0.1)


def test_a_game_that_ended_starts_anew_in_the_step_after(checkpoint, data):
    env = CompressedAtariVectorEnv(checkpoint, num_envs=2, max_episode_steps=3)
    env.reset(seed=0)
    truncated = [env.step(np.array([1, 1]))[3].tolist() for _ in range(3)]
    assert truncated == [[False, False], [False, False], [True, True]]
    observations, rewards, terminated, truncated, _ = env.step(np.array([1, 1]))
    assert not rewards.any() and not terminated.any() and not truncated.any()
    dataset = Dataset(data)
    real = {
        dataset.read(0, t, 1, (12, 12, 1))["frames"].tobytes()
        for t in range(dataset.lengths[0] + 1)
    }
    assert all(observation.tobytes() in real for observation in observations)
    assert not env.step(np.array([1, 1]))[3].any()


def test_an_episode_ends_where_the_termination_head_says(variant, data, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "ending", data, variant, 20.0)
    env = CompressedAtariVectorEnv(checkpoint, num_envs=2)
    env.reset(seed=0)
    assert env.step(np.array([0, 0]))[2].all()


def test_nothing_is_decoded_for_latent_observations(checkpoint, variant, monkeypatch):
    if variant == "paper":
        pytest.skip("the paper variant has to decode")
    env = CompressedAtariVectorEnv(checkpoint, 2, observation_type="latent")

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(env.games.predictor.network, "decode", decode)
    env.reset(seed=0)
    observations, *_ = env.step(np.array([0, 1]))
    assert observations.shape == (2, 32)
    assert env.observation_space.contains(observations)


def test_bad_arguments_are_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match="observation_type"):
        CompressedAtariEnv(checkpoint, observation_type="pixels")
    with pytest.raises(InputError, match="reward_type"):
        CompressedAtariEnv(checkpoint, reward_type="certain")
    with pytest.raises(InputError, match="max_episode_steps"):
        CompressedAtariEnv(checkpoint, max_episode_steps=0)
    with pytest.raises(InputError, match="directory of a trained stage"):
        CompressedAtariEnv(tmp_path)
    with pytest.raises(InputError, match="a stage that predicts rewards and terminations"):
        CompressedAtariEnv(write_checkpoint(tmp_path / "seq_5", reward_weight=0.0))


def test_some_games_start_anew_by_a_mask(checkpoint):
    env = CompressedAtariVectorEnv(checkpoint, 3, observation_type="latent")
    env.reset(seed=0)
    before = env.step(np.zeros(3, int))[0]
    after, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    same, _ = env.reset(options={"reset_mask": np.zeros(3, bool)})
    np.testing.assert_array_equal(same, after)
    with pytest.raises(InputError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True])})
    # At first there is nothing to go on with.
    first, _ = CompressedAtariVectorEnv(checkpoint, 3).reset(
        seed=0, options={"reset_mask": np.zeros(3, bool)}
    )
    assert first.any(axis=(1, 2, 3)).all()


def test_unknown_actions_are_refused(checkpoint):
    env = CompressedAtariVectorEnv(checkpoint, 2, observation_type="latent")
    env.reset(seed=0)
    for actions in ([0, 9], [-1, 0]):
        with pytest.raises(InputError, match="expected actions in 0..8"):
            env.step(np.array(actions))


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is not None,
    reason="Triton, of PyTorch's builds for CUDA, and TensorFlow end a process that loads both",
)
def test_stable_baselines_trains_on_the_vector_environment(checkpoint):
    pytest.importorskip("stable_baselines3", reason="pip install stable-baselines3")
    from stable_baselines3 import PPO

    from utils.acting.stable_baselines import make_vec_env

    env = make_vec_env(
        checkpoint=checkpoint, num_envs=4, observation_type="latent", max_episode_steps=6
    )
    learner = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in learner.policy.parameters()]
    learner.learn(128)
    assert learner.num_timesteps == 128
    moved = [(a != b).any() for a, b in zip(before, learner.policy.parameters(), strict=True)]
    assert any(moved)
    # Ends arrive as Stable-Baselines3 wants them: with the last observation, in the same step.
    env.seed(3)
    env.reset()
    for step in range(1, 7):
        observations, _, done, infos = env.step(np.zeros(4, int))
        assert done.all() == (step == 6)
    assert env.get_images() == [None] * 4
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert not np.array_equal(infos[0]["terminal_observation"], observations[0])


def test_a_game_that_has_not_begun_is_refused(checkpoint):
    many = gymnasium.make_vec("CompressedAtari-v0", num_envs=2, checkpoint=checkpoint)
    single = CompressedAtariEnv(checkpoint, render_mode="rgb_array")
    for call in (lambda: many.step(np.zeros(2, int)), single.render, single.get_state):
        with pytest.raises(InputError, match=r"expected reset\(\)"):
            call()


def test_an_action_for_each_game_is_asked_for(checkpoint):
    env = gymnasium.make_vec("CompressedAtari-v0", num_envs=3, checkpoint=checkpoint)
    env.reset(seed=0)
    for actions in ([1], [[1, 1, 1]], 1):
        with pytest.raises(InputError, match="an action for each of 3 games"):
            env.step(np.array(actions))


def test_a_forked_process_is_an_error_at_once_and_not_a_hang(checkpoint):
    code = """
import sys, gymnasium, tests.tiny, systems.compressed_env
gymnasium.make_vec(
    "CompressedAtari-v0", num_envs=2, vectorization_mode="async", checkpoint=sys.argv[1]
).reset()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode
    assert "gymnasium.make_vec(..., num_envs=256) steps all games as one batch" in done.stderr
