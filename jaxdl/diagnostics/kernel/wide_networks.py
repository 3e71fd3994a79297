"""Kernels of infinitely wide networks in closed form: what they compute, and how they learn.

In float64 and without a network or a key, as `mean_field`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdl.checks import require_non_negative, whole_number
from jaxdl.public import public_names

__all__ = [
    "Moments",
    "WideKernels",
    "arc_cosine",
    "erf_moments",
    "linear_moments",
    "relu_moments",
    "wide_kernels",
]

__dir__ = public_names(globals())


class Moments(NamedTuple):
    """E[f(u) f(v)] and E[f'(u) f'(v)] for centred normal u and v.

    Attributes:
        product: of the values.
        slopes: of the derivatives.
    """

    product: np.ndarray
    slopes: np.ndarray


MomentsOf = Callable[[Any, Any, Any], Moments]
"""(E[u^2], E[u v], E[v^2]) -> `Moments`."""


def arc_cosine(degree: int, uu: Any, uv: Any, vv: Any) -> np.ndarray:
    r"""The arc-cosine kernel of degree 0 or 1.

    $$k_n(x, y) = 2\, E_w[\Theta(w x)\, \Theta(w y)\, (w x)^n (w y)^n]
      = \frac{1}{\pi} \|x\|^n \|y\|^n J_n(\theta), \qquad w \sim N(0, I)$$

    $$J_0 = \pi - \theta, \qquad J_1 = \sin\theta + (\pi - \theta) \cos\theta$$

    Arguments:
        degree: n, 0 or 1.
        uu: the squared norm of x, of any shape.
        uv: the inner product of x and y.
        vv: the squared norm of y.

    Raises:
        ValueError: another degree.

    Example:
        >>> arc_cosine(1, 1.0, 0.0, 1.0).item() * math.pi, arc_cosine(0, 1.0, 0.0, 1.0).item()
        (1.0, 0.5)

    Source: Cho and Saul (2009), Kernel methods for deep learning.
    """
    if degree not in (0, 1):
        raise ValueError(f"the degree must be 0 or 1, got {degree!r}; 1 is that of ReLU")
    uu, uv, vv = (np.asarray(each, np.float64) for each in (uu, uv, vv))
    lengths = np.sqrt(uu * vv)
    # atan2 is right for small angles, of which arccos loses half the digits.
    sine = np.sqrt(np.maximum(lengths - uv, 0) * np.maximum(lengths + uv, 0))
    angle = np.arctan2(sine, uv)
    if degree == 0:
        return np.asarray((math.pi - angle) / math.pi)
    return np.asarray((sine + (math.pi - angle) * uv) / math.pi)


def relu_moments(uu: Any, uv: Any, vv: Any) -> Moments:
    r"""E[f f] and E[f' f'] of ReLU: half the arc-cosine kernels of degree 1 and 0.

    Example:
        >>> relu_moments(2.0, 2.0, 2.0).product.round(12), relu_moments(1.0, 1.0, 1.0).slopes
        (np.float64(1.0), np.float64(0.5))
    """
    return Moments(arc_cosine(1, uu, uv, vv) / 2, arc_cosine(0, uu, uv, vv) / 2)


def erf_moments(uu: Any, uv: Any, vv: Any) -> Moments:
    r"""E[f f] and E[f' f'] of the error function erf.

    $$E[f f] = \frac{2}{\pi} \arcsin \frac{2 uv}{\sqrt{(1 + 2 uu)(1 + 2 vv)}}, \qquad
      E[f' f'] = \frac{4}{\pi} \frac{1}{\sqrt{(1 + 2 uu)(1 + 2 vv) - 4 uv^2}}$$

    Example:
        >>> round(erf_moments(1.0, 0.0, 1.0).slopes.item() * 3 * math.pi, 12)
        4.0

    Source: Williams (1997), Computing with infinite networks.
    """
    uu, uv, vv = (np.asarray(each, np.float64) for each in (uu, uv, vv))
    scale = (1 + 2 * uu) * (1 + 2 * vv)
    return Moments(
        2 / math.pi * np.arcsin(2 * uv / np.sqrt(scale)),
        4 / math.pi / np.sqrt(scale - 4 * uv**2),
    )


def linear_moments(uu: Any, uv: Any, vv: Any) -> Moments:
    """E[f f] and E[f' f'] of a network without activations.

    Example:
        >>> linear_moments(1.0, 0.5, 1.0)
        Moments(product=array(0.5), slopes=array(1.))
    """
    del uu, vv
    uv = np.asarray(uv, np.float64)
    return Moments(uv, np.ones_like(uv))


@dataclass(frozen=True)
class WideKernels:
    r"""The kernels of an infinitely wide network, float64.

    Attributes:
        nngp: E[f(x) f(y)] of one output over draws of the parameters; (n, m).
        tangent: of one output, in the neural-tangent parametrisation; (n, m).
        signal: E[a_l(x) a_l(y)], what enters each layer l = 0 to depth; (depth + 1, n, m).
        backward: how much of layer l's kernel reaches the output; (depth + 1, n, m).
    """

    nngp: Float[np.ndarray, "n m"]
    tangent: Float[np.ndarray, "n m"]
    signal: Float[np.ndarray, "layers n m"]
    backward: Float[np.ndarray, "layers n m"]

    def standard(self, fan_in: Any, *, biases: bool = True) -> Float[np.ndarray, "n m"]:
        r"""The tangent kernel in the standard parametrisation, W ~ N(0, sigma_w^2 / fan_in).

        $$\Theta = \sum_l (n_l\, E[a_l(x) a_l(y)] + [b])\, \Theta_{l \to out}$$

        It grows with the widths n_l, for the gradient by a weight is its input and has no factor.

        Arguments:
            fan_in: n_l of each layer, (depth + 1,).
            biases: whether the layers have biases that are learned.

        Raises:
            ValueError: another number of layers.
        """
        widths = np.asarray(fan_in, np.float64)
        if widths.shape != (len(self.signal),):
            raise ValueError(
                f"fan_in must have one number for each of the {len(self.signal)} layers, got shape "
                f"{widths.shape}; count the last layer, too"
            )
        of_layers = widths[:, None, None] * self.signal + float(biases)
        return np.asarray((of_layers * self.backward).sum(0))

    def __repr__(self) -> str:
        rows, columns = self.nngp.shape
        return f"WideKernels({len(self.signal)} layers, {rows} x {columns} inputs)"


def wide_kernels(
    moments: MomentsOf,
    inputs: Any,
    other: Any = None,
    *,
    depth: int,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> WideKernels:
    r"""The kernels of a network of `depth` hidden layers and one linear layer of outputs.

    $$z_{l} = \frac{\sigma_w}{\sqrt{n_l}} W_l a_l + \sigma_b b_l, \qquad a_{l+1} = f(z_l),
      \qquad W_{l,ij}, b_{l,i} \sim N(0, 1), \quad a_0 = x$$

    $$K_0 = \sigma_w^2 \frac{x \cdot y}{d} + \sigma_b^2, \qquad
      K_{l+1} = \sigma_w^2 E[f(u) f(v)] + \sigma_b^2, \qquad
      \dot K_{l+1} = \sigma_w^2 E[f'(u) f'(v)], \qquad (u, v) \sim N(0, K_l)$$

    $$\Theta_0 = K_0, \qquad \Theta_{l+1} = K_{l+1} + \dot K_{l+1} \Theta_l$$

    This is the neural-tangent parametrisation: W and b are learned, their factors are not. So
    Theta does not depend on the width. Layers of this library have the standard one, W ~ N(0,
    sigma_w^2 / n): their kernel is `WideKernels.standard`. At width n a drawn network differs from
    both by about 1 / sqrt(n).

    Arguments:
        moments: of the activation: `relu_moments`, `erf_moments`, `linear_moments`, or a function
            like them.
        inputs: (n, ...), each flattened.
        other: (m, ...), of the same numbers each; None for `inputs` again.
        depth: hidden layers, at least 1.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Raises:
        TypeError: moments that are none, such as an activation.
        ValueError: settings out of range, inputs without examples or of different sizes.

    Example:
        >>> found = wide_kernels(relu_moments, np.eye(2), depth=1, weight_variance=2.0)
        >>> found.nngp.round(4).tolist(), found.tangent.round(4).tolist()
        ([[1.0, 0.3183], [0.3183, 1.0]], [[2.0, 0.3183], [0.3183, 2.0]])

    Source: Lee et al. (2018) for K; Jacot, Gabriel and Hongler (2018), theorem 1, for Theta.
    """
    _check_moments(moments)
    depth = whole_number("depth", depth)
    require_non_negative("weight_variance", weight_variance)
    require_non_negative("bias_variance", bias_variance)
    x = _vectors("inputs", inputs)
    y = x if other is None else _vectors("other", other)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"inputs and other must have as many numbers each, got {x.shape[1]} and {y.shape[1]}; "
            "pass inputs of one kind"
        )
    size = x.shape[1]
    signals = [x @ y.T / size]
    of_x, of_y = ((each**2).sum(1) / size for each in (x, y))
    slopes = []
    for _ in range(depth):
        xx, xy, yy = (weight_variance * each + bias_variance for each in (of_x, signals[-1], of_y))
        across = moments(xx[:, None], xy, yy[None, :])
        slopes.append(weight_variance * across.slopes)
        signals.append(across.product)
        of_x, of_y = moments(xx, xx, xx).product, moments(yy, yy, yy).product
    signal = np.stack(signals)
    backward = np.ones_like(signal)
    for layer in range(depth - 1, -1, -1):
        backward[layer] = backward[layer + 1] * slopes[layer]
    of_layers = weight_variance * signal + bias_variance
    return WideKernels(of_layers[-1], (of_layers * backward).sum(0), signal, backward)


def _check_moments(moments: Any) -> None:
    one = np.ones((1, 1))
    problem: TypeError | None = None
    try:
        found = moments(one, one / 2, one)
    except TypeError as error:
        found, problem = None, error
    if not (hasattr(found, "product") and hasattr(found, "slopes")):
        raise TypeError(
            "moments must be a function of E[u^2], E[u v] and E[v^2] that gives Moments, got "
            f"{getattr(moments, '__name__', repr(moments))}; pass relu_moments, erf_moments, "
            "linear_moments, or one of your own for another activation"
        ) from problem


def _vectors(name: str, inputs: Any) -> np.ndarray:
    values = np.asarray(inputs, np.float64)
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"{name} must be (examples, numbers), got shape {values.shape}; give a first axis of "
            "examples"
        )
    return values.reshape(len(values), -1)
