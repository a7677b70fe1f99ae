"""A stage under way: pretraining, then epochs of training steps with a validation after each.

`Run.train` is the loop. What is needed to resume it is `resume.py`'s, what is shown of it
`watch.py`'s, what is said at its end `report.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras

from model.predictor import FramePredictor, RollOut
from model.presets import PRESETS
from systems.dataset import Dataset, palette
from systems.windows import Windows, WindowSpec, require_length, sample
from utils.checkpoint import load_weights, save_weights
from utils.config import CheckpointConfig
from utils.training.batches import fit
from utils.training.command_line import BATCH_SIZES
from utils.training.distribution import Devices
from utils.training.optimizer import ScaledAdam, rise_and_fall
from utils.training.pretraining import Pretrainer
from utils.training.progress import Progress, require_finite
from utils.training.resume import Resume, RunState
from utils.training.watch import HORIZONS, Watch

REWARD_RATE = 10.0  # learning rate of the reward head, which pretraining has trained already
REWARD_WITHIN = 20  # steps in which half of the windows that train the reward have an event


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
        self.shape = PRESETS[settings.model].frame_shape
        data["training"].keep_fitted(self.shape)
        for role, dataset in data.items():
            shown = 1 if role == "test" else self.training.decoded
            require_length(dataset, settings.warmup + shown)
        self._make_model()
        self.resume = Resume(directory, settings, data)
        state = self.resume.load(self.model) if resumes else None
        self.resumed, self.state = state is not None, state or RunState()
        if not self.state.step:
            if previous:
                load_weights(self.model.network, previous)
            else:
                colours = palette(list(data.values())) if self.shape[-1] == 3 else None
                statistics = data["training"].frame_statistics(self.shape)
                self.model.network.adapt(*statistics, colours)
        devices.agree(
            f"{self.state.weights or 'nothing'} and {self.training.precision} to go on with",
            "Give all of them the same --train_dir, on a disk that they share, and --precision.",
        )

    def train(self) -> None:
        """Trains until the validation loss has stopped improving, or `max_steps`.

        All processes of a distributed run do the same. The first alone writes.
        """
        state, devices = self.state, self.devices
        windows, validation = self._training_windows(), self._validation_windows()
        watch = self._begin_watching() if devices.first else None
        if self._pretrains:
            self._pretrain(watch)
        if self._starts_trained and state.best is None:
            self._note_best(self._validate(validation)["loss"])
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

    def measured_windows(self, role: str) -> dict:
        """Windows of a set on which errors are measured."""
        count = self._num_measured
        if role == "validation":
            count = max(count // 4, 1)
        far = (int(self.data[held].lengths.max()) + 1 for held in ("validation", "test"))
        # One length for all, so that the roll-out compiles once.
        horizon = min(HORIZONS[-1], max(min(far) - self.settings.warmup, 1))
        return self._sample(role, WindowSpec(self.settings.warmup, horizon), count)

    @property
    def _num_measured(self):
        """Windows that errors are measured on: large batches need no more of them."""
        batch_size = self.training.batch_size
        usual = BATCH_SIZES.get(self.settings.model, batch_size)
        return max(8 * min(batch_size, usual), self.devices.num_devices)

    def _sample(self, role, spec, count):
        return sample(self.data[role], self.shape, spec, count).batch(0)

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

    @property
    def _spec(self):
        """What a training window holds."""
        training = self.training
        return WindowSpec(
            self.settings.warmup,
            training.horizon,
            shown=training.decoded,
            controlled=training.control_weight > 0,
            reward_within=REWARD_WITHIN if training.reward_weight else 0,
        )

    def _training_windows(self):
        devices, training = self.devices, self.training
        return Windows(
            self.data["training"],
            self.shape,
            self._spec,
            training.batch_size,
            training.seed,
            devices.process,
            devices.num_processes,
        )

    def _validation_windows(self):
        spec = replace(self._spec, reward_within=0)
        return self.devices.share(self._sample("validation", spec, self._num_measured))

    def _begin_watching(self):
        self.settings.write(self.directory)
        return Watch(
            self.directory,
            self.settings,
            self.measured_windows("validation"),
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
            before, state.pretraining_steps = state.pretraining_steps, done
            if self.devices.first:
                self._update_copy()
                watch.pretraining(done, before, loss, model)
                self.resume.save(model, f"pretraining_{done}", state)

        training_set = self.data["training"]
        Pretrainer(
            self.model.network, self.settings, training_set, self.devices, after_epoch
        ).train(state.pretraining_steps, self.resume.weights_path(state))

    def _train_epoch(self, windows):
        """Trains for an epoch; returns its mean losses, learning rate and speed."""
        state, training, devices = self.state, self.training, self.devices
        steps = min(training.steps_per_epoch, training.max_steps - state.step)
        frames = training.batch_size * self._spec.length
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
