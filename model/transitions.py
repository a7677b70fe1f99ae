"""The compressed Markov decision process as what it is: one affine map for each action.

Fed with its own output h, the core of `networks.py` computes the gates' input

    z = ((h W_y + b_y) * g_a) W + h U + b,    g_a = W_a a + b_a,

which for a given action a is affine in h: z = h M_a + m_a with M_a = W_y diag(g_a) W + U. One
product takes the place of three, with 2.25 times fewer operations and bytes. The rows of a batch
are grouped by their action, and what sequences of actions have in common is computed once.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from model.networks import ActionGatedLSTM, lstm_step
from model.predictor import FramePredictor, Imagination, State, look


class Transitions(keras.layers.Layer):
    """What each action does to the LSTM's state, worked out once from a core's weights.

    It takes 34 MB for each action in bfloat16, and does not follow weights that go on learning.
    Groups have sizes that no compiler knows beforehand: TensorFlow's graphs and eager execution
    take that, XLA and with it JAX does not.

    Args:
        core: whose weights are used, as they are now.
        dtype: of the matrices; the state stays float32.
    """

    def __init__(self, core: ActionGatedLSTM, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="transitions")
        self.supports_jit = False  # XLA, which Keras turns on on GPUs, would compile every batch
        self.units = core.units
        self.num_actions = core.num_actions
        wide = self.variable_dtype

        def float32(weight):
            return np.asarray(ops.convert_to_tensor(weight, "float32"))

        input_kernel, kernel = float32(core.input_kernel), float32(core.kernel)
        gates = float32(core.action_kernel) + float32(core.action_bias)
        self.matrices, self.offsets = [], []
        for action, gate in enumerate(gates):
            matrix = ops.matmul(input_kernel * gate, kernel)
            matrix = matrix + ops.convert_to_tensor(core.recurrent_kernel, "float32")
            offset = (float32(core.input_bias) * gate) @ kernel + float32(core.bias)
            # Stored transposed: with few rows that product reads memory in order, and takes two
            # thirds of the time.
            self.matrices.append(self._constant(ops.transpose(matrix), f"matrix_{action}", wide))
            self.offsets.append(self._constant(offset, f"offset_{action}", "float32"))
        # For a state whose next input is a real frame's encoding, and not the LSTM's output.
        names = ("input_kernel", "input_bias", "action_kernel", "action_bias")
        names += ("kernel", "recurrent_kernel", "bias")
        self.core = {name: self._constant(getattr(core, name), name, wide) for name in names}
        self.built = True

    def _constant(self, value, name, dtype):
        value = ops.cast(ops.convert_to_tensor(value), dtype)
        return self.add_weight(
            value.shape, lambda *_, **__: value, dtype, trainable=False, name=name
        )

    def call(self, h, c, encoding, actions, parents, counts):
        """Steps through `Steps`.

        Args:
            h, c: LSTM states, (rows, 2048) each, float32.
            encoding: the first step's input of the same rows; only those count that have one.
            actions, parents, counts: of `Steps`.

        Returns:
            outputs (nodes, 2048) and, of the last step's nodes, h and c, all float32.
        """
        ends = ops.cumsum(counts, axis=0)
        outputs, start = [], 0
        for t in range(counts.shape[1]):
            level = parents[start : start + ends[-1, t]]
            start += ends[-1, t]
            before = ops.take(ops.cast(h, self.variable_dtype), level, axis=0)
            cells = ops.take(c, level, axis=0)
            after = []
            for action in range(self.num_actions):
                rows = slice(ends[action - 1, t] if action else 0, ends[action, t])
                z = before[rows] @ ops.transpose(self.matrices[action])
                z = ops.cast(z, "float32") + self.offsets[action]
                after.append(lstm_step(z, cells[rows])[:2])
            if t == 0:
                fresh = ends[-2, 0]
                encoding = ops.take(encoding, level[fresh:], axis=0)
                z = self._fresh(encoding, before[fresh:], actions)
                after.append(lstm_step(z, cells[fresh:])[:2])
            h, c = (ops.concatenate(part) for part in zip(*after, strict=True))
            outputs.append(h)
        return ops.concatenate(outputs), h, c

    def _fresh(self, encoding, h, actions):
        """z of the rows that have just seen a real frame."""
        core, dtype = self.core, self.variable_dtype
        gate = ops.take(core["action_kernel"], actions, axis=0) + core["action_bias"]
        x = (ops.cast(encoding, dtype) @ core["input_kernel"] + core["input_bias"]) * gate
        z = x @ core["kernel"] + core["bias"] + ops.cast(h, dtype) @ core["recurrent_kernel"]
        return ops.cast(z, "float32")


class Steps(NamedTuple):
    """The steps of a batch of action sequences; those that sequences have in common stand once.

    A node is a state under an action. Each time's nodes come one after another, in the order of
    their actions, and last of all those that are fed with a real frame's encoding.

    Attributes:
        parents: int32 (nodes,), which of the time before each goes on from; at first, which row.
        counts: int32 (num_actions + 1, time), of each kind.
        actions: int32, of the nodes that are fed with an encoding.
        nodes: int32 (batch, time), where each sequence's steps are among all nodes.
    """

    parents: np.ndarray
    counts: np.ndarray
    actions: np.ndarray
    nodes: np.ndarray

    @classmethod
    def of(cls, actions: np.ndarray, rows: np.ndarray, fresh: np.ndarray, num_actions: int):
        """Merges the sequences.

        Args:
            actions: int (batch, time).
            rows: int (batch,), the state that each goes on from.
            fresh: bool, for each state, whether it has just seen a real frame.
            num_actions: of the game.
        """
        at, width, total = rows, len(fresh), 0
        parents, counts, nodes = [], [], []
        for t, taken in enumerate(actions.T):
            kinds = taken + num_actions * fresh[rows] if t == 0 else taken
            keys, at_next = np.unique(kinds.astype(np.int64) * width + at, return_inverse=True)
            kinds, found = np.divmod(keys, width)
            if t == 0:
                first = kinds[kinds >= num_actions] - num_actions
            parents.append(found)
            counts.append(np.bincount(np.minimum(kinds, num_actions), minlength=num_actions + 1))
            at, width = at_next, len(keys)
            nodes.append(total + at)
            total += width
        return cls(
            np.concatenate(parents).astype(np.int32),
            np.stack(counts, axis=1).astype(np.int32),
            first.astype(np.int32),
            np.stack(nodes, axis=1).astype(np.int32),
        )


class FastImagination:
    """Looks ahead as `Imagination` does, with the weights as they are now, as fast as it goes.

    Where the compression variant runs on TensorFlow it steps by `Transitions`, unless a small batch
    would have to read more matrices than that saves. Otherwise it is `Imagination`. The states that
    it returns are the backend's arrays and stay on the device: those of hundreds of games take as
    long to copy to NumPy and back as a good part of a step, those of thousands longer than to
    compute.

    Args:
        predictor: whose roll-out it is; fastest as `load_predictor(precision="auto")` returns it.
        decode: whether frames are wanted; the compression variant does without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        self._predictor, self._decode = predictor, decode
        self._transitions = None
        if predictor.variant == "compression" and keras.backend.backend() == "tensorflow":
            self._transitions = Transitions(predictor.network.core, predictor.compute_dtype)
        self._functions = {}  # one for each horizon, whose steps are unrolled

    def __call__(self, state: State, actions, rows=None) -> dict:
        """Looks ahead under int actions (batch, horizon); returns what `Imagination` does.

        Several sequences may go on from one state: `rows`, int (batch,), says which of the state's
        rows each does, by default its own. What they begin alike with is imagined once.
        """
        actions = np.asarray(actions)
        if self._pays(len(actions)):
            h, encoding = state.h, state.encoding
            fresh = np.zeros(len(h), bool)
            if encoding is not h:
                fresh = (np.asarray(encoding) != np.asarray(h)).any(axis=1)
            every = np.arange(len(actions)) if rows is None else np.asarray(rows)
            steps = Steps.of(actions, every, fresh, self._transitions.num_actions)
            batch = {"h": h, "c": state.c, "encoding": encoding, **steps._asdict()}
            found = self._run(_ByMatrix, actions.shape[1], batch)
            h = found.pop("h")
            recent = state.recent if rows is None else np.asarray(state.recent)[rows]
            after = State(h, h, found.pop("c"), recent)
        else:
            if rows is not None:
                state = State(*(ops.take(part, rows, axis=0) for part in state))
            batch = {"state": state, "actions": actions}
            found = self._run(Imagination, actions.shape[1], batch)
            after = found.pop("state")
        return {"state": after, **{key: np.asarray(value) for key, value in found.items()}}

    def _run(self, kind, horizon, batch):
        if (kind, horizon) not in self._functions:
            more = () if kind is Imagination else (self._transitions,)
            model = kind(self._predictor, self._decode, *more)
            self._functions[kind, horizon] = _compiled(model, batch)
        return dict(self._functions[kind, horizon](batch))

    def _pays(self, batch):
        # Measured on two cores: 1.7 ms a matrix and 0.07 ms a row, by three matrices 2.6 and 0.17.
        if self._transitions is None:
            return False
        return min(batch, self._transitions.num_actions) <= 3 + batch // 12


