"""The settings that every script runs with, and how it imports Keras."""

import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# How the lines begin that TensorFlow prints about itself while it is imported. No setting silences
# them: its logger is not set up yet.
_GREETINGS = (b"WARNING: All log messages before absl::InitializeLog", b"I0000 00:00:")
# What Keras and TensorFlow import if it is installed, for plots and for TensorFlow Lite. It takes a
# fifth of the time.
_UNUSED = {"matplotlib", "jax"}


def prepare() -> None:
    """Sets up this process. Has to come before NumPy or Keras is imported.

    What the user has set in the environment stays.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        # TensorFlow turns its oneDNN kernels on by itself only with AVX-512. With AVX2 they nearly
        # halve a training step.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # OpenBLAS' threads wait for each other by spinning. With another process on the same cores a
    # factorisation by two threads takes 10 to 20 times as long as by one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What ends the process alone: errors that matter are raised in Python, too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Whatever ~/.keras/keras.json says, ours is read: another order of an image's axes or another
    # number format would be another network. KERAS_BACKEND still chooses the backend.
    os.environ["KERAS_HOME"] = str(Path(__file__).parent / "keras")


def import_keras() -> None:
    """Imports Keras and its backend, which takes seconds, without TensorFlow's greetings.

    Scripts call it after their flags are parsed, so that a wrong flag is told at once.
    """
    if "keras" not in sys.modules:
        unused = _UNUSED - {os.environ.get("KERAS_BACKEND")}
        with _without_greetings(), _hidden(unused):
            import keras  # noqa: F401
    if sys.modules["keras"].config.backend() != "tensorflow":
        # Keras' random seed and TensorBoard's writer would import it all the same, which takes
        # seconds and half a gigabyte.
        sys.modules.setdefault("tensorflow", None)


@contextlib.contextmanager
def _hidden(packages: set[str]) -> Iterator[None]:
    """Makes packages look as if they were not installed, unless they are imported already."""
    hidden = dict.fromkeys(packages - sys.modules.keys())
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


@contextlib.contextmanager
def _without_greetings() -> Iterator[None]:
    """Leaves the greetings out of stderr. All other lines pass, also those of an abort.

    A forked process reads what is written to stderr and hands it on, because that process goes on
    when this one aborts.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    reading, writing = os.pipe()
    reader = os.fork()
    if reader == 0:
        os.close(writing)
        _hand_on(reading, stderr)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    try:
        yield
    finally:
        os.dup2(stderr, 2)  # which ends the reader's input
        os.close(stderr)
        os.waitpid(reader, 0)


def _hand_on(reading, stderr):
    """Is the reader process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that imports
    with contextlib.suppress(OSError), os.fdopen(reading, "rb") as lines:
        for line in lines:
            if not line.startswith(_GREETINGS):
                os.write(stderr, line)
    os._exit(0)
