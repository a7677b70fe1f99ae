"""The benchmarks run on a tiny data set, and their command lines answer at once."""

import json

import pytest

from benchmarks import imagine, train
from benchmarks.results import summary
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


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.child", "benchmarks.results"])
def test_help_and_mistyped_flags_answer_at_once(module):
    for flags, code in (["--help"], 0), (["--no_such_flag"], 2):
        done = start("-c", WATCHED, module, *flags)
        assert done.returncode == code
        assert "usage:" in done.stdout + done.stderr
        assert settings(done) == {}  # neither NumPy nor Keras is imported


def test_results_need_a_directory_of_measurements(tmp_path):
    (tmp_path / "plan.json").write_text('{"game": "freeway"}')
    for flags, expected in (
        ([], "required: directory"),
        ([str(tmp_path)], "none in"),
        ([str(tmp_path / "nowhere")], "none in"),
    ):
        done = start("-m", "benchmarks.results", *flags)
        assert done.returncode == 2
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "damaged.json").write_text("{")
    done = start("-m", "benchmarks.results", str(tmp_path))
    assert done.returncode == 2
    assert "damaged.json" in done.stderr
    assert start("-m", "benchmarks.results", "--help").returncode == 0


def test_a_child_measures_data_loading(data):
    arguments = json.dumps({"model": "lstm_84x84x1", "batch_size": 2, "data": data})
    done = start("-m", "benchmarks.child", "data.ours", arguments)
    assert not done.returncode, done.stderr
    assert 0 < json.loads(done.stdout.splitlines()[-1])["seconds"] < 10


def test_training_is_measured_and_left_as_it_was(data):
    on_train_batch_end = Progress.on_train_batch_end
    measured = train.ours("tiny", "compression", batch_size=2, data=data, steps=5)
    assert measured.keys() == {"seconds", "first_step", "peak_memory"}
    assert min(measured.values()) > 0
    assert Progress.on_train_batch_end is on_train_batch_end


def test_the_way_of_2016_is_measured(data):
    measured = train.way_of_2016("tiny", "compression", batch_size=2, data=data, steps=4)
    assert measured["seconds"] > 0


def test_imagination_is_measured(data):
    work = {"model": "tiny", "batch_size": 3, "horizon": 4, "data": data}
    measured = imagine.ours(**work, variant="compression", decoded=False, precision="float32")
    assert measured["seconds"] > 0
    assert imagine.vector_env(**work)["seconds"] > 0


def test_the_documents_summary_has_a_row_for_each_checkpoint():
    errors = {
        "mse": 5.0,
        "mse_repeat_last": 20.0,
        "mse_controlled": 3.0,
        "mse_controlled_repeat_last": 30.0,
        "mse_controlled_shuffled_actions": 4.0,
    }
    within = {"5": {"-1": None, "1": 0.5}}
    result = {
        "checkpoint": "somewhere/paper_seq_1",
        "horizons": {"1": errors, "5": errors | {"mse_controlled": None}},
        "reward": {"average_precision_within": within},
    }
    whole = result | {"horizons": {"5": errors}, "checkpoint": "somewhere/paper_seq_3"}
    rows = summary({"freeway_paper": [result, whole]}).splitlines()[2:]
    assert rows == [
        "| freeway_paper: paper_seq_1 | 0.250 | 0.250 | - | - | - | - | - | +1: 0.50 |",
        "| freeway_paper: paper_seq_3 | - | 0.250 | - | - | - | 0.100 | 0.750 | +1: 0.50 |",
    ]
