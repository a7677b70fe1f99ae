"""The layer tables of the network's sizes.

This module imports neither keras nor numpy, because command lines read it before they import
TensorFlow.
"""

import math
from typing import NamedTuple


class Conv(NamedTuple):
    """One convolution: number of filters, side of the square kernel, stride."""

    filters: int
    size: int
    stride: int


class Preset(NamedTuple):
    """The layer table of one network size."""

    frame_shape: tuple[int, int, int]  # height, width, channels of one frame
    stack: int  # frames that the encoder sees at once, newest last
    encoder: tuple[Conv, ...]
    decoder_start: tuple[int, int, int]  # the decoder's first features: height, width, channels
    decoder: tuple[Conv, ...]  # transposed convolutions; the last one makes the frame
    units: int = 2048  # of the encoding and of the LSTM

    @property
    def context(self) -> int:
        """Frames that pretraining predicts from: two or more, because one shows no motion."""
        return max(self.stack, 2)

    def decoder_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each decoder layer's output.

        Sizes are rounded up, because the encoder's strides round up too.
        """
        sizes = [self.frame_shape[:2]]
        for conv in reversed(self.decoder[1:]):
            sizes.append(tuple(math.ceil(size / conv.stride) for size in sizes[-1]))
        return sizes[::-1]


PRESETS = {
    # The recurrent network of Oh et al. 2015, arXiv 1507.08750 (section 3.1 and appendix): one full
    # RGB frame at a time.
    "lstm_210x160x3": Preset(
        frame_shape=(210, 160, 3),
        stack=1,
        encoder=(Conv(64, 8, 2), Conv(128, 6, 2), Conv(128, 6, 2), Conv(128, 4, 2)),
        decoder_start=(14, 10, 128),
        decoder=(Conv(128, 4, 2), Conv(128, 6, 2), Conv(128, 6, 2), Conv(3, 8, 2)),
    ),
    # The small network of the 2016 repository: the last four grey frames, as a DQN sees them.
    "lstm_84x84x1": Preset(
        frame_shape=(84, 84, 1),
        stack=4,
        encoder=(
            Conv(32, 8, 3),
            Conv(64, 4, 2),
            Conv(128, 3, 1),
            Conv(128, 1, 1),
            Conv(128, 3, 1),
            Conv(32, 1, 1),
        ),
        decoder_start=(14, 14, 32),
        decoder=(
            Conv(64, 1, 1),
            Conv(128, 3, 1),
            Conv(128, 1, 1),
            Conv(128, 3, 1),
            Conv(64, 4, 2),
            Conv(1, 8, 3),
        ),
    ),
}
