"""The first minutes of a stage that starts from scratch: see `model.convolutions`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from keras import ops

from model.convolutions import Convolutions, LinearDynamics, NextFrame, hand_on, hand_on_dynamics
from model.networks import Network
from systems.errors import InputError
from utils.checkpoints import go_on_from
from utils.dataset import Dataset, Windows, held_out
from utils.distribution import Devices
from utils.optimizer import Dion, rise_and_fall
from utils.progress import Progress, fit

EPOCH = 100  # steps between savings, over which the loss is averaged
SAMPLES = 4000  # stacks of frames whose features' principal components are handed on
SAMPLES_FOLLOWED = 1500  # of those whose features are followed over FOLLOWED steps as well
FOLLOWED = 5
SAMPLES_COMPARED = 100  # windows that tell how much changes from step to step
# What follows features for 40 steps before it has learned to do so for a few may come apart.
REMEDY = "more --convolution_steps"


class Phase(NamedTuple):
    """A part of the training of the convolutions, with a rise and fall of the learning rate."""

    share: float  # of all steps
    learning_rate: float
    windows: float  # for each one that a step of the stage takes: these are short
    horizon: int  # steps that are followed
    predictions: int  # of those that are drawn


# The next frame; then, on from what was predicted, whose errors no recorded frame has.
ONE_STEP_THEN_MORE = (Phase(0.75, 1.5e-3, 2, 1, 1), Phase(0.25, 4e-5, 0.5, 5, 5))
# Ever further: what is followed for a few steps only comes apart soon after. Near steps first, for
# long, and further ones at lower rates, or what is small and soon gone is lost, rewards with it.
EVER_FURTHER = (
    Phase(0.35, 2e-3, 1, 2, 2),
    Phase(0.25, 4e-4, 0.5, 5, 5),
    Phase(0.20, 3e-4, 0.5, 20, 5),
    Phase(0.20, 3e-4, 0.35, 40, 5),
)


def convolutions_first(
    network: Network,
    variant: str,
    dataset: Dataset,
    steps: int,
    batch_size: int,
    seed: int,
    control_weight: float,
    devices: Devices,
    after_epoch: Callable[[int, Convolutions, float], None],
    done: int = 0,
    saved: Path | None = None,
) -> None:
    """Trains the convolutions alone and has the layers between them hand on what they see.

    Args:
        network: untrained, but `adapt`ed to its frames.
        variant: "paper": they predict frames, from their own predictions too; "compression": they
            follow features.
        dataset: the training set.
        steps: batches to train on.
        batch_size: the stage's.
        seed: of the order of the windows.
        control_weight: how much more the error of a pixel counts that the player decides.
        devices: what it is computed on.
        after_epoch: called with the steps done so far, what is trained, and its mean loss.
        done, saved: to go on: a number that `after_epoch` was called with, and the weights that
            what is trained had then, optimizer's included.
    """
    kind, phases = {
        "paper": (NextFrame, ONE_STEP_THEN_MORE),
        "compression": (LinearDynamics, EVER_FURTHER),
    }[variant]
    later = [(layer, layer.trainable) for layer in (network.encoder, network.reward_head)]
    for layer, _ in later:
        layer.trainable = True
    with devices.scope():
        model = kind(network, control_weight)
    if saved:
        go_on_from(model, saved)
    shape, stack = network.preset.frame_shape, network.preset.stack
    progress = Progress(
        "convolutions first", steps, first_step=done, remedy=REMEDY, shown=devices.first
    )
    end = 0
    with progress:
        for phase in phases:
            begin, end = end, steps if phase is phases[-1] else end + round(phase.share * steps)
            if done >= end:
                continue
            horizon = _at_most(phase.horizon, dataset, stack)
            predictions = min(phase.predictions, horizon)
            options = {}
            if horizon > predictions:
                options = {"predictions": predictions, "horizon": horizon}
            if control_weight:
                options["controlled_steps"] = predictions
            # Of whole windows on each of the devices.
            per_device = max(1, round(phase.windows * batch_size / devices.num_devices))
            num_windows = per_device * devices.num_devices
            progress.frames_per_step = num_windows * (stack + predictions)
            with devices.scope():
                rate = rise_and_fall(phase.learning_rate, end - begin)
                optimizer = Dion(rate, {model.name: model.own_rate}, products=model.compute_dtype)
                optimizer.build(model.trainable_variables)
                if variant == "compression":  # the other one gains nothing by it
                    model.step_weights = step_weights(network, dataset, horizon, seed)
                model.compile(optimizer)
            if done > begin:
                go_on_from(model, saved)  # now with the optimizer's
            while done < end:
                windows = Windows(
                    dataset,
                    shape,
                    stack + horizon,
                    num_windows,
                    seed,
                    first_batch=done,
                    num_batches=min(EPOCH, end - done),
                    process=devices.process,
                    num_processes=devices.num_processes,
                    **options,
                )
                # Not around what the first process does alone: in there Keras waits for all.
                with devices.scope():
                    fitted = fit(model, windows, progress)
                done += windows.num_batches
                after_epoch(done, model, fitted.history["loss"][0])
    try:
        if variant == "paper":
            frames = held_out(dataset, shape, stack, SAMPLES, seed)["frames"]
            hand_on(network, model, frames)
        else:
            length = stack + _at_most(FOLLOWED, dataset, stack)
            windows = held_out(dataset, shape, length, SAMPLES_FOLLOWED, seed)
            frames, actions = windows["frames"][:, :stack], windows["actions"][:, stack - 1 :]
            hand_on_dynamics(network, model, frames, actions)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"expected convolutions whose features are finite, but after {steps} steps they are "
            f"not ({error}). Start over with --overwrite and {REMEDY}, or --precision=float32."
        ) from error
    for layer, learns in later:
        layer.trainable = learns
    network.set_weights(devices.same(network.get_weights()))


def _at_most(horizon: int, dataset: Dataset, stack: int) -> int:
    """As many steps after a stack of frames as the data set's longest episode has."""
    return max(1, min(horizon, int(dataset.lengths.max()) + 1 - stack))


def step_weights(network: Network, dataset: Dataset, horizon: int, seed: int) -> np.ndarray:
    """How much each step's error counts: the less, the more has changed by then; 1 on average.

    Alike, far steps would drown near ones, by ten to one after 20 steps. float32 (horizon,).
    """
    shape = network.preset.frame_shape
    frames = held_out(dataset, shape, 1 + horizon, SAMPLES_COMPARED, seed)["frames"]
    begin, change = network.normalise(frames[:, :1]), np.empty(horizon, np.float32)
    for step in range(horizon):
        after = network.normalise(frames[:, step + 1 : step + 2])
        change[step] = ops.mean(ops.square(after - begin))
    # A step until which hardly anything changes must not outweigh all others.
    weights = 1 / np.maximum(change, max(0.01 * change.max(), 1e-6))
    return weights / weights.mean()
