"""Every activation and its derivative on one page, and what they do to a signal.

Beside each: its gain g, the factor on the weights with which z ~ N(0, 1) stays N(0, 1) in the next
layer; how this fixed point attracts, the factor rho by which one layer multiplies a small departure
of the variance from 1 (below 1 it returns, above 1 it runs away, ReLU keeps any variance); and the
share of standard normal inputs where the slope is flat, |f'| < 0.1. Last, softmax beside sigmoid:
for two classes they are one function.

    g = 1 / sqrt(E[f(z)^2]),    rho = d/dq g^2 E[f(sqrt(q) z)^2] at q = 1,    z ~ N(0, 1)

Meaning: Each panel draws an activation and, dashed, its derivative; its title gives the gain that
keeps a signal's size, whether the signal is drawn back to this size, and how much of it meets a
flat slope. Activations that saturate draw the signal back but stop the gradient where they are
flat, ReLU and its leaky relatives keep a signal of any size, and GELU, SiLU and Mish drive it away
from the size that they would keep.

Data: none (synthetic: standard normal inputs, integrated by quadrature).
Source: the lecture on activations and output layers; Poole et al. (2016), equation 3, for the map
of the variance.
Run: python experiments/first_network/activation_catalogue.py
Expected: the derivatives are the closed forms; the sigmoid's slope is 0.25 at most, so that ten
sigmoids in a row pass at most a millionth; a softmax of two logits is the sigmoid of their
difference, in value, loss and gradient.
Time: 15 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from scipy.special import erfc, expit, ndtri

from jaxdl import activations, initializers, losses
from jaxdl.claims import Claim, main
from jaxdl.initializers.gains import evaluate_float64, gaussian_expectation
from jaxdl.plotting import new_figure

FLAT = 0.1
"""A slope below this, in size, is flat."""
REACH, NORMAL_POINTS = 6.5, 100_000
"""The figure's largest input; normal inputs, each as likely as the others."""
ROUNDING = 1e-13
"""Of derivatives up to 2 that are computed in some ten operations in float64, each 1e-16."""
QUADRATURE = 1e-9
"""Of expectations, relative."""
ROUNDINGS = 8
"""Operations of either head that round."""
STRAIGHT = ["identity", "relu", "leaky_relu"]
SATURATING, GATED = ["sigmoid", "tanh", "hard_tanh", "softsign"], ["gelu", "silu", "mish"]
DENSITY = 1 / np.sqrt(2 * np.pi)


def selu_slope(x: np.ndarray) -> np.ndarray:
    """Lambda, and lambda alpha exp(x) at and below 0."""
    below = activations.SELU_ALPHA * np.exp(np.minimum(x, 0))
    return np.asarray(activations.SELU_SCALE * np.where(x > 0, 1, below))


def mish_slope(x: np.ndarray) -> np.ndarray:
    """With t = tanh(log(1 + e^x)): t + x (1 - t^2) sigma(x)."""
    t = np.tanh(np.logaddexp(0, x))
    return np.asarray(t + x * (1 - t**2) * expit(x))


SLOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": np.ones_like,
    "sigmoid": lambda x: expit(x) * expit(-x),
    "log_sigmoid": lambda x: expit(-x),
    "hard_sigmoid": lambda x: (np.abs(x) < 3) / 6,
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "hard_tanh": lambda x: 1.0 * (np.abs(x) < 1),
    "softsign": lambda x: 1 / (1 + np.abs(x)) ** 2,
    "relu": lambda x: 1.0 * (x > 0),
    "relu6": lambda x: 1.0 * ((x > 0) & (x < 6)),
    "leaky_relu": lambda x: np.where(x > 0, 1, 0.01),
    "elu": lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    "celu": lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    "selu": selu_slope,
    "gelu": lambda x: erfc(-x / np.sqrt(2)) / 2 + x * DENSITY * np.exp(-(x**2) / 2),
    "silu": lambda x: expit(x) * (1 + x * expit(-x)),
    "hard_swish": lambda x: np.where(np.abs(x) < 3, (2 * x + 3) / 6, 1.0 * (x >= 3)),
    "mish": mish_slope,
    "softplus": expit,
    "hard_shrink": lambda x: 1.0 * (np.abs(x) > 0.5),
    "soft_shrink": lambda x: 1.0 * (np.abs(x) > 0.5),
    "tanh_shrink": lambda x: np.tanh(x) ** 2,
    "threshold": lambda x: 1.0 * (x > 0),
}
"""Closed forms; at a kink the value that the activation's docstring names."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    points: int = 1301
    """Inputs from -6.5 to 6.5; 1 more than a multiple of 26 has all the kinks."""
    logits: int = 10_000
    """Random pairs of logits, standard deviation 5; at least 1."""
    seed: int = 0
    """Of the logits."""


PRESETS = {
    "default": Config(),
    "smoke": Config(points=261, logits=100),
    "full": Config(points=130_001, logits=10**6),
}


def run(config: Config) -> xarray.Dataset:
    """By activation: values, slopes, gain, attraction, flat share; how far two heads are apart."""
    if config.points < 3 or config.points % 2 == 0 or config.logits < 1:
        raise ValueError(
            "points must be odd, at least 3, and logits at least 1, got "
            f"points={config.points}, logits={config.logits}; pass e.g. 1301 and 100"
        )
    half = config.points // 2
    x = np.arange(-half, half + 1) * REACH / half
    equally_likely = ndtri((np.arange(NORMAL_POINTS) + 0.5) / NORMAL_POINTS)
    rows = []
    for name, closed_form in SLOPES.items():
        f = activations.by_name[name]
        slope = slope_of(f, x)
        flat = np.abs(slope_of(f, equally_likely)) < FLAT
        apart = np.abs(slope - closed_form(x)).max()
        found = evaluate_float64(f, x), slope, apart, initializers.gain(f), attraction(f)
        rows.append((*found, flat.mean()))
    value, slopes, *numbers = (np.array(column) for column in zip(*rows, strict=True))
    names = ("apart", "gain", "attraction", "flat")
    variables: dict[str, Any] = {
        "value": (("activation", "x"), value),
        "slope": (("activation", "x"), slopes),
        "heads_apart": ("quantity", heads_apart(config)),
    } | {name: ("activation", each) for name, each in zip(names, numbers, strict=True)}
    quantities = ["value", "loss", "gradient"]
    return xarray.Dataset(variables, {"activation": [*SLOPES], "x": x, "quantity": quantities})


def slope_of(f: Any, x: np.ndarray) -> np.ndarray:
    """f'(x) by automatic differentiation, in float64."""
    return evaluate_float64(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1], x)


def attraction(f: Any) -> float:
    """rho, the slope of q -> g^2 E[f(sqrt(q) z)^2] at q = 1; by parts, so that f may jump."""
    square = gaussian_expectation(lambda z: f(z) ** 2)
    return gaussian_expectation(lambda z: f(z) ** 2 * (z**2 - 1)) / (2 * square)


def heads_apart(config: Config) -> np.ndarray:
    """Probability, loss and gradient: softmax of (a, b) less sigmoid of b - a, the largest.

    In roundings, of 2e-16 (1 + |a| + |b|) each: so far b - a itself may be off.
    """
    draw = np.random.default_rng(config.seed)
    pairs = 5 * draw.normal(size=(config.logits, 2))
    label = draw.integers(0, 2, config.logits)
    with jax.enable_x64(True):
        logits, labels = jnp.asarray(pairs), jnp.asarray(label)

        @jax.jit
        def apart(logits: Any) -> Any:
            def by_softmax(logits: Any) -> Any:
                return losses.cross_entropy(logits, labels)

            def by_sigmoid(logits: Any) -> Any:
                return losses.binary_cross_entropy(logits[:, 1] - logits[:, 0], labels)

            probability = activations.softmax(logits)[:, 1]
            one = activations.sigmoid(logits[:, 1] - logits[:, 0])
            gradients = [
                jax.grad(lambda x, f=f: f(x).sum())(logits) for f in (by_softmax, by_sigmoid)
            ]
            unit = jnp.finfo(float).eps * (1 + jnp.abs(logits).sum(1))
            return jnp.stack(
                [
                    (jnp.abs(probability - one) / unit).max(),
                    (jnp.abs(by_softmax(logits) - by_sigmoid(logits)) / unit).max(),
                    (jnp.abs(gradients[0] - gradients[1]).max(1) / unit).max(),
                ]
            )

        return np.asarray(apart(logits))


