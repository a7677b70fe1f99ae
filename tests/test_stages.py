"""The eight scripts, end to end on real games, and all that can go wrong with them."""

import csv
import functools
import importlib
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import generate_video
from model.presets import PRESETS, Conv
from systems.dataset import CONTROLLED, Dataset
from systems.errors import InputError
from systems.palette import known_colours, palette
from systems.record import dataset_directory, record
from utils.checkpoint import Checkpoint, fastest_precision, save_weights, training_in
from utils.config import PRETRAINING, read_config
from utils.small_weights import read_arrays
from utils.training import watch
from utils.training.command_line import CONTROL_WEIGHT, parse, parser
from utils.training.phases import PHASES
from utils.training.resume import Resume
from utils.training.stage import main
from utils.training.stage import script as script_of
from utils.watching.tensorboard import Logs

from . import tiny  # noqa: F401 - makes --model=tiny known
from .interrupts import heed_interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CANDIDATE = slice(64, 96)  # columns of the tiny LSTM's kernels
SCRIPTS = [
    f"{variant}_seq_{stage}"
    for variant in ("paper", "compress")
    for stage in ("1_train", "3_train", "5_train", "5_train_reward")
]


def stage_of(script):
    return importlib.import_module(script).STAGE


def run(script, *flags):
    """The script as the command line runs it, in this process."""
    main(stage_of(script), [str(flag) for flag in flags])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags of a directory that the first script to run records Ms. Pac-Man into."""
    return f"--data_path={tmp_path_factory.mktemp('data')}", "--num_training_frames=200"


def tiny_flags(data, train_dir):
    return [
        *data,
        f"--train_dir={train_dir}",
        "--model=tiny",
        "--batch_size=4",
        "--steps_per_epoch=2",
        "--max_steps=6",
        "--pretraining_steps=0",
    ]


@pytest.fixture
def flags(data, tmp_path):
    return tiny_flags(data, tmp_path)


def directory(tmp_path, stage="compress_seq_1", model="tiny"):
    return tmp_path / "ms_pacman" / model / stage


@pytest.fixture(scope="module")
def curriculum(data, tmp_path_factory):
    """Trains all stages of a variant, once for all tests, and returns their `train_dir`."""

    @functools.cache
    def train(variant):
        train_dir = tmp_path_factory.mktemp(variant)
        for script in [name for name in SCRIPTS if name.startswith(variant)]:
            flags = tiny_flags(data, train_dir)
            if stage_of(script).pretraining_steps:
                flags.append("--pretraining_steps=2")
            run(script, *flags, "--atari_game=ms_pacman.bin")
        return train_dir

    return train


@pytest.fixture(scope="module")
def trained_once(data, tmp_path_factory):
    train_dir = tmp_path_factory.mktemp("trained")
    run("compress_seq_1_train", *tiny_flags(data, train_dir))
    return directory(train_dir)


@pytest.fixture
def trained(trained_once, tmp_path):
    """The directory of a finished compress_seq_1, trained by `flags`."""
    return Path(shutil.copytree(trained_once, directory(tmp_path)))


def weights(path):
    """All arrays of a weights file by their path in it."""
    found = {}
    with h5py.File(path / "best.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def fails(capsys, script, *flags):
    """Runs a script that must end with exit code 2 and one clear message; returns that."""
    with pytest.raises(SystemExit) as error:
        run(script, *flags)
    assert error.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "error: " in lines[-1]
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_2016_command_lines_parse_unchanged(script):
    config = parse(stage_of(script), ["--atari_game=ms_pacman.bin"])
    assert config.game == "ms_pacman"
    assert config.model == "lstm_210x160x3"
    assert config.num_training_frames == 30000
    assert config.max_steps == stage_of(script).max_steps


@pytest.mark.parametrize(
    ("training", "validation", "test"),
    [(30_000, 3_000, 10_000), (12_000, 1_200, 4_000), (200_000, 20_000, 20_000), (1, 1, 1)],
)
def test_test_sets_are_as_long_as_intervals_need(training, validation, test):
    config = parse(stage_of("paper_seq_1_train"), [f"--num_training_frames={training}"])
    frames = [config.num_frames(role) for role in ("training", "validation", "test")]
    assert frames == [training, validation, test]


def test_help_shows_every_default_also_where_it_is_0():
    text = " ".join(parser(stage_of("compress_seq_3_train")).format_help().split())
    reward = " ".join(parser(stage_of("compress_seq_5_train_reward")).format_help().split())
    assert "before all others (default: 0)" in reward
    assert "order of windows (default: 0)" in text
    defaults = "1800 with lstm_84x84x1, 720 with lstm_210x160x3"
    assert f"before all others (default: {defaults})" in text
    assert "as pretraining left it (default: 0.0)" in text
    assert "(default: None)" not in text and "(default: False)" not in text


def test_a_stages_script_is_named_as_stages_say():
    for name in SCRIPTS:
        assert script_of(stage_of(name).name) == f"{name}.py"


@pytest.mark.parametrize("variant", ["paper", "compress"])
def test_all_scripts_in_sequence(curriculum, variant):
    previous = None
    for script in [name for name in SCRIPTS if name.startswith(variant)]:
        stage = stage_of(script)
        path = directory(curriculum(variant), stage.name)
        assert {file.name for file in path.iterdir()} == {
            "best.weights.h5",
            "config.json",
            "history.csv",
            "logs",
            *(["pretraining.npz"] if stage.pretraining_steps else []),
        }
        config = json.loads((path / "config.json").read_text())
        assert config["finished"]
        assert config["frame_skip"] == 4
        assert config["restored_from"] == (previous and str(previous))
        # After 20 steps of validation play, 21 frames, there is nothing to look ahead to.
        assert config["training"]["horizon"] == min(stage.horizon, 11)
        assert set(config["results"]["horizons"]) >= {"1", "3", "5", "10"}
        gates = [value for value in weights(path).values() if value.shape == (32, 128)]
        # Pretraining leaves the gates constant, and so do the steps after it.
        assert len(gates) == 2 and not any(np.delete(gate, CANDIDATE, 1).any() for gate in gates)
        if previous:
            before = [value for value in weights(previous).values() if value.shape == (32, 128)]
            assert any((one != other).any() for one, other in zip(gates, before, strict=True))
        previous = path


def test_tensorboard_shows_all_that_is_promised(curriculum):
    train_dir = curriculum("compress")
    path = directory(train_dir, "compress_seq_5_reward")
    started = (directory(train_dir, "compress_seq_5") / "config.json").stat().st_mtime
    events = EventAccumulator(str(path / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert tags >= {
        "loss",
        "pixel_loss",
        "reward_loss",
        "termination_loss",
        "validation_loss",
        "learning_rate",
        "frames_per_second",
        "error_at_step_1/mse",
        "error_at_step_10/mse_repeat_last",
        "error_at_step_10/mse_mean_frame",
        "reward/positive",
        "reward/negative",
        "roll_out",
        "_hparams_/session_start_info",
    }
    losses = events.Tensors("loss")
    assert [event.step for event in losses] == [2, 4, 6]
    assert started < losses[0].wall_time <= losses[2].wall_time
    width, height, gif = events.Tensors("roll_out")[0].tensor_proto.string_val
    assert gif[:4] == b"GIF8"
    assert int(width) > 3 * 12 < int(height)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "variant"),
    # Both presets and both beginnings; what comes after them tiny networks go through, for a tenth
    # of the time.
    [("lstm_84x84x1", "compress"), ("lstm_210x160x3", "paper")],
)
def test_the_users_presets_train_from_the_command_line(tmp_path, model, variant):
    # Held-out play for a few steps: rolling these out takes most of the time.
    few = ["--num_training_frames=200", "--max_steps=1", "--pretraining_steps=1", "--batch_size=1"]
    flags = [f"--data_path={tmp_path}", f"--train_dir={tmp_path}", f"--model={model}", *few]
    command = [sys.executable, f"{variant}_seq_1_train.py", *flags]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    size = {"lstm_84x84x1": 67, "lstm_210x160x3": 116}[model]
    assert f"{model}, {size} million parameters" in done.stdout
    hint = "--model=lstm_84x84x1 is the preset for processors"
    assert (hint in done.stdout) == (model == "lstm_210x160x3")
    results = read_config(directory(tmp_path, f"{variant}_seq_1", model)).results
    assert all(np.isfinite(error["mse"]) for error in results["horizons"].values())


def test_each_stage_starts_from_the_best_weights_of_the_one_before(flags, trained, tmp_path):
    # So small a learning rate leaves weights as they were restored.
    run("compress_seq_3_train", *flags, "--learning_rate=1e-30")
    before, after = weights(trained), weights(directory(tmp_path, "compress_seq_3"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def looked_at(path):
    """The steps of pretraining at which TensorBoard shows a roll-out."""
    events = EventAccumulator(str(path / "logs"), size_guidance={"tensors": 0}).Reload()
    steps = [event.step for event in events.Tensors("pretraining/roll_out")]
    for tag in ("error_at_step_1/mse", "error_at_step_10/mse_repeat_last"):
        assert [event.step for event in events.Tensors(f"pretraining/{tag}")] == steps
    _, _, gif = events.Tensors("pretraining/roll_out")[0].tensor_proto.string_val
    assert gif[:4] == b"GIF8"
    return steps


@pytest.mark.thorough
def test_the_paper_variant_begins_with_its_convolutions(flags, tmp_path, capsys):
    run("paper_seq_1_train", *flags, "--pretraining_steps=8", "--learning_rate=1e-30")
    assert "pretraining 1/1, one step ahead: 100%" in capsys.readouterr().err
    events = EventAccumulator(str(directory(tmp_path, "paper_seq_1") / "logs")).Reload()
    assert [event.step for event in events.Tensors("pretraining_loss")] == [8]
    trained = weights(directory(tmp_path, "paper_seq_1"))
    # Between them the features and, negated, the features once more are handed on.
    (kernel,) = [value for name, value in trained.items() if value.shape == (288, 32)]
    components = 16 - 5  # for nine actions five pairs of units are left out
    np.testing.assert_array_equal(kernel[:, components : 2 * components], -kernel[:, :components])
    error = fails(capsys, "paper_seq_5_train_reward", *flags, "--pretraining_steps=8")
    assert "received 8 for paper_seq_5_reward" in error


@pytest.mark.thorough
def test_the_compression_variant_begins_with_dynamics_of_its_convolutions(
    flags, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(watch, "LOOK_AFTER", 0.0)
    # Shorter than the last stage looks ahead.
    short = record("ms_pacman", "random", 30, 1, tmp_path, progress=False)
    more = [f"--training_data={short}", "--pretraining_steps=8", "--learning_rate=1e-30"]
    for script, shown in (
        ("compress_seq_1_train", "2/2, 5 steps ahead"),
        ("compress_seq_3_train", "1/1, 20 steps ahead"),
        ("compress_seq_5_train", "1/1, 29 steps ahead"),
    ):
        run(script, *flags, *more)
        assert f"pretraining {shown}: 100%" in capsys.readouterr().err
    # The first stage's phases end after 5 and 8 steps.
    assert looked_at(directory(tmp_path)) == [5]
    trained = weights(directory(tmp_path))
    # The encoding holds the components with both signs, and so does the LSTM's candidate; there
    # what they were before is added to both.
    (kernel,) = [value for name, value in trained.items() if value.shape == (288, 32)]
    np.testing.assert_array_equal(kernel[:, 16:], -kernel[:, :16])
    gates = [value for value in trained.values() if value.shape == (32, 128)]
    # From the output before, the candidate takes away what the forget gate keeps, and nothing else.
    recurrent, candidate = sorted(
        (value[:, 64:96] for value in gates),
        key=lambda value: np.abs(value - np.diag(np.diag(value))).max(),
    )
    np.testing.assert_allclose(recurrent, recurrent[0, 0] * np.eye(32), atol=1e-7)
    assert recurrent[0, 0] < 0
    before = candidate[:, 16:] + candidate[:, :16]
    np.testing.assert_allclose(before[:16], before[0, 0] * np.eye(16), atol=1e-6)
    np.testing.assert_allclose(before[16:], 0, atol=1e-6)
    assert before[0, 0] > 0


def small(path):
    """What a stage's pretraining has trained."""
    return read_arrays(path / PRETRAINING)


