"""The few weights that all others of a network are computed from at the end of pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from model.components import OnProgress, ignored
from model.handover import assign_termination_head, hand_over_dynamics, hand_over_next_frame
from model.networks import Network
from model.predictor import FramePredictor
from model.pretraining import KINDS, NextFrame, Pretraining
from systems.dataset import Dataset
from systems.errors import InputError
from systems.files import refusals_explained, write_whole
from systems.windows import WindowSpec, sample
from utils.arrays import read_npz
from utils.checkpoint import save_weights
from utils.config import PRETRAINING, CheckpointConfig

STATISTICS = ("mean_frame", "pixel_scale", "palette")  # of the frames
# What each feature adds to the logit of termination, and the logit where all are 0.
TERMINATION, TERMINATION_BIAS = "termination", "termination_bias"
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
SAMPLES = 4000  # moments of play whose features give the principal components
# The compression variant's components are also those of features that are predicted from these
# moments, so many steps ahead.
SAMPLES_WITH_STEPS = 1500
SAMPLE_STEPS = 5


def hand_over(
    network: Network,
    pretraining: Pretraining,
    dataset: Dataset,
    seed: int,
    on_progress: OnProgress = ignored,
) -> None:
    """Sets the dense layers and the LSTM to do what pretraining has trained.

    Args:
        network: whose convolutions are pretrained.
        pretraining: what trained them.
        dataset: whose frames give the principal components.
        seed: draws those frames.
        on_progress: called with the share that is done, now and then.

    Raises:
        numpy.linalg.LinAlgError: the features are not finite.
    """
    shape, context = network.preset.frame_shape, pretraining.context

    def starts_of(spec, count):
        windows = sample(dataset, shape, spec, count, seed)
        return [windows.position(number) for number in windows.numbers(0)]

    if isinstance(pretraining, NextFrame):
        starts = starts_of(WindowSpec(context, horizon=0), SAMPLES)
        frames = Frames(dataset, shape, context, starts)
        hand_over_next_frame(network, pretraining, frames, on_progress)
    else:
        spec = WindowSpec(context, at_most(SAMPLE_STEPS, dataset, context))
        starts = starts_of(spec, SAMPLES_WITH_STEPS)
        frames = Frames(dataset, shape, context, starts)
        steps = slice(context - 1, spec.length - 1)
        actions = np.stack([dataset.actions[episode][first:][steps] for episode, first in starts])
        hand_over_dynamics(network, pretraining, frames, actions.astype(np.int32), on_progress)


class Frames:
    """Frames of windows, read when they are sliced: all at once, full frames take gigabytes.

    Args:
        dataset: where they are read.
        shape: the preset's (height, width, channels).
        count: frames a window.
        starts: episode and first frame of each window.
    """

    def __init__(
        self,
        dataset: Dataset,
        shape: tuple[int, int, int],
        count: int,
        starts: Sequence[tuple[int, int]],
    ):
        self._dataset, self._shape, self._count, self._starts = dataset, shape, count, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Returns uint8 (windows, count, height, width[, channels])."""
        read, count, shape = self._dataset.read, self._count, self._shape
        return np.stack([read(*start, count, shape)["frames"] for start in self._starts[part]])


def at_most(horizon: int, dataset: Dataset, context: int) -> int:
    """As many steps after so many frames as the data set's longest episode has."""
    return max(1, min(horizon, int(dataset.lengths.max()) + 1 - context))


def write_pretraining(directory: Path, network: Network, pretraining: Pretraining) -> None:
    """Writes what pretraining has trained, and the frames' statistics, as float32.

    Raises:
        InputError: the system refused.
    """
    variables = small_variables(network, pretraining)
    write_arrays(directory / PRETRAINING, {name: _value(v) for name, v in variables.items()})


def small_variables(network: Network, pretraining: Pretraining) -> dict[str, keras.Variable]:
    """The variables that all others follow from, by name."""
    statistics = [name for name in STATISTICS if hasattr(network, name)]
    return pretraining.named_variables() | {name: getattr(network, name) for name in statistics}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as .npz, whole. The same arrays give the same bytes.

    Raises:
        InputError: the system refused.
    """
    write_whole(path, lambda partial: np.savez_compressed(partial, **arrays))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    advice = "Train its stage again with --overwrite, or check shipped weights out again."
    return read_npz(path, f"the weights of a pretraining in {path}", advice)


def computed(
    arrays: Mapping[str, np.ndarray],
    config: CheckpointConfig,
    dataset: Dataset,
    on_progress: OnProgress = ignored,
) -> tuple[FramePredictor, Pretraining]:
    """The network that follows from the few weights, and what pretraining had trained.

    Args:
        arrays: as `write_pretraining` wrote them, of any precision, with or without those of
            `TERMINATION`.
        config: of the checkpoint.
        dataset: whose frames give the principal components.
        on_progress: called with the share that is done, now and then.

    Raises:
        InputError: the arrays are of another network.
    """
    # Where the components leave units over, these keep their initial weights.
    keras.utils.set_random_seed(config.training.seed)
    predictor = FramePredictor(config.model, config.variant, len(config.action_meanings))
    network = predictor.network
    pretraining = KINDS[config.variant](network)
    assign_small(network, pretraining, arrays)
    hand_over(network, pretraining, dataset, config.training.seed, on_progress)
    if TERMINATION in arrays:
        direction = arrays[TERMINATION].astype(np.float32)
        assign_termination_head(network, direction, float(arrays[TERMINATION_BIAS]))
    return predictor, pretraining


def assign_small(
    network: Network, pretraining: Pretraining, arrays: Mapping[str, np.ndarray]
) -> None:
    """Sets what pretraining trains to what it has trained before.

    Args:
        network: whose convolutions are set, and the frames' statistics.
        pretraining: whose own variables are set.
        arrays: as `computed` takes them.

    Raises:
        InputError: they are of another network.
    """
    for name, variable in small_variables(network, pretraining).items():
        if name not in arrays or arrays[name].shape != tuple(variable.shape):
            received = arrays[name].shape if name in arrays else "none"
            raise InputError(
                f"expected {name} of shape {tuple(variable.shape)} in the weights of a "
                f"pretraining, received {received}. Train its stage again with --overwrite, or "
                "make shipped weights anew: make pretrained"
            )
        variable.assign(arrays[name].astype(np.float32))


def build(path: Path, config: CheckpointConfig, dataset: Dataset, directory: Path) -> None:
    """Makes a checkpoint's directory of a file with shipped weights, with a progress bar.

    Args:
        path: of the file.
        config: of the checkpoint.
        dataset: whose frames give the principal components.
        directory: is made.

    Raises:
        InputError: the file is damaged or of another network, or the system refused.
    """
    with tqdm(desc="computing the network", total=100, bar_format=BAR) as bar:

        def show(share):
            bar.update(round(95 * share) - bar.n)

        predictor, pretraining = computed(read_arrays(path), config, dataset, show)
        with refusals_explained(directory):
            directory.mkdir(parents=True)
        save_weights(predictor.network, directory)
        write_pretraining(directory, predictor.network, pretraining)  # to go on from
        config.write(directory)
        bar.update(100 - bar.n)


def _value(variable):
    return np.asarray(ops.convert_to_numpy(variable), np.float32)
