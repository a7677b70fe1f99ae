"""A step of pretraining as the first script takes it, beside the same step in PyTorch.

It is measured in the first phase: one step ahead in the paper variant, two in compression.
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
import tempfile
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from benchmarks.train import UNCOUNTED, frame_constants, model_and_windows, stage_flags, step_ends
from utils.training.phases import PHASES

if TYPE_CHECKING:
    from benchmarks.peer_pretraining import TorchPretraining
    from model.networks import Network
    from model.pretraining import Pretraining
    from systems.windows import Windows

STAGES = {"paper": "paper_seq_1", "compression": "compress_seq_1"}


class _Pretrained(Exception):
    """What is measured has ended."""


def ours(model: str, variant: str, batch_size: int, data: str, steps: int) -> dict:
    """Median seconds from one step's end to the next, in the stage's own script.

    Args:
        model: preset.
        variant: "paper" or "compression".
        batch_size: of the stage, from which that of the phase follows.
        data: directory of the data set.
        steps: of the first phase, but for the `UNCOUNTED`.
    """
    from utils.training import stage as stages

    facts = importlib.import_module(f"{STAGES[variant]}_train").STAGE
    share = PHASES[STAGES[variant]][0].share
    with tempfile.TemporaryDirectory() as directory:
        pretraining_steps = round((steps + UNCOUNTED) / share)
        flags = stage_flags(model, batch_size, data, directory, pretraining_steps=pretraining_steps)
        # Nothing that comes after pretraining is waited for.
        ended = mock.patch("utils.training.pretraining.hand_over", side_effect=_Pretrained)
        with step_ends() as ends, ended, contextlib.suppress(_Pretrained):
            stages.main(facts, flags)
    return {"seconds": statistics.median(np.diff(ends[0])[UNCOUNTED:])}


def pytorch(
    model: str, variant: str, batch_size: int, data: str, steps: int, precision: str, compiled: bool
) -> dict:
    """Median seconds of the same step in PyTorch, on windows that have been read before."""
    from benchmarks import peer_pretraining

    peer, windows = peer_and_windows(model, variant, batch_size, data)[1:]
    read = [windows.batch(number) for number in range(4)]
    seconds = peer_pretraining.train(
        peer,
        (read[step % len(read)] for step in range(steps)),
        precision,
        PHASES[STAGES[variant]][0].learning_rate,
        compiled,
        uncounted=UNCOUNTED,
    )
    return {"seconds": statistics.median(seconds)}


def agreement(model: str, variant: str, data: str) -> dict:
    """Our loss of a batch in float32, and the peer's with the same weights.

    Returns:
        dict of loss and peer_loss.
    """
    import torch

    from benchmarks.peer_pretraining import PARTS

    ours, peer, windows = peer_and_windows(model, variant, 2, data)
    batch = windows.batch(0)
    with torch.no_grad():
        theirs = peer.loss(*(torch.as_tensor(batch[part]) for part in PARTS))
    return {
        "loss": float(ours.compute_loss(x=batch, y_pred=ours(batch))),
        "peer_loss": float(theirs),
    }


def peer_and_windows(
    model: str, variant: str, batch_size: int, data: str
) -> tuple[Pretraining, TorchPretraining, Windows]:
    """What pretrains, untrained, the peer with its weights, and windows of the first phase."""
    from model.pretraining import KINDS
    from systems.windows import Windows, WindowSpec
    from utils.training.command_line import CONTROL_WEIGHT
    from utils.training.pretraining import step_weights

    predictor, any_windows = model_and_windows(model, variant, batch_size, data)
    network, phase = predictor.network, PHASES[STAGES[variant]][0]
    dataset, shape = any_windows.dataset, network.preset.frame_shape
    ours = KINDS[variant](network, CONTROL_WEIGHT)
    spec = WindowSpec(ours.context, phase.horizon, controlled=True)
    windows = Windows(dataset, shape, spec, round(phase.windows * batch_size), 0)
    if variant == "compression":  # as the script has it
        ours.step_weights = step_weights(network, dataset, phase.horizon, 0)
    return ours, counterpart(ours, model, variant, network), windows


def counterpart(ours: Pretraining, model: str, variant: str, network: Network) -> TorchPretraining:
    """The peer with the weights of what pretrains a network."""
    from benchmarks.peer_pretraining import TorchPretraining

    return TorchPretraining(
        model,
        variant,
        {name: np.asarray(variable) for name, variable in ours.named_variables().items()},
        *frame_constants(network),
        ours.control_weight,
        ours.step_weights,
    )
