"""Prepares a stage and trains it: the data, recorded if need be, and the stage before."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import keras

from systems.controlled import find_controlled
from systems.dataset import CONTROLLED, Dataset, find_dataset
from systems.errors import InputError, exit_on_input_error, say
from systems.files import remove
from systems.record import record
from systems.replay import why_not_replayable
from utils.checkpoint import (
    WEIGHTS,
    Checkpoint,
    digest,
    fastest_precision,
    training_in,
)
from utils.config import CONFIG, PRETRAINING, CheckpointConfig, TrainingConfig
from utils.pretrained import Shipped, pretrained_checkpoint
from utils.training import distribution, report
from utils.training.command_line import ROLES, StageConfig
from utils.training.distribution import Devices
from utils.training.resume import FLAGS, difference
from utils.training.run import Run
from utils.training.stage import script

WARMUP = 10  # real frames before the first prediction, in every stage


def run(config: StageConfig) -> None:
    """Trains a stage, and ends the process with a message where that is not possible."""
    cleared = []

    def again():
        # Until the old files are gone, the command without the flag would go on with those.
        flags = "the same flags but for --overwrite" if cleared else "the same flags"
        return f"python {script(config.stage.name)} with {flags}"

    with distribution.leave_at_once(again), exit_on_input_error():
        try:
            train(config, on_clear=lambda: cleared.append(True))
        except KeyboardInterrupt:
            print(f"\ninterrupted: {again()} goes on after the last whole epoch", file=sys.stderr)
            sys.exit(130)


def train(config: StageConfig, on_clear: Callable[[], None] = lambda: None) -> None:
    """Trains a stage, or goes on with it. A finished stage is left as it is.

    Args:
        config: of the stage.
        on_clear: is called when an overwritten stage's old files are removed.

    Raises:
        InputError: the flags, the data or the stage before cannot be used.
    """
    devices = Devices()
    if config.distribute:
        devices = distribution.initialise(
            config.coordinator, config.num_processes, config.process_id
        )
    devices.agree(f"the flags {config.shared()}", "Start all of them with the same.")
    with training_in(config.directory) if devices.first else contextlib.nullcontext():
        if not config.overwrite and (finished := _finished(config)):
            _check_flags(config, finished)
            report.already_finished(config, finished)
            return
        _check_batch_size(config, devices)
        previous = _previous_stage(config, devices)
        config = _that_goes_on(config, say if devices.first else lambda text: None)
        data = _datasets(config, devices)
        pooled_frames = data["training"].pooled_frames
        if devices.first and previous and previous.config.pooled_frames != pooled_frames:
            say(
                f"note: {config.stage.restore} was trained on screens that combine "
                f"{previous.config.pooled_frames} emulated frames, and these combine "
                f"{pooled_frames}"
            )
        control_weight = _control_weight(config, data)
        if control_weight:
            _find_controlled(data, devices)
        settings = _settings(config, previous, data, control_weight, devices)
        run = Run(
            settings,
            config.directory,
            previous and previous.directory,
            data,
            devices,
            resumes=not config.overwrite,
        )
        if devices.first:
            report.begin(run)
            # Not before all is there with which the stage can be trained again.
            if config.overwrite:
                _clear(config.directory)
        if config.overwrite:
            on_clear()
        devices.wait()
        run.train()
        if devices.first:
            report.end(config, run)


def _finished(config):
    """The stage's checkpoint if it is finished."""
    if not (config.directory / CONFIG).exists():
        return None
    checkpoint = Checkpoint(config.directory)
    return checkpoint if checkpoint.config.finished else None


