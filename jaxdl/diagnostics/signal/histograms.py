"""Histograms of activations and of the gradients with respect to them, layer by layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxdl.calling import GivenMode
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.recording import record
from jaxdl.showing import Cell, counted, curve, ends, html_table, known, shape_of
from jaxdl.training.task import (
    Batch,
    PerExample,
    as_measured,
    has_loss,
    parts_of,
    scale_images,
    to_measure,
)


@struct.dataclass
class Histogram:
    """Counts of each row's entries. The four kinds of counts add up to the number of entries.

    Attributes:
        edges: (rows, bins + 1); a bin holds [left, right), the last one its right edge too.
        counts: (rows, bins).
        below: (rows,), entries under the first edge.
        above: (rows,), entries over the last edge.
        nonfinite: (rows,), entries that are NaN or infinite.
    """

    edges: Float[Array | np.ndarray, "..."]
    counts: Int[Array | np.ndarray, "..."]
    below: Int[Array | np.ndarray, "..."]
    above: Int[Array | np.ndarray, "..."]
    nonfinite: Int[Array | np.ndarray, "..."]

    @property
    def density(self) -> Float[np.ndarray, "..."]:
        """Counts divided by the number of finite entries and the bin's width, in float64."""
        counts = np.asarray(self.counts, np.float64)
        entries = counts.sum(-1) + np.asarray(self.below) + np.asarray(self.above)
        widths = np.diff(np.asarray(self.edges, np.float64))
        density: np.ndarray = counts / np.maximum(entries, 1)[..., None] / widths
        return density

    def __repr__(self) -> str:
        return f"Histogram(counts {shape_of(self.counts)})"


@struct.dataclass
class Histograms:
    """What `histograms` measured: one entry for each row of `propagation`, in its order.

    Attributes:
        activations: counts of the values; of complex ones, of their moduli.
        gradients: counts of the gradients of the summed per-example losses with respect to the
            values, of complex ones the moduli; None without a loss.
        names: the rows' names.
        kinds: the modules' classes, or "activation".
    """

    activations: Histogram
    gradients: Histogram | None
    names: tuple[str, ...] = struct.field(pytree_node=False)
    kinds: tuple[str, ...] = struct.field(pytree_node=False)

    def __repr__(self) -> str:
        of_gradients = "" if self.gradients is None else f", gradients {self.gradients!r}"
        rows = counted(len(self.names), "row")
        return f"Histograms({rows}: activations {self.activations!r}{of_gradients})"

    def _repr_html_(self) -> str | None:
        given = {"activations": self.activations, "gradients": self.gradients}
        measured = {name: part for name, part in given.items() if part is not None}
        if any(known(part.counts) is None for part in measured.values()):
            return None
        rows: list[list[Cell]] = [[name] for name in self.names]
        for part in measured.values():
            # Runs of a map have bins of their own, so only the first one's are shown.
            edges, counts = (
                np.asarray(values).reshape(-1, len(rows), np.shape(values)[-1])[0]
                for values in (part.edges, part.counts)
            )
            for row, edge, count in zip(rows, edges, counts, strict=True):
                row += [ends(edge), curve(count)]
        notes = [] if np.ndim(self.activations.counts) == 2 else ["The first run's."]
        head = [cell for name in measured for cell in (f"{name} from", "counts")]
        return html_table(repr(self), ["row", *head], rows, notes)


