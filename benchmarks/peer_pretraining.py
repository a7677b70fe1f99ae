"""The peer of pretraining: the same convolutions, losses and optimizer in PyTorch.

Written as somebody who knows PyTorch would: channels last, one backward pass, kernels of equal
sides orthonormalised together. See `model.pretraining` for what is computed and why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.limits import torch_device
from benchmarks.peer_torch import Normaliser, convolve, deconvolve, timed_steps
from model.presets import PRESETS
from model.pretraining import ATTENTION_WEIGHT, MAX_FEATURE, REWARD_WEIGHT
from utils.training.optimizer import (
    MOMENTUM,
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    SHORTEST_SIDE,
    TYPICAL_DEVIATION,
    UPDATE_SIZE,
)

PARTS = ("frames", "actions", "rewards", "controlled")  # of a batch, as `loss` takes them


class TorchPretraining(Normaliser):
    """A `model.pretraining.Pretraining` of either variant, for windows whose steps are all shown.

    Args:
        preset: a name in `PRESETS`.
        variant: "paper" or "compression".
        weights: what `Pretraining.named_variables` names, in Keras' layout.
        mean: subtracted from every frame, (height, width, channels).
        scale: every frame is divided by it.
        palette: RGB of each palette index, (256, 3); None if frames are not palette indices.
        control_weight: additional weight of a controlled pixel's error.
        step_weights: of each step's frame loss, (steps,); None weighs all alike.
    """

    def __init__(
        self,
        preset: str,
        variant: str,
        weights: Mapping[str, np.ndarray],
        mean: np.ndarray,
        scale: np.ndarray,
        palette: np.ndarray | None = None,
        control_weight: float = 0.0,
        step_weights: np.ndarray | None = None,
    ):
        super().__init__(mean, scale, palette)
        self.preset, self.variant = PRESETS[preset], variant
        self.control_weight = control_weight

        numbers = range(len(self.preset.encoder) + len(self.preset.decoder) + 2)
        names = [f"convolution_{i}.{name}" for i in numbers for name in ("kernel", "bias")]
        convs = [parameter(weights[name]) for name in names]
        self._names = names
        first, last = 2 * len(self.preset.encoder), -4
        self.encoder = nn.ParameterList(convs[:first])
        self.decoder = nn.ParameterList(convs[first:last])
        self.head = nn.ParameterList(convs[last:])
        own = {name: value for name, value in weights.items() if "." not in name}
        self.own = nn.ParameterDict({name: parameter(value) for name, value in own.items()})
        inputs = [name for name in own if name.startswith("reward_channels")]
        self.reward_channels = [self.own[name] for name in sorted(inputs)]

        self.motion = self.own["motion"] if "motion" in own else None
        self.context = self.preset.context
        weights = None if step_weights is None else torch.from_numpy(step_weights)
        self.register_buffer("step_weights", weights)

    def named_gradients(self) -> dict[str, np.ndarray]:
        """The gradients in Keras' layout, by the names of `Pretraining.named_variables`."""
        convs = zip(self._names, [*self.encoder, *self.decoder, *self.head], strict=True)
        return {name: as_keras(p.grad) for name, p in [*convs, *self.own.items()]}

    def features(self, frames):
        """Normalised (batch, stack, height, width, channels) -> features, channels first."""
        stacked = torch.cat(frames.unbind(1), -1).permute(0, 3, 1, 2)
        return convolve(stacked, self.preset, self.encoder)

    def decode(self, features):
        """Features -> normalised frames (batch, height, width, channels), float32."""
        x = deconvolve(F.leaky_relu(features, 0.1), self.preset, self.decoder)
        return x.permute(0, 2, 3, 1).float()

    def reward(self, *features):
        """Features, latest first -> logits (batch, 3), and attention logits (batch, cells)."""
        pairs = zip(features, self.reward_channels, strict=True)
        cells = sum(F.conv2d(x, matrix.T[:, :, None, None]) for x, matrix in pairs)
        kernel, bias, verdict_kernel, verdict_bias = self.head
        x = F.leaky_relu(F.conv2d(F.leaky_relu(cells, 0.1), kernel, bias, padding=1), 0.1)
        x = F.conv2d(x, verdict_kernel, verdict_bias).float().flatten(2)
        logits, attention = x[:, :3], x[:, 3]
        return (logits * attention.softmax(1)[:, None]).sum(2), attention

    def forward(self, frames, actions):
        """Frames, reward logits and attention logits of all steps, (batch, steps, ...) each."""
        context = self.context
        frames, actions = self.normalise(frames[:, :context]), actions[:, context - 1 :].long()
        seen, earlier = self._context_features(frames)
        if self.variant == "compression":
            return self._linear_dynamics(seen, earlier, actions)
        return self._next_frames(frames[:, -self.preset.stack :], seen, earlier, actions)

    def _context_features(self, frames):
        if self.motion is None:
            return self.features(frames), None
        earlier, seen = self.features(frames.flatten(0, 1)[:, None]).unflatten(0, (-1, 2)).unbind(1)
        return seen, earlier

    def _add_motion(self, features, earlier):
        if self.motion is None:
            return features
        return features + F.conv2d(earlier, self.motion, padding=1)

    def _next_frames(self, frames, seen, earlier, actions):
        steps = []
        for t in range(actions.shape[1]):
            if t:
                frames = torch.cat([frames[:, 1:], steps[-1][0][:, None]], 1)
                seen, earlier = self.features(frames), seen
            planes = F.embedding(actions[:, t], self.own["embeddings"])[:, :, None, None]
            features = self._add_motion(seen + planes, earlier)
            steps.append((self.decode(features), *self.reward(features)))
        return tuple(torch.stack(parts, 1) for parts in zip(*steps, strict=True))

    def _linear_dynamics(self, seen, earlier, actions):
        features = [seen]
        for t in range(actions.shape[1]):
            after = self._add_motion(self._advance(features[-1], actions[:, t]), earlier)
            earlier = features[-1]
            features.append(after.clamp(-MAX_FEATURE, MAX_FEATURE))
        time_ = actions.shape[1]
        after, before = torch.stack(features[1:], 1), torch.stack(features[:-1], 1)
        after, before = after.flatten(0, 1), before.flatten(0, 1)
        predicted = self.decode(after), *self.reward(after, before)
        return tuple(x.unflatten(0, (-1, time_)) for x in predicted)

    def _advance(self, x, action):
        own = self.own
        x = F.conv2d(x, own["before"], padding=1) + own["before_bias"].permute(2, 0, 1)
        factors = own["action_factors"][action][:, :, None, None]
        x = x * own["place_factors"].permute(2, 0, 1) * factors
        return F.conv2d(x, own["after"], padding=1) + own["after_bias"].permute(2, 0, 1)

    def loss(self, frames, actions, rewards, controlled):
        """What `Pretraining.compute_loss` computes, of a batch with controlled pixels."""
        context = self.context
        predicted, logits, attention = self(frames, actions)
        errors = 0.5 * (predicted - self.normalise(frames[:, context:])).square().sum(-1)
        weights = 1 + controlled.float() * (self.control_weight / 255)
        by_frame = (weights * errors).sum((2, 3))
        if self.step_weights is not None:
            by_frame = by_frame * self.step_weights
        classes = rewards[:, context - 1 :].sign().long() + 1
        reward_loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten())
        targets = self._per_cell(controlled)
        likelihood = (targets * attention.log_softmax(-1)).sum(-1)
        likelihood = likelihood / targets.sum(-1).clamp(min=1)
        reward_loss = reward_loss - ATTENTION_WEIGHT * likelihood.mean()
        return by_frame.mean() + REWARD_WEIGHT * math.prod(predicted.shape[2:]) * reward_loss

    def _per_cell(self, pixels):
        """Mean of the pixels of each cell, (batch, time, cells)."""
        side = math.prod(conv.stride for conv in self.preset.encoder)
        x = F.avg_pool2d(pixels.float(), side, side, ceil_mode=True, count_include_pad=False)
        return x.flatten(2)


