"""Windows worked by hand, on small data sets written here in Minari's layout."""

import errno
import gc
import json
import os
import pickle
import types
import weakref

import h5py
import numpy as np
import pytest

from model.predictor import FramePredictor
from systems.errors import InputError
from utils.dataset import Dataset, Windows, find_dataset, held_out
from utils.frame_cache import FrameCache
from utils.progress import Progress, fit

from . import tiny  # noqa: F401 - makes the preset "tiny" known

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
            group["actions"] = np.arange(steps)
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


def test_windows_of_four_frames_by_hand(dataset):
    """Episodes of 6, 3 and 5 frames hold 3, 0 and 2 windows of 4 frames."""
    windows = Windows(dataset, SHAPE, length=4, batch_size=5, seed=0)
    batch = windows[0]
    assert [windows.window(n) for n in range(5)] == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    assert sorted(windows.numbers(0)) == [0, 1, 2, 3, 4]
    firsts = sorted(batch["frames"][:, 0, 0, 0])
    assert firsts == [0, 1, 2, 20, 21]
    # Frames, actions and terminations of a window belong together.
    np.testing.assert_array_equal(
        batch["frames"][:, :, 0, 0] - batch["frames"][:, :1, 0, 0], np.tile(np.arange(4), (5, 1))
    )
    np.testing.assert_array_equal(batch["actions"], batch["frames"][:, :-1, 0, 0] % 10)
    ends = batch["frames"][:, -1, 0, 0]
    np.testing.assert_array_equal(batch["terminations"][:, -1], (ends == 5) | (ends == 24))
    assert not batch["terminations"][:, :-1].any()
    assert batch["frames"].dtype == np.uint8
    assert batch["actions"].dtype == np.int32


