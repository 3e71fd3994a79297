"""The Jacobian of a network, or of a part of it: by how much it stretches each direction."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxdl.checks import whole_number
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.kernel.golub_kahan import Products, largest_singular_values
from jaxdl.diagnostics.kernel.mapped_rows import between, has_forward, moves
from jaxdl.plotting import singular_values_figure
from jaxdl.showing import counted, html_of, known, named, number
from jaxdl.training.task import Batch, as_measured, parts_of, scale_images, to_measure

MOST_NUMBERS = 2**27
"""Numbers of all Jacobians together: half a gigabyte in float32."""


@struct.dataclass
class JacobianSpectrum:
    r"""The singular values of each example's Jacobian.

    $$J_i = \frac{\partial t_i}{\partial s_i}, \qquad
      s_1 \ge s_2 \ge \dots \ge 0: \quad J_i = U\, \mathrm{diag}(s)\, V^\top$$

    The fields have the axes of a `vmap` first.

    Attributes:
        singular_values: from the largest down, (examples, values), in units of the target per unit
            of the source.
        residual: how far the nearest singular value may lie from each, up to rounding; zeros where
            the whole matrix was decomposed. (examples, values)
        source: the name of the row that is differentiated by, or "input".
        target: the name of the row that is differentiated, or "output".
        shape: of each Jacobian, (numbers of the target, numbers of the source).
    """

    singular_values: Float[Array | np.ndarray, "..."]
    residual: Float[Array | np.ndarray, "..."]
    source: str = struct.field(pytree_node=False)
    target: str = struct.field(pytree_node=False)
    shape: tuple[int, int] = struct.field(pytree_node=False)

    @property
    def is_whole(self) -> bool:
        """Whether all singular values are there."""
        return bool(self.singular_values.shape[-1] == min(self.shape))

    @property
    def mean_square(self) -> Any:
        r"""The mean of the squares by example, in float64; NaN if some are missing.

        $$\overline{s^2} = \|J\|_F^2 / \min(m, n)$$

        A random gradient's mean square is multiplied by it on its way back through a square J.
        """
        squares = _wide(self.singular_values) ** 2
        return (squares if self.is_whole else squares * np.nan).mean(-1)

    @property
    def spread(self) -> Any:
        r"""How unequal the directions are, by example, in float64; NaN if some are missing.

        $$\mathrm{Var}(s^2) / \overline{s^2}^2$$

        It is 0 where all directions are stretched alike: dynamical isometry, but for the scale.
        """
        squares = _wide(self.singular_values) ** 2
        variance = ((squares - squares.mean(-1, keepdims=True)) ** 2).mean(-1)
        return variance / self.mean_square**2

    @property
    def condition_number(self) -> Any:
        """The largest singular value over the smallest, by example; NaN if some are missing."""
        ratio = self.singular_values[..., 0] / self.singular_values[..., -1]
        return ratio if self.is_whole else ratio * np.nan

    def table(self) -> Any:
        """A `rich.table.Table` of quantiles over the values of all examples."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column(f"{self.target} by {self.source}")
        table.add_column("singular value", justify="right")
        values = np.asarray(self.singular_values, np.float64)
        rows = {"largest": values.max(), "median": np.median(values), "smallest": values.min()}
        if self.is_whole:
            rows["root mean square"] = np.sqrt((values**2).mean())
        for name, value in rows.items():
            table.add_row(name, number(value))
        return table

    def plot(self, expected: Mapping[str, Any] | None = None) -> Any:
        """A matplotlib figure of the sorted singular values of each example.

        Arguments:
            expected: singular values that a theory expects, by its label, from the largest down.
        """
        values = np.asarray(self.singular_values).reshape(-1, self.singular_values.shape[-1])
        return singular_values_figure(
            values, expected=expected, title=f"{self.target} by {self.source}"
        )

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        values, rows = known(self.singular_values), " x ".join(map(str, self.shape))
        where = f"{self.target} by {self.source}, {rows}"
        if values is None or not values.size:
            return f"JacobianSpectrum({where})"
        examples = counted(values.size // values.shape[-1], "example")
        texts = {"largest": number(values.max()), "smallest": number(values.min())}
        if not self.is_whole:
            texts = {"largest": texts["largest"], "values known": f"{values.shape[-1]}"}
        return f"JacobianSpectrum({where}, {examples}: {named(texts)})"

    def _repr_html_(self) -> str | None:
        return None if known(self.singular_values) is None else html_of(repr(self), self.table())


def jacobian_spectrum(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    source: str | None = None,
    target: str | None = None,
    count: int | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: Any = None,
) -> JacobianSpectrum:
    r"""Measure the singular values of the Jacobian from a value of the model to a later one.

    $$J_i = \partial t_i / \partial s_i$$

    for each example i: by default of the outputs by the inputs; or from one row of `propagation` to
    another, every way between them included. An example's own values count alone: with batch
    statistics the other examples are held where they are. A pure function, as `propagation`: it may
    be jitted, and mapped over keys or variables.

    Values near the largest times the precision of float32, 1e-7, are rounding. For those that are
    smaller give parameters and inputs in float64. Where a model has `jax.custom_vjp`, as
    straight-through estimators have, J is what its gradients say.

    Arguments:
        model: a model of any library, which needs no change; or a `training.Task`.
        variables: what `model.init` returned, or `state.variables`; as in `propagation`.
        batch: {"inputs": (batch, ...)}; the Jacobian is taken at the inputs after `preprocess`.
            Inputs that are integers are held.
        source: the name of the row to differentiate by; None for the inputs.
        target: the name of the row to differentiate; None for the outputs.
        count: how many of the largest singular values to find from products with J and J^T alone,
            for a Jacobian that is too large to be held. None decomposes the matrix.
        train: whether dropout and batch statistics are on.
        key: the key of the dropout masks, if the model draws any.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: no model, or the key no `jax.random.key`.
        ValueError: no such row; a target that is not after the source; inputs without floats or
            examples; a `count` below 1 or above the smaller side of J; matrices of more than 2^27
            numbers.

    Example:
        >>> from jaxdl import diagnostics, initializers, models
        >>> model = models.MLP([8] * 20, activation=lambda x: x,
        ...     kernel_init=initializers.orthogonal())
        >>> batch = {"inputs": jnp.ones((2, 8))}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> measured = diagnostics.jacobian_spectrum(model, variables, batch)
        >>> measured.singular_values.shape, bool(abs(measured.singular_values - 1).max() < 1e-5)
        ((2, 8), True)

    Source: Saxe, McClelland and Ganguli (2014); Pennington, Schoenholz and Ganguli (2017).
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    if count is not None:
        count = whole_number("count", count)
    measure = jit_with(_measure, (task, source, target, count, train))
    parts = parts_of(batch)
    if "inputs" not in parts:
        raise ValueError(f"a batch must have the key 'inputs', got {sorted(parts)}; name it so")
    measured: JacobianSpectrum = measure(variables, parts["inputs"], key)
    return measured


def _measure(settings: tuple[Any, ...], variables: Any, inputs: Any, key: Any) -> JacobianSpectrum:
    task, source, target, count, train = settings
    inputs = task.preprocess(jax.tree.map(jnp.asarray, inputs))
    found = between(task, variables, inputs, source, target, train=train, key=key)
    function, point = found.function, found.point
    outputs = int(jax.eval_shape(function, point).shape[1])
    examples, size = point.shape
    _check_size(examples, outputs, size, count)
    if train and moves(task, variables, inputs, key=key):

        def of_one(index: Array) -> Any:
            """With the other examples held."""

            def own(row: Array) -> Array:
                return function(point.at[index].set(row[0]))[index][None]

            return _singular_values(own, point[index][None], outputs, count)

        values, residual = (each[:, 0] for each in jax.lax.map(of_one, jnp.arange(examples)))
    else:
        values, residual = _singular_values(function, point, outputs, count)
    return JacobianSpectrum(
        values, residual, source=found.source, target=found.target, shape=(outputs, size)
    )


def _singular_values(
    function: Callable[[Array], Array], point: Array, outputs: int, count: int | None
) -> tuple[Array, Array]:
    """Of every example, where each depends on itself alone."""
    is_both_ways = has_forward(function, point)
    forward, backward = _products(function, point, is_both_ways)
    if count is not None:
        return largest_singular_values(forward, backward, jnp.zeros_like(point), outputs, count)
    size = point.shape[1]
    if size <= outputs and is_both_ways:
        columns = jnp.eye(size, dtype=point.dtype)
        jacobians = jax.vmap(lambda v: forward(jnp.broadcast_to(v, point.shape)))(columns)
    else:
        rows = jnp.eye(outputs, dtype=point.dtype)
        shape = (len(point), outputs)
        jacobians = jax.vmap(lambda u: backward(jnp.broadcast_to(u, shape)))(rows)
    values = jnp.linalg.svd(jnp.moveaxis(jacobians, 0, 1), compute_uv=False)
    return values, jnp.zeros_like(values)


def _products(
    function: Callable[[Array], Array], point: Array, is_both_ways: bool
) -> tuple[Products, Products]:
    """v -> J v and u -> J^T u."""
    if is_both_ways:
        _, forward = jax.linearize(function, point)
        transposed = jax.linear_transpose(forward, point)
        return forward, lambda u: transposed(u)[0]
    made, pull = jax.vjp(function, point)

    def backward(u: Array) -> Array:
        (moved,) = pull(u)
        change: Array = moved
        return change

    def forward_of_backward(v: Array) -> Array:
        """J is the transpose of J^T, which the function with `jax.custom_vjp` gives."""
        (moved,) = jax.linear_transpose(backward, made)(v)
        change: Array = moved
        return change

    return forward_of_backward, backward


def _check_size(examples: int, outputs: int, size: int, count: int | None) -> None:
    if count is None and examples * outputs * size > MOST_NUMBERS:
        raise ValueError(
            f"Jacobians must have at most {MOST_NUMBERS:,} numbers together, got {examples} of "
            f"{outputs:,} x {size:,}; pass fewer examples, or count= for the largest singular "
            "values alone"
        )
    if count is not None and count > min(outputs, size):
        raise ValueError(
            f"count must be at most the {min(outputs, size)} singular values of a Jacobian of "
            f"{outputs} x {size}, got {count}; pass a smaller count"
        )


def _wide(values: Any) -> Any:
    return values if isinstance(values, jax.core.Tracer) else np.asarray(values, np.float64)
