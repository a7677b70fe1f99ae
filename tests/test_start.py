"""How every entry point starts: in the same settings, at once where flags are wrong, not mute."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from utils.config import WEIGHTS

from .checkpoints import CONFIG
from .interrupts import heed_interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STAGES = [
    f"{variant}_seq_{stage}.py"
    for variant in ("paper", "compress")
    for stage in ("1_train", "3_train", "5_train", "5_train_reward")
]
TOOLS = ["evaluate.py", "generate_video.py", "plan.py", "play.py"]
TOOLS += ["train_agent.py", "evaluate_agent.py", "record_agent.py"]
# Run as __main__ once NumPy's and Keras' first imports have been watched.
WATCHED = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "keras"):
            names = ("TF_ENABLE_ONEDNN_OPTS", "OPENBLAS_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL")
            print("import", name, *(os.environ.get(key) for key in names), file=sys.stderr)
sys.meta_path.insert(0, Watch())
sys.path.insert(0, ".")
script, sys.argv = sys.argv[1], sys.argv[1:]
run = runpy.run_path if script.endswith(".py") else runpy.run_module
run(script, run_name="__main__")
"""


def start(*command, **environment):
    names = ("TF_ENABLE_ONEDNN_OPTS", "OPENBLAS_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL")
    own = {key: value for key, value in os.environ.items() if key not in names}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**own, **environment},
        capture_output=True,
        text=True,
        preexec_fn=heed_interrupts,
    )


def settings(done):
    """The settings at the first import of NumPy and of Keras."""
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("import ")]
    return {name: values for _, name, *values in reversed(lines)}


