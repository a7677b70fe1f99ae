"""One stage of training: what all eight scripts at the top do.

The way through: find or record the data, build the model, restore the stage before or, where there
is none, train the convolutions alone; then epochs of a fixed number of steps, each followed by a
look at the validation set, until that stops improving.
"""

import argparse
import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from model.convolutions import ConvolutionsRollOut
from model.networks import PRESETS
from model.predictor import FramePredictor, RollOut
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
from utils import checkpoints, distribution, evaluation, video
from utils.convolutions import convolutions_first
from utils.dataset import Dataset, Windows, find_dataset, held_out
from utils.distribution import Devices
from utils.optimizer import ScaledAdam, rise_and_fall
from utils.precision import fast_bfloat16
from utils.progress import Progress, fit, require_finite
from utils.tensorboard import Logs

WARMUP = 10  # real frames before the first prediction, in every stage
ONE_STEP_PREDICTIONS = 10  # frames predicted a window where predictions are not fed back
DATA_SEEDS = {"training": 1, "validation": 2, "test": 3}
BATCH_SIZES = {"lstm_84x84x1": 16, "lstm_210x160x3": 4}
ENCODER_RATE = 0.0  # learning rate of the encoder over the others'; 0: it is left as it is
REWARD_RATE = 10.0  # of the reward's head, which has learned a good deal with the convolutions
CONTROL_WEIGHT = 5.0  # of the errors where the player decides, over those elsewhere
REWARD_STEPS = 20  # within which half of the windows that the reward is trained on have something
HORIZONS = (1, 3, 5, 10, 30)  # steps whose errors are plotted while training and reported after
EPOCHS_PER_ANIMATION = 5
ANIMATED_WINDOWS = 2
CONVOLUTION_STEPS_PER_LOOK = 1000  # at validation play, while the convolutions are trained alone


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
        type=whole_number(0),
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
        # Not before it is known that there is something to train with.
        if args.overwrite and devices.first:
            (directory / checkpoints.CONFIG).unlink(missing_ok=True)  # it says that it is finished
            for old in directory.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        devices.wait()
        run = _Run(stage, args, game, directory, previous, data, batch_size, devices)
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
            f"expected --batch_size, as there is none for {args.model} in utils/stages.py"
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


def resolve_precision(precision: str) -> str:
    """What "auto" means here: bfloat16 on a GPU or with the processor's own instructions for it."""
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if fast_bfloat16() else "float32"


