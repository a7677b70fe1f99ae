"""Videos of other actions than those recorded: what stands in them is what the emulator shows."""

import json
import sys

import numpy as np
import pytest

import generate_video
from systems.atari import AtariGame
from systems.dataset import Dataset
from systems.errors import InputError
from systems.record import record
from systems.windows import WindowSpec, sample
from utils.watching.futures import RecordedMoment, actions_of
from utils.watching.render import render

from . import tiny  # noqa: F401 - makes the preset known
from .checkpoints import write_checkpoint
from .test_video import read_gif

FREEWAY = ("NOOP", "UP", "DOWN")
TOP, SCALE, GAP = 20, 3, 4  # of a frame in the video, see `utils.watching.video`
SIDE = 12 * SCALE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    return record("freeway", "persistent", 300, 1, directory, progress=False)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("one"), data=data)


@pytest.fixture(scope="module")
def other(data, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("two"), data=data, seed=1)


def video(*command, monkeypatch):
    """The frames that generate_video.py writes by a command line."""
    path = next(flag for flag in command if str(flag).startswith("--video=")).partition("=")[2]
    monkeypatch.setattr(sys, "argv", ["generate_video.py", *map(str, command)])
    generate_video.main()
    return read_gif(open(path, "rb").read())


def panel(frames, column, row=0):
    """A panel of a video, reduced to its own size; row 1 stands below row 0 and two black rows."""
    left, top = column * (SIDE + GAP), TOP + row * (SIDE + 2 * SCALE)
    return frames[:, top : top + SIDE : SCALE, left : left + SIDE : SCALE]


def titles(frames, column):
    return frames[0, :TOP, column * (SIDE + GAP) :][:, :SIDE]


def emulated(data, actions, seed=0):
    """What the emulator shows from the video's start on, by a game of its own."""
    dataset = Dataset(data)
    windows = sample(dataset, (12, 12, 1), WindowSpec(10, 1), 1, seed)
    episode, first = windows.position(windows.numbers(0)[0])
    game = AtariGame("freeway")
    game.start(dataset.no_ops[episode])
    for action in dataset.actions[episode][: first + 9]:
        game.step(int(action))
    frames = []
    for action in actions:
        game.step(action)
        frames.append(game.observation((12, 12, 1)))
    return np.repeat(frames, 3, axis=-1)


