"""A stage under way: pretraining, then epochs of training steps with a validation after each.

`Run.train` is the loop. Its windows are made in `stage_windows.py`. `resume.py` saves what it can
be resumed from, `watch.py` shows how it goes, and `report.py` says what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from model.predictor import FramePredictor, RollOut
from model.presets import PRESETS
from systems.dataset import Dataset
from systems.palette import known_colours, palette
from utils.checkpoint import load_weights, save_weights
from utils.config import PRETRAINING, CheckpointConfig
from utils.small_weights import read_arrays, write_pretraining
from utils.training.batches import fit
from utils.training.distribution import Devices
from utils.training.optimizer import ScaledAdam, rise_and_fall
from utils.training.pretraining import Pretrainer
from utils.training.progress import Progress, require_finite
from utils.training.resume import Resume, RunState
from utils.training.stage_windows import StageWindows
from utils.training.watch import Watch

REWARD_RATE = 10.0  # learning rate of the reward head, which pretraining has trained already


class Run:
    """The training of one stage.

    Args:
        settings: how it trains.
        directory: where its files go.
        previous: the directory whose weights it starts from; None: it starts from scratch.
        data: the training, validation and test set.
        devices: what it computes on.
        resumes: whether to go on with what an interrupted run has left.
    """

    def __init__(
        self,
        settings: CheckpointConfig,
        directory: Path,
        previous: Path | None,
        data: Mapping[str, Dataset],
        devices: Devices,
        resumes: bool,
    ):
        self.settings, self.training = settings, settings.training
        self.directory, self.data, self.devices = directory, data, devices
        shape = PRESETS[settings.model].frame_shape
        data["training"].keep_fitted(shape)
        self.windows = StageWindows(settings, data, devices)
        self._make_model()
        self.resume = Resume(directory, settings, data)
        state = self.resume.load(self.model) if resumes else None
        self.resumed, self.state = state is not None, state or RunState()
        if not self.state.step:
            # Pretraining computes the network anew from what that of the stage before has trained.
            if previous and not self._pretrains:
                load_weights(self.model.network, previous)
                if shape[-1] == 3:
                    colours = self.model.network.palette
                    colours.assign(self._with_shown_colours(colours))
            else:
                colours = palette(list(data.values())) if shape[-1] == 3 else None
                statistics = data["training"].frame_statistics(shape)
                self.model.network.adapt(*statistics, colours)
        devices.agree(
            f"{self.state.weights or 'nothing'} and {self.training.precision} to go on with",
            "Give all of them the same --train_dir, on a disk that they share, and --precision.",
        )

    def train(self) -> None:
        """Trains until the validation loss has stopped improving, or `max_steps`; 0: it pretrains.

        All processes of a distributed run do the same. The first alone writes.
        """
        state, devices = self.state, self.devices
        windows, validation = self.windows.training(), self.windows.validation()
        watch = self._begin_watching() if devices.first else None
        if self._pretrains:
            self._pretrain(watch)
        self.model.network.core.hold_gates()  # as pretraining has left them
        if self._starts_trained and state.best is None:
            self._note_best(self._validate(validation)["loss"])
        if watch and not self.training.max_steps:
            self._update_copy()
            watch.epoch(state, {"validation_loss": state.best}, last=True)
        while not self.finished:
            losses = self._train_epoch(windows)
            losses |= {f"validation_{k}": v for k, v in self._validate(validation).items()}
            self._note_best(losses["validation_loss"])
            if devices.first:
                self._update_copy()
                watch.epoch(state, losses, self.finished)
                if not self.finished:
                    self.resume.save(self.model, f"step_{state.step}", state)
        if watch:
            watch.close()

    @property
    def finished(self) -> bool:
        """Whether no further epoch follows."""
        state, training = self.state, self.training
        return state.waited >= training.patience or state.step >= training.max_steps

    def load_best(self) -> RollOut:
        """The roll-out of the best weights."""
        load_weights(self.roll_out.predictor.network, self.directory)
        return self.roll_out

    def _make_model(self):
        training = self.training
        keras.utils.set_random_seed(training.seed)
        with self.devices.scope():
            self.model = self._predictor()
            rates = {
                "frame_encoder": training.encoder_rate,
                "reward_head": REWARD_RATE,
                "termination_head": training.termination_rate,
            }
            schedule = rise_and_fall(training.learning_rate, training.max_steps)
            self.model.compile(ScaledAdam(schedule, rates))
            self.model.optimizer.build(self.model.trainable_variables)
        # Evaluated on one device: the model itself or, where it lies on many, a copy.
        copied = self.devices.data_parallel is not None
        self.roll_out = RollOut(self._predictor() if copied else self.model)

    def _predictor(self):
        training = self.training
        predictor = FramePredictor(
            self.settings.model,
            self.settings.variant,
            len(self.settings.action_meanings),
            precision=training.precision,
            feed_back=training.feed_back,
            warmup=self.settings.warmup,
            control_weight=training.control_weight,
            reward_weight=training.reward_weight,
        )
        predictor.network.encoder.trainable = training.encoder_rate > 0
        return predictor

    @property
    def _copied(self):
        return self.roll_out.predictor is not self.model

    def _update_copy(self):
        """Gives the predictor that is measured the weights as they are now."""
        if self._copied:
            self.roll_out.predictor.network.set_weights(self.model.network.get_weights())

    def _begin_watching(self):
        self.settings.write(self.directory)
        return Watch(
            self.directory,
            self.settings,
            self.windows.measured("validation"),
            self.data["validation"].palette(),
            self.roll_out,
            self._copied,
        )

    @property
    def _pretrains(self):
        training, state = self.training, self.state
        return training.pretraining_steps > 0 and not state.step

    @property
    def _starts_trained(self):
        return self.settings.restored_from is not None or self.training.pretraining_steps > 0

    def _pretrain(self, watch):
        state = self.state

        def after_epoch(done, model, loss):
            state.pretraining_steps = done
            if self.devices.first:
                self._update_copy()
                watch.pretraining(done, loss, model)
                self.resume.save(model, f"pretraining_{done}", state)

        network, before = self.model.network, self.settings.restored_from
        begin = before and read_arrays(Path(before) / PRETRAINING)
        if begin and "palette" in begin:
            begin["palette"] = self._with_shown_colours(begin["palette"])
        data = self.data["training"]
        pretrainer = Pretrainer(network, self.settings, data, self.devices, after_epoch, begin)
        trained = pretrainer.train(state.pretraining_steps, self.resume.weights_path(state))
        if self.devices.first:
            write_pretraining(self.directory, network, trained)

    def _with_shown_colours(self, colours):
        """A palette, (256, 3), with the colours that the data sets show in place of guesses."""
        colours = np.array(colours)
        for index, colour in enumerate(known_colours(list(self.data.values())) or ()):
            if colour is not None:
                colours[index] = colour
        return colours

    def _train_epoch(self, windows):
        """Trains for an epoch; returns its mean losses, learning rate and speed."""
        state, training, devices = self.state, self.training, self.devices
        steps = min(training.steps_per_epoch, training.max_steps - state.step)
        frames = training.batch_size * windows.spec.length
        progress = Progress(
            f"epoch {state.epoch + 1}" + ("" if state.best is None else f", best {state.best:.4g}"),
            training.max_steps,
            frames,
            first_step=state.step,
            shown=devices.first,
        )
        started = time.perf_counter()
        with progress, devices.scope():
            losses = fit(self.model, windows, state.step, steps, progress)
        seconds = time.perf_counter() - started
        state.step += steps
        state.epoch += 1
        return losses | {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "frames_per_second": steps * frames / seconds,
        }

    def _validate(self, windows):
        """The mean losses on this process' share of validation play."""
        local_batch = self.training.batch_size // self.devices.num_processes
        with self.devices.scope():
            losses = self.model.evaluate(
                windows, batch_size=local_batch, verbose=0, return_dict=True
            )
        return {key: float(value) for key, value in losses.items()}

    def _note_best(self, loss):
        """Keeps the weights if this validation loss is the best so far."""
        state = self.state
        require_finite(loss, state.step)
        if state.best is not None and loss >= state.best:
            state.waited += 1
            return
        state.best, state.best_step, state.waited = loss, state.step, 0
        if self.devices.first:
            save_weights(self.model.network, self.directory)