def claims(results: xarray.Dataset) -> list[Claim]:
    """The derivatives; what the activations do to a signal; the two heads."""
    steepest = abs(results["slope"]).max("x")
    rho = results["attraction"]
    return [
        Claim(
            f"Automatic derivatives of {results.sizes['activation']} activations are the closed "
            "forms, at the kinks too: largest difference in float64",
            results["apart"].max(), 0, ROUNDING,
        ),
        Claim(
            "The sigmoid's slope is at most 1/4, so that ten in a row pass at most 4^-10 = 9.5e-7 "
            "of a gradient: its largest slope",
            steepest.sel(activation="sigmoid"), 0.25 - ROUNDING, 0.25 + ROUNDING,
        ),
        Claim(
            "Activations of two straight pieces that meet at 0 keep a signal of any size "
            "(identity, ReLU, leaky ReLU): rho, farthest from 1",
            max(rho.sel(activation=STRAIGHT).values, key=lambda each: abs(each - 1)),
            1 - QUADRATURE, 1 + QUADRATURE,
        ),
        Claim(
            "Activations that saturate draw a signal back to one size (sigmoid, tanh, hard tanh, "
            "softsign): rho, the largest, below 1",
            rho.sel(activation=SATURATING).max(), 0, 1 - QUADRATURE,
        ),
        Claim(
            "Activations that bend on the left of 0 and are straight far to the right drive a "
            "signal away from the size that they would keep (GELU, SiLU, Mish): rho, the least, "
            "above 1",
            rho.sel(activation=GATED).min(), 1 + QUADRATURE, np.inf,
        ),
        Claim(
            "A softmax of two logits is the sigmoid of their difference: probability, "
            "loss and gradient, largest difference in roundings of the difference",
            results["heads_apart"].max(), 0, ROUNDINGS,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """A panel for each activation; softmax beside sigmoid; what the numbers mean."""
    figure = new_figure(15, 11)
    panels = figure.subplots(4, 6).ravel()
    x = results["x"]
    for axes, name in zip(panels, results["activation"].values, strict=False):
        of = results.sel(activation=name)
        axes.axhline(0, color="0.8", lw=0.7)
        axes.plot(x, of["value"], "C0-", lw=2)
        axes.plot(x, of["slope"], "C3--", lw=1.5)
        numbers = f"g = {float(of['gain']):.3g}, $\\rho$ = {float(of['attraction']):.2f}"
        axes.set(title=f"{name}\n{numbers}, flat {float(of['flat']):.0%}", ylim=(-2.2, 3.2))
        axes.title.set_fontsize(9)
    heads, legend, *rest = panels[results.sizes["activation"] :]
    a = np.linspace(-REACH, REACH, 14)
    powers = np.exp(np.stack([np.zeros_like(a), a]))
    heads.plot(x, expit(x), "C0-", lw=2, label=r"$\sigma(b - a)$")
    heads.plot(a, (powers / powers.sum(0))[1], "ko", ms=4, label="softmax$(a, b)_2$")
    heads.set(title="two classes, one function", xlabel="b - a")
    heads.title.set_fontsize(9)
    heads.legend(fontsize=8, loc="upper left")
    for axes in (legend, *rest):
        axes.set_axis_off()
    legend.plot([], [], "C0-", lw=2, label="f")
    legend.plot([], [], "C3--", label="f'")
    legend.legend(loc="upper left", ncols=2)
    legend.text(
        0, 0.68,
        "g: gain; with weights of variance\n$g^2$/fan_in a variance of 1 stays 1\n\n"
        r"$\rho$: a layer multiplies a small" "\ndeparture from 1 by it; above 1\nthe signal runs "
        f"away\n\nflat: share of N(0, 1) inputs\nwhere |f'| < {FLAT:g}",
        transform=legend.transAxes, va="top", fontsize=9,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
