"""The peer: the same network in PyTorch, as somebody who knows PyTorch would write and run it.

Convolutions see all frames of a batch at once, channels last. It uses torch.compile, the fused Adam
and, where the machine is faster in it, bfloat16 autocast. Weights keep Keras' layout where a
product takes them as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.limits import torch_device
from model.presets import PRESETS, Preset


class Normaliser(nn.Module):
    """Normalises frames as `model.networks.Network` does.

    Args:
        mean: subtracted from every frame, (height, width, channels).
        scale: every frame is divided by it.
        palette: RGB of each palette index, (256, 3); None if frames are not palette indices.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, palette: np.ndarray | None):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.array(mean)))
        self.register_buffer("scale", torch.tensor(float(scale)))
        if palette is not None:
            self.register_buffer("palette", torch.from_numpy(np.array(palette)))

    def normalise(self, frames):
        """uint8 (batch, time, height, width[, channels]) -> normalised float32 frames."""
        if frames.ndim == 4:
            frames = self.palette[frames.long()]
        return (frames.float() - self.mean) / self.scale


class TorchNetwork(Normaliser):
    """`model.networks.Network` with the same parameters in the same order.

    Args:
        preset: a name in `PRESETS`.
        num_actions: size of the action set.
        weights: the trained weights of a `Network`, arrays in its order.
        mean: subtracted from every frame, (height, width, channels).
        scale: every frame is divided by it.
        palette: RGB of each palette index, (256, 3); None if frames are not palette indices.
    """

    def __init__(
        self,
        preset: str,
        num_actions: int,
        weights: list[np.ndarray],
        mean: np.ndarray,
        scale: np.ndarray,
        palette: np.ndarray | None = None,
    ):
        super().__init__(mean, scale, palette)
        self.preset = preset = PRESETS[preset]
        self.num_actions = num_actions
        weights = [torch.from_numpy(np.array(value)) for value in weights]
        take = iter(weights)

        def parameter(*axes):
            value = next(take)
            value = value.permute(*axes) if axes else value
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            return nn.Parameter(value.contiguous(memory_format=layout))

        def convs(layers, *axes):
            return nn.ParameterList([p for _ in layers for p in (parameter(*axes), parameter())])

        self.encoder_convs = convs(preset.encoder, 3, 2, 0, 1)
        # Flattened over (height, width, channels), as Keras does.
        self.encoder_dense = nn.ParameterList([parameter(), parameter()])
        self.input_kernel, self.input_bias = parameter(), parameter()
        self.action_kernel, self.action_bias = parameter(), parameter()
        self.kernel, self.recurrent_kernel, self.bias = parameter(), parameter(), parameter()
        self.decoder_dense = nn.ParameterList([parameter(), parameter()])
        self.decoder_convs = convs(preset.decoder, 3, 2, 0, 1)
        # The heads, for imagination: the benchmarks do not train them.
        self.reward_dense = nn.ParameterList([parameter(), parameter()])
        self.reward_convs = convs(range(2), 3, 2, 0, 1)
        self.termination_head = nn.ParameterList([parameter(), parameter()])
        assert next(take, None) is None, "a weight of the Keras network has no counterpart"

    def encode(self, frames, before=None):
        """Encodes frames.

        Args:
            frames: normalised (batch, time, height, width, channels).
            before: the frames before them that are stacked with the first; None: it repeats.

        Returns:
            encodings (batch, time, units), and `before` for the next call.
        """
        batch, time_, *_ = frames.shape
        stack = self.preset.stack
        if before is None:
            before = frames[:, :1].repeat_interleave(stack - 1, 1)
        frames = torch.cat([before, frames], 1)
        x = torch.cat([frames[:, i : i + time_] for i in range(stack)], -1)
        x = x.flatten(0, 1).permute(0, 3, 1, 2)  # channels first by name, last in memory
        x = convolve(x, self.preset, self.encoder_convs)
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = F.leaky_relu(x @ self.encoder_dense[0] + self.encoder_dense[1], 0.1)
        return x.unflatten(0, (batch, time_)), frames[:, time_:]

    def step(self, y, action, h, c):
        """One step of the core from encodings or outputs y; `action` is one-hot. Returns h, c."""
        x = y @ self.input_kernel + self.input_bias
        x = x * (action @ self.action_kernel + self.action_bias)
        z = x @ self.kernel + h.to(x.dtype) @ self.recurrent_kernel + self.bias
        i, f, g, o = z.float().chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def decode(self, h):
        """LSTM outputs (batch, time, units) -> normalised frames."""
        batch, time_, _ = h.shape
        height, width, channels = self.preset.decoder_start
        x = F.leaky_relu(h.flatten(0, 1) @ self.decoder_dense[0] + self.decoder_dense[1], 0.1)
        x = x.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
        x = deconvolve(x, self.preset, self.decoder_convs)
        return x.permute(0, 2, 3, 1).unflatten(0, (batch, time_)).float()

    def heads(self, h):
        """LSTM outputs (batch, time, units) -> probabilities of the reward's signs and of ends."""
        height, width, _ = self.preset.decoder_start
        places = h.flatten(0, 1)
        x = F.leaky_relu(places @ self.reward_dense[0] + self.reward_dense[1], 0.1)
        x = x.unflatten(1, (height, width, -1)).permute(0, 3, 1, 2)
        x = F.leaky_relu(F.conv2d(x, self.reward_convs[0], self.reward_convs[1], padding=1), 0.1)
        cells = F.conv2d(x, self.reward_convs[2], self.reward_convs[3]).float().flatten(2)
        cell_logits, attention_logits = cells[:, :3], cells[:, 3:]
        logits = (cell_logits * attention_logits.softmax(2)).sum(2)
        ends = places @ self.termination_head[0] + self.termination_head[1]
        reward, termination = logits.softmax(1), ends[:, 0].float().sigmoid()
        return reward.unflatten(0, h.shape[:2]), termination.unflatten(0, h.shape[:2])

    def forward(self, frames, actions, predictions, variant):
        """What a training step computes: the last `predictions` frames, normalised, predicted."""
        warmup = frames.shape[1] - predictions
        actions = F.one_hot(actions.long(), self.num_actions).float()
        encodings, recent = self.encode(self.normalise(frames[:, :warmup]))
        h = c = encodings.new_zeros(len(frames), self.preset.units, dtype=torch.float32)
        outputs, pictures = [], []
        for t in range(actions.shape[1]):
            if t < warmup:
                y = encodings[:, t]
            elif variant == "compression":
                y = h
            else:
                encoding, recent = self.encode(pictures[-1], recent)
                y = encoding[:, 0]
            h, c = self.step(y, actions[:, t], h, c)
            if t >= warmup - 1:
                outputs.append(h)
                if variant == "paper":
                    pictures.append(self.decode(h[:, None]))
        if variant == "paper":
            return torch.cat(pictures, 1)
        return self.decode(torch.stack(outputs, 1))


