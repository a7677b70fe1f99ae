"""The training scripts' command line, as one frozen record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from model.presets import PRESETS
from systems.atari import game_name
from systems.errors import (
    InputError,
    exit_on_input_error,
    number_from_zero,
    positive_number,
    user_path,
    whole_number,
)
from systems.policies import POLICIES
from systems.record import dataset_directory
from utils.checkpoint import stage_directory
from utils.training.stage import Stage, script

ROLES = ("training", "validation", "test")  # recorded with seeds 1, 2, 3
BATCH_SIZES = {"lstm_84x84x1": 16, "lstm_210x160x3": 4}
ENCODER_RATE = 0.0  # learning rate of the encoder over the others'; 0: it is not trained
CONTROL_WEIGHT = 5.0  # of the errors at controlled pixels


@dataclass(frozen=True)
class StageConfig:
    """How a stage is to be trained. Nothing changes it after it is made.

    The attributes are the flags of the command line, see `--help`, and `stage`.
    """

    stage: Stage
    atari_game: str
    model: str
    data_path: Path
    train_dir: Path
    num_training_frames: int
    policy: str
    training_data: Path | None
    validation_data: Path | None
    test_data: Path | None
    observation_key: str | None
    batch_size: int
    learning_rate: float
    pretraining_steps: int
    pretrained: bool
    encoder_rate: float
    control_weight: float
    max_steps: int
    patience: int
    steps_per_epoch: int
    seed: int
    precision: str
    overwrite: bool
    distribute: bool
    coordinator: str | None
    num_processes: int | None
    process_id: int | None

    @property
    def game(self) -> str:
        """The game's canonical name."""
        return game_name(self.atari_game)

    @property
    def directory(self) -> Path:
        """Where the stage's files go."""
        return stage_directory(self.train_dir, self.game, self.model, self.stage.name)

    @property
    def previous_directory(self) -> Path | None:
        """Where the files of the stage before lie; None for the first stage.

        With `pretrained` they do not count.
        """
        if self.stage.restore is None:
            return None
        return stage_directory(self.train_dir, self.game, self.model, self.stage.restore)

    def given_data(self, role: str) -> Path | None:
        """The data set that the user has named for a role, if any."""
        return getattr(self, f"{role}_data")

    def num_frames(self, role: str) -> int:
        """Steps to record for a role: validation and test sets are a tenth as long."""
        if role == "training":
            return self.num_training_frames
        return max(self.num_training_frames // 10, 1)

    def data_seed(self, role: str) -> int:
        """The seed that a role's data set is recorded with."""
        return ROLES.index(role) + 1

    def data_directory(self, role: str) -> Path:
        """Where the data set of a role lies, or will be recorded."""
        given = self.given_data(role)
        if given is not None:
            return given
        frames, seed = self.num_frames(role), self.data_seed(role)
        return dataset_directory(self.data_path, self.game, self.policy, frames, seed)

    def shared(self) -> dict:
        """The flags that all processes of a distributed run have to be given alike.

        Each process may find its files under other names.
        """
        own = {"coordinator", "num_processes", "process_id", "train_dir", "data_path"}
        own |= {f"{role}_data" for role in ROLES}
        return {
            entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in own
        }

    def command(self, stage_name: str) -> str:
        """The command that trains another stage with the flags that have to be the same."""
        kept = ["atari_game", "model", "data_path", "train_dir", "num_training_frames", "policy"]
        kept += [*(f"{role}_data" for role in ROLES), "observation_key"]
        defaults = vars(parser(self.stage).parse_args([]))
        flags = [
            f"--{name}={getattr(self, name)}"
            for name in kept
            if name in ("atari_game", "model") or str(getattr(self, name)) != str(defaults[name])
        ]
        return f"python {script(stage_name)} {' '.join(flags)}"


def parse(
    stage: Stage, argv: Sequence[str] | None = None, description: str | None = None
) -> StageConfig:
    """The command line's flags. Ends the process with exit code 2 where they cannot be used."""
    flags = vars(parser(stage, description).parse_args(argv))
    with exit_on_input_error():
        flags["batch_size"] = flags["batch_size"] or BATCH_SIZES.get(flags["model"])
        if flags["batch_size"] is None:
            raise InputError(
                f"expected --batch_size, as there is none for {flags['model']} in {__name__}"
            )
        if stage.restore and flags["pretraining_steps"]:
            raise InputError(
                f"expected --pretraining_steps for the first stage of a variant alone, received "
                f"{flags['pretraining_steps']} for {stage.name}, which restores {stage.restore}. "
                "Leave the flag out."
            )
        if flags["pretrained"]:
            if flags["pretraining_steps"] != stage.pretraining_steps:
                raise InputError(
                    "expected --pretrained, which skips pretraining, or --pretraining_steps, "
                    "received both. Leave one out."
                )
            flags["pretraining_steps"] = 0
        together = {flags["coordinator"], flags["num_processes"], flags["process_id"]}
        if not flags["distribute"] and together != {None}:
            raise InputError(
                "expected --distribute beside --coordinator, --num_processes and --process_id, "
                "received those without it"
            )
        game_name(flags["atari_game"])  # refuses an unknown game
    return StageConfig(stage=stage, **flags)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults of flags that have one."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parser(stage: Stage, description: str | None = None) -> argparse.ArgumentParser:
    """The command line of a stage's script."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=_Help, allow_abbrev=False
    )
    add = parser.add_argument
    add("--atari_game", default="ms_pacman", help="as ale-py names it: ms_pacman, ms_pacman.bin")
    add(
        "--model",
        default="lstm_210x160x3",
        choices=PRESETS,
        help="the network's preset: lstm_84x84x1 for processors, lstm_210x160x3 for GPUs",
    )
    add("--data_path", type=user_path, default=Path("data"), help="directory of the data sets")
    add(
        "--train_dir",
        type=user_path,
        default=Path("checkpoints"),
        help="directory of the trained stages",
    )
    add(
        "--num_training_frames",
        type=whole_number(1),
        default=30000,
        help="steps to record where there is no data set; validation and test sets have a tenth",
    )
    add("--policy", default="random", choices=POLICIES, help="who plays while recording")
    for role in ROLES:
        add(f"--{role}_data", type=user_path, metavar="DIR", help=f"use this data set for {role}")
    add("--observation_key", metavar="KEY", help="entry of Dict observations that is the image")
    sizes = ", ".join(f"{size} with {model}" for model, size in BATCH_SIZES.items())
    add("--batch_size", type=whole_number(1), help=f"windows a step (default: {sizes})")
    add(
        "--learning_rate",
        type=positive_number,
        default=stage.learning_rate,
        help="at its peak, of a kernel of typical size",
    )
    add(
        "--pretraining_steps",
        type=whole_number(0),
        default=stage.pretraining_steps,
        help="steps that train the convolutions alone, before all others; first stages only",
    )
    add(
        "--pretrained",
        action="store_true",
        help="start from the game's shipped weights, not from the stage before; no pretraining",
    )
    add(
        "--encoder_rate",
        type=number_from_zero,
        default=ENCODER_RATE,
        help="learning rate of the encoder over the others'; 0: it stays as pretraining left it",
    )
    add(
        "--control_weight",
        type=number_from_zero,
        default=CONTROL_WEIGHT,
        help="added weight of the errors at pixels that the player controls; 0: all alike",
    )
    add(
        "--max_steps",
        type=whole_number(1),
        default=stage.max_steps,
        help="steps after which the stage ends and the learning rate reaches 0",
    )
    add(
        "--patience",
        type=whole_number(1),
        default=10,
        help="epochs without a better validation loss after which the stage ends",
    )
    add("--steps_per_epoch", type=whole_number(1), default=100, help="steps between validations")
    add(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="of the initial weights and the order of windows",
    )
    add(
        "--precision",
        default="auto",
        choices=["auto", "float32", "mixed_bfloat16"],
        help="auto: bfloat16 on a GPU and where the processor has instructions for it",
    )
    add("--overwrite", action="store_true", help="start over, removing what the stage had")
    group = parser.add_argument_group("several devices and machines (KERAS_BACKEND=jax)")
    add = group.add_argument
    add("--distribute", action="store_true", help="train on all devices, of all processes")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there")
    add("--num_processes", type=whole_number(1), help="how many processes there are")
    add("--process_id", type=whole_number(0), help="which of them this one is, from 0")
    return parser
