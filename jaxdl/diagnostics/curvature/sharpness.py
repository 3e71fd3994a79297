"""The largest eigenvalues of a loss's Hessian, or of its Gauss-Newton matrix."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdl.calling import GivenMode
from jaxdl.checks import Count, require_at_least, require_positive
from jaxdl.diagnostics.curvature.curvature_products import Matrix, Operands, flat_parameters
from jaxdl.diagnostics.curvature.curvature_settings import (
    block_product,
    in_type,
    masked,
    measure,
    over,
    owned_by,
    prepared,
    program,
)
from jaxdl.diagnostics.curvature.lanczos import Krylov, Search, begin, converge, seek
from jaxdl.notices import notice
from jaxdl.training.task import Batch, PerExample, scale_images

ROWS = 20
"""Vectors of the basis: more take time to fill, and save no products on the tests' spectra."""

Arrays = Array | np.ndarray


@struct.dataclass
class Sharpness:
    """What `sharpness` measured: a row for each group of parameters, after any axes of a `vmap`.

    Attributes:
        eigenvalues: the largest, in descending order, (groups, count); in units of the loss over
            those of the parameters squared.
        residuals: ||A v - lambda v|| of each, with the unit vector v that was found, (groups,
            count). An eigenvalue lies within it.
        converged: whether the residual is at most the tolerance times the largest eigenvalue in
            size, (groups, count).
        products: matrix-vector products made, (groups,).
        overlap: the largest scalar product between two vectors of the basis that was seen, before
            it was mended, (groups,). It would be 0 in exact arithmetic.
        eigenvectors: the vectors v, a tree like the parameters with axes (groups, count) before
            those of each leaf, 0 outside of the group; None if they were not asked for.
        names: of the groups.
        sizes: parameters of each.
        matrix: "hessian" or "gauss_newton".
    """

    eigenvalues: Float[Arrays, "..."]
    residuals: Float[Arrays, "..."]
    converged: Bool[Arrays, "..."]
    products: Int[Arrays, "..."]
    overlap: Float[Arrays, "..."]
    eigenvectors: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    matrix: str = struct.field(pytree_node=False)

    @property
    def largest(self) -> Any:
        """The largest eigenvalue of each group, (groups,)."""
        return self.eigenvalues[..., 0]

    def table(self) -> Any:
        """A `rich.table.Table` with a line for each group."""
        from jaxdl.diagnostics.curvature.curvature_tables import sharpness_table

        return sharpness_table(self)

    def plot(self) -> Any:
        """A matplotlib figure of the eigenvalues by group, with their residuals."""
        from jaxdl.plotting import eigenvalue_figure

        return eigenvalue_figure(self.names, self.eigenvalues, self.residuals)

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.curvature.curvature_tables import sharpness_line

        return sharpness_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.curvature.curvature_tables import html_or_none

        return html_or_none(self, self.eigenvalues)


