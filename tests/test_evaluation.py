"""Errors worked by hand, with a predictor whose predictions are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.evaluation import average_precision, evaluate, reward_lines, table


class Oracle:
    """Predicts the frame 3 levels too bright and certain +1 rewards."""

    def __init__(self, frames, mean):
        self.frames = frames
        self.predictor = SimpleNamespace(network=SimpleNamespace(mean_frame=mean))
        self.asked = 0

    def predict_on_batch(self, batch):
        size, warmup = batch["frames"].shape[:2]
        frames = self.frames[self.asked : self.asked + size, warmup:]
        self.asked += size
        reward = np.tile([0.0, 0.0, 1.0], (*frames.shape[:2], 1))
        return {"frames": frames.astype(np.float32) + 3, "reward": reward}


def test_errors_by_horizon_beside_the_baselines():
    warmup = 2
    # Window w's frame t is filled with 10 * t.
    frames = np.zeros((20, 5, 4, 4, 1), np.uint8) + 10 * np.arange(5, dtype=np.uint8).reshape(
        -1, 1, 1, 1
    )
    rewards = np.zeros((20, 4), np.float32)
    rewards[0, 2] = 5.0
    windows = {"frames": frames, "actions": np.zeros((20, 4), np.int32), "rewards": rewards}
    oracle = Oracle(frames, np.full((4, 4, 1), 20.0))
    results, probabilities = evaluate(oracle, windows, warmup, (1, 3, 100))
    assert probabilities.shape == (20, 3, 3)
    assert results["num_windows"] == 20
    assert results["horizons"] == {
        # Frames 2 and 4 are 20 and 40; the last real one is 10, the mean frame 20.
        "1": {"mse": 9.0, "mse_repeat_last": 100.0, "mse_mean_frame": 0.0},
        "3": {"mse": 9.0, "mse_repeat_last": 900.0, "mse_mean_frame": 400.0},
    }
    # One of 60 predicted steps earns: of a certain "+1" everywhere, a sixtieth is right.
    assert results["reward"]["average_precision"] == {"-1": None, "1": pytest.approx(1 / 60)}
    assert results["reward"]["positive_rate"]["1"] == pytest.approx(1 / 60)
    assert "0.090" in table(results)
    assert reward_lines(results).splitlines() == [
        "reward -1: in 0.00% of the steps, average precision undefined",
        "reward +1: in 1.67% of the steps, average precision 0.02",
    ]


def test_palette_indices_are_compared_as_colours():
    frames = np.full((2, 3, 4, 4), 7, np.uint8)
    palette = np.tile(np.arange(256, dtype=np.uint8)[:, None] // 7, (1, 3))
    windows = {
        "frames": frames,
        "actions": np.zeros((2, 2), np.int32),
        "rewards": np.zeros((2, 2), np.float32),
    }
    oracle = Oracle(palette[frames], np.zeros((4, 4, 3)))
    results, _ = evaluate(oracle, windows, 2, (1,), palette)
    assert results["horizons"]["1"] == {"mse": 9.0, "mse_repeat_last": 0.0, "mse_mean_frame": 1.0}


def test_average_precision_by_hand():
    positive = np.array([True, False, True, False])
    # Taken in this order: precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision(positive, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(5 / 6)
    # Equal scores are one step, whatever their order.
    assert average_precision(positive, np.ones(4)) == pytest.approx(0.5)
    assert average_precision(np.zeros(3, bool), np.ones(3)) is None
