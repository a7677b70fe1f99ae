"""The agent's network: a policy and a value from the LSTM's output.

Shapes are written (batch, 2048), with 2048 for the number of units. Source of the loss: Schulman et
al. 2017, "Proximal policy optimization algorithms", arXiv 1707.06347 (equations 7 and 9).
"""

import keras
from keras import ops

from model.networks import leaky_relu

HIDDEN = 256  # units of each hidden layer
VALUE_WEIGHT = 0.5  # of the squared error of the value, beside the policy's loss
CLIP = 0.2  # how far the probability of an action may move in one update, as a share


class ActorCritic(keras.Model):
    """Two hidden layers, and a head each for the policy and the value.

    A training batch is a dict of
        outputs      float32 (batch, 2048), the LSTM's
        actions      int32 (batch,), those that were taken
        log_policy   float32 (batch,), their log probabilities when they were taken
        advantages   float32 (batch,)
        returns      float32 (batch,), what the value is to be
        weights      float32 (batch,), how much each row counts

    Args:
        units: of the LSTM.
        num_actions: of the game.
        entropy_weight: how much the loss favours policies that keep trying.
    """

    def __init__(self, units: int, num_actions: int, entropy_weight: float = 0.0):
        super().__init__(name="actor_critic", dtype="float32")
        self.num_actions, self.entropy_weight = num_actions, entropy_weight
        self.hidden = [
            keras.layers.Dense(
                HIDDEN, leaky_relu, kernel_initializer="he_normal", name=f"hidden_{i}"
            )
            for i in range(2)
        ]
        # The policy begins as nearly uniform, and the value as nearly 0.
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.policy = keras.layers.Dense(num_actions, kernel_initializer=small, name="policy")
        self.value = keras.layers.Dense(1, kernel_initializer=small, name="value")

        def constant(name, value):
            return self.add_weight((units,), value, "float32", trainable=False, name=name)

        self.mean, self.scale = constant("mean", "zeros"), constant("scale", "ones")
        for layer, size in zip(self.hidden, (units, HIDDEN), strict=True):
            layer.build((None, size))
        for head in (self.policy, self.value):
            head.build((None, HIDDEN))
        self.entropy = keras.metrics.Mean(name="entropy")
        self.value_error = keras.metrics.Mean(name="value_error")
        self.built = True

    def adapt(self, outputs) -> None:
        """Normalises by the mean and the deviation of outputs (count, 2048).

        Deviations below a tenth of the root mean square count as that, or noise would be amplified.
        So do those of outputs that are all alike, which are 0 but for rounding.
        """
        deviation = ops.std(outputs, axis=0)
        least = 0.1 * ops.sqrt(ops.mean(ops.square(deviation)))
        rounding = 1e-3 * ops.sqrt(ops.mean(ops.square(outputs))) + 1e-6
        self.mean.assign(ops.mean(outputs, axis=0))
        self.scale.assign(ops.maximum(deviation, ops.maximum(least, rounding)))

    def call(self, outputs):
        """Maps outputs (batch, 2048), or a training batch, to log probabilities and values.

        Returns:
            log_policy (batch, actions) and value (batch,), float32, as a dict.
        """
        x = outputs["outputs"] if isinstance(outputs, dict) else outputs
        x = (x - self.mean) / self.scale
        for layer in self.hidden:
            x = layer(x)
        return {"log_policy": ops.log_softmax(self.policy(x)), "value": self.value(x)[:, 0]}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """PPO's clipped loss, the value's squared error, and the entropy.

        The metric `entropy` is that of the policy in nats; `value_error` the mean squared error.
        """
        log_policy, weights = y_pred["log_policy"], x["weights"]
        taken = ops.take_along_axis(log_policy, x["actions"][:, None], axis=1)[:, 0]
        ratio, advantages = ops.exp(taken - x["log_policy"]), x["advantages"]
        clipped = ops.clip(ratio, 1 - CLIP, 1 + CLIP)
        gain = ops.minimum(ratio * advantages, clipped * advantages)
        entropy = -ops.sum(ops.exp(log_policy) * log_policy, axis=-1)
        error = ops.square(y_pred["value"] - x["returns"])
        self.entropy.update_state(entropy, weights)
        self.value_error.update_state(error, weights)
        loss = -gain - self.entropy_weight * entropy + VALUE_WEIGHT * error
        return ops.sum(weights * loss) / ops.maximum(ops.sum(weights), 1)
