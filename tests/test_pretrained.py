"""Shipped weights: a tiny network is trained, shipped, computed again and compared."""

import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluate
import generate_video
import plan
import play
from model.predictor import FramePredictor, RollOut
from model.presets import PRESETS, Conv
from model.pretraining import KINDS
from systems.dataset import Dataset
from systems.errors import InputError
from systems.windows import WindowSpec, sample
from utils import pretrained, small_weights
from utils.acting.gymnasium_env import CompressedAtariEnv, CompressedAtariVectorEnv
from utils.checkpoint import Checkpoint, digest, load_weights
from utils.checkpoint_flags import DIRECTORY
from utils.config import PRETRAINING
from utils.pretrained import Shipped, pretrained_checkpoint
from utils.training import shipping
from utils.training.shipping import ship
from utils.training.stage import main

from . import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# Units for all 72 features, and for each of Freeway's three actions' own map as many.
PRESETS["tiny_wider"] = tiny.TINY._replace(
    encoder=(Conv(4, 4, 2), Conv(8, 3, 2)),
    decoder_start=(3, 3, 8),
    decoder=(Conv(8, 3, 2), Conv(1, 4, 2)),
    units=6 * 74,
)
PIXELS = ("", "_moving", "_controlled")
SCRIPTS = {"paper": "paper_seq_1_train", "compression": "compress_seq_1_train"}
NUM_FRAMES = 600  # of training play, all of which give the components


def flags(path, script, *more):
    return [
        "--atari_game=freeway",
        "--policy=persistent",
        "--model=tiny_wider",
        f"--data_path={path / 'data'}",
        f"--train_dir={path / 'checkpoints'}",
        f"--num_training_frames={NUM_FRAMES}",
        "--batch_size=4",
        "--precision=float32",
        "--max_steps=1",
        *more,
    ]


def run(path, script, *more):
    main(importlib.import_module(script).STAGE, flags(path, script, *more))


