"""Fast rollouts of the compression variant: one affine map for each action.

If its own output h is its input, the core of `core.py` computes the gates' pre-activations

    z = ((h W_y + b_y) * g_a) W + h U + b,    g_a = W_a a + b_a.

For a given action a that is affine in h: z = h M_a + m_a with M_a = W_y diag(g_a) W + U. One
product replaces three, with 2.25 times fewer operations and bytes. A batch's rows are grouped by
their action, and what several action sequences begin with is computed once.

If the gates are constant, as after a handover, only the candidate's quarter of z is computed, and
most of that without a product (see `affine_maps.py`).
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from model.affine_maps import AffineMap, MirroredMap, constant
from model.core import CANDIDATE, ActionGatedLSTM, lstm_step
from model.predictor import FramePredictor, Imagination, State, decode_outputs

# Matrices of all four gates that `Transitions` may read without being slower than `Imagination`:
# this many, and one more for each so many rows of the batch. Measured on a processor with two
# cores, where a matrix costs 1.7 ms and a row 0.07 ms; the core's three products cost 2.6 ms and
# 0.17 ms for each row.
FREE_MATRICES, ROWS_PER_FURTHER_MATRIX = 3, 12
CORE_WEIGHTS = (
    "input_kernel",
    "input_bias",
    "action_kernel",
    "action_bias",
    "kernel",
    "recurrent_kernel",
    "bias",
)


class Transitions(keras.layers.Layer):
    """The affine maps of the actions, computed once from a core's weights.

    The maps take 34 MB for each action in bfloat16, or 2 MB after a handover. They do not follow
    later changes of the weights. Group sizes are known only at run time. TensorFlow's graphs and
    eager execution allow that, XLA and JAX do not.

    Args:
        core: the core with the weights.
        dtype: of the matrices; the state stays float32.

    Attributes:
        gates: the input, forget and output gates, (2048,) each, if they are constant; else None.
        maps: of each action, of the gates that are computed.
        share: of a map's multiplications that are left to do.
    """

    def __init__(self, core: ActionGatedLSTM, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="transitions")
        # Keras turns XLA on on GPUs, where it would compile anew for every batch.
        self.supports_jit = False
        self.units = core.units
        self.num_actions = core.num_actions

        def float32(name):
            return np.asarray(ops.convert_to_tensor(getattr(core, name), "float32"))

        weights = {name: float32(name) for name in CORE_WEIGHTS}
        gates = [slice(n * self.units, (n + 1) * self.units) for n in range(4)]
        candidate = gates.pop(CANDIDATE)
        gates_are_constant = core.has_constant_gates()
        self.gates = None
        if gates_are_constant:
            self.gates = [
                constant(self, ops.sigmoid(weights["bias"][gate]), "float32") for gate in gates
            ]
            for name in ("kernel", "recurrent_kernel", "bias"):
                weights[name] = weights[name][..., candidate]
        kind = MirroredMap if gates_are_constant else AffineMap
        self.maps = []
        for factor in weights["action_kernel"] + weights["action_bias"]:
            matrix = ops.matmul(weights["input_kernel"] * factor, weights["kernel"])
            matrix = np.asarray(matrix) + weights["recurrent_kernel"]
            offset = (weights["input_bias"] * factor) @ weights["kernel"] + weights["bias"]
            self.maps.append(kind(matrix, offset, dtype=dtype))
        self.share = self.maps[0].multiplications / (4 * self.units**2)
        # For inputs that are encodings and not the LSTM's output.
        self.core = {
            name: constant(self, value, self.variable_dtype) for name, value in weights.items()
        }
        self.built = True

    def call(self, h, c, encoding, encoded_actions, parents, counts):
        """Computes the steps of a `Steps`.

        Args:
            h, c: LSTM states, (rows, 2048) each, float32.
            encoding: the next inputs of the same rows; only those are used that `Steps` says need
                encoding.
            encoded_actions, parents, counts: of `Steps`.

        Returns:
            outputs of all nodes, (nodes, 2048), and h and c of the last step's nodes, all float32.
        """
        ends = ops.cumsum(counts, axis=0)
        outputs, start = [], 0
        for t in range(counts.shape[1]):
            parents_t = parents[start : start + ends[-1, t]]
            start += ends[-1, t]
            h_before = ops.take(h, parents_t, axis=0)
            c_before = ops.take(c, parents_t, axis=0)
            states = []  # of each action's nodes
            for action in range(self.num_actions):
                nodes = slice(ends[action - 1, t] if action else 0, ends[action, t])
                z = self.maps[action](h_before[nodes])
                states.append(self._step(z, c_before[nodes]))
            if t == 0:
                first_encoded = ends[-2, 0]
                encoding = ops.take(encoding, parents_t[first_encoded:], axis=0)
                z = self._encoded(encoding, h_before[first_encoded:], encoded_actions)
                states.append(self._step(z, c_before[first_encoded:]))
            h, c = (ops.concatenate(parts) for parts in zip(*states, strict=True))
            outputs.append(h)
        return ops.concatenate(outputs), h, c

    def _step(self, z, c):
        """The LSTM's h and c from the pre-activations of the gates that are computed."""
        if self.gates is None:
            return lstm_step(z, c)[:2]
        i, f, o = self.gates
        c = f * c + i * ops.tanh(z)
        return o * ops.tanh(c), c

    def _encoded(self, encoding, h, actions):
        """Pre-activations of the gates that are computed if the input is an encoding."""
        core, dtype = self.core, self.variable_dtype
        factors = ops.take(core["action_kernel"], actions, axis=0) + core["action_bias"]
        x = (ops.cast(encoding, dtype) @ core["input_kernel"] + core["input_bias"]) * factors
        z = x @ core["kernel"] + core["bias"] + ops.cast(h, dtype) @ core["recurrent_kernel"]
        return ops.cast(z, "float32")


