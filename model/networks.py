"""The network's parts: frame encoder, frame decoder, heads, and the network that holds them.

Both variants use the same parts; `predictor.py` rolls them out over time. The core between encoder
and decoder is in `core.py`. Shapes are written (batch, time, ...), with 2048 for the preset's
number of units. Backend-neutral: keras and keras.ops only.

Source: Oh et al. 2015, arXiv 1507.08750 (section 3 and appendix: encoder, decoder).
"""

import math

import keras
from keras import ops

from model import subpixel
from model.core import ActionGatedLSTM
from model.presets import PRESETS, Preset

RARE = -5.0  # logit of an end, before training: one step in 150
LEAK = 0.1  # negative slope of every hidden layer's activation


def leaky_relu(x):
    """The activation of every hidden layer."""
    return ops.leaky_relu(x, negative_slope=LEAK)


def frame_encoder(preset: Preset, dtype) -> keras.Sequential:
    """The encoder CNN.

    It maps normalised, stacked frames (batch, height, width, channels * stack) to encodings (batch,
    2048).
    """
    height, width, channels = preset.frame_shape
    layers = [keras.Input((height, width, channels * preset.stack), dtype="float32")]
    for conv in preset.encoder:
        layers.append(
            keras.layers.Conv2D(
                conv.filters,
                conv.size,
                conv.stride,
                padding="same",
                data_format="channels_last",  # whatever the user's Keras is set to
                activation=leaky_relu,
                kernel_initializer="he_normal",
                dtype=dtype,
            )
        )
    layers.append(keras.layers.Flatten(data_format="channels_last", dtype=dtype))
    layers.append(
        keras.layers.Dense(
            preset.units, activation=leaky_relu, kernel_initializer="he_normal", dtype=dtype
        )
    )
    return keras.Sequential(layers, name="frame_encoder")


class FrameDecoder(keras.layers.Layer):
    """The decoder CNN.

    It maps LSTM outputs (batch, 2048) to normalised frames (batch, height, width, channels),
    float32.
    """

    def __init__(self, preset: Preset, dtype):
        super().__init__(dtype=dtype, name="frame_decoder")
        self.preset = preset
        self.dense = keras.layers.Dense(
            math.prod(preset.decoder_start),
            activation=leaky_relu,
            # A large variance, because an LSTM's output starts an order of magnitude smaller than a
            # ReLU layer's. With He initialisation frames would hardly depend on it.
            kernel_initializer=keras.initializers.VarianceScaling(20.0, "fan_in"),
            dtype=dtype,
        )
        self.convs = []
        for i, conv in enumerate(preset.decoder):
            last = i == len(preset.decoder) - 1
            # The last layer starts with a tenth of the deviation. Otherwise training would first
            # shrink the output, because an untrained decoder's output is all error.
            variance = 0.02 if last else 2.0
            # The last layer has one or three filters, which takes another way to be fast.
            layers = subpixel if last else keras.layers
            self.convs.append(
                layers.Conv2DTranspose(
                    conv.filters,
                    conv.size,
                    conv.stride,
                    padding="same",
                    data_format="channels_last",
                    activation=None if last else leaky_relu,
                    kernel_initializer=keras.initializers.VarianceScaling(variance, "fan_in"),
                    dtype=dtype,
                )
            )

    def build(self, input_shape):
        self.dense.build(input_shape)
        shape = (None, *self.preset.decoder_start)
        for conv, size in zip(self.convs, self.preset.decoder_sizes(), strict=True):
            conv.build(shape)
            shape = (None, *size, conv.filters)

    def call(self, h):
        return self.decode_features(ops.reshape(self.dense(h), (-1, *self.preset.decoder_start)))

    def decode_features(self, features):
        """Decodes features (batch, *decoder_start) by the convolutions alone."""
        x, sizes = features, self.preset.decoder_sizes()
        for conv, (height, width) in zip(self.convs, sizes, strict=True):
            x = conv(x)[:, :height, :width]
        return ops.cast(x, "float32")


class RewardHead(keras.layers.Layer):
    """Predicts the reward's sign.

    It maps LSTM outputs (batch, time, 2048) to logits of -1, 0 and +1, (batch, time, 3), float32.

    A reward depends on one position, such as that of an eaten pill, and is alike at all positions.
    So a convolution gives each cell of a grid its own logits and an attention logit. The prediction
    is the attention-weighted mean of the cells' logits (attention pooling: Ilse et al. 2018, arXiv
    1802.04712, section 2.4).
    """

    CHANNELS = 8  # of each cell
    FILTERS = 32

    def __init__(self, preset: Preset, dtype):
        super().__init__(dtype=dtype, name="reward_head")
        height, width, _ = preset.decoder_start
        self.grid_shape = height, width, self.CHANNELS
        self.dense = keras.layers.Dense(math.prod(self.grid_shape), dtype=dtype)
        self.conv = keras.layers.Conv2D(
            self.FILTERS,
            3,
            padding="same",
            data_format="channels_last",
            activation=leaky_relu,
            kernel_initializer="he_normal",
            dtype=dtype,
        )
        self.verdict = keras.layers.Conv2D(
            4, 1, data_format="channels_last", dtype=dtype, name="verdict"
        )

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.conv.build((None, *self.grid_shape))
        self.verdict.build((None, *self.grid_shape[:2], self.FILTERS))

    def call(self, outputs):
        cells = self.dense(ops.reshape(outputs, (-1, outputs.shape[-1])))
        logits, _ = self.logits_and_attention(cells)
        return ops.reshape(logits, (-1, outputs.shape[1], 3))

    def logits_and_attention(self, cells):
        """Predicts from the grid's cells.

        Args:
            cells: pre-activations, (batch, height * width * CHANNELS) or (batch, height, width,
                CHANNELS).

        Returns:
            logits of the reward's sign, (batch, 3), and attention logits of the cells, (batch,
            height * width), float32.
        """
        cells = ops.reshape(leaky_relu(cells), (-1, *self.grid_shape))
        cell_logits = ops.cast(self.verdict(self.conv(cells)), "float32")
        height, width, _ = self.grid_shape
        cell_logits = ops.reshape(cell_logits, (-1, height * width, 4))
        attention_logits = cell_logits[..., 3]
        attention = ops.softmax(attention_logits)[..., None]
        logits = ops.sum(cell_logits[..., :3] * attention, axis=1)
        return logits, attention_logits


