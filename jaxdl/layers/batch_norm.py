"""Batch normalisation with explicit statistics."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdl.checks import require_at_least
from jaxdl.layers.standardization import MeanOf, standardize


class BatchNorm(nn.Module):
    r"""Normalise each feature by the batch's statistics in training, by running ones in evaluation.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    In training mu and the biased sigma^2 are the batch's, computed in two passes, and `batch_stats`
    becomes `momentum * running + (1 - momentum) * batch`. In evaluation they are the running
    statistics, which do not change. All axes but the feature axis are reduced. Statistics are
    float32, or float64 for float64 inputs. gamma and beta start in float32, as in Flax.

    Under `jit` over a mesh the batch is the whole batch of all devices. Under `pmap` it is the
    device's own part, unless `axis_name` is given; `training.fit` gives it.

    Attributes:
        momentum: weight of the OLD running value in [0, 1]; PyTorch's `momentum=0.1` is 0.9 here.
        epsilon: added to the variance, inside the root.
        unbiased_variance: whether the running variance takes the batch's unbiased variance, as in
            PyTorch, or the biased one, as in Flax. Normalisation always uses the biased one.
        use_scale: whether to learn gamma, of shape (features,), initialised by `scale_init`.
        use_bias: whether to learn beta, of shape (features,), initialised by `bias_init`.
        axis_name: a pmap axis over which the batch statistics are averaged.
        cumulative: whether the running value is the equal average of all batches so far, as with
            PyTorch's `momentum=None`. `count` holds their number; the momentum is not used.
        feature_axis: the axis of the features; 1 for PyTorch's layout of images.
        freeze_scale: whether gamma gets no gradient. It stays a parameter: exclude it from weight
            decay by a mask.
        freeze_bias: the same for beta.
        virtual_batch_size: normalise each group of this many examples as a batch of its own. The
            running values take the average of the groups' statistics.
        axis_index_groups: with `axis_name`, groups of devices, of equal size. Each group shares its
            statistics: [[0, 1], [2, 3]].

    Raises:
        ValueError: a momentum outside [0, 1], a negative epsilon, groups of unequal size or
            without an axis; when called, inputs that are empty or have one value per statistic in
            training, a virtual batch that does not divide the batch, `batch_stats` that are
            missing, or, in training, not mutable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> norm = BatchNorm(epsilon=0.0)
        >>> variables = norm.init(jax.random.key(0), x, train=False)
        >>> y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        >>> y.ravel().tolist(), updates["batch_stats"]["mean"].item()
        ([-1.0, 1.0], 0.2...)

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2; virtual batches: Hoffer, Hubara and
    Soudry (2017), algorithm 1.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_variance: bool = True
    use_scale: bool = True
    use_bias: bool = True
    axis_name: str | None = None
    cumulative: bool = False
    feature_axis: int = -1
    freeze_scale: bool = False
    freeze_bias: bool = False
    virtual_batch_size: int | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    def __post_init__(self) -> None:
        """Refuse settings that define no statistics."""
        if not 0.0 <= self.momentum <= 1.0:
            raise ValueError(
                f"momentum must lie in [0, 1], got {self.momentum}; it is the weight of the OLD "
                "running value, one less PyTorch's"
            )
        if not self.epsilon >= 0.0:
            raise ValueError(f"epsilon must be 0 or more, got {self.epsilon}")
        require_at_least(1, virtual_batch_size=self.virtual_batch_size)
        if self.axis_index_groups is not None:
            groups = tuple(tuple(group) for group in self.axis_index_groups)
            if self.axis_name is None or len({len(group) for group in groups}) != 1:
                raise ValueError(
                    f"axis_index_groups must be groups of one size and go with an axis_name, "
                    f"got {groups} and {self.axis_name!r}"
                )
            object.__setattr__(self, "axis_index_groups", groups)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        """Normalise `x`; with `train=True`, apply with `mutable=["batch_stats"]`."""
        axis = self.feature_axis % x.ndim
        features = x.shape[axis]
        if x.size == 0:
            raise ValueError(f"BatchNorm needs values to normalise, got inputs of shape {x.shape}")
        self._check_collection(train)
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), dtype)
        if self.cumulative and (train or self.is_initializing()):
            # A float: averaging over devices would turn an integer into one.
            batches = self.variable("batch_stats", "count", jnp.zeros, (), dtype)
        values = x.astype(dtype)
        if train:
            values = self._virtual_batches(values, axis)
            axis += values.ndim - x.ndim
        shape = [1] * values.ndim
        shape[axis] = features
        scale, bias = (parameter.reshape(shape) for parameter in self._scale_and_bias(features))
        if not train:
            mean, var = running_mean.value.reshape(shape), running_var.value.reshape(shape)
            y = (values - mean) * (scale * lax.rsqrt(var + self.epsilon)) + bias
            return y.astype(x.dtype)
        mean_of, count = self._mean(values, axis)
        y, mean, var = standardize(values, scale, bias, mean_of, self.epsilon)
        if not self.is_initializing():
            kept = var * (count / (count - 1)) if self.unbiased_variance else var
            weight: Array | float = 1 - self.momentum
            if self.cumulative:
                batches.value = batches.value + 1
                weight = 1 / batches.value
            for running, new in ((running_mean, mean), (running_var, kept)):
                batch = new.reshape(-1, features).mean(0)
                moved = (1 - weight) * running.value + weight * batch
                # A scan's carry must keep its dtype, whatever that of the inputs or the momentum.
                running.value = moved.astype(running.value.dtype)
        return y.reshape(x.shape).astype(x.dtype)

    def _check_collection(self, train: bool) -> None:
        if self.is_initializing():
            return
        if not self.has_variable("batch_stats", "mean"):
            raise ValueError(
                "BatchNorm needs its running statistics, got variables without 'batch_stats'; "
                "apply the model to {'params': params, 'batch_stats': batch_stats}, with those "
                "that init or the last training step returned"
            )
        if train and not self.is_mutable_collection("batch_stats"):
            raise ValueError(
                "BatchNorm in training moves its running statistics, got an apply in which they "
                "are not mutable; call outputs, updates = model.apply(variables, x, train=True, "
                "mutable=['batch_stats']) and keep updates['batch_stats']"
            )

    def _virtual_batches(self, values: Array, axis: int) -> Array:
        """The values with a new first axis, the virtual batches."""
        size = values.shape[0] if self.virtual_batch_size is None else self.virtual_batch_size
        if self.virtual_batch_size is None:
            return values[None]
        if axis == 0 or values.shape[0] % size:
            raise ValueError(
                f"virtual_batch_size must divide the batch, the first axis, got {size} and inputs "
                f"of shape {values.shape} with features on axis {axis}"
            )
        return values.reshape(-1, size, *values.shape[1:])

    def _scale_and_bias(self, features: int) -> tuple[Array, Array]:
        """The parameters, or constants if not used; frozen parameters get no gradient."""
        scale, bias = jnp.ones(features), jnp.zeros(features)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, (features,), jnp.float32)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (features,), jnp.float32)
        return (
            lax.stop_gradient(scale) if self.freeze_scale else scale,
            lax.stop_gradient(bias) if self.freeze_bias else bias,
        )

    def _mean(self, values: Array, axis: int) -> tuple[MeanOf, int]:
        """The mean over all axes but the first and the features, and its number of values."""
        reduced = tuple(other for other in range(1, values.ndim) if other != axis)
        count = math.prod(values.shape[other] for other in reduced)
        if self.axis_name is not None:
            groups = self.axis_index_groups
            count *= lax.axis_size(self.axis_name) if groups is None else len(groups[0])
        if count < 2:
            raise ValueError(
                "BatchNorm needs at least two values per feature in training, whose spread is not "
                f"zero by necessity, got {count} from inputs of shape {values.shape[1:]}; "
                "pass a larger batch or train=False"
            )

        def mean_of(numbers: Array) -> Array:
            mean = jnp.mean(numbers, reduced, keepdims=True)
            if self.axis_name is None:
                return mean
            groups = self.axis_index_groups
            shared: Array = lax.pmean(mean, self.axis_name, axis_index_groups=groups)
            return shared

        return mean_of, count