def parameter(value: np.ndarray) -> nn.Parameter:
    """A weight of Keras; (height, width, in, out) becomes (out, in, height, width)."""
    value = torch.from_numpy(np.array(value))
    if value.ndim == 4:
        value = value.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return nn.Parameter(value)


def as_keras(value: torch.Tensor) -> np.ndarray:
    """The way back."""
    value = value.detach()
    return (value.permute(2, 3, 1, 0) if value.ndim == 4 else value).numpy()


class TorchMuon(torch.optim.Optimizer):
    """`utils.training.optimizer.Muon` at one rate: Muon for large kernels, Adam for the others."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, products):
        super().__init__(list(parameters), {"lr": learning_rate})
        self.products = products
        by_side, others = defaultdict(list), []
        for p in self.param_groups[0]["params"]:
            side = min(_as_matrix(p).shape)
            (by_side[side] if side >= SHORTEST_SIDE else others).append(p)
        self.by_side = dict(by_side)
        groups = [{"params": [p], "lr": learning_rate * _scale(p)} for p in others]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-7, fused=True)
        self.scales = {p: _scale(p) for group in by_side.values() for p in group}

    @torch.no_grad()
    def step(self) -> None:
        """Moves all parameters."""
        self.adam.step()
        rate = self.param_groups[0]["lr"]
        for group in self.by_side.values():
            for p in group:
                self.state[p].setdefault("momentum", torch.zeros_like(p))
            momenta = [self.state[p]["momentum"] for p in group]
            tall = _ahead(momenta, [p.grad for p in group])
            for p, x, factor in zip(group, tall, _factors(tall), strict=True):
                size = rate * self.scales[p] * UPDATE_SIZE * math.sqrt(len(x))
                update = (x.to(self.products) @ (size * factor).to(self.products)).float()
                matrix = _as_matrix(p)
                update = update if matrix.shape[0] >= matrix.shape[1] else update.T
                p.sub_(_from_matrix(update, p))


def _as_matrix(p):
    """As Keras' layout has it: (height, width, in, out) -> (height * width * in, out)."""
    p = p.permute(2, 3, 1, 0) if p.ndim == 4 else p
    return p.reshape(-1, p.shape[-1])


