"""Signal and gradient, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float

from jaxdl.calling import GivenMode
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.activation_slopes import Slope
from jaxdl.diagnostics.signal.attending import attended_by_row
from jaxdl.diagnostics.signal.feeds import feeds_of
from jaxdl.diagnostics.signal.names import ACTIVATION
from jaxdl.diagnostics.signal.recording import Recording, record
from jaxdl.diagnostics.signal.rows import Trace
from jaxdl.diagnostics.sizes import mean_and_deviation, norms
from jaxdl.plotting import signal_figure
from jaxdl.training.task import Batch, PerExample, as_task, parts_of, scale_images, to_measure

Values = Float[Array | np.ndarray, "..."]


@struct.dataclass
class Propagation:
    r"""What `propagation` measured: one entry for each row, in order of execution.

    A row is the output of a module that calls no other module (kind: the module's class), or the
    result of plain functions between two modules (kind: "activation", also for pooling; with
    parameters of their own: "parameters"). The weights of an attention, a softmax between two
    products of signals, have a row of the kind "attention". A module that is called again has a row
    for each call, named `path:2` and so on. The layers of a scan or of a vmap have a row each,
    `blocks[2]/dense`; a scan over time has one row for all times.

    The fields are float32 arrays of shape (rows,), after any axes of a `vmap`. They hold standard
    deviations, not variances: a gradient of 1e-25 is a float32 number, but its square is not. The
    properties square them in float64. They are right for every normal float32.

    Complex values count by their modulus: the mean is |E[a]|, the variance E|a - E[a]|^2.

    Attributes:
        names: the module's path of each row, joined by "/".
        kinds: the modules' classes, "activation", "parameters" or "attention".
        shapes: the values' shapes, the batch axis included.
        has_weights: whether the row's module has parameters.
        hidden: modules without rows, inside a branch, a while loop, a callback or a function with
            its own derivative. A warning names them, too.
        feeds: the numbers of the rows from which each row is computed; -1 is the first input, -2
            the second, and so on.
        mean: mean over all entries of the value a.
        stddev: standard deviation of these entries.
        dead_fraction: share of units whose value is the same over the batch and all image
            positions. A unit is an index of the last axis; in an attention, of its heads, too.
            NaN for an attention's weights.
        saturated_fraction: share of entries where the activation's slope is below `saturation` in
            size and below a tenth of its slope elsewhere, and the activation is not 0. (A ReLU that
            is off is not saturated, nor is a linear map, however small.) NaN for rows of modules
            with parameters, and of functions of complex numbers.
        nonfinite_fraction: share of entries of the value that are NaN or infinite.
        gradient_mean: mean over all entries of dL/da. L is the SUM of the per-example losses, so it
            does not shrink with the batch.
        gradient_stddev: standard deviation of these entries.
        gradient_zero_fraction: share of these entries that are exactly 0: cut off (a ReLU that is
            off, a dropped unit) or underflowed.
        gradient_nonfinite_fraction: share of these entries that are NaN or infinite.
        weight_norm: Euclidean norm of the module's kernels (parameters of two or more axes), or of
            all its parameters if it has no kernel. NaN for rows without parameters.
        weight_gradient_norm: the same norm of the gradient of the MEAN loss, as in training.
        update_ratio: ||update|| / ||weight|| for the optimizer's next update; None without an
            optimizer.
        loss: the mean loss over the batch.
        largest_logit: of an attention's weights the largest |logit| of a key that is not masked;
            NaN in other rows, as the next four. See `attending.Attended`.
        entropy: of an attention's weights the mean entropy over the queries, in nats.
        on_one_key: the share of queries with a weight of 0.99 or more on one of several keys.
        least_entropy: the least entropy of a query that sees several keys, in nats.
        normalized_entropy: the mean over these queries of the entropy over log n of n visible keys:
            0 on one key, 1 on all alike.
    """

    mean: Values
    stddev: Values
    dead_fraction: Values
    saturated_fraction: Values
    nonfinite_fraction: Values
    gradient_mean: Values
    gradient_stddev: Values
    gradient_zero_fraction: Values
    gradient_nonfinite_fraction: Values
    weight_norm: Values
    weight_gradient_norm: Values
    update_ratio: Values | None
    loss: Values
    names: tuple[str, ...] = struct.field(pytree_node=False)
    kinds: tuple[str, ...] = struct.field(pytree_node=False)
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)
    has_weights: tuple[bool, ...] = struct.field(pytree_node=False)
    hidden: tuple[str, ...] = struct.field(pytree_node=False, default=())
    feeds: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False, default=())
    largest_logit: Values | None = None
    entropy: Values | None = None
    on_one_key: Values | None = None
    least_entropy: Values | None = None
    normalized_entropy: Values | None = None

    @property
    def variance(self) -> Any:
        """Variance of the value's entries, in float64 (outside of any trace)."""
        return _wide(self.stddev) ** 2

    @property
    def second_moment(self) -> Any:
        """Mean square of the value's entries, in float64 (outside of any trace)."""
        return self.variance + _wide(self.mean) ** 2

    @property
    def gradient_variance(self) -> Any:
        """Variance of the entries of dL/da, in float64 (outside of any trace)."""
        return _wide(self.gradient_stddev) ** 2

    @property
    def gradient_second_moment(self) -> Any:
        """Mean square of the entries of dL/da, in float64 (outside of any trace)."""
        return self.gradient_variance + _wide(self.gradient_mean) ** 2

    @property
    def is_activation(self) -> tuple[bool, ...]:
        """Whether each row is an activation, and not a module's output."""
        return tuple(kind == ACTIVATION for kind in self.kinds)

    def table(self) -> Any:
        """A `rich.table.Table` of the rows."""
        from jaxdl.diagnostics.signal.tables import propagation_table

        return propagation_table(self)

    def attention_table(self) -> Any:
        """A `rich.table.Table` of the attentions' rows; without lines where there are none."""
        from jaxdl.diagnostics.signal.tables import attention_table

        return attention_table(self)

    def plot(self, expected: Mapping[str, Any] | None = None) -> Any:
        """A matplotlib figure of `stddev` and `gradient_stddev` by row.

        Arguments:
            expected: a theory by its label: (forward, backward), each (rows,), NaN where it is
                silent. It is drawn on the same axes.
        """
        return signal_figure(
            self.names, self.stddev, self.gradient_stddev, self.has_weights, expected=expected
        )

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.signal.tables import propagation_line

        return propagation_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.signal.tables import propagation_html

        return propagation_html(self)


def propagation(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    optimizer: optax.GradientTransformation | None = None,
    opt_state: optax.OptState | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
    saturation: float = 0.01,
) -> Propagation:
    r"""Measure how the signal goes forward through a model, and the gradient back.

    $$\mathrm{Var}(a_l), \qquad \mathrm{Var}\Bigl(\frac{\partial}{\partial a_l}
      \sum_{i=1}^{B} \ell(f_\theta(x_i), y_i)\Bigr)$$

    for the value a_l of each row. A pure function: it may be jitted, and mapped over keys or
    variables, which do not change. The gradient of a value counts every use of it.

    Arguments:
        model: a model of any library, which needs no change, see `calling.adapt`; or a
            `training.Task`, which has a loss, `preprocess` and `mode` of its own.
        variables: what `model.init` returned, or `state.variables`; of a function its parameters.
            None takes those that a module of NNX or Equinox holds.
        batch: {"inputs": (batch, ...), "targets": (batch, ...)}, 2 examples or more. Several
            inputs are a tuple or a dictionary, as in `training.Task`.
        loss: per example, (outputs, targets) -> (batch,).
        optimizer: if given, its next update is measured.
        opt_state: the optimizer's state; None for that of a first step.
        train: whether dropout and batch statistics are on.
        key: the key of the dropout masks and other random numbers, if the model draws any.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.
        saturation: the slope below which an activation is saturated: at 0.01 it passes less than
            a hundredth of the gradient (|tanh| > 0.995; a sigmoid below 0.0101 or above 0.9899).

    Raises:
        TypeError: no model, the key no `jax.random.key`, or there is no loss.
        ValueError: fewer than 2 examples, a batch without its keys, a model without layers or
            parameters, a missing key, a loss that is not per example, an `opt_state` without an
            optimizer, a `saturation` that is not positive.

    Example:
        >>> from jaxdl import diagnostics, losses, models
        >>> model = models.MLP([8, 8, 1])
        >>> batch = {"inputs": jnp.ones((4, 3)), "targets": jnp.zeros((4, 1))}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> measured = diagnostics.propagation(
        ...     model, variables, batch, loss=losses.mean_squared_error)
        >>> measured.names
        ('dense_0', 'dense_0/activation', 'dense_1', 'dense_1/activation', 'dense_2')

    Source: Glorot and Bengio (2010), sections 3 and 4, for the measurements.
    """
    if not saturation > 0:
        raise ValueError(f"saturation must be a positive slope, got {saturation}; 0.01 is usual")
    if optimizer is None and opt_state is not None:
        raise ValueError(
            "opt_state must come with its optimizer, got optimizer=None; pass both or neither"
        )
    task = as_task(model, loss, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    settings = (task, optimizer, train, saturation)
    measure = jit_with(_measure, settings)
    measured: Propagation = measure(variables, parts_of(batch), opt_state, key)
    return measured


def _measure(
    settings: tuple[Any, ...], variables: Any, batch: Any, opt_state: Any, key: Any
) -> Propagation:
    task, optimizer, train, saturation = settings
    recorded = record(task, variables, batch, train=train, key=key)
    rows = recorded.rows
    of_values = recorded.map_stacks(_statistics, recorded.units())
    of_gradients = recorded.map_stacks(_statistics, recorded.gradients)
    weights, gradients, *updates = _norms(
        recorded.trace,
        [
            variables["params"],
            recorded.summed_gradients,
            *_updates(recorded, variables["params"], optimizer, opt_state),
        ],
        # Dividing every gradient by the number of examples takes an operation for each parameter.
        over=[1, recorded.examples, 1],
    )
    attends = attended_by_row(recorded.trace, recorded.attended)
    return Propagation(
        mean=of_values.mean,
        stddev=of_values.stddev,
        dead_fraction=jnp.where(jnp.isnan(attends.entropy), of_values.dead_fraction, jnp.nan),
        saturated_fraction=_saturated_fractions(recorded, saturation),
        nonfinite_fraction=of_values.nonfinite_fraction,
        gradient_mean=of_gradients.mean,
        gradient_stddev=of_gradients.stddev,
        gradient_zero_fraction=of_gradients.zero_fraction,
        gradient_nonfinite_fraction=of_gradients.nonfinite_fraction,
        weight_norm=weights,
        weight_gradient_norm=gradients,
        update_ratio=updates[0] / weights if updates else None,
        loss=recorded.loss,
        names=tuple(row.name for row in rows),
        kinds=tuple(row.kind for row in rows),
        shapes=tuple(row.shape for row in rows),
        has_weights=tuple(row.has_weights for row in rows),
        hidden=recorded.trace.hidden,
        feeds=feeds_of(recorded.trace),
        **attends._asdict(),
    )


class _Statistics(NamedTuple):
    mean: Array
    stddev: Array
    dead_fraction: Array
    zero_fraction: Array
    nonfinite_fraction: Array


def _statistics(rows: Array) -> _Statistics:
    mean, stddev = jax.vmap(mean_and_deviation)(rows)
    return _Statistics(
        mean=mean,
        stddev=stddev,
        dead_fraction=jax.vmap(_dead_fraction)(rows),
        zero_fraction=jax.vmap(_share)(rows == 0),
        # An entry that is not finite makes the mean so. Most networks have none to count.
        nonfinite_fraction=jax.lax.cond(
            jnp.isfinite(mean).all(),
            lambda rows: jnp.zeros(len(rows), jnp.float32),
            lambda rows: jax.vmap(_share)(~jnp.isfinite(rows)),
            rows,
        ),
    )


def _dead_fraction(values: Array) -> Array:
    units = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    return _share(jnp.all(units == units[:1], axis=0))


def _saturated_fractions(recorded: Recording, saturation: float) -> Array:
    def saturated(slope: Slope) -> Array:
        limit = jnp.minimum(saturation, slope.steepest / 10)
        return _share((slope.slope < limit) & (slope.value != 0))

    return recorded.map_slopes(saturated)


def _share(holds: Array) -> Array:
    return jnp.mean(holds, dtype=jnp.float32)


def _norms(traced: Trace, trees: Sequence[Any], over: Sequence[int]) -> list[Array]:
    """For each tree like the parameters by row the norm of its kernels, or of all; NaN of none.

    It is divided by the tree's entry of `over`.
    """
    groups, divisors = [], []
    place = np.full((len(trees), len(traced.rows)), -1)
    found = 0
    starts = np.cumsum([0, *traced.layers()])
    for number, tree in enumerate(trees):
        for site, start, end in zip(traced.sites, starts[:-1], starts[1:], strict=True):
            parameters = traced.parameters(site, tree)
            kernels = [parameter for parameter in parameters if parameter.ndim > 2]
            if parameters:
                groups.append(kernels or parameters)
                divisors.append(over[number])
                place[number, start:end] = range(found, found + end - start)
                found += end - start
    if not groups:
        return [jnp.full(len(traced.rows), jnp.nan, jnp.float32)] * len(trees)
    measured = norms(groups, divisors)
    with_none = jnp.append(measured, jnp.asarray(jnp.nan, measured.dtype))
    return [with_none[each[traced.order()]] for each in place]


def _updates(
    recorded: Recording,
    params: Any,
    optimizer: optax.GradientTransformation | None,
    opt_state: optax.OptState | None,
) -> list[Any]:
    """The optimizer's next update, if there is one."""
    if optimizer is None:
        return []
    if opt_state is None:
        opt_state = optimizer.init(params)
    return [optimizer.update(recorded.parameter_gradients, opt_state, params)[0]]


def _wide(values: Any) -> Any:
    return values if isinstance(values, jax.core.Tracer) else np.asarray(values, np.float64)
