"""The compressed Markov decision process as what it is: one affine map for each action.

Fed with its own output h, the core of `networks.py` computes the gates' input

    z = ((h W_y + b_y) * g_a) W + h U + b,    g_a = W_a a + b_a,

which for a given action a is affine in h: z = h M_a + m_a with M_a = W_y diag(g_a) W + U. One
product takes the place of three, with 2.25 times fewer operations and bytes. The rows of a batch
are grouped by their action.
"""

import keras
import numpy as np
from keras import ops

from model.networks import ActionGatedLSTM, lstm_step
from model.predictor import FramePredictor, Imagination, State, look


class Transitions(keras.layers.Layer):
    """What each action does to the LSTM's state, worked out once from a core's weights.

    It takes 34 MB for each action in bfloat16, and does not follow weights that go on learning.
    Groups have sizes that no compiler knows beforehand: TensorFlow and eager execution take that,
    JAX's compiler does not.

    Args:
        core: whose weights are used, as they are now.
        dtype: of the matrices; the state stays float32.
    """

    def __init__(self, core: ActionGatedLSTM, dtype=None):
        super().__init__(dtype=dtype, autocast=False, name="transitions")
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

    def call(self, encoding, h, c, actions):
        """Steps over `actions`.

        Args:
            encoding: the first step's input, (batch, 2048); rows that equal h are the LSTM's own.
            h, c: LSTM state, (batch, 2048) each, float32.
            actions: int (batch, time).

        Returns:
            outputs (batch, time, 2048), h and c after the last, all float32.
        """
        fresh = ops.any(ops.not_equal(encoding, h), axis=-1)
        groups = ops.concatenate(
            [ops.where(fresh[:, None], self.num_actions, actions[:, :1]), actions[:, 1:]], axis=1
        )
        # Rows in the order of their groups, where each group ends, and the way back.
        order = ops.argsort(groups, axis=0)
        back = ops.argsort(order, axis=0)
        kinds = ops.arange(self.num_actions + 1, dtype=actions.dtype)
        sizes = ops.sum(
            ops.cast(ops.equal(groups[:, :, None], kinds), "int32"), axis=0
        )  # (time, num_actions + 1)
        ends = ops.cumsum(sizes, axis=1)
        outputs = []
        for t in range(actions.shape[1]):
            rows = ops.take(h, order[:, t], axis=0)
            z = []
            for action in range(self.num_actions):
                part = rows[ends[t, action - 1] if action else 0 : ends[t, action]]
                part = ops.cast(part, self.variable_dtype)
                z.append(
                    ops.cast(part @ ops.transpose(self.matrices[action]), "float32")
                    + self.offsets[action]
                )
            if t == 0:
                chosen = order[ends[0, -2] :, 0]
                z.append(
                    self._fresh(
                        *(ops.take(x, chosen, axis=0) for x in (encoding, h, actions[:, 0]))
                    )
                )
            z = ops.take(ops.concatenate(z), back[:, t], axis=0)
            h, c, _, _ = lstm_step(z, c)
            outputs.append(h)
        return ops.stack(outputs, axis=1), h, c

    def _fresh(self, encoding, h, actions):
        """z of the rows that have just seen a real frame."""
        core, dtype = self.core, self.variable_dtype
        gate = ops.take(core["action_kernel"], actions, axis=0) + core["action_bias"]
        x = (ops.cast(encoding, dtype) @ core["input_kernel"] + core["input_bias"]) * gate
        z = x @ core["kernel"] + core["bias"] + ops.cast(h, dtype) @ core["recurrent_kernel"]
        return ops.cast(z, "float32")


class FastImagination:
    """Looks ahead as `Imagination` does, with the weights as they are now, as fast as it goes.

    Where the compression variant runs on TensorFlow it steps by `Transitions`, unless a small batch
    would have to read more matrices than that saves. Otherwise it is `Imagination`.

    Args:
        predictor: whose roll-out it is; fastest with precision="bfloat16".
        decode: whether frames are wanted; the compression variant does without them.
    """

    def __init__(self, predictor: FramePredictor, decode: bool = True):
        self._predictor, self._decode = predictor, decode
        self._transitions = None
        if predictor.variant == "compression" and keras.backend.backend() == "tensorflow":
            self._transitions = Transitions(predictor.network.core, predictor.compute_dtype)
        self._models = {}  # one for each horizon: Keras would relax a length that changes to None

    def __call__(self, state: State, actions) -> dict:
        """Looks ahead under int actions (batch, horizon); returns what `Imagination` does."""
        batch, horizon = actions.shape
        if not self._pays(batch):
            model = self._model(False, horizon)
            return model.predict_on_batch({"state": state, "actions": actions})
        inputs = {"h": state.h, "c": state.c, "actions": actions}
        if state.encoding is not state.h:
            inputs["encoding"] = state.encoding
        found = self._model(True, horizon).predict_on_batch(inputs)
        h, c = found.pop("h"), found.pop("c")
        return {"state": State(h, h, c, state.recent), **found}

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


class _ByMatrix(keras.Model):
    """`Imagination` of the compression variant, without the frames that lie behind."""

    def __init__(self, predictor, transitions, decode):
        super().__init__(name="by_matrix", dtype=predictor.dtype_policy, autocast=False)
        self.network = predictor.network
        self.decode = decode
        self.transitions = transitions
        self.built = True

    def call(self, batch):
        outputs, h, c = self.transitions(
            batch.get("encoding", batch["h"]), batch["h"], batch["c"], batch["actions"]
        )
        return {"h": h, "c": c, **look(self.network, outputs, self.decode)}
