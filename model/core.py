"""The network's core: an LSTM whose input is gated by the action.

Its input gate follows the action factors of Oh et al. 2015, arXiv 1507.08750 (section 3.2), who
apply them after the LSTM. Feeding the LSTM's output back as its input follows Oliver Hennigh's
Compressing-Dynamical-Systems-Atari (2016) and Chiappa et al. 2017, arXiv 1704.02254
(prediction-dependent state transition).

Shapes are written (batch, time, ...), with 2048 for the preset's number of units.
"""

import keras
import numpy as np
from keras import ops

CANDIDATE = 2  # its place among the gates (input, forget, candidate, output)


class ActionGatedLSTM(keras.layers.Layer):
    """The core: ``LSTM((W_y y + b_y) * (W_a a + b_a), (h, c))``, the action before the LSTM.

    It first steps over given inputs y, and then over its own outputs. The given inputs of all steps
    are projected in one product. The gradient of each weight inside the loop is one product over
    all steps. Adding it up step by step would move the 2048 x 8192 matrix through memory each time.

    After a handover (`handover.py`) the kernels of the input, forget and output gate are 0.
    `hold_gates` then leaves them out of all products, so training leaves them at 0, too.

    Args:
        num_actions: size of the action set.
        units: of the input, the output and the cell.
        dtype: the layer's dtype or dtype policy.
    """

    def __init__(self, num_actions: int, units: int, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="action_gated_lstm")
        self.num_actions = num_actions
        self.units = units
        self.gates_are_held = False

    def has_constant_gates(self) -> bool:
        """Whether the kernels of the input, forget and output gate are 0."""
        kernels = map(ops.convert_to_numpy, (self.kernel, self.recurrent_kernel))
        return not any(np.delete(kernel, self.candidate, axis=1).any() for kernel in kernels)

    def hold_gates(self) -> None:
        """Keeps constant gates as they are. To be called before compilation."""
        self.gates_are_held = self.has_constant_gates()

    def build(self, input_shape):
        units, inputs = self.units, input_shape[-1]
        self.input_kernel = self.add_weight((inputs, units), "he_normal", name="input_kernel")
        self.input_bias = self.add_weight((units,), "zeros", name="input_bias")
        # The action's factor starts around 1. A product of two factors around 0 would pass neither
        # signal nor gradient. The network would predict the mean frame for a long time.
        self.action_kernel = self.add_weight(
            (self.num_actions, units),
            keras.initializers.RandomNormal(stddev=0.5),
            name="action_kernel",
        )
        self.action_bias = self.add_weight((units,), "ones", name="action_bias")
        self.kernel = self._gate_kernel("kernel")
        self.recurrent_kernel = self._gate_kernel("recurrent_kernel")
        self.bias = self.add_weight((4 * units,), _initial_gate_bias, name="bias")

    def _gate_kernel(self, name):
        # A small variance, because half-open gates pass more of their input than saturated ones.
        # Each kernel has an initializer of its own: a Keras initializer repeats its values.
        small_variance = keras.initializers.VarianceScaling(0.1, "fan_in")
        return self.add_weight((self.units, 4 * self.units), small_variance, name=name)

    def call(self, inputs, actions, h, c):
        """Steps over `actions`.

        The input of step t is ``inputs[:, t]``, or the previous output once `inputs` has ended.

        Args:
            inputs: encodings (batch, given, 2048), given >= 1.
            actions: int (batch, time), time >= given.
            h, c: LSTM state, (batch, 2048) each, float32.

        Returns:
            outputs and cells of every step, (batch, time, 2048) each, float32.
        """
        given, dtype = inputs.shape[1], self.compute_dtype

        def cast(weight, dtype=dtype):
            # A copy, because TensorFlow's custom gradients take tensors and refuse variables.
            return ops.copy(ops.convert_to_tensor(weight, dtype))

        def computed(weight):
            return weight[..., self.candidate] if self.gates_are_held else weight

        input_kernel, input_bias = cast(self.input_kernel), cast(self.input_bias)
        kernel, bias = cast(computed(self.kernel)), cast(computed(self.bias))
        recurrent_kernel = cast(computed(self.recurrent_kernel))
        actions = ops.one_hot(actions, self.num_actions, dtype=dtype)
        factors = _affine(actions, cast(self.action_kernel), cast(self.action_bias))
        x = _affine(ops.cast(inputs, dtype), input_kernel, input_bias) * factors[:, :given]
        projected = _affine(x, kernel, bias)
        feedback = () if given == actions.shape[1] else (input_kernel, input_bias, kernel, bias)
        gate_bias = cast(self.bias, "float32")
        states = _lstm(projected, factors[:, given:], h, c, recurrent_kernel, gate_bias, *feedback)
        return states[..., : self.units], states[..., self.units :]

    @property
    def candidate(self) -> slice:
        """The candidate's columns in the kernels and the bias of all gates."""
        return slice(CANDIDATE * self.units, (CANDIDATE + 1) * self.units)


