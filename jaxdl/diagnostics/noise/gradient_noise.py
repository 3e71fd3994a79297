"""How much of a gradient is noise: which batch size is worth its examples."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxdl.calling import GivenMode
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.noise.noise_estimates import estimate_noise
from jaxdl.diagnostics.noise.small_batches import (
    Settings,
    add_up,
    gradients_of,
    mapped,
    norms_and_products,
    settings_of,
    shares_of,
    summed,
    units_of,
)
from jaxdl.diagnostics.objective import Group, groups, weighed_batch
from jaxdl.diagnostics.sizes import norm
from jaxdl.plotting import noise_figure
from jaxdl.showing import counted
from jaxdl.training.task import Batch, PerExample, as_task, scale_images, to_measure

Values = Float[Array | np.ndarray, "..."]


@struct.dataclass
class GradientNoise:
    r"""What `gradient_noise` measured: an entry for each group of parameters.

    The fields are float32 arrays, of shape (groups,) unless said otherwise, after any axes of a
    `vmap`. A unit is an example, or a small batch of several.

    Attributes:
        names: the groups: "all", or layers, or patterns.
        parameters: how many numbers each has.
        small_batch: examples of a unit.
        gradient_norm: |G|, the norm of the mean loss's gradient, as in training.
        norms: of the gradient of each unit's own mean loss, (groups, units).
        alignment: the cosine between it and G, (groups, units); 0 where one of them is 0. A single
            example of pure noise has about 1 / sqrt(units), because G has its share of it.
        weights: each unit's share of the whole batch, (units,).
        squared_gradient: the estimate of |E[g]|^2, the square of the true gradient. It is unbiased,
            so it may be negative: then the gradient does not stand out from its noise.
        covariance_trace: the estimate of tr Cov(g), for single examples; NaN if one unit alone has
            weight.
        squared_gradient_error: its standard error, by the jackknife; NaN for 2 units with weight.
        covariance_trace_error: its standard error.
        noise_scale: `covariance_trace / squared_gradient`, in examples; NaN where the square is not
            positive.
        low: the lower end of its interval, at 95 %.
        high: the upper end; inf where the true gradient may be 0.
    """

    gradient_norm: Values
    norms: Values
    alignment: Values
    weights: Values
    squared_gradient: Values
    covariance_trace: Values
    squared_gradient_error: Values
    covariance_trace_error: Values
    noise_scale: Values
    low: Values
    high: Values
    names: tuple[str, ...] = struct.field(pytree_node=False)
    parameters: tuple[int, ...] = struct.field(pytree_node=False)
    small_batch: int = struct.field(pytree_node=False)

    def table(self) -> Any:
        """A `rich.table.Table` of the groups."""
        from jaxdl.diagnostics.noise.noise_tables import noise_table

        return noise_table(self)

    def plot(self) -> Any:
        """A matplotlib figure: the noise scale by group, and the alignment of the units.

        Of a mapped measurement it is the ratio of the means over the runs, without an interval, and
        the alignment of all runs' units.
        """
        from jaxdl.diagnostics.noise.noise_tables import noise_scales

        scales, low, high = self.noise_scale, self.low, self.high
        cosines = np.asarray(self.alignment)
        is_mapped = np.ndim(scales) > 1
        if is_mapped:
            found = noise_scales(self)
            known = [np.nan if isinstance(each, str) else each for each in found]
            scales = low = high = np.array(known)
            cosines = np.moveaxis(cosines, -2, 0).reshape(len(self.names), -1)
        figure = noise_figure(
            self.names, scales, low, high, cosines,
            unit="single examples" if self.small_batch == 1 else f"batches of {self.small_batch}",
        )  # fmt: skip
        if is_mapped:
            runs = counted(int(np.prod(np.shape(self.noise_scale)[:-1])), "run")
            figure.axes[0].set_xlabel(f"noise scale (examples), of the mean of {runs}")
        return figure

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.noise.noise_tables import noise_line

        return noise_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.noise.noise_tables import noise_html

        return noise_html(self)


def gradient_noise(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    layers: Any = None,
    small_batch: int = 1,
    batch_size: int | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> GradientNoise:
    r"""Measure how much the gradients of examples differ, and so the simple noise scale.

    $$B_{simple} = \frac{\mathrm{tr}\,\mathrm{Cov}(g)}{\lvert\mathrm{E}[g]\rvert^2}, \qquad
      g = \frac{\partial}{\partial\theta} \ell(f_\theta(x), y)$$

    for an example (x, y). A batch of B examples has the noise tr Cov(g) / B beside the gradient's
    square. Well below the noise scale twice the batch is worth twice the steps; well above it, a
    larger batch wastes examples.

    Both parts are estimated without bias from the gradients of a batch's examples, or with
    `small_batch` from two batch sizes: those gradients' squares, and that of the whole batch.
    Average the parts along a run, not the ratio: see `average_noise`.

    A pure function: it may be jitted, and mapped over keys or variables. Layers that are one
    product, of matrices or a convolution, need no gradient of an example in memory. Other
    parameters, and those used more than once, need as many copies as there are examples at once.

    In training each example has a dropout mask of its own; this noise counts. A norm that takes
    statistics of the batch makes each gradient depend on the other examples, so there is none of
    an example: take its running statistics with `train=False`, or small batches, each with its own
    statistics. A norm without a running average is not noticed: it sees batches of one.

    Examples with weights count with them: G is the gradient of the weighted mean, and the
    estimates take the weights as given. An example of weight 0 is left out.

    Arguments:
        model: a model of any library, see `calling.adapt`; or a `training.Task`.
        variables: what `model.init` returned, or `state.variables`; of a function its parameters.
            None takes those that a module of NNX or Equinox holds.
        batch: {"inputs": (batch, ...), "targets": (batch, ...)}, perhaps with "weights" (batch,).
        loss: per example, (outputs, targets) -> (batch,).
        layers: None for all parameters together, "each" for every layer, or a sequence of patterns,
            as in `optimizers.by_layer`.
        small_batch: examples of the smaller batch size; it divides the batch.
        batch_size: examples that are computed at once, at least `small_batch`; None for all. It
            bounds the memory, and changes nothing but rounding.
        train: whether dropout and batch statistics are on.
        key: the key of the random numbers that the model draws, if any. Without it a module of NNX
            has one dropout mask for all.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: no model, no loss, or `layers` of another kind.
        ValueError: fewer than 2 units, e.g. a single example; a `small_batch` that does not divide
            the batch; weights that are all 0; single examples in training of a model with batch
            statistics; random numbers without a key; a layer without parameters.

    Example:
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params["w"]
        >>> batch = {"inputs": jnp.eye(2), "targets": jnp.array([[1.0], [3.0]])}
        >>> found = diagnostics.gradient_noise(
        ...     line, {"w": jnp.zeros((2, 1))}, batch, loss=losses.mean_squared_error)
        >>> found.norms.tolist(), round(found.covariance_trace.item(), 4)
        ([[2.0, 6.0]], 20.0)

    Source: McCandlish, Kaplan and Amodei (2018), An empirical model of large-batch training,
    equation 2.9 and appendix A.1.
    """
    task = as_task(model, loss, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    settings = settings_of(task, train=train, small_batch=small_batch, batch_size=batch_size)
    chosen = groups(variables["params"], layers)
    measured: GradientNoise = jit_with(_measure, (settings, chosen))(
        variables, weighed_batch(batch), key
    )
    return measured


def _measure(
    known: tuple[Settings, tuple[Group, ...]],
    variables: Mapping[str, Any],
    batch: Any,
    key: Any,
) -> GradientNoise:
    settings, chosen = known
    units = units_of(settings, variables, batch, key)
    traced = units.traced()

    def sums(parts: Any) -> Any:
        weighed = gradients_of(traced, units.leaves, parts)
        return add_up(traced, weighed), weighed.weight.sum()

    total, weight = summed(sums, units)
    mean = [each / jnp.where(weight > 0, weight, 1) for each in total]
    lengths = [norm([each]) for each in mean]
    directions = [
        each / jnp.where(length > 0, length, 1) for each, length in zip(mean, lengths, strict=True)
    ]

    def reduce(parts: Any) -> Any:
        weighed = gradients_of(traced, units.leaves, parts)
        sizes = norms_and_products(traced, weighed.gradient, directions)
        return *sizes, weighed.weight, weighed.squares

    norms, along, weights, squares = mapped(reduce, units)
    shares = shares_of(weights, squares)

    def of_group(group: Group) -> dict[str, Array]:
        own = np.flatnonzero(group.owned)
        size = norm([jnp.stack([lengths[leaf] for leaf in own])])
        of_units = norm([norms[:, own]], 1)[:, 0]
        parts = jnp.stack([lengths[leaf] for leaf in own]) / jnp.where(size > 0, size, 1)
        projected = along[:, own] @ parts
        cosines = projected / jnp.where(of_units > 0, of_units, 1)
        found = estimate_noise(of_units, projected, size, shares)
        return {
            "gradient_norm": size,
            "norms": of_units,
            "alignment": jnp.clip(cosines, -1, 1),
            **found._asdict(),
        }

    found = [of_group(group) for group in chosen]
    fields = {name: jnp.stack([each[name] for each in found]) for name in found[0]}
    leaves = units.leaves
    return GradientNoise(
        **fields,
        weights=shares.weight,
        names=tuple(group.name for group in chosen),
        parameters=tuple(
            sum(leaves[leaf].size for leaf in np.flatnonzero(group.owned)) for group in chosen
        ),
        small_batch=settings.small_batch,
    )