SETTINGS = ["1" if platform.machine() in ("x86_64", "AMD64") else "None", "1", "3"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a user's network, because a new process does not know the tests'. Nobody reads weights."""
    directory = tmp_path_factory.mktemp("checkpoint")
    dataclasses.replace(CONFIG, model="lstm_84x84x1").write(directory)
    (directory / WEIGHTS).touch()
    return directory


@pytest.mark.parametrize(
    "command",
    [
        # Each ends with what it misses, some before they import Keras.
        [STAGES[0], "--training_data=/nowhere", "--batch_size=1"],
        ["play.py", "--port=0", "--checkpoint"],
        *(
            pytest.param(command, marks=pytest.mark.thorough)
            for command in (
                ["evaluate.py", "--dataset=/nowhere", "--checkpoint"],
                ["generate_video.py", "--dataset=/nowhere", "--video=clip.gif", "--checkpoint"],
                [
                    "plan.py",
                    "--num_episodes=1",
                    "--max_episode_steps=1",
                    "--simulator=none",
                    "--checkpoint",
                ],
            )
        ),
    ],
    ids=lambda command: command[0],
)
def test_every_script_has_the_same_settings(command, checkpoint, tmp_path):
    more = [checkpoint] if command[-1] == "--checkpoint" else [f"--train_dir={tmp_path}"]
    done = start("-c", WATCHED, *command, *more)
    found = settings(done)
    assert "Traceback" not in done.stderr, done.stderr
    for name, values in found.items():
        assert values == SETTINGS, (name, done.stderr)
    assert "numpy" in found


@pytest.mark.thorough
def test_benchmarks_have_the_same_settings():
    done = start("-c", WATCHED, "benchmarks.child", "limits.machine", "{}")
    assert settings(done) == {"numpy": SETTINGS, "keras": SETTINGS}, done.stderr


def test_what_the_user_has_set_stays():
    ask = "from utils.start import prepare; prepare(); import os; print(os.environ[{!r}])"
    for name in ("TF_ENABLE_ONEDNN_OPTS", "OPENBLAS_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL"):
        done = start("-c", ask.format(name), **{name: "0"})
        assert done.stdout.strip() == "0"


@pytest.mark.thorough
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere it is as TensorFlow has it")
@pytest.mark.parametrize("wish, expected", [(None, "True"), ("0", "False")])
def test_tensorflow_computes_with_onednn_unless_told_otherwise(wish, expected):
    ask = (
        "from utils.start import prepare; prepare();"
        "from tensorflow.python.framework.test_util import IsMklEnabled as on; print(on())"
    )
    done = start("-c", ask, **({} if wish is None else {"TF_ENABLE_ONEDNN_OPTS": wish}))
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_no_package_is_imported_for_nothing(backend, tmp_path):
    pytest.importorskip(backend)
    ask = (
        "from utils.start import *; prepare(); import_keras(); import sys, keras;"
        "from pathlib import Path; from utils.watching.tensorboard import Logs;"
        f"keras.utils.set_random_seed(0); Logs(Path({str(tmp_path)!r})).close();"
        "print([name for name in ('jax', 'matplotlib', 'tensorflow') if sys.modules.get(name)]);"
        "import matplotlib.pyplot, jax"
    )
    done = start("-c", ask, KERAS_BACKEND=backend)
    assert (done.returncode, done.stdout) == (0, f"['{backend}']\n"), done.stderr
    assert list(tmp_path.iterdir())


@pytest.mark.thorough
def test_importing_a_package_changes_neither_environment_nor_descriptors():
    ask = """
import os
before, stderr = dict(os.environ), os.fstat(2)
import {}
assert os.path.samestat(stderr, os.fstat(2))
print(sorted(set(os.environ.items()) - set(before.items())))
"""
    # Keras and TensorFlow set variables of their own.
    theirs = start("-c", ask.format("keras"))
    ours = start("-c", ask.format("keras, model.predictor, systems.record, utils.checkpoint"))
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout), ours.stderr


@pytest.mark.parametrize("script", [*STAGES, *TOOLS])
def test_help_and_mistyped_flags_answer_at_once(script):
    for flags, code in (["--help"], 0), (["--no_such_flag"], 2):
        done = start("-X", "importtime", script, *flags)
        assert done.returncode == code
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        # What takes the seconds. Time itself depends on what else the machine does.
        assert not imported & {"tensorflow", "keras", "jax", "matplotlib"}


def test_an_abort_while_tensorflow_is_imported_is_seen(tmp_path):
    # In TensorFlow's place a library that ends the process, as on a processor without AVX.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\nos.write(2, b'this processor lacks AVX\\n')\nos.abort()\n"
    )
    done = start(
        STAGES[0], f"--train_dir={tmp_path}", PYTHONPATH=str(tmp_path), KERAS_BACKEND="tensorflow"
    )
    assert done.returncode == -6
    assert "this processor lacks AVX" in done.stderr


def test_a_closed_stderr_works(tmp_path):
    def run(*command):
        command = f"exec {sys.executable} {' '.join(command)} 2>&-"
        return subprocess.run(["sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    done = run(STAGES[0], f"--train_dir={tmp_path}", "--training_data=/no")
    assert (done.returncode, done.stdout) == (2, "")  # before anything is recorded
    done = run("-m systems.record --num_frames=20", f"--data_path={tmp_path}")
    assert done.returncode == 0 and "recorded" in done.stdout


def test_tensorflows_greetings_alone_are_left_out_and_errors_are_not(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\nos.write(2, b'I0000 00:00:1.2 3 port.cc:1] hello\\nE0000 an error\\n')\n"
        "raise ImportError('no such library')\n"
    )
    done = start(
        STAGES[0], f"--train_dir={tmp_path}", PYTHONPATH=str(tmp_path), KERAS_BACKEND="tensorflow"
    )
    assert done.returncode == 1
    assert "E0000 an error" in done.stderr and "no such library" in done.stderr
    assert "hello" not in done.stderr
    plain = start("-c", "from utils.start import *; prepare(); import_keras()")
    assert (plain.returncode, plain.stderr) == (0, "")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "content",
    [
        '{"image_data_format": "channels_first", "floatx": "float16", "epsilon": 1}',
        '{"backend": "x"}',
    ],
)
def test_the_projects_own_settings_of_keras_hold(tmp_path, content):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(content)
    ask = (
        "from utils.start import *; prepare(); import_keras(); import keras;"
        "print(keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon())"
    )
    own = {"HOME": str(tmp_path), "KERAS_BACKEND": ""}
    done = start("-c", ask, **own)
    assert done.stdout == "float32 channels_last 1e-07\n", done.stderr


def test_ctrl_c_while_tensorflow_is_imported_is_one_line(tmp_path, checkpoint):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    own = {"PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "tensorflow"}
    for command in (
        [STAGES[0], f"--train_dir={tmp_path}"],
        ["plan.py", f"--checkpoint={checkpoint}"],
    ):
        done = start(*command, **own)
        assert (done.returncode, done.stderr) == (130, "interrupted\n")
