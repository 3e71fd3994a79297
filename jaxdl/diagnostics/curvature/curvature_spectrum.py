"""The density of a curvature matrix's eigenvalues, by stochastic Lanczos quadrature."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

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
    tell_of_nonfinite,
)
from jaxdl.diagnostics.curvature.lanczos import Krylov, advance, begin, drive, ritz
from jaxdl.training.task import Batch, PerExample, scale_images

Arrays = Array | np.ndarray


class Probed(NamedTuple):
    """A mean over random probes, and how far the true value may be from it.

    Attributes:
        mean: over the probes.
        standard_error: the probes' standard deviation over the root of their number.
    """

    mean: np.ndarray
    standard_error: np.ndarray


@struct.dataclass
class CurvatureSpectrum:
    r"""What `curvature_spectrum` measured: for each group and probe a quadrature rule.

    $$\frac{1}{n} \sum_{j=1}^{n} f(\lambda_j) \approx
      \frac{1}{P} \sum_{p=1}^{P} \sum_{i=1}^{m} w_{pi}\, f(\theta_{pi})$$

    for the n eigenvalues lambda of the group's matrix. One probe's sum is exact for its vector and
    polynomials f up to degree 2m - 1, so the error over probes is the error of the moments.

    Attributes:
        nodes: theta, (groups, probes, steps), after any axes of a `vmap`.
        weights: w, of the same shape; at least 0, their sum over the steps is 1. Steps that the
            probe did not need have the weight 0.
        products: matrix-vector products made, (groups,).
        names: of the groups.
        sizes: n, the parameters of each.
        matrix: "hessian" or "gauss_newton".
    """

    nodes: Float[Arrays, "..."]
    weights: Float[Arrays, "..."]
    products: Int[Arrays, "..."]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    matrix: str = struct.field(pytree_node=False)

    def moments(self, orders: ArrayLike) -> Probed:
        r"""The mean over all eigenvalues of lambda^k, $\mathrm{tr}(A^k)/n$, with its error.

        Arguments:
            orders: k, whole numbers of 0 or more, (orders,).

        Returns:
            Mean and standard error, both (groups, orders), float64. Moments of the order 2 * steps
            and more are not those of the matrix.
        """
        orders = np.atleast_1d(np.asarray(orders))
        require_at_least(0, orders=int(orders.min()))
        nodes, weights = self._rules()
        return _probed((weights[..., None] * nodes[..., None] ** orders).sum(-2))

    def density(self, grid: ArrayLike, width: float | None = None) -> Probed:
        r"""The density of the eigenvalues, blurred by a normal distribution of standard deviation
        `width`, with its error.

        $$\rho(x) = \frac{1}{P} \sum_p \sum_i w_{pi}\, \mathcal{N}(x;\, \theta_{pi},
          \sigma^2)$$

        Arguments:
            grid: x, (points,), in the eigenvalues' units.
            width: sigma, in these units, positive; by default a hundredth of the nodes' range.

        Returns:
            Mean and standard error, both (groups, points), float64, per unit of eigenvalue.
        """
        nodes, weights = self._rules()
        if width is None:
            low, high = self.ends()
            width = float(max((high - low).max() / 100, np.finfo(np.float32).tiny))
        require_positive("width", width)
        points = np.asarray(grid, np.float64)
        shape = (*nodes.shape[:2], len(points))
        made = np.zeros(shape)
        for step in range(nodes.shape[-1]):
            away = (points - nodes[..., step, None]) / width
            made += weights[..., step, None] * np.exp(-0.5 * away**2)
        return _probed(made / (width * np.sqrt(2 * np.pi)))

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest node of each group, (groups,) both, float64."""
        nodes, weights = self._rules()
        low = np.where(weights > 0, nodes, np.inf).min((-2, -1))
        high = np.where(weights > 0, nodes, -np.inf).max((-2, -1))
        return low, high

    def _rules(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights in float64, the probes of mapped measurements one after another."""
        nodes, weights = (np.asarray(each, np.float64) for each in (self.nodes, self.weights))
        if nodes.ndim == 3:
            return nodes, weights
        raise ValueError(
            f"a density is one measurement's, got a mapped one of shape {nodes.shape}; take one, "
            "e.g. jax.tree.map(lambda leaf: leaf[0], spectrum)"
        )

    def table(self) -> Any:
        """A `rich.table.Table` with a line for each group."""
        from jaxdl.diagnostics.curvature.curvature_tables import spectrum_table

        return spectrum_table(self)

    def plot(self, width: float | None = None) -> Any:
        """A matplotlib figure of the density, a panel for each group, with its error.

        Arguments:
            width: as for `density`.
        """
        from jaxdl.plotting import density_figure

        low, high = self.ends()
        room = 0.05 * (high.max() - low.min()) or 1.0
        grid = np.linspace(low.min() - room, high.max() + room, 1000)
        mean, error = self.density(grid, width)
        return density_figure(self.names, grid, mean, error)

    def __rich__(self) -> Any:
        return self.table()

    def __repr__(self) -> str:
        from jaxdl.diagnostics.curvature.curvature_tables import spectrum_line

        return spectrum_line(self)

    def _repr_html_(self) -> str | None:
        from jaxdl.diagnostics.curvature.curvature_tables import html_or_none

        return html_or_none(self, self.nodes)


def curvature_spectrum(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    matrix: Matrix = "hessian",
    layers: Any = None,
    batch_size: Count | None = None,
    steps: Count = 64,
    probes: Count = 10,
    dtype: DTypeLike | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> CurvatureSpectrum:
    r"""The density of the eigenvalues of a loss's Hessian or Gauss-Newton matrix, with its error.

    $$\frac{1}{n} \mathrm{tr} f(A) = \mathbb{E}_v\bigl[v^T f(A)\, v\bigr] / n \approx
      \frac{1}{P} \sum_p \sum_i w_{pi} f(\theta_{pi}), \qquad v \in \{-1, 1\}^n$$

    with theta the eigenvalues of Lanczos' T from a probe v, and w the squares of the first entries
    of its eigenvectors. Every vector is orthogonalised against all before. A pure function: it may
    be jitted, and mapped over variables or keys.

    It shows the shape: how many eigenvalues are near 0, how far the others reach. For the largest
    one alone `sharpness` is cheaper and exact.

    Arguments:
        steps: m, products for a probe, and vectors of the parameters' size in memory.
        probes: P, 2 or more. The error falls with the root of their number.
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
        >>> spectrum = diagnostics.curvature_spectrum(
        ...     line, {"w": jnp.ones((2, 1))}, batch, loss=losses.mean_squared_error)
        >>> spectrum.moments([1, 2]).mean.round(3).tolist()
        [[5.0, 41.0]]

    Source: Golub and Welsch (1969); Ubaru, Chen and Saad (2017); Ghorbani, Krishnan and Xiao (2019)
    for networks.
    """
    require_at_least(2, probes=probes)
    require_at_least(1, steps=steps)
    with in_type(dtype) as widened:
        made = prepared(
            model, variables, batch, loss=loss, matrix=matrix, layers=layers, train=train, key=key,
            batch_size=batch_size, dtype=dtype, preprocess=preprocess, mode=mode,
        )  # fmt: skip
        rows = min(int(steps), max(made.sizes))
        found: CurvatureSpectrum = measure(_measure, (rows, int(probes)), made)
        if widened:
            found = jax.device_get(found)
    tell_of_nonfinite(found.nodes, made.names, made)
    return replace(found, names=made.names, sizes=made.sizes, matrix=matrix)


def _measure(settings: tuple[Any, ...], operands: Operands, key: Any) -> CurvatureSpectrum:
    measured, found, on_host, rows, probes = settings
    whole = len(found) == 1 and all(found[0].owned)
    start = program(_start, (measured, whole, rows), on_host)
    step = program(_step, (measured, whole, rows), on_host)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(probes))

    def of_probe(owned: Array, key: Any) -> tuple[Array, Array, Array]:
        space = drive(
            lambda space: ~space.done,
            lambda space: step(operands, owned, space),
            start(operands, owned, key),
            on_host=on_host,
        )
        return (*_rule(space), space.products)

    def of_group(owned: Array) -> tuple[Array, Array, Array]:
        nodes, weights, products = over(functools.partial(of_probe, owned), keys, on_host)
        return nodes, weights, products.sum()

    nodes, weights, products = over(of_group, owned_by(found), on_host)
    return CurvatureSpectrum(
        nodes=nodes, weights=weights, products=products, names=(), sizes=(), matrix=""
    )


def _start(settings: tuple[Any, ...], operands: Operands, owned: Array, key: Any) -> Krylov:
    measured, whole, rows = settings
    return begin(probe(measured, whole, operands, owned, key), rows, careful=True)


def probe(measured: Any, whole: bool, operands: Operands, owned: Array, key: Any) -> Array:
    """A vector of signs, +1 or -1, 0 outside of the group."""
    flat, _ = flat_parameters(measured, operands)
    signs = jax.random.rademacher(key, flat.shape, flat.dtype)
    return signs if whole else masked(measured, operands, owned, signs)


def _step(settings: tuple[Any, ...], operands: Operands, owned: Array, space: Krylov) -> Krylov:
    measured, whole, rows = settings
    product = functools.partial(block_product, measured, whole, operands, owned)
    return advance(product, space, None, tolerance=None, iterations=rows)


def _rule(space: Krylov) -> tuple[Array, Array]:
    """Nodes and weights; rows that are not filled have the smallest node, and the weight 0."""
    values, vectors = ritz(space)
    rows = len(values)
    is_real = jnp.arange(rows) >= rows - space.filled
    smallest = values[jnp.minimum(rows - space.filled, rows - 1)]
    weights = jnp.where(is_real, vectors[0] ** 2, 0)
    return jnp.where(is_real, values, smallest), weights / weights.sum()


def _probed(values: np.ndarray) -> Probed:
    """Of values by group and probe, (groups, probes, ...)."""
    error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    return Probed(values.mean(1), error)
