"""Data sets are read as they were written, and refused with a clear error if they are damaged."""

import json
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest

from systems.atari import AtariGame
from systems.controlled import main
from systems.dataset import Dataset, find_dataset
from systems.errors import InputError
from systems.palette import palette
from systems.record import record

SHAPE = (210, 160, 3)


def write(directory, lengths, *, rgb=False, size=(210, 160), rewards=None, **metadata):
    """Episodes whose frame t of episode e is filled with 10 * e + t and whose action t is t."""
    directory.mkdir(parents=True, exist_ok=True)
    with h5py.File(directory / "main_data.hdf5", "w") as file:
        for episode, steps in enumerate(lengths):
            group = file.create_group(f"episode_{episode}")
            values = 10 * episode + np.arange(steps + 1, dtype=np.uint8)
            shape = (steps + 1, *size, 3) if rgb else (steps + 1, *size)
            frames = np.zeros(shape, np.uint8) + values.reshape(-1, *[1] * (len(shape) - 1))
            group["observations"] = frames
            group["actions"] = np.arange(steps) % 18
            group["rewards"] = np.zeros(steps) if rewards is None else np.array(rewards[episode])
            group["terminations"] = np.arange(steps) == steps - 1
            group["truncations"] = np.zeros(steps, bool)
    content = {"action_meanings": [str(a) for a in range(18)], "game": "pong", **metadata}
    if not rgb:
        content["palette"] = [[i, 0, 255 - i] for i in range(256)]
        content["grey_palette"] = list(range(256))
    (directory / "metadata.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def dataset(tmp_path):
    return Dataset(write(tmp_path / "data", [5, 2, 4]))


def test_palette_frames_are_looked_up_in_colour_by_the_model_and_in_grey_here(dataset):
    assert dataset.read(0, 1, 2, SHAPE)["frames"].shape == (2, 210, 160)
    grey = dataset.read(0, 1, 2, (84, 84, 1))["frames"]
    assert grey.shape == (2, 84, 84, 1)
    assert (grey[1] == 2).all()


@pytest.mark.parametrize("rows", [210, 250])
def test_rgb_data_sets_and_other_heights_are_fitted(tmp_path, rows):
    rgb = Dataset(write(tmp_path / "rgb", [5], rgb=True, size=(rows, 160)))
    frames = rgb.read(0, 3, 2, SHAPE)["frames"]
    assert frames.shape == (2, *SHAPE)
    assert (frames[1] == 4).all()
    assert rgb.read(0, 3, 2, (84, 84, 1))["frames"].shape == (2, 84, 84, 1)
    assert rgb.palette() is None
    indexed = Dataset(write(tmp_path / "indexed", [5], size=(rows, 160)))
    frames = indexed.read(0, 3, 1, SHAPE)["frames"]
    assert frames.shape == ((1, 210, 160) if rows == 210 else (1, *SHAPE))
    if rows != 210:
        np.testing.assert_array_equal(frames[0, 0, 0], [3, 0, 252])


def test_statistics_are_the_mean_frame_and_the_deviation_from_it(dataset):
    mean, deviation = dataset.frame_statistics((84, 84, 1))
    # Every step's first frame: 0..4, 10..11, 20..23.
    values = np.array([0, 1, 2, 3, 4, 10, 11, 20, 21, 22, 23])
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-5)
    assert deviation == pytest.approx(values.std(), rel=1e-4)


def test_a_colour_never_seen_takes_its_neighbours(tmp_path):
    directory = write(tmp_path / "data", [5])
    metadata = json.loads((directory / "metadata.json").read_text())
    metadata["palette"] = [None] * 256
    metadata["palette"][4], metadata["palette"][8] = [1, 2, 3], [7, 7, 7]
    (directory / "metadata.json").write_text(json.dumps(metadata))
    palette = Dataset(directory).palette()
    np.testing.assert_array_equal(palette[[0, 4, 5, 7, 200]][:, 0], [1, 1, 1, 7, 7])


def test_a_dataset_travels_to_another_process(dataset):
    dataset.read(0, 0, 2, SHAPE)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(
        again.read(0, 0, 2, SHAPE)["frames"], dataset.read(0, 0, 2, SHAPE)["frames"]
    )


def test_another_games_data_set_is_refused(tmp_path):
    directory = write(tmp_path / "data", [5])
    with pytest.raises(InputError, match="freeway.*pong"):
        find_dataset(directory, "freeway")
    with pytest.raises(InputError, match="4 actions.*18"):
        find_dataset(directory, "pong", 4)


def test_a_truncated_file_and_a_missing_one_are_refused(tmp_path):
    directory = write(tmp_path / "data", [5])
    path = directory / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="Minari's layout"):
        Dataset(directory)
    with pytest.raises(InputError, match="nowhere"):
        Dataset(tmp_path / "nowhere")


