"""The weights that this repository ships, made into checkpoints where they are first used.

`pretrained/<game>_<variant>.npz` holds the few weights that pretraining has trained, and the
actions of some play. `pretrained/<game>_<variant>.json` says how they were made. From both follows
a checkpoint like that of any stage, in `<train_dir>/pretrained/<game>/<model>/<stage>`, and the
data sets that it needs, in `<data_path>`. `utils.small_weights` computes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from systems.atari import game_name
from systems.dataset import Dataset
from systems.errors import InputError, one_line, say
from systems.files import refusals_explained, workspace
from systems.policies import policy_name
from systems.record import dataset_directory, record
from utils.arrays import read_npz
from utils.checkpoint import WEIGHTS, stage_directory
from utils.checkpoint_flags import DEFAULT_GAME, DEFAULT_VARIANT, DIRECTORY, shipped_names
from utils.config import PRETRAINING, CheckpointConfig, from_json, read_config
from utils.start import import_keras

ROLES = ("training", "test")  # of the play whose actions are shipped
VERSION = 1  # of the files' layout


@dataclasses.dataclass(frozen=True)
class ShippedPlay:
    """A data set whose actions are shipped; see `systems.record.record`."""

    policy: str
    num_frames: int
    seed: int

    def directory(self, data_path: Path, game: str) -> Path:
        """Where `systems.record` puts it."""
        name = policy_name(self.policy)
        return dataset_directory(data_path, game, name, self.num_frames, self.seed)


@dataclasses.dataclass(frozen=True)
class Description:
    """What the JSON file says.

    Attributes:
        config: of the checkpoint. Its data sets' directories begin below `data_path`.
        training, test: play that is recorded again: where the principal components come from, and
            what is measured.
        made: how, when, by what and of what commit.
        figures: what was measured.
        version: of the file's layout.
    """

    config: CheckpointConfig
    training: ShippedPlay
    test: ShippedPlay
    made: dict[str, Any]
    figures: dict[str, Any]
    version: int = VERSION


class Shipped:
    """The shipped weights of one game and variant.

    Args:
        game: its canonical name.
        variant: "paper" or "compression".
        directory: of all shipped weights; None: this repository's.

    Attributes:
        weights: the file with the arrays.
        description: what the file beside it says.

    Raises:
        InputError: there are none, or the description is damaged or newer than this code.
    """

    def __init__(self, game: str, variant: str = DEFAULT_VARIANT, directory: Path | None = None):
        directory = directory or DIRECTORY
        self.weights = directory / f"{game}_{variant}.npz"
        path = self.weights.with_suffix(".json")
        if not (self.weights.exists() and path.exists()):
            found = shipped_names(directory)
            raise InputError(
                f"expected a game with shipped weights, received {game} ({variant}). There are: "
                f"{', '.join(found) or 'none'}. Train your own, as the README tells."
            )
        try:
            self.description: Description = from_json(Description, json.loads(path.read_text()))
            if self.description.version > VERSION:
                raise ValueError(f"its version is {self.description.version}")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected the description of shipped weights in {path}, but reading it failed: "
                f"{one_line(error)} Check the file out again."
            ) from error

    def digest(self) -> str:
        """Tells these weights from others."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]

    def config(self, data_path: Path) -> CheckpointConfig:
        """The checkpoint's configuration, with its data sets in `data_path`."""
        config = self.description.config
        return dataclasses.replace(
            config,
            data={role: str(data_path / directory) for role, directory in config.data.items()},
            restored_from=str(self.weights),
            restored_weights=self.digest(),
        )

    def record(self, role: str, data_path: Path) -> Path:
        """Records the play of a role unless it is there; returns the data set's directory.

        Raises:
            InputError: the shipped file is damaged, or the disk refuses.
        """
        play, game = getattr(self.description, role), self.description.config.game
        where = play.directory(data_path, game)
        if where.exists():
            return where
        arrays = read_npz(
            self.weights, f"shipped weights in {self.weights}", "Check the file out again."
        )
        lengths, actions = arrays[f"{role}_lengths"], arrays[f"{role}_actions"]
        say(f"recording {play.num_frames} frames of {play.policy} play in {where}")
        known = np.split(actions, np.cumsum(lengths)[:-1])
        return record(game, play.policy, play.num_frames, play.seed, data_path, known_actions=known)


