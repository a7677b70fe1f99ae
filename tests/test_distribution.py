"""Training by several processes and devices: real ones, on this machine."""

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from utils.training.distribution import _of_the_others

from .test_stages import ROOT, directory, fails, weights

pytestmark = pytest.mark.slow

# Without importing it: these processes have a backend already.
if not importlib.util.find_spec("jax"):
    pytest.skip("distributed training runs on JAX", allow_module_level=True)


@pytest.fixture
def flags(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # Compiling is three quarters of these tests' time: little is optimised, and processes share it.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "jax"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return [
        f"--data_path={tmp_path / 'data'}",
        "--num_training_frames=200",
        "--model=tiny",
        "--batch_size=4",
        "--precision=float32",
        "--steps_per_epoch=4",
        "--pretraining_steps=0",
        "--learning_rate=1e-3",  # far more than the stage's, so that what differs shows
    ]


def start(*flags, script="compress_seq_3_train", **environment):
    code = (
        "import sys; from utils.start import *; prepare(); import_keras(); import tests.tiny;"
        "from utils.training import watch;"
        "watch.LOOK_AFTER = 0.0; watch.LOOKS_SHARE = 1.0;"
        f"from {script} import STAGE, main; from dataclasses import replace;"
        "main(replace(STAGE, restore=None), sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_pair(*flags, second=(), **options):
    """Two processes of one run; the first is told by flags, the second by the environment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = [*flags, "--distribute"]
    return [
        start(
            *flags,
            f"--coordinator={address}",
            "--num_processes=2",
            "--process_id=0",
            **options,
        ),
        start(
            *flags,
            *second,
            **options,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID="1",
        ),
    ]


def finish(*processes):
    """Waits for processes that must all succeed; returns what they printed."""
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def trained(train_dir, stage="compress_seq_3"):
    """The loss curves and the best weights of a run."""
    path = directory(train_dir, stage)
    rows = list(csv.DictReader((path / "history.csv").open()))
    assert json.loads((path / "config.json").read_text())["finished"]
    curve = [[float(row[key]) for key in ("loss", "validation_loss", "mse_1")] for row in rows]
    return np.array(curve), weights(path)


def assert_same(run, other):
    """Equal but for the order in which numbers are added."""
    np.testing.assert_allclose(run[0], other[0], rtol=1e-4)
    assert run[1].keys() == other[1].keys()
    for name, value in run[1].items():
        np.testing.assert_allclose(value, other[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


def alone(flags, path):
    """The loss curves and weights of one process on one device."""
    finish(start(*flags, f"--train_dir={path}"))
    return trained(path)


@pytest.mark.thorough
def test_two_devices_learn_what_one_does(flags, tmp_path):
    flags.append("--max_steps=24")
    more = ["--distribute", f"--train_dir={tmp_path / 'devices'}"]
    finish(start(*flags, *more, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    devices = trained(tmp_path / "devices")
    assert len(devices[0]) == 6
    assert_same(devices, alone(flags, tmp_path / "alone"))


@pytest.mark.thorough
def test_processes_learn_what_one_does_and_go_on_after_one_is_killed(flags, tmp_path):
    flags.append("--max_steps=24")
    again = [*flags, f"--train_dir={tmp_path / 'killed'}"]
    for survivor in (0, 1):
        pair = start_pair(*again)
        state = directory(tmp_path / "killed", "compress_seq_3") / "resume" / "state.json"
        before = state.read_text() if state.exists() else None
        while not state.exists() or state.read_text() == before:
            assert pair[0].poll() is None, pair[0].communicate()
            time.sleep(0.02)
        pair[1 - survivor].send_signal(signal.SIGKILL)
        output, _ = pair[survivor].communicate(timeout=60)
        pair[1 - survivor].communicate()
        assert pair[survivor].returncode not in (0, None)
        assert "Traceback" not in output
        # Whichever notices first, the training step or JAX's watch over the processes.
        assert (
            "error: expected all 2 processes to be there" in output
            or "JAX distributed service detected fatal errors" in output
        )
    first, second = finish(*start_pair(*again))
    assert "going on after step" in first
    assert "test play" in first
    assert "step/s" not in second  # one bar, one report
    assert_same(trained(tmp_path / "killed"), alone(flags, tmp_path / "alone"))
    logs = directory(tmp_path / "killed", "compress_seq_3") / "logs"
    assert len(list(logs.iterdir())) == 3  # one each time that the pair was started


@pytest.mark.thorough
def test_processes_pretrain_together(flags, tmp_path):
    flags += [f"--train_dir={tmp_path}", "--pretraining_steps=3", "--max_steps=4"]
    first, second = finish(*start_pair(*flags, script="compress_seq_1_train"))
    assert "pretraining 2/2, 5 steps ahead: 100%" in first
    assert "pretraining" not in second
    # The first process makes the data; the others wait for it.
    assert "recording 200 frames" in first and "recording" not in second
    curve, _ = trained(tmp_path, "compress_seq_1")
    assert np.isfinite(curve).all()
    # The first one looks at them now and then, and by itself.
    logs = directory(tmp_path, "compress_seq_1") / "logs"
    events = EventAccumulator(str(logs), size_guidance={"tensors": 0}).Reload()
    (error,) = events.Tensors("pretraining/error_at_step_1/mse")
    assert error.step == 2
    assert np.isfinite(make_ndarray(error.tensor_proto))


def test_processes_that_were_started_differently_say_so(flags, tmp_path):
    pair = start_pair(*flags, f"--train_dir={tmp_path}", second=["--seed=1"])
    outputs = [process.communicate(timeout=60)[0] for process in pair]
    assert all(process.returncode for process in pair)
    # One may be gone before the other has compared.
    assert any("error: expected all processes to agree" in output for output in outputs), outputs
    assert not any("Traceback" in output for output in outputs)


def test_processes_that_are_not_to_be_one_run_are_refused(flags, capsys):
    error = fails(capsys, "compress_seq_1_train", *flags, "--num_processes=2", "--process_id=0")
    assert "expected --distribute" in error


def test_a_processs_own_error_is_not_told_as_anothers():
    import jax

    assert _of_the_others(jax.errors.JaxRuntimeError("UNAVAILABLE: a task has gone"))
    assert _of_the_others(ValueError("Gloo all-reduce failed"))
    assert not _of_the_others(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert not _of_the_others(ValueError("shapes differ"))


def test_distribution_without_jax_is_refused(flags, capsys):
    assert "KERAS_BACKEND=jax" in fails(capsys, "compress_seq_1_train", *flags, "--distribute")


@pytest.mark.parametrize(
    "more, expected",
    [
        (["--num_processes=2"], "received no --coordinator and no --process_id"),
        (
            ["--coordinator=here:1", "--num_processes=2", "--process_id=2"],
            "--process_id in 0..1 of --num_processes=2, received 2",
        ),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "host:port"),
    ],
)
def test_incomplete_flags_are_refused(flags, tmp_path, more, expected):
    process = start(*flags, f"--train_dir={tmp_path}", "--distribute", *more)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert expected in output.splitlines()[-1]
