"""A trained stage on the disk: its directory, weights, precision and data.

`<train_dir>/<game>/<model>/<stage>/` holds `best.weights.h5` (the network's weights), `config.json`
(see `utils.config`), `history.csv`, `logs/` and, while the stage runs, `resume/`. A stage
with pretraining has `pretraining.npz`, too (see `utils.small_weights`). Every file is written whole
under another name and then renamed.

Keras is imported where it is first needed, because that takes seconds and a wrong path should be
an error at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import h5py
import numpy as np

from model.presets import PRESETS
from systems.dataset import Dataset, find_dataset
from systems.errors import InputError, one_line
from systems.files import PARTIAL, lock, remove, write_whole
from utils.config import CONFIG, RESUME, WEIGHTS, CheckpointConfig, read_config

if TYPE_CHECKING:
    import keras

    from model.networks import Network
    from model.predictor import FramePredictor

_DIGEST = "sha256"  # the weights file's attribute
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def stage_directory(train_dir: str | Path, game: str, model: str, stage: str) -> Path:
    """Where a stage's files lie."""
    return Path(train_dir) / game / model / stage


class Checkpoint:
    """A trained stage.

    Args:
        directory: of the stage.

    Attributes:
        directory: as given.
        config: what `config.json` says.

    Raises:
        InputError: the directory holds no trained stage, or one of an unknown preset.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.config: CheckpointConfig = read_config(directory)
        if self.config.model not in PRESETS:
            raise InputError(
                f"expected a checkpoint of one of the presets {', '.join(PRESETS)}, received "
                f"{directory}, of {self.config.model}. Add that preset to model/presets.py."
            )

    @property
    def predicts_rewards(self) -> bool:
        """Whether the stage has learned rewards and terminations."""
        return self.config.predicts_rewards

    def require_rewards(self) -> None:
        """Raises InputError unless the stage has learned rewards and terminations."""
        if not self.predicts_rewards:
            raise InputError(
                f"expected the checkpoint of a stage that predicts rewards and terminations, such "
                f"as compress_seq_5_reward. Received {self.directory}, of {self.config.stage}."
            )

    def predictor(self, precision: str = "float32") -> FramePredictor:
        """The model with its weights.

        Args:
            precision: as `FramePredictor` takes it; "auto": what this machine imagines in fastest.

        Raises:
            InputError: the weights are missing, damaged or of another network.
        """
        from model.predictor import FramePredictor

        if precision == "auto":
            precision = fastest_precision(training=False)
        config = self.config
        predictor = FramePredictor(
            config.model,
            config.variant,
            len(config.action_meanings),
            precision=precision,
            warmup=config.warmup,
        )
        load_weights(predictor.network, self.directory)
        predictor.network.core.hold_gates()
        if reason := self.superseded():
            print(f"note: {reason}", file=sys.stderr)
        return predictor

    def test_data(self, directory: str | Path | None = None) -> Dataset:
        """The stage's test set, or another data set of its game and actions.

        Raises:
            InputError: there is none, or it is of another game.
        """
        config = self.config
        return find_dataset(
            directory or config.data["test"],
            config.game,
            len(config.action_meanings),
            config.observation_key,
        )

    def superseded(self) -> str | None:
        """Why this stage no longer follows from the stages before it; None if it does.

        A stage before it may have been trained again, or further, since.
        """
        checkpoint = self
        while checkpoint.config.restored_from and checkpoint.config.restored_weights:
            before = Path(checkpoint.config.restored_from)
            now = digest(before)
            if now is not None and now != checkpoint.config.restored_weights:
                return (
                    f"{checkpoint.directory} was trained from other weights than {before} holds "
                    f"now, because that stage was trained again. Train {checkpoint.config.stage} "
                    "again with --overwrite to start from the new ones."
                )
            # Shipped weights are a file, and no stage comes before. `Checkpoint` would look for one
            # near it, and `Path.is_file` would raise where the system refuses.
            if not os.path.isfile(before / CONFIG):
                break
            try:
                checkpoint = Checkpoint(before)
            except InputError:
                break
        return None


def check_alike(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises InputError unless all are of one game, played alike, and of one frame size."""
    first, *others = (checkpoint.config for checkpoint in checkpoints)
    for other in others:
        alike = ("game", "frame_skip", "pooled_frames", "emulator", "environment", "model")
        for name in (*alike, "action_meanings", "warmup", "observation_key"):
            if getattr(other, name) != getattr(first, name):
                raise InputError(
                    f"expected checkpoints with the same {name}, received {getattr(first, name)} "
                    f"and {getattr(other, name)}"
                )


def fastest_precision(training: bool) -> str:
    """What this machine computes in fastest: "float32" or, of 16 bits, "bfloat16".

    Training keeps its weights in float32: "mixed_bfloat16".
    """
    if not fast_bfloat16():
        return "float32"
    return "mixed_bfloat16" if training else "bfloat16"


