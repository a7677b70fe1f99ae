"""Windows worked by hand, cut from small data sets written here in Minari's layout."""

import gc
import weakref

import h5py
import numpy as np
import pytest

from model.predictor import FramePredictor
from systems.dataset import Dataset
from systems.errors import InputError
from systems.windows import Windows, WindowSpec, require_length, sample
from utils.small_weights import Frames
from utils.training.batches import fit
from utils.training.progress import Progress

from . import tiny  # noqa: F401 - makes the preset "tiny" known
from .test_dataset import write

SHAPE = (210, 160, 3)


@pytest.fixture
def dataset(tmp_path):
    return Dataset(write(tmp_path / "data", [5, 2, 4]))


def one_reward(directory):
    """An episode of 40 steps, of which step 20 alone earns something."""
    rewards = [[0] * 40]
    rewards[0][20] = 1
    return Dataset(write(directory / "data", [40], rewards=rewards))


def numbers_of(windows, batches):
    """The windows of some batches, one after the other."""
    return [number for batch in batches for number in windows.numbers(batch)]


def test_a_window_is_as_long_as_warm_up_and_horizon():
    assert WindowSpec(10, 30).length == 40
    assert WindowSpec(10, 30).num_shown == 30 and not WindowSpec(10, 30).draws_steps
    some = WindowSpec(10, 30, shown=5)
    assert (some.length, some.num_shown, some.draws_steps) == (40, 5, True)
    few = WindowSpec(10, 3, shown=5)
    assert (few.length, few.num_shown, few.draws_steps) == (13, 3, False)


def test_windows_of_four_frames_by_hand(dataset):
    """Episodes of 6, 3 and 5 frames hold 3, 0 and 2 windows of 4 frames."""
    windows = Windows(dataset, SHAPE, WindowSpec(2, 2), batch_size=5, seed=0)
    batch = windows.batch(0)
    positions = [windows.position(n) for n in range(windows.num_windows)]
    assert positions == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
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
    assert set(batch) == {"frames", "actions", "rewards", "terminations"}


