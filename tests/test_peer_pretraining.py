"""Pretraining in PyTorch, among the peers: the same loss, gradients and updates as ours."""

import keras
import numpy as np
import pytest
from keras import ops

torch = pytest.importorskip("torch", reason="benchmarks/requirements.txt is not installed")

from benchmarks import peer_pretraining, pretrain  # noqa: E402
from utils.training.optimizer import Muon  # noqa: E402

from . import tiny  # noqa: E402
from .test_benchmarks import data  # noqa: E402, F401
from .test_peer_rssm import one_thread  # noqa: E402, F401

pytestmark = pytest.mark.slow
VARIANTS = ("paper", "compression")


def loss_of(peer, batch):
    return peer.loss(*(torch.as_tensor(batch[part]) for part in peer_pretraining.PARTS))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["tiny", "lstm_210x160x3"])
def test_loss_and_gradients_are_ours(data, model, variant):  # noqa: F811
    ours, peer, windows = pretrain.peer_and_windows(model, variant, 1, data)
    batch = windows.batch(0)
    expected, gradients = tiny.gradients(
        lambda: ours.compute_loss(x=batch, y_pred=ours(batch)), ours
    )
    loss = loss_of(peer, batch)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    loss.backward()
    by_path = dict(zip((weight.path for weight in ours.weights), gradients, strict=True))
    theirs = peer.named_gradients()
    for name, variable in ours.named_variables().items():
        gradient = ops.convert_to_numpy(by_path[variable.path])
        largest = np.abs(gradient).max()
        np.testing.assert_allclose(theirs[name], gradient, atol=1e-3 * largest, err_msg=name)
    assert theirs.keys() == ours.named_variables().keys()


def test_updates_are_ours():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 32, 40), (1, 1, 48, 32), (3, 3, 4, 8), (6, 5, 33), (40,), (3, 8)]
    values = [rng.normal(0, 0.1, shape).astype(np.float32) for shape in shapes]
    variables = [keras.Variable(value) for value in values]
    ours = Muon(1e-3)
    ours.build(variables)
    parameters = [peer_pretraining.parameter(value) for value in values]
    theirs = peer_pretraining.TorchMuon(parameters, 1e-3, torch.float32)
    for _ in range(2):
        gradients = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
        ours.apply(gradients, variables)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = peer_pretraining.parameter(gradient).detach()
        theirs.step()
    for parameter, variable, before in zip(parameters, variables, values, strict=True):
        moved = np.asarray(variable) - before
        expected = peer_pretraining.as_keras(parameter) - before
        np.testing.assert_allclose(expected, moved, atol=2e-3 * np.abs(moved).max())


def test_it_is_measured_and_learns(data):  # noqa: F811
    for variant in VARIANTS:
        measured = pretrain.ours("tiny", variant, batch_size=2, data=data, steps=4)
        assert 0 < measured["seconds"] < 10
        work = {"model": "tiny", "variant": variant, "batch_size": 2, "data": data, "steps": 5}
        measured = pretrain.pytorch(**work, precision="float32", compiled=False)
        assert 0 < measured["seconds"] < 10
    _, peer, windows = pretrain.peer_and_windows("tiny", "paper", 8, data)
    optimizer = peer_pretraining.TorchMuon(peer.parameters(), 1e-2, torch.float32)
    losses = []
    for number in range(12):
        loss = loss_of(peer, windows.batch(number))
        peer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
