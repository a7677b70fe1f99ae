"""How pretraining goes on: its phases, their windows and learning rates.

What is trained is in `model.pretraining`, what is made of it in `model.handover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from keras import ops

from model.networks import Network
from model.pretraining import KINDS, Pretraining
from systems.dataset import Dataset
from systems.errors import InputError
from systems.windows import Windows, WindowSpec, sample
from utils.checkpoint import resume_from
from utils.config import CheckpointConfig
from utils.small_weights import assign_small, at_most, hand_over
from utils.training.batches import fit
from utils.training.distribution import Devices
from utils.training.optimizer import Muon, rise_and_fall
from utils.training.phases import PHASES
from utils.training.progress import Progress

EPOCH = 100  # steps between savings, over which the loss is averaged
SAMPLES_COMPARED = 100  # windows that tell how much changes from step to step
# Features that are followed for 40 steps before they are learned for a few may diverge.
REMEDY = "more --pretraining_steps"


class Pretrainer:
    """Trains the convolutions alone, then sets the layers between them to hand on what they see.

    Args:
        network: untrained but `adapt`ed to its frames, or that of the stage before.
        settings: stage, number of steps, batch size, seed and weight of controlled pixels.
        dataset: the training set.
        devices: what it is computed on.
        after_epoch: called with the steps done so far, what is trained, and its mean loss.
        begin: what the pretraining of the stage before has trained; None for a first stage.
    """

    def __init__(
        self,
        network: Network,
        settings: CheckpointConfig,
        dataset: Dataset,
        devices: Devices,
        after_epoch: Callable[[int, Pretraining, float], None],
        begin: Mapping[str, np.ndarray] | None = None,
    ):
        self._network, self._dataset, self._devices = network, dataset, devices
        self._after_epoch, self._begin = after_epoch, begin
        self._phases = PHASES[settings.stage]
        self._variant, self._training = settings.variant, settings.training
        self._shape = network.preset.frame_shape

    def train(self, done: int = 0, saved: Path | None = None) -> Pretraining:
        """Trains from step `done` on; returns what was trained.

        Args:
            done: a number that `after_epoch` was called with; 0 at first.
            saved: the weights that the trained model had then, with its optimizer's state.
        """
        network = self._network
        phases = self._phases
        # The stage itself may leave these as they are.
        layers = [(layer, layer.trainable) for layer in (network.encoder, network.reward_head)]
        for layer, _ in layers:
            layer.trainable = True
        with self._devices.scope():
            model = KINDS[self._variant](network, self._training.control_weight)
        if self._begin:
            assign_small(network, model, self._begin)  # the frames' statistics, too
        if saved:
            resume_from(model, saved)
        end, all_steps = 0, self._training.pretraining_steps
        for number, phase in enumerate(phases, start=1):
            begin, end = end, end + round(phase.share * all_steps)
            if number == len(phases):
                end = all_steps
            if done < end:
                label = f"pretraining {number}/{len(phases)}"
                weights = saved if done > begin else None
                self._train_phase(phase, label, model, begin, end, max(begin, done), weights)
        self._hand_over(model)
        for layer, trainable in layers:
            layer.trainable = trainable
        network.set_weights(self._devices.broadcast(network.get_weights()))
        return model

    def _train_phase(self, phase, label, model, begin, end, done, saved):
        """Trains from step `done` of the phase's steps `begin` to `end`."""
        devices, training = self._devices, self._training
        horizon = at_most(phase.horizon, self._dataset, model.context)
        label += ", one step ahead" if horizon == 1 else f", {horizon} steps ahead"
        controlled = training.control_weight > 0
        spec = WindowSpec(model.context, horizon, shown=phase.shown, controlled=controlled)
        # As many whole windows on each of the devices.
        per_device = max(1, round(phase.windows * training.batch_size / devices.num_devices))
        num_windows = per_device * devices.num_devices
        share = devices.process, devices.num_processes
        windows = Windows(self._dataset, self._shape, spec, num_windows, training.seed, *share)
        with devices.scope():
            rate = rise_and_fall(phase.learning_rate, end - begin)
            optimizer = Muon(rate, {model.name: model.own_rate}, products=model.compute_dtype)
            optimizer.build(model.trainable_variables)
            if self._variant == "compression":  # the paper variant gains nothing by it
                model.step_weights = step_weights(
                    self._network, self._dataset, horizon, training.seed
                )
            model.compile(optimizer)
        if saved:
            resume_from(model, saved)  # this time with the optimizer's state
        frames = num_windows * (model.context + spec.num_shown)
        shown = devices.first
        with Progress(label, end, frames, first_step=done, remedy=REMEDY, shown=shown) as progress:
            while done < end:
                steps = min(EPOCH, end - done)
                # Not around what the first process does alone: in there Keras waits for all.
                with devices.scope():
                    losses = fit(model, windows, done, steps, progress)
                done += steps
                self._after_epoch(done, model, losses["loss"])

    def _hand_over(self, model):
        """Sets the layers between the convolutions to do what the model does."""
        try:
            hand_over(self._network, model, self._dataset, self._training.seed)
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"expected convolutions whose features are finite, but after "
                f"{self._training.pretraining_steps} steps they are not ({error}). Start over "
                f"with --overwrite and {REMEDY}, or --precision=float32."
            ) from error


def step_weights(network: Network, dataset: Dataset, horizon: int, seed: int) -> np.ndarray:
    """How much each step's error counts: the less, the more has changed by then; 1 on average.

    Alike, far steps would drown near ones, by ten to one after 20 steps. float32 (horizon,).
    """
    shape = network.preset.frame_shape
    spec = WindowSpec(1, horizon)
    frames = sample(dataset, shape, spec, SAMPLES_COMPARED, seed).batch(0)["frames"]
    begin, change = network.normalise(frames[:, :1]), np.empty(horizon, np.float32)
    for step in range(horizon):
        after = network.normalise(frames[:, step + 1 : step + 2])
        change[step] = ops.mean(ops.square(after - begin))
    # A step until which hardly anything changes must not outweigh all others.
    weights = 1 / np.maximum(change, max(0.01 * change.max(), 1e-6))
    return weights / weights.mean()
