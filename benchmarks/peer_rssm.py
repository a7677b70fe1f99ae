"""A peer: a small recurrent state-space model with discrete latents in PyTorch, as DreamerV3's.

Hafner et al. 2023, arXiv 2301.04104: a GRU's state h and 32 categorical latents z of 32 classes.
The posterior of z sees the frame, the prior does not, and the decoder draws the frame from both.
Reward and end of episode are left out, because frames alone are compared.

Shapes are written (batch, time, ...). As in all models that are compared, the mean frame is
subtracted from frames. They are then divided by 255.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FREE_BITS = 1.0  # nats below which a KL divergence is not reduced any further
DYNAMICS_WEIGHT, REPRESENTATION_WEIGHT = 0.5, 0.1  # of the two KL divergences
UNIMIX = 0.01  # share of the uniform distribution in each categorical
PIXEL_SCALE = 255.0
UPDATE_BIAS = -1.0  # of the GRU's update gate, so that the state is kept at first
MAX_GRADIENT = 1000.0  # norm of all gradients together
EPSILON = 1e-8  # of Adam
SMALLEST_SIDE = 6  # of the encoder's last layer, at most
KERNEL, STRIDE = 4, 2  # of all convolutions
# Of training for minutes. DreamerV3 trains for days, at 1e-4, by 16 windows of 64 frames. Of such
# steps there would be too few.
LEARNING_RATE, BATCH_SIZE, LENGTH = 3e-4, 4, 32


@dataclass(frozen=True)
class Sizes:
    """How large the model is. The defaults cost about as much as `lstm_84x84x1`."""

    depth: int = 40  # channels of the first convolution; each further one has twice as many
    units: int = 2048  # of the GRU
    hidden: int = 1024  # of the layers before the GRU and the latents
    latents: int = 32
    classes: int = 32


class _Layer(nn.Module):
    """A linear layer or convolution, layer norm over the channels, and SiLU."""

    def __init__(self, layer: nn.Module, channels: int):
        super().__init__()
        self.layer, self.norm = layer, nn.LayerNorm(channels, eps=1e-3)

    def forward(self, x):
        x = self.layer(x)
        if x.ndim == 4:  # channels first by name, last in memory
            return F.silu(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return F.silu(self.norm(x))


class RecurrentStateSpaceModel(nn.Module):
    """Encoder, GRU, prior, posterior and decoder.

    Args:
        shape: (height, width, channels) of a frame.
        num_actions: size of the action set.
        mean_frame: of the training frames, levels, (height, width, channels).
        sizes: of the layers.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_actions: int,
        mean_frame: np.ndarray,
        sizes: Sizes | None = None,
    ):
        super().__init__()
        self.register_buffer("mean_frame", torch.as_tensor(mean_frame, dtype=torch.float32))
        self.shape, self.num_actions = tuple(shape), num_actions
        self.size = size = sizes or Sizes()
        channels = _channels(shape, size)
        sides = _sides(shape)
        self.encoder = nn.Sequential(
            *(
                _Layer(nn.Conv2d(before, after, KERNEL, STRIDE, padding=1, bias=False), after)
                for before, after in itertools.pairwise(channels)
            )
        )
        self.start = channels[-1], *sides[-1]
        features, latent = math.prod(self.start), size.latents * size.classes

        def hidden(inputs):
            return _Layer(nn.Linear(inputs, size.hidden, bias=False), size.hidden)

        self.before_gru = hidden(latent + num_actions)
        self.gru = nn.Linear(size.hidden + size.units, 3 * size.units, bias=False)
        self.gru_norm = nn.LayerNorm(3 * size.units, eps=1e-3)
        self.prior = nn.Sequential(hidden(size.units), nn.Linear(size.hidden, latent))
        self.posterior = nn.Sequential(
            hidden(size.units + features), nn.Linear(size.hidden, latent)
        )
        self.decoder_start = nn.Linear(size.units + latent, features)
        layers = []
        backwards = zip(
            itertools.pairwise(channels[::-1]), itertools.pairwise(sides[::-1]), strict=True
        )
        for (before, after), (small, large) in backwards:
            odd = tuple(b - STRIDE * s for s, b in zip(small, large, strict=True))
            last = len(layers) == len(channels) - 2
            conv = nn.ConvTranspose2d(
                before, after, KERNEL, STRIDE, padding=1, output_padding=odd, bias=last
            )
            layers.append(conv if last else _Layer(conv, after))
        self.decoder = nn.Sequential(*layers)

    def normalise(self, frames):
        """uint8 frames -> normalised, float32."""
        return (frames.float() - self.mean_frame) / PIXEL_SCALE

    def encode(self, frames):
        """Normalised frames (batch, time, height, width, channels) -> (batch, time, features)."""
        x = self.encoder(frames.flatten(0, 1).permute(0, 3, 1, 2))
        return x.flatten(1).unflatten(0, frames.shape[:2])

    def step(self, h, z, action):
        """The GRU's next state.

        Args:
            h: its state, (batch, units).
            z: latents, one-hot, (batch, latents * classes).
            action: one-hot, (batch, actions); zeros before the first frame.
        """
        x = self.before_gru(torch.cat([z, action], -1))
        gates = self.gru_norm(self.gru(torch.cat([x, h], -1))).float()
        reset, candidate, update = gates.chunk(3, -1)
        candidate = (reset.sigmoid() * candidate).tanh()
        update = (update + UPDATE_BIAS).sigmoid()
        return update * candidate + (1 - update) * h

    def log_probabilities(self, logits):
        """Mixed with the uniform distribution, (..., latents, classes), float32."""
        probabilities = logits.float().unflatten(-1, (self.size.latents, -1)).softmax(-1)
        return ((1 - UNIMIX) * probabilities + UNIMIX / self.size.classes).log()

    def decode(self, h, z):
        """States (..., units) and latents -> normalised frames (..., height, width, channels)."""
        x = self.decoder_start(torch.cat([h, z], -1)).flatten(0, -2).unflatten(-1, self.start)
        x = self.decoder(x).permute(0, 2, 3, 1)
        return x.float().unflatten(0, h.shape[:-1])

    def observe(self, frames, actions, sampled: bool):
        """Steps over real frames.

        Args:
            frames: uint8 (batch, time, height, width, channels).
            actions: int (batch, time - 1); action t leads from frame t to frame t + 1.
            sampled: whether latents are drawn from the posterior, with straight-through gradients;
                if not, they are its mode.

        Returns:
            h (batch, time, units), z (batch, time, latents * classes), and the log probabilities of
            the posterior and the prior, (batch, time, latents, classes).
        """
        encodings = self.encode(self.normalise(frames))
        actions = F.pad(self._one_hot(actions), (0, 0, 1, 0))  # none leads to the first frame
        h, z = self._initial(len(frames))
        states, latents, posteriors = [], [], []
        for t in range(frames.shape[1]):
            h = self.step(h, z, actions[:, t])
            posterior = self.log_probabilities(self.posterior(torch.cat([h, encodings[:, t]], -1)))
            z = (straight_through(posterior) if sampled else mode(posterior)).flatten(1)
            states.append(h)
            latents.append(z)
            posteriors.append(posterior)
        h, z = torch.stack(states, 1), torch.stack(latents, 1)
        return h, z, torch.stack(posteriors, 1), self.log_probabilities(self.prior(h))

    def loss(self, frames, actions):
        """What is minimised, a scalar: squared error of each frame and the two KL divergences."""
        h, z, posterior, prior = self.observe(frames, actions, sampled=True)
        error = (self.decode(h, z) - self.normalise(frames)).square().sum((2, 3, 4))
        dynamics = divergence(posterior.detach(), prior).clamp(min=FREE_BITS)
        representation = divergence(posterior, prior.detach()).clamp(min=FREE_BITS)
        kl = DYNAMICS_WEIGHT * dynamics + REPRESENTATION_WEIGHT * representation
        return (error + kl).mean()

    def roll_out(self, frames, actions, steps):
        """Predicts by the modes alone, so that the same frames give the same predictions.

        Args:
            frames: uint8 (batch, warmup, height, width, channels).
            actions: int (batch, warmup - 1 + horizon).
            steps: which of the horizon's steps are decoded, from 0.

        Returns:
            levels from 0 to 255, float32 (batch, len(steps), height, width, channels).
        """
        warmup = frames.shape[1]
        states, latents, _, _ = self.observe(frames, actions[:, : warmup - 1], sampled=False)
        h, z = states[:, -1], latents[:, -1]
        ahead = self._one_hot(actions[:, warmup - 1 :])
        shown = []
        for t in range(ahead.shape[1]):
            h = self.step(h, z, ahead[:, t])
            z = mode(self.log_probabilities(self.prior(h))).flatten(1)
            if t in steps:
                shown.append((h, z))
        h, z = (torch.stack(part, 1) for part in zip(*shown, strict=True))
        return (self.decode(h, z) * PIXEL_SCALE + self.mean_frame).clamp(0, 255)

    def _one_hot(self, actions):
        return F.one_hot(actions.long(), self.num_actions).float()

    def _initial(self, count):
        parameter = self.decoder_start.weight
        return (
            parameter.new_zeros(count, self.size.units),
            parameter.new_zeros(count, self.size.latents * self.size.classes),
        )


