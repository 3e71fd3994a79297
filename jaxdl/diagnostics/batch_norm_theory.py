"""How fast BatchNorm alone makes gradients grow with depth, for any batch size, in wide layers."""

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.checks import require_finite
from jaxdl.initializers.gains import Elementwise, evaluate_float64, gaussian_expectation

# A Gauss-Legendre rule of 16 points on each of so many equal parts of the angle, and of those
# between the kinks.
PARTS = 256
USUAL_KINKS = (-6.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0)
# The series ends where a term is this small a share, or after so many terms.
NEGLIGIBLE, MOST_TERMS = 1e-17, 256


def batch_norm_gradient_growth(
    activation: Elementwise, *, batch_size: Any = None, kinks: Sequence[float] = ()
) -> float:
    r"""By how much the gradient's mean square grows a layer, going back: W, BatchNorm, f, W, ...

    $$\chi = \frac{E[f'(z)^2]}{\mathrm{Var}[f(z)]}, \qquad z \sim N(0, 1)
      \qquad \text{(large batches)}$$

    The weights' variance does not matter: BatchNorm divides it out. With B examples the normalised
    values of a unit, z_1 to z_B, lie anywhere on the sphere of radius sqrt(B) whose points sum to
    0, and

    $$\chi_B = \frac{B}{B - 3}\;
      \frac{E\left[(1 - \frac1B)(1 - \frac{1 + z_1^2}{B}) f_1'^2\right]
            + \frac{B - 1}{B^2} E\left[(1 + z_1 z_2) f_1' f_2'\right]}
           {\frac{B - 1}{B} \left(E[f_1^2] - E[f_1 f_2]\right)}$$

    Without a limit on B this is pi / (pi - 1) for ReLU and 1 for the identity; for the identity
    chi_B = (B - 2) / (B - 3). The examples are equally correlated with each other, as ReLU and
    tanh make them after some layers, whatever the inputs were. BatchNorm has scale 1, shift 0 and
    epsilon 0. Not every activation does: with SiLU the examples of a deep network fall into few
    directions, and after 50 layers the gradient has grown several times more than this says.

    Arguments:
        activation: an elementwise function f in JAX.
        batch_size: B, at least 4; None for the limit of large batches.
        kinks: where f or f' jumps, besides 0, +-1/2, +-1, +-2, +-3 and +-6.

    Raises:
        ValueError: a batch size below 4, with which the mean square is infinite; an f that is not
            elementwise, or that is constant.

    Example:
        >>> batch_norm_gradient_growth(jax.nn.relu) / (math.pi / (math.pi - 1))
        1.0...
        >>> round(batch_norm_gradient_growth(lambda x: x, batch_size=8), 12)  # 6 / 5
        1.2

    Source: Yang, Pennington, Rao, Sohl-Dickstein and Schoenholz (2019), "A mean field theory of
    batch normalization"; derived anew here from BatchNorm's Jacobian.
    """
    if batch_size is not None and not (
        isinstance(batch_size, SupportsIndex)
        and not isinstance(batch_size, bool)
        and batch_size.__index__() >= 4
    ):
        raise ValueError(
            "batch_size must be a whole number of at least 4 examples, with fewer of which the "
            f"gradient's mean square is infinite, got {batch_size!r}; pass 4 or more, or None for "
            "the limit of large batches"
        )
    for kink in kinks:
        require_finite("kink", kink)
    gaussian_expectation(activation, kinks=kinks)  # refuses what is no elementwise function

    def slope(z: Any) -> Any:
        return jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]

    if batch_size is None:
        mean = gaussian_expectation(activation, kinks=kinks)
        variance = gaussian_expectation(lambda z: (activation(z) - mean) ** 2, kinks=kinks)
        _require_signal(variance, activation)
        return gaussian_expectation(lambda z: slope(z) ** 2, kinks=kinks) / variance
    examples = batch_size.__index__()
    cosines, weights = _sphere(examples - 1, kinks)
    z = math.sqrt(examples - 1) * cosines
    f, df = evaluate_float64(activation, z), evaluate_float64(slope, z)

    def product(of: np.ndarray) -> float:
        """E[g(z_1) g(z_2)] of the values g(z_1)."""
        return _product_of_two(of, cosines, weights, examples - 1)

    parted = float(weights @ f**2) - product(f)
    _require_signal(parted, activation)
    own = weights @ ((1 - 1 / examples) * (1 - (1 + z**2) / examples) * df**2)
    shared = (examples - 1) / examples**2 * (product(df) + product(z * df))
    return float(examples / (examples - 3) * (own + shared) / ((1 - 1 / examples) * parted))


def _require_signal(variance: float, activation: Any) -> None:
    if not variance > 0:
        raise ValueError(
            "the activation must differ between the examples of a batch, got a variance of "
            f"{variance:g} for {getattr(activation, '__name__', activation)!s}; pass a function "
            "that is not constant"
        )


def _sphere(dimension: int, kinks: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the mean over one coordinate of a point of the unit sphere.

    The coordinate is cos(t), and t has the density sin(t)^(dimension - 2).
    """
    places = np.array([*USUAL_KINKS, *kinks]) / math.sqrt(dimension)
    inner = np.arccos(places[np.abs(places) < 1])
    # Where the dimension is high the angles crowd within a few 1 / sqrt(dimension) of a right one.
    reach = min(math.pi / 2, 12 / math.sqrt(dimension))
    edges = np.linspace(math.pi / 2 - reach, math.pi / 2 + reach, PARTS + 1)
    edges = np.unique(np.concatenate([edges, inner[np.abs(inner - math.pi / 2) < reach]]))
    nodes, node_weights = np.polynomial.legendre.leggauss(16)
    radius = np.diff(edges) / 2
    angles = ((edges[1:] + edges[:-1])[:, None] / 2 + radius[:, None] * nodes).ravel()
    weights = (radius[:, None] * node_weights).ravel() * np.sin(angles) ** (dimension - 2)
    return np.cos(angles), weights / weights.sum()


def _product_of_two(values: np.ndarray, cosines: np.ndarray, weights: np.ndarray, d: int) -> float:
    r"""E[g(z_1) g(z_2)], from the values of g at the points, by the theorem of Funk and Hecke.

    With the polynomials P_k that are orthogonal on the sphere in d dimensions and 1 at 1, and the
    cosine r = -1 / d between two examples: the sum over k of P_k(r) E[g P_k]^2 / E[P_k^2].
    """
    x = np.append(cosines, -1 / d)
    before, now = np.zeros_like(x), np.ones_like(x)
    total = 0.0
    for k in range(MOST_TERMS):
        if abs(now[-1]) < NEGLIGIBLE:
            break
        total += now[-1] * (weights @ (values * now[:-1])) ** 2 / (weights @ now[:-1] ** 2)
        before, now = now, ((2 * k + d - 2) * x * now - k * before) / (k + d - 2)
    return float(total)