class _Run:
    """A stage under way."""

    def __init__(self, stage, args, game, directory, previous, data, batch_size, devices):
        self.stage, self.args, self.directory, self.data = stage, args, directory, data
        self.devices = devices
        self.shape = PRESETS[args.model].frame_shape
        self.batch_size = batch_size
        # Windows that errors are measured on: large batches need no more of them.
        self.measured = 8 * min(self.batch_size, BATCH_SIZES.get(args.model, self.batch_size))
        self.measured = max(self.measured, devices.num_devices)
        data["training"].keep_fitted(self.shape)
        self.meanings = data["training"].action_meanings
        longest = {role: int(dataset.lengths.max()) + 1 for role, dataset in data.items()}
        # As far as there is held-out play to compare with: one length, so that it compiles once.
        far = min(longest["validation"], longest["test"]) - WARMUP
        self.horizon = min(HORIZONS[-1], max(far, 1))
        # As far as episodes go; what is to be decoded they have to have.
        far = min(longest["training"], longest["validation"]) - WARMUP
        self.steps = max(min(stage.steps, far), stage.predictions)
        self.config = {
            "stage": stage.name,
            "variant": stage.variant,
            "game": game,
            "model": args.model,
            "action_meanings": list(self.meanings),
            "warmup": WARMUP,
            "data": {role: str(dataset.directory) for role, dataset in data.items()},
            "restored_from": str(previous) if previous else None,
            "training": {
                "predictions": stage.predictions,
                "horizon": self.steps,
                "feed_back": stage.predict > 1,
                "reward_weight": stage.reward_weight,
                "batch_size": self.batch_size,
                "learning_rate": args.learning_rate,
                "encoder_rate": args.encoder_rate,
                "termination_rate": stage.termination_rate,
                "convolution_steps": args.convolution_steps,
                "control_weight": args.control_weight,
                "max_steps": args.max_steps,
                "patience": args.patience,
                "steps_per_epoch": args.steps_per_epoch,
                "seed": args.seed,
                "precision": resolve_precision(args.precision),
            },
            "devices": devices.num_devices,
            "versions": {"keras": keras.__version__, "backend": keras.backend.backend()},
            "finished": False,
            "results": None,
        }
        keras.utils.set_random_seed(args.seed)
        with devices.scope():
            self.model = self._predictor()
            rate = rise_and_fall(args.learning_rate, args.max_steps)
            faster = {"frame_encoder": args.encoder_rate}
            faster |= {"reward_head": REWARD_RATE, "termination_head": stage.termination_rate}
            self.model.compile(ScaledAdam(rate, faster))
            self.model.optimizer.build(self.model.trainable_variables)
        # Evaluated on one device: the model itself or, where it lies on many, a copy.
        self.roll_out = RollOut(self._predictor() if devices.data_parallel else self.model)
        # What a resumed run goes on from.
        self.state = {
            "convolution_steps": 0,
            "step": 0,
            "epoch": 0,
            "best": None,
            "waited": 0,
            "history": [],
            "weights": None,
        }
        if (directory / "resume" / "state.json").exists():
            self._resume()
        if not self.state["step"]:
            if previous:
                checkpoints.load_weights(self.model.network, previous)
            else:
                statistics = data["training"].frame_statistics(self.shape)
                palettes = [d.palette() for d in data.values() if d.palette() is not None]
                palette = palettes[0] if palettes and self.shape[-1] == 3 else None
                self.model.network.adapt(*statistics, palette)
        weights = self.state["weights"] or "nothing"
        devices.agree(
            f"{weights} and {self.config['training']['precision']} to go on with",
            "Give all of them the same --train_dir, on a disk that they share, and --precision.",
        )

    def _predictor(self):
        predictor = FramePredictor(
            self.args.model,
            self.stage.variant,
            len(self.meanings),
            precision=self.config["training"]["precision"],
            feed_back=self.stage.predict > 1,
            warmup=WARMUP,
            control_weight=self.args.control_weight,
            reward_weight=self.stage.reward_weight,
        )
        predictor.network.encoder.trainable = self.args.encoder_rate > 0
        return predictor

    def train(self):
        """Epochs until the validation loss has stopped improving or `max_steps`.

        All processes do the same; the first alone writes.
        """
        state, args, devices = self.state, self.args, self.devices
        length = WARMUP + self.steps
        options = {}
        if self.steps > self.stage.predictions:
            options = {"predictions": self.stage.predictions, "horizon": self.steps}
        if args.control_weight:
            options["controlled_steps"] = self.stage.predictions
        validation = self._held_out("validation", self.steps, self.measured, **options)
        validation = devices.share(validation)
        curve = self._held_out("validation", self.horizon, max(self.measured // 4, 1))
        logs = None
        if devices.first:
            checkpoints.write_json(self.directory / checkpoints.CONFIG, self.config)
            logs = Logs(self.directory / "logs")
            logs.hyper_parameters({**self.config["training"], "variant": self.stage.variant})
        if args.convolution_steps and not self.config["restored_from"] and not state["step"]:
            self._convolutions_first(curve, logs)
        learned = self.config["restored_from"] or args.convolution_steps
        if learned and state["best"] is None:
            # What it begins with may be better than all that it makes of it.
            state["best"] = self._validate(validation)["loss"]
            require_finite(state["best"], state["step"])
            if devices.first:
                checkpoints.save_weights(self.model.network, self.directory)
        while not self._finished():
            steps = min(args.steps_per_epoch, args.max_steps - state["step"])
            windows = Windows(
                self.data["training"],
                self.shape,
                length,
                self.batch_size,
                args.seed,
                first_batch=state["step"],
                num_batches=steps,
                process=devices.process,
                num_processes=devices.num_processes,
                reward_steps=min(REWARD_STEPS, self.steps) if self.stage.reward_weight else 0,
                **options,
            )
            best = "" if state["best"] is None else f", best {state['best']:.4g}"
            progress = Progress(
                f"epoch {state['epoch'] + 1}{best}",
                args.max_steps,
                self.batch_size * length,
                first_step=state["step"],
                shown=devices.first,
            )
            started = time.perf_counter()
            with progress, devices.scope():
                fitted = fit(self.model, windows, progress)
            seconds = time.perf_counter() - started
            state["step"] += steps
            state["epoch"] += 1
            losses = {key: float(values[0]) for key, values in fitted.history.items()}
            held = self._validate(validation)
            losses |= {f"validation_{key}": value for key, value in held.items()}
            require_finite(losses["validation_loss"], state["step"])
            improved = state["best"] is None or losses["validation_loss"] < state["best"]
            if improved:
                state["best"], state["waited"] = losses["validation_loss"], 0
            else:
                state["waited"] += 1
            if not devices.first:
                continue
            if improved:
                checkpoints.save_weights(self.model.network, self.directory)
            self._note(losses, steps * self.batch_size * length / seconds, curve, logs)
            if state["epoch"] % EPOCHS_PER_ANIMATION == 1 or self._finished():
                logs.video(state["step"], "roll_out", self._animate(self.roll_out, curve))
            logs.flush()
            self._write_history()
            if not self._finished():
                self._save(self.model, f"step_{state['step']}")
        if logs:
            logs.close()

    def _convolutions_first(self, curve, logs):
        """Trains the convolutions alone, saved as often as an epoch's weights later on."""
        roll_out = None

        def look(done, model):
            nonlocal roll_out
            self._update_copy()
            if roll_out is None:
                evaluated = self.roll_out.predictor
                alone = model if evaluated is self.model else type(model)(evaluated.network)
                roll_out = ConvolutionsRollOut(evaluated, alone)
            if roll_out.alone is not model:
                roll_out.alone.set_weights(model.get_weights())
            palette = self.data["validation"].palette()
            results, _ = evaluation.evaluate(roll_out, curve, WARMUP, HORIZONS, palette)
            logs.scalars(done, _scalars(results, "convolutions/"))
            logs.video(done, "convolutions/roll_out", self._animate(roll_out, curve))

        def after_epoch(done, model, loss):
            before, self.state["convolution_steps"] = self.state["convolution_steps"], done
            if self.devices.first:
                logs.scalars(done, {"convolutions_loss": loss})
                if done // CONVOLUTION_STEPS_PER_LOOK > before // CONVOLUTION_STEPS_PER_LOOK:
                    look(done, model)
                logs.flush()
                self._save(model, f"convolutions_{done}")

        saved = self.state["weights"]
        convolutions_first(
            self.model.network,
            self.stage.variant,
            self.data["training"],
            self.args.convolution_steps,
            self.batch_size,
            self.args.seed,
            self.args.control_weight,
            self.devices,
            after_epoch,
            self.state["convolution_steps"],
            saved and self.directory / "resume" / saved,
        )

    def _validate(self, windows):
        """The losses on this process' share of validation play."""
        local_batch = self.batch_size // self.devices.num_processes
        with self.devices.scope():
            held = self.model.evaluate(windows, batch_size=local_batch, verbose=0, return_dict=True)
        return {key: float(value) for key, value in held.items()}

    def report(self):
        """Measures the best weights on the test set and marks the stage as finished."""
        if not self.devices.first:
            return
        checkpoints.load_weights(self.roll_out.predictor.network, self.directory)
        windows = self._held_out("test", self.horizon, self.measured)
        results, _ = evaluation.evaluate(
            self.roll_out, windows, WARMUP, HORIZONS, self.data["test"].palette()
        )
        self.config["results"] = results
        self.config["steps"] = self.state["step"]
        self.config["finished"] = True
        checkpoints.write_json(self.directory / checkpoints.CONFIG, self.config)
        shutil.rmtree(self.directory / "resume", ignore_errors=True)
        print(f"{self.directory}: finished after {self.state['step']} steps")
        print(f"held-out test play, {results['num_windows']} windows, grey levels squared:")
        print(evaluation.table(results))
        if self.stage.reward_weight:
            print(evaluation.reward_lines(results))

    def _held_out(self, role, steps, count, **options):
        return held_out(self.data[role], self.shape, WARMUP + steps, count, **options)

    def _finished(self):
        state, args = self.state, self.args
        return state["waited"] >= args.patience or state["step"] == args.max_steps

    def _update_copy(self):
        """Gives the trained weights to the predictor that is measured, where it is a copy."""
        if self.roll_out.predictor is not self.model:
            self.roll_out.predictor.network.set_weights(self.model.network.get_weights())

    def _note(self, losses, frames_per_second, curve, logs):
        """Adds an epoch to the history and TensorBoard."""
        state = self.state
        self._update_copy()
        palette = self.data["validation"].palette()
        results, rewards = evaluation.evaluate(self.roll_out, curve, WARMUP, HORIZONS, palette)
        optimizer = self.model.optimizer
        scalars = {
            **losses,
            "learning_rate": float(optimizer.learning_rate),
            "frames_per_second": frames_per_second,
        }
        row = {"epoch": state["epoch"], "step": state["step"], **scalars}
        for horizon, errors in results["horizons"].items():
            row[f"mse_{horizon}"] = errors["mse"]
        state["history"].append(row)
        logs.scalars(state["step"], scalars | _scalars(results))
        if self.stage.reward_weight:
            happened = curve["rewards"][:, WARMUP - 1 :]
            logs.precision_recall(state["step"], "reward/positive", happened > 0, rewards[..., 2])
            logs.precision_recall(state["step"], "reward/negative", happened < 0, rewards[..., 0])

    def _animate(self, roll_out, windows):
        """Truth, prediction and difference of the first windows, one below the other."""
        # As many as `evaluate` rolls out at once: that is compiled, and fits one device.
        _, predictions = next(evaluation.roll_out(roll_out, windows, WARMUP))
        real = windows["frames"][:ANIMATED_WINDOWS, WARMUP:]
        truth = evaluation.pixels(real, self.data["validation"].palette())
        clips = []
        for seen, imagined in zip(truth, predictions["frames"][:ANIMATED_WINDOWS], strict=True):
            panels = video.compare(seen, imagined)
            captions = [f"step {t + 1}" for t in range(len(seen))]
            scale = 2 if self.shape[0] < 100 else 1
            clips.append(video.side_by_side(panels, captions, scale))
        return np.concatenate(clips, axis=1)

    def _write_history(self):
        table = io.StringIO()
        writer = csv.DictWriter(table, self.state["history"][0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state["history"])
        checkpoints.write_whole(
            self.directory / "history.csv", lambda partial: partial.write_text(table.getvalue())
        )

    def _save(self, model, name):
        """Writes all that a resumed run needs; the JSON last: it names the whole weights."""
        resume = self.directory / "resume"
        resume.mkdir(exist_ok=True)
        path = resume / f"{name}.weights.h5"
        checkpoints.write_whole(path, lambda partial: model.save_weights(partial))
        self.state["weights"] = path.name
        state = {**self.state, "training": self.config["training"], "data": self._fingerprints()}
        checkpoints.write_json(resume / "state.json", state)
        for old in resume.glob("*.weights.h5"):
            if old != path:
                old.unlink()

    def _fingerprints(self):
        return {role: dataset.fingerprint() for role, dataset in self.data.items()}

    def _resume(self):
        """Goes on where `_save` left off.

        Raises:
            InputError: the run began with other flags, or its files are damaged.
        """
        resume = self.directory / "resume"
        try:
            state = json.loads((resume / "state.json").read_text())
            began_with = state.pop("training")
            for key, value in self.config["training"].items():
                if key not in vars(self.args) and began_with.get(key) != value:
                    raise InputError(
                        f"expected a run in {self.directory} that this version of the code began, "
                        f"with {key} {value}, received one with {began_with.get(key)}. Go on with "
                        "the version that began it, or start over with --overwrite."
                    )
                if began_with[key] != value:
                    raise InputError(
                        f"expected --{key}={began_with[key]}, with which the run in "
                        f"{self.directory} began, received {value}. Go on with that, or start "
                        "over with --overwrite."
                    )
            for role, fingerprint in state.pop("data").items():
                if self.data[role].fingerprint() != fingerprint:
                    raise InputError(
                        f"expected the {role} data with which the run in {self.directory} began, "
                        f"received {self.data[role].directory}. Go on with that, or start over "
                        "with --overwrite."
                    )
            if state["step"]:
                checkpoints.go_on_from(self.model, resume / state["weights"])
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise checkpoints.interrupted_run_damaged(resume, error) from error
        self.state = state
        convolutions = "" if state["step"] else " of the convolutions"
        print(f"going on after step {state['step'] or state['convolution_steps']}{convolutions}")


def _scalars(results, prefix=""):
    """The errors by horizon, by their tags in TensorBoard."""
    return {
        f"{prefix}error_at_step_{horizon}/{key}": value
        for horizon, errors in results["horizons"].items()
        for key, value in errors.items()
        if value is not None
    }
