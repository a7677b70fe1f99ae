"""The stages of training: what all eight scripts at the top do.

The command line's flags, the data, found or recorded, the stage before; then training
(`utils/training.py`).
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from model.networks import PRESETS
from systems import control
from systems.atari import game_name
from systems.errors import (
    InputError,
    exit_on_input_error,
    number_from_zero,
    positive_number,
    whole_number,
)
from systems.policies import POLICIES
from systems.record import dataset_directory, record
from utils import checkpoints, distribution, evaluation
from utils.dataset import Dataset, find_dataset
from utils.distribution import Devices
from utils.training import BATCH_SIZES, Run

ONE_STEP_PREDICTIONS = 10  # frames predicted a window where predictions are not fed back
DATA_SEEDS = {"training": 1, "validation": 2, "test": 3}
ENCODER_RATE = 0.0  # learning rate of the encoder over the others'; 0: it is left as it is
CONTROL_WEIGHT = 5.0  # of the errors where the player decides, over those elsewhere


@dataclass(frozen=True)
class Stage:
    """The facts of one stage of the curriculum."""

    name: str
    variant: str  # "paper" or "compression"
    predict: int  # frames predicted after the warm-up, fed back; 1: one step ahead of real frames
    restore: str | None  # the stage whose best weights it starts from
    learning_rate: float
    max_steps: int
    convolution_steps: int = 0  # of the convolutions alone, before the first step
    termination_rate: float = 1.0  # learning rate of the termination's head, over the others'
    # Steps fed back, `predict` of them drawn and decoded; fewer where no episode is as long.
    horizon: int | None = None  # None: all are decoded
    reward_weight: float = 0.0  # of the reward's cross-entropy against the pixels; 0: not trained

    @property
    def predictions(self) -> int:
        """Frames predicted in each training window."""
        return self.predict if self.predict > 1 else ONE_STEP_PREDICTIONS

    @property
    def steps(self) -> int:
        """Steps after the warm-up in each training window."""
        return self.horizon or self.predictions


def script(stage_name: str) -> str:
    """The script that trains a stage: compress_seq_5_reward -> compress_seq_5_train_reward.py."""
    base, reward, _ = stage_name.partition("_reward")
    return f"{base}_train{reward}.py"


def main(stage: Stage, argv: list[str] | None = None) -> None:
    """Trains a stage by the command line's flags."""
    args = _parser(stage).parse_args(argv)
    flags = "the same flags but for --overwrite" if args.overwrite else "the same flags"
    again = f"python {script(stage.name)} with {flags}"
    with distribution.leave_at_once(again), exit_on_input_error():
        try:
            train(stage, args)
        except KeyboardInterrupt:
            print(
                f"\ninterrupted: {again} goes on after the last whole epoch",
                file=sys.stderr,
            )
            sys.exit(130)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults of flags that have one."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser(stage: Stage) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--atari_game", default="ms_pacman", help="as ale-py names it: ms_pacman, ms_pacman.bin")
    add("--model", default="lstm_210x160x3", choices=PRESETS, help="the network's size")
    add("--data_path", default="data", help="directory of the data sets")
    add("--train_dir", default="checkpoints", help="directory of the trained stages")
    add(
        "--num_training_frames",
        type=whole_number(1),
        default=30000,
        help="recorded where there are none; validation and test sets are a tenth as long",
    )
    add("--policy", default="random", choices=POLICIES, help="who plays while recording")
    for role in DATA_SEEDS:
        add(f"--{role}_data", metavar="DIR", help=f"use this data set for {role}")
    sizes = ", ".join(f"{size} with {model}" for model, size in BATCH_SIZES.items())
    add("--batch_size", type=whole_number(1), help=f"windows a step (default: {sizes})")
    add(
        "--learning_rate",
        type=positive_number,
        default=stage.learning_rate,
        help="of a kernel of typical size",
    )
    add(
        "--convolution_steps",
        type=whole_number(0),
        default=stage.convolution_steps,
        help="of the convolutions alone, before all others, where nothing is restored",
    )
    add(
        "--encoder_rate",
        type=number_from_zero,
        default=ENCODER_RATE,
        help="learning rate of the encoder over the others'; 0: it stays as the training of the "
        "convolutions left it",
    )
    add(
        "--control_weight",
        type=number_from_zero,
        default=CONTROL_WEIGHT,
        help="how much more the error of a pixel counts that the player decides; 0: all alike",
    )
    add(
        "--max_steps",
        type=whole_number(1),
        default=stage.max_steps,
        help="stop here at the latest, learning rate at 0",
    )
    add("--patience", type=whole_number(1), default=10, help="epochs without a better validation")
    add("--steps_per_epoch", type=whole_number(1), default=100, help="between validations")
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


