"""The recurrent state-space model among the peers: shapes, gradients, and that it learns."""

import itertools
import math
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="benchmarks/requirements.txt is not installed")

from benchmarks import peer_rssm  # noqa: E402
from benchmarks.peer_rssm import RecurrentStateSpaceModel, Sizes  # noqa: E402
from model import operations  # noqa: E402
from model.presets import PRESETS  # noqa: E402

SMALL = Sizes(depth=4, units=16, hidden=16, latents=4, classes=5)
SHAPE = 12, 12, 1
MODEL = "lstm_84x84x1"  # what peers are compared with


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads would wait for each other by spinning where others compute, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(seed=0, shape=SHAPE, sizes=SMALL):
    torch.manual_seed(seed)
    return RecurrentStateSpaceModel(shape, 3, np.full(shape, 20.0), sizes)


def dots(length, size=4, seed=0):
    """A dot that the action moves left or right; at the edge it reappears at the other side."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, (size, length - 1))
    steps = np.pad(np.cumsum(np.where(actions == 1, 2, -2), axis=1), ((0, 0), (1, 0)))
    columns = (rng.integers(0, 12, (size, 1)) + steps) % 12
    frames = np.zeros((size, length, *SHAPE), np.uint8)
    for window, t in np.ndindex(size, length):
        frames[window, t, 5:7, columns[window, t]] = 200
    return {"frames": frames, "actions": actions.astype(np.int32)}


def tensors(batch):
    return torch.as_tensor(batch["frames"]), torch.as_tensor(batch["actions"])


@pytest.mark.parametrize("shape", [SHAPE, (84, 84, 1), (21, 16, 3)])
def test_shapes(shape):
    network = model(shape=shape)
    frames = torch.zeros(2, 6, *shape, dtype=torch.uint8)
    actions = torch.zeros(2, 5, dtype=torch.int32)
    h, z, posterior, prior = network.observe(frames, actions, sampled=True)
    assert h.shape == (2, 6, 16) and z.shape == (2, 6, 20)
    assert posterior.shape == prior.shape == (2, 6, 4, 5)
    assert network.decode(h, z).shape == frames.shape
    ahead = torch.zeros(2, 5 + 8, dtype=torch.int32)
    assert network.roll_out(frames, ahead, [0, 7]).shape == (2, 2, *shape)


def test_each_latent_is_one_class_with_the_gradient_of_its_probability():
    logits = torch.tensor([[[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    weights = torch.arange(6.0).reshape(1, 2, 3)
    torch.manual_seed(0)
    drawn = peer_rssm.straight_through(logits.log_softmax(-1))
    assert set(drawn.detach().round(decimals=6).flatten().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn.sum(-1), torch.ones(1, 2))
    (through,) = torch.autograd.grad((drawn * weights).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weights).sum(), logits)
    assert torch.allclose(through, expected, atol=1e-6)


def test_every_class_keeps_a_share_of_the_uniform_distribution():
    network = model()
    logits = torch.full((1, 20), -1000.0)
    logits[0, ::5] = 1000.0
    probabilities = network.log_probabilities(logits).exp()
    assert torch.allclose(probabilities[0, 0], torch.tensor([0.992, *[0.002] * 4]), atol=1e-6)


def test_divergences_below_the_free_bits_have_no_gradient():
    network = model()
    frames, actions = tensors(dots(5))
    for parameter in network.prior.parameters():
        torch.nn.init.zeros_(parameter)
    for parameter in network.posterior.parameters():
        torch.nn.init.zeros_(parameter)
    network.loss(frames, actions).backward()
    assert all(not parameter.grad.any() for parameter in network.prior.parameters())


def test_one_divergence_trains_the_prior_and_one_the_posterior(monkeypatch):
    monkeypatch.setattr(peer_rssm, "FREE_BITS", 0.0)
    p = torch.tensor([[[2.0, -1.0, 0.0]]]).log_softmax(-1)
    q = torch.tensor([[[0.0, 0.5, 0.0]]]).log_softmax(-1)
    expected = (p.exp() * (p - q)).sum()
    assert torch.allclose(peer_rssm.divergence(p, q), expected)
    frames, actions = tensors(dots(5))

    def prior_gradient(dynamics, representation):
        monkeypatch.setattr(peer_rssm, "DYNAMICS_WEIGHT", dynamics)
        monkeypatch.setattr(peer_rssm, "REPRESENTATION_WEIGHT", representation)
        network = model()
        network.loss(frames, actions).backward()
        assert all(value.grad is not None for value in network.parameters())
        return network.prior[1].bias.grad.clone()

    # The last layer of the prior is reached by the dynamics' divergence alone.
    assert prior_gradient(0.5, 0.1).any()
    assert torch.allclose(prior_gradient(0.5, 0.1), prior_gradient(0.5, 7.0))
    assert not prior_gradient(0.0, 0.1).any()


def test_roll_outs_are_the_same_whatever_is_drawn():
    network = model()
    frames, actions = tensors(dots(12))
    torch.manual_seed(1)
    first = network.roll_out(frames[:, :4], actions, [0, 3, 7])
    torch.manual_seed(2)
    assert torch.equal(network.roll_out(frames[:, :4], actions, [0, 3, 7]), first)
    assert first.min() >= 0 and first.max() <= 255
    # No frame after the first four is seen, and each action counts from its own step on.
    actions = actions.clone()
    actions[:, 4] = 1 - actions[:, 4]
    after = network.roll_out(frames[:, :4], actions, [0, 3, 7])
    assert torch.equal(after[:, 0], first[:, 0])


def test_actions_lead_to_the_next_state():
    network = model()
    frames, actions = tensors(dots(5))
    before, *_ = network.observe(frames, actions, sampled=False)
    actions = actions.clone()
    actions[:, 2] = 2
    after, *_ = network.observe(frames, actions, sampled=False)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def trained(seed, steps, data):
    network = model(seed)
    batches = itertools.repeat(data, steps)
    return network, peer_rssm.train(network, batches, math.inf, False, learning_rate=1e-2)


def test_the_loss_falls_and_the_seed_decides_all():
    data = dots(8)
    network, losses = trained(0, 60, data)
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert trained(0, 20, data)[1] == losses[:20]
    assert trained(1, 3, data)[1] != losses[:3]
    frames, actions = tensors(data)
    assert torch.isfinite(network.roll_out(frames[:, :4], actions, [0, 3])).all()


def test_training_ends_by_the_clock():
    batches = itertools.repeat(dots(4))
    assert len(peer_rssm.train(model(), batches, time.perf_counter() - 1, False)) == 1
    begun = time.perf_counter()
    assert len(peer_rssm.train(model(), batches, begun + 0.5, False)) > 1
    assert 0.5 <= time.perf_counter() - begun < 20


def test_multiplications_are_those_of_the_layers():
    """Counted by hooks on every layer, in a model whose convolutions lose no odd pixel."""
    network = model(shape=(24, 24, 1))
    counted = 0

    def count(layer, inputs, output):
        nonlocal counted
        if isinstance(layer, torch.nn.Linear):
            counted += layer.weight.numel() * inputs[0].shape[:-1].numel()
        elif isinstance(layer, torch.nn.ConvTranspose2d):
            counted += layer.weight.numel() * inputs[0].shape[2:].numel()
        elif isinstance(layer, torch.nn.Conv2d):
            counted += layer.weight.numel() * output.shape[2:].numel()

    for layer in network.modules():
        layer.register_forward_hook(count)
    frames = torch.zeros(1, 1, 24, 24, 1, dtype=torch.uint8)
    h, z, *_ = network.observe(frames, torch.zeros(1, 0, dtype=torch.int32), sampled=False)
    network.decode(h, z)
    assert counted == peer_rssm.multiplications((24, 24, 1), 3, SMALL)


def test_it_costs_about_as_much_as_ours():
    preset = PRESETS[MODEL]
    _, encoder, decoder, core = operations.multiplications(preset, 9)
    theirs = peer_rssm.multiplications(preset.frame_shape, 9, Sizes())
    assert theirs == pytest.approx(encoder + decoder + core, rel=0.1)
