"""The training scripts' command line, as one frozen record."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from model.presets import PRESETS
from systems.arguments import PLAYERS, Parser, add_data_path, add_game, add_policy, add_seed
from systems.atari import game_name, is_atari
from systems.errors import (
    InputError,
    exit_on_input_error,
    number_from_zero,
    positive_number,
    user_path,
    whole_number,
)
from systems.metadata import game_of_directory
from systems.policies import policy_name
from systems.record import dataset_directory
from utils.checkpoint import stage_directory
from utils.config import TRAIN_DIR
from utils.training.stage import Stage, script
from utils.watching.intervals import ENOUGH_FRAMES

ROLES = ("training", "validation", "test")  # recorded with seeds 1, 2, 3
BATCH_SIZES = {"lstm_84x84x1": 16, "lstm_210x160x3": 4}
# Of a stage's pretraining steps, because one on full frames takes longer.
STEPS_SHARES = {"lstm_210x160x3": 2 / 5}
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
        """The game's canonical name, or what the data sets of an environment call it."""
        return self.atari_game

    @property
    def directory(self) -> Path:
        """Where the stage's files go."""
        return stage_directory(self.train_dir, self.game, self.model, self.stage.name)

    @property
    def previous_directory(self) -> Path | None:
        """Where the files of the stage before lie; None for the first stage.

        With `pretrained` the stage starts from shipped weights, whatever lies there.
        """
        if self.stage.restore is None:
            return None
        return stage_directory(self.train_dir, self.game, self.model, self.stage.restore)

    def given_data(self, role: str) -> Path | None:
        """The data set that the user has named for a role, if any."""
        return getattr(self, f"{role}_data")

    def num_frames(self, role: str) -> int:
        """Steps to record for a role.

        The validation set is a tenth as long. The test set has as many as its intervals need, but
        no more than a third, unless a tenth is more.
        """
        if role == "training":
            return self.num_training_frames
        tenth, third = self.num_training_frames // 10, self.num_training_frames // 3
        if role == "test":
            return max(tenth, min(third, ENOUGH_FRAMES), 1)
        return max(tenth, 1)

    def data_seed(self, role: str) -> int:
        """The seed that a role's data set is recorded with."""
        return ROLES.index(role) + 1

    def data_directory(self, role: str) -> Path:
        """Where the data set of a role lies, or will be recorded."""
        given = self.given_data(role)
        if given is not None:
            return given
        frames, seed = self.num_frames(role), self.data_seed(role)
        name = policy_name(self.policy)
        return dataset_directory(self.data_path, self.game, name, frames, seed)

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
        return f"python {script(stage_name)} {shlex.join(flags)}"


def parse(
    stage: Stage, argv: Sequence[str] | None = None, description: str | None = None
) -> StageConfig:
    """The command line's flags. Ends the process with exit code 2 where they cannot be used."""
    parsed = parser(stage, description)
    flags = vars(parsed.parse_args(argv))
    with exit_on_input_error():
        flags["batch_size"] = flags["batch_size"] or BATCH_SIZES.get(flags["model"])
        if flags["batch_size"] is None:
            raise InputError(
                f"expected --batch_size, as there is none for {flags['model']} in {__name__}"
            )
        if flags["pretraining_steps"] and not stage.pretraining_steps:
            raise InputError(
                f"expected --pretraining_steps for stages without the reward, received "
                f"{flags['pretraining_steps']} for {stage.name}. Leave the flag out."
            )
        parsed.set_defaults(atari_game=None)
        given = parsed.parse_args(argv)
        if flags["pretraining_steps"] is None:
            usual = 0 if flags["pretrained"] else _pretraining_steps(stage, flags["model"])
            flags["pretraining_steps"] = usual
        if not flags["max_steps"] and not flags["pretraining_steps"]:
            raise InputError(
                "expected --max_steps of at least 1 for a stage that does not pretrain, received 0"
            )
        together = {flags["coordinator"], flags["num_processes"], flags["process_id"]}
        if not flags["distribute"] and together != {None}:
            raise InputError(
                "expected --distribute beside --coordinator, --num_processes and --process_id, "
                "received those without it"
            )
        in_data = flags["training_data"] and game_of_directory(flags["training_data"])
        # The data set's game need not be named, and may be no Atari game.
        flags["atari_game"] = given.atari_game or in_data or flags["atari_game"]
        if flags["atari_game"] != in_data:
            flags["atari_game"] = game_name(flags["atari_game"])
        missing = [f"--{role}_data" for role in ROLES if not flags[f"{role}_data"]]
        if missing and not is_atari(flags["atari_game"]):
            raise InputError(
                f"expected data sets of {flags['atari_game']} by {' and '.join(missing)}, as only "
                "the play of Atari games is recorded where it is missing. Record them with other "
                "seeds than the training set: python -m systems.record --env=ID --seed=2"
            )
    return StageConfig(stage=stage, **flags)