def _initial_gate_bias(shape, dtype=None):
    """Bias of the four gates (input, forget, candidate, output): 1 for the forget gate."""
    units = shape[0] // 4
    return ops.concatenate(
        [ops.zeros(units, dtype), ops.ones(units, dtype), ops.zeros(2 * units, dtype)]
    )


def lstm_step(z, c):
    """One step of the LSTM from the gates' pre-activations.

    Args:
        z: pre-activations of the gates (input, forget, candidate, output), (batch, 8192).
        c: cell before the step, (batch, 2048).

    Returns:
        h and c after the step and, for the gradient, the four gates and tanh(c).
    """
    z_i, z_f, z_g, z_o = ops.split(z, 4, axis=-1)
    i, f, g, o = ops.sigmoid(z_i), ops.sigmoid(z_f), ops.tanh(z_g), ops.sigmoid(z_o)
    c = f * c + i * g
    tanh_c = ops.tanh(c)
    return o * tanh_c, c, (i, f, g, o), tanh_c


@ops.custom_gradient
def _lstm(projected, factors, h, c, recurrent_kernel, gate_bias, *feedback_weights):
    """LSTM over given inputs, then over its own outputs.

    States and gates are float32; the products are in the weights' dtype. Where the gates are held,
    pre-activations are those of the candidate alone, 2048 in place of 8192.

    Args:
        projected: pre-activations from the given inputs, (batch, given, 8192).
        factors: the action's factors of the steps after those, (batch, fed_back, 2048).
        h, c: state before the first step.
        recurrent_kernel: (2048, 8192).
        gate_bias: (8192,), which the gates follow from where they are held.
        feedback_weights: input_kernel, input_bias, kernel and bias; empty if fed_back is 0.

    Returns:
        outputs and cells of every step, concatenated, (batch, time, 2048 + 2048), float32.
    """
    given, fed_back = projected.shape[1], factors.shape[1]
    dtype = recurrent_kernel.dtype
    gates_are_held = recurrent_kernel.shape[1] < gate_bias.shape[0]
    if fed_back:
        input_kernel, input_bias, kernel, bias = feedback_weights
    steps = []  # h and c before the step, gates and tanh(c) of each step, for the gradient
    feedback = []  # W_y h + b_y and its product with the factors, of each step fed back
    states = []
    for t in range(given + fed_back):
        h_before = ops.cast(h, dtype)
        if t < given:
            z = projected[:, t]
        else:
            u = h_before @ input_kernel + input_bias
            x = u * factors[:, t - given]
            z = x @ kernel + bias
            feedback.append((u, x))
        z = ops.cast(z, "float32") + ops.cast(h_before @ recurrent_kernel, "float32")
        if gates_are_held:
            z = _with_gates(z, gate_bias)
        c_before = c
        h, c, gates, tanh_c = lstm_step(z, c)
        steps.append((h_before, c_before, gates, tanh_c))
        states.append(ops.concatenate([h, c], axis=-1))

    def gradient(d_states):
        return _lstm_gradient(
            d_states, steps, feedback, factors, recurrent_kernel, gate_bias, feedback_weights
        )

    return ops.stack(states, axis=1), gradient