def _compiled(model, batch):
    """A model as a function of batches like this one, whose result stays where it is computed."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def of_any_size(value):
            return tf.TensorSpec([None, *value.shape[1:]], value.dtype)

        run = tf.function(model, jit_compile=model.jit_compile)
        # Traced for any number of rows and nodes at once, not for each that comes.
        run.get_concrete_function(tf.nest.map_structure(of_any_size, batch))
        return run

    import jax

    run = jax.jit(lambda weights, batch: model.stateless_call(*weights, batch)[0])

    def call(batch):
        kinds = model.trainable_variables, model.non_trainable_variables
        return run([[variable.value for variable in kind] for kind in kinds], batch)

    return call


class _ByMatrix(keras.Model):
    """`Imagination` of the compression variant, for `Steps`."""

    def __init__(self, predictor, decode, transitions):
        super().__init__(name="by_matrix", dtype=predictor.dtype_policy, autocast=False)
        self.network = predictor.network
        self.decode = decode
        self.transitions = transitions
        self.built = True

    def call(self, batch):
        """Of `Steps` and what `Transitions` takes; the end's h and c in place of the state."""
        batch = dict(batch)
        nodes = batch.pop("nodes")
        outputs, h, c = self.transitions(**batch)
        last = nodes[:, -1] - (ops.shape(outputs)[0] - ops.shape(h)[0])
        # Heads and decoder expect a time axis.
        told = look(self.network, outputs[:, None], self.decode)
        found = {key: ops.take(value[:, 0], nodes, axis=0) for key, value in told.items()}
        return {"h": ops.take(h, last, axis=0), "c": ops.take(c, last, axis=0), **found}
