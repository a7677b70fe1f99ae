"""The windows that a stage trains, validates and is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from model.presets import PRESETS
from systems.dataset import Dataset
from systems.windows import Windows, WindowSpec, require_length, sample
from utils.config import CheckpointConfig
from utils.training.command_line import BATCH_SIZES
from utils.training.distribution import Devices

REWARD_WITHIN = 20  # steps in which half of the windows that train the reward have an event
LONGEST_HORIZON = 30  # steps that are measured at most


class StageWindows:
    """Makes windows from a stage's data sets.

    Args:
        settings: how the stage trains.
        data: the training, validation and test set.
        devices: what it computes on.

    Raises:
        InputError: no episode of a set is long enough.
    """

    def __init__(self, settings: CheckpointConfig, data: Mapping[str, Dataset], devices: Devices):
        self._settings, self._data, self._devices = settings, data, devices
        self._shape = PRESETS[settings.model].frame_shape
        for role, dataset in data.items():
            decoded = 1 if role == "test" else settings.training.decoded
            require_length(dataset, settings.warmup + decoded)

    @property
    def spec(self) -> WindowSpec:
        """What a training window holds."""
        training = self._settings.training
        return WindowSpec(
            self._settings.warmup,
            training.horizon,
            shown=training.decoded,
            controlled=training.control_weight > 0,
            reward_within=REWARD_WITHIN if training.reward_weight else 0,
        )

    def training(self) -> Windows:
        """What this process trains on."""
        training, devices = self._settings.training, self._devices
        return Windows(
            self._data["training"],
            self._shape,
            self.spec,
            training.batch_size,
            training.seed,
            devices.process,
            devices.num_processes,
        )

    def validation(self) -> dict:
        """This process' share of the windows of validation play, read."""
        spec = replace(self.spec, reward_within=0)
        return self._devices.share(self._sample("validation", spec, self._num_measured))

    def measured(self, role: str) -> dict:
        """Windows of a set that roll-outs are measured on, read."""
        count = self._num_measured
        if role == "validation":
            count = max(count // 4, 1)
        longest = min(int(self._data[held].lengths.max()) + 1 for held in ("validation", "test"))
        # One length for both sets, so that the roll-out compiles once.
        horizon = min(LONGEST_HORIZON, max(longest - self._settings.warmup, 1))
        return self._sample(role, WindowSpec(self._settings.warmup, horizon), count)

    @property
    def _num_measured(self):
        """Windows that errors are measured on, whatever the batches of training are."""
        settings = self._settings
        usual = BATCH_SIZES.get(settings.model, settings.training.batch_size)
        return max(8 * usual, self._devices.num_devices)

    def _sample(self, role, spec, count):
        return sample(self._data[role], self._shape, spec, count).batch(0)
