"""The benchmarks run on a tiny data set, and their command lines answer at once."""

import json

import numpy as np
import pytest

from benchmarks import imagine, train
from systems.controlled import find_controlled
from systems.record import record
from utils.training.progress import Progress

from . import tiny  # noqa: F401 - makes the preset known
from .test_start import SETTINGS, WATCHED, settings, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    path = record("freeway", "persistent", 80, 1, directory, progress=False)
    find_controlled(path, progress=False)
    return str(path)


def test_benchmarks_run_in_the_scripts_settings():
    # Keras refuses the backend, so nothing is measured.
    done = start("-c", WATCHED, "benchmarks", KERAS_BACKEND="none")
    assert settings(done) == {"numpy": SETTINGS, "keras": SETTINGS}


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.child", "benchmarks.figures"])
def test_help_and_mistyped_flags_answer_at_once(module):
    for flags, code in (["--help"], 0), (["--no_such_flag"], 2):
        done = start("-c", WATCHED, module, *flags)
        assert done.returncode == code
        assert "usage:" in done.stdout + done.stderr
        assert settings(done) == {}  # neither NumPy nor Keras is imported


def test_a_child_measures_data_loading(data):
    arguments = json.dumps({"model": "lstm_84x84x1", "batch_size": 2, "data": data})
    done = start("-m", "benchmarks.child", "data.ours", arguments)
    assert not done.returncode, done.stderr
    assert 0 < json.loads(done.stdout.splitlines()[-1])["seconds"] < 10


@pytest.mark.thorough
def test_training_is_measured_and_left_as_it_was(data):
    on_train_batch_end = Progress.on_train_batch_end
    measured = train.ours("tiny", "compression", batch_size=2, data=data, steps=5)
    assert measured.keys() == {"seconds", "first_step", "peak_memory"}
    assert min(measured.values()) > 0
    assert Progress.on_train_batch_end is on_train_batch_end


@pytest.mark.thorough
def test_the_way_of_2016_is_measured(data):
    measured = train.way_of_2016("tiny", "compression", batch_size=2, data=data, steps=4)
    assert measured["seconds"] > 0


def test_imagination_is_measured(data):
    work = {"model": "tiny", "batch_size": 3, "horizon": 4, "data": data}
    work |= imagine.hand_over("tiny", "compression", data)
    measured = imagine.ours(**work, variant="compression", decoded=False, precision="float32")
    assert measured["seconds"] > 0
    assert imagine.vector_env(**work)["seconds"] > 0
    network = imagine._network("tiny", "compression", 1, data, work["weights"])[0].network
    for kernel in (network.core.kernel, network.core.recurrent_kernel):
        assert not np.delete(np.array(kernel), network.core.candidate, axis=1).any()
