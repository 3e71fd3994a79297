"""Predictions for an infinitely wide network at initialisation, without a network or a key.

In the limit of wide layers the pre-activations of a layer are Gaussian with one variance q, and two
numbers say how signal and gradient cross it: E[f(z)^2] and E[f'(z)^2] for z ~ N(0, q).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdl.checks import require_non_negative, require_positive
from jaxdl.initializers.gains import (
    Elementwise,
    evaluate_float64,
    gaussian_expectation,
    gaussian_quadrature,
)
from jaxdl.public import public_names
from jaxdl.showing import counted, ends, named

__all__ = ["MeanField", "critical_weight_variance", "mean_field"]

__dir__ = public_names(globals())

# The search for a critical point ends here: a unit whose input has a standard deviation of 1,000 is
# a step function.
LARGEST_VARIANCE = 1e6
# Used for the limit q -> 0 from above, where every function is two straight pieces.
SMALLEST_VARIANCE = 1e-24

# A quadrature is padded to a multiple of this many points, with weights of 0.
POINTS_STEP = 4096


@dataclass(frozen=True)
class MeanField:
    r"""The prediction for each hidden layer, l = 1 to depth, in float64.

    Attributes:
        preactivation_variance: q_l, the variance of z_l, whose mean is 0; before BatchNorm.
        activation_mean: E[a_l], a_l = f(z_l).
        activation_variance: E[a_l^2] - E[a_l]^2.
        activation_second_moment: E[a_l^2].
        gradient_factor: chi_l. E[(dL/dz)^2] grows by this factor from layer l + 1 back to layer l,
            if layer l + 1 has the same weight variance. Without BatchNorm and sums it is
            fan_out Var(W) E[f'(z_l)^2].
        preactivation_gradient: E[(dL/dz_l)^2], divided by that of the last hidden layer.
        activation_gradient: E[(dL/da_l)^2], divided by that of the last hidden layer.
    """

    preactivation_variance: Float[np.ndarray, " depth"]
    activation_mean: Float[np.ndarray, " depth"]
    activation_variance: Float[np.ndarray, " depth"]
    activation_second_moment: Float[np.ndarray, " depth"]
    gradient_factor: Float[np.ndarray, " depth"]
    preactivation_gradient: Float[np.ndarray, " depth"]
    activation_gradient: Float[np.ndarray, " depth"]

    def __repr__(self) -> str:
        variances = {
            "preactivation_variance": ends(self.preactivation_variance),
            "activation_variance": ends(self.activation_variance),
            "gradient_factor": ends(self.gradient_factor),
        }
        layers = counted(len(self.gradient_factor), "layer")
        return f"MeanField({layers}: {named(variances)})"


def mean_field(
    activation: Elementwise,
    *,
    weight_variance: float,
    depth: int,
    bias_variance: float = 0.0,
    input_second_moment: float = 1.0,
    fan_ratio: float = 1.0,
    batch_norm: bool = False,
    residual: bool = False,
    kinks: Sequence[float] = (),
) -> MeanField:
    r"""Follow variance forward and gradient backward through hidden layers of infinite width.

    $$q_1 = \sigma_w^2 E[x^2] + \sigma_b^2, \qquad
      q_{l+1} = \sigma_w^2 E[f(z_l)^2] + \sigma_b^2, \qquad z_l \sim N(0, q_l)$$

    $$\chi_l = r\, \sigma_w^2 E[f'(z_l)^2], \qquad
      \frac{E[(\partial L / \partial z_l)^2]}{E[(\partial L / \partial z_{l+1})^2]} = \chi_l,
      \qquad
      \frac{E[(\partial L / \partial a_l)^2]}{E[(\partial L / \partial a_{l+1})^2]} = \chi_{l+1}$$

    The forward factor is fan_in Var(W) and the backward factor is fan_out Var(W), so r is fan_out /
    fan_in. The backward equations assume that the weights of the backward pass are independent of
    those of the forward pass. This holds for wide layers. In ReLU layers of n units, one draw of
    the weights differs from q_l by a relative sqrt(5 l / n) or so.

    A residual layer adds what it gets, z_{l+1} = z_l + W f(z_l) + b:

    $$q_{l+1} = q_l + \sigma_w^2 E[f(z_l)^2] + \sigma_b^2, \qquad
      \chi_l = 1 + \sigma_w^2 E[f'(z_l)^2]$$

    BatchNorm before f, in the limit of large batches, divides z_l by the standard deviation over
    the batch, so f gets N(0, 1) at every layer. What differs between examples has the variance v_l,
    and with a sum the skip connection stands outside of BatchNorm and f (the terms in brackets):

    $$v_1 = \sigma_w^2 E[x^2], \qquad v_{l+1} = [v_l +]\; \sigma_w^2 \mathrm{Var}[f(z)], \qquad
      \chi_l = [1 +]\; r\, \sigma_w^2 E[f'(z)^2] / v_l, \qquad z \sim N(0, 1)$$

    Without a sum chi_l = r E[f'^2] / Var[f], pi / (pi - 1) for ReLU: BatchNorm alone makes the
    gradient explode. With the sum v_l grows by one share a layer, and the gradient grows like a
    power of the depth. Examples and their gradients are uncorrelated at the start, and of mean 0.
    `batch_norm_gradient_growth` has the formula for small batches.

    Arguments:
        activation: an elementwise function f in JAX.
        weight_variance: sigma_w^2 = fan_in Var(W); He is 2, LeCun 1. Glorot and Bengio's
            "standard" U(-1/sqrt(n), 1/sqrt(n)) is 1/3. tanh is linear for a small signal, so both
            variance and gradient then fall by 3 in each layer.
        depth: hidden layers, at least 1.
        bias_variance: sigma_b^2.
        input_second_moment: E[x^2], the mean square of an input's entries.
        fan_ratio: r.
        batch_norm: BatchNorm between each z_l and f, of scale 1, shift 0 and epsilon 0.
        residual: each layer after the first adds what it gets.
        kinks: where f or f' jumps, besides 0, +-1/2, +-1, +-2, +-3 and +-6.

    Raises:
        ValueError: a setting that is negative or not finite, a depth below 1, an f that is not
            elementwise, a signal beyond the range of float64; a sum of layers of unequal widths;
            BatchNorm of what is the same for all examples.

    Example:
        >>> he = mean_field(jax.nn.relu, weight_variance=2.0, depth=50)
        >>> he.activation_second_moment[-1].round(9), he.activation_gradient[0].round(9)
        (np.float64(1.0), np.float64(1.0))
        >>> standard = mean_field(
        ...     jnp.tanh, weight_variance=1 / 3, depth=5, input_second_moment=1e-6)
        >>> (standard.activation_variance[1:] / standard.activation_variance[:-1]).round(4)
        array([0.3333, 0.3333, 0.3333, 0.3333])
        >>> normalised = mean_field(jax.nn.relu, weight_variance=2.0, depth=3, batch_norm=True)
        >>> (normalised.gradient_factor[1:] / (math.pi / (math.pi - 1))).round(9)
        array([1., 1.])

    Source: Poole et al. (2016), equation 3; Schoenholz et al. (2017), equations 3 and 17; Glorot
    and Bengio (2010), equations 5 and 6. Sums: Yang and Schoenholz (2017). BatchNorm: Yang et al.
    (2019); with sums, De and Smith (2020).
    """
    require_non_negative("weight_variance", weight_variance)
    require_non_negative("bias_variance", bias_variance)
    require_non_negative("input_second_moment", input_second_moment)
    require_positive("fan_ratio", fan_ratio)
    if depth < 1:
        raise ValueError(f"depth must be at least 1 hidden layer, got {depth}; pass a larger depth")
    gaussian_expectation(activation, kinks=kinks)  # refuses what is no elementwise function
    if residual and fan_ratio != 1:
        raise ValueError(
            f"a residual sum must have layers of one width, got fan_ratio={fan_ratio}; leave out "
            "fan_ratio, or residual"
        )
    rows: list[tuple[float, ...]] = []
    moments: GaussianMoments | None = None
    variance = weight_variance * input_second_moment + bias_variance
    between = weight_variance * input_second_moment  # the part that differs between examples
    for layer in range(1, depth + 1):
        if batch_norm and not between > 0:
            raise ValueError(
                f"BatchNorm must have a signal that differs between examples, got the variance "
                f"{between:g} at layer {layer}; pass positive weight_variance and "
                "input_second_moment, and an activation that is not constant"
            )
        if not math.isfinite(variance):
            moments = None
        elif not batch_norm:
            moments = gaussian_moments(activation, variance, kinks)
        elif layer == 1:  # f gets the same N(0, 1) at every layer
            moments = gaussian_moments(activation, 1.0, kinks)
        if moments is None or not math.isfinite(moments.square):
            raise ValueError(
                "the signal must stay within float64, got a variance that is not finite at layer "
                f"{layer} of {depth}; pass a smaller depth or weight_variance"
            )
        factor = fan_ratio * weight_variance * moments.squared_slope
        factor = residual + factor / (between if batch_norm else 1.0)
        rows.append((variance, moments.mean, moments.variance, moments.square, factor))
        variance = residual * variance + weight_variance * moments.square + bias_variance
        between = residual * between + weight_variance * moments.variance
    variances, means, spreads, squares, factors = np.array(rows).T
    with np.errstate(under="ignore", over="ignore"):
        below, above = (
            np.append(np.cumprod(part[::-1])[::-1], 1.0) for part in (factors[:-1], factors[1:])
        )
    return MeanField(
        preactivation_variance=variances,
        activation_mean=means,
        activation_variance=spreads,
        activation_second_moment=squares,
        gradient_factor=factors,
        preactivation_gradient=below,
        activation_gradient=above,
    )


def critical_weight_variance(
    activation: Elementwise, *, bias_variance: float = 0.0, kinks: Sequence[float] = ()
) -> float:
    r"""The weight variance at which the gradient neither vanishes nor explodes with depth.

    $$\sigma_w^2 E[f'(z)^2] = 1, \qquad q = \sigma_w^2 E[f(z)^2] + \sigma_b^2, \qquad
      z \sim N(0, q)$$

    The two equations determine sigma_w^2 and q; the solution with the smallest q is returned.
    Without a bias and with f(0) = 0 this is the limit q -> 0, where f is two straight pieces:
    sigma_w^2 = 2 / (f'(0-)^2 + f'(0+)^2). ReLU is two straight pieces everywhere, so its signal
    keeps any variance. With tanh the variance falls slowly towards 0.

    Arguments:
        activation: an elementwise function f in JAX.
        bias_variance: sigma_b^2.
        kinks: as in `mean_field`.

    Raises:
        ValueError: there is no solution with q up to 1e6. ReLU with a bias variance has none,
            because the signal gains it at each layer.

    Example:
        >>> round(critical_weight_variance(jax.nn.relu), 9)
        2.0
        >>> round(critical_weight_variance(jnp.tanh), 9)
        1.0
        >>> 1 < critical_weight_variance(jnp.tanh, bias_variance=0.05) < 2
        True

    Source: Schoenholz et al. (2017), section 3, the line chi_1 = 1.
    """
    require_non_negative("bias_variance", bias_variance)
    gaussian_expectation(activation, kinks=kinks)  # refuses what is no elementwise function

    def solve(variance: float) -> tuple[float, float]:
        """The weight variance that keeps the gradient at q, and the change of q in one layer."""
        moments = gaussian_moments(activation, variance, kinks)
        if moments.squared_slope == 0:
            return math.inf, math.inf
        weight_variance = 1 / moments.squared_slope
        return weight_variance, weight_variance * moments.square + bias_variance - variance

    if bias_variance == 0 and gaussian_moments(activation, 0.0, kinks).square == 0:
        if math.isfinite(solution := solve(SMALLEST_VARIANCE)[0]):
            return solution
    else:
        grid = [float(q) for q in np.geomspace(1e-6, LARGEST_VARIANCE, 49)]
        surplus = [solve(q)[1] for q in grid]
        for place, (now, after) in enumerate(itertools.pairwise(surplus)):
            if now >= 0 > after:
                return solve(_bisect(lambda q: solve(q)[1], grid[place], grid[place + 1]))[0]
    raise ValueError(
        "the activation must have a variance at which signal and gradient are both kept, got none "
        f"for {getattr(activation, '__name__', activation)!s} with bias_variance={bias_variance} "
        f"up to q = {LARGEST_VARIANCE:g}; pass another bias_variance"
    )


def _bisect(decreasing: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if decreasing(middle) >= 0 else (low, middle)
    return math.sqrt(low * high)


class GaussianMoments(NamedTuple):
    mean: float
    variance: float
    square: float
    squared_slope: float


def gaussian_moments(f: Elementwise, variance: float, kinks: Sequence[float]) -> GaussianMoments:
    """Moments of f(z) and f'(z), z ~ N(0, variance). For f' a variance of 0 means the limit."""

    def slope(z: Float[Array, "..."]) -> Any:
        return jax.jvp(f, (z,), (jnp.ones_like(z),))[1]

    points, weights = gaussian_quadrature(variance or SMALLEST_VARIANCE, kinks=kinks)
    # The number of points depends on the variance, and JAX compiles again for each number.
    spare = -len(points) % POINTS_STEP
    points, weights = np.pad(points, (0, spare), "edge"), np.pad(weights, (0, spare))
    squared_slope = weights @ evaluate_float64(slope, points) ** 2
    if variance == 0:
        points, weights = np.zeros(1), np.ones(1)
    values = evaluate_float64(f, points)
    mean = weights @ values
    return GaussianMoments(
        mean=float(mean),
        # Not E[f^2] - mean^2, which cancels for a small signal on a large mean.
        variance=float(weights @ (values - mean) ** 2),
        square=float(weights @ values**2),
        squared_slope=float(squared_slope),
    )