@pytest.mark.thorough
def test_pretraining_goes_on_where_the_stage_before_ended(flags, tmp_path, capsys, monkeypatch):
    flags += ["--pretraining_steps=8", "--learning_rate=1e-30"]
    run("paper_seq_1_train", *flags)
    first, third = directory(tmp_path, "paper_seq_1"), directory(tmp_path, "paper_seq_3")
    (phase,) = PHASES["paper_seq_3"]
    # So small a rate leaves all as it was, and the network is computed from it again.
    monkeypatch.setitem(PHASES, "paper_seq_3", (phase._replace(learning_rate=1e-30),))
    run("paper_seq_3_train", *flags)
    assert "so the weights of pretraining are kept" in capsys.readouterr().out
    before, after = small(first), small(third)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, err_msg=name)
    for name, value in weights(first).items():
        np.testing.assert_allclose(weights(third)[name], value, atol=1e-4, err_msg=name)


@pytest.mark.thorough
def test_without_pretraining_to_go_on_with_a_stage_trains_without(flags, trained, tmp_path, capsys):
    run("compress_seq_3_train", *flags, "--pretraining_steps=8")
    assert "compress_seq_1 has no pretraining to go on with" in capsys.readouterr().out
    path = directory(tmp_path, "compress_seq_3")
    assert read_config(path).training.pretraining_steps == 0
    # The same command finds it finished.
    run("compress_seq_3_train", *flags, "--pretraining_steps=8")
    assert f"{path} is finished" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_finished_stage_is_found_where_the_one_before_has_been_removed(flags, tmp_path, capsys):
    flags[-2:] = ["--max_steps=0", "--pretraining_steps=8"]
    for script in ("compress_seq_1_train", "compress_seq_3_train"):
        run(script, *flags)
    shutil.rmtree(directory(tmp_path))
    capsys.readouterr()
    run("compress_seq_3_train", *flags)
    assert "compress_seq_3 is finished" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_stage_may_pretrain_and_train_no_further(flags, tmp_path, capsys):
    flags += ["--pretraining_steps=8", "--max_steps=0"]
    run("paper_seq_1_train", *flags)
    out = capsys.readouterr().out
    assert "paper_seq_1: finished after pretraining\n" in out
    assert "best weights" not in out and "are kept" not in out
    path = directory(tmp_path, "paper_seq_1")
    (row,) = csv.DictReader((path / "history.csv").open())
    assert (row["epoch"], row["step"]) == ("0", "0")
    assert np.isfinite(float(row["validation_loss"])) and np.isfinite(float(row["mse_5"]))
    events = EventAccumulator(str(path / "logs"), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("roll_out")] == [0]
    run("paper_seq_3_train", *flags)
    assert "paper_seq_3: finished after pretraining\n" in capsys.readouterr().out
    error = fails(capsys, "paper_seq_5_train", *flags, "--pretraining_steps=0")
    assert "expected --max_steps of at least 1 for a stage that does not pretrain" in error
    (directory(tmp_path, "paper_seq_3") / "pretraining.npz").unlink()
    error = fails(capsys, "paper_seq_5_train", *flags)
    assert "or a pretraining to go on with in" in error


