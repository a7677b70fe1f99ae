"""Anybody's predictions: the windows are written, predicted in NumPy, and scored alike."""

import json
import re
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import evaluate
from model.predictor import FramePredictor, RollOut
from systems.errors import InputError
from systems.record import record
from utils.arrays import read_npz
from utils.watching.evaluation import Rolled

from . import tiny
from .checkpoints import write_checkpoint

DATA_PAGE = Path(__file__).parents[1] / "docs" / "data.md"
FEW = ["--num_windows=12", "--horizon=1,6"]


def run(monkeypatch, checkpoint, *more):
    words = ["evaluate.py", f"--checkpoint={checkpoint}", *FEW, *map(str, more)]
    monkeypatch.setattr(sys, "argv", words)
    evaluate.main()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictions")
    training, test = (
        record("freeway", "persistent", frames, seed, path, progress=False)
        for frames, seed in ((60, 1), (90, 2))
    )
    directory = write_checkpoint(path / "stage", test)
    config = json.loads((directory / "config.json").read_text())
    config["data"]["training"] = str(training)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_the_example_of_the_page_is_scored_as_what_it_predicts(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, checkpoint, "--export_windows=windows.npz")
    (example,) = re.findall(r"^```python\n(.*?np\.savez.*?)```", DATA_PAGE.read_text(), re.M | re.S)
    assert len(example.splitlines()) <= 15
    exec(compile(example, str(DATA_PAGE), "exec"), {})
    run(monkeypatch, checkpoint, "--predictions=predictions.npz", "--json=ours.json")
    results = json.loads(Path("ours.json").read_text())
    assert results["predictions"] == "predictions.npz"
    assert results["reward"] is None and results["termination"] is None
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        run(monkeypatch, checkpoint, "--predictions=predictions.npz", "--plot=ours.svg")
    drawn = Path("ours.svg").read_text()
    assert ">predictions.npz<" in drawn and f">{checkpoint.name}<" not in drawn
    # It repeats the last frame, as a baseline does.
    for row in results["horizons"].values():
        for key in ("mse", "mse_moving", "mse_controlled"):
            assert row[key] == row[f"{key}_repeat_last"]
            assert row[f"{key}_shuffled_actions"] == row[key]
        assert row["ratio"] == row["ratio_shuffled"] == 1
        assert row["mse_mean_frame"] > 0 and row["mse_recall"] > 0
    # What the checkpoint itself is measured on is the same.
    run(monkeypatch, checkpoint, "--json=its.json")
    its = json.loads(Path("its.json").read_text())
    assert its["predictions"] is None and its["reward"]
    for horizon, row in its["horizons"].items():
        for guess in ("repeat_last", "mean_frame", "recall"):
            ours = results["horizons"][horizon][f"mse_moving_{guess}"]
            # The checkpoint's mean frame is that of its untrained network.
            assert guess == "mean_frame" or row[f"mse_moving_{guess}"] == ours


def test_the_truth_as_prediction_has_no_error(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, checkpoint, "--export_windows=windows.npz")
    windows = dict(np.load("windows.npz"))
    shapes = {name: (array.dtype.name, array.shape) for name, array in windows.items()}
    assert shapes == {
        "frames": ("uint8", (12, 10, 12, 12, 1)),
        "actions": ("int32", (12, 15)),
        "shuffled_actions": ("int32", (12, 15)),
        "horizons": ("int32", (2,)),
        "targets": ("uint8", (12, 2, 12, 12, 1)),
        "moving": ("bool", (12, 12, 12)),
        "controlled": ("bool", (12, 2, 12, 12)),
        "starts": ("int32", (12, 2)),
    }
    assert (windows["actions"][:, :9] == windows["shuffled_actions"][:, :9]).all()
    known = {name: windows[name] for name in ("starts", "horizons")}
    np.savez("predictions.npz", frames=windows["targets"] / 1.0, **known)
    capsys.readouterr()
    run(monkeypatch, checkpoint, "--predictions=predictions.npz", "--json=results.json")
    row = json.loads(Path("results.json").read_text())["horizons"]["6"]
    assert row["mse"] == row["mse_moving"] == row["mse_controlled"] == 0
    assert row["ssim"] == 1 and row["psnr"] is None
    assert row["mse_shuffled_actions"] is None
    printed = capsys.readouterr()
    assert printed.out.startswith("predictions.npz on ")
    assert "reward +1: in" not in printed.out
    assert max(map(len, printed.out.splitlines()[1:])) <= 100
    assert "note: the test set is small, 90 frames." in printed.err