def test_games_named_by_minaris_own_metadata(tmp_path):
    spec = json.dumps({"id": "ALE/Pong-v5"})
    space = json.dumps({"type": "Discrete", "n": 6, "start": 0})
    directory = write(tmp_path / "data", [5], rgb=True, env_spec=spec, action_space=space)
    metadata = json.loads((directory / "metadata.json").read_text())
    del metadata["game"], metadata["action_meanings"]
    (directory / "metadata.json").write_text(json.dumps(metadata))
    dataset = find_dataset(directory, "pong", 6)
    assert dataset.game == "pong"
    assert len(dataset.action_meanings) == 6


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("shape", [(84, 84, 1), (210, 160, 3)])
def test_kept_frames_are_those_that_are_made(tmp_path, monkeypatch, shape, rgb):
    directory = write(tmp_path / "data", [5, 2, 4], rgb=rgb)
    noise = np.random.default_rng(0).integers(0, 256, (210, 160), dtype=np.uint8)
    bits = np.random.default_rng(1).integers(0, 256, (5, 210, 20), dtype=np.uint8)
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        for group in file.values():
            group["observations"][2] = noise[..., None] if rgb else noise
    with h5py.File(directory / "controlled.hdf5", "w") as file:
        file["episode_2"] = bits
    plain, kept = Dataset(directory), Dataset(directory)
    kept.keep_fitted(shape)
    asked = [(2, 0, 5, [0, 2, 3]), (2, 1, 3, None), (0, 0, 6, None), (2, 0, 5, None)]
    for episode, start, count, wanted in asked * 2:
        expected = plain.read(episode, start, count, shape, wanted)
        found = kept.read(episode, start, count, shape, wanted)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
    for frames in [[3], [1, 3, 4], [1, 2, 3]]:
        np.testing.assert_array_equal(
            kept.read_controlled(2, frames, shape), plain.read_controlled(2, frames, shape)
        )

    # Once all have been asked for, the data set's files are not read any more.
    def fail(*_):
        raise AssertionError("the file was read once more")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    np.testing.assert_array_equal(kept.read(2, 0, 5, shape)["frames"], expected["frames"])
    assert len(os.listdir(directory)) == 3  # none of the cache


@pytest.mark.parametrize("game", ["ms_pacman", "air_raid"])
def test_frames_of_a_data_set_are_those_of_the_live_game(tmp_path, game):
    """In both presets, and of a game with 250 rows, whose frames are resized in both."""
    dataset = Dataset(record(game, "persistent", 120, 1, tmp_path, progress=False))
    live, actions = AtariGame(game), dataset.actions[0]
    colours = dataset.palette()
    for shape in ((84, 84, 1), SHAPE):
        frames = dataset.read(0, 0, len(actions) + 1, shape)["frames"]
        if frames.ndim == 3:  # palette indices, whose colours the model looks up
            frames = colours[frames]
        assert frames.shape == (len(actions) + 1, *shape)
        live.start(dataset.no_ops[0])
        np.testing.assert_array_equal(frames[0], live.observation(shape))
        for t, action in enumerate(actions, 1):
            live.step(int(action))
            np.testing.assert_array_equal(frames[t], live.observation(shape))


def with_palette(directory, **colours):
    """A data set whose palette has some entries alone, such as i4=[1, 2, 3]."""
    entries = [None] * 256
    for name, colour in colours.items():
        entries[int(name[1:])] = colour
    return Dataset(change(write(directory, [5]), palette=entries))


def change(directory, **entries):
    """Changes entries of metadata.json; those that are None are removed."""
    path = directory / "metadata.json"
    metadata = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))
    return directory


def test_a_palette_has_the_colours_of_all_data_sets(tmp_path):
    training = with_palette(tmp_path / "a", i4=[1, 2, 3], i8=[7, 7, 7])
    test = with_palette(tmp_path / "b", i6=[9, 8, 7], i8=[7, 7, 7])
    merged = palette([training, test])
    assert merged.shape == (256, 3) and merged.dtype == np.uint8
    assert merged[[4, 6, 8]].tolist() == [[1, 2, 3], [9, 8, 7], [7, 7, 7]]
    # The training set alone would have given index 6 the colour of index 4.
    assert training.palette()[6].tolist() == [1, 2, 3]
    rgb = Dataset(write(tmp_path / "rgb", [5], rgb=True))
    np.testing.assert_array_equal(palette([rgb, training, test]), merged)
    assert palette([rgb]) is None


def test_one_index_with_two_colours_is_refused(tmp_path):
    one = with_palette(tmp_path / "a", i4=[1, 2, 3])
    other = with_palette(tmp_path / "b", i4=[1, 2, 4])
    message = r"index 4 to be \[1, 2, 3\] in .*/b as .*received \[1, 2, 4\].* of one game"
    with pytest.raises(InputError, match=message):
        palette([one, other])


