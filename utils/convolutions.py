"""The first minutes of a stage that starts from scratch: see `model.convolutions`."""

from typing import NamedTuple

from model.convolutions import Convolutions, LinearDynamics, NextFrame, hand_on, hand_on_dynamics
from model.networks import Network
from utils.dataset import Dataset, Windows, held_out
from utils.distribution import Devices
from utils.optimizer import Dion, rise_and_fall
from utils.progress import Progress

EPOCH = 100  # steps over which the loss that is shown is averaged
SAMPLES = 4000  # stacks of frames whose features' principal components are handed on
SAMPLES_FOLLOWED = 1500  # of those whose features are followed over FOLLOWED steps as well
FOLLOWED = 5


class Phase(NamedTuple):
    """A part of the training of the convolutions, with a rise and fall of the learning rate."""

    share: float  # of all steps
    learning_rate: float
    windows: float  # for each one that a step of the stage takes: these are short
    horizon: int  # steps that are followed
    predictions: int  # of those that are drawn


ONE_STEP = (Phase(1.0, 2e-3, 4, 1, 1),)
# Ever further: what is followed for a few steps only comes apart soon after.
EVER_FURTHER = (
    Phase(0.10, 2e-3, 3, 2, 2),
    Phase(0.40, 1.5e-3, 1.5, 5, 5),
    Phase(0.30, 7e-4, 1.5, 20, 5),
    Phase(0.20, 7e-4, 1, 40, 5),
)


def convolutions_first(
    network: Network,
    variant: str,
    dataset: Dataset,
    steps: int,
    batch_size: int,
    seed: int,
    devices: Devices,
) -> None:
    """Trains the convolutions alone and has the layers between them hand on what they see.

    Args:
        network: untrained, but `adapt`ed to its frames.
        variant: "paper": they predict one step ahead; "compression": they follow many.
        dataset: the training set.
        steps: batches to train on.
        batch_size: the stage's.
        seed: of the order of the windows.
        devices: what it is computed on.
    """
    kind, phases = {
        "paper": (NextFrame, ONE_STEP),
        "compression": (LinearDynamics, EVER_FURTHER),
    }[variant]
    with devices.scope():
        model = kind(network)
    done = 0
    for i, phase in enumerate(phases):
        until = steps if i == len(phases) - 1 else done + round(phase.share * steps)
        if until > done:
            _train(model, network, phase, dataset, (done, until, steps), batch_size, seed, devices)
        done = until
    shape, stack = network.preset.frame_shape, network.preset.stack
    if variant == "paper":
        frames = held_out(dataset, shape, stack, SAMPLES, seed)["frames"]
        hand_on(network, frames, model.action_planes.get_weights()[0])
    else:
        length = stack + _at_most(FOLLOWED, dataset, stack)
        windows = held_out(dataset, shape, length, SAMPLES_FOLLOWED, seed)
        frames, actions = windows["frames"][:, :stack], windows["actions"][:, stack - 1 :]
        hand_on_dynamics(network, model, frames, actions)
    network.set_weights(devices.same(network.get_weights()))


def _train(
    model: Convolutions,
    network: Network,
    phase: Phase,
    dataset: Dataset,
    steps: tuple[int, int, int],
    batch_size: int,
    seed: int,
    devices: Devices,
) -> None:
    """Trains for one phase; `steps` are where it begins and ends, and where the last one does."""
    begin, end, last = steps
    shape, stack = network.preset.frame_shape, network.preset.stack
    horizon = _at_most(phase.horizon, dataset, stack)
    predictions = min(phase.predictions, horizon)
    options = {"predictions": predictions, "horizon": horizon} if horizon > predictions else {}
    # Of whole windows on each of the devices.
    windows_per_device = max(1, round(phase.windows * batch_size / devices.num_devices))
    windows_per_step = windows_per_device * devices.num_devices
    progress = Progress(
        "convolutions first",
        last,
        windows_per_step * (stack + predictions),
        first_step=begin,
        shown=devices.first,
    )
    with progress, devices.scope():
        optimizer = Dion(
            rise_and_fall(phase.learning_rate, end - begin), products=model.compute_dtype
        )
        optimizer.build(model.trainable_variables)
        model.compile(optimizer)
        for first in range(begin, end, EPOCH):
            windows = Windows(
                dataset,
                shape,
                stack + horizon,
                windows_per_step,
                seed,
                first_batch=first,
                num_batches=min(EPOCH, end - first),
                process=devices.process,
                num_processes=devices.num_processes,
                **options,
            )
            model.fit(windows, shuffle=False, verbose=0, callbacks=[progress])


def _at_most(horizon: int, dataset: Dataset, stack: int) -> int:
    """As many steps after a stack of frames as the data set's longest episode has."""
    return max(1, min(horizon, int(dataset.lengths.max()) + 1 - stack))
