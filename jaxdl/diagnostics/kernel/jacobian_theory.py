"""What the singular values of a wide network's Jacobian are at initialisation, without a network.

Squares of singular values multiply through layers as free random variables do: their mean and their
relative variance follow from each layer alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdl.checks import whole_number
from jaxdl.diagnostics.theory import mean_field
from jaxdl.initializers.gains import Elementwise, gaussian_expectation
from jaxdl.showing import ends, named

PANELS = 20_000
"""Panels of the quadrature of a law's distribution: its error is 1e-8."""


@dataclass(frozen=True)
class JacobianMoments:
    r"""The prediction for the Jacobian of the first l layers, l = 1 to depth, in float64.

    Attributes:
        mean_square: the mean of the squared singular values, the product of all chi.
        spread: their variance over their squared mean, which grows by a share a layer.
    """

    mean_square: Float[np.ndarray, " depth"]
    spread: Float[np.ndarray, " depth"]

    def __repr__(self) -> str:
        texts = {"mean_square": ends(self.mean_square), "spread": ends(self.spread)}
        return f"JacobianMoments({len(self.spread)} layers: {named(texts)})"


def jacobian_moments(
    activation: Elementwise,
    *,
    weight_variance: float,
    depth: int,
    orthogonal: bool = False,
    bias_variance: float = 0.0,
    input_second_moment: float = 1.0,
    kinks: Sequence[float] = (),
) -> JacobianMoments:
    r"""Mean and spread of the squared singular values of wide square layers.

    Of the layers a_l = f(W_l a_{l-1} + b_l) from the inputs a_0 to the last,

    $$J = \prod_{l=1}^{L} D_l W_l, \qquad D_l = \mathrm{diag}(f'(z_l)), \qquad
      \mu_{k,l} = E[f'(z_l)^{2k}], \quad z_l \sim N(0, q_l)$$

    $$\overline{s^2} = \prod_l \sigma_w^2 \mu_{1,l}, \qquad
      \frac{\mathrm{Var}(s^2)}{\overline{s^2}^2} =
      \sum_l \left(\frac{\mu_{2,l}}{\mu_{1,l}^2} - 1 + g\right)$$

    with g = 1 for Gaussian and 0 for orthogonal weights; q_l is that of `mean_field`. ReLU has
    mu_2 / mu_1^2 = 2: its spread grows by 2 a layer with Gaussian weights and by 1 with orthogonal
    ones. Only where f' is nearly constant, as of tanh for small q, do orthogonal weights help.

    Arguments:
        activation: an elementwise function f in JAX.
        weight_variance: sigma_w^2 = fan_in Var(W). Orthogonal weights have the gain sigma_w.
        depth: layers, at least 1.
        orthogonal: whether the weights are orthogonal; else they are Gaussian.
        bias_variance: sigma_b^2.
        input_second_moment: E[x^2], the mean square of an input's entries.
        kinks: as in `mean_field`.

    Raises:
        ValueError: as in `mean_field`; an f' that is 0 almost everywhere.

    Example:
        >>> relu = jacobian_moments(jax.nn.relu, weight_variance=2.0, depth=10)
        >>> relu.mean_square[-1].round(6), relu.spread[-1].round(6)
        (np.float64(1.0), np.float64(20.0))
        >>> linear = jacobian_moments(lambda z: z, weight_variance=1.0, depth=10, orthogonal=True)
        >>> linear.spread[-1].round(6)
        np.float64(0.0)

    Source: Pennington, Schoenholz and Ganguli (2017), Resurrecting the sigmoid in deep learning.
    """
    field = mean_field(
        activation, weight_variance=weight_variance, depth=depth, bias_variance=bias_variance,
        input_second_moment=input_second_moment, kinks=kinks,
    )  # fmt: skip

    def slope(power: int) -> Elementwise:
        def powered(z: Any) -> Any:
            return jax.jvp(activation, (z,), (jnp.ones_like(z),))[1] ** power

        return powered

    shares: dict[float, float] = {}
    for variance in field.preactivation_variance:
        q = float(variance)
        if q not in shares:
            first, second = (gaussian_expectation(slope(k), q, kinks=kinks) for k in (2, 4))
            if first == 0:
                raise ValueError(
                    "the activation must have a slope, got one of 0 almost everywhere; pass "
                    "another activation"
                )
            shares[q] = second / first**2 - 1
    own = np.array([shares[float(q)] for q in field.preactivation_variance])
    return JacobianMoments(
        mean_square=np.cumprod(field.gradient_factor),
        spread=np.cumsum(own + (0.0 if orthogonal else 1.0)),
    )


def gaussian_product_singular_values(depth: int, count: int) -> Float[np.ndarray, " count"]:
    r"""What the sorted singular values of a product of wide square Gaussian matrices are.

    $$W = W_L \cdots W_1, \qquad W_{l,ij} \sim N(0, 1/n), \qquad n \to \infty$$

    The squares x = s^2 have the Fuss-Catalan law, here by an angle:

    $$x(\phi) = \frac{\sin^{L+1}((L+1)\phi)}{\sin\phi\, \sin^L(L\phi)}, \qquad
      p(\phi) = \frac{\sin\phi\, \sin((L+1)\phi)}{\pi \sin(L\phi)}
      \left|\frac{d \ln x}{d\phi}\right|, \qquad 0 < \phi < \frac{\pi}{L+1}$$

    Their mean is 1 and their variance L. The largest value is sqrt((L+1)^{L+1} / L^L), near
    sqrt(e L) for a large depth, and the smaller half shrink by a factor a layer.

    Arguments:
        depth: L, the number of matrices, at least 1.
        count: how many values.

    Returns:
        The quantiles at (i + 1/2) / count from the top, (count,), float64.

    Example:
        >>> quarter_circle = gaussian_product_singular_values(1, 1000)
        >>> quarter_circle[[0, -1]].round(1)
        array([2., 0.])

    Source: Penson and Zyczkowski (2011) for the law; Forrester and Liu (2015) for the angle; Saxe,
    McClelland and Ganguli (2014) for deep linear networks.
    """
    depth, count = whole_number("depth", depth), whole_number("count", count)
    end = math.pi / (depth + 1)
    phi = (np.arange(PANELS) + 0.5) / PANELS * end  # the middles of the panels
    top, below = (depth + 1) * phi, depth * phi
    growth = (depth + 1) ** 2 / np.tan(top) - 1 / np.tan(phi) - depth**2 / np.tan(below)
    mass = -np.sin(phi) * np.sin(top) / (math.pi * np.sin(below)) * growth * end / PANELS
    logs = (depth + 1) * np.log(np.sin(top)) - np.log(np.sin(phi)) - depth * np.log(np.sin(below))
    above = np.cumsum(mass) - mass / 2  # the share of values above; x falls as phi grows
    share = (np.arange(count) + 0.5) / count
    return np.asarray(np.exp(np.interp(share, above / mass.sum(), logs) / 2))