def test_the_fingerprint_covers_actions_and_frames(tmp_path):
    directory = write(tmp_path / "data", [5, 2])
    before = Dataset(directory).fingerprint
    assert Dataset(shutil.copytree(directory, tmp_path / "elsewhere")).fingerprint == before
    seen = {before}
    for key, place in (
        ("actions", 0),
        ("observations", (3, 7, 7)),
        ("rewards", 1),
        ("terminations", 0),
    ):
        copy = shutil.copytree(directory, tmp_path / key)
        with h5py.File(copy / "main_data.hdf5", "a") as file:
            values = file["episode_0"][key]
            values[place] = not values[place] if key == "terminations" else values[place] + 1
        seen.add(Dataset(copy).fingerprint)
    seen.add(Dataset(change(directory, seed=7)).fingerprint)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"should hold a JSON object, but holds \[\]"),
        ("7", "should hold a JSON object, but holds 7"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_metadata_that_is_no_object_is_exit_code_2(tmp_path, capsys, text, message):
    directory = write(tmp_path / "data", [5])
    (directory / "metadata.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Dataset(directory)
    with pytest.raises(SystemExit) as end:
        main([f"--dataset={directory}"])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: expected a data set in Minari's layout")
    assert "python -m systems.record" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data_format": "arrow"}, 'data_format .* should be "hdf5".* but is "arrow"'),
        ({"game": 7}, "game in metadata.json should be a name, but is 7"),
        ({"action_meanings": "UP"}, 'a list of names, but is "UP"'),
        ({"action_meanings": [1, 2]}, r"a list of names, but is \[1, 2\]"),
        ({"action_meanings": []}, "a list of names"),
        ({"frame_skip": "4"}, "frame_skip .* whole number"),
        ({"frame_skip": 0}, "frame_skip .* at least 1, but is 0"),
        ({"max_episode_frames": 1.5}, "max_episode_frames"),
        ({"repeat_action_probability": "no"}, "a number from 0 to 1"),
        ({"palette": [[0, 0, 0]]}, "256 entries"),
        ({"palette": [[0, 0, 256]] * 256}, "from 0 to 255"),
        ({"palette": [[0, 0]] * 256}, "three numbers"),
        ({"grey_palette": [""] * 256}, "256 entries"),
        ({"palette": False}, "palette in metadata.json"),
        ({"palette": None}, "palette is missing"),
        ({"grey_palette": None}, "grey_palette is missing"),
        ({"action_meanings": None}, "action_space in metadata.json has no 'n'"),
        ({"action_meanings": None, "action_space": "Discrete(6)"}, "Expecting value"),
        ({"action_meanings": None, "action_space": [6]}, "has no 'n'"),
        ({"game": None, "env_spec": '{"name": "Pong"}'}, "env_spec in metadata.json has no 'id'"),
    ],
)
def test_metadata_of_wrong_types_is_refused(tmp_path, entries, message):
    directory = change(write(tmp_path / "data", [5]), **entries)
    with pytest.raises(InputError, match=message) as caught:
        Dataset(directory)
    assert str(directory) in str(caught.value)


def test_a_palette_of_no_colours_is_refused(tmp_path):
    with pytest.raises(InputError, match="palette in metadata.json should be 256 entries"):
        with_palette(tmp_path / "data")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.create_group("extra"), "extra is no episode's name"),
        (lambda file: file.clear(), "it has no episode"),
        (lambda file: file["episode_0"].pop("rewards"), "rewards.* is missing"),
        (lambda file: replace(file, "rewards", np.zeros(4)), "should have 5 rewards.*shape"),
        (
            lambda file: replace(file, "actions", np.zeros((5, 2), int)),
            r"Discrete.n., received int64 .2,.",
        ),
        (lambda file: replace(file, "actions", np.zeros(4, int)), "should have 5 actions"),
        (lambda file: replace(file, "actions", 3), "reading it failed"),
        (lambda file: replace(file, "terminations", ["no"] * 4), "reading it failed"),
        (lambda file: replace(file, "observations", np.zeros(6, np.uint8)), "received uint8 "),
        (lambda file: replace(file, "observations", np.zeros((6, 9, 9))), "stored as float64"),
        (lambda file: replace(file, "observations", np.uint8(1)), "received uint8 "),
        (
            lambda file: replace(file, "observations", np.zeros((6, 9, 9), np.uint8)),
            "frames of several shapes",
        ),
    ],
)
def test_episodes_of_another_layout_are_refused(tmp_path, damage, message):
    directory = write(tmp_path / "data", [5, 2])
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        damage(file)
    with pytest.raises(InputError, match=message) as caught:
        Dataset(directory)
    assert str(directory) in str(caught.value)


def replace(file, key, values):
    del file["episode_0"][key]
    file["episode_0"][key] = values


@pytest.mark.parametrize("bits", [None, np.zeros((3, 210, 20), np.uint8), np.zeros(6, np.uint8)])
def test_controlled_pixels_of_other_frames_are_refused(tmp_path, bits):
    directory = write(tmp_path / "data", [5])
    with h5py.File(directory / "controlled.hdf5", "w") as file:
        if bits is not None:
            file["episode_0"] = bits
    with pytest.raises(InputError, match=r"Remove the file .* python -m systems\.controlled"):
        Dataset(directory).read_controlled(0, [4, 5], SHAPE)
