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
