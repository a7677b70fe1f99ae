"""What an interrupted run goes on from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras

from systems.dataset import Dataset
from systems.errors import InputError
from systems.files import refusals_explained, write_json
from utils.checkpoint import interrupted_run_damaged, resume_from, write_weights
from utils.config import RESUME, CheckpointConfig, TrainingConfig, from_json

VERSION = 3  # of state.json's layout
STATE = "state.json"
# What of a training configuration the command line sets. The script's facts set the rest.
FLAGS = (
    "batch_size",
    "learning_rate",
    "pretraining_steps",
    "encoder_rate",
    "control_weight",
    "max_steps",
    "patience",
    "steps_per_epoch",
    "seed",
    "precision",
)


@dataclass
class RunState:
    """How far a run has come."""

    pretraining_steps: int = 0  # steps of pretraining that are done
    step: int = 0  # steps of the stage itself that are done
    epoch: int = 0
    best: float | None = None  # validation loss of the best weights
    best_step: int = 0  # when they were reached; 0: the stage began with them
    waited: int = 0  # epochs since then
    history: list = field(default_factory=list)  # a row of history.csv for each epoch
    weights: str | None = None  # file of the last weights, in `resume/`


class Resume:
    """Saves a run as it goes, and loads what an interrupted one has left.

    Args:
        directory: of the stage.
        settings: how the run trains.
        data: what it trains on.
    """

    def __init__(self, directory: Path, settings: CheckpointConfig, data: Mapping[str, Dataset]):
        self.directory = directory / RESUME
        self._settings, self._data = settings, data

    def save(self, model: keras.Model, name: str, state: RunState) -> None:
        """Writes what a resumed run needs. The JSON comes last, and names the whole weights."""
        with refusals_explained(self.directory):
            self.directory.mkdir(exist_ok=True)
        path = self.directory / f"{name}.weights.h5"
        write_weights(path, model)
        state.weights = path.name
        content = {
            "version": VERSION,
            "state": dataclasses.asdict(state),
            "training": dataclasses.asdict(self._settings.training),
            "versions": self._settings.versions,
            "data": self._fingerprints(),
            "restored_weights": self._settings.restored_weights,
        }
        write_json(self.directory / STATE, content)
        for old in self.directory.glob("*.weights.h5"):
            if old != path:
                old.unlink()

    def load(self, model: keras.Model) -> RunState | None:
        """Restores the model, and returns the state; None where there is nothing to go on from.

        Weights saved during pretraining are left to `utils.training.pretraining`.

        Raises:
            InputError: the run began in another way, or its files are damaged.
        """
        path = self.directory / STATE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            if content.get("version") != VERSION:
                raise InputError(
                    f"expected a run in {self.directory.parent} that this version of the code "
                    "began, received one of another version. Go on with that, or start over with "
                    "--overwrite."
                )
            self._check(content)
            state = from_json(RunState, content["state"])
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise interrupted_run_damaged(self.directory, error) from error
        if state.step:
            resume_from(model, self.weights_path(state))
        return state

    def weights_path(self, state: RunState) -> Path | None:
        """The file of the last weights."""
        return state.weights and self.directory / state.weights

    def clear(self) -> None:
        """Removes what was saved: the run has ended."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _check(self, content):
        run = f"the run in {self.directory.parent}"
        began = from_json(TrainingConfig, content["training"])
        if differs := difference(self._settings.training, began):
            name, ours, theirs = differs
            what = f"--{name}={theirs}" if name in FLAGS else f"{name} {theirs} in the script"
            raise InputError(
                f"expected {what}, with which {run} began, received {ours}. Go on with that, or "
                "start over with --overwrite."
            )
        for name, version in self._settings.versions.items():
            if content["versions"].get(name) != version:
                raise InputError(
                    f"expected {name} {content['versions'].get(name)}, with which {run} began, "
                    f"received {version}. Go on with that, or start over with --overwrite."
                )
        for role, fingerprint in content["data"].items():
            if self._data[role].fingerprint != fingerprint:
                raise InputError(
                    f"expected the {role} data with which {run} began, received other data in "
                    f"{self._data[role].directory}. Go on with the first, or start over with "
                    "--overwrite."
                )
        if content["restored_weights"] != self._settings.restored_weights:
            start = self._settings.restored_from or "random weights"
            raise InputError(
                f"expected the weights from which {run} began, received others, of {start}. That "
                "stage was trained again since, or --pretrained was given once and not now. Start "
                "over with --overwrite."
            )

    def _fingerprints(self):
        return {role: dataset.fingerprint for role, dataset in self._data.items()}


def difference(ours: TrainingConfig, theirs: TrainingConfig) -> tuple[str, object, object] | None:
    """The first value in which two ways of training differ: its name, ours and theirs."""
    for entry in dataclasses.fields(TrainingConfig):
        values = getattr(ours, entry.name), getattr(theirs, entry.name)
        if values[0] != values[1]:
            return entry.name, *values
    return None