class Steps(NamedTuple):
    """The steps of a batch of action sequences, without repeating common beginnings.

    A node is a state under an action. The nodes of a step are sorted by action. In the first step,
    the nodes whose input is an encoding come last.

    Attributes:
        parents: int32 (nodes,), the node of the previous step that each continues; in the first
            step, the row of the state.
        counts: int32 (num_actions + 1, time), how many nodes each action has in each step; the last
            row counts the nodes whose input is an encoding.
        encoded_actions: int32, the actions of those nodes.
        nodes: int32 (batch, time), the node of each sequence's step, among all nodes.
    """

    parents: np.ndarray
    counts: np.ndarray
    encoded_actions: np.ndarray
    nodes: np.ndarray

    @classmethod
    def of(
        cls, actions: np.ndarray, rows: np.ndarray, needs_encoding: np.ndarray, num_actions: int
    ):
        """Merges action sequences.

        Args:
            actions: int (batch, time).
            rows: int (batch,), the row of the state that each sequence starts from.
            needs_encoding: bool (rows of the state,), whether the state's next input is an encoding
                and not the LSTM's output.
            num_actions: size of the action set.
        """
        parent, num_parents, total = rows, len(needs_encoding), 0
        parents, counts, nodes = [], [], []
        for t, actions_t in enumerate(actions.T):
            # An action whose input is an encoding counts as an action of its own.
            groups = actions_t + num_actions * needs_encoding[rows] if t == 0 else actions_t
            keys, node = np.unique(
                groups.astype(np.int64) * num_parents + parent, return_inverse=True
            )
            groups, parents_t = np.divmod(keys, num_parents)
            if t == 0:
                encoded_actions = groups[groups >= num_actions] - num_actions
            parents.append(parents_t)
            counts.append(np.bincount(np.minimum(groups, num_actions), minlength=num_actions + 1))
            parent, num_parents = node, len(keys)
            nodes.append(total + node)
            total += num_parents
        return cls(
            np.concatenate(parents).astype(np.int32),
            np.stack(counts, axis=1).astype(np.int32),
            encoded_actions.astype(np.int32),
            np.stack(nodes, axis=1).astype(np.int32),
        )