def _check_flags(config, finished):
    """Raises InputError where a finished stage was trained with other flags or data."""
    theirs = finished.config
    for role in ROLES:
        ours = config.data_directory(role)
        if not _same_data_set(ours, theirs.data[role]):
            raise _other_flags(config, f"the {role} set {theirs.data[role]}", ours)
        # Two environments' sets may bear one name, and a set may be made again.
        known = theirs.fingerprints.get(role)
        if known and ours.exists() and known != _fingerprint(config, ours):
            raise _other_flags(
                config, f"what was the {role} set {theirs.data[role]}", f"other play in {ours}"
            )
    if config.observation_key != theirs.observation_key:
        expected, received = (
            f"--observation_key={key}" if key else "no --observation_key"
            for key in (theirs.observation_key, config.observation_key)
        )
        raise _other_flags(config, expected, received)
    start = theirs.restored_from and Path(theirs.restored_from).name
    if config.pretrained != (start not in (None, config.stage.restore)):
        words = {True: "--pretrained", False: "no --pretrained"}
        raise _other_flags(config, words[not config.pretrained], words[config.pretrained])
    if not all(Path(theirs.data[role]).exists() for role in ROLES):
        return  # without data, what it was trained with cannot be worked out again
    data = {role: finished.test_data(theirs.data[role]) for role in ROLES}
    if not theirs.training.pretraining_steps:  # or the stage before may be gone
        config = _that_goes_on(config)
    ours = _training_config(config, data, _control_weight(config, data, quiet=True))
    if config.precision == "auto":  # which is another one on another machine
        ours = replace(ours, precision=theirs.training.precision)
    if differs := difference(ours, theirs.training):
        name, received, expected = differs
        flag = f"--{name}=" if name in FLAGS else f"{name} "
        raise _other_flags(config, f"{flag}{expected}", f"{flag}{received}")


def _fingerprint(config, directory):
    return find_dataset(directory, config.game, None, config.observation_key).fingerprint


def _that_goes_on(config: StageConfig, tell=lambda text: None) -> StageConfig:
    """The same without pretraining where the stage before has none to go on with."""
    directory = config.previous_directory
    if not config.pretraining_steps or directory is None or config.pretrained:
        return config
    if (directory / PRETRAINING).exists():
        return config
    if not config.max_steps:
        raise InputError(
            f"expected --max_steps of at least 1, or a pretraining to go on with in {directory}, "
            "received 0 and none"
        )
    tell(
        f"note: {config.stage.restore} has no pretraining to go on with, so this stage trains "
        "without"
    )
    return replace(config, pretraining_steps=0)


def _other_flags(config, expected, received):
    return InputError(
        f"expected {expected}, with which the finished stage in {config.directory} was trained, "
        f"received {received}. Give what it was trained with to see its results, train it again "
        "with --overwrite, or choose another --train_dir."
    )


def _same_data_set(one: str | Path, other: str | Path) -> bool:
    """Whether two paths name one data set, wherever it lies: by its directory's name."""

    def name(directory):
        path = Path(directory)
        return path.parent.name if path.name == "data" else path.name

    return name(one) == name(other)


def _previous_stage(config, devices) -> Checkpoint | None:
    if config.pretrained:
        return _shipped_weights(config, devices)
    directory = config.previous_directory
    if directory is None:
        if not config.pretraining_steps and not config.encoder_rate:
            say(
                "note: without --pretraining_steps the encoder stays at its random weights; "
                "--encoder_rate=1 trains it"
            )
        return None
    name = config.stage.restore
    if not (directory / WEIGHTS).exists():
        raise InputError(
            f"expected the weights of {name} in {directory}, where there are none. "
            f"Train it first: {config.command(name)}"
        )
    previous = Checkpoint(directory)
    _check_training_data(config, name, previous.config)
    if not previous.config.finished:
        say(f"note: {name} was stopped early; starting from its best weights so far")
    if reason := previous.superseded():
        say(f"note: {reason}")
    return previous


def _check_training_data(config, name, theirs: CheckpointConfig):
    """Other data than the stage before was trained on have to be asked for by name."""
    ours, theirs = config.data_directory("training"), theirs.data["training"]
    if config.training_data is None and not _same_data_set(ours, theirs):
        raise InputError(
            f"expected the data that {name} was trained on, {theirs}, received "
            f"--policy={config.policy} --num_training_frames={config.num_training_frames}, which "
            f"are those in {ours}. Give the flags that were given there, or name a data set by "
            "--training_data."
        )


def _shipped_weights(config, devices) -> Checkpoint:
    """The checkpoint of the game's shipped weights, computed if it is not there yet."""
    variant, name = config.stage.variant, f"pretrained {config.game}"
    theirs = Shipped(config.game, variant).config(config.data_path)
    if config.model != theirs.model:
        raise InputError(
            f"expected --model={theirs.model} with --pretrained, which {name} is of, received "
            f"{config.model}"
        )
    _check_training_data(config, name, theirs)
    directories = []

    def compute():
        place = config.data_path, config.train_dir
        directories.append(pretrained_checkpoint(config.game, variant, *place))

    devices.first_then_others(compute)
    so = "goes on" if config.pretraining_steps else "is not done again"
    say(f"starting from {name} in {directories[0]}: its pretraining {so}")
    return Checkpoint(directories[0])