def _from_matrix(matrix, p):
    if p.ndim != 4:
        return matrix.view(p.shape)
    outputs, inputs, height, width = p.shape
    return matrix.view(height, width, inputs, outputs).permute(3, 2, 0, 1)


def _scale(p):
    deviation = float(p.detach().std(unbiased=False)) if p.ndim > 1 else 0.0
    return deviation / TYPICAL_DEVIATION if deviation else 1.0


def _ahead(momenta, gradients):
    """Adds the gradients to the momenta; what they would be after the same once more, tall."""
    torch._foreach_mul_(momenta, MOMENTUM)
    torch._foreach_add_(momenta, gradients)
    matrices = [
        _as_matrix(MOMENTUM * momentum + gradient)
        for momentum, gradient in zip(momenta, gradients, strict=True)
    ]
    return [m if m.shape[0] >= m.shape[1] else m.T for m in matrices]


def _factors(tall):
    """See `utils.training.optimizer._factors`."""
    gram = torch.stack([x.T @ x for x in tall])
    scale = 1 / (torch.linalg.matrix_norm(gram, keepdim=True) + 1e-18)
    gram, factors = scale * gram, scale.sqrt()
    identity = torch.eye(gram.shape[-1], device=gram.device)
    a, b, c = NEWTON_SCHULZ
    for step in range(NEWTON_SCHULZ_STEPS):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        factors = factors @ polynomial if step else factors * polynomial
        if step < NEWTON_SCHULZ_STEPS - 1:
            gram = polynomial @ gram @ polynomial
    return factors.unbind()


def train(
    model: TorchPretraining,
    batches: Iterable[dict[str, np.ndarray]],
    precision: str,
    learning_rate: float,
    compiled: bool,
    uncounted: int,
) -> list[float]:
    """Trains on batches; returns the seconds of each step but the first `uncounted`."""
    model = model.to(torch_device())
    products = torch.bfloat16 if precision == "bfloat16" else torch.float32
    optimizer = TorchMuon(model.parameters(), learning_rate, products)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    return timed_steps(loss_of, optimizer, batches, PARTS, precision, uncounted)
