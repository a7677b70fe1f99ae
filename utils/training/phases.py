"""The stages of a variant, and what the pretraining of each predicts."""

from __future__ import annotations

from typing import NamedTuple

# What the names of a variant's stages begin with.
PREFIXES = {"paper": "paper", "compression": "compress"}
STAGES = ("seq_1", "seq_3", "seq_5", "seq_5_reward")  # of each variant, in order


class Phase(NamedTuple):
    """A part of pretraining, with a rise and fall of the learning rate."""

    share: float  # of all steps
    learning_rate: float
    windows: float  # for each window of a step of the stage: these are shorter
    horizon: int  # steps that are predicted
    shown: int  # how many of them are decoded


# By stage. Each goes on where the pretraining of the stage before ended.
PHASES = {
    # The next frame; then frames predicted from predictions, whose errors no recorded frame has.
    "paper_seq_1": (Phase(1, 1.5e-3, 2, 1, 1),),
    "paper_seq_3": (Phase(1, 4e-5, 0.5, 3, 3),),
    "paper_seq_5": (Phase(1, 4e-5, 0.5, 5, 5),),
    # Ever further, because features that are followed for a few steps alone diverge soon after.
    # Near steps take longest and have the highest rate, or small and short-lived objects are lost.
    "compress_seq_1": (Phase(0.6, 2e-3, 1, 2, 2), Phase(0.4, 4e-4, 0.5, 5, 5)),
    "compress_seq_3": (Phase(1, 3e-4, 0.5, 20, 5),),
    "compress_seq_5": (Phase(1, 3e-4, 0.35, 40, 5),),
}
