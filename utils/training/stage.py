"""What the eight scripts at the top are made of: a stage's facts, and the `main` that trains it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from systems.errors import exit_on_input_error
from utils.start import import_keras, prepare


@dataclass(frozen=True)
class Stage:
    """The facts of one stage of the curriculum.

    Attributes:
        name: of the stage, and of its directory.
        variant: "paper" or "compression".
        feed_back: whether predictions are fed back: the paper variant's frames, the compression
            variant's LSTM outputs. If not, each prediction is one step ahead of real frames.
        horizon: steps predicted after the warm-up in each training window, as far as the data's
            episodes go.
        decoded: how many of them are decoded and compared, drawn anew for each window.
        restore: the stage that it goes on from, by its pretraining or else its best weights; None:
            it is the first one.
        learning_rate: at its peak.
        max_steps: after which it ends.
        pretraining_steps: of the convolutions alone, before the first step. The network is computed
            from them, so it forgets what the stage before has trained without them.
        termination_rate: learning rate of the termination head over the others'.
        reward_weight: of the reward's and termination's loss for each pixel of the frame; 0: their
            heads are not trained.
    """

    name: str
    variant: str
    feed_back: bool
    horizon: int
    decoded: int
    restore: str | None
    learning_rate: float
    max_steps: int
    pretraining_steps: int = 0
    termination_rate: float = 1.0
    reward_weight: float = 0.0


def script(stage_name: str) -> str:
    """The script that trains a stage: compress_seq_5_reward -> compress_seq_5_train_reward.py."""
    return f"{script_module(stage_name)}.py"


def script_module(stage_name: str) -> str:
    """The same script as Python imports it: compress_seq_5_train_reward."""
    base, reward, _ = stage_name.partition("_reward")
    return f"{base}_train{reward}"


def main(stage: Stage, argv: list[str] | None = None) -> None:
    """Trains a stage as the command line says.

    Args:
        stage: which one.
        argv: the command line without the script's name; None: this process' own.
    """
    prepare()
    from utils.training.command_line import parse

    config = parse(stage, argv, description=sys.modules["__main__"].__doc__)
    with exit_on_input_error():  # Ctrl-C, while TensorFlow is imported
        import_keras()
        from utils.training.curriculum import run
    run(config)
