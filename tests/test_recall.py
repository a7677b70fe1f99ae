"""Recall: an exact search, what was recorded after it, and frames that are alike bit for bit."""

import numpy as np
import pytest

from systems.dataset import Dataset
from systems.record import record
from systems.windows import WindowSpec, sample
from utils.watching import recall
from utils.watching.recall import ACTION, SHAPE, remember


def recorded(tmp_path, game, frames, seed, policy="persistent"):
    return Dataset(record(game, policy, frames, seed, tmp_path, progress=False))


def windows_of(dataset, count, horizon, shape=SHAPE):
    windows = sample(dataset, shape, WindowSpec(10, horizon), count)
    return [windows.position(number) for number in windows.numbers(0)]


def distance(training, test, moment, last):
    """Of two moments, episode and last frame each, by integers."""
    read = [
        dataset.read(episode, frame - 3, 4, SHAPE)
        for dataset, (episode, frame) in ((training, moment), (test, last))
    ]
    frames = [each["frames"].astype(np.int64) for each in read]
    differ = (read[0]["actions"] != read[1]["actions"]).sum()
    return np.square(frames[0] - frames[1]).sum() + ACTION * differ


def test_the_search_is_exact_and_looks_at_moments_that_go_on(tmp_path, monkeypatch):
    # Episodes of 20 to 40 steps, and chunks that their moments lie across.
    monkeypatch.setattr(recall, "_AT_ONCE", 16)
    training = recorded(tmp_path, "ms_pacman", 120, 1, "random")
    test = recorded(tmp_path, "ms_pacman", 60, 2, "random")
    starts, horizons = windows_of(test, 6, 9), [1, 9, 115, 200]
    memory = remember(training, test, starts, 10, [1, 9], SHAPE)
    for window, (episode, first) in enumerate(starts):
        last = episode, first + 9
        for i, horizon in enumerate(memory.horizons):
            all_of_them = {
                (e, frame): distance(training, test, (e, frame), last)
                for e, steps in enumerate(training.lengths)
                for frame in range(3, steps + 1 - horizon)
            }
            found = tuple(map(int, memory.moments[window, i]))
            assert all_of_them[found] == min(all_of_them.values())
    assert memory.known().all()
    frames = memory.predict(slice(2, 4))
    episode, frame = map(int, memory.moments[3, 1])
    after = training.read(episode, frame + 9, 1, SHAPE)["frames"][0]
    np.testing.assert_array_equal(frames[1, 1], after)
    # Nobody goes on for longer than the whole episode.
    search = recall._Search(training, test, [(e, f + 9) for e, f in starts], 4, horizons)
    for episode, first, frames in recall._chunks(training, SHAPE, 3):
        search.compare(episode, first, frames)
    assert (search.moments[:, 3] == -1).all()
    assert (search.moments[:, 2, 1] <= training.lengths.max() - 115).all()


def test_play_that_was_seen_is_recalled_and_overlaps(tmp_path):
    seen = recorded(tmp_path, "freeway", 80, 1)
    starts = windows_of(seen, 5, 12)
    memory = remember(seen, seen, starts, 10, [1, 12], SHAPE)
    assert memory.moments[:, 0].tolist() == [[e, first + 9] for e, first in starts]
    assert memory.seen == 1 and memory.seen_targets.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [SHAPE, (210, 160, 3)])
def test_overlap_counts_frames_that_are_alike_bit_for_bit(tmp_path, shape):
    # Two players from one start: the first frames are alike, until one of them moves.
    players = "persistent", "random"
    training, test = (
        Dataset(record("freeway", player, 60, 1, tmp_path, progress=False)) for player in players
    )

    def frames(dataset):
        read = dataset.read(0, 0, 61, shape)["frames"]
        return recall.in_levels(read, shape, dataset.palette())

    known = {frame.tobytes() for frame in frames(training)}
    expected = np.array([frame.tobytes() in known for frame in frames(test)])
    assert 0 < expected.mean() < 1
    starts = windows_of(test, 20, 5, shape)
    memory = remember(training, test, starts, 10, [1, 5], shape)
    assert memory.seen == expected.mean()
    at = np.array([first + 9 for _, first in starts])
    assert memory.seen_targets == pytest.approx([expected[at + 1].mean(), expected[at + 5].mean()])
    assert memory.predict(slice(0, 2)).shape == (2, 2, *shape)