def fast_bfloat16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether bfloat16 products are faster than float32: on GPUs, TPUs, and some processors.

    On two AVX2 cores, which are not, imagination with bfloat16 weights takes two to twelve times
    as long as with float32.

    Args:
        cpuinfo: where Linux lists what the processor can do; other systems have no such file.
    """
    import keras

    devices = keras.distribution.list_devices()
    if any(device.lower().startswith(("gpu", "tpu")) for device in devices):
        return True
    try:
        flags = Path(cpuinfo).read_text()
    except OSError:
        return False
    return any(name in flags for name in _BFLOAT16_INSTRUCTIONS)


@contextlib.contextmanager
def training_in(directory: Path, flag: str = "--train_dir") -> Iterator[None]:
    """Makes a stage's or an agent's directory and keeps other processes from training in it.

    Removes the directory in the end if it is still empty.

    Args:
        directory: where the files go.
        flag: by which the user chooses it.

    Raises:
        InputError: the directory cannot be made, or another process trains in it.
    """
    directory = Path(os.path.abspath(directory))  # "." has no name
    with contextlib.ExitStack() as exits:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            held = exits.enter_context(lock(directory.with_name(f".{directory.name}.lock")))
        except filelock.Timeout as error:
            raise InputError(
                f"expected to train alone in {directory}, but another process does so. Wait for "
                f"it, stop it, or choose another {flag}."
            ) from error
        except OSError as error:
            raise InputError(
                f"expected a directory to write to in {flag}, but the system says: "
                f"{error.strerror}: {error.filename}"
            ) from error
        if held:
            # Of a process that was killed. What lies deeper may be another's, still at work.
            for place in (directory, directory / RESUME):
                for leftover in place.glob(f"{PARTIAL}*"):
                    remove(leftover)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()


def write_weights(path: Path, model: keras.Model, **attributes: str) -> None:
    """Writes a model's weights, and its optimizer's if it has one.

    Args:
        path: of the file.
        model: whose weights they are.
        attributes: what else the file is to say.

    Raises:
        InputError: the system refused.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    # Four bytes a number, and what HDF5 writes about each variable.
    size = sum(4 * math.prod(variable.shape) + 4096 for variable in variables)

    def write(partial):
        # HDF5 may crash on a full disk, so the room is asked for beforehand.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with open(partial, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        model.save_weights(partial)
        if attributes:
            with h5py.File(partial, "a") as file:
                file.attrs.update(attributes)

    write_whole(path, write)


def digest(directory: str | Path) -> str | None:
    """Tells the weights in a stage's directory from others; None if that is not known."""
    try:
        with h5py.File(Path(directory) / WEIGHTS) as file:
            return file.attrs.get(_DIGEST)
    except OSError:
        return None


def save_weights(network: Network, directory: Path) -> None:
    """Writes the network's weights as `best.weights.h5`, with their digest."""
    content = hashlib.sha256()
    for variable in network.variables:
        content.update(np.ascontiguousarray(variable).reshape(-1))
    write_weights(directory / WEIGHTS, network, **{_DIGEST: content.hexdigest()[:16]})


def load_weights(network: Network, directory: str | Path) -> None:
    """Restores `best.weights.h5`: every variable of the network, and no other is in the file.

    Raises:
        InputError: the file is missing, damaged or of another network.
    """
    path = Path(directory) / WEIGHTS
    if not path.exists():
        raise InputError(
            f"expected a trained stage's weights in {path}, where there are none. If it was "
            "stopped before its first epoch, its script goes on with the same flags."
        )
    try:
        _load_strictly(network, path, len(network.variables))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected the weights of a {network.preset_name} network with "
            f"{network.core.num_actions} actions in {path}, but loading failed: "
            f"{one_line(error)} Train the stage again with --overwrite."
        ) from error


def resume_from(model: keras.Model, path: Path) -> None:
    """Restores what an interrupted run saved of a model, with its optimizer if it has one.

    Raises:
        InputError: the file is missing, damaged or of another model.
    """
    try:
        _load_strictly(model, path)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise interrupted_run_damaged(path.parent, error) from error


def _load_strictly(model, path, count=None):
    """Loads weights, and refuses what Keras warns of: an optimizer's state that does not fit.

    Args:
        count: how many variables the file has to hold; None: not checked.
    """
    if count is not None:
        with h5py.File(path) as file:
            items = []
            file.visititems(lambda _, item: items.append(item))
            received = sum(isinstance(item, h5py.Dataset) for item in items)
        if received != count:
            raise ValueError(f"expected {count} variables, received {received}.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.load_weights(path)


def interrupted_run_damaged(resume: Path, error: Exception) -> InputError:
    """What is to be raised where an interrupted run's files cannot be read."""
    return InputError(
        f"expected what an interrupted run left in {resume}, but reading it failed: "
        f"{one_line(error)} Start over with --overwrite."
    )