@pytest.fixture(
    scope="module", params=[pytest.param("paper", marks=pytest.mark.thorough), "compression"]
)
def variant(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def few_windows():
    """Measures few windows, because the emulator plays each window's futures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "NUM_WINDOWS", 8)
        patch.setattr(shipping, "NUM_COMPARED", 8)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, variant):
    """A directory with data and a first stage, which pretrains alone."""
    path = tmp_path_factory.mktemp(variant)
    run(path, SCRIPTS[variant], "--pretraining_steps=30", "--max_steps=0")
    (path / "stage").symlink_to(
        path / "checkpoints/freeway/tiny_wider" / SCRIPTS[variant].removesuffix("_train")
    )
    ship(path / "stage", path / "shipped", num_frames=3000)
    return path


@pytest.fixture
def shipped(trained, tmp_path, monkeypatch):
    """A user's directory, with what is shipped and nothing else."""
    shutil.copytree(trained / "shipped", tmp_path / "shipped")
    monkeypatch.setattr(pretrained, "DIRECTORY", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_network_that_is_computed_predicts_as_the_one_it_came_from(shipped, trained, variant):
    directory = pretrained_checkpoint("freeway", variant)
    assert directory.parts[:4] == ("checkpoints", "pretrained", "freeway", "tiny_wider")
    predictor = Checkpoint(directory).predictor()
    original = Checkpoint(trained / "stage").predictor()
    dataset = Checkpoint(directory).test_data()
    windows = sample(dataset, (12, 12, 1), WindowSpec(10, 10), 16).batch(0)
    batch = {"frames": windows["frames"][:, :10], "actions": windows["actions"]}
    ours, theirs = (RollOut(model).predict_on_batch(batch) for model in (predictor, original))
    assert theirs["frames"].std() > 10
    # Grey levels. Half precision rounds a weight by a two-thousandth of it.
    assert np.abs(ours["frames"] - theirs["frames"]).max() < 0.5
    np.testing.assert_allclose(ours["reward"], theirs["reward"], atol=0.02)
    # The first stage has not learned when a game ends.
    assert np.ptp(theirs["termination"]) < 1e-6
    assert ours["termination"].max() < 0.05


def test_what_is_shipped_is_small_says_how_it_was_made_and_is_made_alike_again(
    trained, variant, tmp_path, monkeypatch
):
    first = Shipped("freeway", variant, trained / "shipped")
    monkeypatch.setattr(shipping, "_figures", lambda *_: {})  # which take most of the time
    again = ship(trained / "stage", tmp_path, num_frames=3000)
    assert again.weights.read_bytes() == first.weights.read_bytes()
    arrays = small_weights.read_arrays(first.weights)
    convolutions = [array for name, array in arrays.items() if name.startswith("convolution")]
    assert {array.dtype for array in convolutions} == {np.dtype(np.float16)}
    made, figures = first.description.made, first.description.figures
    assert f"python {SCRIPTS[variant]}.py --atari_game=freeway" in made["commands"][0]
    assert "--pretraining_steps=30" in made["commands"][0]
    assert len(made["commit"]) == 40
    rows = figures["horizons"].values()
    # What the docs' tables need.
    assert all(f"mse{pixels}_repeat_last" in row for row in rows for pixels in PIXELS)
    assert all(row["mse_repeat_last"] > 0 for row in rows)
    assert all(row["mse_recall"] >= 0 for row in rows)
    ratios = np.array([row["error_over_original"] for row in rows])
    assert len(ratios) > 3 and np.abs(ratios - 1)[:3].max() < 0.005
    # A network that has hardly been trained amplifies what half precision rounds, step by step.
    assert list(figures["horizons"])[4] == "30" and np.abs(ratios - 1)[:5].max() < 0.02
    assert np.abs(ratios - 1).max() < 0.1


@pytest.mark.thorough
def test_later_uses_find_it_and_new_weights_replace_it(shipped, variant, capsys):
    directory = pretrained_checkpoint("Freeway", variant)
    assert "computing the network" in capsys.readouterr().out
    weights = directory / "best.weights.h5"
    before = weights.stat().st_mtime_ns
    assert pretrained_checkpoint("freeway", variant) == directory
    assert weights.stat().st_mtime_ns == before and not capsys.readouterr().out
    # Computed once more it is the same.
    first = digest(directory)
    shutil.rmtree(directory)
    assert digest(pretrained_checkpoint("freeway", variant)) == first
    before = weights.stat().st_mtime_ns
    # Elsewhere it records the same play, and the weights stay.
    pretrained_checkpoint("freeway", variant, shipped / "elsewhere")
    assert weights.stat().st_mtime_ns == before
    assert Checkpoint(directory).config.data["test"].startswith(str(shipped / "elsewhere"))
    file = shipped / "shipped" / f"freeway_{variant}.npz"
    arrays = small_weights.read_arrays(file)
    arrays["mean_frame"] += 1
    small_weights.write_arrays(file, arrays)
    assert pretrained_checkpoint("freeway", variant) == directory
    assert weights.stat().st_mtime_ns != before


@pytest.mark.thorough
def test_the_play_that_is_recorded_again_is_the_same(shipped, trained, variant):
    config = Checkpoint(pretrained_checkpoint("freeway", variant)).config
    ours, theirs = Path(config.data["test"]), trained / config.data["test"]
    for name in ("main_data.hdf5", "metadata.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_every_tool_takes_it(shipped, variant, monkeypatch, capsys):
    chosen = ["--pretrained=freeway", f"--variant={variant}"]

    def script(module, *more):
        monkeypatch.setattr("sys.argv", [f"{module.__name__}.py", *chosen, *more])
        module.main()

    script(evaluate, "--horizon=1,3", "--num_windows=8", "--json=figures.json")
    assert set(json.loads(Path("figures.json").read_text())["horizons"]) == {"1", "3"}
    script(generate_video, "--horizon=4", "--video=clip.gif")
    assert Path("clip.gif").exists()
    few = ["--num_episodes=1", "--max_episode_steps=2", "--horizon=3", "--num_rollouts=6"]
    script(plan, *few, "--json=plan.json")
    assert json.loads(Path("plan.json").read_text())["game"] == "freeway"
    args = play.parser().parse_args(chosen)
    (directory,) = play.checkpoint_directories(args)
    assert Checkpoint(directory).config.variant == variant
    env = CompressedAtariEnv(pretrained="freeway", variant=variant)
    env.reset(seed=0)
    assert env.step(1)[0].shape == (12, 12, 1)
    games = CompressedAtariVectorEnv(num_envs=2, pretrained="freeway", variant=variant)
    assert games.reset(seed=0)[0].shape == (2, 12, 12, 1)


@pytest.mark.thorough
def test_a_stage_starts_from_it(shipped, variant, capsys):
    # A first stage, and one that otherwise starts from the stage before.
    script = {"paper": "paper_seq_1_train", "compression": "compress_seq_3_train"}[variant]
    # A step that changes next to nothing, so that the weights can be recognised.
    run(shipped, script, "--pretrained", "--learning_rate=1e-12")
    said = capsys.readouterr().out
    assert "its pretraining is not done again" in said
    name = script.removesuffix("_train")
    stage = Checkpoint(shipped / "checkpoints/freeway/tiny_wider" / name)
    start = pretrained_checkpoint("freeway", variant, shipped / "data", shipped / "checkpoints")
    assert stage.config.restored_from == str(start)
    assert stage.config.training.pretraining_steps == 0
    kernels = []
    for directory in (stage.directory, start):
        predictor = Checkpoint(directory).predictor()
        load_weights(predictor.network, directory)
        kernels.append(np.array(predictor.network.core.kernel))
    np.testing.assert_allclose(*kernels, atol=1e-6)
    run(shipped, script, "--pretrained", "--learning_rate=1e-12")
    assert "is finished" in capsys.readouterr().out
    error = fails(capsys, lambda: run(shipped, script, "--learning_rate=1e-12"))
    assert "expected --pretrained, with which the finished stage" in error


@pytest.mark.thorough
def test_pretraining_goes_on_from_it(shipped, variant, capsys):
    script = SCRIPTS[variant].replace("seq_1", "seq_5")
    run(shipped, script, "--pretrained", "--pretraining_steps=4", "--max_steps=0")
    assert "its pretraining goes on" in capsys.readouterr().out
    name = script.removesuffix("_train")
    stage = Checkpoint(shipped / "checkpoints/freeway/tiny_wider" / name)
    assert stage.config.training.pretraining_steps == 4 and stage.config.finished
    with pytest.raises(InputError, match="which began with shipped weights"):
        ship(stage.directory, shipped / "again", num_frames=300)
    before = small_weights.read_arrays(shipped / "shipped" / f"freeway_{variant}.npz")
    after = small_weights.read_arrays(stage.directory / PRETRAINING)
    np.testing.assert_allclose(after["mean_frame"], before["mean_frame"], rtol=1e-3)
    moved = np.abs(after["convolution_0.kernel"] - before["convolution_0.kernel"]).max()
    assert 0 < moved < 0.02  # half precision rounds off less than that


def fails(capsys, function):
    with pytest.raises(SystemExit) as error:
        function()
    assert error.value.code == 2
    return capsys.readouterr().err


def test_flags_that_do_not_fit_are_one_clear_message(
    shipped, trained, variant, capsys, monkeypatch
):
    other = {"paper": "compression", "compression": "paper"}[variant]
    for command, expected in (
        (["evaluate.py", "--pretrained=pong"], "received pong (paper)"),
        (["evaluate.py", "--pretrained=frogs"], "received frogs (paper)"),
        (["evaluate.py", "--pretrained=freeway", f"--variant={other}"], f"freeway ({other})"),
        (["evaluate.py", "--pretrained=freeway", "--checkpoint=x"], "not allowed with"),
        (["evaluate.py", "--checkpoint=x", "--variant=paper"], "expected --variant beside"),
    ):
        monkeypatch.setattr("sys.argv", command)
        assert expected in fails(capsys, evaluate.main)
    script = SCRIPTS[variant]
    for more, expected in (
        (["--pretrained", "--max_steps=0"], "expected --max_steps of at least 1"),
        (["--pretrained", "--model=tiny"], "expected --model=tiny_wider"),
        (["--pretrained", "--policy=random"], "--policy=random"),
        (["--pretrained", "--atari_game=pong"], "received pong"),
    ):
        assert expected in fails(capsys, lambda more=more: run(shipped, script, *more))
    with pytest.raises(InputError, match="received both"):
        CompressedAtariEnv("x", pretrained="freeway")
    with pytest.raises(InputError, match="received neither"):
        CompressedAtariEnv()


def test_what_is_damaged_or_cannot_be_shipped_is_refused(shipped, trained, variant):
    file = shipped / "shipped" / f"freeway_{variant}.npz"
    whole = file.read_bytes()
    pretrained_checkpoint("freeway", variant)  # so that the data are there
    arrays = small_weights.read_arrays(file)
    small_weights.write_arrays(file, arrays | {"convolution_0.kernel": np.zeros(3)})
    with pytest.raises(InputError, match=r"expected convolution_0.kernel of shape"):
        pretrained_checkpoint("freeway", variant)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="expected the weights of a pretraining .* reading failed"):
        pretrained_checkpoint("freeway", variant)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for damaged in (whole[: len(whole) // 2], pointer, b""):
        file.write_bytes(damaged)
        # Before its data are recorded, the file is read for their actions.
        with pytest.raises(InputError, match="expected shipped weights .* Check the file out"):
            pretrained_checkpoint("freeway", variant, shipped / "elsewhere")
        assert not (shipped / "elsewhere").exists()
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match="reading it failed"):
        pretrained_checkpoint("freeway", variant)
    later = Checkpoint(trained / "stage").directory
    with pytest.raises(InputError, match=r"pretraining\.npz"):
        ship(pretrained_copy(shipped, later), shipped / "new", num_frames=3000)


def pretrained_copy(path, stage):
    """A stage's directory without what pretraining left."""
    copy = shutil.copytree(stage, path / "stage")
    (copy / PRETRAINING).unlink()
    return copy


def test_where_nothing_can_be_written_is_said(shipped, trained, variant):
    nowhere = shipped / "file" / "directory"
    nowhere.parent.touch()
    dataset = Dataset(Shipped("freeway", variant).record("training", trained / "data"))
    with pytest.raises(InputError, match="expected to write .*file"):
        pretrained_checkpoint("freeway", variant, trained / "data", nowhere)
    config = Checkpoint(trained / "stage").config
    file = shipped / "shipped" / f"freeway_{variant}.npz"
    with pytest.raises(InputError, match="expected to write .*file"):
        small_weights.build(file, config, dataset, nowhere)
    with pytest.raises(InputError, match="expected to write .*file"):
        ship(trained / "stage", nowhere, num_frames=3000)


SHIP = """
import sys
from tests.test_pretrained import Path, ship

ship(Path(sys.argv[1]), Path(sys.argv[2]), num_frames=3000)
"""


def test_who_is_killed_while_measuring_leaves_what_was_shipped_before(trained, variant, tmp_path):
    output, places = tmp_path / "shipped", tmp_path / "temporary"
    for directory in (output, places):
        directory.mkdir()
    for suffix in ("npz", "json"):
        (output / f"freeway_{variant}.{suffix}").write_bytes(b"before")
    process = subprocess.Popen(
        [sys.executable, "-c", SHIP, trained / "stage", output],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(places)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert any(line.startswith("measuring") for line in process.stdout)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in output.iterdir()}
    assert left == {f"freeway_{variant}.{suffix}": b"before" for suffix in ("npz", "json")}


SHIPPED = sorted(DIRECTORY.glob("*.npz"))


def test_this_repository_ships_few_megabytes():
    sizes = [path.stat().st_size for path in SHIPPED]
    assert sizes and max(sizes) < 1.6e6 and sum(sizes) < 15e6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_this_repository_ships_is_good(path):
    game, _, variant = path.stem.rpartition("_")
    description = Shipped(game, variant).description
    assert (description.config.game, description.config.variant) == (game, variant)
    rows = description.figures["horizons"]
    # Space Invaders' block stands still in most single steps, so its last frame is hard to beat.
    least = 3 if game == "space_invaders" else 1
    beaten = {horizon: row["mse"] < row["mse_repeat_last"] for horizon, row in rows.items()}
    assert all(better for horizon, better in beaten.items() if int(horizon) >= least)
    assert rows["10"]["mse_controlled"] < rows["10"]["mse_controlled_shuffled_actions"]
    assert all(row["error_over_original"] < 1.1 for row in rows.values())


@functools.cache
def shapes_of(model, variant, num_actions):
    """The shapes of the arrays that a network is computed from, by name."""
    network = FramePredictor(model, variant, num_actions).network
    variables = small_weights.small_variables(network, KINDS[variant](network))
    return {name: tuple(variable.shape) for name, variable in variables.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_this_repository_ships_fits_the_network_of_today(path):
    game, _, variant = path.stem.rpartition("_")
    description = Shipped(game, variant).description
    config, arrays = description.config, small_weights.read_arrays(path)
    for name, shape in shapes_of(config.model, variant, len(config.action_meanings)).items():
        assert arrays[name].shape == shape, name
    for role in ("training", "test"):
        steps = getattr(description, role).num_frames
        assert arrays[f"{role}_lengths"].sum() == len(arrays[f"{role}_actions"]) == steps


@pytest.mark.thorough
def test_freeways_figures_are_those_of_the_network_that_is_computed(tmp_path):
    directory = pretrained_checkpoint("freeway", "paper", tmp_path / "data", tmp_path)
    from utils.watching.measure import HeldOutPlay

    results = HeldOutPlay(None, [1, 10, 30], 32, 0).measure(Checkpoint(directory))
    figures = Shipped("freeway").description.figures
    for horizon, row in results["horizons"].items():
        ratio = row["mse"] / row["mse_repeat_last"]
        theirs = figures["horizons"][horizon]
        # Of fewer windows.
        assert ratio < 2 * theirs["mse"] / theirs["mse_repeat_last"]