def _pretraining_steps(stage, model):
    """How many steps a stage pretrains by default."""
    return round(stage.pretraining_steps * STEPS_SHARES.get(model, 1))


def parser(stage: Stage, description: str | None = None) -> Parser:
    """The command line of a stage's script."""
    command = f"python {script(stage.name)}"
    parser = Parser(
        description,
        notes=[PLAYERS],
        examples=[
            f"{command} --atari_game=ms_pacman.bin  # as in 2016: full frames",
            f"{command} --atari_game=pong --model=lstm_84x84x1 \\\n"
            "      --policy=persistent:0.5,skilled:0.5",
            f"{command} --atari_game=freeway --model=lstm_84x84x1 --policy=persistent",
        ],
    )
    parser.usage = "%(prog)s [flags]"  # which are too many to be read before every error
    _add_what(parser.add_argument_group("what is trained").add_argument)
    _add_data(parser.add_argument_group("data and files").add_argument)
    _add_length(parser.add_argument_group("how long").add_argument, stage)
    _add_way(parser.add_argument_group("how").add_argument, stage)
    group = parser.add_argument_group("several devices and machines (KERAS_BACKEND=jax)")
    _add_devices(group.add_argument)
    return parser


def _add_what(add):
    add_game(add)
    add(
        "--model",
        default="lstm_210x160x3",
        choices=PRESETS,
        help="the network's preset: lstm_84x84x1 is small, lstm_210x160x3 sees full frames",
    )
    add("--overwrite", action="store_true", help="start over, removing what the stage had")


def _add_data(add):
    add_policy(add)
    add(
        "--num_training_frames",
        type=whole_number(1),
        default=30000,
        help="steps to record where there is no data set; a tenth for the validation set, a third "
        f"for the test set up to {ENOUGH_FRAMES}",
    )
    add_data_path(add)
    for role in ROLES:
        add(f"--{role}_data", type=user_path, metavar="DIR", help=f"use this data set for {role}")
    add("--observation_key", metavar="KEY", help="entry of Dict observations that is the image")
    add(
        "--train_dir",
        type=user_path,
        default=TRAIN_DIR,
        help="directory of the trained stages",
    )


def _add_length(add, stage):
    usual = {model: _pretraining_steps(stage, model) for model in BATCH_SIZES}
    steps = ", ".join(f"{number} with {model}" for model, number in usual.items())
    steps = steps if stage.pretraining_steps else "0"
    add(
        "--pretraining_steps",
        type=whole_number(0),
        help=f"steps that train the convolutions alone, before all others (default: {steps})",
    )
    add(
        "--pretrained",
        action="store_true",
        help="start from the game's shipped weights, not from the stage before; without "
        "--pretraining_steps nothing is pretrained",
    )
    add(
        "--max_steps",
        type=whole_number(0),
        default=stage.max_steps,
        help="steps after which the stage ends and the learning rate reaches 0; 0: it pretrains "
        "and trains no further",
    )
    add("--steps_per_epoch", type=whole_number(1), default=100, help="steps between validations")
    add(
        "--patience",
        type=whole_number(1),
        default=10,
        help="epochs without a better validation loss after which the stage ends",
    )


def _add_way(add, stage):
    sizes = ", ".join(f"{size} with {model}" for model, size in BATCH_SIZES.items())
    add("--batch_size", type=whole_number(1), help=f"windows a step (default: {sizes})")
    add(
        "--learning_rate",
        type=positive_number,
        default=stage.learning_rate,
        help="at its peak, of a kernel of typical size",
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
        "--precision",
        default="auto",
        choices=["auto", "float32", "mixed_bfloat16"],
        help="auto: bfloat16 on a GPU and where the processor has instructions for it",
    )
    add_seed(add, "of the initial weights and the order of windows")


def _add_devices(add):
    add("--distribute", action="store_true", help="train on all devices, of all processes")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there")
    add("--num_processes", type=whole_number(1), help="how many processes there are")
    add("--process_id", type=whole_number(0), help="which of them this one is, from 0")
