"""The trace of a loss's Hessian, or of its Gauss-Newton matrix."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdl.calling import GivenMode
from jaxdl.checks import Count, require_at_least
from jaxdl.diagnostics.curvature.curvature_products import Matrix, Operands
from jaxdl.diagnostics.curvature.curvature_settings import (
    block_product,
    in_type,
    measure,
    over,
    owned_by,
    prepared,
    program,
    tell_of_nonfinite,
)
from jaxdl.diagnostics.curvature.curvature_spectrum import probe
from jaxdl.training.task import Batch, PerExample, scale_images

Arrays = Array | np.ndarray


@struct.dataclass
class HessianTrace:
    """What `hessian_trace` measured: a row for each group, after any axes of a `vmap`.

    Attributes:
        estimates: v^T A v of each probe, (groups, probes), in units of the loss over those of the
            parameters squared.
        names: of the groups.
        sizes: parameters of each.
        matrix: "hessian" or "gauss_newton".
    """

    estimates: Float[Arrays, "..."]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    matrix: str = struct.field(pytree_node=False)

    @property
    def trace(self) -> Any:
        """The mean over the probes, (groups,)."""
        return self.estimates.mean(-1)

    @property
    def standard_error(self) -> Any:
        """How far the mean may be from the trace: the probes' deviation over their number's root,
        (groups,).
        """
        return self.estimates.std(-1, ddof=1) / np.sqrt(self.estimates.shape[-1])

    def table(self) -> Any:
        """A `rich.table.Table` with a line for each group."""
        from jaxdl.diagnostics.curvature.curvature_tables import trace_table

        return trace_table(self)

    def plot(self) -> Any:
        """A matplotlib figure of the traces by group, with their standard errors."""
        from jaxdl.plotting import eigenvalue_figure

        return eigenvalue_figure(
            self.names, self.trace[..., None], self.standard_error[..., None], label="trace"
        )

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.curvature.curvature_tables import trace_line

        return trace_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.curvature.curvature_tables import html_or_none

        return html_or_none(self, self.estimates)


def hessian_trace(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    matrix: Matrix = "hessian",
    layers: Any = None,
    batch_size: Count | None = None,
    probes: Count = 30,
    dtype: DTypeLike | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> HessianTrace:
    r"""The trace of the curvature of the mean loss, by Hutchinson's method, with its error.

    $$\mathrm{tr}(A) = \mathbb{E}_v[v^T A v], \qquad v \in \{-1, 1\}^n, \qquad
      \mathrm{Var}(v^T A v) = 2 \sum_{i \ne j} A_{ij}^2$$

    A pure function: it may be jitted, and mapped over variables or keys.

    Arguments:
        probes: random vectors for each group, 2 or more. The error falls with the root of their
            number.
        key: of dropout, if there is some, and of the probes; None takes the same each time.
        model, variables, batch, loss, matrix, layers, batch_size, dtype, train, preprocess, mode:
            as for `sharpness`.

    Raises:
        TypeError, ValueError: as `sharpness`.

    Example:
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params["w"]
        >>> batch = {"inputs": jnp.array([[3.0, 0.0], [0.0, 1.0]]), "targets": jnp.zeros((2, 1))}
        >>> measured = diagnostics.hessian_trace(
        ...     line, {"w": jnp.ones((2, 1))}, batch, loss=losses.mean_squared_error)
        >>> measured.trace.round(4).tolist()  # exact for a diagonal matrix
        [10.0]

    Source: Hutchinson (1989).
    """
    require_at_least(2, probes=probes)
    with in_type(dtype) as widened:
        made = prepared(
            model, variables, batch, loss=loss, matrix=matrix, layers=layers, train=train, key=key,
            batch_size=batch_size, dtype=dtype, preprocess=preprocess, mode=mode,
        )  # fmt: skip
        found: HessianTrace = measure(_measure, (int(probes),), made)
        if widened:
            found = jax.device_get(found)
    tell_of_nonfinite(found.estimates, made.names, made)
    return replace(found, names=made.names, sizes=made.sizes, matrix=matrix)


def _measure(settings: tuple[Any, ...], operands: Operands, key: Any) -> HessianTrace:
    measured, found, on_host, probes = settings
    whole = len(found) == 1 and all(found[0].owned)
    estimate = program(_estimate, (measured, whole), on_host)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(probes))

    def of_group(owned: Array) -> Array:
        made: Array = over(lambda key: estimate(operands, owned, key), keys, on_host)
        return made

    estimates = over(of_group, owned_by(found), on_host)
    return HessianTrace(estimates=estimates, names=(), sizes=(), matrix="")


def _estimate(settings: tuple[Any, ...], operands: Operands, owned: Array, key: Any) -> Array:
    measured, whole = settings
    vector = probe(measured, whole, operands, owned, key)
    return vector @ block_product(measured, whole, operands, owned, vector)
