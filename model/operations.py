"""How many multiplications the network's parts take, from the layer tables alone."""

import math
from typing import NamedTuple

from model.presets import Preset


class Multiplications(NamedTuple):
    """Of one frame, or one step of the core. Each comes with an addition."""

    first_layer: int  # the encoder's first convolution, part of `encoder`
    encoder: int
    decoder: int
    core: int


def multiplications(preset: Preset, num_actions: int) -> Multiplications:
    """Counts them for a preset and a size of the action set."""
    height, width, channels = preset.frame_shape
    channels *= preset.stack
    encoder = []
    for conv in preset.encoder:
        height, width = math.ceil(height / conv.stride), math.ceil(width / conv.stride)
        encoder.append(height * width * channels * conv.filters * conv.size**2)
        channels = conv.filters
    units = preset.units
    dense = height * width * channels * units
    height, width, channels = preset.decoder_start
    decoder = units * height * width * channels
    for conv, size in zip(preset.decoder, preset.decoder_sizes(), strict=True):
        decoder += height * width * channels * conv.filters * conv.size**2
        height, width, channels = *size, conv.filters
    core = units * units + num_actions * units + 2 * units * 4 * units
    return Multiplications(encoder[0], sum(encoder) + dense, decoder, core)


class Parameters(NamedTuple):
    """Trained numbers of each part of the network."""

    encoder_convolutions: int
    encoder_dense: int
    core: int
    decoder_dense: int
    decoder_convolutions: int
    heads: int  # of the reward and of the end of an episode


# Of `model.networks.RewardHead`, which imports keras.
_CELL_CHANNELS, _CELL_FILTERS, _CELL_LOGITS = 8, 32, 4


def parameters(preset: Preset, num_actions: int) -> Parameters:
    """Counts them for a preset and a size of the action set."""

    def layer(inputs, outputs):
        return inputs * outputs + outputs

    height, width, channels = preset.frame_shape
    channels *= preset.stack
    encoder = 0
    for conv in preset.encoder:
        height, width = math.ceil(height / conv.stride), math.ceil(width / conv.stride)
        encoder += layer(conv.size**2 * channels, conv.filters)
        channels = conv.filters
    units, features = preset.units, math.prod(preset.decoder_start)
    gates = layer(2 * units, 4 * units)
    decoder, inputs = 0, preset.decoder_start[-1]
    for conv in preset.decoder:
        decoder += layer(conv.size**2 * inputs, conv.filters)
        inputs = conv.filters
    cells = math.prod(preset.decoder_start[:2])
    reward = layer(units, cells * _CELL_CHANNELS) + layer(9 * _CELL_CHANNELS, _CELL_FILTERS)
    reward += layer(_CELL_FILTERS, _CELL_LOGITS)
    return Parameters(
        encoder_convolutions=encoder,
        encoder_dense=layer(height * width * channels, units),
        core=layer(units, units) + layer(num_actions, units) + gates,
        decoder_dense=layer(units, features),
        decoder_convolutions=decoder,
        heads=reward + layer(units, 1),
    )
