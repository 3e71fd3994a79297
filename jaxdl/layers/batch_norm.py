"""Batch normalisation whose statistics can be read in one sitting."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    r"""Normalise each feature by the statistics of the batch, in training, or by running ones.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    In training mu and the biased sigma^2 are the batch's, computed in float32 in two passes, and
    `batch_stats` moves to `momentum * running + (1 - momentum) * batch`. In evaluation they are
    the running ones, and nothing moves. All axes but the last are reduced.

    Attributes:
        momentum: weight of the OLD running value in [0, 1]; PyTorch's `momentum=0.1` is 0.9 here.
        epsilon: added to the variance, inside the root.
        unbiased_variance: the running variance is the batch's times n / (n - 1), as in PyTorch;
            False keeps the biased one, as Flax does. Normalisation always uses the biased one.
        use_scale: learn gamma, of shape (features,), started by `scale_init`.
        use_bias: learn beta, of shape (features,), started by `bias_init`.
        axis_name: a pmap axis over which the batch statistics are averaged.

    Raises:
        ValueError: a batch with one value per feature in training mode, whose variance is zero.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> norm = BatchNorm(epsilon=0.0)
        >>> variables = norm.init(jax.random.key(0), x, train=False)
        >>> y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        >>> y.ravel().tolist(), updates["batch_stats"]["mean"].item()
        ([-1.0, 1.0], 0.2...)

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_variance: bool = True
    use_scale: bool = True
    use_bias: bool = True
    axis_name: str | None = None
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Float[Array, "... features"], *, train: bool
    ) -> Float[Array, "... features"]:
        """Normalise `x`; with `train=True`, apply with `mutable=["batch_stats"]`."""
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean, var, count = _batch_statistics(values, self.axis_name)
            if count < 2:
                raise ValueError(
                    "BatchNorm needs at least two values per feature in training, "
                    f"got {count} from inputs of shape {x.shape}; "
                    "pass a larger batch or train=False"
                )
            if not self.is_initializing():
                kept = var * (count / (count - 1)) if self.unbiased_variance else var
                running_mean.value = _moving(self.momentum, running_mean.value, mean)
                running_var.value = _moving(self.momentum, running_var.value, kept)
        else:
            mean, var = running_mean.value, running_var.value
        multiplier = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            multiplier = multiplier * self.param("scale", self.scale_init, (features,), jnp.float32)
        y = (values - mean) * multiplier
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (features,), jnp.float32)
        return y.astype(x.dtype)


def _batch_statistics(x: Array, axis_name: str | None) -> tuple[Array, Array, int]:
    """Mean and biased variance per feature, in two passes, and the values each is taken over."""
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean = jnp.mean(x, axes)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
        count = count * jax.lax.axis_size(axis_name)
    var = jnp.mean(jnp.square(x - mean), axes)
    if axis_name is not None:
        var = lax.pmean(var, axis_name)
    return mean, var, count


def _moving(momentum: float, old: Array, new: Array) -> Array:
    return momentum * old + (1 - momentum) * new.astype(old.dtype)