@pytest.mark.thorough
def test_the_encoder_stays_as_it_is_unless_it_has_a_rate(flags, trained, tmp_path, capsys):
    def moved_by_seq_3(*more, atol=0.0):
        run("compress_seq_3_train", *flags, "--learning_rate=1e-3", *more)
        before, after = weights(trained), weights(directory(tmp_path, "compress_seq_3"))
        return {
            name.split("/")[0]
            for name, value in after.items()
            if not np.allclose(value, before[name], rtol=0, atol=atol)
        }

    assert moved_by_seq_3() == {"core", "decoder"}
    slow = moved_by_seq_3("--encoder_rate=1e-30", "--overwrite", atol=1e-7)
    assert slow == {"core", "decoder"}
    # The encoder's convolutions are filed under a name of their own.
    assert {"encoder", "convolutions"} <= moved_by_seq_3("--encoder_rate=0.1", "--overwrite")
    assert "the encoder stays" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("compress_seq_1_train", *flags, "--overwrite", "--training_data=/nowhere")
    assert "the encoder stays at its random weights" in capsys.readouterr().out


@pytest.mark.thorough
def test_what_the_player_decides_is_found_once_and_counts_for_more(flags, tmp_path, capfd):
    elsewhere = tmp_path / "data"
    flags = [*flags, f"--data_path={elsewhere}"]
    sets = [
        dataset_directory(elsewhere, "ms_pacman", "random", n, s) for n, s in ((200, 1), (20, 2))
    ]
    run("compress_seq_1_train", *flags, "--control_weight=0")
    assert not any((path / CONTROLLED).exists() for path in sets)
    plain = weights(directory(tmp_path))
    run("compress_seq_1_train", *flags, "--overwrite")
    assert "controlled pixels: 100%" in capfd.readouterr().err
    config = read_config(directory(tmp_path))
    assert config.training.control_weight == CONTROL_WEIGHT
    weighted = weights(directory(tmp_path))
    assert any(not np.array_equal(weighted[name], value) for name, value in plain.items())
    made = [(path / CONTROLLED).stat().st_mtime_ns for path in sets]
    run("compress_seq_3_train", *flags)
    assert "controlled pixels" not in capfd.readouterr().err
    assert made == [(path / CONTROLLED).stat().st_mtime_ns for path in sets]