def _with_gates(z, gate_bias):
    """The candidate's pre-activations (batch, 2048) among those of held gates, (batch, 8192)."""
    gates = [ops.broadcast_to(bias, ops.shape(z)) for bias in ops.split(gate_bias, 4)]
    gates[CANDIDATE] = z
    return ops.concatenate(gates, axis=-1)


def _lstm_gradient(
    d_states, steps, feedback, factors, recurrent_kernel, gate_bias, feedback_weights
):
    """Back-propagation through time of `_lstm`: the gradients of its arguments, in their order."""
    given, dtype = len(steps) - len(feedback), recurrent_kernel.dtype
    if feedback:
        input_kernel, _, kernel, _ = feedback_weights
    c_last = steps[-1][1]
    units = c_last.shape[-1]
    d_h, d_c = ops.zeros_like(c_last), ops.zeros_like(c_last)
    d_zs, d_us, d_factors = [], [], []
    gates_are_held = recurrent_kernel.shape[1] < gate_bias.shape[0]
    d_gate_bias = ops.zeros_like(gate_bias)
    for t in reversed(range(len(steps))):
        _, c_before, (i, f, g, o), tanh_c = steps[t]
        d_h = d_h + d_states[:, t, :units]
        d_c = d_c + d_states[:, t, units:] + d_h * o * (1 - tanh_c * tanh_c)
        d_gates = [
            d_c * g * i * (1 - i),
            d_c * c_before * f * (1 - f),
            d_c * i * (1 - g * g),
            d_h * tanh_c * o * (1 - o),
        ]
        if gates_are_held:
            d_z = d_gates[CANDIDATE]
            d_gates[CANDIDATE] = ops.zeros_like(d_z)  # its bias is added before
            d_gate_bias = d_gate_bias + ops.sum(ops.concatenate(d_gates, axis=-1), axis=0)
        else:
            d_z = ops.concatenate(d_gates, axis=-1)
        d_z = ops.cast(d_z, dtype)
        d_zs.append(d_z)
        d_c = d_c * f
        d_h = d_z @ ops.transpose(recurrent_kernel)
        if t >= given:
            u, _ = feedback[t - given]
            d_x = d_z @ ops.transpose(kernel)
            d_factors.append(d_x * u)
            d_u = d_x * factors[:, t - given]
            d_us.append(d_u)
            d_h = d_h + d_u @ ops.transpose(input_kernel)
        d_h = ops.cast(d_h, "float32")
    d_z = ops.stack(d_zs[::-1], axis=1)
    h_before = ops.stack([step[0] for step in steps], axis=1)
    d_recurrent_kernel = _sum_of_outer_products(h_before, d_z)
    if not feedback:
        return d_z, ops.zeros_like(factors), d_h, d_c, d_recurrent_kernel, d_gate_bias
    d_u, d_factors = ops.stack(d_us[::-1], axis=1), ops.stack(d_factors[::-1], axis=1)
    x = ops.stack([x for _, x in feedback], axis=1)
    d_z_fed_back = d_z[:, given:]
    d_feedback_weights = (
        _sum_of_outer_products(h_before[:, given:], d_u),
        ops.sum(d_u, axis=(0, 1)),
        _sum_of_outer_products(x, d_z_fed_back),
        ops.sum(d_z_fed_back, axis=(0, 1)),
    )
    before = d_z[:, :given], d_factors, d_h, d_c, d_recurrent_kernel, d_gate_bias
    return *before, *d_feedback_weights


def _affine(x, kernel, bias):
    """``x @ kernel + bias`` of x (batch, time, inputs), as one plain matrix product.

    TensorFlow's gradient of the batched product would form one kernel gradient per sample.
    """
    flat = ops.reshape(x, (-1, x.shape[-1])) @ kernel + bias
    return ops.reshape(flat, (-1, x.shape[1], kernel.shape[-1]))


def _sum_of_outer_products(a, b):
    """Sum over batch and time of the outer products of a's and b's last axes."""
    a = ops.reshape(a, (-1, a.shape[-1]))
    b = ops.reshape(b, (-1, b.shape[-1]))
    return ops.transpose(a) @ b
