"""Data sets that somebody else made: images of every kind are read, all else is refused."""

import importlib
import json
import sys
import warnings

import ale_py
import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

import evaluate
import generate_video
from systems.dataset import Dataset
from systems.errors import InputError
from utils.checkpoint import Checkpoint
from utils.config import read_config
from utils.training.command_line import ROLES
from utils.training.stage import main
from utils.watching import measure
from utils.watching.measure import HeldOutPlay

from . import tiny  # noqa: F401 - makes --model=tiny known
from .checkpoints import write_checkpoint

SHAPE, GREY = (210, 160, 3), (84, 84, 1)
STEPS = 25
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)


class Painter(gymnasium.Env):
    """Observes one colour a step, in any space; frame t has the level 10 * t."""

    def __init__(self, observation_space=IMAGE, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return painted(self.observation_space, self.time), {}

    def step(self, action):
        self.time += 1
        observation = painted(self.observation_space, self.time)
        return observation, float(self.time % 2), self.time == STEPS, False, {}


def painted(space, t):
    if isinstance(space, spaces.Dict):
        return {name: painted(part, t) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(painted(part, t) for part in space)
    if isinstance(space, spaces.Discrete):
        return space.n - 1
    levels = np.full(space.shape, 10 * t, np.float64)
    if len(space.shape) in (3, 4) and space.shape[0] <= 5:  # older frames of a stack are darker
        levels -= np.arange(space.shape[0])[::-1].reshape(-1, *[1] * (len(space.shape) - 1))
    scale = 1 if space.high.max() > 1 else 255
    return np.clip(levels / scale, space.low, space.high).astype(space.dtype)


def record(path, monkeypatch, env, jpeg=False, episodes=2):
    """A data set that Minari's collector writes while `env` plays at random."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = minari.DataCollector(env, jpeg_encoding=jpeg)
        for episode in range(episodes):
            collector.reset(seed=episode)
            env.action_space.seed(episode)
            over = False
            while not over:
                _, _, terminated, truncated, _ = collector.step(env.action_space.sample())
                over = terminated or truncated
        collector.create_dataset("painter-v0")
    return path / "painter-v0" / "data"


def box(*shape, dtype=np.uint8, low=0, high=255):
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize("space", [IMAGE, box(40, 36)], ids=["rgb", "grey"])
def test_jpeg_sets_are_read_as_minari_reads_them(tmp_path, monkeypatch, space):
    dataset = Dataset(record(tmp_path, monkeypatch, Painter(space), jpeg=True))
    expected = [episode.observations for episode in minari.load_dataset("painter-v0")]
    assert dataset.observations.text.startswith("JPEG images (40, 36")
    for episode, frames in enumerate(expected):
        shape = (40, 36, 1 if len(space.shape) == 2 else 3)
        read = dataset.read(episode, 0, STEPS + 1, shape)["frames"]
        np.testing.assert_allclose(read.reshape(frames.shape), frames, atol=2)
    assert dataset.palette() is None
    assert dataset.read(0, 2, 4, SHAPE, [0, 3])["frames"].shape == (2, *SHAPE)


def test_jpeg_files_of_different_lengths_are_read(tmp_path, monkeypatch):
    class Noise(Painter):
        def step(self, action):
            step = super().step(action)
            return self.np_random.integers(0, 256, IMAGE.shape, np.uint8), *step[1:]

    dataset = Dataset(record(tmp_path, monkeypatch, Noise(), jpeg=True))
    with h5py.File(dataset.path) as file:
        assert file["episode_0/observations"].dtype == object
    frames = [episode.observations for episode in minari.load_dataset("painter-v0")][1]
    read = dataset.read(1, 0, STEPS + 1, IMAGE.shape)["frames"]
    np.testing.assert_allclose(read, frames, atol=3)


def test_jpeg_files_of_one_length_are_read(tmp_path, monkeypatch):
    class Still(Painter):
        def step(self, action):
            return np.zeros(IMAGE.shape, np.uint8), *super().step(action)[1:]

    dataset = Dataset(record(tmp_path, monkeypatch, Still(), jpeg=True))
    with h5py.File(dataset.path) as file:  # Minari writes them as an array, like RAM
        assert file["episode_0/observations"].ndim == 2
    assert dataset.frame_shape == IMAGE.shape
    assert not dataset.read(0, 0, STEPS + 1, IMAGE.shape)["frames"].any()


def test_freeway_as_farama_records_it_is_read(tmp_path, monkeypatch):
    gymnasium.register_envs(ale_py)
    env = gymnasium.wrappers.TimeLimit(gymnasium.make("ALE/Freeway-v5"), 30)
    dataset = Dataset(record(tmp_path, monkeypatch, env, jpeg=True, episodes=1))
    assert dataset.game == "freeway" and dataset.lengths.tolist() == [30]
    (episode,) = minari.load_dataset("painter-v0")
    read = dataset.read(0, 0, 31, SHAPE)["frames"]
    np.testing.assert_allclose(read, episode.observations, atol=3)
    assert dataset.read(0, 0, 31, GREY)["frames"].std() > 10


FLOATS = {"dtype": np.float32, "high": 1.0}
READ = {
    "grey": (box(40, 36), "uint8 (40, 36), grey"),
    "grey with an axis": (box(40, 36, 1), "uint8 (40, 36, 1), grey"),
    "RGB": (IMAGE, "uint8 (40, 36, 3), RGB"),
    "grey, channels first": (box(1, 40, 36), "uint8 (1, 40, 36), grey, channels first"),
    "small": (box(12, 12, 3), "uint8 (12, 12, 3), RGB"),
    "stack": (box(4, 40, 36), "uint8 (4, 40, 36), a stack of 4 grey frames; the newest is taken"),
    "stack of RGB": (box(4, 40, 36, 3), "(4, 40, 36, 3), a stack of 4 RGB frames"),
    "stack of RGB, channels first": (
        box(4, 3, 40, 36),
        "(4, 3, 40, 36), a stack of 4 RGB, channels first frames",
    ),
    "stack, last": (box(40, 36, 4), "(40, 36, 4), a stack of 4 grey frames"),
    "stack of RGB, last": (box(40, 36, 12), "(40, 36, 12), a stack of 4 RGB frames"),
    "0 to 1": (box(40, 36, **FLOATS), "float32 (40, 36) in 0 to 1, scaled to 255, grey"),
    "stack, 0 to 1": (
        box(4, 84, 84, **FLOATS),
        "float32 (4, 84, 84) in 0 to 1, scaled to 255, a stack of 4 grey frames; the newest is",
    ),
    "float 0 to 255": (box(40, 36, 3, dtype=np.float64), "float64 (40, 36, 3) in 0 to 255, RGB"),
    "half precision": (box(40, 36, dtype=np.float16, high=1.0), "float16 (40, 36) in 0 to 1"),
    "int32": (box(40, 36, 3, dtype=np.int32), "int32 (40, 36, 3) in 0 to 255, RGB"),
    "no limits, levels": (
        box(40, 36, dtype=np.float32, low=-np.inf, high=np.inf),
        "float32 (40, 36) in 0 to 255, grey",
    ),
    "bool": (box(40, 36, dtype=bool, high=1), "bool (40, 36) in 0 to 1, scaled to 255, grey"),
}


@pytest.mark.parametrize(("space", "text"), READ.values(), ids=READ)
def test_images_of_any_size_layout_and_dtype_are_read(tmp_path, monkeypatch, space, text):
    dataset = Dataset(record(tmp_path, monkeypatch, Painter(space)))
    assert text in dataset.observations.text
    levels = 10 * np.arange(STEPS + 1)
    if space.dtype == bool:
        levels = 255 * (levels > 0)
    for shape in (SHAPE, GREY):
        for episode in (0, 1):
            frames = dataset.read(episode, 0, STEPS + 1, shape)["frames"]
            assert frames.dtype == np.uint8 and frames.shape == (STEPS + 1, *shape)
            wide = frames.reshape(STEPS + 1, -1)
            np.testing.assert_allclose(wide, np.broadcast_to(levels[:, None], wide.shape), atol=1)
    some = dataset.read(0, 1, 8, GREY, [0, 3, 6])["frames"]
    np.testing.assert_array_equal(some, frames[[1, 4, 7]])
    assert dataset.palette() is None and dataset.grey_palette() is None


def test_channels_first_keep_their_colours(tmp_path, monkeypatch):
    class Orange(Painter):
        def step(self, action):
            step = super().step(action)
            colour = np.array([255, 128, 0], np.uint8).reshape(3, 1, 1)
            return np.broadcast_to(colour, (3, 40, 36)), *step[1:]

    dataset = Dataset(record(tmp_path, monkeypatch, Orange(box(3, 40, 36))))
    assert dataset.observations.text == "uint8 (3, 40, 36), RGB, channels first"
    frames = dataset.read(0, 1, 3, SHAPE)["frames"]
    assert (frames == [255, 128, 0]).all()


@pytest.mark.parametrize("scaled", [False, True])
def test_frames_of_atari_preprocessing_are_read(tmp_path, monkeypatch, scaled):
    gymnasium.register_envs(ale_py)
    wrappers = gymnasium.wrappers
    env = gymnasium.make("BreakoutNoFrameskip-v4")
    env = wrappers.AtariPreprocessing(env, scale_obs=scaled)
    env = wrappers.TimeLimit(wrappers.FrameStackObservation(env, 3), 20)
    dataset = Dataset(record(tmp_path, monkeypatch, env, episodes=1))
    assert "a stack of 3 grey frames" in dataset.observations.text  # and not RGB
    (episode,) = minari.load_dataset("painter-v0")
    newest = episode.observations[:, -1]
    read = dataset.read(0, 0, len(newest), GREY)["frames"][..., 0]
    np.testing.assert_array_equal(read, np.rint(newest * 255) if scaled else newest)


def test_the_only_image_of_dict_observations_is_taken(tmp_path, monkeypatch):
    inner = spaces.Dict({"image": IMAGE, "speed": box(4)})
    space = spaces.Dict({"camera": inner, "lives": spaces.Discrete(4)})
    dataset = Dataset(record(tmp_path, monkeypatch, Painter(space), jpeg=True))
    assert dataset.observations.path == "observations/camera/image"
    np.testing.assert_allclose(dataset.read(0, 3, 1, IMAGE.shape)["frames"], 30, atol=2)


def test_one_of_several_images_has_to_be_named(tmp_path, monkeypatch):
    space = spaces.Dict({"front": IMAGE, "map": box(4, 40, 36), "lives": box(1)})
    directory = record(tmp_path, monkeypatch, Painter(space))
    with pytest.raises(InputError, match="where front, map are images.* --observation_key"):
        Dataset(directory)
    front, above = Dataset(directory, "front"), Dataset(directory, "map")
    assert "RGB" in front.observations.text and "stack" in above.observations.text
    assert front.fingerprint != above.fingerprint
    with pytest.raises(InputError, match="to be one of front, map, lives, received back"):
        Dataset(directory, "back")
    with pytest.raises(InputError, match=r"observation_key=lives.* received Box.* \(1,\), uint8"):
        Dataset(directory, "lives")


REFUSED = {
    "RAM": (box(128), r"Box\(0, 255, \(128,\), uint8\)"),
    "positions": (box(17, dtype=np.float64, low=-np.inf, high=np.inf), r"Box\(-inf, inf, \(17,\)"),
    "-1 to 1": (box(40, 36, 3, dtype=np.float32, low=-1, high=1), r"Box\(-1, 1, \(40, 36, 3\)"),
    "MiniGrid": (box(7, 7, 3), r"Box\(0, 255, \(7, 7, 3\), uint8\)"),
    "planes": (box(10, 10, 4, dtype=bool, high=1), r"Box\(0, 1, \(10, 10, 4\), bool\)"),
    "a cube": (box(20, 20, 20), r"\(20, 20, 20\)"),
    "five axes": (box(2, 2, 40, 36, 3), r"\(2, 2, 40, 36, 3\)"),
    "a number": (spaces.Discrete(5), r"Discrete\(5\)"),
    "Tuple": (spaces.Tuple([IMAGE, box(4)]), r"Tuple\(Box\(0, 255, \(40, 36, 3\), uint8\), Box"),
    "Dict": (spaces.Dict({"a": box(4), "b": box(5)}), r"Dict\(a: Box.*, b: Box"),
}


@pytest.mark.parametrize(("space", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_refused_by_its_space(tmp_path, monkeypatch, space, text):
    directory = record(tmp_path, monkeypatch, Painter(space))
    with pytest.raises(InputError, match=f"expected .*received .*{text}") as caught:
        Dataset(directory)
    assert str(directory) in str(caught.value)


def test_values_that_their_space_denies_are_refused(tmp_path, monkeypatch):
    directory = record(tmp_path, monkeypatch, Painter(box(40, 36, **FLOATS)))
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        file["episode_1/observations"][:] = 128.0
    with pytest.raises(InputError, match="values from 128 to 128 of Box"):
        Dataset(directory)
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        file["episode_1/observations"][:] = 0.5
        file["episode_1/observations"][3, 0, 0] = np.nan
    with pytest.raises(InputError, match="should go from 0 to 1, but go from nan"):
        Dataset(directory).read(1, 0, 5, GREY)


ACTIONS = {
    "Box": (box(2, dtype=np.float32, low=-1, high=1), r"Box\(-1, 1, \(2,\), float32\)"),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), r"MultiDiscrete\(\[2, 3\]\)"),
    "MultiBinary": (spaces.MultiBinary(4), r"MultiBinary\(4\)"),
    "Dict": (spaces.Dict({"a": spaces.Discrete(2)}), r"Dict\(a: Discrete\(2\)\)"),
    "Tuple": (spaces.Tuple([spaces.Discrete(2)]), r"Tuple\(Discrete\(2\)\)"),
}


@pytest.mark.parametrize(("space", "text"), ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("said", [True, False])
def test_actions_that_are_not_numbered_are_refused(tmp_path, monkeypatch, space, text, said):
    directory = record(tmp_path, monkeypatch, Painter(action_space=space))
    if not said:  # as in a set of no space, whose arrays tell
        change(directory, action_space=None, action_meanings=["a", "b"])
        text = ""
    with pytest.raises(InputError, match=rf"numbered, Discrete\(n\), received .*{text}"):
        Dataset(directory)


def change(directory, **entries):
    path = directory / "metadata.json"
    metadata = {**json.loads(path.read_text()), **entries}
    path.write_text(
        json.dumps({key: value for key, value in metadata.items() if value is not None})
    )


def test_actions_from_another_number_are_shifted(tmp_path, monkeypatch):
    space = spaces.Discrete(3, start=1)
    dataset = Dataset(record(tmp_path, monkeypatch, Painter(action_space=space)))
    played = [episode.actions for episode in minari.load_dataset("painter-v0")]
    assert set(np.concatenate(played)) == {1, 2, 3}
    for actions, expected in zip(dataset.actions, played, strict=True):
        np.testing.assert_array_equal(actions, expected - 1)
        assert actions.dtype == np.int32
    assert dataset.action_meanings == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("actions", 3, "actions from 0 to 2.*received 3 at step 5 of episode_1"),
        ("actions", -1, "actions from 0 to 2.*received -1 at step 5 of episode_1"),
        ("rewards", np.nan, "finite rewards, received nan at step 5 of episode_1"),
        ("rewards", -np.inf, "finite rewards, received -inf at step 5 of episode_1"),
    ],
)
def test_an_action_or_reward_that_cannot_be_is_named(tmp_path, monkeypatch, key, value, message):
    directory = record(tmp_path, monkeypatch, Painter())
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        file[f"episode_1/{key}"][5] = value
    with pytest.raises(InputError, match=message):
        Dataset(directory)


def train(path, directory, *more):
    """Trains a tiny network on a data set, as the script does."""
    main(
        importlib.import_module("compress_seq_1_train").STAGE,
        [
            *(f"--{role}_data={directory}" for role in ROLES),
            f"--train_dir={path}",
            *("--model=tiny", "--batch_size=2", "--steps_per_epoch=1", "--max_steps=2"),
            *("--pretraining_steps=0", "--precision=float32", *more),
        ],
    )
    return Checkpoint(path / "ms_pacman" / "tiny" / "compress_seq_1")


@pytest.mark.parametrize(
    ("space", "jpeg", "text"),
    [
        pytest.param(
            IMAGE,
            True,
            "JPEG images (40, 36, 3), RGB",
            marks=[pytest.mark.slow, pytest.mark.thorough],
        ),
        (box(4, 40, 36, **FLOATS), False, "float32 (4, 40, 36) in 0 to 1, scaled to 255"),
    ],
)
def test_other_peoples_sets_train_and_are_evaluated(
    tmp_path, monkeypatch, capsys, space, jpeg, text
):
    directory = record(tmp_path, monkeypatch, Painter(space), jpeg)
    checkpoint = train(tmp_path / "trained", directory)
    assert checkpoint.config.finished
    assert f"observations of the training set: {text}" in capsys.readouterr().out
    flags = ["evaluate.py", f"--checkpoint={checkpoint.directory}", "--num_windows=2"]
    monkeypatch.setattr(sys, "argv", flags)
    evaluate.main()
    assert "reward +1: in" in capsys.readouterr().out
    output = tmp_path / "film.gif"
    flags[0], flags[2:] = "generate_video.py", [f"--video={output}", "--horizon=5"]
    monkeypatch.setattr(sys, "argv", flags)
    generate_video.main()
    assert output.stat().st_size > 100


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (Painter(box(128)), "Box(0, 255, (128,), uint8)"),
        (Painter(spaces.Tuple([IMAGE])), "Tuple(Box(0, 255, (40, 36, 3), uint8))"),
        (Painter(action_space=spaces.MultiDiscrete([2, 3])), "MultiDiscrete([2, 3])"),
    ],
)
def test_training_refuses_other_spaces_before_it_begins(tmp_path, monkeypatch, capsys, env, found):
    directory = record(tmp_path, monkeypatch, env)
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "trained", directory)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "error: expected" in errors and f"received {found}" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "trained").rglob("*.h5"))


@pytest.mark.thorough
def test_checkpoints_of_two_images_recall_each_its_own(tmp_path, monkeypatch):
    # The second image is never brighter than the first one's tenth frame.
    space = spaces.Dict({"front": box(40, 36), "map": box(40, 36, high=100)})
    data = record(tmp_path, monkeypatch, Painter(space))
    checkpoints = [
        Checkpoint(
            write_checkpoint(
                tmp_path / key, data, action_meanings=("0", "1", "2"), observation_key=key
            )
        )
        for key in ("front", "map")
    ]
    both = HeldOutPlay(None, [1, 9], 4, 0)
    together = [both.measure(checkpoint) for checkpoint in checkpoints]
    alone = HeldOutPlay(None, [1, 9], 4, 0).measure(checkpoints[1])
    with pytest.raises(InputError, match=r"one --plot, received .*front; .*map\."):
        measure._require_same_play(checkpoints, None)
    ours, theirs = (each["horizons"]["9"]["mse_recall"] for each in (together[1], alone))
    assert ours == theirs


@pytest.mark.thorough
def test_the_observation_key_is_kept_in_the_checkpoint(tmp_path, monkeypatch, capsys):
    space = spaces.Dict({"front": IMAGE, "map": box(40, 36)})
    directory = record(tmp_path, monkeypatch, Painter(space))
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "trained", directory)
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: expected one image") and "--observation_key" in error
    checkpoint = train(tmp_path / "trained", directory, "--observation_key=map")
    assert read_config(checkpoint.directory).observation_key == "map"
    assert checkpoint.test_data().observations.path == "observations/map"
    with pytest.raises(SystemExit):
        train(tmp_path / "trained", directory, "--observation_key=front")
    assert "--observation_key=map" in capsys.readouterr().err
