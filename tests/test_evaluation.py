"""Errors worked by hand, with a predictor whose predictions are known."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from systems.controlled_futures import controlled_pixels
from systems.dataset import Dataset
from systems.files import write_json
from systems.record import record
from systems.windows import WindowSpec, sample
from utils.watching.columns import columns, columns_explained
from utils.watching.evaluation import Beside, evaluate, reward_lines, table
from utils.watching.intervals import stretches
from utils.watching.measure import stored_windows
from utils.watching.metrics import average_precision, structural_similarity
from utils.watching.plot import labels

from .test_start import start


class Oracle:
    """Predicts the frame 3 levels too bright and certain +1 rewards."""

    def __init__(self, frames, mean):
        self.frames = frames
        self.predictor = SimpleNamespace(network=SimpleNamespace(mean_frame=mean))
        self.numbers = list(frames.reshape(len(frames), -1)[:, 0])

    def predict_on_batch(self, batch):
        size, warmup = batch["frames"].shape[:2]
        # It knows a window by its first pixel.
        numbers = np.asarray(batch["frames"]).reshape(size, -1)[:, 0]
        frames = np.stack([self.frames[self.numbers.index(n)] for n in numbers])[:, warmup:]
        reward = np.tile([0.0, 0.0, 1.0], (*frames.shape[:2], 1))
        # Its error grows with the first predicted step's action.
        wrong = batch["actions"][:, warmup - 1].reshape(-1, 1, 1, 1, 1)
        return {
            "frames": frames.astype(np.float32) + 3 + wrong,
            "reward": reward,
            "termination": np.full(frames.shape[:2], 0.5),
        }


def windows_of(frames, **more):
    shape = len(frames), frames.shape[1] - 1
    return {
        "frames": frames,
        "actions": np.zeros(shape, np.int32),
        "rewards": np.zeros(shape, np.float32),
        "terminations": np.zeros(shape, bool),
        **more,
    }


def test_errors_by_horizon_beside_the_baselines():
    warmup = 2
    # Window w's frame t is filled with 10 * t, but for one pixel that never changes.
    frames = np.zeros((20, 5, 4, 4, 1), np.uint8) + 10 * np.arange(5, dtype=np.uint8).reshape(
        -1, 1, 1, 1
    )
    frames[:, :, 0, 0, 0] = np.arange(20)[:, None]
    rewards = np.zeros((20, 4), np.float32)
    rewards[0, 2] = 5.0
    mean = np.full((4, 4, 1), 20.0)
    results, probabilities = evaluate(
        Oracle(frames, mean), windows_of(frames, rewards=rewards), warmup, (1, 3, 100)
    )
    assert probabilities.shape == (20, 3, 3)
    assert results["num_windows"] == 20
    assert results["horizons"].keys() == {"1", "3"}
    # Frames 2 and 4 are 20 and 40; the last real one is 10, the mean frame 20.
    still = np.square(np.arange(20) - 20).mean()
    for horizon, last, mean in (("1", 100, 0), ("3", 900, 400)):
        assert results["horizons"][horizon] == {
            "mse": pytest.approx(9),
            "mse_repeat_last": pytest.approx(last * 15 / 16),
            "mse_mean_frame": pytest.approx((mean * 15 + still) / 16),
            "mse_moving": pytest.approx(9),
            "mse_moving_repeat_last": pytest.approx(last),
            "mse_moving_mean_frame": pytest.approx(mean),
            "psnr": pytest.approx(38.588, abs=1e-3),
        }
    # One of 60 predicted steps earns: of a certain "+1" everywhere, a sixtieth is right.
    reward = results["reward"]
    assert reward["average_precision"] == {"-1": None, "1": pytest.approx(1 / 60)}
    # It was earned by the second predicted step.
    assert reward["average_precision_within"]["1"] == {"-1": None, "1": None}
    assert reward["positive_rate"]["1"] == pytest.approx(1 / 60)
    assert reward["calibration"]["1"] == [
        {"probability": 1.0, "rate": pytest.approx(1 / 60), "count": 60}
    ]
    # Predicted are 1 and 3 points after 1 and 3 steps; earned is one, by one window of twenty.
    assert reward["cumulative_error"] == {"1": 1.0, "3": pytest.approx(3 - 1 / 20)}
    assert reward["cumulative_error_zero"] == {"1": 0.0, "3": pytest.approx(1 / 20)}
    assert results["termination"] == {"average_precision": None, "positive_rate": 0.0}
    assert "0.011" in table(results)
    assert reward_lines(results).splitlines() == [
        "reward -1: in 0.00% of the steps, average precision undefined",
        "reward +1: in 1.67% of the steps, average precision 0.02",
    ]


def test_the_errors_under_shuffled_actions_and_at_controlled_pixels():
    frames = np.zeros((3, 4, 2, 2, 1), np.uint8)
    frames[:, :, 0, 0, 0] = np.arange(3)[:, None]
    actions = np.zeros((3, 3), np.int32)
    actions[1, 1:] = 4  # window 2 is given these: its own are 0
    oracle = Oracle(frames, np.zeros((2, 2, 1)))
    controlled = np.zeros((3, 1, 2, 2), bool)
    controlled[2, 0, 1, 1] = True
    windows = windows_of(frames, actions=actions)
    results, _ = evaluate(oracle, windows, 2, (2,), beside=Beside(controlled=controlled))
    row = results["horizons"]["2"]
    # 3 and, where the own action is 4, 7 levels too bright; shuffled, that is the next window.
    assert row["mse"] == row["mse_shuffled_actions"] == pytest.approx((9 + 49 + 9) / 3)
    assert row["mse_controlled"] == 9
    assert row["mse_controlled_shuffled_actions"] == 49
    assert row["mse_moving"] is None
    # Three windows are too few to know how far apart others would be.
    assert row["intervals"] == {}
    unknown, _ = evaluate(oracle, windows, 2, (2,), beside=Beside())
    assert unknown["horizons"]["2"]["mse_controlled"] is None
    # A window's frames do not change, so repeating the last one has no error to be compared with.
    assert row["ratio"] is row["ratio_moving"] is row["ratio_controlled"] is None
    assert row["ratio_shuffled"] == pytest.approx(9 / 49)
    assert unknown["horizons"]["2"]["ratio_shuffled"] is None
    errors, more = (table.splitlines()[1].split() for table in columns(unknown).split("\n\n"))
    assert errors[3:] == ["-", "-", "-", "-", "-", "53.600"]
    assert more[1:] == ["-"] * 8


def test_the_columns_that_are_printed_by_hand():
    warmup = 2
    # Frame t is filled with 10 t, but for one pixel that tells the windows apart.
    frames = np.zeros((4, 5, 4, 4, 1), np.uint8)
    frames += 10 * np.arange(5, dtype=np.uint8).reshape(-1, 1, 1, 1)
    frames[:, :, 0, 0, 0] = np.arange(4)[:, None]
    rewards = np.zeros((4, 4), np.float32)
    rewards[0, 1], rewards[2, 3] = 5.0, -2.0
    actions = np.zeros((4, 4), np.int32)
    actions[1, 1:] = 1
    controlled = np.zeros((4, 2, 4, 4), bool)
    controlled[2, :, 1, 1] = True
    windows = windows_of(frames, rewards=rewards, actions=actions)
    oracle = Oracle(frames, np.full((4, 4, 1), 20.0))
    results, _ = evaluate(oracle, windows, warmup, (1, 3), beside=Beside(controlled=controlled))
    row = results["horizons"]["1"]
    # Three windows are 3 levels too bright and one 4. The last real frame is 10, the first
    # predicted one 20 and the third 40.
    mse = (3 * 9 + 16) / 4
    assert row["mse"] == pytest.approx(mse)
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / mse))
    assert row["ratio"] == pytest.approx(mse / (100 * 15 / 16))
    assert row["ratio_moving"] == pytest.approx(mse / 100)
    # The controlled window is the third, which is right with 0 and shuffled gets the second's 1.
    assert row["ratio_controlled"] == pytest.approx(9 / 100)
    assert row["ratio_shuffled"] == pytest.approx(9 / 16)
    errors, more = (
        [line.split() for line in part.splitlines()] for part in columns(results).split("\n\n")
    )
    heads = ["step", "mse", "psnr", "ssim", "ratio", "moving", "controlled", "shuffled"]
    assert errors[0] == [*heads, "mean", "frame"]
    # Frames of four pixels are too small for a structural similarity.
    still = np.square(np.arange(4) - 20).mean()
    mean = f"{mse / (still / 16):.3f}"
    assert errors[1] == ["1", "10.75", "37.8", "-", "0.115", "0.107", "0.090", "0.562", mean]
    assert errors[2][:7] == ["3", "10.75", "37.8", "-", "0.013", "0.012", "0.010"]
    # Of four certain "+1" at the first step one is right; of twelve, one is, and one "-1" is none.
    assert more[0][-2:] == ["reward-1", "reward+1"]
    assert [row[-2:] for row in more[1:]] == [["-", "0.25"], ["0.08", "0.08"]]
    text = [*columns(results).splitlines(), *columns_explained().splitlines()]
    assert max(map(len, text)) <= 100
    # A line for each column, but for the second table's "step".
    assert len(columns_explained().splitlines()) == 9 + 8


def test_intervals_are_of_stretches_of_play():
    # The errors are 9, or 49 where the own action is 4.
    frames = np.zeros((16, 4, 2, 2, 1), np.uint8)
    frames[:, :, 0, 0, 0] = np.arange(16)[:, None]
    actions = np.zeros((16, 3), np.int32)
    actions[:8, 1:] = 4
    windows = windows_of(frames, actions=actions)
    oracle = Oracle(frames, np.zeros((2, 2, 1)))

    def interval(stretch, key="mse"):
        results, _ = evaluate(oracle, windows, 2, (2,), beside=Beside(stretch=stretch))
        return results["horizons"]["2"]["intervals"].get(key)

    low, high = interval(None)
    assert 9 < low < 29 < high < 49
    # Windows that err alike tell less than their number.
    wider = interval(np.arange(16) // 4)
    assert wider[0] < low and high < wider[1]
    assert interval(np.arange(16) // 8) is None
    # Of the ratios, too.
    low, high = interval(None, "ratio_mean_frame")
    assert low < 29 / (np.square(np.arange(16)).mean() / 4) < high
    starts = [(0, 5 * i) for i in range(16)]
    known = stretches(starts, np.array([100]), 5)
    assert interval(known)[0] < interval(None)[0]


def test_where_one_stretch_alone_has_controlled_pixels_their_interval_is_unknown():
    frames = np.zeros((8, 4, 2, 2, 1), np.uint8)
    frames[:, :, 0, 0, 0] = np.arange(8)[:, None]
    controlled = np.zeros((8, 1, 2, 2), bool)
    controlled[2] = True
    oracle = Oracle(frames, np.zeros((2, 2, 1)))
    beside = Beside(controlled=controlled)
    results, _ = evaluate(oracle, windows_of(frames), 2, (2,), beside=beside)
    row = results["horizons"]["2"]
    assert row["mse_controlled"] == 9
    assert "mse_controlled" not in row["intervals"]
    assert row["intervals"]["mse"] == pytest.approx([9, 9])


def test_a_single_window_has_no_other_to_take_actions_from():
    frames = np.zeros((1, 4, 2, 2, 1), np.uint8)
    oracle = Oracle(frames, np.zeros((2, 2, 1)))
    results, _ = evaluate(oracle, windows_of(frames), 2, (2,), beside=Beside())
    row = results["horizons"]["2"]
    assert (row["mse"], row["mse_shuffled_actions"], row["intervals"]) == (9, None, {})
    assert columns(results).splitlines()[1].split()[:2] == ["2", "9.00"]


def test_palette_indices_are_compared_as_colours():
    frames = np.full((1, 3, 4, 4), 7, np.uint8)
    palette = np.tile(np.arange(256, dtype=np.uint8)[:, None] // 7, (1, 3))
    oracle = Oracle(palette[frames], np.zeros((4, 4, 3)))
    oracle.numbers = [7]
    results, _ = evaluate(oracle, windows_of(frames), 2, (1,), palette)
    row = results["horizons"]["1"]
    assert (row["mse"], row["mse_repeat_last"], row["mse_mean_frame"]) == (9.0, 0.0, 1.0)


@pytest.mark.parametrize("shape", [(84, 84, 1), (210, 160, 3)])
def test_the_player_of_freeway_controls_the_chickens_columns_alone(tmp_path, shape):
    dataset = Dataset(record("freeway", "persistent", 200, 1, tmp_path, progress=False))
    starts = [(0, 120), (0, 50), (0, 120)]
    found = controlled_pixels(dataset, starts, 10, [1, 20], shape)
    assert found.shape == (3, 2, *shape[:2])
    np.testing.assert_array_equal(found[0], found[2])
    # The cars neither wait for the chicken nor flee it; the score stands in other rows.
    columns = np.flatnonzero(found[:, :, shape[0] // 8 :].any(axis=(0, 1, 2))) / shape[1]
    assert 0.26 < columns.min() < columns.max() < 0.34
    assert found[:, 1].any(axis=(1, 2)).all()


def test_controlled_pixels_are_unknown_for_data_that_cannot_be_replayed(tmp_path):
    dataset = Dataset(record("freeway", "persistent", 100, 1, tmp_path, progress=False))
    dataset.metadata["repeat_action_probability"] = 0.25
    assert controlled_pixels(dataset, [(0, 3)], 10, [1], (84, 84, 1)) is None
    dataset.metadata |= {"repeat_action_probability": 0.0}
    dataset.frame_shape = (210, 160, 3)
    assert controlled_pixels(dataset, [(0, 3)], 10, [1], (84, 84, 1)) is None
    dataset.frame_shape = (210, 160)
    # Another frame skip leads elsewhere, which the frames show.
    dataset.metadata["frame_skip"] = 2
    assert controlled_pixels(dataset, [(0, 3)], 10, [1], (84, 84, 1)) is None
    # Or to an end that the recorded game did not have.
    dataset.metadata |= {"frame_skip": 4, "max_episode_frames": 20}
    assert controlled_pixels(dataset, [(0, 3)], 10, [1], (84, 84, 1)) is None


def test_structural_similarity_by_hand():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 16, 14, 3)).astype(np.float32)
    assert structural_similarity(truth, truth) == pytest.approx([1, 1])
    # A pixel at a time, as the paper writes it.
    other = np.clip(truth + rng.normal(0, 40, truth.shape), 0, 255).astype(np.float32)
    weights = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    expected = []
    for top in range(16 - 10):
        for left in range(14 - 10):
            for channel in range(3):
                box = slice(top, top + 11), slice(left, left + 11), channel
                x, y = other[0][box].astype(float), truth[0][box].astype(float)
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                similar = (2 * mx * my + c1) * (2 * cov + c2)
                expected.append(similar / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert structural_similarity(other, truth)[0] == pytest.approx(np.mean(expected), abs=1e-5)
    # The levels alone differ: (2 a b + c1) / (a^2 + b^2 + c1).
    flat = np.full((1, 12, 12, 1), 100.0)
    expected = (2 * 100 * 50 + 6.5025) / (100**2 + 50**2 + 6.5025)
    assert structural_similarity(flat, flat / 2) == pytest.approx([expected], abs=1e-5)
    assert structural_similarity(flat[:, :8], flat[:, :8]) is None


def test_average_precision_by_hand():
    positive = np.array([True, False, True, False])
    # Taken in this order: precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision(positive, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(5 / 6)
    # Equal scores are one step, whatever their order.
    assert average_precision(positive, np.ones(4)) == pytest.approx(0.5)
    assert average_precision(np.zeros(3, bool), np.ones(3)) is None


def test_checkpoints_in_a_plot_are_told_apart_by_the_shortest_ends_of_their_paths():
    assert labels(["a/paper_seq_1"]) == ["paper_seq_1"]
    assert labels(["a/paper_seq_1", "a/compress_seq_1"]) == ["paper_seq_1", "compress_seq_1"]
    assert labels(["a/tiny/paper_seq_1", "b/tiny/paper_seq_1"]) == [
        "a/tiny/paper_seq_1",
        "b/tiny/paper_seq_1",
    ]


class Constant:
    """Predicts frames of one value."""

    def __init__(self, shape, value=0.0):
        self.shape, self.value = shape, value
        self.predictor = SimpleNamespace(network=SimpleNamespace(mean_frame=np.zeros(shape)))
        self.sizes = []  # of the batches

    def predict_on_batch(self, batch):
        size, warmup = batch["frames"].shape[:2]
        steps = batch["actions"].shape[1] - warmup + 1
        self.sizes.append(size)
        frames = np.zeros((size, steps, *self.shape), np.float32)
        if self.value:
            frames[:] = self.value
        return {
            "frames": frames,
            "reward": np.full((size, steps, 3), self.value, np.float32),
            "termination": np.full((size, steps), self.value, np.float32),
        }


def test_stored_windows_are_those_that_are_read_at_once(tmp_path):
    dataset = Dataset(record("freeway", "persistent", 120, 1, tmp_path, progress=False))
    windows = sample(dataset, (84, 84, 1), WindowSpec(10, 5), 80)
    stored, read = stored_windows(windows), windows.batch(0)
    for key in ("actions", "rewards", "terminations"):
        np.testing.assert_array_equal(stored[key], read[key])
        assert stored[key].dtype == read[key].dtype
    np.testing.assert_array_equal(stored["frames"][4:7], read["frames"][4:7])
    model, beside = Constant((84, 84, 1), 90.0), Beside()
    ours, theirs = (evaluate(model, each, 10, (1, 5), beside=beside)[0] for each in (stored, read))
    assert ours == theirs
    # Each part is rolled out by its own actions and by shuffled ones.
    assert model.sizes == [32, 32, 32, 32, 16, 16] * 2


@pytest.mark.thorough
def test_frames_are_read_in_the_batches_that_are_rolled_out(tmp_path):
    """Of 256 windows of 40 full frames, the frames alone are 340 MB."""
    dataset = Dataset(record("freeway", "persistent", 400, 1, tmp_path, progress=False))
    windows = sample(dataset, (210, 160, 3), WindowSpec(10, 30), 256)
    model = Constant((210, 160, 3))
    tracemalloc.start()
    try:
        results, _ = evaluate(
            model, stored_windows(windows), 10, (1, 30), dataset.palette(), beside=Beside()
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert results["num_windows"] == 256
    assert set(model.sizes) == {2}
    assert peak < 200e6, peak


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_model_that_has_diverged_is_reported_without_nan(tmp_path):
    frames = np.zeros((2, 4, 2, 2, 1), np.uint8)
    for value in (np.nan, np.inf):
        results, _ = evaluate(Constant((2, 2, 1), value), windows_of(frames), 2, (1, 2))
        assert results["horizons"]["1"]["psnr"] is None
        write_json(tmp_path / "results.json", results)

        def refuse(constant):
            raise AssertionError(f"JSON has no {constant}")

        text = (tmp_path / "results.json").read_text()
        written = json.loads(text, parse_constant=refuse)
        assert written["horizons"]["1"]["mse"] is None
        assert table(written).splitlines()[1].split()[:2] == ["1", "-"]


def test_help_shows_defaults():
    shown = " ".join(start("evaluate.py", "--help").stdout.split())
    for default in ("1,3,5,10,30,50,100", "256", "0"):
        assert f"(default: {default})" in shown
