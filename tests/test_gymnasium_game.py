"""Any Gymnasium environment is recorded, trained on and played as the Atari games are."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest

import compress_seq_1_train
import plan
import systems.compressed_env  # noqa: F401 - registers CompressedAtari-v0
from systems.dataset import Dataset
from systems.errors import InputError
from systems.gymnasium_game import Environment, GymnasiumGame, name_of
from systems.record import main, record
from utils.acting.twin_game import TwinGame, WorldModel
from utils.checkpoint import Checkpoint
from utils.training.command_line import ROLES
from utils.training.stage import main as main_of_stage

from . import tiny, walker  # noqa: F401 - makes --model=tiny known
from .checkpoints import write_checkpoint
from .walker import OF_AN_OBJECT, OF_ITS_CLASS, WALKER, Walker

ROOT = Path(__file__).parents[1]


def test_what_is_rendered_is_recorded_where_observations_are_no_image():
    game = GymnasiumGame(Environment(WALKER))
    assert (game.name, game.frames_from, game.screen_shape) == (
        "Tests-Walker-v0",
        "rendering",
        (24, 20, 3),
    )
    assert (game.num_actions, game.first_action) == (3, 1)
    frame = game.reset(5)
    ours = gymnasium.make("Tests/Walker-v0", render_mode="rgb_array")
    ours.reset(seed=5)
    np.testing.assert_array_equal(frame, ours.render())
    for action in (0, 2, 1):
        frame, reward, terminated = game.step(action)
        _, their_reward, theirs, _, _ = ours.step(action + 1)
        np.testing.assert_array_equal(frame, ours.render())
        assert (reward, terminated) == (their_reward, theirs)


class Named(Walker):
    def get_action_meanings(self):
        return ["LEFT", "STAY", "RIGHT"]


class Fewer(gymnasium.ActionWrapper):
    """Two of the walker's three actions."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gymnasium.spaces.Discrete(2)

    def action(self, action):
        return 1 + 2 * action


def test_names_of_actions_are_those_of_the_actions_that_there_are():
    gymnasium.register("Tests/Named-v0", entry_point=Named)
    gymnasium.register("Tests/Fewer-v0", entry_point=lambda **kwargs: Fewer(Named(**kwargs)))
    game = GymnasiumGame(Environment("Tests/Named-v0"))
    assert game.action_meanings == ("LEFT", "STAY", "RIGHT")
    game = GymnasiumGame(Environment("Tests/Fewer-v0"))
    assert (game.num_actions, game.action_meanings) == (2, ("0", "1"))


def test_an_environment_of_the_directory_it_is_recorded_from_is_found(tmp_path):
    # A package of the project's own name is not what its processes import.
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    shutil.copy(walker.__file__, tmp_path / "my_walker.py")
    (tmp_path / "level.txt").touch()
    program = (
        "import sys; sys.path.append('.'); from systems.record import main; "
        "main(['--env=my_walker:Tests/Walker-v0', '--env_kwargs={\"level\": \"level.txt\"}', "
        "'--num_frames=20', '--num_workers=1', '--seed=1'])"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert Dataset(next((tmp_path / "data").rglob("data"))).lengths.sum() == 20


@pytest.mark.parametrize(
    ("kwargs", "key", "source"),
    [
        ({"show": "image"}, None, "observations"),
        ({"show": "dict"}, None, "observations/camera"),
        ({"show": "text"}, None, "observations/camera"),
        ({"show": "two"}, "right", "observations/right"),
        ({"show": "dict", "render_mode": "rgb_array"}, None, "rendering"),
    ],
)
def test_an_image_in_the_observations_is_taken(kwargs, key, source):
    game = GymnasiumGame(Environment(WALKER, kwargs, key))
    assert game.frames_from == source
    frame = game.reset(3)
    assert frame.shape == (24, 20, 3)
    assert (frame.max(axis=(0, 1)) == (250, 40, 10)).all()
    assert game.observation((84, 84, 1)).shape == (84, 84, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment(WALKER, {"show": "two"}), "expected one image in Dict observations"),
        (Environment(WALKER, {"show": "two"}, "middle"), "to be one of left, right"),
        (Environment(WALKER, {"show": "dict"}, "place"), "received Box"),
        (Environment(WALKER, {"shown": 1}), "unexpected keyword"),
        (Environment(WALKER, {"level": "missing.txt"}), "No such file.*missing.txt"),
        (Environment(OF_AN_OBJECT), "described as JSON"),
        (Environment("Tests/Walkr-v0"), "Did you mean"),
        (Environment("no_such_package:X-v0"), "No module named"),
        (Environment("Pendulum-v1"), "Discrete.n., received Pendulum-v1 with Box"),
    ],
)
def test_what_cannot_be_recorded_is_refused(environment, message):
    with pytest.raises(InputError, match=message):
        GymnasiumGame(environment)