def test_predictions_of_other_windows_and_shapes_are_refused(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, checkpoint, "--export_windows=windows.npz")
    windows = dict(np.load("windows.npz"))
    good = {"frames": windows["targets"]} | {key: windows[key] for key in ("starts", "horizons")}
    Path("text.npz").write_text("no arrays")
    np.savez_compressed("altered.npz", **good)
    content = Path("altered.npz").read_bytes()
    middle = len(content) // 3  # of the frames
    Path("altered.npz").write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    cases = [
        ({**good, "starts": windows["starts"][::-1]}, [], "expected `starts`"),
        ({"frames": good["frames"]}, [], "received none"),
        (good, ["--seed=1"], "the same --dataset"),
        (good, ["--horizon=2,6"], "expected `horizons`"),
        ({**good, "frames": good["frames"][..., 0]}, [], "(12, 2, 12, 12, 1)"),
        ({**good, "frames": good["frames"] + np.nan}, [], "expected finite levels"),
        (good, [f"--checkpoint={checkpoint}"], "expected one checkpoint"),
    ]
    for arrays, more, expected in cases:
        np.savez("predictions.npz", **arrays)
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, checkpoint, "--predictions=predictions.npz", *more)
        assert end.value.code == 2
        assert expected in capsys.readouterr().err
    for more, expected in (
        (["--predictions=text.npz"], "reading failed"),
        (["--predictions=altered.npz"], "expected predictions in altered.npz, as numpy.savez"),
        (["--predictions=no.npz"], "no.npz"),
        (["--export_windows=w.npz", f"--checkpoint={checkpoint}"], "expected one checkpoint"),
        (["--horizon=1,10,100,1000"], "expected --horizon of at most 81, the frames after"),
    ):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, checkpoint, *more)
        assert end.value.code == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_arrays_are_one_kind_of_error(tmp_path, save):
    whole, path = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    arrays = {"levels": np.arange(40, dtype=np.float32), "starts": np.arange(6)}
    save(whole, **arrays)
    for name, array in read_npz(whole, "arrays").items():
        np.testing.assert_array_equal(array, arrays[name])
    content, refused = whole.read_bytes(), 0
    cut = [content[:size] for size in range(0, len(content), 9)]
    altered = [bytearray(content) for _ in content]
    for i, each in enumerate(altered):
        each[i] ^= 1 << i % 8
    for damaged in cut + altered:
        path.write_bytes(damaged)
        try:
            read_npz(path, "arrays")
        except InputError as error:
            refused += 1
            assert str(error).startswith("expected arrays, but reading failed: ")
    # No checksum covers the times of the files within.
    assert len(cut) + len(altered) / 2 < refused


def test_what_is_no_npz_is_not_called_a_pickle(tmp_path):
    pointer, array = tmp_path / "pointer.npz", tmp_path / "array.npy"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    np.save(array, np.zeros(3))
    for path in (pointer, array):
        with pytest.raises(InputError, match=r"failed: File is not a zip file\. Fetch it\.$"):
            read_npz(path, f"weights in {path}", "Fetch it.")


def test_flags_that_do_not_fit_are_refused_before_weights_are_computed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    windows = "--export_windows=windows.npz"
    for more, expected in (
        (["--plot=errors.jpeg"], "expected --plot to end in"),
        (["--export_windows=windows.hdf5"], "expected --export_windows to end in .npz"),
        ([windows, "--json=f.json"], "expected no --json beside --export_windows"),
        ([windows, "--plot=f.png"], "expected no --plot beside --export_windows"),
        ([windows, "--predictions=p.npz"], "expected no --predictions beside --export_windows"),
    ):
        # No weights are shipped for this game, which would be said next.
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--pretrained=frogs", *more])
        with pytest.raises(SystemExit) as end:
            evaluate.main()
        assert end.value.code == 2
        assert expected in capsys.readouterr().err


def test_missing_weights_are_said_before_the_data_are_read(
    checkpoint, tmp_path, monkeypatch, capsys
):
    shutil.copy(checkpoint / "config.json", tmp_path)
    nowhere = "--dataset=/nowhere"
    for directory, more, expected in (
        (tmp_path, [], "expected a trained stage's weights"),
        (checkpoint, [f"--checkpoint={tmp_path}"], "expected a trained stage's weights"),
        # They need none, so that what is missing next is said.
        (tmp_path, ["--predictions=predictions.npz"], "expected a data set"),
    ):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, directory, nowhere, *more)
        assert end.value.code == 2
        assert expected in capsys.readouterr().err