def pretrained_checkpoint(
    game: str = DEFAULT_GAME,
    variant: str = DEFAULT_VARIANT,
    data_path: str | Path = "data",
    train_dir: str | Path = "checkpoints",
    shipped_in: Path | None = None,
) -> Path:
    """The checkpoint of shipped weights, computed if it is not there yet.

    That takes half a minute on two cores, and 270 MB of disk.

    Args:
        game: any name of the game.
        variant: "paper" or "compression".
        data_path: where its data sets are recorded.
        train_dir: below which the checkpoint is made.
        shipped_in: directory of the shipped weights; None: this repository's.

    Returns:
        the checkpoint's directory.

    Raises:
        InputError: there are no such weights, they are damaged, or the disk refuses.
    """
    data_path = Path(data_path)
    shipped = Shipped(_canonical(game), variant, shipped_in)
    config = shipped.config(data_path)
    directory = stage_directory(
        Path(train_dir) / "pretrained", config.game, config.model, config.stage
    )
    shipped.record("test", data_path)
    if _is_made(directory, config):
        _name_data(directory, config)
        return directory
    dataset = Dataset(shipped.record("training", data_path))
    _require_same_screens(dataset, config)
    say(f"computing the network from {shipped.weights.name}, which is kept in {directory}")
    import_keras()
    from utils.small_weights import build

    with refusals_explained(directory), workspace(directory) as partial:
        if _is_made(directory, config):  # by the process that held the lock
            _name_data(directory, config)
            return directory
        build(shipped.weights, config, dataset, partial / "new")
        if directory.exists():
            directory.rename(partial / "old")
        (partial / "new").rename(directory)
    return directory


def _canonical(game):
    """The game's own name; what no game is called stays, to be refused with those that ship."""
    try:
        return game_name(game)
    except InputError:
        return game


def _is_made(directory, config):
    """Whether the checkpoint is there, whole, and made of these very weights."""
    if not all((directory / name).exists() for name in (WEIGHTS, PRETRAINING)):
        return False
    try:
        return read_config(directory).restored_weights == config.restored_weights
    except InputError:
        return False


def _name_data(directory, config):
    """Lets a checkpoint name the data sets of today's `data_path`, as far as they are there."""
    made = read_config(directory)
    data = made.data | {role: path for role, path in config.data.items() if Path(path).exists()}
    if data != made.data:
        dataclasses.replace(made, data=data).write(directory)


def _require_same_screens(dataset, config):
    ours = dataset.frame_skip, dataset.pooled_frames, dataset.emulator
    theirs = config.frame_skip, config.pooled_frames, config.emulator
    if ours != theirs:
        raise InputError(
            f"expected play with frame skip, pooled frames and emulator options {theirs}, by which "
            f"the shipped weights were trained, received {ours} in {dataset.directory}. Make the "
            "weights anew: make pretrained"
        )


def checkpoint_or_pretrained(
    checkpoint: str | Path | None, pretrained: str | None, variant: str | None = None
) -> Path:
    """The checkpoint that a caller names, by its directory or as shipped weights.

    Args:
        checkpoint: its directory.
        pretrained: the game of shipped weights.
        variant: of these; None: `DEFAULT_VARIANT`.

    Raises:
        InputError: both or neither are named, or there are no such weights.
    """
    if (checkpoint is None) == (pretrained is None):
        raise InputError(
            "expected either checkpoint= with a directory or pretrained= with a game, received "
            f"{'neither' if checkpoint is None else 'both'}"
        )
    if checkpoint is None:
        return pretrained_checkpoint(pretrained, variant or DEFAULT_VARIANT)
    if variant is not None:
        raise InputError(
            f"expected variant= beside pretrained=, received {variant!r} beside checkpoint=, which "
            "is of one variant already. Leave it out."
        )
    return Path(checkpoint)