def test_a_reward_that_is_no_number_is_named():
    game = GymnasiumGame(Environment(WALKER, {"reward": float("nan")}))
    with pytest.raises(InputError, match="finite rewards, received nan"):
        game.step(0)


def test_what_is_registered_by_its_class_is_recorded(tmp_path):
    flags = [f"--env={OF_ITS_CLASS}", "--num_frames=20", f"--data_path={tmp_path}"]
    main([*flags, "--policy=random"])
    dataset = Dataset(next(tmp_path.rglob("metadata.json")).parent)
    assert int(dataset.lengths.sum()) == 20
    spec = json.loads(dataset.metadata["env_spec"])
    assert spec["entry_point"] == "tests.walker:Walker"


def test_floats_that_outgrow_what_the_first_frame_tells_are_refused():
    game = GymnasiumGame(Environment(WALKER, {"show": "unbounded"}))
    with pytest.raises(InputError, match=r"others of .*Walker.* 0 to 1.* Give .* bounds"):
        game.step(0)


def test_what_a_worker_refuses_ends_the_command_with_that_message_alone(tmp_path, capfd):
    flags = [f"--env={WALKER}", "--num_frames=20", "--num_workers=2", f"--data_path={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        main([*flags, '--env_kwargs={"reward": NaN}'])
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert f"error: expected finite rewards, received nan of {WALKER}. Mend" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("metadata.json"))


@pytest.mark.skipif(importlib.util.find_spec("pygame"), reason="pygame is installed")
def test_an_environment_that_misses_a_package_only_when_it_draws_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--env=CartPole-v1", "--num_frames=20", f"--data_path={tmp_path}"])
    assert end.value.code == 2
    assert "received CartPole-v1 with {}: pygame is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("ALE/MsPacman-v5", "ms_pacman"),
        ("ALE/Pong-ram-v5", "ALE-Pong-ram-v5"),
        ("pkg/Walk it-v0", "pkg-Walk-it-v0"),
    ],
)
def test_an_environment_is_called_by_its_game_or_its_id(env_id, name):
    assert name_of(env_id) == name


@pytest.mark.thorough
def test_episodes_depend_on_their_seed_and_number_alone(tmp_path):
    environment = Environment(WALKER)
    paths = [
        record(environment, "random", 40, seed, tmp_path / str(i), num_workers=workers)
        for i, (seed, workers) in enumerate([(1, 1), (1, 2), (2, 1)])
    ]
    assert paths[0].parent.relative_to(tmp_path / "0").as_posix() == (
        "Tests-Walker-v0/random-40-seed1-v2"
    )
    one, two, other = (Dataset(path) for path in paths)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.lengths.sum() == 40
    # The episodes begin at different places, because each has a seed of its own.
    assert len({one.read(i, 0, 1, (84, 84, 1))["frames"].tobytes() for i in range(3)}) > 1


def test_other_options_are_other_data_sets():
    labels = {
        Environment(*about).label
        for about in (("A-v0",), ("A-v0", {"x": 1}), ("A-v0", {"x": 2}), ("A-v0", {}, "k"))
    }
    assert len(labels) == 4
    assert Environment("pkg:NS/A-v0", {"x": 1}).label.startswith("NS-A-v0-x_1")


def test_the_data_set_is_minaris(tmp_path, monkeypatch):
    path = record(Environment(WALKER, {"limit": 7}), "persistent", 30, 4, tmp_path, num_workers=1)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = minari.load_dataset(f"{path.parents[1].name}/{path.parent.name}")
    assert theirs.action_space == gymnasium.spaces.Discrete(3, start=1)
    ours = Dataset(path)
    assert ours.environment == Environment(WALKER, {"limit": 7})
    assert ours.game == "Tests-Walker-v0"
    for i, episode in enumerate(theirs.iterate_episodes()):
        np.testing.assert_array_equal(episode.actions, ours.actions[i] + 1)
        stored = ours.read(i, 0, len(episode.observations), (24, 20, 3))["frames"]
        np.testing.assert_array_equal(episode.observations, stored)
        assert len(episode.actions) <= 7