def test_a_list_of_actions_by_hand():
    np.testing.assert_array_equal(actions_of("UP*2,NOOP*3", FREEWAY), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(actions_of(" up , Down * 2", FREEWAY), [1, 2, 2])
    assert actions_of("DOWN", FREEWAY).dtype == np.int32


@pytest.mark.parametrize(
    "text",
    ["LEFT*3", "UP*", "UP*0", "UP*-1", "UP*2.5", "UP*x", "UP,,DOWN", "", "UP 3", "*3", "UP*²"],
)
def test_a_wrong_list_names_the_games_actions(text):
    with pytest.raises(InputError) as error:
        actions_of(text, FREEWAY)
    assert "The game's actions are NOOP, UP, DOWN." in str(error.value)
    assert "such as DOWN*20,NOOP*10" in str(error.value)


def test_the_truth_of_a_list_is_what_the_emulator_shows(data, checkpoint, tmp_path, monkeypatch):
    flags = f"--checkpoint={checkpoint}", f"--video={tmp_path / 'list.gif'}"
    frames = video(*flags, "--actions=UP*8,NOOP*4", monkeypatch=monkeypatch)
    assert len(frames) == 12 and frames.shape[2] == 3 * (SIDE + GAP) - GAP
    truth = emulated(data, [1] * 8 + [0] * 4)
    np.testing.assert_array_equal(panel(frames, 0), truth)
    # The same actions and start in another order lead elsewhere, in truth and in imagination.
    others = video(*flags, "--actions=NOOP*4,UP*8", monkeypatch=monkeypatch)
    np.testing.assert_array_equal(panel(others, 0), emulated(data, [0] * 4 + [1] * 8))
    assert (panel(others, 1) != panel(frames, 1)).any()


@pytest.mark.slow
def test_the_recorded_actions_as_a_list_are_the_replay(data, checkpoint, tmp_path, monkeypatch):
    flags = f"--checkpoint={checkpoint}", f"--dataset={data}"
    replay = video(*flags, f"--video={tmp_path / 'a.gif'}", "--horizon=6", monkeypatch=monkeypatch)
    dataset = Dataset(data)
    windows = sample(dataset, (12, 12, 1), WindowSpec(10, 6), 1, 0)
    episode, first = windows.position(windows.numbers(0)[0])
    taken = dataset.actions[episode][first + 9 : first + 15]
    listed = ",".join(FREEWAY[action] for action in taken)
    flags += f"--video={tmp_path / 'b.gif'}", "--actions=replay", f"--actions={listed}"
    both = video(*flags, monkeypatch=monkeypatch)
    for column in (0, 1):
        np.testing.assert_array_equal(panel(both, column), panel(replay, 0))
        np.testing.assert_array_equal(panel(both, column, row=1), panel(replay, 1))


@pytest.mark.slow
def test_random_actions_have_a_truth_too(checkpoint, tmp_path, monkeypatch):
    flags = f"--checkpoint={checkpoint}", f"--video={tmp_path / 'r.gif'}", "--actions=random"
    frames = video(*flags, "--horizon=5", monkeypatch=monkeypatch)
    assert len(frames) == 5 and frames.shape[2] == 3 * (SIDE + GAP) - GAP


@pytest.mark.thorough
def test_several_actions_stand_side_by_side(data, checkpoint, tmp_path, monkeypatch):
    flags = [f"--checkpoint={checkpoint}", f"--video={tmp_path / 'three.gif'}"]
    flags += ["--actions=UP*6", "--actions=DOWN*6", "--actions=NOOP*3,UP*3"]
    frames = video(*flags, monkeypatch=monkeypatch)
    assert len(frames) == 6 and frames.shape[2] == 3 * (SIDE + GAP) - GAP
    for column, actions in enumerate(([1] * 6, [2] * 6, [0, 0, 0, 1, 1, 1])):
        np.testing.assert_array_equal(panel(frames, column), emulated(data, actions))
        alone = video(*flags[:2], flags[2 + column], monkeypatch=monkeypatch)
        np.testing.assert_array_equal(panel(frames, column, row=1), panel(alone, 1))


@pytest.mark.slow
def test_data_that_cannot_be_played_again_have_no_truth(checkpoint, data, tmp_path, capsys):
    elsewhere = tmp_path / "sticky"
    elsewhere.mkdir()
    (elsewhere / "main_data.hdf5").symlink_to(data / "main_data.hdf5")
    metadata = json.loads((data / "metadata.json").read_text())
    metadata["repeat_action_probability"] = 0.25
    (elsewhere / "metadata.json").write_text(json.dumps(metadata))
    output = tmp_path / "alone.gif"
    render([checkpoint], [output], actions=["UP*4"], dataset=elsewhere)
    assert "no truth beside these actions" in (printed := capsys.readouterr()).err
    assert "repeat_action_probability is 0.25" in printed.err and "4 frames" in printed.out
    assert read_gif(output.read_bytes()).shape[2] == SIDE
    # Beside a replay, which has one, the place of the other truth stays black.
    render([checkpoint], [output], actions=["replay", "UP*4"], dataset=elsewhere)
    frames = read_gif(output.read_bytes())
    assert panel(frames, 0).any() and not panel(frames, 1).any()


@pytest.mark.slow
def test_the_video_ends_with_the_real_game(tmp_path, capsys):
    directory = record("freeway", "persistent", 60, 2, tmp_path, progress=False)
    metadata = json.loads((directory / "metadata.json").read_text())
    # Frames, of which four make a step: the game is cut off after 70 of them.
    metadata["max_episode_frames"] = Dataset(directory).no_ops[0] + 4 * 70
    (directory / "metadata.json").write_text(json.dumps(metadata))
    dataset = Dataset(directory)
    game = RecordedMoment(dataset, 0, 50, (12, 12, 1))
    frames, rewards = game.play([1] * 100)
    assert len(frames) == len(rewards) == 20
    checkpoint = write_checkpoint(tmp_path / "checkpoint", data=directory)
    output = tmp_path / "short.gif"
    render([checkpoint], [output], actions=["UP*100", "DOWN*100"])
    windows = sample(dataset, (12, 12, 1), WindowSpec(10, 1), 1, 0)
    start = windows.position(windows.numbers(0)[0])[1] + 9
    assert f"the real game ends after {70 - start} steps" in capsys.readouterr().err
    assert len(read_gif(output.read_bytes())) == 70 - start


@pytest.mark.slow
def test_labels_stand_above_their_columns(checkpoint, other, tmp_path, monkeypatch):
    def drawn(*labels):
        flags = [f"--checkpoint={checkpoint}", f"--checkpoint={other}", "--horizon=2"]
        flags += [f"--video={tmp_path / 'labels.gif'}", *(f"--label={name}" for name in labels)]
        return video(*flags, monkeypatch=monkeypatch)

    one, two = drawn("a", "b"), drawn("a", "c")
    np.testing.assert_array_equal(titles(one, 1), titles(two, 1))
    assert (titles(one, 2) != titles(two, 2)).any()
    np.testing.assert_array_equal(one[:, TOP:], two[:, TOP:])
    # A long one ends at its own column's edge.
    long = drawn("a" * 60, "b")
    np.testing.assert_array_equal(titles(long, 2), titles(one, 2))
    assert not long[0, :TOP, 2 * SIDE + GAP :][:, :GAP].any()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"labels": ["a"]}, "a --label for each of 2 columns, received 1: a"),
        ({"labels": ["a", "a"]}, "different names"),
        ({"labels": ["a", "truth"]}, "different names"),
        ({"labels": ["a", "\u00e9"]}, "ASCII"),
        ({"actions": ["UP", "DOWN"]}, "one video of each checkpoint"),
        ({"actions": ["UP*3"], "horizon": 4}, "no --horizon"),
        ({"actions": ["LEFT*3"]}, "NOOP, UP, DOWN"),
        ({"actions": ["replay"], "horizon": 400}, "--horizon of at most"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoint, other, tmp_path, more, expected):
    with pytest.raises(InputError, match=expected):
        render([checkpoint, other], [tmp_path / "x.gif"], **more)
    assert not (tmp_path / "x.gif").exists()


def test_actions_of_different_lengths_are_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"3 in UP\*3, 4 in DOWN\*4"):
        render([checkpoint], [tmp_path / "x.gif"], actions=["UP*3", "DOWN*4"])
    with pytest.raises(InputError, match="different names"):
        render([checkpoint], [tmp_path / "x.gif"], actions=["random", "random"])
