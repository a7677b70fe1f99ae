"""Checkpoints: their configuration, their weights and the precision they are computed in."""

import cProfile
import dataclasses
import itertools
import json

import h5py
import keras
import numpy as np
import pytest

from model.predictor import FramePredictor
from systems.errors import InputError
from utils.checkpoint import (
    Checkpoint,
    check_alike,
    digest,
    fast_bfloat16,
    fastest_precision,
    load_weights,
    resume_from,
    save_weights,
    training_in,
    write_weights,
)
from utils.config import CONFIG as CONFIG_FILE
from utils.config import read_config

from . import tiny  # noqa: F401 - makes the preset known
from .checkpoints import CONFIG, write_checkpoint


def network(seed=0, num_actions=3):
    keras.utils.set_random_seed(seed)
    return FramePredictor("tiny", "compression", num_actions).network


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("fpu sse sse2 avx avx2 fma", False),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu avx2 amx_tile amx_bf16", True),
    ],
)
def test_bfloat16_is_for_processors_with_instructions_for_it(tmp_path, flags, expected):
    if any("gpu" in device.lower() for device in keras.distribution.list_devices()):
        pytest.skip("on a GPU it is always fast")
    cpuinfo = tmp_path / "cpuinfo"
    assert not fast_bfloat16(cpuinfo)  # as on macOS, where there is no such file
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert fast_bfloat16(cpuinfo) is expected


@pytest.mark.parametrize("device", ["gpu:0", "tpu:0"])
def test_bfloat16_is_for_accelerators(tmp_path, monkeypatch, device):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [device])
    assert fast_bfloat16(tmp_path / "none")


def test_a_training_removes_what_a_killed_one_left_and_nothing_of_others(tmp_path):
    killed = [tmp_path / ".partial-1-a", tmp_path / "resume" / ".partial-2-b"]
    others = [tmp_path / "stage" / ".partial-3-c", tmp_path / "best.weights.h5"]
    for path in killed + others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with training_in(tmp_path):
        assert [path.exists() for path in killed + others] == [False, False, True, True]


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_the_same_choice_for_training_and_imagining(tmp_path, monkeypatch, fast):
    monkeypatch.setattr("utils.checkpoint.fast_bfloat16", lambda: fast)
    checkpoint = Checkpoint(write_checkpoint(tmp_path))
    dtype = checkpoint.predictor(precision="auto").network.core.kernel.dtype
    assert dtype == ("bfloat16" if fast else "float32")
    assert fastest_precision(training=True) == ("mixed_bfloat16" if fast else "float32")


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    config = dataclasses.replace(CONFIG, results={"num_windows": 3}, restored_from="before")
    config.write(tmp_path)
    assert read_config(tmp_path) == config


def test_what_is_not_finite_is_null_in_json(tmp_path):
    dataclasses.replace(CONFIG, results={"mse": float("nan"), "best": [float("inf")]}).write(
        tmp_path
    )
    assert "NaN" not in (tmp_path / CONFIG_FILE).read_text()
    assert read_config(tmp_path).results == {"mse": None, "best": [None]}


def test_configurations_of_the_first_version_are_read(tmp_path):
    content = dataclasses.asdict(CONFIG)
    training = content["training"]
    training["predictions"] = training.pop("decoded")
    training["convolution_steps"] = training.pop("pretraining_steps")
    for key in ("version", "restored_weights", "frame_skip", "steps"):
        del content[key]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    assert read_config(tmp_path) == CONFIG


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda content: [], "no JSON object"),
        (lambda content: {"name": "another program's"}, "is missing"),
        (lambda content: {**content, "training": {}}, "feed_back is missing"),
        (lambda content: {**content, "training": None}, "training is null"),
        (lambda content: {**content, "warmup": "10"}, 'warmup is "10"'),
        (lambda content: {**content, "data": {"test": 3}}, "data is 3"),
        (lambda content: {**content, "action_meanings": "NOOP"}, "action_meanings is"),
        (lambda content: {**content, "version": 99}, "its version is 99"),
    ],
)
def test_damaged_and_foreign_configurations_are_one_clear_error(tmp_path, change, expected):
    content = change(json.loads(json.dumps(dataclasses.asdict(CONFIG))))
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"expected the directory of a trained.*{expected}"):
        Checkpoint(tmp_path)


