"""The network's parts: frame encoder, action-gated LSTM core, frame decoder, heads.

Both variants are made of the same parts; `predictor.py` says how they are rolled out over time.
Shapes are written (batch, time, ...). Backend-neutral: keras and keras.ops only.

Sources: Oh et al. 2015, arXiv 1507.08750 (encoder, action factors, decoder); the LSTM's own output
as the next input, Oliver Hennigh's Compressing-Dynamical-Systems-Atari (2016) and, for Atari,
Chiappa et al. 2017, arXiv 1704.02254 (prediction-dependent state transition).
"""

import math
from typing import NamedTuple

import keras
from keras import ops


class Conv(NamedTuple):
    """One convolution: number of filters, side of the square kernel, stride."""

    filters: int
    size: int
    stride: int


class Preset(NamedTuple):
    """The layer table of one network size."""

    frame_shape: tuple[int, int, int]  # height, width, channels of one frame
    stack: int  # frames the encoder sees at once, newest last
    encoder: tuple[Conv, ...]
    decoder_start: tuple[int, int, int]  # the decoder's dense layer, as height, width, channels
    decoder: tuple[Conv, ...]  # transposed; the last one makes the frame
    units: int = 2048  # of the encoding, of the LSTM

    def decoder_sizes(self) -> list[tuple[int, int]]:
        """Height and width that each layer of the decoder makes.

        Rounded up, as the encoder's strides do on the way down.
        """
        sizes = [self.frame_shape[:2]]
        for conv in reversed(self.decoder[1:]):
            sizes.append(tuple(math.ceil(size / conv.stride) for size in sizes[-1]))
        return sizes[::-1]


