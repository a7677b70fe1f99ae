"""Checkpoints without a training: untrained weights and the configuration beside them."""

import dataclasses
from pathlib import Path

import keras

from model.predictor import FramePredictor
from utils.checkpoint import save_weights
from utils.config import CheckpointConfig, TrainingConfig

TRAINING = TrainingConfig(
    feed_back=True,
    horizon=5,
    decoded=5,
    batch_size=4,
    learning_rate=1e-5,
    pretraining_steps=0,
    encoder_rate=0.0,
    termination_rate=1.0,
    control_weight=0.0,
    reward_weight=0.02,
    max_steps=6,
    patience=10,
    steps_per_epoch=2,
    seed=0,
    precision="float32",
)
CONFIG = CheckpointConfig(
    stage="compress_seq_5_reward",
    variant="compression",
    game="freeway",
    model="tiny",
    action_meanings=("NOOP", "UP", "DOWN"),
    warmup=10,
    frame_skip=4,
    training=TRAINING,
    data={"training": "", "validation": "", "test": ""},
    finished=True,
)


def write_checkpoint(
    directory: Path, data=None, predictor: FramePredictor | None = None, seed: int = 0, **changes
) -> Path:
    """A stage's directory with untrained weights.

    Args:
        directory: where it is made.
        data: directory of a data set, for all roles.
        predictor: whose weights they are; None: a new one by the seed.
        seed: of its initial weights.
        changes: of `CONFIG`, or of `TRAINING` by the names that are its own.
    """
    of_training = {field.name for field in dataclasses.fields(TrainingConfig)} & set(changes)
    training = dataclasses.replace(TRAINING, **{name: changes.pop(name) for name in of_training})
    config = dataclasses.replace(CONFIG, training=training, **changes)
    if data is not None:
        config = dataclasses.replace(config, data=dict.fromkeys(config.data, str(data)))
    if predictor is None:
        keras.utils.set_random_seed(seed)
        predictor = FramePredictor(config.model, config.variant, len(config.action_meanings))
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(predictor.network, directory)
    config.write(directory)
    return directory