def mode(log_probabilities):
    """The most probable class of each latent, one-hot."""
    return F.one_hot(log_probabilities.argmax(-1), log_probabilities.shape[-1]).float()


def straight_through(log_probabilities):
    """A class drawn for each latent, one-hot, whose gradient is that of the probabilities."""
    probabilities = log_probabilities.exp()
    drawn = torch.distributions.Categorical(logits=log_probabilities.detach()).sample()
    one_hot = F.one_hot(drawn, log_probabilities.shape[-1]).float()
    return one_hot + probabilities - probabilities.detach()


def divergence(p, q):
    """KL divergence from q to p by log probabilities, summed over the latents, nats."""
    return (p.exp() * (p - q)).sum((-2, -1))


def _sides(shape):
    """Height and width before the encoder's first layer and after each."""
    sides = [tuple(shape[:2])]
    while max(sides[-1]) > SMALLEST_SIDE:
        sides.append(tuple(side // STRIDE for side in sides[-1]))
    return sides


def _channels(shape, sizes):
    layers = len(_sides(shape)) - 1
    return [shape[2], *(sizes.depth * 2**i for i in range(layers))]


def multiplications(shape: tuple[int, int, int], num_actions: int, sizes: Sizes) -> int:
    """Of one step: a frame is encoded, the GRU stepped, prior and posterior known, one decoded."""
    sides, channels = _sides(shape), _channels(shape, sizes)
    convolutions = sum(
        math.prod(side) * before * after * KERNEL**2
        for side, (before, after) in zip(sides[1:], itertools.pairwise(channels), strict=True)
    )
    features = math.prod(sides[-1]) * channels[-1]
    latent, hidden, units = sizes.latents * sizes.classes, sizes.hidden, sizes.units
    gru = (latent + num_actions) * hidden + (hidden + units) * 3 * units
    prior = units * hidden + hidden * latent
    posterior = (units + features) * hidden + hidden * latent
    # A transposed convolution multiplies as often as the convolution whose transpose it is.
    return 2 * convolutions + gru + prior + posterior + (units + latent) * features


def train(
    model: RecurrentStateSpaceModel,
    batches: Iterator[dict[str, np.ndarray]],
    ends: float,
    bfloat16: bool,
    learning_rate: float = LEARNING_RATE,
) -> list[float]:
    """Trains until a time; returns the loss of each step.

    Args:
        model: what is trained.
        batches: dicts of frames and actions, see `RecurrentStateSpaceModel.observe`.
        ends: by `time.perf_counter`.
        bfloat16: whether products are computed in it.
        learning_rate: Adam's.
    """
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, eps=EPSILON, fused=True)
    losses = []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model.loss(torch.as_tensor(batch["frames"]), torch.as_tensor(batch["actions"]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        losses.append(loss.item())
        if time.perf_counter() >= ends:
            break
    return losses
