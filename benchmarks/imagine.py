"""Imagination: steps a second of rolling out from a state, beside PyTorch and the emulator."""

import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.child import seconds_of
from benchmarks.limits import finished, torch_device
from benchmarks.train import counterpart, model_and_windows


def ours(model, variant, batch_size, horizon, decoded, precision, data):
    """Median seconds of one call of `FastImagination` for `horizon` steps."""
    from model.transitions import FastImagination

    predictor, state, actions = _start(model, variant, batch_size, horizon, data, precision)
    imagination = FastImagination(predictor, decode=decoded)

    def work():
        nonlocal state
        state = imagination(state, actions)["state"]

    return {"seconds": _time(work)}


def vector_env(model, batch_size, horizon, data):
    """The same by so many steps of the vector environment, compression variant, latent."""
    import gymnasium

    import systems.compressed_env  # noqa: F401
    from utils import checkpoints
    from utils.dataset import Dataset

    predictor, _ = model_and_windows(model, "compression", batch_size, data, 1)
    # Untrained, it would end half of the games at each step.
    predictor.network.termination_head.bias.assign([-20.0])
    config = {
        "model": model,
        "variant": "compression",
        "game": Dataset(data).game,
        "action_meanings": Dataset(data).action_meanings,
        "warmup": 10,
        "data": {"test": data},
        "training": {"reward_weight": 0.02},
    }
    actions = np.random.default_rng(0).integers(predictor.num_actions, size=(horizon, batch_size))
    with tempfile.TemporaryDirectory() as directory:
        checkpoints.save_weights(predictor.network, Path(directory))
        checkpoints.write_json(Path(directory) / checkpoints.CONFIG, config)
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

    return {"seconds": _time(work)}


def pytorch(model, batch_size, horizon, decoded, precision, data):
    """The same in PyTorch, compression variant: weights cast once, compiled, no gradient."""
    import torch

    predictor, state, actions = _start(model, "compression", batch_size, horizon, data)
    device = torch_device()
    network = counterpart(predictor).eval().to(device)
    state = [torch.from_numpy(np.array(part)).to(device) for part in state[:3]]
    actions = torch.from_numpy(actions).to(device)
    if precision == "bfloat16":
        network = network.bfloat16()
    step, decode, tell = map(torch.compile, (network.step, network.decode, network.tell))
    actions = torch.nn.functional.one_hot(actions.long(), network.num_actions).to(
        network.kernel.dtype
    )

    def work():
        with torch.inference_mode():
            # One compiled step, called again and again: compiling them all as one takes minutes.
            y, h, c = state
            outputs = []
            for t in range(horizon):
                h, c = step(y.to(network.kernel.dtype), actions[:, t], h, c)
                y = h
                outputs.append(h)
            outputs = torch.stack(outputs, 1).to(network.kernel.dtype)
            return finished((tell(outputs), decode(outputs) if decoded else outputs))

    return {"seconds": _time(work)}


def _start(model, variant, batch_size, horizon, data, precision="float32"):
    """A predictor, the state after ten frames of each of the windows, and actions."""
    read = min(batch_size, 64)  # of thousands it would take minutes
    predictor, windows = model_and_windows(model, variant, read, data, 1, precision)
    batch = windows[0]
    state = predictor.observe(batch["frames"][:, :10], batch["actions"][:, :9])
    rows = np.arange(batch_size) % read
    state = type(state)(*(np.asarray(part)[rows] for part in state))
    actions = np.random.default_rng(0).integers(
        predictor.num_actions, size=(batch_size, horizon), dtype=np.int32
    )
    return predictor, state, actions


def _time(work):
    return statistics.median(seconds_of(work, repeats=7, warm_up=2))