def test_the_command_records_an_environment(tmp_path, capsys):
    arguments = [f"--env={WALKER}", "--num_frames=20", f"--data_path={tmp_path}", "--num_workers=1"]
    main([*arguments, '--env_kwargs={"show": "image"}'])
    assert "recorded" in capsys.readouterr().out
    (metadata,) = tmp_path.rglob("metadata.json")
    assert json.loads(metadata.read_text())["frames_from"] == "observations"
    for wrong, message in (
        (["--policy=lookahead"], "looks ahead in the Atari emulator"),
        (["--env_kwargs=3"], "expected a JSON object"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main([*arguments, *wrong])
        assert exit_info.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["--env_kwargs={}", f"--data_path={tmp_path}"])
    assert "expected --env beside --env_kwargs" in capsys.readouterr().err


def record_walker(path, seed):
    environment = Environment(WALKER, {"limit": 40})
    return record(environment, "persistent", 120, seed, path, num_workers=1)


@pytest.fixture(scope="module")
def walker_sets(tmp_path_factory):
    path = tmp_path_factory.mktemp("walker")
    return [record_walker(path, seed) for seed in (1, 2, 3)]


def flags_of(sets, train_dir):
    roles = [f"--{role}_data={path}" for role, path in zip(ROLES, sets, strict=True)]
    return [
        *("--model=tiny", "--batch_size=2", "--max_steps=2", "--steps_per_epoch=2"),
        *("--pretraining_steps=2", "--precision=float32", f"--train_dir={train_dir}", *roles),
    ]


@pytest.mark.thorough
def test_a_stage_trains_on_it_and_the_real_game_is_the_environment(
    walker_sets, tmp_path, monkeypatch, capsys
):
    main_of_stage(compress_seq_1_train.STAGE, flags_of(walker_sets, tmp_path))
    assert "cannot be set back to a moment" in capsys.readouterr().out
    checkpoint = Checkpoint(tmp_path / "Tests-Walker-v0" / "tiny" / "compress_seq_1")
    environment = Environment(WALKER, {"limit": 40})
    assert checkpoint.config.environment == environment
    assert checkpoint.config.finished

    twin = TwinGame([WorldModel(checkpoint)], seed=1)
    assert isinstance(twin.emulator, GymnasiumGame)
    assert twin.real.shape == (12, 12, 1)
    before = twin.steps
    twin.step(2)
    assert twin.over or twin.steps == before + 1

    # Planning needs a stage with rewards; without one the refusal names it, and random play works.
    monkeypatch.setattr(
        sys, "argv", ["plan.py", f"--checkpoint={checkpoint.directory}", "--simulator=none"]
    )
    plan.main()
    assert "Tests-Walker-v0, none: mean return" in capsys.readouterr().out
    sys.argv[-1] = "--simulator=emulator"
    with pytest.raises(SystemExit) as end:
        plan.main()
    assert end.value.code == 2
    assert "looks ahead in the Atari emulator" in capsys.readouterr().err


@pytest.mark.thorough
def test_planning_in_the_model_plays_the_environment(walker_sets, tmp_path, monkeypatch, capsys):
    environment = Environment(WALKER, {"limit": 40})
    directory = write_checkpoint(
        tmp_path / "ready",
        walker_sets[0],
        game="Tests-Walker-v0",
        action_meanings=("0", "1", "2"),
        environment=environment,
    )
    flags = ["--simulator=compressed", "--num_rollouts=4", "--horizon=2", "--json=plan.json"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plan.py", f"--checkpoint={directory}", *flags])
    plan.main()
    result = json.loads((tmp_path / "plan.json").read_text())["simulators"]["compressed"]
    # Each step earns 1, until the square is at the left or 40 steps are over, 10 of them shown.
    assert len(result["returns"]) == 10
    assert max(result["steps"]) <= 31
    assert len(set(result["returns"])) > 1  # each episode has a seed of its own

    env = gymnasium.make("CompressedAtari-v0", checkpoint=directory)
    observation, _ = env.reset(seed=1)
    assert observation.shape == (12, 12, 1)
    assert env.action_space.n == 3


@pytest.mark.slow
def test_a_first_episode_that_ends_too_early_to_be_filmed_costs_no_figures(tmp_path, capsys):
    directory = write_checkpoint(
        tmp_path / "ready",
        record_walker(tmp_path, seed=1),
        game="Tests-Walker-v0",
        action_meanings=("0", "1", "2"),
        environment=Environment(WALKER, {"limit": 5}),  # of ten frames that are shown
    )
    film = tmp_path / "film.gif"
    few = ["--simulator=compressed", "--simulator=none", "--num_rollouts=4", "--horizon=2"]
    flags = [f"--checkpoint={directory}", f"--video={film}", "--num_episodes=1", *few]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plan.py", *flags])
        plan.main()
    told = capsys.readouterr().out
    assert "none: mean return" in told and "there is no video of it" in told
    assert " 0.0 decisions/s" in told and "-" not in told.partition("there is no video")[0][-80:]
    assert not film.exists()


def test_missing_sets_of_an_environment_are_asked_for(tmp_path, capsys):
    training = record_walker(tmp_path, seed=1)
    with pytest.raises(SystemExit) as end:
        main_of_stage(
            compress_seq_1_train.STAGE,
            [f"--training_data={training}", f"--train_dir={tmp_path}"],
        )
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "of Tests-Walker-v0 by --validation_data and --test_data" in error
    assert "python -m systems.record --env" in error