def train(stage: Stage, args: argparse.Namespace) -> None:
    """Trains a stage, or goes on with it; does nothing where it is finished."""
    devices = Devices()
    if args.distribute:
        devices = distribution.initialise(args.coordinator, args.num_processes, args.process_id)
    elif {args.coordinator, args.num_processes, args.process_id} != {None}:
        raise InputError(
            "expected --distribute beside --coordinator, --num_processes and --process_id, "
            "received those without it"
        )
    game = game_name(args.atari_game)
    directory = checkpoints.stage_directory(args.train_dir, game, args.model, stage.name)
    # Each process may find its files under another name; all else they have to be told alike.
    places = {"coordinator", "num_processes", "process_id", "train_dir", "data_path"}
    places |= {f"{role}_data" for role in DATA_SEEDS}
    flags = {key: value for key, value in sorted(vars(args).items()) if key not in places}
    devices.agree(f"the flags {flags}", "Start all of them with the same.")
    with checkpoints.training_in(directory) if devices.first else contextlib.nullcontext():
        if (directory / checkpoints.CONFIG).exists() and not args.overwrite:
            config = checkpoints.read_config(directory)
            if config["finished"]:
                print(f"{directory} is finished; --overwrite trains it again")
                print(evaluation.table(config["results"]))
                return
        batch_size = _batch_size(args, devices)
        previous = _previous_stage(stage, args, game)
        if not (previous or args.convolution_steps or args.encoder_rate):
            print(
                "note: without --convolution_steps the encoder stays at its random weights; "
                "--encoder_rate=1 trains it"
            )
        data = _datasets(args, game)
        if args.control_weight:
            _find_controlled(args, data)
        run = Run(stage, args, game, directory, previous, data, batch_size, devices)
        # Not before all has been found with which it can be trained anew.
        if args.overwrite and devices.first:
            (directory / checkpoints.CONFIG).unlink(missing_ok=True)  # it says that it is finished
            for old in directory.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        devices.wait()
        run.train()
        run.report()


def _previous_stage(stage, args, game) -> Path | None:
    if stage.restore is None:
        return None
    previous = checkpoints.stage_directory(args.train_dir, game, args.model, stage.restore)
    if not (previous / checkpoints.WEIGHTS).exists():
        kept = ("data_path", "train_dir", "num_training_frames", "policy")
        kept += tuple(f"{role}_data" for role in DATA_SEEDS)
        default = _parser(stage).get_default
        others = [key for key in kept if getattr(args, key) != default(key)]
        flags = [f"--{key}={getattr(args, key)}" for key in ("atari_game", "model", *others)]
        raise InputError(
            f"expected the weights of {stage.restore} in {previous}, where there are none. "
            f"Train it first: python {script(stage.restore)} {' '.join(flags)}"
        )
    config = checkpoints.read_config(previous)
    _check_same_data(stage, args, game, config["data"]["training"])
    if not config["finished"]:
        print(f"note: {stage.restore} was stopped early; starting from its best weights so far")
    return previous


def _batch_size(args, devices) -> int:
    """Windows a step, of all devices together."""
    batch_size = args.batch_size or BATCH_SIZES.get(args.model)
    if batch_size is None:
        raise InputError(
            f"expected --batch_size, as there is none for {args.model} in utils/training.py"
        )
    if batch_size % devices.num_devices:
        raise InputError(
            f"expected --batch_size to be a multiple of the {devices.num_devices} devices, "
            f"received {batch_size}"
        )
    return batch_size


def _check_same_data(stage, args, game, theirs) -> None:
    """Other data than the stage before was trained on have to be asked for by name."""
    if args.training_data is not None:
        return

    def name(directory):
        path = Path(directory)
        return path.parent.name if path.name == "data" else path.name

    ours = dataset_directory(
        args.data_path, game, args.policy, args.num_training_frames, DATA_SEEDS["training"]
    )
    if name(ours) != name(theirs):
        raise InputError(
            f"expected the data that {stage.restore} was trained on, {theirs}, received "
            f"--policy={args.policy} --num_training_frames={args.num_training_frames}, which are "
            f"those in {ours}. Give the flags that were given there, or name a data set by "
            f"--training_data."
        )


def _datasets(args, game) -> dict[str, Dataset]:
    """The training, validation and test sets, recorded where they are missing."""
    data = {}
    for role, seed in DATA_SEEDS.items():
        directory = getattr(args, f"{role}_data")
        if directory is None:
            count = args.num_training_frames
            if role != "training":
                count = max(count // 10, 1)
            directory = dataset_directory(args.data_path, game, args.policy, count, seed)
            if not directory.exists():
                print(f"no {role} set in {directory}: recording {count} frames, {args.policy} play")
                record(game, args.policy, count, seed, args.data_path)
        actions = len(data["training"].action_meanings) if data else None
        data[role] = find_dataset(directory, game, actions)
    return data


def _find_controlled(args, data):
    """Makes what says which pixels the player decides, where it is missing; else sets the weight 0.

    By a process of its own, whose workers then do not import TensorFlow.
    """
    for role in ("training", "validation"):
        reason = control.obstacle(data[role].metadata, data[role].frame_shape)
        if reason:
            print(
                f"note: the {role} set cannot be played again ({reason}), so all pixels count "
                "alike, as by --control_weight=0"
            )
            args.control_weight = 0.0
            return
    for role in ("training", "validation"):
        directory = data[role].directory.resolve()
        if not (directory / control.FILE).exists():
            command = [sys.executable, "-m", "systems.control", str(directory)]
            code = subprocess.run(command, cwd=Path(__file__).parents[1]).returncode
            if code:  # it has said why
                sys.exit(code)
