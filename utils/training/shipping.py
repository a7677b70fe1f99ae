"""Writes the shipped weights of a stage with pretraining; see `utils.training.ship`."""

from __future__ import annotations

import dataclasses
import datetime
import operator
import tempfile
from pathlib import Path

import numpy as np

from model.pretraining import REWARD_WEIGHT
from systems.dataset import Dataset, find_dataset
from systems.errors import InputError, check_writable, say
from systems.files import num_cores, refusals_explained, write_json
from systems.record import record
from systems.version import full_commit
from utils import small_weights
from utils.checkpoint import Checkpoint, save_weights, stage_directory
from utils.checkpoint_flags import DIRECTORY
from utils.config import PRETRAINING, TRAIN_DIR, CheckpointConfig
from utils.pretrained import Description, Shipped, ShippedPlay, pretrained_checkpoint
from utils.training.stage import script
from utils.training.termination import fit_termination
from utils.watching.measure import HeldOutPlay

SHIPPED_STAGE = "_pretrained"  # how the name of a checkpoint of shipped weights ends
NUM_WINDOWS = 128
NUM_COMPARED = 32  # windows on which the network is compared with the one it came from
ERRORS = (
    *("mse", "mse_repeat_last", "mse_recall", "psnr"),
    *("mse_moving", "mse_moving_repeat_last"),
    *("mse_controlled", "mse_controlled_repeat_last", "mse_controlled_recall"),
    "mse_controlled_shuffled_actions",
)


def ship(stage: Path, output: Path = DIRECTORY, *, num_frames: int) -> Shipped:
    """Writes the shipped weights of a stage with pretraining.

    Args:
        stage: its directory.
        output: directory of the shipped weights.
        num_frames: of training play, from which the principal components come.

    Raises:
        InputError: the stage has no pretraining, or its data are not there, or not recorded by
            `systems.record`, or the system refuses to write.
    """
    config = Checkpoint(stage).config
    if not (stage / PRETRAINING).exists():
        raise InputError(
            f"expected the directory of a stage with {PRETRAINING}, received "
            f"{stage}, of {config.stage}. Name a stage that has --pretraining_steps."
        )
    if _stages_until(config)[0].stage.endswith(SHIPPED_STAGE):
        raise InputError(
            f"expected a stage whose training can be repeated from its first step on, received "
            f"{stage}, which began with shipped weights. Train without --pretrained."
        )
    with refusals_explained(output):
        output.mkdir(parents=True, exist_ok=True)
    check_writable(output / f"{config.game}_{config.variant}.npz")
    arrays = small_weights.read_arrays(stage / PRETRAINING)
    data = {
        role: find_dataset(path, config.game, len(config.action_meanings))
        for role, path in config.data.items()
    }
    data_path, *others = {_data_path(each) for each in data.values()}
    if others:
        raise InputError(
            f"expected data sets in one directory, received some in {data_path} and some in "
            f"{others[0]}. Train on play that was recorded with one --data_path."
        )
    plays = {
        "training": _play(data["training"], min(num_frames, int(data["training"].lengths.sum()))),
        "test": _play(data["test"], int(data["test"].lengths.sum())),
    }
    small = {
        name: array if name in small_weights.STATISTICS else array.astype(np.float16)
        for name, array in arrays.items()
    }
    known = {role: _first_actions(data[role], play.num_frames) for role, play in plays.items()}
    training = plays["training"]
    components = record(
        config.game,
        training.policy,
        training.num_frames,
        training.seed,
        data_path,
        known_actions=known["training"],
    )
    shipped_config = _config(config, data, data_path)
    say("fitting the termination head")
    predictor, _ = small_weights.computed(small, config, Dataset(components))
    direction, bias = fit_termination(
        predictor, data["training"], data["validation"], config.training.seed
    )
    small[small_weights.TERMINATION] = direction.astype(np.float16)
    small[small_weights.TERMINATION_BIAS] = np.float32(bias)
    for role, actions in known.items():
        small[f"{role}_actions"] = np.concatenate(actions).astype(np.uint8)
        small[f"{role}_lengths"] = np.array([len(one) for one in actions], np.int32)
    made = _made(config, plays, int(data["training"].lengths.sum()))
    description = Description(shipped_config, **plays, made=made, figures={})
    say("measuring, as evaluate.py does")
    with tempfile.TemporaryDirectory() as unmeasured:
        _write(Path(unmeasured), description, small)
        figures = _figures(config, Path(unmeasured), data_path, arrays, data["training"])
    # Whoever is stopped before this leaves what was shipped until now as it was.
    _write(output, dataclasses.replace(description, figures=figures), small)
    return Shipped(config.game, config.variant, output)


