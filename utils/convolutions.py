"""The first minutes of a stage that starts from scratch: see `model.convolutions`."""

from model.convolutions import Convolutions, hand_on
from model.networks import Network
from utils.dataset import Dataset, Windows, held_out
from utils.distribution import Devices
from utils.optimizer import Dion, rise_and_fall
from utils.progress import Progress

LEARNING_RATE = 2e-3
WINDOWS = 4  # for each one that a step of the stage takes: these are short
EPOCH = 100  # steps over which the loss that is shown is averaged
SAMPLES = 4000  # stacks of frames whose features' principal components are handed on


def convolutions_first(
    network: Network, dataset: Dataset, steps: int, batch_size: int, seed: int, devices: Devices
) -> None:
    """Trains the convolutions alone and has the layers between them hand on what they see.

    Args:
        network: untrained, but `adapt`ed to its frames.
        dataset: the training set.
        steps: batches to train on, of `WINDOWS` times `batch_size` windows.
        batch_size: the stage's.
        seed: of the order of the windows.
        devices: what it is computed on.
    """
    shape, stack = network.preset.frame_shape, network.preset.stack
    frames_per_step = WINDOWS * batch_size * (stack + 1)
    progress = Progress("convolutions first", steps, frames_per_step, shown=devices.first)
    with progress, devices.scope():
        model = Convolutions(network)
        optimizer = Dion(rise_and_fall(LEARNING_RATE, steps), products=model.compute_dtype)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer)
        for first in range(0, steps, EPOCH):
            windows = Windows(
                dataset,
                shape,
                stack + 1,
                WINDOWS * batch_size,
                seed,
                first_batch=first,
                num_batches=min(EPOCH, steps - first),
                process=devices.process,
                num_processes=devices.num_processes,
            )
            model.fit(windows, shuffle=False, verbose=0, callbacks=[progress])
    frames = held_out(dataset, shape, stack, SAMPLES, seed)["frames"]
    hand_on(network, frames, model.action_planes.get_weights()[0])
    network.set_weights(devices.same(network.get_weights()))
