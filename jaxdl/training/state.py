"""The state of a run: all that is needed to go on from where it stands."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, Key

from jaxdl.calling import train_argument
from jaxdl.checks import require_key, require_module

# `fold_in` numbers: each purpose has its own, so its random stream is independent of the others.
DROPOUT_STREAM = 0
ORDER_STREAM = 1
AUGMENT_STREAM = 2


@struct.dataclass
class TrainState:
    """A frozen pytree: the step count, the variables, the optimizer's state and the run's key.

    Attributes:
        step: updates made so far; with the key it fixes the position in the data as well.
        params: the learned parameters.
        batch_stats: the running statistics of norms, empty where there are none.
        opt_state: the optimizer's state.
        key: the run's key. It never changes: each use folds in a purpose and a count.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key: Key[Array, ""]

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        if not self.batch_stats:
            return {"params": self.params}
        return {"params": self.params, "batch_stats": self.batch_stats}

    def dropout_key(self) -> Key[Array, ""]:
        """The key of this step's dropout masks: a function of the run's key and the step."""
        return self._stream_key(DROPOUT_STREAM)

    def augment_key(self) -> Key[Array, ""]:
        """The key of this step's augmentation: a function of the run's key and the step."""
        return self._stream_key(AUGMENT_STREAM)

    def _stream_key(self, stream: int) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(self.key, stream), self.step)


def init_state(
    key: Key[Array, ""],
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    sample_inputs: Any,
) -> TrainState:
    """The state before the first step.

    Arguments:
        key: from `jax.random.key`; split into the key of the initial parameters and the run's key.
        model: a Linen module.
        optimizer: any optax gradient transformation.
        sample_inputs: inputs as the model sees them, (batch, ...), of any batch size; only their
            shape and dtype matter.

    Raises:
        TypeError: the key is not a `jax.random.key`, the model not a Linen module, or the optimizer
            not an optax gradient transformation.
        ValueError: the model has variables other than `params` and `batch_stats`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import models, optimizers
        >>> state = init_state(
        ...     jax.random.key(0), models.MLP([4, 2]), optimizers.sgd(0.1), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, state.params)["dense_0"]
        {'bias': (4,), 'kernel': (3, 4)}
    """
    check_parts(key, model, optimizer)
    init_key, run_key = jax.random.split(key)
    variables = dict(model.init(init_key, sample_inputs, **train_argument(model, False)))
    params = variables.pop("params", {})
    batch_stats = variables.pop("batch_stats", {})
    if variables:
        raise ValueError(
            "a model may have the collections 'params' and 'batch_stats', "
            f"got also {sorted(variables)}; move what it keeps there into one of the two"
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        key=run_key,
    )


def check_parts(key: Any, model: Any, optimizer: Any) -> None:
    """Refuse anything but one `jax.random.key`, a module instance and an optax optimizer."""
    require_key(key)
    require_module(model)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {optimizer!r}; "
            "call the factory, e.g. optimizers.sgd(0.1)"
        )