class FastImagination:
    """Rolls out from a state as `Imagination` does, faster, with the weights as they are now.

    The compression variant on TensorFlow uses `Transitions`, unless the batch is too small for its
    number of actions. All else uses `Imagination`. The returned state stays on the device: copying
    it to NumPy and back would take much of a step with hundreds of games. With thousands it would
    take longer than the step.

    Args:
        predictor: the predictor to roll out; fastest with the checkpoint's precision "auto".
        decode: whether to return frames; the compression variant is faster without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        self._predictor, self._decode = predictor, decode
        self._transitions = None
        if predictor.variant == "compression" and keras.backend.backend() == "tensorflow":
            self._transitions = Transitions(predictor.network.core, predictor.compute_dtype)
        # One for each horizon, because steps are unrolled; and with and without frames.
        self._functions = {}

    def __call__(self, state: State, actions, rows=None, decode: bool | None = None) -> dict:
        """Rolls out under actions.

        Args:
            state: where to start.
            actions: int (batch, horizon).
            rows: int (batch,), the row of the state that each sequence starts from; by default, the
                sequence's own. Common beginnings of sequences are computed once.
            decode: whether to return frames this time; None: as the constructor was told.

        Returns:
            dict as `Imagination` returns it; all but the state are NumPy arrays.
        """
        actions = np.asarray(actions)
        if self._transitions_pay(len(actions)):
            h, encoding = state.h, state.encoding
            needs_encoding = np.zeros(len(h), bool)
            if encoding is not h:
                needs_encoding = (np.asarray(encoding) != np.asarray(h)).any(axis=1)
            every_row = np.arange(len(actions)) if rows is None else np.asarray(rows)
            steps = Steps.of(actions, every_row, needs_encoding, self._transitions.num_actions)
            batch = {"h": h, "c": state.c, "encoding": encoding, **steps._asdict()}
            predictions = self._run(_TransitionsImagination, actions.shape[1], batch, decode)
            h = predictions.pop("h")
            recent = state.recent if rows is None else np.asarray(state.recent)[rows]
            after = State(h, h, predictions.pop("c"), recent)
        else:
            if rows is not None:
                state = State(*(ops.take(part, rows, axis=0) for part in state))
            batch = {"state": state, "actions": actions}
            predictions = self._run(Imagination, actions.shape[1], batch, decode)
            after = predictions.pop("state")
        return {"state": after, **{key: np.asarray(value) for key, value in predictions.items()}}

    def _run(self, model_class, horizon, batch, decode):
        decode = self._decode if decode is None else decode
        key = model_class, horizon, decode
        if key not in self._functions:
            more = () if model_class is Imagination else (self._transitions,)
            model = model_class(self._predictor, decode, *more)
            self._functions[key] = _compiled(model, batch)
        return dict(self._functions[key](batch))

    def _transitions_pay(self, batch_size):
        """Whether `Transitions` is faster than `Imagination` for a batch of this size."""
        if self._transitions is None:
            return False
        matrices = min(batch_size, self._transitions.num_actions) * self._transitions.share
        return matrices <= FREE_MATRICES + batch_size // ROWS_PER_FURTHER_MATRIX


def _compiled(model, batch):
    """The model as a function of batches like this one, whose results stay on the device."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def of_any_size(value):
            return tf.TensorSpec([None, *value.shape[1:]], value.dtype)

        run = tf.function(model, jit_compile=model.jit_compile)
        # Traced once for any number of rows and nodes, and not anew for each.
        run.get_concrete_function(tf.nest.map_structure(of_any_size, batch))
        return run

    import jax

    run = jax.jit(lambda weights, batch: model.stateless_call(*weights, batch)[0])

    def call(batch):
        groups = model.trainable_variables, model.non_trainable_variables
        return run([[variable.value for variable in group] for group in groups], batch)

    return call


class _TransitionsImagination(keras.Model):
    """`Imagination` of the compression variant, by `Transitions`."""

    def __init__(self, predictor, decode, transitions):
        super().__init__(
            name="transitions_imagination", dtype=predictor.dtype_policy, autocast=False
        )
        self.network = predictor.network
        self.decode = decode
        self.transitions = transitions
        self.built = True

    def call(self, batch):
        """Takes a `Steps` and a state as one dict; returns h and c in place of the state."""
        batch = dict(batch)
        nodes = batch.pop("nodes")
        outputs, h, c = self.transitions(**batch)
        last = nodes[:, -1] - (ops.shape(outputs)[0] - ops.shape(h)[0])
        # Heads and decoder expect a time axis.
        by_node = decode_outputs(self.network, outputs[:, None], self.decode)
        predictions = {key: ops.take(value[:, 0], nodes, axis=0) for key, value in by_node.items()}
        return {"h": ops.take(h, last, axis=0), "c": ops.take(c, last, axis=0), **predictions}