def _write(output: Path, description: Description, arrays: dict[str, np.ndarray]) -> None:
    """Writes both files, one right after the other.

    Raises:
        InputError: the system refused.
    """
    config = description.config
    weights = output / f"{config.game}_{config.variant}.npz"
    small_weights.write_arrays(weights, arrays)
    write_json(weights.with_suffix(".json"), dataclasses.asdict(description))


def _play(dataset: Dataset, num_frames: int) -> ShippedPlay:
    metadata = dataset.metadata
    return ShippedPlay(metadata["policy"], num_frames, metadata["seed"])


def _data_path(dataset: Dataset) -> Path:
    """Where the data sets lie that `systems.record` has recorded.

    Raises:
        InputError: this one was not recorded by it.
    """
    try:
        play = _play(dataset, int(dataset.lengths.sum()))
        root = dataset.directory.absolute().parents[2]
        if play.directory(root, dataset.game) != dataset.directory.absolute():
            raise KeyError("name")
    except (KeyError, IndexError) as error:
        raise InputError(
            f"expected data sets under the names that systems.record gives, which can be recorded "
            f"again from their actions, received {dataset.directory}. Train on recorded play."
        ) from error
    return root


def _first_actions(dataset: Dataset, num_frames: int) -> list[np.ndarray]:
    """The actions of the first `num_frames` steps, an array for each episode."""
    actions, left = [], num_frames
    for episode in dataset.actions:
        if left > 0:
            actions.append(episode[:left])
            left -= len(actions[-1])
    return actions


def _config(config: CheckpointConfig, data, data_path: Path) -> CheckpointConfig:
    """The configuration of a checkpoint of the shipped weights."""
    return dataclasses.replace(
        config,
        stage=f"{config.stage.partition('_')[0]}{SHIPPED_STAGE}",
        # Pretraining trains the reward with this weight.
        training=dataclasses.replace(config.training, reward_weight=REWARD_WEIGHT),
        data={
            role: str(dataset.directory.absolute().relative_to(data_path))
            for role, dataset in data.items()
        },
        results=None,
        steps=0,
        finished=True,
    )


def _made(config: CheckpointConfig, plays, num_training_frames: int) -> dict:
    """How the weights were made."""
    commands = []
    for stage in _stages_until(config):
        training = stage.training
        command = f"python {script(stage.stage)} --atari_game={config.game} --model={config.model} "
        command += f"--policy={plays['training'].policy} "
        command += f"--num_training_frames={num_training_frames} --max_steps={training.max_steps} "
        commands.append(f"{command}--pretraining_steps={training.pretraining_steps}")
    where = stage_directory(TRAIN_DIR, config.game, config.model, config.stage)
    shipped = f"python -m utils.training.ship {where} --num_frames={plays['training'].num_frames}"
    return {
        "commands": [*commands, shipped],
        "commit": full_commit(),
        "date": datetime.date.today().isoformat(),
        "cores": num_cores(),
        "versions": config.versions,
    }


def _stages_until(config: CheckpointConfig) -> list[CheckpointConfig]:
    """A stage after those that it was trained from, the first one, or shipped weights, first."""
    stages = [config]
    while (before := stages[0].restored_from) and not stages[0].stage.endswith(SHIPPED_STAGE):
        stages.insert(0, Checkpoint(before).config)
    return stages


def _figures(config, shipped_in, data_path, arrays, training_set) -> dict:
    """What the checkpoint of the shipped weights reaches on test play, beside what they came from.

    Returns:
        dict of some of what `evaluate.py` writes. "error_over_original" is the error over that of
        the network with the weights in full precision, whose principal components come from all
        training play.
    """
    play, few = (HeldOutPlay(None, None, count, 0) for count in (NUM_WINDOWS, NUM_COMPARED))
    with tempfile.TemporaryDirectory() as place:
        directory = pretrained_checkpoint(
            config.game, config.variant, data_path, Path(place), shipped_in
        )
        shipped = Checkpoint(directory)
        results, ours = play.measure(shipped), few.measure(shipped)
        original = Path(place) / "original"
        original.mkdir()
        predictor, _ = small_weights.computed(arrays, config, training_set)
        save_weights(predictor.network, original)
        shipped.config.write(original)
        theirs = few.measure(Checkpoint(original))
    horizons = {}
    for horizon, row in results["horizons"].items():
        horizons[horizon] = {key: row[key] for key in ERRORS}
        pair = (measured["horizons"][horizon]["mse"] for measured in (ours, theirs))
        horizons[horizon]["error_over_original"] = operator.truediv(*pair)
    return {
        "num_windows": results["num_windows"],
        "horizons": horizons,
        "reward_average_precision_within": results["reward"]["average_precision_within"],
        "termination": results["termination"],
    }