def _check_batch_size(config, devices):
    if config.batch_size % devices.num_devices:
        raise InputError(
            f"expected --batch_size to be a multiple of the {devices.num_devices} devices, "
            f"received {config.batch_size}"
        )


def _datasets(config: StageConfig, devices: Devices) -> dict[str, Dataset]:
    """The training, validation and test set, recorded where they are missing."""

    def record_missing():
        for role in ROLES:
            directory, count = config.data_directory(role), config.num_frames(role)
            if config.given_data(role) is None and not directory.exists():
                say(
                    f"no {role} set in {directory}: recording {count} frames of "
                    f"{config.policy} play"
                )
                seed = config.data_seed(role)
                record(config.game, config.policy, count, seed, config.data_path)

    for role in ROLES:
        if (given := config.given_data(role)) is not None:
            # Refused before others are recorded.
            find_dataset(given, config.game, None, config.observation_key)
    devices.first_then_others(record_missing)
    data = {}
    for role in ROLES:
        num_actions = len(data["training"].action_meanings) if data else None
        data[role] = find_dataset(
            config.data_directory(role), config.game, num_actions, config.observation_key
        )
        if devices.first and (text := data[role].observations.text):
            say(f"observations of the {role} set: {text}")
        ours, theirs = (
            (one.frame_skip, one.pooled_frames, one.emulator)
            for one in (data[role], data["training"])
        )
        if devices.first and ours != theirs:
            say(
                f"note: the {role} set was recorded with another frame skip, other pooled frames "
                "or other options of the emulator than the training set, so its figures say less"
            )
    return data


def _control_weight(config, data: Mapping[str, Dataset], quiet: bool = False) -> float:
    """The weight of controlled pixels; 0 where the emulator cannot play the data again."""
    if not config.control_weight:
        return 0.0
    for role in ("training", "validation"):
        reason = why_not_replayable(data[role].metadata, data[role].frame_shape)
        if reason:
            if not quiet:
                say(
                    f"note: the {role} set cannot be replayed ({reason}), so all pixels count "
                    "alike, as with --control_weight=0"
                )
            return 0.0
    return config.control_weight


def _find_controlled(data, devices):
    """Makes the files of controlled pixels where they are missing."""

    def find_missing():
        for role in ("training", "validation"):
            if not (data[role].directory / CONTROLLED).exists():
                find_controlled(data[role].directory)

    devices.first_then_others(find_missing)


def _training_config(config, data, control_weight) -> TrainingConfig:
    stage = config.stage
    # As far as episodes go. They have to hold what is decoded, or `Run` refuses them.
    longest = min(int(data[role].lengths.max()) + 1 for role in ("training", "validation"))
    horizon = max(min(stage.horizon, longest - WARMUP), stage.decoded)
    precision = config.precision
    if precision == "auto":
        precision = fastest_precision(training=True)
    flags = {name: getattr(config, name) for name in FLAGS}
    return TrainingConfig(
        feed_back=stage.feed_back,
        horizon=horizon,
        decoded=stage.decoded,
        termination_rate=stage.termination_rate,
        reward_weight=stage.reward_weight,
        **flags | {"control_weight": control_weight, "precision": precision},
    )


def _settings(config, previous, data, control_weight, devices) -> CheckpointConfig:
    training_set = data["training"]
    return CheckpointConfig(
        stage=config.stage.name,
        variant=config.stage.variant,
        game=config.game,
        model=config.model,
        action_meanings=tuple(training_set.action_meanings),
        warmup=WARMUP,
        frame_skip=training_set.frame_skip,
        pooled_frames=training_set.pooled_frames,
        training=_training_config(config, data, control_weight),
        data={role: str(dataset.directory) for role, dataset in data.items()},
        fingerprints={role: dataset.fingerprint for role, dataset in data.items()},
        observation_key=config.observation_key,
        emulator=training_set.emulator,
        environment=training_set.environment,
        restored_from=str(previous.directory) if previous else None,
        restored_weights=digest(previous.directory) if previous else None,
        devices=devices.num_devices,
        versions={"keras": keras.__version__, "backend": keras.backend.backend()},
    )


def _clear(directory):
    """Removes a stage's files, and first the one that says that the stage is finished."""
    (directory / CONFIG).unlink(missing_ok=True)
    for old in directory.iterdir():
        remove(old)