def sharpness(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    count: Count = 1,
    matrix: Matrix = "hessian",
    layers: Any = None,
    batch_size: Count | None = None,
    iterations: Count = 200,
    tolerance: float | None = None,
    dtype: DTypeLike | None = None,
    eigenvectors: bool = False,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Sharpness:
    r"""The largest eigenvalues of the curvature of the mean loss, by Lanczos' method.

    $$\lambda_{\max}(A), \qquad A = \nabla^2_\theta L(\theta) \quad \text{or} \quad
      \frac{1}{B} \sum_{i=1}^{B} J_i^T\, \nabla^2_f \ell_i\, J_i$$

    Gradient descent with rate eta is stable on a quadratic if lambda_max < 2/eta; see
    `observers.sharpness_every`. It needs products of A with vectors alone, about 15 for a small
    network. A pure function: it may be jitted, and mapped over variables or keys.

    The largest is meant, not the largest in size. Each further one is found among the vectors that
    are orthogonal to those before, so repeated eigenvalues are all found. A random start misses one
    with probability 0, but the residual alone cannot tell: it says that an eigenvalue is near, not
    that it is the largest. Where a ReLU has its corner, A is that of the pieces around.

    On a CPU a network with convolutions is measured by a loop on the host. Inside a jitted function
    of yours that is not possible, and such a network is 25 times slower there.

    Arguments:
        model: a model of any library, or a `training.Task`; see `propagation`.
        variables: what `model.init` returned, or `state.variables`.
        batch: {"inputs": (batch, ...), "targets": (batch, ...)}, perhaps with "weights"; also a
            whole split.
        loss: per example, (outputs, targets) -> (batch,).
        count: how many eigenvalues.
        matrix: "hessian", or "gauss_newton", which has no negative eigenvalues for a convex loss.
        layers: None measures all parameters together. "each" measures every layer's own diagonal
            block; a list of patterns one block each, e.g. ["dense_0", "*/kernel"].
        batch_size: examples in memory at a time. The result is that of all together, but a batch
            norm in training sees a piece, and piece i draws dropout with `fold_in(key, i)`.
        iterations: the most products for an eigenvalue.
        tolerance: the residual at which an eigenvalue is taken, as a share of the largest in size;
            by default the root of the type's rounding, 3.5e-4 for float32. The eigenvalue's own
            error is of the order of the square.
        dtype: what is computed in, e.g. `jnp.float64`. By default that of the parameters, at least
            float32. A layer with a `dtype` of its own keeps that.
        eigenvectors: whether to return them.
        train: whether dropout and batch statistics are on.
        key: of dropout, if there is some, and of the random vectors to start from; None starts from
            the same vectors each time.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Warns: if an eigenvalue has not converged, with its residual and the basis' loss of
    orthogonality. Under `jit` nothing is said, and `converged` has it.

    Raises:
        TypeError: no model, no loss, the key no `jax.random.key`, complex parameters.
        ValueError: a layer without parameters, more eigenvalues than parameters, settings out of
            range, float64 inside a function that is traced without it.

    Example:
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params["w"]
        >>> batch = {"inputs": jnp.array([[3.0, 0.0], [0.0, 1.0]]), "targets": jnp.zeros((2, 1))}
        >>> measured = diagnostics.sharpness(
        ...     line, {"w": jnp.ones((2, 1))}, batch, loss=losses.mean_squared_error, count=2)
        >>> measured.eigenvalues.round(4).tolist()
        [[9.0, 1.0]]

    Source: Lanczos (1950); Pearlmutter (1994) for the product with a Hessian, Schraudolph (2002)
    for that with a Gauss-Newton matrix; Cohen et al. (2021) for the name sharpness.
    """
    require_at_least(1, count=count, iterations=iterations)
    if tolerance is not None:
        require_positive("tolerance", tolerance)
    with in_type(dtype) as widened:
        made = prepared(
            model, variables, batch, loss=loss, matrix=matrix, layers=layers, train=train, key=key,
            batch_size=batch_size, dtype=dtype, preprocess=preprocess, mode=mode,
        )  # fmt: skip
        if count > min(made.sizes):
            least = made.names[made.sizes.index(min(made.sizes))]
            raise ValueError(
                f"count must be at most the parameters of every layer, got {count} for {least!r}, "
                f"which has {min(made.sizes)}; pass fewer, or other layers"
            )
        settings = (int(count), int(iterations), tolerance, eigenvectors)
        found: Sharpness = measure(_measure, settings, made)
        if widened:
            found = jax.device_get(found)
    found = replace(found, names=made.names, sizes=made.sizes, matrix=matrix)
    if not made.traced:
        _tell(found)
    return found


def _measure(settings: tuple[Any, ...], operands: Operands, key: Any) -> Sharpness:
    measured, found, on_host, count, iterations, tolerance, vectors = settings
    whole = len(found) == 1 and all(found[0].owned)
    flat, unravel = flat_parameters(measured, operands)
    if tolerance is None:
        tolerance = float(np.sqrt(np.finfo(flat.dtype).eps))
    rows = max(min(ROWS, iterations, flat.size), 2)
    # The residual as Lanczos' method has it is that of exact arithmetic: some room for rounding.
    step = program(_step, (measured, whole, tolerance / 2, iterations), on_host)
    start = program(_start, (measured, whole, rows), on_host)

    def of_group(owned: Array) -> tuple[Any, ...]:
        def another(carried: tuple[Array, Array], at: Array) -> tuple[Any, Any]:
            locked, scale = carried
            others = locked if count > 1 else None
            search = converge(
                lambda search: step(operands, owned, others, search),
                start(operands, owned, others, scale, jax.random.fold_in(key, at)),
                on_host=on_host,
            )
            space = search.space
            carried = locked.at[at].set(search.vector), jnp.maximum(scale, space.scale)
            return carried, (search.image, space.products + 1, space.overlap)

        none = jnp.zeros((count, flat.size), flat.dtype), jnp.zeros((), flat.dtype)
        if on_host:
            carried, made = none, []
            for at in range(count):
                carried, of_one = another(carried, jnp.asarray(at))
                made.append(of_one)
            outcome = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        elif count == 1:
            carried, of_one = another(none, jnp.asarray(0))
            outcome = jax.tree.map(lambda leaf: leaf[None], of_one)
        else:
            carried, outcome = lax.scan(another, none, jnp.arange(count))
        (found, scale), (bent, products, overlap) = carried, outcome
        values, found, residuals = _turned(found, bent)
        return (
            values, residuals, residuals <= tolerance * scale, products.sum(), overlap.max(),
            jax.vmap(unravel)(found) if vectors else None,
        )  # fmt: skip

    fields = (
        "eigenvalues", "residuals", "converged", "products", "overlap", "eigenvectors",
    )  # fmt: skip
    made = over(of_group, owned_by(found), on_host)
    return Sharpness(**dict(zip(fields, made, strict=True)), names=(), sizes=(), matrix="")


def _start(
    settings: tuple[Any, ...], operands: Operands, owned: Array, locked: Any, scale: Any, key: Any
) -> Krylov:
    measured, whole, rows = settings
    flat, _ = flat_parameters(measured, operands)
    vector = jax.random.normal(key, flat.shape, flat.dtype)
    if not whole:
        vector = masked(measured, operands, owned, vector)
    if locked is not None:
        for _ in range(2):
            vector = vector - (locked @ vector) @ locked
    return begin(vector, rows, careful=False, scale=scale)


def _step(
    settings: tuple[Any, ...], operands: Operands, owned: Array, locked: Any, search: Search
) -> Search:
    measured, whole, tolerance, iterations = settings
    product = functools.partial(block_product, measured, whole, operands, owned)
    return seek(product, search, locked, tolerance=tolerance, iterations=iterations)


def _turned(found: Array, bent: Array) -> tuple[Array, Array, Array]:
    """Rayleigh and Ritz: the eigenvalues in the span of what was found, vectors and residuals."""
    inner = found @ bent.T
    values, turn = jnp.linalg.eigh((inner + inner.T) / 2)
    values, turn = values[::-1], turn[:, ::-1]
    found, bent = turn.T @ found, turn.T @ bent
    return values, found, jnp.linalg.norm(bent - values[:, None] * found, axis=1)


def _tell(found: Sharpness) -> None:
    converged = np.asarray(found.converged)
    if converged.all():
        return
    group, place = np.argwhere(~converged)[0]
    value, residual = found.eigenvalues[group, place], found.residuals[group, place]
    notice(
        f"an eigenvalue must have converged to be trusted, got {value:.4g} with a residual of "
        f"{residual:.2g} after {int(found.products[group])} products ({found.names[group]}; the "
        f"basis lost orthogonality by {found.overlap[group]:.1g}); pass a greater tolerance or "
        "iterations, or dtype=jnp.float64"
    )