def test_order_is_a_function_of_seed_and_batch_number(dataset):
    def numbers(seed, first, count):
        windows = Windows(dataset, SHAPE, 4, 2, seed, first_batch=first)
        return [windows.numbers(first + i) for i in range(count)]

    assert numbers(0, 0, 20)[7:] == numbers(0, 7, 13)
    assert numbers(0, 0, 20) != numbers(1, 0, 20)
    # Each pass shows every window once, and in an order of its own.
    flat = [number for batch in numbers(0, 0, 10) for number in batch]
    passes = [flat[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_first_batch_shifts_what_is_yielded(dataset):
    whole = Windows(dataset, SHAPE, 4, 2, 0)
    resumed = Windows(dataset, SHAPE, 4, 2, 0, first_batch=3)
    np.testing.assert_array_equal(whole[5]["frames"], resumed[2]["frames"])


def test_frames_drawn_from_a_longer_horizon(tmp_path):
    dataset = Dataset(write(tmp_path / "data", [40]))
    whole = Windows(dataset, SHAPE, 12, 4, 0)
    drawn = Windows(dataset, SHAPE, 12, 4, 0, predictions=3, horizon=10)
    seen = set()
    for n in range(12):
        batch, all_of_it = drawn[n], whole[n]
        assert batch["frames"].shape[:2] == (4, 5)
        assert batch["steps"].dtype == np.int32
        assert (np.diff(batch["steps"]) > 0).all()
        firsts = batch["frames"][:, 0, 0, 0]
        np.testing.assert_array_equal(batch["frames"][:, 1, 0, 0] - firsts, 1)
        shown = batch["frames"][:, 2:, 0, 0] - firsts[:, None]
        np.testing.assert_array_equal(shown, 2 + batch["steps"])
        for key in ("actions", "rewards", "terminations"):
            np.testing.assert_array_equal(batch[key], all_of_it[key])
        seen |= set(batch["steps"].flat)
    assert seen == set(range(10))
    held = held_out(dataset, SHAPE, 12, 4, predictions=3, horizon=10)
    assert held["frames"].shape[1] == 5
    again = Windows(dataset, SHAPE, 12, 4, 0, predictions=3, horizon=10, first_batch=7)
    np.testing.assert_array_equal(again[2]["steps"], drawn[9]["steps"])
    halves = [
        Windows(
            dataset, SHAPE, 12, 4, 0, predictions=3, horizon=10, process=process, num_processes=2
        )[1]["frames"]
        for process in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), drawn[1]["frames"])


def test_earlier_frames_are_drawn_more_often(tmp_path):
    """One of three frames: with 1, 1/2 and 1/3 to one another."""
    dataset = Dataset(write(tmp_path / "data", [40]))
    windows = Windows(dataset, SHAPE, 5, 500, 0, predictions=1, horizon=3)
    counts = np.bincount(np.concatenate([windows[n]["steps"] for n in range(6)]).ravel())
    np.testing.assert_allclose(counts / 3000, np.array([6, 3, 2]) / 11, atol=0.03)


def test_half_of_the_windows_tell_of_a_reward_or_an_end(tmp_path):
    rewards = [[0] * 40]
    rewards[0][20] = 1
    dataset = Dataset(write(tmp_path / "data", [40], rewards=rewards))
    windows = Windows(dataset, SHAPE, 6, 8, 0, reward_steps=2)
    for n in range(10):
        batch = windows[n]
        rewarded = (batch["rewards"][:, -2:] != 0).any(axis=1)
        assert (rewarded | batch["terminations"][:, -1])[4:].all()
    # Windows 16 and 17 alone have reward 20 as their fourth or fifth: 41 - 5 = 36 windows in all.
    assert {number for n in range(10) for number in windows.numbers(n)[4:]} == {16, 17, 35}


def test_of_a_longer_horizon_the_reward_comes_early_and_the_end_is_always_drawn(tmp_path):
    rewards = [[0] * 40]
    rewards[0][20] = 1
    dataset = Dataset(write(tmp_path / "data", [40], rewards=rewards))
    windows = Windows(dataset, SHAPE, 14, 8, 0, predictions=2, horizon=10, reward_steps=3)
    ends = 0
    for n in range(30):
        batch, numbers = windows[n], windows.numbers(n)
        # Frame 4 of a window is the first to be predicted, and reward 20 leads to frame 21.
        assert set(numbers[4:]) <= {15, 16, 17, 27}
        ended = [number == 27 for number in numbers]  # the last of 41 - 13 windows
        assert (batch["steps"][ended, -1] == 9).all()
        ends += sum(ended)
    assert ends


@pytest.mark.parametrize("rewards", [[[1] * 40], [[0] * 40]])
def test_an_eighth_of_them_end_an_episode(tmp_path, rewards):
    dataset = Dataset(write(tmp_path / "data", [40], rewards=rewards))
    windows = Windows(dataset, SHAPE, 6, 8, 0, reward_steps=2)
    # 36 windows, one of which ends the episode, and that one six times more.
    numbers = [number for n in range(42) for number in windows.numbers(n)[4:]]
    np.testing.assert_array_equal(np.bincount(numbers), [4] * 35 + [28])


def test_data_with_neither_rewards_nor_ends_is_sampled_evenly(tmp_path):
    directory = write(tmp_path / "data", [5, 2, 4])
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        for episode in file.values():
            episode["terminations"][:] = False
    windows = Windows(Dataset(directory), SHAPE, 4, 10, 0, reward_steps=2)
    assert sorted(windows.numbers(0)[:5]) == sorted(windows.numbers(0)[5:]) == [0, 1, 2, 3, 4]


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


def test_windows_that_were_trained_on_take_no_room_any_more(dataset):
    predictor = FramePredictor("tiny", "compression", 18, warmup=3)
    predictor.compile("sgd")
    windows = Windows(dataset, (12, 12, 1), 4, 2, 0, num_batches=3)
    numbers = weakref.ref(windows._pools[0][0])
    with Progress("", 3, shown=False) as progress:
        fit(predictor, windows, progress)
    gc.collect()
    assert numbers() is None


def test_held_out_windows_are_fixed_and_as_many_as_there_are(dataset):
    batch = held_out(dataset, SHAPE, 4, 100)
    assert len(batch["frames"]) == 5
    np.testing.assert_array_equal(batch["frames"], held_out(dataset, SHAPE, 4, 100)["frames"])


def test_a_dataset_travels_to_another_process(dataset):
    dataset.read(0, 0, 2, SHAPE)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(
        again.read(0, 0, 2, SHAPE)["frames"], dataset.read(0, 0, 2, SHAPE)["frames"]
    )


def test_windows_longer_than_any_episode_are_refused(dataset):
    with pytest.raises(InputError, match="at least 7 frames.*longest has 6"):
        Windows(dataset, SHAPE, 7, 1, 0)


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
def test_kept_frames_are_those_that_are_made(tmp_path, shape, rgb):
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
    # Once all have been asked for, the data set's files are not looked into any more.
    (directory / "main_data.hdf5").unlink()
    kept.__dict__.pop("_file").close()
    np.testing.assert_array_equal(kept.read(2, 0, 5, shape)["frames"], expected["frames"])
    assert os.listdir(directory).count("metadata.json") == len(os.listdir(directory)) - 1


def test_frames_that_find_no_room_are_made_each_time(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    made = []

    def make(numbers):
        made.extend(numbers)
        return np.repeat(numbers, 6).reshape(-1, 2, 3).astype(np.uint8)

    free = [100]

    def disk(_):
        return types.SimpleNamespace(f_bavail=free[0], f_frsize=20)

    monkeypatch.setattr(os, "fstatvfs", disk)
    cache = FrameCache(tmp_path, 10, (2, 3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        cache.read(np.array([4]), make)
    assert cache.read(np.array([4]), make)[:, 1, 2].tolist() == [4]
    free[0] = 49  # others have taken more than half of it
    assert cache.read(np.array([4, 7]), make)[:, 1, 2].tolist() == [4, 7]
    assert cache.read(np.array([7, 4, 2]), make)[:, 0, 0].tolist() == [7, 4, 2]
    assert made == [4, 4, 7, 7, 2]


def test_kept_frames_lie_elsewhere_where_a_data_set_cannot_be_written_to(tmp_path):
    cache = FrameCache(tmp_path / "none", 2, (1,))
    for _ in range(2):
        assert cache.read(np.array([1]), lambda _: np.full((1, 1), 7, np.uint8)).tolist() == [[7]]