def test_what_is_missing_or_otherwise_is_said(checkpoint, tmp_path, monkeypatch, capsys):
    config = json.loads((checkpoint / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    config["data"]["training"] = str(tmp_path / "gone")
    config["emulator"]["mode"] = 1
    config["pooled_frames"] = 1
    (other / "config.json").write_text(json.dumps(config))
    (other / "best.weights.h5").symlink_to(checkpoint / "best.weights.h5")
    run(monkeypatch, other, f"--json={tmp_path / 'results.json'}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["training"] is None and results["overlap"] is None
    row = results["horizons"]["6"]
    assert row["mse_recall"] is row["ratio_recall"] is row["seen"] is None
    errors = capsys.readouterr().err
    for said in (
        "gone, is not there",
        "has mode 0, and the model was trained with 1",
        "has pooled_frames 2, and the model was trained with 1",
    ):
        assert said in errors and any(said in note for note in results["notes"])


def test_why_a_training_set_cannot_be_used_is_said(checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("damaged")
    config = json.loads((checkpoint / "config.json").read_text())
    config["data"]["training"] = str(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "best.weights.h5").symlink_to(checkpoint / "best.weights.h5")
    run(monkeypatch, tmp_path)
    errors = capsys.readouterr().err
    assert "note: the training set cannot be used, so recall and the overlap with it" in errors
    assert "left out: expected a data set in Minari's layout" in errors
    assert "is not there" not in errors


@pytest.mark.thorough
def test_a_horizon_is_measured_in_pieces_that_follow_each_other(checkpoint, monkeypatch, tmp_path):
    from utils.watching import evaluation

    rows = []
    for at_once in (120, 4):
        monkeypatch.setattr(evaluation, "_STEPS_AT_ONCE", at_once)
        run(monkeypatch, checkpoint, f"--json={tmp_path / 'results.json'}", "--horizon=1,4,5,11")
        rows.append(json.loads((tmp_path / "results.json").read_text()))
    whole, pieces = rows
    for horizon, row in whole["horizons"].items():
        for key in ("mse", "mse_controlled", "mse_shuffled_actions"):
            assert pieces["horizons"][horizon][key] == pytest.approx(row[key], rel=1e-5)
    for sign in ("-1", "1"):
        ours, theirs = (each["reward"]["calibration"][sign] for each in rows)
        assert len(ours) == len(theirs)
    assert whole["termination"]["positive_rate"] == pieces["termination"]["positive_rate"]


def test_clips_are_kept_of_windows_that_are_rolled_out_one_by_one():
    batch = tiny.batch(3)
    frames, actions = batch["frames"], batch["actions"]
    roll_out = RollOut(FramePredictor("tiny", "paper", 3, warmup=4))
    rolled = Rolled(roll_out, actions, 4, (1, 3), keep=2)
    for window in range(3):
        part = slice(window, window + 1)
        rolled.predict(part, frames[part], shuffled=False)
    whole = roll_out.predict_on_batch({"frames": frames[:, :4], "actions": actions})
    np.testing.assert_allclose(rolled.kept, whole["frames"][:2], rtol=1e-4, atol=1e-3)


def test_every_key_of_the_json_file_is_explained(checkpoint, monkeypatch, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "tools.md").read_text()
    run(monkeypatch, checkpoint, f"--json={tmp_path / 'results.json'}")
    results = json.loads((tmp_path / "results.json").read_text())
    row = results["horizons"]["6"]
    keys = {*results, *row, *results["reward"], *results["termination"]}
    for key in keys:
        baseline = re.fullmatch(r"(.+?)(_repeat_last|_mean_frame|_recall|_shuffled_actions)", key)
        named = f"`{key}`" in page
        stem = baseline and baseline[1]
        shortened = baseline and (f"`{stem}_...`" in page or f"`...{baseline[2]}`" in page)
        assert named or (shortened and f"`{stem}`" in page), key
    without = {"psnr", "seen", "object_windows", "intervals"}
    measured = {key for key in set(row) - without if row[key] is not None}
    assert measured == set(row["intervals"])