def test_a_directory_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such directory"):
        Checkpoint(tmp_path / "nowhere")


def test_a_preset_that_is_not_there_is_named(tmp_path):
    dataclasses.replace(CONFIG, model="lstm_42x42x1").write(tmp_path)
    with pytest.raises(InputError, match="presets .*lstm_84x84x1.*of lstm_42x42x1"):
        Checkpoint(tmp_path)


def test_checkpoints_side_by_side_have_to_be_alike(tmp_path):
    one = Checkpoint(write_checkpoint(tmp_path / "one"))
    other = Checkpoint(write_checkpoint(tmp_path / "other", frame_skip=1))
    check_alike([one, one])
    with pytest.raises(InputError, match="the same frame_skip, received 4 and 1"):
        check_alike([one, other])


def test_only_stages_with_trained_heads_predict_rewards(tmp_path):
    with_rewards = Checkpoint(write_checkpoint(tmp_path / "one"))
    without = Checkpoint(write_checkpoint(tmp_path / "other", reward_weight=0.0))
    assert with_rewards.predicts_rewards and not without.predicts_rewards
    with_rewards.require_rewards()
    with pytest.raises(InputError, match="predicts rewards"):
        without.require_rewards()


def test_weights_are_restored_strictly(tmp_path):
    trained = network()
    save_weights(trained, tmp_path)
    path = tmp_path / "best.weights.h5"
    again = network(seed=1)
    load_weights(again, tmp_path)
    for one, other in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="tiny network with 4 actions"):
        load_weights(network(num_actions=4), tmp_path)
    with h5py.File(path, "a") as file:
        file["one_head_more/vars/0"] = np.zeros(3)
    with pytest.raises(InputError, match="expected 29 variables, received 30"):
        load_weights(network(), tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="loading failed"):
        load_weights(network(), tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="there are none"):
        load_weights(network(), tmp_path)


def test_an_optimizers_state_that_does_not_fit_is_refused(tmp_path):
    def compiled(optimizer):
        model = FramePredictor("tiny", "compression", 3)
        model.compile(optimizer)
        optimizer.build(model.trainable_variables)
        return model

    path = tmp_path / "resume.weights.h5"
    write_weights(path, compiled(keras.optimizers.SGD()))
    resume_from(compiled(keras.optimizers.SGD()), path)
    # Keras itself warns and goes on without.
    with pytest.raises(InputError, match="Start over with --overwrite"):
        resume_from(compiled(keras.optimizers.Adam()), path)


def test_a_stage_says_when_one_before_it_was_trained_again(tmp_path, capsys):
    stages = [tmp_path / name for name in ("first", "second", "third")]
    write_checkpoint(stages[0])
    for before, stage in itertools.pairwise(stages):
        of_before = {"restored_from": str(before), "restored_weights": digest(before)}
        write_checkpoint(stage, seed=len(stage.name), **of_before)
    assert Checkpoint(stages[2]).superseded() is None
    Checkpoint(stages[2]).predictor()
    assert capsys.readouterr().err == ""
    save_weights(network(), stages[0])  # as they were: nothing has changed
    assert Checkpoint(stages[2]).superseded() is None
    save_weights(network(seed=7), stages[0])
    assert f"{stages[1]} was trained from other weights" in Checkpoint(stages[2]).superseded()
    Checkpoint(stages[2]).predictor()
    assert "note: " in capsys.readouterr().err
    # Weights that are gone, or of before digests were written, say nothing.
    (stages[0] / "best.weights.h5").unlink()
    assert Checkpoint(stages[2]).superseded() is None


def test_before_shipped_weights_no_stage_is_searched_for(tmp_path):
    shipped = tmp_path / "shipped.npz"
    np.savez(shipped, kernel=np.zeros(3))
    for before in (shipped, tmp_path / "removed", tmp_path):
        origin = {"restored_from": str(before), "restored_weights": "0123456789abcdef"}
        checkpoint = Checkpoint(write_checkpoint(tmp_path / "stage", **origin))
        profile = cProfile.Profile()
        assert profile.runcall(checkpoint.superseded) is None
        called = {str(entry.code) for entry in profile.getstats()}
        assert any("digest" in name for name in called)  # so that calls are seen
        assert not any("scandir" in name for name in called)