class Network(keras.Model):
    """One set of weights: encoder, core, decoder, heads and the frames' statistics.

    A checkpoint holds one network. The heads exist in every stage, trained or not, so that each
    stage's weights fit the next stage's network. Renaming an attribute or property that holds
    layers breaks old checkpoints, because Keras names the variables in weight files by them.

    Args:
        preset: a name in `model.presets.PRESETS`.
        num_actions: size of the action set.
        dtype: dtype policy; the frames' statistics are float32 in all.
    """

    def __init__(self, preset: str, num_actions: int, dtype=None):
        super().__init__(name="network", dtype=dtype)
        self.preset_name, self.preset = preset, PRESETS[preset]
        dtype = self.dtype_policy
        self.encoder = frame_encoder(self.preset, dtype)
        self.core = ActionGatedLSTM(num_actions, self.preset.units, dtype=dtype)
        self.decoder = FrameDecoder(self.preset, dtype)
        self.reward_head = RewardHead(self.preset, dtype)
        # Starts with no end in sight, whatever the input. Random weights would move the LSTM's
        # outputs along a random direction until the head has learned that ends are rare.
        self.termination_head = keras.layers.Dense(
            1,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(RARE),
            dtype="float32",
            name="termination_head",
        )
        shape = self.preset.frame_shape

        def constant(name, shape, value):
            # Always float32, because bfloat16 would round a mean of 142.37 grey levels to 142.
            return self.add_weight(
                shape, value, "float32", trainable=False, autocast=False, name=name
            )

        self.mean_frame = constant("mean_frame", shape, "zeros")
        self.pixel_scale = constant("pixel_scale", (), "ones")
        if shape[-1] == 3:
            self.palette = constant("palette", (256, 3), "zeros")
        self.core.build((None, None, self.preset.units))
        for layer in (self.decoder, self.reward_head, self.termination_head):
            layer.build((None, self.preset.units))
        self.built = True

    def adapt(self, mean_frame, pixel_scale, palette=None):
        """Sets the frames' statistics and the palette.

        Args:
            mean_frame: mean of the training frames, grey levels (height, width, channels).
            pixel_scale: root mean square deviation of all pixels from it, grey levels, scalar.
            palette: RGB of each palette index, (256, 3); None if frames are not palette indices.
        """
        self.mean_frame.assign(mean_frame)
        self.pixel_scale.assign(pixel_scale)
        if palette is not None:
            self.palette.assign(palette)

    def normalise(self, frames):
        """Normalises frames, to float32.

        Args:
            frames: uint8 (batch, time, height, width, channels), or palette indices (batch, time,
                height, width).
        """
        if len(frames.shape) == 4:
            frames = ops.take(self.palette, ops.cast(frames, "int32"), axis=0)
        return (ops.cast(frames, "float32") - self.mean_frame) / self.pixel_scale

    def denormalise(self, frames):
        """Converts normalised frames to grey levels, float32 in 0 to 255."""
        return ops.clip(frames * self.pixel_scale + self.mean_frame, 0.0, 255.0)

    @property
    def convolutions(self):
        """The encoder's layers before its dense layer."""
        return [layer for layer in self.encoder.layers if isinstance(layer, keras.layers.Conv2D)]

    def features(self, frames):
        """Output of the encoder's convolutions.

        Args:
            frames: normalised (batch, stack, height, width, channels).

        Returns:
            (batch, *decoder_start), because the decoder starts from the same shape.
        """
        frames = ops.cast(frames, self.compute_dtype)
        x = ops.concatenate(ops.unstack(frames, axis=1), axis=-1)
        for convolution in self.convolutions:
            x = convolution(x)
        return x

    def encode(self, frames, recent=None):
        """Encodes each frame stacked onto the frames before it, as one batch over time.

        Args:
            frames: normalised (batch, time, height, width, channels).
            recent: the stack - 1 frames before them; None repeats the first frame.

        Returns:
            encodings (batch, time, 2048), and the last stack - 1 frames for the next call.
        """
        time, stack = frames.shape[1], self.preset.stack
        frames = ops.cast(frames, self.compute_dtype)
        if recent is None:
            recent = ops.repeat(frames[:, :1], stack - 1, axis=1)
        frames = ops.concatenate([recent, frames], axis=1)
        stacked = ops.concatenate([frames[:, i : i + time] for i in range(stack)], axis=-1)
        encodings = self.encoder(ops.reshape(stacked, (-1, *stacked.shape[2:])))
        return ops.reshape(encodings, (-1, time, self.preset.units)), frames[:, time:]

    def decode(self, outputs):
        """Decodes LSTM outputs (batch, time, 2048) to normalised frames, as one batch over time."""
        frames = self.decoder(ops.reshape(outputs, (-1, self.preset.units)))
        return ops.reshape(frames, (-1, outputs.shape[1], *self.preset.frame_shape))