def convolve(x: torch.Tensor, preset: Preset, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The encoder's convolutions, by a kernel and a bias for each; channels first by name."""
    for i, conv in enumerate(preset.encoder):
        # "Same" padding, the odd pixel at the end.
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((math.ceil(size / conv.stride) - 1) * conv.stride + conv.size - size, 0)
            pads += [total // 2, total - total // 2]
        kernel, bias = parameters[2 * i], parameters[2 * i + 1]
        x = F.leaky_relu(F.conv2d(F.pad(x, pads), kernel, bias, stride=conv.stride), 0.1)
    return x


def deconvolve(x: torch.Tensor, preset: Preset, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The decoder's convolutions, by a kernel and a bias for each; channels first by name."""
    for i, (conv, size) in enumerate(zip(preset.decoder, preset.decoder_sizes(), strict=True)):
        kernel, bias = parameters[2 * i], parameters[2 * i + 1]
        crop = (conv.size - conv.stride) // 2
        x = F.conv_transpose2d(x, kernel, bias, stride=conv.stride, padding=crop)
        x = x[:, :, : size[0], : size[1]]
        if i < len(preset.decoder) - 1:
            x = F.leaky_relu(x, 0.1)
    return x


def train(
    network: TorchNetwork,
    batches: Iterable[dict[str, np.ndarray]],
    predictions: int,
    variant: str,
    precision: str,
    uncounted: int,
    learning_rate: float = 1e-4,
) -> list[float]:
    """Trains on batches; returns the seconds of each step but the first `uncounted`."""
    device = torch_device()
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)

    @torch.compile
    def loss_of(frames, actions):
        predicted = network(frames, actions, predictions, variant)
        error = predicted - network.normalise(frames[:, -predictions:])
        return 0.5 * error.square().sum((2, 3, 4)).mean()

    return timed_steps(loss_of, optimizer, batches, ("frames", "actions"), precision, uncounted)


def timed_steps(
    loss_of: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, np.ndarray]],
    parts: Sequence[str],
    precision: str,
    uncounted: int,
) -> list[float]:
    """Takes a step on each batch; returns the seconds of each but the first `uncounted`.

    Args:
        loss_of: maps the batch's parts to the loss.
        optimizer: of all that is trained.
        batches: dicts of arrays.
        parts: which of them the loss takes, in order.
        precision: "bfloat16" for autocast, else "float32".
        uncounted: steps in which compilation goes on.
    """
    device = torch_device()
    seconds = []
    started = time.perf_counter()
    for batch in batches:
        inputs = [torch.as_tensor(batch[part]).to(device) for part in parts]
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(*inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    return seconds[uncounted:]
