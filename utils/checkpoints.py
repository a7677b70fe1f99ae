"""A stage's directory: its weights, and the JSON beside them that says how to rebuild the model.

`<train_dir>/<game>/<model>/<stage>/` holds `best.weights.h5` (the network's weights, without the
optimiser's), `config.json`, `history.csv`, `logs/` and, while the stage runs, `resume/`. Every file
is written whole under another name and then renamed.
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from model.networks import Network
from model.predictor import FramePredictor
from systems.atari import FRAME_SKIP
from systems.errors import InputError, one_line
from utils.precision import fast_bfloat16

WEIGHTS = "best.weights.h5"
CONFIG = "config.json"


def stage_directory(train_dir: str | Path, game: str, model: str, stage: str) -> Path:
    """Where a stage's files lie."""
    return Path(train_dir) / game / model / stage


@contextlib.contextmanager
def training_in(directory: Path) -> Iterator[None]:
    """Keeps other processes from training the stage of this directory, which it makes.

    The lock ends with the process, however that ends.

    Raises:
        InputError: the directory cannot be made, or another process trains in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"expected a directory to write to in --train_dir, but the system says: "
            f"{error.strerror}: {error.filename}"
        ) from error
    with contextlib.ExitStack() as exits:
        exits.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"expected to train alone in {directory}, but another process does so. Wait for "
                "it, stop it, or choose another --train_dir."
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # where nothing came of it
                directory.rmdir()


def write_weights(path: Path, model: keras.Model) -> None:
    """Writes a model's weights, and its optimizer's if it has one."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    # Four bytes a number, and what HDF5 writes of each variable.
    size = sum(4 * math.prod(variable.shape) + 4096 for variable in variables)

    def write(partial):
        # Where there is no room HDF5 may crash, so it is asked for beforehand.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with open(partial, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        model.save_weights(partial)

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Has `write` make a file beside `path` and gives it the name once it is on the disk."""
    # The suffix stays: Keras asks for `.weights.h5`.
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # HDF5 raises either on a full disk
        raise unwritable(path, getattr(error, "strerror", None) or error) from error
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, reason: object) -> InputError:
    """What is to be raised where the system refuses to write a file."""
    return InputError(
        f"expected to write {path}, but the system says: {reason}. What was there before is "
        "untouched; make room or choose another directory, and run the same command again."
    )


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file whole."""
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def read_config(directory: str | Path) -> dict:
    """A stage's `config.json`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = Path(directory) / CONFIG
    try:
        # What was trained before it was noted had this frame skip.
        return {"frame_skip": FRAME_SKIP, **json.loads(path.read_text())}
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected a checkpoint directory with {CONFIG} and {WEIGHTS}, such as "
            f"checkpoints/freeway/lstm_84x84x1/compress_seq_5_reward. Received {directory}: {error}"
        ) from error


def check_tells_rewards(config: dict, directory: str | Path) -> None:
    """Raises InputError unless the stage of this `config.json` has learned rewards and ends."""
    if not config["training"]["reward_weight"]:
        raise InputError(
            f"expected the checkpoint of a stage that predicts rewards and ends, such as "
            f"compress_seq_5_reward. Received {directory}, of {config['stage']}."
        )


def check_alike(configs: list[dict]) -> None:
    """Raises InputError unless all are of one game, played alike, and of one frame size."""
    first, *others = configs
    for other in others:
        for key in ("game", "frame_skip", "model", "action_meanings", "warmup"):
            if other[key] != first[key]:
                raise InputError(
                    f"expected checkpoints with the same {key}, received {first[key]} and "
                    f"{other[key]}"
                )


def save_weights(network: Network, directory: Path) -> None:
    """Writes the network's weights as `best.weights.h5`."""
    write_weights(directory / WEIGHTS, network)


def load_weights(network: Network, directory: str | Path) -> None:
    """Restores `best.weights.h5`, every variable of it and no other.

    Raises:
        InputError: the file is missing, damaged or of another network.
    """
    path = Path(directory) / WEIGHTS
    if not path.exists():
        raise InputError(
            f"expected a trained stage's weights in {path}, where there are none. If it was "
            "stopped before its first epoch, its script goes on by the same flags."
        )
    try:
        network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected the weights of a {network.preset_name} network with "
            f"{network.core.num_actions} actions in {path}, but loading failed: "
            f"{one_line(error)} Train the stage again with --overwrite."
        ) from error


def go_on_from(model: keras.Model, path: Path) -> None:
    """Restores what an interrupted run saved of a model, its optimizer's state too if it has one.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise interrupted_run_damaged(path.parent, error) from error


def interrupted_run_damaged(resume: Path, error: Exception) -> InputError:
    """What is to be raised where an interrupted run's files cannot be read."""
    return InputError(
        f"expected what an interrupted run left in {resume}, but reading it failed: "
        f"{one_line(error)} Start over with --overwrite."
    )


def load_predictor(directory: str | Path, precision: str = "float32") -> FramePredictor:
    """The model of a checkpoint directory, with its weights.

    Args:
        directory: a stage's directory.
        precision: what to compute in, as `FramePredictor` has it; "auto" is the fastest to imagine
            in on this machine, bfloat16 or float32.
    """
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16() else "float32"
    config = read_config(directory)
    predictor = FramePredictor(
        config["model"], config["variant"], len(config["action_meanings"]), precision=precision
    )
    load_weights(predictor.network, directory)
    return predictor
