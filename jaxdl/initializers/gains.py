"""The gain of an activation: by how much weights must grow for the signal to keep its size.

The published table and the exact value differ: the table's tanh is 5/3, and
`1 / sqrt(E[tanh(z)^2])` is 1.59. `gain` takes a name for the first, a function for the second.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.checks import require_finite, require_positive

Elementwise = Callable[[Any], Any]

TABLE: Mapping[str, float] = {
    "linear": 1.0,
    "identity": 1.0,
    "conv": 1.0,
    **{f"conv{kind}{axes}d": 1.0 for kind in ("", "_transpose") for axes in (1, 2, 3)},
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "selu": 3 / 4,
}

# The density beyond 12 standard deviations is 1e-32 of its peak.
_REACH = 12.0
_PANELS_PER_STDDEV = 4
_NODES = 16
_USUAL_KINKS = (0.5, 1.0, 2.0, 3.0, 6.0)


def gain(activation: str | Elementwise, **params: Any) -> float:
    r"""The gain of an activation: published for a name, computed for a function.

    Arguments:
        activation: a name of `TABLE`, or an elementwise function, whose gain is
            `variance_preserving_gain`.
        **params: the activation's own settings. Among the names only leaky_relu has one,
            `negative_slope=0.01`, with gain sqrt(2 / (1 + a^2)).

    Raises:
        ValueError: a name not in the table, a setting the named activation does not have.

    Example:
        >>> gain("tanh"), gain("leaky_relu", negative_slope=1.0)
        (1.66..., 1.0)
        >>> gain(jnp.tanh)
        1.59...

    Source: `torch.nn.init.calculate_gain`, for the table; selu's 3/4 is PyTorch's choice, and
    Klambauer et al. (2017) ask for 1.
    """
    if isinstance(params.get("negative_slope"), bool) or isinstance(activation, bool):
        raise TypeError(
            f"gain takes a name or a function, and numbers as settings, got {activation!r} with "
            f"{params}; pass e.g. negative_slope=0.2"
        )
    if not isinstance(activation, str):
        return variance_preserving_gain(partial(activation, **params) if params else activation)
    if activation not in TABLE:
        raise ValueError(
            f"an activation must be one of {', '.join(TABLE)} to be given by name, "
            f"got {activation!r}; pass the function itself to have its gain computed"
        )
    allowed = {"negative_slope"} if activation == "leaky_relu" else set()
    if unknown := params.keys() - allowed:
        raise ValueError(
            f"{activation} takes {', '.join(allowed) or 'no settings'}, "
            f"got {', '.join(sorted(unknown))}; leave it out"
        )
    if params:
        require_finite("negative_slope", params["negative_slope"])
        return math.sqrt(2 / (1 + params["negative_slope"] ** 2))
    return TABLE[activation]


def variance_preserving_gain(f: Elementwise, *, kinks: Sequence[float] = ()) -> float:
    r"""The gain that keeps the second moment of the signal across `f`.

    $$g = \frac{1}{\sqrt{E[f(z)^2]}}, \qquad z \sim N(0, 1)$$

    Arguments:
        f, kinks: as in `gaussian_expectation`.

    Raises:
        ValueError: as in `gaussian_expectation`, or f is zero almost everywhere.

    Example:
        >>> abs(variance_preserving_gain(jax.nn.relu) - 2**0.5) < 1e-12
        True

    Source: He et al. (2015), equation 7, for any activation.
    """

    def squared(z: Any) -> Any:
        return f(z) ** 2

    squared.__name__ = _name(f)
    return _inverse_root(gaussian_expectation(squared, kinks=kinks), f)


def backward_gain(f: Elementwise, *, kinks: Sequence[float] = ()) -> float:
    r"""The gain that keeps the second moment of the gradient across `f`.

    $$g = \frac{1}{\sqrt{E[f'(z)^2]}}, \qquad z \sim N(0, 1)$$

    Arguments:
        f: elementwise function in JAX, which is differentiated.
        kinks: as in `gaussian_expectation`.

    Raises:
        ValueError: as in `gaussian_expectation`, or f' is zero almost everywhere.

    Example:
        >>> abs(backward_gain(jax.nn.relu) - 2**0.5) < 1e-12
        True

    Source: He et al. (2015), equation 13; Schoenholz et al. (2017), chi_1 at unit variance.
    """

    def squared_derivative(z: Any) -> Any:
        return jax.jvp(f, (z,), (jnp.ones_like(z),))[1] ** 2

    squared_derivative.__name__ = f"the derivative of {_name(f)}"
    return _inverse_root(gaussian_expectation(squared_derivative, kinks=kinks), f)


def gaussian_expectation(
    f: Elementwise, variance: float = 1.0, *, kinks: Sequence[float] = ()
) -> float:
    r"""The mean of a function of a centred normal variable, in float64.

    $$E[f(z)], \qquad z \sim N(0, \sigma^2)$$

    Arguments:
        f: elementwise function in JAX or NumPy, finite within 12 standard deviations; it is
            called outside any trace and with 64-bit types, whatever the process uses.
        variance: sigma^2, positive.
        kinks: where f or its derivative jumps, besides 0, +-1/2, +-1, +-2, +-3 and +-6.

    Raises:
        ValueError: a variance that is not positive, an f that is not elementwise, not real or not
            finite.

    Example:
        >>> round(gaussian_expectation(lambda z: z**4, variance=2.0), 12)
        12.0
    """
    points, weights = gaussian_quadrature(variance, kinks=kinks)
    values, alone = evaluate_float64(f, points), evaluate_float64(f, points[-1:])
    if values.shape != points.shape or not np.allclose(values[-1:], alone, 1e-6, equal_nan=True):
        raise ValueError(
            f"{_name(f)} must be elementwise, got one that mixes the elements of its argument; "
            "pass a function of each value alone"
        )
    if not np.all(np.isfinite(values)):
        worst = points[~np.isfinite(values)][0]
        raise ValueError(
            f"{_name(f)} must be finite within {_REACH:g} standard deviations, got a value that "
            f"is not at {worst:.3g}; pass a function that is finite there, or a smaller variance"
        )
    return float(weights @ values)


def gaussian_quadrature(
    variance: float = 1.0, *, kinks: Sequence[float] = ()
) -> tuple[np.ndarray, np.ndarray]:
    r"""Points and weights whose sum is the mean over a centred normal variable.

    $$\sum_i w_i f(z_i) \approx E[f(z)], \qquad z \sim N(0, \sigma^2)$$

    Gauss-Legendre panels meet at the kinks. A Gauss-Hermite rule is one polynomial across the
    kinks, and its odd orders put a point on ReLU's. Away from 0 the panels grow by a constant
    factor. So a function of unit scale is resolved under any variance.

    Arguments:
        variance: sigma^2, positive.
        kinks: as in `gaussian_expectation`.

    Raises:
        ValueError: a variance that is not positive, a kink that is not finite.

    Example:
        >>> points, weights = gaussian_quadrature(4.0)
        >>> round(float(weights @ points**2), 12)
        4.0
    """
    require_positive("variance", variance)
    for kink in kinks:
        require_finite("kink", kink)
    stddev = math.sqrt(variance)
    bound = _REACH * stddev
    uniform = np.arange(0, _REACH, 1 / _PANELS_PER_STDDEV) * stddev
    geometric = 2.0 ** np.arange(-4, max(math.log2(bound), -4), 1 / 2)
    half = np.concatenate([[bound], uniform, geometric, _USUAL_KINKS])
    edges = np.unique(np.concatenate([-half, half, np.asarray(kinks, np.float64)]))
    edges = edges[np.abs(edges) <= bound]
    nodes, node_weights = np.polynomial.legendre.leggauss(_NODES)
    centre, radius = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    points = (centre[:, None] + radius[:, None] * nodes).ravel()
    panel_weights = (radius[:, None] * node_weights).ravel()
    weights = panel_weights * np.exp(-((points / stddev) ** 2) / 2)
    # Dividing by the sum instead of sqrt(2 pi) sigma makes the mean of a constant exact.
    return points, weights / weights.sum()


def evaluate_float64(f: Elementwise, points: np.ndarray) -> np.ndarray:
    """`f` at `points` in float64, even inside a trace or without `jax_enable_x64`."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        values = f(jnp.asarray(points, jnp.float64))
        if jnp.iscomplexobj(values):
            raise ValueError(
                f"{_name(f)} must be real for real arguments, got {values.dtype}; pass its real "
                "part or its modulus"
            )
        return np.asarray(values, np.float64)


def _inverse_root(second_moment: float, f: Elementwise) -> float:
    if not second_moment > 0:
        raise ValueError(
            f"{_name(f)} must not vanish almost everywhere to have a gain, "
            f"got a second moment of {second_moment:g}; pass another activation"
        )
    return 1 / math.sqrt(second_moment)


def _name(f: Elementwise) -> str:
    return getattr(getattr(f, "func", f), "__name__", repr(f))
