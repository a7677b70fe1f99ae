"""How the emulator was set is read from a data set's specification, kept, and played by."""

import json
import shutil

import ale_py
import gymnasium
import numpy as np
import pytest

import plan
import play
from systems.atari import AtariGame
from systems.dataset import Dataset
from systems.emulation import EmulatorOptions, emulation_of
from systems.errors import InputError
from utils.checkpoint import Checkpoint, check_alike
from utils.config import read_config

from .checkpoints import write_checkpoint
from .test_observations import Painter, change, record, train

STICKY = EmulatorOptions(repeat_action_probability=0.25)


def spec(name, wrappers=(), **kwargs):
    wrappers = [{"name": wrapper, "kwargs": settings} for wrapper, settings in wrappers]
    return {"env_spec": {"id": name, "kwargs": kwargs, "additional_wrappers": wrappers}}


SPECS = {
    "no specification": ({}, 4, 2, {}),
    "this project's": ({"frame_skip": 3, "pooled_frames": 6}, 3, 6, {}),
    "v5": (spec("ALE/Pong-v5"), 4, 1, {"repeat_action_probability": 0.25}),
    "v5 by keywords": (spec("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0), 1, 1, {}),
    "NoFrameskip": (spec("PongNoFrameskip-v4"), 1, 1, {}),
    "Deterministic": (spec("PongDeterministic-v4"), 4, 1, {}),
    "v4": (spec("Pong-v4"), 2, 1, {"random_frame_skip": (2, 5)}),
    "v0": (
        spec("Pong-v0", frameskip=[2, 5]),
        2,
        1,
        {"random_frame_skip": (2, 5), "repeat_action_probability": 0.25},
    ),
    "AtariPreprocessing": (
        spec("PongNoFrameskip-v4", [("AtariPreprocessing", {"frame_skip": 3})], frameskip=1),
        3,
        2,
        {},
    ),
    "AtariPreprocessing of each frame": (
        spec("PongNoFrameskip-v4", [("AtariPreprocessing", {"frame_skip": 1})], frameskip=1),
        1,
        1,
        {},
    ),
    "MaxAndSkipObservation": (
        spec("PongNoFrameskip-v4", [("MaxAndSkipObservation", {"skip": 4})], frameskip=1),
        4,
        2,
        {},
    ),
    "full action set": (
        spec("PongNoFrameskip-v4", full_action_space=True, mode=1, difficulty=None),
        1,
        1,
        {"full_action_space": True, "mode": 1},
    ),
}


@pytest.mark.parametrize(("metadata", "skip", "pooled", "options"), SPECS.values(), ids=SPECS)
def test_the_emulators_settings_are_those_of_the_specification(metadata, skip, pooled, options):
    assert emulation_of(metadata) == (skip, pooled, EmulatorOptions(**options))


@pytest.mark.parametrize("name", ["ALE/Pong-v5", "PongNoFrameskip-v4", "Pong-v4", "Pong-v0"])
def test_gymnasiums_own_specifications_are_read(name):
    gymnasium.register_envs(ale_py)
    content = json.loads(gymnasium.spec(name).to_json())
    frame_skip, pooled_frames, options = emulation_of({"env_spec": content})
    skip = content["kwargs"]["frameskip"]
    assert (frame_skip, pooled_frames) == (np.min(skip), 1)
    assert options.random_frame_skip == (tuple(skip) if np.ndim(skip) else None)
    assert options.repeat_action_probability == content["kwargs"]["repeat_action_probability"]


def test_a_frame_skip_of_another_type_is_refused():
    with pytest.raises(ValueError, match="frameskip of env_spec"):
        emulation_of(spec("ALE/Pong-v5", frameskip="often"))


def test_other_environments_have_no_emulator():
    assert emulation_of(spec("CartPole-v0")) == (1, 1, EmulatorOptions())
    assert emulation_of(spec("VizdoomBasic-v1", frame_skip=4)) == (1, 1, EmulatorOptions())


@pytest.mark.thorough
def test_a_checkpoint_keeps_the_settings_of_its_data(tmp_path, monkeypatch):
    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/MsPacman-v5", frameskip=1)
    env = gymnasium.wrappers.TimeLimit(env, 30)
    directory = record(tmp_path, monkeypatch, env, jpeg=True, episodes=1)
    dataset = Dataset(directory)
    assert (dataset.game, dataset.frame_skip, dataset.emulator) == ("ms_pacman", 1, STICKY)
    checkpoint = train(tmp_path / "trained", directory)
    config = read_config(checkpoint.directory)
    assert (config.frame_skip, config.pooled_frames, config.emulator) == (1, 1, STICKY)
    with pytest.raises(InputError, match="sticky actions .probability 0.25"):
        config.begin_real_game()


def test_a_checkpoint_of_a_video_names_no_game_to_play(tmp_path):
    path = write_checkpoint(tmp_path / "seq_5", game="my_game")
    with pytest.raises(InputError, match="my_game, which is no Atari game, .* no environment"):
        read_config(path).begin_real_game()


def test_a_set_recorded_otherwise_than_the_training_set_is_named(tmp_path, monkeypatch, capsys):
    directory = record(tmp_path, monkeypatch, Painter())
    other = shutil.copytree(directory, tmp_path / "other" / "data")
    change(other, frame_skip=1)
    train(tmp_path / "trained", directory, f"--test_data={other}")
    notes = [line for line in capsys.readouterr().out.splitlines() if "another frame skip" in line]
    assert [note.split(" set ")[0] for note in notes] == ["note: the test"]


def test_the_mode_and_difficulty_of_the_data_are_played(tmp_path):
    options = EmulatorOptions(mode=3, difficulty=1)
    path = write_checkpoint(tmp_path / "seq_5", game="freeway", emulator=options)
    game = read_config(path).begin_real_game()
    assert (game.mode, game.difficulty) == (3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EmulatorOptions(random_frame_skip=(2, 5)), "a random frame skip from 2 to 4"),
        (STICKY, "sticky actions"),
        (EmulatorOptions(full_action_space=True), "the full action set of 3 instead of 9"),
    ],
)
def test_what_the_emulator_cannot_play_is_refused_by_its_tools(
    tmp_path, monkeypatch, capsys, options, message
):
    path = write_checkpoint(tmp_path / "seq_5", game="ms_pacman", emulator=options)
    assert read_config(path).emulator == options
    for tool, flags in ((play, []), (plan, ["--simulator=none"])):
        monkeypatch.setattr("sys.argv", [tool.__name__, f"--checkpoint={path}", *flags])
        with pytest.raises(SystemExit) as end:
            tool.main()
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_a_full_action_set_that_is_the_games_own_is_played():
    options = EmulatorOptions(full_action_space=True)
    options.require_playable(18, AtariGame("boxing").num_actions)
    with pytest.raises(InputError, match="18 instead of 6"):
        options.require_playable(18, AtariGame("pong").num_actions)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: gymnasium.wrappers.AtariPreprocessing(env, frame_skip=4, screen_size=84),
        lambda env: gymnasium.wrappers.MaxAndSkipObservation(env, skip=4),
    ],
)
def test_gymnasiums_pooling_wrappers_are_read_from_what_it_writes(wrap):
    gymnasium.register_envs(ale_py)
    env = wrap(gymnasium.make("ALE/MsPacman-v5", frameskip=1, repeat_action_probability=0))
    content = json.loads(env.spec.to_json())
    assert emulation_of({"env_spec": content}) == (4, 2, EmulatorOptions())


def test_an_older_checkpoint_pooled_two_frames_and_one_where_a_step_has_one(tmp_path):
    for frame_skip, expected in ((4, 2), (1, 1)):
        path = write_checkpoint(tmp_path / str(frame_skip), frame_skip=frame_skip) / "config.json"
        content = json.loads(path.read_text())
        del content["pooled_frames"]
        path.write_text(json.dumps(content))
        assert read_config(path.parent).pooled_frames == expected


def test_checkpoints_of_other_settings_are_not_played_together(tmp_path):
    one = Checkpoint(write_checkpoint(tmp_path / "one"))
    other = Checkpoint(write_checkpoint(tmp_path / "other", emulator=STICKY))
    with pytest.raises(InputError, match="the same emulator"):
        check_alike([one, other])
    other = Checkpoint(write_checkpoint(tmp_path / "pooled", pooled_frames=4))
    with pytest.raises(InputError, match="the same pooled_frames, received 2 and 4"):
        check_alike([one, other])
