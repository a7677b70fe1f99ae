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
        ends = ops.cumsum(counts, axis=1)
        outputs, start = [], 0
        for t in range(counts.shape[0]):
            level = parents[start : start + ends[t, -1]]
            start += ends[t, -1]
            before = ops.take(h, level, axis=0)
            z = []
            for action in range(self.num_actions):
                part = before[ends[t, action - 1] if action else 0 : ends[t, action]]
                part = ops.cast(part, self.variable_dtype)
                z.append(
                    ops.cast(part @ ops.transpose(self.matrices[action]), "float32")
                    + self.offsets[action]
                )
            if t == 0:
                fresh = ends[0, -2]
                z.append(
                    self._fresh(ops.take(encoding, level[fresh:], axis=0), before[fresh:], actions)
                )
            h, c, _, _ = lstm_step(ops.concatenate(z), ops.take(c, level, axis=0))
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
        counts: int32 (time, num_actions + 1), of each kind.
        actions: int32, of the nodes that are fed with an encoding.
        nodes: int (batch, time), where each sequence's steps are among all nodes.
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
            np.stack(counts).astype(np.int32),
            first.astype(np.int32),
            np.stack(nodes, axis=1),
        )


class FastImagination:
    """Looks ahead as `Imagination` does, with the weights as they are now, as fast as it goes.

    Where the compression variant runs on TensorFlow it steps by `Transitions`, unless a small batch
    would have to read more matrices than that saves. Otherwise it is `Imagination`; on JAX its
    states are JAX's arrays and stay on the device, for those of thousands of games take longer to
    copy than to compute.

    Args:
        predictor: whose roll-out it is; fastest as `load_predictor(precision="auto")` returns it.
        decode: whether frames are wanted; the compression variant does without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        self._predictor, self._decode = predictor, decode
        self._transitions = None
        if predictor.variant == "compression" and keras.backend.backend() == "tensorflow":
            self._transitions = Transitions(predictor.network.core, predictor.compute_dtype)
        self._compiled = None
        if keras.backend.backend() == "jax":
            self._compiled = _compiled_by_jax(Imagination(predictor, decode))
        self._models = {}  # one for each horizon: Keras would relax a length that changes to None

    def __call__(self, state: State, actions, rows=None) -> dict:
        """Looks ahead under int actions (batch, horizon); returns what `Imagination` does.

        Several sequences may go on from one state: `rows`, int (batch,), says which of the state's
        rows each does, by default its own. What they begin alike with is imagined once.
        """
        if self._compiled:
            if rows is not None:
                state = State(*(ops.take(part, rows, axis=0) for part in state))
            found = self._compiled({"state": state, "actions": actions})
            told = {key: np.asarray(found[key]) for key in found.keys() - {"state"}}
            return {"state": found["state"], **told}
        if not self._pays(len(actions)):
            if rows is not None:
                state = State(*(np.asarray(part)[rows] for part in state))
            model = self._model(False, actions.shape[1])
            return model.predict_on_batch({"state": state, "actions": actions})
        h, encoding = np.asarray(state.h), np.asarray(state.encoding)
        fresh = np.zeros(len(h), bool) if encoding is h else (encoding != h).any(axis=1)
        every = np.arange(len(actions)) if rows is None else np.asarray(rows)
        steps = Steps.of(np.asarray(actions), every, fresh, self._transitions.num_actions)
        inputs = {"h": h, "c": state.c, "encoding": encoding, **steps._asdict()}
        last = inputs.pop("nodes")[:, -1] - (len(steps.parents) - steps.counts[-1].sum())
        found = self._model(True, actions.shape[1]).predict_on_batch(inputs)
        h, c = (found.pop(part)[last] for part in ("h", "c"))
        recent = state.recent if rows is None else np.asarray(state.recent)[rows]
        told = {key: value[steps.nodes] for key, value in found.items()}
        return {"state": State(h, h, c, recent), **told}

    def _model(self, by_matrix, horizon):
        if (by_matrix, horizon) not in self._models:
            self._models[by_matrix, horizon] = (
                _ByMatrix(self._predictor, self._transitions, self._decode)
                if by_matrix
                else Imagination(self._predictor, self._decode)
            )
        return self._models[by_matrix, horizon]

    def _pays(self, batch):
        # Measured on two cores: 1.7 ms a matrix and 0.07 ms a row, by three matrices 2.6 and 0.17.
        if self._transitions is None:
            return False
        return min(batch, self._transitions.num_actions) <= 3 + batch // 12


def _compiled_by_jax(model):
    """A model as a function of a batch whose result stays where it is computed."""
    import jax

    run = jax.jit(lambda weights, batch: model.stateless_call(*weights, batch)[0])

    def call(batch):
        kinds = model.trainable_variables, model.non_trainable_variables
        return run([[variable.value for variable in kind] for kind in kinds], batch)

    return call


class _ByMatrix(keras.Model):
    """`Imagination` of the compression variant, for the nodes of `Steps`."""

    def __init__(self, predictor, transitions, decode):
        super().__init__(name="by_matrix", dtype=predictor.dtype_policy, autocast=False)
        self.network = predictor.network
        self.decode = decode
        self.transitions = transitions
        self.built = True

    def call(self, batch):
        outputs, h, c = self.transitions(**batch)
        # Heads and decoder expect a time axis.
        told = look(self.network, outputs[:, None], self.decode)
        return {"h": h, "c": c, **{key: value[:, 0] for key, value in told.items()}}
