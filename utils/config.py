"""What a checkpoint's `config.json` says, as types: read, checked and written here alone."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import types
import typing
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systems.atari import USUAL_POOLED_FRAMES, AtariGame, is_atari
from systems.emulation import EmulatorOptions
from systems.errors import InputError, one_line
from systems.files import write_json
from systems.gymnasium_game import Environment, GymnasiumGame
from systems.real_game import RealGame

CONFIG = "config.json"
PRETRAINING = "pretraining.npz"  # of a stage that has pretraining
RESUME = "resume"  # a directory: what an interrupted training goes on from
WEIGHTS = "best.weights.h5"
VERSION = 2  # of the file's layout
TRAIN_DIR = Path("checkpoints")  # where the scripts train unless they are told otherwise

_NAMED = 10  # checkpoints, at most, where another one was not found
_LOOKED_INTO = 2000  # directories, at most, to find them: a quarter of a second


@dataclass(frozen=True)
class TrainingConfig:
    """How a stage is trained: all that its weights depend on besides data and restored weights."""

    feed_back: bool  # whether predictions are fed back; if not, each is one step ahead
    horizon: int  # steps after the warm-up in each training window
    decoded: int  # how many of them are decoded and compared
    batch_size: int  # windows a step, of all devices together
    learning_rate: float
    pretraining_steps: int
    encoder_rate: float  # learning rate of the encoder over the others'; 0: it is not trained
    termination_rate: float  # learning rate of the termination head over the others'
    control_weight: float  # of errors at controlled pixels, added to 1
    reward_weight: float  # of the reward's and termination's loss for each pixel; 0: not trained
    max_steps: int
    patience: int  # epochs without a better validation loss
    steps_per_epoch: int
    seed: int
    precision: str  # "float32" or "mixed_bfloat16"


@dataclass(frozen=True)
class CheckpointConfig:
    """What a trained stage is and how it came about."""

    stage: str
    variant: str  # "paper" or "compression"
    game: str
    model: str  # the preset's name
    action_meanings: tuple[str, ...]
    warmup: int  # real frames before the first prediction
    frame_skip: int
    training: TrainingConfig
    data: dict[str, str]  # directory of the training, validation and test set
    fingerprints: dict[str, str] = field(default_factory=dict)  # of what lay there
    restored_from: str | None = None  # directory of the stage before
    restored_weights: str | None = None  # what `utils.checkpoint.digest` said of its weights
    observation_key: str | None = None  # which entry of Dict observations is the image
    pooled_frames: int = USUAL_POOLED_FRAMES  # emulated frames that a screen of the data combines
    emulator: EmulatorOptions = field(default_factory=EmulatorOptions)  # of the data
    environment: Environment | None = None  # that the data were recorded in; None: the emulator
    devices: int = 1
    versions: dict[str, str] = field(default_factory=dict)  # of Keras and its backend
    finished: bool = False
    steps: int | None = None  # how many it took
    results: dict[str, Any] | None = None  # on the test set
    version: int = VERSION

    @property
    def predicts_rewards(self) -> bool:
        """Whether the reward and termination heads are trained."""
        return self.training.reward_weight > 0

    @property
    def real_game(self) -> RealGame:
        """The game as the data were recorded; see `begin_real_game`."""
        return RealGame(
            self.game,
            self.frame_skip,
            self.pooled_frames,
            self.environment,
            self.emulator.mode,
            self.emulator.difficulty,
        )

    def begin_real_game(self) -> AtariGame | GymnasiumGame:
        """Returns the game, set as it was when the data were recorded, at an episode's start.

        Raises:
            InputError: it cannot be played like that.
        """
        if self.environment is None and not is_atari(self.game):
            raise InputError(
                f"expected a game that can be played here, received {self.game}, which is no Atari "
                "game, and whose data name no environment. What needs no real game works: "
                "evaluate.py, generate_video.py, the environment."
            )
        game = self.real_game.begin()
        if self.environment is None:
            self.emulator.require_playable(len(self.action_meanings), game.num_actions)
        game.check_actions(self.action_meanings)
        return game

    def write(self, directory: Path) -> None:
        """Writes `config.json`."""
        write_json(directory / CONFIG, dataclasses.asdict(self))


def read_config(directory: str | Path) -> CheckpointConfig:
    """Reads a checkpoint's `config.json`.

    Raises:
        InputError: there is none, or it is damaged, foreign or of a newer version.
    """
    path = Path(directory) / CONFIG
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"{CONFIG} holds no JSON object")
        return from_json(CheckpointConfig, _upgraded(content))
    except (FileNotFoundError, NotADirectoryError):
        missing = f"it has no {CONFIG}" if path.parent.is_dir() else "there is no such directory"
        reason = f"{missing}{_those_there_are(Path(directory))}"
    except OSError as error:
        reason = error.strerror or one_line(error)
    except ValueError as error:
        reason = one_line(error)
    raise InputError(
        f"expected the directory of a trained stage, with {CONFIG} and weights, received "
        f"{directory}: {reason}"
    )


def _those_there_are(missing):
    """The end of a message: the checkpoints near a path that is none."""
    found = checkpoints_near(missing)
    if not found:
        return f". There are none below {TRAIN_DIR} or near it: train one, or name another path."
    return "\nThe checkpoints that there are:\n" + "\n".join(f"  {path}" for path in found)


def checkpoints_near(missing: Path, train_dir: Path = TRAIN_DIR) -> list[Path]:
    """Trained stages below `train_dir`, and below what there is of a path that is no checkpoint.

    Returns:
        at most ten, those first whose paths are most like `missing`.
    """
    there = next(path for path in (missing, *missing.parents) if path.is_dir())
    near = _trained_stages(there) or _trained_stages(there.parent)
    found = near | _trained_stages(train_dir)

    def likeness(path):
        like = difflib.SequenceMatcher(None, str(path), str(missing.absolute())).ratio()
        return path in near, like

    alike = sorted(sorted(found), key=likeness, reverse=True)
    return [found[path] for path in alike[:_NAMED]]


def _trained_stages(root):
    """The trained stages below a directory: their resolved paths, and as they are found."""
    waiting, found = deque([root]), {}
    for _ in range(_LOOKED_INTO):
        if not waiting:
            break
        directory = waiting.popleft()
        with contextlib.suppress(OSError):  # another user's, say, where `is_file` is refused too
            if (directory / CONFIG).is_file() and (directory / WEIGHTS).is_file():
                found.setdefault(directory.resolve(), directory)
                continue
            with os.scandir(directory) as entries:
                named = sorted(entry.name for entry in entries if entry.is_dir())
            waiting += [directory / name for name in named if not name.startswith(".")]
    return found


def _upgraded(content):
    """The content of an older file in today's layout.

    Raises:
        ValueError: the file is of a newer version.
    """
    version = content.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(f"its version is {version}, and this code reads {VERSION} at most")
    if version == 1:
        content = {"frame_skip": 4, **content, "version": VERSION}
        training = content.get("training")
        if isinstance(training, dict):
            names = {"predictions": "decoded", "convolution_steps": "pretraining_steps"}
            content["training"] = {names.get(key, key): value for key, value in training.items()}
    if content.get("frame_skip") == 1:
        # Before screens could combine frames of the step before, these showed one.
        content = {"pooled_frames": 1, **content}
    return content


def from_json(kind: type, content: dict) -> Any:
    """A dataclass from a JSON object. Keys that it does not know are left out.

    Raises:
        ValueError: a value is missing or of another type.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for entry in dataclasses.fields(kind):
        if entry.name in content:
            values[entry.name] = _checked(entry.name, content[entry.name], hints[entry.name])
        elif entry.default is entry.default_factory is dataclasses.MISSING:
            raise ValueError(f"{entry.name} is missing")
    return kind(**values)


def _checked(name, value, hint):
    """A value of the hinted type: a float may be written as a whole number, a tuple as a list."""
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_json(hint, value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is None:
            return None
        return _checked(name, value, inner[0])
    if hint is float and type(value) is int:
        return float(value)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(name, part, inner[0]) for part in value)
    if origin is dict and isinstance(value, dict):
        if inner[1] is Any:
            return value
        return {key: _checked(name, part, inner[1]) for key, part in value.items()}
    if type(value) is not hint:
        raise ValueError(f"{name} is {json.dumps(value)[:60]}, expected {hint}")
    return value
