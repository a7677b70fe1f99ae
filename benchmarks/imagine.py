"""Imagination: steps a second from a state, beside PyTorch and the vector environment.

Users imagine by weights that were computed from pretraining. Their gates are constant, so they need
fewer products than those of a network that was trained as a whole. `hand_over` makes such weights.
"""

import statistics
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.child import seconds_of
from benchmarks.limits import finished, torch_device
from benchmarks.train import HORIZON, WARMUP, counterpart, model_and_windows

FEW = 64  # windows of play that weights are computed from, because none is to predict well


def hand_over(model: str, variant: str, data: str) -> dict:
    """Computes a network's weights from an untrained pretraining.

    Returns:
        dict of weights, a directory beside the data set.
    """
    from model.pretraining import KINDS
    from utils import small_weights
    from utils.checkpoint import save_weights

    predictor, windows = model_and_windows(model, variant, 1, data)
    pretraining = KINDS[variant](predictor.network)
    with mock.patch.multiple(small_weights, SAMPLES=FEW, SAMPLES_WITH_STEPS=FEW):
        small_weights.hand_over(predictor.network, pretraining, windows.dataset, 0)
    directory = Path(data).parent / f"handed_over_{model}_{variant}"
    directory.mkdir(exist_ok=True)
    save_weights(predictor.network, directory)
    return {"weights": str(directory)}


def ours(
    model: str,
    variant: str,
    batch_size: int,
    horizon: int,
    decoded: bool,
    precision: str,
    data: str,
    weights: str | None,
) -> dict:
    """Median seconds of one call of `FastImagination` for `horizon` steps.

    Args:
        model, variant: of the network.
        batch_size: states that are imagined from.
        horizon: steps a call.
        decoded: whether to decode frames.
        precision: of the products.
        data: directory of the data set.
        weights: directory from `hand_over`; None: random weights, as of a network that was trained
            as a whole.
    """
    from model.fast_imagination import FastImagination

    predictor, state, actions = _start(
        model, variant, batch_size, horizon, data, weights, precision
    )
    imagination = FastImagination(predictor, decode=decoded)

    def work():
        nonlocal state
        state = imagination(state, actions)["state"]

    return {"seconds": _median(work)}


def vector_env(model: str, batch_size: int, horizon: int, data: str, weights: str | None) -> dict:
    """Median seconds of `horizon` steps of the vector environment: compression variant, latent."""
    import gymnasium

    import utils.acting.gymnasium_env  # noqa: F401 - registers the environment
    from utils.checkpoint import save_weights

    predictor, windows = _network(model, "compression", 1, data, weights)
    # An untrained head would end half of the games at each step.
    predictor.network.termination_head.bias.assign([-20.0])
    actions = np.random.default_rng(0).integers(predictor.num_actions, size=(horizon, batch_size))
    with tempfile.TemporaryDirectory() as directory:
        save_weights(predictor.network, Path(directory))
        _config(model, windows.dataset).write(Path(directory))
        env = gymnasium.make_vec(
            "CompressedAtari-v0",
            num_envs=batch_size,
            checkpoint=directory,
            observation_type="latent",
            max_episode_steps=10**6,
        )
    env.reset(seed=0)

    def work():
        for taken in actions:
            env.step(taken)

    return {"seconds": _median(work)}


def _config(model, dataset):
    """The configuration of a checkpoint that has learned rewards."""
    from utils.config import CheckpointConfig, TrainingConfig

    training = TrainingConfig(
        feed_back=True,
        horizon=HORIZON,
        decoded=HORIZON,
        batch_size=1,
        learning_rate=0.0,
        pretraining_steps=0,
        encoder_rate=0.0,
        termination_rate=1.0,
        control_weight=0.0,
        reward_weight=0.02,
        max_steps=0,
        patience=0,
        steps_per_epoch=0,
        seed=0,
        precision="float32",
    )
    return CheckpointConfig(
        stage="benchmark",
        variant="compression",
        game=dataset.game,
        model=model,
        action_meanings=tuple(dataset.action_meanings),
        warmup=WARMUP,
        frame_skip=dataset.metadata["frame_skip"],
        training=training,
        data={"test": str(dataset.directory)},
        finished=True,
    )


def pytorch(
    model: str,
    batch_size: int,
    horizon: int,
    decoded: bool,
    precision: str,
    data: str,
    weights: str | None,
) -> dict:
    """Median seconds of the same in PyTorch, compression variant.

    Weights are cast once, the step is compiled, and there is no gradient.
    """
    import torch

    predictor, state, actions = _start(model, "compression", batch_size, horizon, data, weights)
    device = torch_device()
    network = counterpart(predictor).eval().to(device)
    state = [torch.from_numpy(np.array(part)).to(device) for part in state[:3]]
    actions = torch.from_numpy(actions).to(device)
    if precision == "bfloat16":
        network = network.bfloat16()
    step, decode, heads = map(torch.compile, (network.step, network.decode, network.heads))
    actions = torch.nn.functional.one_hot(actions.long(), network.num_actions).to(
        network.kernel.dtype
    )

    def work():
        with torch.inference_mode():
            # One compiled step is called again and again, because compiling them all as one takes
            # minutes.
            y, h, c = state
            outputs = []
            for t in range(horizon):
                h, c = step(y.to(network.kernel.dtype), actions[:, t], h, c)
                y = h
                outputs.append(h)
            outputs = torch.stack(outputs, 1).to(network.kernel.dtype)
            return finished((heads(outputs), decode(outputs) if decoded else outputs))

    return {"seconds": _median(work)}


def _network(model, variant, batch_size, data, weights, precision="float32"):
    """A predictor with such weights, and windows of play."""
    from utils.checkpoint import load_weights

    predictor, windows = model_and_windows(model, variant, batch_size, data, precision)
    if weights:
        load_weights(predictor.network, Path(weights))
    return predictor, windows


def _start(model, variant, batch_size, horizon, data, weights, precision="float32"):
    """A predictor, the state after each window's warm-up, and actions."""
    read = min(batch_size, 64)  # because reading thousands takes minutes
    predictor, windows = _network(model, variant, read, data, weights, precision)
    batch = windows.batch(0)
    state = predictor.observe(batch["frames"][:, :WARMUP], batch["actions"][:, : WARMUP - 1])
    rows = np.arange(batch_size) % read
    state = type(state)(*(np.asarray(part)[rows] for part in state))
    actions = np.random.default_rng(0).integers(
        predictor.num_actions, size=(batch_size, horizon), dtype=np.int32
    )
    return predictor, state, actions


def _median(work):
    """Median seconds of a call."""
    return statistics.median(seconds_of(work, repeats=7, warm_up=2))