def test_order_is_a_function_of_seed_and_batch_number(dataset):
    def windows(seed):
        return Windows(dataset, SHAPE, WindowSpec(2, 2), 2, seed)

    whole = [windows(0).numbers(n) for n in range(20)]
    resumed = windows(0)
    assert [resumed.numbers(n) for n in range(7, 20)] == whole[7:]
    assert [windows(1).numbers(n) for n in range(20)] != whole
    np.testing.assert_array_equal(windows(0).batch(5)["frames"], resumed.batch(5)["frames"])
    # Each pass shows every window once, and in an order of its own.
    flat = [number for batch in whole[:10] for number in batch]
    passes = [flat[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_frames_drawn_from_a_longer_horizon(tmp_path):
    dataset = Dataset(write(tmp_path / "data", [40]))
    spec = WindowSpec(2, 10, shown=3)
    whole = Windows(dataset, SHAPE, WindowSpec(2, 10), 4, 0)
    drawn = Windows(dataset, SHAPE, spec, 4, 0)
    seen = set()
    for n in range(12):
        batch, all_of_it = drawn.batch(n), whole.batch(n)
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
    assert sample(dataset, SHAPE, spec, 4).batch(0)["frames"].shape[1] == 5
    again = Windows(dataset, SHAPE, spec, 4, 0)
    np.testing.assert_array_equal(again.batch(9)["steps"], drawn.batch(9)["steps"])
    halves = [
        Windows(dataset, SHAPE, spec, 4, 0, process, num_processes=2).batch(1)
        for process in range(2)
    ]
    for key in ("frames", "steps"):
        both = np.concatenate([half[key] for half in halves])
        np.testing.assert_array_equal(both, drawn.batch(1)[key])


def test_earlier_frames_are_drawn_more_often(tmp_path):
    """One of three frames: with 1, 1/2 and 1/3 to one another."""
    dataset = Dataset(write(tmp_path / "data", [40]))
    windows = Windows(dataset, SHAPE, WindowSpec(2, 3, shown=1), 500, 0)
    counts = np.bincount(np.concatenate([windows.batch(n)["steps"] for n in range(6)]).ravel())
    np.testing.assert_allclose(counts / 3000, np.array([6, 3, 2]) / 11, atol=0.03)


def test_half_of_the_windows_have_a_reward_or_an_end(tmp_path):
    windows = Windows(one_reward(tmp_path), SHAPE, WindowSpec(4, 2, reward_within=2), 8, 0)
    for n in range(10):
        batch = windows.batch(n)
        rewarded = (batch["rewards"][:, -2:] != 0).any(axis=1)
        assert (rewarded | batch["terminations"][:, -1])[4:].all()
    # Windows 16 and 17 alone have reward 20 as their fourth or fifth: 41 - 5 = 36 windows in all.
    assert {number for n in range(10) for number in windows.numbers(n)[4:]} == {16, 17, 35}


def test_of_a_longer_horizon_the_reward_comes_early_and_the_end_is_always_shown(tmp_path):
    spec = WindowSpec(4, 10, shown=2, reward_within=3)
    windows = Windows(one_reward(tmp_path), SHAPE, spec, 8, 0)
    ends = 0
    for n in range(30):
        batch, numbers = windows.batch(n), windows.numbers(n)
        # Frame 4 of a window is the first to be predicted, and reward 20 leads to frame 21.
        assert set(numbers[4:]) <= {15, 16, 17, 27}
        ended = [number == 27 for number in numbers]  # the last of 41 - 13 windows
        assert (batch["steps"][ended, -1] == 9).all()
        ends += sum(ended)
    assert ends


@pytest.mark.parametrize("rewards", [[[1] * 40], [[0] * 40]])
def test_an_eighth_of_them_end_an_episode(tmp_path, rewards):
    dataset = Dataset(write(tmp_path / "data", [40], rewards=rewards))
    windows = Windows(dataset, SHAPE, WindowSpec(4, 2, reward_within=2), 8, 0)
    # 36 windows, one of which ends the episode, and that one six times more.
    numbers = [number for n in range(42) for number in windows.numbers(n)[4:]]
    np.testing.assert_array_equal(np.bincount(numbers), [4] * 35 + [28])


def test_data_with_neither_rewards_nor_ends_is_sampled_evenly(tmp_path):
    directory = write(tmp_path / "data", [5, 2, 4])
    with h5py.File(directory / "main_data.hdf5", "a") as file:
        for episode in file.values():
            episode["terminations"][:] = False
    windows = Windows(Dataset(directory), SHAPE, WindowSpec(2, 2, reward_within=2), 10, 0)
    assert sorted(windows.numbers(0)[:5]) == sorted(windows.numbers(0)[5:]) == [0, 1, 2, 3, 4]


def test_windows_that_were_trained_on_take_no_room_any_more(dataset):
    predictor = FramePredictor("tiny", "compression", 18, warmup=3)
    predictor.compile("sgd")
    windows = Windows(dataset, (12, 12, 1), WindowSpec(3, 1), 2, 0)
    alive = weakref.ref(windows)
    with Progress("", 3, shown=False) as progress:
        fit(predictor, windows, 0, 3, progress)
    del windows
    gc.collect()
    assert alive() is None


def test_a_sample_is_fixed_by_its_seed_and_as_large_as_the_data_set_allows(dataset):
    spec = WindowSpec(2, 2)
    batch = sample(dataset, SHAPE, spec, 100).batch(0)
    assert len(batch["frames"]) == 5
    again = sample(dataset, SHAPE, spec, 100).batch(0)
    np.testing.assert_array_equal(batch["frames"], again["frames"])
    three = [sample(dataset, SHAPE, spec, 3, seed).numbers(0) for seed in range(9)]
    assert all(len(set(numbers)) == 3 for numbers in three)
    assert len({tuple(numbers) for numbers in three}) > 1


def test_windows_longer_than_any_episode_are_refused(dataset):
    with pytest.raises(InputError, match="at least 7 frames.*longest has 6"):
        Windows(dataset, SHAPE, WindowSpec(3, 4), 1, 0)
    with pytest.raises(InputError, match="Record more frames"):
        require_length(dataset, 7)
    require_length(dataset, 6)


def test_frames_that_are_read_when_sliced_are_those_of_a_batch(tmp_path):
    dataset = Dataset(write(tmp_path / "data", [9, 30, 12]))
    windows = sample(dataset, SHAPE, WindowSpec(2, horizon=5), 40, seed=3)
    starts = [windows.position(number) for number in windows.numbers(0)]
    frames = Frames(dataset, SHAPE, 2, starts)
    assert len(frames) == len(starts)
    parts = [frames[start : start + 10] for start in range(0, len(frames), 10)]
    assert [len(part) for part in parts] == [10, 10, 10, 6]
    np.testing.assert_array_equal(np.concatenate(parts), windows.batch(0)["frames"][:, :2])