PRESETS = {
    # Oh et al.'s recurrent network (section 3.1 and appendix): one full RGB frame at a time.
    "lstm_210x160x3": Preset(
        frame_shape=(210, 160, 3),
        stack=1,
        encoder=(Conv(64, 8, 2), Conv(128, 6, 2), Conv(128, 6, 2), Conv(128, 4, 2)),
        decoder_start=(14, 10, 128),
        decoder=(Conv(128, 4, 2), Conv(128, 6, 2), Conv(128, 6, 2), Conv(3, 8, 2)),
    ),
    # The 2016 repository's small network: the last four frames, grey, as a DQN sees them.
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


LEAK = 0.1  # slope of every hidden layer's activation below zero


def leaky_relu(x):
    """The activation of every hidden layer."""
    return ops.leaky_relu(x, negative_slope=LEAK)


def frame_encoder(preset: Preset, dtype) -> keras.Sequential:
    """Stacked frames (batch, height, width, channels * stack) -> encoding (batch, 2048)."""
    height, width, channels = preset.frame_shape
    layers = [keras.Input((height, width, channels * preset.stack), dtype="float32")]
    for conv in preset.encoder:
        layers.append(
            keras.layers.Conv2D(
                conv.filters,
                conv.size,
                conv.stride,
                padding="same",
                activation=leaky_relu,
                kernel_initializer="he_normal",
                dtype=dtype,
            )
        )
    layers.append(keras.layers.Flatten(dtype=dtype))
    layers.append(
        keras.layers.Dense(
            preset.units, activation=leaky_relu, kernel_initializer="he_normal", dtype=dtype
        )
    )
    return keras.Sequential(layers, name="frame_encoder")


class FrameDecoder(keras.layers.Layer):
    """LSTM output (batch, 2048) -> normalised frame (batch, height, width, channels), float32."""

    def __init__(self, preset: Preset, dtype):
        super().__init__(dtype=dtype, name="frame_decoder")
        self.preset = preset
        self.dense = keras.layers.Dense(
            math.prod(preset.decoder_start),
            activation=leaky_relu,
            # An LSTM's output starts out an order of magnitude smaller than a ReLU layer's: with a
            # plain He scale the frames would hardly depend on it, and it would not learn.
            kernel_initializer=keras.initializers.VarianceScaling(20.0, "fan_in"),
            dtype=dtype,
        )
        self.convs = []
        for i, conv in enumerate(preset.decoder):
            last = i == len(preset.decoder) - 1
            # The last layer starts a tenth as wide: the first thing to learn would otherwise be to
            # see less, as all that an untrained decoder draws is error.
            variance = 0.02 if last else 2.0
            self.convs.append(
                keras.layers.Conv2DTranspose(
                    conv.filters,
                    conv.size,
                    conv.stride,
                    padding="same",
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
        return self.draw(ops.reshape(self.dense(h), (-1, *self.preset.decoder_start)))

    def draw(self, features):
        """Features (batch, *decoder_start) -> normalised frame, by the convolutions."""
        x, sizes = features, self.preset.decoder_sizes()
        for conv, (height, width) in zip(self.convs, sizes, strict=True):
            x = conv(x)[:, :height, :width]
        return ops.cast(x, "float32")


class ActionGatedLSTM(keras.layers.Layer):
    """The core: ``LSTM((W_y y + b_y) * (W_a a + b_a), (h, c))``, the action before the LSTM.

    It runs over inputs that are known beforehand and then on its own output. What is known
    beforehand is projected for all steps in one product, and the gradient of every weight used
    inside the loop is formed as one product over all steps rather than added up step by step,
    which would move the 2048 x 8192 matrix through memory once a step.
    """

    def __init__(self, num_actions: int, units: int, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="action_gated_lstm")
        self.num_actions = num_actions
        self.units = units

    def build(self, input_shape):
        units, inputs = self.units, input_shape[-1]
        self.input_kernel = self.add_weight((inputs, units), "he_normal", name="input_kernel")
        self.input_bias = self.add_weight((units,), "zeros", name="input_bias")
        # The action's factor starts around one: a product of two factors around zero passes neither
        # signal nor gradient, and the network would predict the mean frame for a long time.
        self.action_kernel = self.add_weight(
            (self.num_actions, units),
            keras.initializers.RandomNormal(stddev=0.5),
            name="action_kernel",
        )
        self.action_bias = self.add_weight((units,), "ones", name="action_bias")
        self.kernel = self._gate_kernel("kernel")
        self.recurrent_kernel = self._gate_kernel("recurrent_kernel")
        self.bias = self.add_weight((4 * units,), _forget_gate_open, name="bias")

    def _gate_kernel(self, name):
        # Narrow: gates that start half open pass more of what they are shown than saturated ones.
        # One initializer each: Keras' draw the same values every time they are called.
        narrow = keras.initializers.VarianceScaling(0.1, "fan_in")
        return self.add_weight((self.units, 4 * self.units), narrow, name=name)

    def call(self, inputs, actions, h, c):
        """Steps over `actions`; input t is ``inputs[:, t]``, and past their end the last output.

        Args:
            inputs: encodings (batch, known, 2048), known >= 1.
            actions: int (batch, time), time >= known.
            h, c: LSTM state, (batch, 2048) each, float32.

        Returns:
            outputs and cells of every step, (batch, time, 2048) each, float32.
        """
        known, dtype = inputs.shape[1], self.compute_dtype

        def cast(weight):
            # A copy, as TensorFlow's custom gradients take tensors and refuse variables.
            return ops.copy(ops.convert_to_tensor(weight, dtype))

        input_kernel, input_bias = cast(self.input_kernel), cast(self.input_bias)
        kernel, bias = cast(self.kernel), cast(self.bias)
        actions = ops.one_hot(actions, self.num_actions, dtype=dtype)
        gate = _affine(actions, cast(self.action_kernel), cast(self.action_bias))
        x = _affine(ops.cast(inputs, dtype), input_kernel, input_bias) * gate[:, :known]
        projected = _affine(x, kernel, bias)
        fed_back = () if known == actions.shape[1] else (input_kernel, input_bias, kernel, bias)
        states = _lstm(projected, gate[:, known:], h, c, cast(self.recurrent_kernel), *fed_back)
        return states[..., : self.units], states[..., self.units :]


def _forget_gate_open(shape, dtype=None):
    """Bias of the four gates (input, forget, candidate, output): one for the forget gate."""
    units = shape[0] // 4
    return ops.concatenate(
        [ops.zeros(units, dtype), ops.ones(units, dtype), ops.zeros(2 * units, dtype)]
    )


def lstm_step(z, c):
    """The LSTM's state from its gates' input z (batch, 8192) and its cell c (batch, 2048).

    Returns h and c after the step, and what the gradient needs: the gates (input, forget,
    candidate, output) and tanh(c).
    """
    z_i, z_f, z_g, z_o = ops.split(z, 4, axis=-1)
    i, f, g, o = ops.sigmoid(z_i), ops.sigmoid(z_f), ops.tanh(z_g), ops.sigmoid(z_o)
    c = f * c + i * g
    tanh_c = ops.tanh(c)
    return o * tanh_c, c, (i, f, g, o), tanh_c


@ops.custom_gradient
def _lstm(projected, gate, h, c, recurrent_kernel, *fed_back_weights):
    """LSTM over `projected` (batch, known, 8192), then over its own output gated by `gate`.

    `fed_back_weights` are input_kernel, input_bias, kernel, bias; none where nothing is fed back.

    Returns outputs and cells of every step, (batch, time, 2048 + 2048), float32. States and
    gates are float32, the products are in the weights' dtype.
    """
    known, fed_back = projected.shape[1], gate.shape[1]
    dtype = recurrent_kernel.dtype
    if fed_back:
        input_kernel, input_bias, kernel, bias = fed_back_weights
    steps = []  # (h before, c before, gates, tanh(c)) of each step, for the gradient
    loop_inputs = []  # (W_y h + b_y, gated) of each step fed back
    outputs = []
    for t in range(known + fed_back):
        h_before = ops.cast(h, dtype)
        if t < known:
            z = projected[:, t]
        else:
            u = h_before @ input_kernel + input_bias
            x = u * gate[:, t - known]
            z = x @ kernel + bias
            loop_inputs.append((u, x))
        z = ops.cast(z, "float32") + ops.cast(h_before @ recurrent_kernel, "float32")
        c_before = c
        h, c, gates, tanh_c = lstm_step(z, c)
        steps.append((h_before, c_before, gates, tanh_c))
        outputs.append(ops.concatenate([h, c], axis=-1))

    def gradient(d_outputs):
        units = h.shape[-1]
        d_h, d_c = ops.zeros_like(h), ops.zeros_like(c)
        d_zs, d_us, d_gates = [], [], []
        for t in reversed(range(known + fed_back)):
            _, c_before, (i, f, g, o), tanh_c = steps[t]
            d_h = d_h + d_outputs[:, t, :units]
            d_c = d_c + d_outputs[:, t, units:] + d_h * o * (1 - tanh_c * tanh_c)
            d_z = ops.concatenate(
                [
                    d_c * g * i * (1 - i),
                    d_c * c_before * f * (1 - f),
                    d_c * i * (1 - g * g),
                    d_h * tanh_c * o * (1 - o),
                ],
                axis=-1,
            )
            d_z = ops.cast(d_z, dtype)
            d_zs.append(d_z)
            d_c = d_c * f
            d_h = d_z @ ops.transpose(recurrent_kernel)
            if t >= known:
                u, _ = loop_inputs[t - known]
                d_x = d_z @ ops.transpose(kernel)
                d_gates.append(d_x * u)
                d_u = d_x * gate[:, t - known]
                d_us.append(d_u)
                d_h = d_h + d_u @ ops.transpose(input_kernel)
            d_h = ops.cast(d_h, "float32")
        d_z = ops.stack(d_zs[::-1], axis=1)
        h_before = ops.stack([step[0] for step in steps], axis=1)
        d_recurrent_kernel = _outer(h_before, d_z)
        if fed_back:
            d_u, d_gate = ops.stack(d_us[::-1], axis=1), ops.stack(d_gates[::-1], axis=1)
            x = ops.stack([x for _, x in loop_inputs], axis=1)
            d_loop = d_z[:, known:]
            d_weights = (
                _outer(h_before[:, known:], d_u),
                ops.sum(d_u, axis=(0, 1)),
                _outer(x, d_loop),
                ops.sum(d_loop, axis=(0, 1)),
            )
        else:
            d_gate, d_weights = ops.zeros_like(gate), ()
        return (d_z[:, :known], d_gate, d_h, d_c, d_recurrent_kernel, *d_weights)

    return ops.stack(outputs, axis=1), gradient


def _affine(x, kernel, bias):
    """``x @ kernel + bias`` of x (batch, time, inputs), as one plain matrix product.

    TensorFlow's gradient of the batched product forms one kernel gradient per sample.
    """
    flat = ops.reshape(x, (-1, x.shape[-1])) @ kernel + bias
    return ops.reshape(flat, (-1, x.shape[1], kernel.shape[-1]))


def _outer(a, b):
    """Sum over batch and time of the outer products of a's and b's last axes."""
    a = ops.reshape(a, (-1, a.shape[-1]))
    b = ops.reshape(b, (-1, b.shape[-1]))
    return ops.transpose(a) @ b


class RewardHead(keras.layers.Layer):
    """LSTM outputs (batch, time, 2048) -> logits of the reward's sign, (batch, time, 3), float32.

    A reward is decided in one place, as where a pill is eaten, and it is the same in all places. So
    each place has logits, found by a convolution, and how far it is the one to look at; the answer
    is the mean so weighted (attention pooling: Ilse et al. 2018, arXiv 1802.04712, section 2.4).
    """

    CHANNELS = 8  # what a place is told by
    FILTERS = 32

    def __init__(self, preset: Preset, dtype):
        super().__init__(dtype=dtype, name="reward_head")
        height, width, _ = preset.decoder_start
        self.grid = height, width, self.CHANNELS
        self.dense = keras.layers.Dense(math.prod(self.grid), dtype=dtype)
        self.conv = keras.layers.Conv2D(
            self.FILTERS,
            3,
            padding="same",
            activation=leaky_relu,
            kernel_initializer="he_normal",
            dtype=dtype,
        )
        self.verdict = keras.layers.Conv2D(4, 1, dtype=dtype, name="verdict")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.conv.build((None, *self.grid))
        self.verdict.build((None, *self.grid[:2], self.FILTERS))

    def call(self, outputs):
        logits, _ = self.judge(self.dense(ops.reshape(outputs, (-1, outputs.shape[-1]))))
        return ops.reshape(logits, (-1, outputs.shape[1], 3))

    def judge(self, places):
        """What is made of places (batch, height * width * CHANNELS), before their activation.

        Returns:
            logits of the reward's sign, (batch, 3), and of the place to look at, (batch, height *
            width), float32.
        """
        places = ops.reshape(leaky_relu(places), (-1, *self.grid))
        verdict = ops.cast(self.verdict(self.conv(places)), "float32")
        verdict = ops.reshape(verdict, (-1, self.grid[0] * self.grid[1], 4))
        where = verdict[..., 3]
        logits = ops.sum(verdict[..., :3] * ops.softmax(where)[..., None], axis=1)
        return logits, where


class Network(keras.Model):
    """One set of weights: encoder, core, decoder, heads and what the data looks like.

    It is what a checkpoint holds. The heads exist in every stage, trained or not, so that a stage's
    weights always fit the next one's network.
    """

    def __init__(self, preset: str, num_actions: int, dtype=None):
        super().__init__(name="network", dtype=dtype)
        self.preset_name, self.preset = preset, PRESETS[preset]
        dtype = self.dtype_policy
        self.encoder = frame_encoder(self.preset, dtype)
        self.core = ActionGatedLSTM(num_actions, self.preset.units, dtype=dtype)
        self.decoder = FrameDecoder(self.preset, dtype)
        self.reward_head = RewardHead(self.preset, dtype)
        self.termination_head = keras.layers.Dense(1, dtype="float32", name="termination_head")
        shape = self.preset.frame_shape

        def constant(name, shape, value):
            # Never rounded: in bfloat16 a mean of 142.37 grey levels would be 142.
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
        """Sets what is subtracted from and divided out of every frame, and the colours.

        Args:
            mean_frame: the training frames' mean, grey levels (height, width, channels).
            pixel_scale: all pixels' root mean square deviation from it, grey levels, scalar.
            palette: RGB of each palette index, (256, 3); None where frames are not indices.
        """
        self.mean_frame.assign(mean_frame)
        self.pixel_scale.assign(pixel_scale)
        if palette is not None:
            self.palette.assign(palette)

    def normalise(self, frames):
        """uint8 frames or palette indices (batch, time, height, width[, channels]) -> float32."""
        if len(frames.shape) == 4:
            frames = ops.take(self.palette, ops.cast(frames, "int32"), axis=0)
        return (ops.cast(frames, "float32") - self.mean_frame) / self.pixel_scale

    def denormalise(self, frames):
        """Normalised frames -> float32 in 0 to 255."""
        return ops.clip(frames * self.pixel_scale + self.mean_frame, 0.0, 255.0)

    @property
    def convolutions(self):
        """The encoder's layers up to its dense one."""
        return [layer for layer in self.encoder.layers if isinstance(layer, keras.layers.Conv2D)]

    def features(self, frames):
        """What the convolutions see in normalised frames (batch, stack, height, width, channels).

        (batch, *decoder_start): the decoder's begin with the same shape.
        """
        frames = ops.cast(frames, self.compute_dtype)
        x = ops.concatenate(ops.unstack(frames, axis=1), axis=-1)
        for convolution in self.convolutions:
            x = convolution(x)
        return x

    def encode(self, frames, before=None):
        """Encodes all frames as one batch over time.

        Args:
            frames: normalised (batch, time, height, width, channels).
            before: the stack - 1 frames before them; None repeats the first frame.

        Returns:
            encodings (batch, time, 2048); the last stack - 1 frames, for the next call.
        """
        time, stack = frames.shape[1], self.preset.stack
        frames = ops.cast(frames, self.compute_dtype)
        if before is None:
            before = ops.repeat(frames[:, :1], stack - 1, axis=1)
        frames = ops.concatenate([before, frames], axis=1)
        stacked = ops.concatenate([frames[:, i : i + time] for i in range(stack)], axis=-1)
        encodings = self.encoder(ops.reshape(stacked, (-1, *stacked.shape[2:])))
        return ops.reshape(encodings, (-1, time, self.preset.units)), frames[:, time:]

    def decode(self, outputs):
        """LSTM outputs (batch, time, 2048) -> normalised frames, as one batch over time."""
        frames = self.decoder(ops.reshape(outputs, (-1, self.preset.units)))
        return ops.reshape(frames, (-1, outputs.shape[1], *self.preset.frame_shape))
