"""Batch normalisation with explicit statistics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdl.checks import require_at_least
from jaxdl.layers.inputs import as_mask, floating
from jaxdl.layers.standardization import Counted, SumOf, standardize


class BatchNorm(nn.Module):
    r"""Normalise each feature by the batch's statistics in training, by running ones in evaluation.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    In training mu and the biased sigma^2 are the batch's, computed in two passes, and `batch_stats`
    becomes `momentum * running + (1 - momentum) * batch`. In evaluation they are the running
    statistics, which do not change. All axes but the feature axis are reduced. Statistics are
    float32, or float64 for float64 inputs. gamma and beta start in float32, as in Flax. Outputs
    have the dtype of the inputs; integers and booleans become float32.

    Where the batch holds padding, say by `mask` which examples (or positions) count. Statistics are
    then those of the batch without the padding. Outputs of the padding are 0, and it gets no
    gradient, whatever it holds. A batch with fewer than two values that count moves no running
    statistics. `virtual_batch_size` groups the rows as they stand, padding included.

    At epsilon 1e-5, deviations up to 1e31 are normalised in float32, whose squares overflow from
    1.8e19 on (PyTorch gives beta there). Beyond, y is beta; with epsilon 0, from 1.8e19 on. The
    running variance is infinite from 1.8e19 on, and evaluation then gives beta. A feature without
    spread gives exactly beta, also where epsilon is 0, which PyTorch refuses.

    PyTorch: the defaults, its `BatchNorm2d`, whose `momentum` is 1 - `momentum`. Flax:
    `momentum=0.99, unbiased_variance=False`.

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
        freeze_statistics: whether training, too, normalises by the running statistics and leaves
            them, as `bn.eval()` in PyTorch. gamma and beta still learn.
        virtual_batch_size: normalise each group of this many examples as a batch of its own. The
            running values take the average of the groups' statistics.
        track_running_stats: whether there are running statistics. Without, evaluation takes the
            batch's own too, as in PyTorch: what a model says of one example depends on the others,
            and a batch of one is refused.
        axis_index_groups: with `axis_name`, groups of devices, of equal size. Each group shares its
            statistics: [[0, 1], [2, 3]].

    Raises:
        TypeError: when called, complex inputs: their two parts have no one variance.
        ValueError: a momentum outside [0, 1], a negative epsilon, groups of unequal size or
            without an axis, frozen statistics that are not tracked; when called, inputs that are
            empty or have one value per statistic in training, a feature axis that they lack, a mask
            that does not fit them, a virtual batch that does not divide the batch, `batch_stats`
            that are missing, or, in training, not mutable.

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
    freeze_statistics: bool = False
    virtual_batch_size: int | None = None
    track_running_stats: bool = True
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
        if self.freeze_statistics and not self.track_running_stats:
            raise ValueError(
                "freeze_statistics needs running statistics to normalise by, got "
                "track_running_stats=False; leave one of them out"
            )
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
    def __call__(self, x: Any, *, train: bool, mask: Any = None) -> Float[Array, "..."]:
        """Normalise `x`; with `train=True`, apply with `mutable=["batch_stats"]`.

        Arguments:
            x: the inputs.
            train: whether the batch's statistics are used, and the running ones moved.
            mask: booleans, true for what counts, over the leading axes of `x`: (batch,) for
                examples, (batch, length) for positions. An axis may have length 1.
        """
        train = train and not self.freeze_statistics
        x = floating("BatchNorm", x)
        axis = self._axis_of_features(x.shape)
        counts = None if mask is None else as_mask(mask, x.shape)
        self._check_collection(train)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if counts is not None:
            values = jnp.where(counts, values, 0)
        running = self._running(x.shape[axis], values.dtype, train)
        scale, bias = self._scale_and_bias(x.shape[axis])
        if train or not running:
            y = self._by_the_batch(values, counts, axis, (scale, bias), running, train)
        else:
            shape = [1] * x.ndim
            shape[axis] = x.shape[axis]
            mean, var, scale, bias = (
                each.reshape(shape)
                for each in (running["mean"].value, running["var"].value, scale, bias)
            )
            y = (values - mean) * (scale * lax.rsqrt(var + self.epsilon)) + bias
        if counts is not None:
            y = jnp.where(counts, y, 0)
        return y.astype(x.dtype)

    def _axis_of_features(self, shape: tuple[Any, ...]) -> int:
        if not -len(shape) <= self.feature_axis < len(shape):
            raise ValueError(
                f"feature_axis must be an axis of the inputs, got {self.feature_axis} for inputs "
                f"of shape {shape}; -1 is the last axis"
            )
        if 0 in shape:
            raise ValueError(f"BatchNorm needs values to normalise, got inputs of shape {shape}")
        return self.feature_axis % len(shape)

    def _running(self, features: int, dtype: Any, train: bool) -> dict[str, Any]:
        """The running statistics by name; none if they are not tracked."""
        if not self.track_running_stats:
            return {}
        running = {
            "mean": self.variable("batch_stats", "mean", jnp.zeros, (features,), dtype),
            "var": self.variable("batch_stats", "var", jnp.ones, (features,), dtype),
        }
        if self.cumulative and (train or self.is_initializing()):
            # A float: averaging over devices would turn an integer into one.
            running["count"] = self.variable("batch_stats", "count", jnp.zeros, (), dtype)
        return running

    def _by_the_batch(
        self,
        values: Array,
        counts: Array | None,
        axis: int,
        scale_and_bias: tuple[Array, Array],
        running: dict[str, Any],
        train: bool,
    ) -> Array:
        """Normalise by the batch's statistics, and move the running ones."""
        whole, features = values.shape, values.shape[axis]
        values = self._virtual_batches(values, axis)
        if counts is not None:
            counts = jnp.broadcast_to(counts, (whole[0], *counts.shape[1:]))
            counts = self._virtual_batches(counts, axis)
        axis += 1
        shape = [1] * values.ndim
        shape[axis] = features
        sum_of, counted = self._sum(values, counts, axis, train=train)
        scale, bias = (each.reshape(shape) for each in scale_and_bias)
        near = self._near(values, counts, axis)
        y, mean, var = standardize(values, scale, bias, near, counted, sum_of, self.epsilon)
        if running and not self.is_initializing():
            self._move(running, mean, var, counted[1])
        return y.reshape(whole)

    def _move(self, running: dict[str, Any], mean: Array, var: Array, number: Any) -> None:
        """Move the running statistics by the average of the virtual batches' own."""
        features = running["mean"].value.size
        # One value has no spread: a virtual batch with less than two that count is left out.
        enough = jnp.broadcast_to(number >= 2, mean.shape).reshape(-1, features)
        if self.unbiased_variance:
            var = var * (number / jnp.maximum(number - 1, 1)).astype(var.dtype)
        weight: Array | float = 1 - self.momentum
        if "count" in running:
            batches = running["count"]
            batches.value = batches.value + enough.any().astype(batches.value.dtype)
            weight = 1 / jnp.maximum(batches.value, 1)
        for name, new in (("mean", mean), ("var", var)):
            new = jnp.where(enough, new.reshape(-1, features), 0)
            batch = new.sum(0) / jnp.maximum(enough.sum(0), 1).astype(new.dtype)
            old = running[name].value
            moved = jnp.where(enough.any(0), (1 - weight) * old + weight * batch, old)
            # A scan's carry must keep its dtype, whatever that of the inputs or the momentum.
            running[name].value = moved.astype(old.dtype)

    def _check_collection(self, train: bool) -> None:
        if self.is_initializing() or not self.track_running_stats:
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

    def _near(self, values: Array, counts: Array | None, axis: int) -> Array:
        """One of the values of each mean, the same on all devices that share it."""
        reduced = tuple(other for other in range(1, values.ndim) if other != axis)
        if counts is not None:
            near = jnp.max(jnp.where(counts, values, -jnp.inf), reduced, keepdims=True)
        elif _is_split(values, reduced):
            near = jnp.max(values, reduced, keepdims=True)
        else:
            places: Any = [slice(1)] * values.ndim
            places[0] = places[axis] = slice(None)
            near = values[tuple(places)]
        if self.axis_name is not None:
            groups = self.axis_index_groups
            near = lax.pmax(lax.stop_gradient(near), self.axis_name, axis_index_groups=groups)
        return lax.stop_gradient(jnp.where(jnp.isneginf(near), 0, near))

    def _sum(
        self, values: Array, counts: Array | None, axis: int, *, train: bool
    ) -> tuple[SumOf, Counted]:
        """The sum over all axes but the first and the features; which values count, how many."""
        reduced = tuple(other for other in range(1, values.ndim) if other != axis)
        count = math.prod(values.shape[other] for other in reduced)
        if self.axis_name is not None:
            groups = self.axis_index_groups
            count *= lax.axis_size(self.axis_name) if groups is None else len(groups[0])
        # A model is initialised by one example, without any statistics.
        if count < 2 and (train or not self.is_initializing()):
            raise ValueError(
                "BatchNorm needs at least two values per feature in training, whose spread is not "
                f"zero by necessity, got {count} from inputs of shape {values.shape[1:]}; "
                f"pass a larger batch{' or train=False' if self.track_running_stats else ''}"
            )

        def sum_of(numbers: Array, which: Array | None) -> Array:
            if which is not None:
                numbers = jnp.where(which, numbers, 0)
            summed = jnp.sum(numbers, reduced, keepdims=True)
            if self.axis_name is None:
                return summed
            groups = self.axis_index_groups
            shared: Array = lax.psum(summed, self.axis_name, axis_index_groups=groups)
            return shared

        if counts is None:
            return sum_of, (None, float(count))
        # An axis of length 1 stands for all places of the values' axis.
        times = math.prod(values.shape[other] // counts.shape[other] for other in reduced)
        number = times * sum_of(counts.astype(values.dtype), None)
        return sum_of, (counts, jnp.maximum(number, 1))


def _is_split(values: Array, axes: Sequence[int]) -> bool:
    """Whether an axis is divided among devices by its type: such a one cannot be cut to one place.

    So it is under `jax.jit` over a mesh of explicit axes, as `jax.make_mesh` makes them.
    """
    spec = jax.typeof(values).sharding.spec
    return any(axis < len(spec) and spec[axis] is not None for axis in axes)
