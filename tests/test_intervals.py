"""Intervals: they hold what they promise where errors are correlated, as errors in a game are."""

import numpy as np
import pytest

from utils.watching.intervals import (
    interval,
    is_small,
    left_out,
    plain_interval,
    stretches,
    student,
    totals,
)

RUNS, WINDOWS = 1000, 256
# Of 1,000 runs of an interval that holds in 0.945 of the cases, one in fifty has fewer than this.
COVERED = 0.93


def correlated(correlation, runs, count, rng):
    """Normal values whose correlation falls by e in so many steps: float (runs, count)."""
    kept = np.exp(-1 / correlation) if correlation else 0.0
    values = np.empty((runs, count))
    values[:, 0] = rng.standard_normal(runs)
    news = rng.standard_normal((runs, count)) * np.sqrt(1 - kept**2)
    for t in range(1, count):
        values[:, t] = kept * values[:, t - 1] + news[:, t]
    return values


def coverage(values, mean, starts_of, lengths, rng):
    """How often the interval of sampled windows holds the mean."""
    held = 0
    for run in values:
        positions = rng.choice(len(run), WINDOWS, replace=False)
        stretch = stretches(starts_of(positions), lengths, 110)
        sums, counts = (totals(each, stretch) for each in (run[positions], np.ones(WINDOWS)))
        low, high = interval(left_out(sums, counts))
        held += low <= mean <= high
    return held / len(values)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0, 50, 150])
def test_intervals_hold_where_errors_are_correlated(correlation):
    rng = np.random.default_rng(correlation)
    values = 5 + correlated(correlation, RUNS, 10_000, rng)
    lengths = np.full(5, 1999)  # 2,000 frames each, as Freeway's episodes
    held = coverage(values, 5, lambda at: [(p // 2000, p % 2000) for p in at], lengths, rng)
    assert held >= COVERED


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [50, 150])
def test_intervals_hold_where_there_are_many_episodes(correlation):
    # 30 episodes of 200 frames: within each, errors are correlated, and between them they are not.
    rng = np.random.default_rng(correlation)
    values = 5 + correlated(correlation, RUNS * 30, 200, rng).reshape(RUNS, -1)
    lengths = np.full(30, 199)
    held = coverage(values, 5, lambda at: [(p // 200, p % 200) for p in at], lengths, rng)
    assert held >= COVERED


def test_stretches_are_episodes_or_eighths_of_play():
    # Of one episode: eight stretches of equal length, if they are as long as a window.
    starts = [(0, first) for first in range(801)]
    found = stretches(starts, np.array([900]), 100)
    assert found.max() == 7 and np.diff(found).min() == 0
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    assert stretches(starts, np.array([900]), 250).max() == 2
    assert stretches(starts, np.array([900]), 900).max() == 0
    # Several episodes follow each other. The second begins after the first one's last frame.
    starts = [(0, 0), (0, 99), (1, 0), (1, 99)]
    assert stretches(starts, np.array([99, 150]), 50).tolist() == [0, 1, 2, 3]
    # Twenty that have windows are stretches themselves.
    starts = [(2 * i, first) for i in range(20) for first in (0, 3)]
    found = stretches(starts, np.full(40, 5), 4)
    assert found.tolist() == [i for i in range(20) for _ in range(2)]


def test_an_interval_by_hand():
    # Four stretches with one window each. Without each, the means are 3, 8/3, 7/3, 2.
    means = left_out(np.array([1.0, 2, 3, 4]), np.ones(4))
    assert means == pytest.approx([2.5, 3, 8 / 3, 7 / 3, 2])
    # That is the common standard error, sqrt(5/3) / sqrt(4).
    width = student(3) * np.sqrt(5 / 3) / 2
    assert plain_interval(means) == pytest.approx([2.5 - width, 2.5 + width])
    assert plain_interval(means, 2.5, 3) == [2.5, 3]
    low, high = interval(means)
    assert low * high == pytest.approx(2.5**2) and 0 < low < 2.5 < high
    # Twice the error: the ratio is sure, whatever the errors are.
    assert interval(2 * means, means) == pytest.approx([2, 2])


def test_there_is_no_interval_where_nothing_is_known():
    assert interval(left_out(np.ones(3), np.ones(3))) is None
    assert interval(left_out(np.zeros(5), np.ones(5))) is None
    # Pixels in one stretch alone: without it nothing is left.
    assert interval(left_out(np.array([9.0, 0, 0, 0]), np.array([1.0, 0, 0, 0]))) is None
    assert plain_interval(left_out(np.array([9.0, 0, 0, 0]), np.array([1.0, 0, 0, 0]))) is None
    assert interval(left_out(np.full(5, np.inf), np.ones(5))) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(3, 3.1824), (7, 2.3646), (19, 2.0930), (200, 1.9719)]
)
def test_students_quantiles_are_those_of_the_tables(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, rel=2e-3)


def test_what_is_a_small_test_set():
    assert is_small(np.array([2048] * 4))
    assert not is_small(np.array([2048] * 5))
    assert not is_small(np.array([30] * 20))
