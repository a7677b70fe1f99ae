"""A stage under way: epochs of training steps, each followed by a look at validation play.

Where no stage is restored the convolutions are trained alone first. After every epoch all that a
stopped run needs to go on is on the disk; at the end the best weights are measured on test play.
"""

import csv
import io
import json
import shutil
import time

import keras
import numpy as np

from model.convolutions import ConvolutionsRollOut
from model.networks import PRESETS
from model.predictor import FramePredictor, RollOut
from systems.atari import FRAME_SKIP
from systems.errors import InputError
from utils import checkpoints, evaluation, video
from utils.convolutions import convolutions_first
from utils.dataset import Windows, held_out, require_length
from utils.optimizer import ScaledAdam, rise_and_fall
from utils.precision import fast_bfloat16
from utils.progress import Progress, fit, require_finite
from utils.tensorboard import Logs

WARMUP = 10  # real frames before the first prediction, in every stage
BATCH_SIZES = {"lstm_84x84x1": 16, "lstm_210x160x3": 4}
REWARD_RATE = 10.0  # of the reward's head, which has learned a good deal with the convolutions
REWARD_STEPS = 20  # within which half of the windows that the reward is trained on have something
HORIZONS = (1, 3, 5, 10, 30)  # steps whose errors are plotted while training and reported after
EPOCHS_PER_ANIMATION = 5
ANIMATED_WINDOWS = 2
CONVOLUTION_STEPS_PER_LOOK = 1000  # at validation play, while the convolutions are trained alone


def resolve_precision(precision: str) -> str:
    """What "auto" means here: bfloat16 on a GPU or with the processor's own instructions for it."""
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if fast_bfloat16() else "float32"


class Run:
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
        for role, dataset in data.items():
            require_length(dataset, WARMUP + (1 if role == "test" else stage.predictions))
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
            "frame_skip": data["training"].metadata.get("frame_skip", FRAME_SKIP),
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
        if (directory / "resume" / "state.json").exists() and not args.overwrite:
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
        checkpoints.write_weights(path, model)
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