@pytest.mark.thorough
def test_of_data_that_cannot_be_played_again_all_pixels_count_alike(flags, tmp_path, capsys):
    path = record("ms_pacman", "random", 200, 1, tmp_path / "data", progress=False)
    text = (path / "metadata.json").read_text()
    sticky = text.replace('"repeat_action_probability": 0.0', '"repeat_action_probability": 0.25')
    assert sticky != text
    (path / "metadata.json").write_text(sticky)
    run("compress_seq_1_train", *flags, f"--training_data={path}")
    assert "the training set cannot be replayed" in capsys.readouterr().out
    assert read_config(directory(tmp_path)).training.control_weight == 0.0


@pytest.mark.thorough
def test_recorded_colours_are_known_to_a_network_that_is_trained_on_rgb_frames(
    flags, tmp_path, monkeypatch
):
    tiny_rgb = PRESETS["tiny"]._replace(
        frame_shape=(210, 160, 3),
        stack=1,
        encoder=(Conv(4, 8, 8),),
        decoder_start=(27, 20, 4),
        decoder=(Conv(3, 8, 8),),
    )
    monkeypatch.setitem(PRESETS, "tiny_rgb", tiny_rgb)
    path = record("ms_pacman", "random", 100, 1, tmp_path / "rgb", progress=False)
    indexed = Dataset(path)
    about = json.loads((path / "metadata.json").read_text())
    about = {key: value for key, value in about.items() if "palette" not in key}
    with h5py.File(path / "main_data.hdf5", "a") as file:
        for episode in file.values():
            frames = indexed.palette()[episode["observations"][:]]
            del episode["observations"]
            episode["observations"] = frames
    (path / "metadata.json").write_text(json.dumps(about))
    more = ["--model=tiny_rgb", f"--training_data={path}"]
    run("compress_seq_1_train", *flags, *more)
    trained = weights(directory(tmp_path, model="tiny_rgb"))
    (known,) = [value for value in trained.values() if value.shape == (256, 3)]
    config = read_config(directory(tmp_path, model="tiny_rgb"))
    others = [Dataset(config.data[role]) for role in ("validation", "test")]
    np.testing.assert_array_equal(known, palette(others))
    # What the stage before had no colour for is known from the data of this one.
    first = directory(tmp_path, model="tiny_rgb")
    network = Checkpoint(first).predictor().network
    network.palette.assign(np.zeros((256, 3)))
    save_weights(network, first)
    run("compress_seq_3_train", *flags, *more)
    third = weights(directory(tmp_path, "compress_seq_3", "tiny_rgb"))
    (known,) = [value for value in third.values() if value.shape == (256, 3)]
    shown = known_colours(others)
    assert sum(colour is not None for colour in shown) > 5
    for ours, theirs in zip(known, shown, strict=True):
        assert ours.tolist() == (theirs or [0, 0, 0])


def test_a_finished_stage_is_left_alone_unless_overwritten(flags, trained, tmp_path, capsys):
    before = (trained / "best.weights.h5").stat().st_mtime_ns
    run("compress_seq_1_train", *flags)
    assert "is finished" in capsys.readouterr().out
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    # What cannot start leaves it alone too.
    assert "nowhere" in fails(
        capsys, "compress_seq_1_train", *flags, "--overwrite", "--training_data=/nowhere"
    )
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    short = record("ms_pacman", "random", 15, 1, tmp_path / "short", progress=False)
    assert "at least 20 frames" in fails(
        capsys, "compress_seq_1_train", *flags, "--overwrite", f"--validation_data={short}"
    )
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    without = [flag for flag in flags if "batch_size" not in flag]
    assert "expected --batch_size" in fails(capsys, "compress_seq_1_train", *without, "--overwrite")
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    with training_in(trained):
        error = fails(capsys, "compress_seq_1_train", *flags, "--overwrite")
    assert "another process" in error
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    # The other may not have written anything yet.
    with training_in(directory(tmp_path, "compress_seq_3")):
        assert "another process" in fails(capsys, "compress_seq_3_train", *flags)
        assert directory(tmp_path, "compress_seq_3").exists()
    assert not directory(tmp_path, "compress_seq_3").exists()
    run("compress_seq_1_train", *flags, "--overwrite")
    assert (trained / "best.weights.h5").stat().st_mtime_ns > before


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--seed=1", "--seed=0"),
        ("--max_steps=5000", "--max_steps=6"),
        ("--learning_rate=1e-3", "--learning_rate=2e-05"),
        ("--control_weight=0", "--control_weight=5.0"),
        ("--precision=float32", "--precision=mixed_bfloat16"),
        ("--policy=lookahead", "random-200-seed1-v2"),
        ("--num_training_frames=300", "random-200-seed1-v2"),
    ],
)
def test_a_finished_stage_refuses_other_flags(flags, trained, capsys, flag, expected):
    if flag == "--precision=float32" and fastest_precision(training=True) == "float32":
        pytest.skip("that is what it was trained in here")
    before = (trained / "best.weights.h5").stat().st_mtime_ns
    error = fails(capsys, "compress_seq_1_train", *flags, flag)
    assert f"{expected}, with which the finished stage" in error.replace("/data, with", ", with")
    received = flag.partition("=")[2]
    if not flag.startswith(("--policy", "--num_training_frames")):  # which name a data set
        received = f"received {flag}"
    assert received in error.replace("0.001", "1e-3").replace("=0.0.", "=0.")
    assert "--overwrite" in error
    assert (trained / "best.weights.h5").stat().st_mtime_ns == before
    assert not list(Path(flags[0].partition("=")[2]).rglob("lookahead*"))  # for nothing