def histograms(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    bins: int | Any = 50,
    loss: PerExample | None = None,
    gradient_bins: int | Any | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Histograms:
    """Count each row's activations, and its gradients, in bins.

    A pure function, as `propagation`: it may be jitted, and mapped over keys or variables.

    Arguments:
        model: a model of any library, which needs no change; or a `training.Task`.
        variables: what `model.init` returned, or `state.variables`; as in `propagation`.
        batch: {"inputs": (batch, ...)}, and "targets" where there is a loss; 2 examples or more.
        bins: the number of bins, of equal width between each row's smallest and largest value. Or
            ascending edges, the same for all rows, so that runs and steps can be compared.
        loss: per example, (outputs, targets) -> (batch,); None for activations alone.
        gradient_bins: the same for the gradients; None means `bins` if it is a number, else 50.
        train: whether dropout and batch statistics are on.
        key: the key of the dropout masks, if the model draws any.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        ValueError: fewer than one bin, edges that do not ascend or are not finite,
            `gradient_bins` without a loss; and as `propagation`.

    Example:
        >>> from jaxdl import diagnostics, models
        >>> model = models.MLP([8, 1], activation=jnp.tanh)
        >>> batch = {"inputs": jnp.ones((4, 3))}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> counted = diagnostics.histograms(
        ...     model, variables, batch, bins=jnp.array([-1.0, 0.0, 1.0]))
        >>> counted.names[1], counted.activations.counts[1].sum().item()
        ('dense_0/activation', 32)

    Source: Glorot and Bengio (2010), figures 6 and 7.
    """
    task = as_measured(model, loss, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    if gradient_bins is not None and not has_loss(task):
        raise ValueError("gradient_bins must come with a loss, got loss=None; pass the loss too")
    if gradient_bins is None:
        gradient_bins = bins if isinstance(bins, int) else 50
    edges = _bins_or_edges("bins", bins), _bins_or_edges("gradient_bins", gradient_bins)
    numbers = tuple(each if isinstance(each, int) else None for each in edges)
    given = tuple(None if isinstance(each, int) else each for each in edges)
    count = jit_with(_count, (task, train, numbers))
    counted: Histograms = count(variables, parts_of(batch), key, given)
    return counted


def _count(
    settings: tuple[Any, ...], variables: Any, batch: Any, key: Any, given: tuple[Any, Any]
) -> Histograms:
    task, train, numbers = settings
    recorded = record(task, variables, batch, train=train, key=key)
    of_activations, of_gradients = (
        _counter(number, edges) for number, edges in zip(numbers, given, strict=True)
    )
    return Histograms(
        activations=recorded.map_rows(of_activations, recorded.values),
        gradients=(
            recorded.map_rows(of_gradients, recorded.gradients) if recorded.gradients else None
        ),
        names=tuple(row.name for row in recorded.rows),
        kinds=tuple(row.kind for row in recorded.rows),
    )


def _counter(number: int | None, given: Any) -> Callable[[Array], Histogram]:
    def count(values: Array) -> Histogram:
        if jnp.iscomplexobj(values):
            values = jnp.abs(values)
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32)).ravel()
        finite = jnp.isfinite(values)
        edges = given if number is None else _own_edges(values, finite, number)
        bins = edges.shape[0] - 1
        place = jnp.searchsorted(edges, values, side="right") - 1
        place = jnp.where(values == edges[-1], bins - 1, place)
        counts = jnp.bincount(jnp.where(finite & (place >= 0), place, bins), length=bins + 1)
        return Histogram(
            edges=edges,
            counts=counts[:-1],
            below=jnp.sum(finite & (values < edges[0])),
            above=jnp.sum(finite & (values > edges[-1])),
            nonfinite=jnp.sum(~finite),
        )

    return count


def _own_edges(values: Array, finite: Array, number: int) -> Array:
    """Edges from the smallest to the largest value, or around the only one."""
    low = jnp.min(values, where=finite, initial=jnp.inf)
    high = jnp.max(values, where=finite, initial=-jnp.inf)
    none = low > high
    low, high = jnp.where(none, 0, low), jnp.where(none, 0, high)
    # Wide enough that the edges around a single value are different normal numbers.
    limits = jnp.finfo(values.dtype)
    narrowest = number * limits.smallest_normal
    around = jnp.maximum(jnp.where(low == 0, 0.5, 1e-3 * jnp.abs(low)), narrowest)
    half = jnp.where(high - low > narrowest, 0, around)
    first, last = jnp.maximum(low - half, limits.min), jnp.minimum(high + half, limits.max)
    steps = jnp.arange(number + 1, dtype=values.dtype) / number
    edges = first * (1 - steps) + last * steps
    # Set the ends exactly: rounding would leave the extreme values outside.
    return edges.at[0].set(first).at[-1].set(last)


def _bins_or_edges(name: str, bins: Any) -> Any:
    if isinstance(bins, int) and not isinstance(bins, bool):
        if bins < 1:
            raise ValueError(f"{name} must be at least 1, got {bins}; 50 is usual")
        return bins
    if isinstance(bins, jax.core.Tracer):
        return bins
    edges = np.asarray(bins)
    is_real = np.issubdtype(edges.dtype, np.floating) or np.issubdtype(edges.dtype, np.integer)
    if edges.ndim != 1 or edges.size < 2 or not (is_real or edges.dtype.name == "bfloat16"):
        raise ValueError(
            f"{name} must be a number of bins or 2 edges and more, real, in one axis, "
            f"got {bins!r}; pass e.g. jnp.linspace(-1, 1, 51)"
        )
    if not (np.all(np.isfinite(edges)) and np.all(np.diff(edges.astype(np.float32)) > 0)):
        raise ValueError(
            f"{name} as edges must be finite and ascend, in float32 too, got {bins!r}; "
            "sort them and remove doubles"
        )
    return jnp.asarray(edges, jnp.float32)
