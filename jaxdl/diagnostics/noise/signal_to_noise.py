"""Each parameter's gradient over its noise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxdl.calling import GivenMode
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.noise.noise_estimates import t_of_level
from jaxdl.diagnostics.noise.small_batches import (
    Settings,
    add_up,
    gradients_of,
    settings_of,
    summed,
    units_of,
)
from jaxdl.diagnostics.objective import Group, groups, weighed_batch
from jaxdl.training.task import Batch, PerExample, as_task, scale_images, to_measure

Values = Float[Array | np.ndarray, "..."]
FEWEST = 4
"""Examples below which the estimate has no finite mean."""


@struct.dataclass
class SignalToNoise:
    """What `signal_to_noise` measured: trees like the parameters, and an entry for each group.

    Attributes:
        mean: of each parameter the mean of its examples' gradients, a tree.
        stddev: the standard deviation of these gradients, a tree.
        squared_ratio: the estimate of (mean / stddev)^2 of the true ones, a tree. It may be
            negative. It is 0 where no example has a gradient, and inf where all have the same; NaN
            where a gradient is not finite, and where too few examples have weight.
        median: by group, of sqrt(max(squared_ratio, 0)) over the parameters; (groups,).
        mean_square: by group, the mean of the squared ratios; unbiased, (groups,). Parameters with
            the same gradient in every example, or none, are left out.
        seen: the share of parameters whose mean gradient is not 0, by a t-test at 5 %. Where all is
            noise it is 0.05. It is NaN where a ratio is.
        without_gradient: the share of parameters that get no gradient from any example; NaN where a
            gradient is not finite.
        names: the groups.
        parameters: how many numbers each has.
    """

    mean: Any
    stddev: Any
    squared_ratio: Any
    median: Values
    mean_square: Values
    seen: Values
    without_gradient: Values
    names: tuple[str, ...] = struct.field(pytree_node=False)
    parameters: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def ratio(self) -> Any:
        """The ratio |mean| / s.d. of each parameter without its bias; 0 where that is below 0."""
        return jax.tree.map(lambda square: jnp.sqrt(jnp.maximum(square, 0)), self.squared_ratio)

    def table(self) -> Any:
        """A `rich.table.Table` of the groups."""
        from jaxdl.diagnostics.noise.noise_tables import ratio_table

        return ratio_table(self)

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.noise.noise_tables import ratio_line

        return ratio_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.noise.noise_tables import ratio_html

        return ratio_html(self)


def signal_to_noise(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    layers: Any = "each",
    batch_size: int | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> SignalToNoise:
    r"""Measure how far each parameter's gradient stands out from the differences of the examples.

    $$\widehat{\frac{\mu^2}{\sigma^2}} = \frac{n - 3}{n - 1}\,\frac{m^2}{s^2} - \frac{1}{n}$$

    with m and s the mean and the standard deviation of n gradients. m^2 / s^2 itself is too large,
    1 / n for pure noise. The estimate is unbiased where the gradients are normal. With weights, n
    is (sum w)^2 / sum w^2. It needs more than 3, and 4 examples with weight.

    A parameter with a ratio r has its sign right in a batch of B examples where r sqrt(B) is well
    above 1. What is said in `gradient_noise` of dropout, norms and memory holds here, too.

    Arguments:
        model: a model of any library, see `calling.adapt`; or a `training.Task`.
        variables: as in `gradient_noise`.
        batch: {"inputs": (batch, ...), "targets": (batch, ...)}, 4 examples or more.
        loss: per example, (outputs, targets) -> (batch,).
        layers: which parameters are summarised together, as in `gradient_noise`.
        batch_size: examples that are computed at once; None for all.
        train: whether dropout is on.
        key: the key of the random numbers that the model draws, if any. Without it a module of NNX
            has one dropout mask for all.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: no model, no loss, or `layers` of another kind.
        ValueError: fewer than 4 examples; weights that are all 0; a model that in training takes
            statistics of the batch, or draws random numbers without a key.

    Example:
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params
        >>> x = jnp.array([[1.0], [1.0], [1.0], [1.0], [1.0]])
        >>> y = jnp.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
        >>> found = diagnostics.signal_to_noise(
        ...     line, jnp.zeros((1, 1)), (x, y), loss=losses.mean_squared_error)
        >>> found.mean.item(), round(found.squared_ratio.item(), 4)  # 36 / 10 / 2 - 1 / 5
        (-6.0, 1.6)
    """
    task = as_task(model, loss, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    settings = settings_of(task, train=train, small_batch=1, batch_size=batch_size)
    chosen = groups(variables["params"], layers)
    measured: SignalToNoise = jit_with(_measure, (settings, chosen))(
        variables, weighed_batch(batch), key
    )
    return measured


def _measure(
    known: tuple[Settings, tuple[Group, ...]], variables: Mapping[str, Any], batch: Any, key: Any
) -> SignalToNoise:
    settings, chosen = known
    units = units_of(settings, variables, batch, key, least=FEWEST)
    traced = units.traced()

    def sums(parts: Any) -> Any:
        weighed = gradients_of(traced, units.leaves, parts)
        squares = add_up(traced, weighed, squares=True)
        own = weighed.weight
        counts = own.sum(), weighed.squares.sum(), (own > 0).sum()
        return add_up(traced, weighed), squares, *counts

    total, squares, weight, of_squares, weighty = summed(sums, units)
    count = weight**2 / of_squares
    enough = (weighty >= FEWEST) & (count > FEWEST - 1)
    means = [each / weight for each in total]

    def deviation(mean: Array, square: Array) -> Array:
        # The mean of squares less the square of the mean; below this it is a long sum's rounding.
        apart = square / weight - jnp.square(jnp.abs(mean))
        rounding = 4 * units.count**0.5 * jnp.finfo(apart.dtype).eps * square / weight
        return jnp.sqrt(jnp.where(apart <= rounding, 0, apart) * count / (count - 1))

    deviations = [deviation(mean, square) for mean, square in zip(means, squares, strict=True)]

    def ratio(mean: Array, stddev: Array) -> Array:
        same = stddev == 0
        plain = (jnp.abs(mean) / jnp.where(same, 1, stddev)) ** 2
        found = (count - 3) / (count - 1) * plain - 1 / count
        found = jnp.where(same, jnp.where(mean == 0, 0.0, jnp.inf), found)
        return jnp.where(enough, found, jnp.nan)

    ratios = [ratio(mean, s) for mean, s in zip(means, deviations, strict=True)]
    threshold = t_of_level(weighty - 1, units.count - 1)

    def of_group(group: Group) -> dict[str, Array]:
        own = np.flatnonzero(group.owned)
        mean, stddev, square = (
            jnp.concatenate([each[leaf].ravel() for leaf in own])
            for each in (means, deviations, ratios)
        )
        same, alone = stddev == 0, ~(count > 1)
        known = jnp.isfinite(mean).all() & (jnp.isfinite(stddev).all() | alone)
        seen = jnp.mean(jnp.abs(mean) * jnp.sqrt(count) > threshold * stddev)
        return {
            "median": jnp.median(jnp.sqrt(jnp.maximum(square, 0))),
            "mean_square": jnp.sum(jnp.where(same, 0, square)) / (~same).sum(),
            "seen": jnp.where(enough & known, seen, jnp.nan),
            "without_gradient": jnp.where(known, jnp.mean((same | alone) & (mean == 0)), jnp.nan),
        }

    found = [of_group(group) for group in chosen]

    def as_params(leaves: list[Array]) -> Any:
        return jax.tree.unflatten(units.structure, leaves)

    return SignalToNoise(
        mean=as_params(means),
        stddev=as_params(deviations),
        squared_ratio=as_params(ratios),
        **{name: jnp.stack([each[name] for each in found]) for name in found[0]},
        names=tuple(group.name for group in chosen),
        parameters=tuple(
            sum(units.leaves[leaf].size for leaf in np.flatnonzero(group.owned)) for group in chosen
        ),
    )