def test_a_finished_stage_refuses_other_play_under_the_same_name(
    flags, trained, data, tmp_path, capsys
):
    name = "random-200-seed1-v2"
    recorded = Path(data[0].partition("=")[2]) / "ms_pacman" / name
    moved = shutil.copytree(recorded, tmp_path / "moved" / name)
    run("compress_seq_1_train", *flags, f"--training_data={moved}")
    assert "is finished" in capsys.readouterr().out
    other = record("ms_pacman", "random", 200, 7, tmp_path / "other", progress=False)
    other = other.rename(other.parent / name)
    error = fails(capsys, "compress_seq_1_train", *flags, f"--training_data={other}")
    assert f"received other play in {other}" in error and "--overwrite" in error


@pytest.mark.thorough
def test_overwriting_removes_links_and_not_what_they_name(flags, trained, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (trained / "link").symlink_to(elsewhere, target_is_directory=True)
    run("compress_seq_1_train", *flags, "--overwrite")
    assert not (trained / "link").exists()
    assert (elsewhere / "precious").read_text() == "kept"


def test_what_a_stage_says_at_its_beginning_and_end(flags, trained, tmp_path, capsys):
    run("compress_seq_3_train", *flags, "--learning_rate=1e-3")
    printed = capsys.readouterr().out
    assert "compress_seq_3: ms_pacman, tiny, 0 million parameters" in printed
    assert f"by {keras.backend.backend()}, {fastest_precision(training=True)}" in printed
    assert "frames of play: 200 training, 20 validation, 66 test" in printed
    assert "expected time: about a minute" in printed
    best = re.search("the best weights by validation loss are those after step (.*)", printed)[1]
    rows = csv.DictReader((directory(tmp_path, "compress_seq_3") / "history.csv").open())
    assert best == min(rows, key=lambda row: float(row["validation_loss"]))["step"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # on Linux
    assert f"peak memory: {peak:.1f} GB" in printed
    assert "next: python compress_seq_5_train.py --atari_game=ms_pacman --model=tiny" in printed
    assert f"--train_dir={tmp_path}" in printed


@pytest.mark.thorough
def test_later_stages_say_that_one_before_them_was_trained_again(flags, trained, tmp_path, capsys):
    short = "--max_steps=2"
    run("compress_seq_3_train", *flags, short)
    assert "trained from other weights" not in capsys.readouterr().out
    run("compress_seq_1_train", *flags, "--overwrite", "--seed=1", short)
    capsys.readouterr()
    run("compress_seq_3_train", *flags, short)
    note = f"{directory(tmp_path, 'compress_seq_3')} was trained from other weights"
    assert note in capsys.readouterr().out
    run("compress_seq_5_train", *flags, short)
    assert note in capsys.readouterr().out
    Checkpoint(directory(tmp_path, "compress_seq_3")).predictor()
    assert note in capsys.readouterr().err


@pytest.mark.thorough
def test_training_stops_when_validation_has_stopped_improving(flags, tmp_path):
    flags = [flag for flag in flags if "max_steps" not in flag]
    run("compress_seq_1_train", *flags, "--patience=2", "--learning_rate=1e-30")
    rows = list(csv.DictReader((directory(tmp_path) / "history.csv").open()))
    # With weights that stay as they are nothing is better than the first epoch.
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_a_stage_that_makes_nothing_better_leaves_what_it_began_with(
    flags, trained, tmp_path, capsys, monkeypatch
):
    # The same weights on the same play: the results are known.
    monkeypatch.delattr("utils.training.run.Run.load_best")
    run("compress_seq_3_train", *flags, "--learning_rate=10", "--patience=1")
    before, after = weights(trained), weights(directory(tmp_path, "compress_seq_3"))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    stages = [read_config(directory(tmp_path, f"compress_seq_{number}")) for number in (1, 3)]
    assert stages[1].finished and stages[1].results == stages[0].results
    rows = list(csv.DictReader((directory(tmp_path, "compress_seq_3") / "history.csv").open()))
    assert len(rows) == 1
    assert f"no epoch improved the validation loss, so the weights of {trained}" in (
        capsys.readouterr().out
    )


def start(flags, *more, preexec_fn=heed_interrupts):
    """The script as a process of its own; epochs of pretraining are short there."""
    code = (
        "import sys; from utils.start import *; prepare(); import_keras(); import tests.tiny;"
        "from utils.training import pretraining; pretraining.EPOCH = 4;"
        "from compress_seq_1_train import STAGE, main; main(STAGE, sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags, *more],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def finish(process):
    """Waits for the end of what `start` started, which is to be a good one."""
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def stop_after_an_epoch(process, tmp_path, with_signal, of="step"):
    """Sends the signal once a further state after such steps is whole; returns code and stderr."""
    path = directory(tmp_path) / "resume" / "state.json"

    def state():
        return json.loads(path.read_text())["state"][of] if path.exists() else 0

    before = state()
    while state() == before:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    while True:
        process.send_signal(with_signal)
        try:
            errors = process.communicate(timeout=20)[1]
            return process.returncode, errors
        except subprocess.TimeoutExpired:
            # Python drops an interrupt that meets a destructor; a person would press again.
            pass


@pytest.mark.parametrize(
    "stops",
    [
        [("pretraining_steps", signal.SIGKILL), ("step", signal.SIGINT)],
        pytest.param(
            [("pretraining_steps", signal.SIGINT), ("step", signal.SIGKILL)],
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["killed-interrupted", "interrupted-killed"],
)
def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(
    flags, tmp_path, tmp_path_factory, capfd, stops
):
    # All by new processes, as on the command line: oneDNN may round a last bit otherwise in one
    # that has computed other things before. The first phase of pretraining holds an epoch, and with
    # it the first saving.
    flags[-2:] = ["--max_steps=20", "--pretraining_steps=30"]
    more = ["--overwrite"]
    for of, with_signal in stops:
        for _ in range(3):
            process = start(flags, *more)
            code, errors = stop_after_an_epoch(process, tmp_path, with_signal, of)
            if code:
                path = directory(tmp_path) / "resume" / "state.json"
                state = json.loads(path.read_text())["state"]
                if state["step"] < (20 if of == "step" else 1):
                    break
            # Python drops an interrupt that meets a destructor, and the run has gone on.
            more = ["--overwrite"]
        if with_signal == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 130
            assert f"with the same flags{' but for --overwrite' if more else ''} " in errors
        assert state[of] > 0
        assert state["step"] < (20 if of == "step" else 1)
        more = []
    finish(start(flags))
    resumed = re.findall("going on after step [1-9][0-9]*(.*)\n", capfd.readouterr().out)
    assert resumed == [" of pretraining", ""]
    other = tmp_path_factory.mktemp("uninterrupted")
    flags[2] = f"--train_dir={other}"
    finish(start(flags))
    interrupted, whole = weights(directory(tmp_path)), weights(directory(other))
    for name, value in whole.items():
        np.testing.assert_array_equal(interrupted[name], value)
    losses = [
        [row["loss"] for row in csv.DictReader((directory(path) / "history.csv").open())]
        for path in (tmp_path, other)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10


def interrupt(monkeypatch, script, *flags):
    """Runs a script until its first epoch is saved."""

    def interrupted(self, *state):
        save(self, *state)
        raise KeyboardInterrupt

    save = Resume.save
    with monkeypatch.context() as patch:
        patch.setattr(Resume, "save", interrupted)
        with pytest.raises(SystemExit) as end:
            run(script, *flags)
    assert end.value.code == 130


def test_what_is_to_be_thrown_away_is_not_what_goes_on(flags, trained, capsys, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.training.curriculum.find_dataset", interrupted)
        with pytest.raises(SystemExit):
            run("compress_seq_1_train", *flags, "--overwrite")
    assert "with the same flags goes on" in capsys.readouterr().err
    interrupt(monkeypatch, "compress_seq_1_train", *flags, "--overwrite")
    assert "with the same flags but for --overwrite goes on" in capsys.readouterr().err


def test_a_run_goes_on_with_the_frame_statistics_it_began_with(flags, tmp_path, monkeypatch):
    flags[-2:] = ["--max_steps=0", "--pretraining_steps=24"]
    run("compress_seq_1_train", *flags)
    # Other play, whose mean frame is another one.
    other = record("ms_pacman", "persistent", 200, 7, tmp_path / "data", progress=False)
    more = ["compress_seq_3_train", *flags, f"--training_data={other}"]
    interrupt(monkeypatch, *more)
    run(*more)
    first, second = (
        Checkpoint(directory(tmp_path, stage)).predictor().network
        for stage in ("compress_seq_1", "compress_seq_3")
    )
    np.testing.assert_array_equal(first.mean_frame, second.mean_frame)
    assert float(first.pixel_scale) == float(second.pixel_scale)
    mean, _ = Dataset(other).frame_statistics((12, 12, 1))
    assert np.abs(mean - np.array(second.mean_frame)).max() > 1


def test_a_run_goes_on_with_the_flags_it_began_with_alone(flags, tmp_path, capsys, monkeypatch):
    interrupt(monkeypatch, "compress_seq_1_train", *flags, "--max_steps=400")
    error = fails(capsys, "compress_seq_1_train", *flags, "--max_steps=401")
    assert "--max_steps=400" in error
    assert "--overwrite" in error
    error = fails(capsys, "compress_seq_1_train", *flags, "--max_steps=400", "--policy=persistent")
    assert "expected the training data with which" in error
    assert "--overwrite" in error
    # What is no flag has changed with the code.
    path = directory(tmp_path) / "resume" / "state.json"
    path.write_text(path.read_text().replace('"feed_back": false', '"feed_back": true'))
    error = fails(capsys, "compress_seq_1_train", *flags, "--max_steps=400")
    assert "feed_back True in the script" in error
    assert "--overwrite" in error
    version = f'"keras": "{keras.__version__}"'
    text = path.read_text().replace('"feed_back": true', '"feed_back": false')
    path.write_text(text.replace(version, '"keras": "3.0.0"'))
    error = fails(capsys, "compress_seq_1_train", *flags, "--max_steps=400")
    assert "expected keras 3.0.0, with which" in error
    # A run that older code began has other content there.
    path.write_text(json.dumps({"step": 2, "weights": "step_2.weights.h5"}))
    error = fails(capsys, "compress_seq_1_train", *flags, "--max_steps=400")
    assert "received one of another version" in error


def test_a_run_goes_on_with_the_weights_it_began_with_alone(
    flags, trained, tmp_path, capsys, monkeypatch
):
    interrupt(monkeypatch, "compress_seq_3_train", *flags)
    # The stage before is trained again.
    network = Checkpoint(trained).predictor().network
    network.core.bias.assign(network.core.bias + 1)
    save_weights(network, trained)
    error = fails(capsys, "compress_seq_3_train", *flags)
    assert "expected the weights from which the run in" in error
    assert f"of {trained}" in error and "--overwrite" in error


@pytest.mark.thorough
@pytest.mark.parametrize("pretraining_steps", [0, 4000])
def test_damaged_files_of_an_interrupted_run_are_refused(
    flags, tmp_path, pretraining_steps, capsys
):
    flags[-2:] = ["--max_steps=400", f"--pretraining_steps={pretraining_steps}"]
    of = "pretraining_steps" if pretraining_steps else "step"
    stop_after_an_epoch(start(flags), tmp_path, signal.SIGKILL, of)
    for path in sorted((directory(tmp_path) / "resume").iterdir(), reverse=True):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        error = fails(capsys, "compress_seq_1_train", *flags)
        assert str(path.parent) in error
        assert "--overwrite" in error


@pytest.mark.thorough
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_weights(
    flags, trained, tmp_path
):
    good = weights(trained)
    run("compress_seq_3_train", *flags, "--learning_rate=1e-30", "--max_steps=2")
    with pytest.raises(SystemExit) as error:
        run("compress_seq_5_train", *flags, "--learning_rate=1e30", "--max_steps=100")
    assert "at step" in error.value.code
    kept = directory(tmp_path, "compress_seq_5")
    assert not json.loads((kept / "config.json").read_text())["finished"]
    for name, value in weights(trained).items():
        np.testing.assert_array_equal(value, good[name])


def test_a_full_disk_is_one_clear_message_and_leaves_no_half_file(flags, tmp_path):
    for number, seed in ((200, 1), (20, 2), (66, 3)):
        record("ms_pacman", "random", number, seed, tmp_path / "data", progress=False)
    few = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    more = [f"--data_path={tmp_path / 'data'}", "--control_weight=0"]
    process = start(flags, *more, preexec_fn=few)
    errors = process.communicate()[1]
    assert process.returncode == 2, errors
    assert "error: expected to write" in errors
    assert "best.weights.h5" in errors
    assert "Traceback" not in errors
    assert not list(Path(flags[2].partition("=")[2]).rglob(".partial*"))


def test_logs_that_cannot_be_written_are_one_clear_message(tmp_path):
    logs = Logs(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match="expected to write"):
            for step in range(1000):
                logs.scalars(step, {"loss": 1.0})
                logs.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_no_full_disk_is_not_called_one(tmp_path, monkeypatch):
    logs = Logs(tmp_path)

    def broken(*_, **__):
        raise RuntimeError("a fault of the code")

    monkeypatch.setattr("utils.watching.tensorboard.make_tensor_proto", lambda value: value)
    with pytest.raises(TypeError):
        logs.scalars(0, {"loss": 1.0})
    monkeypatch.setattr("utils.watching.tensorboard.Event", broken)
    with pytest.raises(RuntimeError, match="a fault of the code"):
        logs.hyper_parameters({})


def test_video_of_a_checkpoint(flags, trained, tmp_path, monkeypatch, capsys):
    for output, *more in (
        ("a.mp4",),
        ("b.gif",),
        ("c.gif", "--actions=random", "--horizon=80"),  # beyond the test set's 66 steps
        ("side-by-side.gif", f"--checkpoint={trained}"),
    ):
        command = [
            "generate_video.py",
            f"--checkpoint={trained}",
            f"--video={tmp_path / output}",
            "--horizon=11",
            *more,
        ]
        monkeypatch.setattr(sys, "argv", command)
        generate_video.main()
        assert (tmp_path / output).stat().st_size > 1000
    command[2:] = [f"--video={tmp_path / 'd.gif'}", "--horizon=1000"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as error:
        generate_video.main()
    assert error.value.code == 2
    assert "--horizon of at most" in capsys.readouterr().err
    assert not (tmp_path / "d.gif").exists()


def test_evaluation_of_checkpoints(flags, trained, tmp_path, monkeypatch, capsys):
    run("paper_seq_1_train", *flags)
    checkpoints = [trained, directory(tmp_path, "paper_seq_1")]
    output, plot = tmp_path / "results.json", tmp_path / "results.png"

    def evaluate_by(*more):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, more)])
        evaluate.main()

    both = [f"--checkpoint={checkpoint}" for checkpoint in checkpoints]
    # Long enough for Ms. Pac-Man to start walking.
    longer = record("ms_pacman", "random", 150, 4, tmp_path, progress=False)
    few = ["--num_windows=40", f"--dataset={longer}", f"--json={output}"]
    evaluate_by(*both, *few, f"--plot={plot}", "--horizon=5,1")
    results = json.loads(output.read_text())
    assert [result["checkpoint"] for result in results] == [str(path) for path in checkpoints]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    for result in results:
        assert result["game"] == "ms_pacman"
        assert result["num_windows"] == 40
        assert result["dataset"] == str(longer)
        assert result["horizons"].keys() == {"1", "5"}
        # The data can be played again, and Ms. Pac-Man goes where she is told.
        assert result["horizons"]["5"]["mse_controlled"] > 0
        assert result["horizons"]["5"]["mse_controlled_shuffled_actions"] > 0
    printed = capsys.readouterr()
    assert printed.out.count("controlled  shuffled") == 2  # a table of each, explained once
    assert printed.out.count("over that of repeating the last real frame") == 1
    # What the player decides is a matter of the windows, and is found once for both.
    assert printed.err.count("emulated futures:   0%") == 1
    # One checkpoint is an object by itself; the windows are the same.
    evaluate_by(both[0], *few, "--horizon=5,1")
    alone = json.loads(output.read_text())
    assert {**alone, "made": None} == {**results[0], "made": None}
    other = record("pong", "random", 100, 1, tmp_path, progress=False)
    # Measured on a test set of its own.
    elsewhere = shutil.copytree(checkpoints[0], tmp_path / "elsewhere")
    config = read_config(elsewhere)
    replace(config, data={**config.data, "test": str(longer)}).write(elsewhere)
    # Before anything is measured.
    with pytest.raises(SystemExit) as error:
        evaluate_by(both[0], f"--checkpoint={tmp_path}", *few, "--horizon=1")
    assert error.value.code == 2
    assert json.loads(output.read_text()) == alone
    capsys.readouterr()
    for bad, expected in (
        ([f"--dataset={other}"], "pong"),
        (["--horizon=500"], "--horizon of at most"),
        (["--horizon=0"], "at least 1"),
        (["--json=/nowhere/results.json"], "/nowhere"),
        ([f"--json={tmp_path}"], "the name of a file"),
        ([f"--checkpoint={elsewhere}", f"--plot={plot}"], "for one --plot"),
        ([f"--plot={tmp_path / 'results.gifs'}"], ".png"),
    ):
        with pytest.raises(SystemExit) as error:
            evaluate_by(both[0], *bad)
        assert error.value.code == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--atari_game=ms_pacmann", "ms_pacman"),
        ("--atari_game=joust", "joust"),
        ("--batch_size=0", "--batch_size: expected a whole number of at least 1, received '0'"),
        ("--learning_rate=nan", "--learning_rate: expected a number above 0"),
        ("--control_weight=-1", "--control_weight: expected a number of at least 0, received '-1'"),
        ("--max_steps=many", "--max_steps: expected a whole number of at least 0, received 'many'"),
        ("--seed=-1", "--seed: expected a whole number of at least 0 and at most 4294967295"),
        ("--seed=4294967296", "received '4294967296'"),
        ("--model=lstm", "lstm_84x84x1"),
        ("--train_dir=/dev/null/checkpoints", "/dev/null"),
        ("--data_path=/dev/null/data", "/dev/null"),
    ],
)
def test_bad_flags_are_one_clear_message_and_exit_code_2(flags, capsys, flag, expected):
    assert expected in fails(capsys, "compress_seq_1_train", *flags, flag)


def test_a_missing_previous_stage_is_named_with_its_command(flags, capsys):
    error = fails(capsys, "paper_seq_5_train_reward", *flags)
    assert "python paper_seq_5_train.py --atari_game=ms_pacman --model=tiny" in error


@pytest.mark.thorough
def test_other_data_than_the_stage_before_had_has_to_be_asked_for(flags, trained, tmp_path, capsys):
    error = fails(capsys, "compress_seq_3_train", *flags, "--policy=lookahead")
    assert "random-200-seed1-v2" in error
    assert "--policy=lookahead" in error
    recorded = list(Path(flags[0].partition("=")[2]).rglob("lookahead*"))
    assert not recorded  # for nothing
    on_purpose = record("ms_pacman", "persistent", 200, 1, tmp_path, progress=False)
    run("compress_seq_3_train", *flags, f"--training_data={on_purpose}")
    # The one after that is told which flag was given.
    assert f"{on_purpose}" in fails(capsys, "compress_seq_5_train", *flags)
    error = fails(capsys, "paper_seq_3_train", *flags, "--policy=lookahead")
    assert error.endswith("--num_training_frames=200 --policy=lookahead")


@pytest.mark.thorough
def test_what_cannot_be_read_in_the_middle_of_training_is_one_clear_message(
    flags, tmp_path, capsys
):
    training = record("ms_pacman", "random", 200, 1, tmp_path, progress=False)
    command = [sys.executable, "-m", "systems.controlled", f"--dataset={training}"]
    subprocess.run(command, cwd=ROOT, check=True)
    path = training / CONTROLLED
    with h5py.File(path) as file:
        bits = file["episode_0"]
        chunks = [bits.id.get_chunk_info(i) for i in range(bits.id.get_num_chunks())]
    content = bytearray(path.read_bytes())
    for chunk in chunks:
        content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    more = [f"--training_data={training}"]
    assert str(path) in fails(capsys, "compress_seq_1_train", *flags, *more)
    more.append("--pretraining_steps=3")
    assert str(path) in fails(capsys, "compress_seq_1_train", *flags, *more)


def test_a_stage_stopped_before_its_first_epoch_is_to_be_gone_on_with(trained):
    (trained / "best.weights.h5").unlink()
    with pytest.raises(InputError, match="goes on with the same flags"):
        Checkpoint(trained).predictor()


@pytest.mark.thorough
def test_a_set_of_other_pooled_frames_is_used_with_a_note(tmp_path, capsys):
    flags = tiny_flags((f"--data_path={tmp_path}", "--num_training_frames=200"), tmp_path / "train")
    flags += ["--atari_game=pacman", "--control_weight=0"]
    new = record("pacman", "random", 200, 1, tmp_path, progress=False)
    old = record("pacman", "random", 200, 1, tmp_path, progress=False, pooled_frames=2)
    run("compress_seq_1_train", *flags, f"--training_data={old}")
    assert "other pooled frames" in capsys.readouterr().out
    path = tmp_path / "train/pacman/tiny/compress_seq_1"
    assert read_config(path).pooled_frames == 2
    # The next stage says that the one before had another number.
    run("compress_seq_3_train", *flags, f"--training_data={new}")
    assert "combine 2 emulated frames, and these combine 4" in capsys.readouterr().out


def test_another_games_data_is_refused(flags, tmp_path, capsys):
    recorded = record("ms_pacman", "random", 100, 1, tmp_path, progress=False)
    error = fails(
        capsys, "compress_seq_1_train", *flags, f"--training_data={recorded}", "--atari_game=pong"
    )
    assert "--atari_game=ms_pacman" in error


def test_truncated_weights_are_refused(flags, trained, capsys):
    path = trained / "best.weights.h5"
    path.write_bytes(path.read_bytes()[:1000])
    assert "best.weights.h5" in fails(capsys, "compress_seq_3_train", *flags)


def test_truncated_data_is_refused(flags, tmp_path, capsys):
    directory = record("ms_pacman", "random", 200, 1, tmp_path, progress=False)
    path = directory / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = fails(capsys, "compress_seq_1_train", *flags, f"--data_path={tmp_path}")
    assert str(path.parent) in error
