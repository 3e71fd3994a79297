"""The numbers of the interactive page: signal and gradient by activation, scale, norm and depth.

Writes `static/signal.js`, which the page loads without a server: `const SIGNAL = {...};`.
Run: python docs/interactive/compute.py
     python docs/interactive/compute.py --preset smoke --output /some/folder/signal.js
Time: 4 minutes on 2 CPU cores.
"""

import argparse
import functools
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from jaxdl import activations, diagnostics
from jaxdl.diagnostics.signal import advice, drift
from jaxdl.intervals import LEVEL, interval

sys.path.insert(0, str(Path(__file__).parent))  # for the two modules beside this one
import networks
import packing

OUTPUT = Path(__file__).parent / "static" / "signal.js"
LEAK = 0.1
ACTIVATIONS: dict[str, tuple[str, networks.Activation]] = {
    "sigmoid": ("sigmoid", activations.sigmoid),
    "tanh": ("tanh", activations.tanh),
    "relu": ("ReLU", activations.relu),
    "leaky_relu": (
        f"leaky ReLU (slope {LEAK})",
        functools.partial(activations.leaky_relu, negative_slope=LEAK),
    ),
    "gelu": ("GELU", activations.gelu),
    "silu": ("SiLU", activations.silu),
    "selu": ("SELU", activations.selu),
    "linear": ("linear", activations.identity),
}
"""By the name in the page's address: the label and the function."""
LECUN, HE, TORCH = 1.0, 2.0, 1 / 3
"""sigma_w^2 = fan_in Var(W). U(-1/sqrt(n), 1/sqrt(n)), PyTorch's default, has a third."""
NAMES = {TORCH: "PyTorch's default", LECUN: "LeCun, Glorot", HE: "He"}
BINS, REACH = 33, 4.0
"""Bars from -4 to 4 standard deviations around the mean; the outermost hold what lies beyond."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    scales: tuple[float, ...] = (
        0.25, TORCH, 0.5, 2**-0.5, LECUN, 2**0.5, HE, 2**1.5, 4.0, 8.0, 16.0,
    )  # fmt: skip
    """sigma_w^2, ascending; LeCun's 1 among them."""
    depths: tuple[int, ...] = (5, 10, 20, 30, 50)
    """Hidden layers, ascending."""
    shown: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 30, 50)
    """Layers with histograms, ascending; the depths among them."""
    width: int = 256
    """Units a layer."""
    examples: int = 64
    """Examples a batch."""
    seeds: int = 6
    """Networks of each kind; the histograms are of the first."""
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    norms: tuple[str, ...] = tuple(networks.NORMS)


PRESETS = {
    "default": Config(),
    "smoke": Config(
        scales=(LECUN, HE),
        depths=(3, 6),
        shown=(1, 3, 6),
        width=64,
        examples=16,
        seeds=3,
        activations=("sigmoid", "relu"),
        norms=("none", "BatchNorm"),
    ),
}


def buttons() -> list[dict[str, Any]]:
    """The settings that the page offers by name."""
    edge = diagnostics.critical_weight_variance(activations.tanh)
    made = [
        ("sigmoid, LeCun: the gradient vanishes", "sigmoid", LECUN, 50, "none"),
        ("ReLU, LeCun: both halve their square in every layer", "relu", LECUN, 50, "none"),
        ("ReLU, He: both hold", "relu", HE, 50, "none"),
        ("tanh at the edge of chaos", "tanh", edge, 50, "none"),
        ("tanh, large weights: saturated, and the gradient explodes", "tanh", 16.0, 50, "none"),
        ("BatchNorm explodes backward", "relu", LECUN, 50, "BatchNorm"),
        ("LayerNorm does not", "relu", LECUN, 50, "LayerNorm"),
        ("GELU, He: the signal collapses, later than in theory", "gelu", HE, 50, "none"),
        ("SiLU, BatchNorm: theory fails", "silu", LECUN, 50, "BatchNorm"),
    ]
    names = ("label", "activation", "variance", "depth", "norm")
    return [dict(zip(names, each, strict=True)) for each in made]


def theory(activation: networks.Activation, norm: str, scale: float, config: Config) -> Any:
    r"""Standard deviations of z_l and a_l, and the gradient's factors chi_l, of wide layers.

    Without a norm and with BatchNorm it is `diagnostics.mean_field`; the factor of BatchNorm's
    inner layers is that of the batch's size, `diagnostics.batch_norm_gradient_growth`. LayerNorm
    and RMSNorm divide the units of an example by their root mean square (the units' mean is 0 in
    the limit of width), so f gets N(0, 1) at every layer:

    $$q_1 = \sigma_w^2 E[x^2], \quad q_{l+1} = \sigma_w^2 E[f(z)^2], \quad
      \chi_l = \sigma_w^2 E[f'(z)^2] / q_l, \quad z \sim N(0, 1)$$
    """
    depth = max(config.depths)
    ones = np.ones(depth)
    if norm in ("LayerNorm", "RMSNorm"):
        unit = diagnostics.mean_field(activation, weight_variance=1.0, depth=1)
        q = scale * np.append(1.0, unit.activation_second_moment * ones[1:])
        factor = scale * unit.gradient_factor * ones / q
        return np.sqrt(q), np.sqrt(unit.activation_variance * ones), factor
    field = diagnostics.mean_field(
        activation, weight_variance=scale, depth=depth, batch_norm=norm == "BatchNorm"
    )
    factor = field.gradient_factor.copy()
    if norm == "BatchNorm":
        factor[1:] = diagnostics.batch_norm_gradient_growth(activation, batch_size=config.examples)
    return np.sqrt(field.preactivation_variance), np.sqrt(field.activation_variance), factor


def mean_of_seeds(deviations: Any) -> tuple[np.ndarray, np.ndarray]:
    """The geometric mean over the first axis, and the interval's half-width in powers of ten.

    Both are 0 where a seed has a deviation of exactly 0.
    """
    deviations = np.asarray(deviations, np.float64)
    known = np.all(deviations > 0, axis=0)
    found = interval(np.log10(np.where(known, deviations, 1.0)))
    return np.where(known, 10.0**found.mean, 0.0), np.where(known, found.half_width, 0.0)


def histogram(values: Any, *, centred: bool) -> str:
    """One row: the share of exact zeros, the mean in deviations, and the bars of the others."""
    values = np.ravel(np.asarray(values, np.float64))
    mean, stddev = values.mean() if centred else 0.0, values.std()
    others = values[values != 0]
    edges = np.linspace(-REACH, REACH, BINS + 1)
    units = np.clip((others - mean) / (stddev or 1.0), edges[0], edges[-1])
    counts = np.histogram(units, edges)[0]
    zeros = packing.shares(1 - others.size / values.size)
    return zeros + packing.mean_in_deviations(mean, stddev) + packing.heights(counts)


def cells(name: str, norm: str, draws: list[networks.Draws], config: Config) -> list[Any]:
    """One entry a scale, of one activation with one norm."""
    activation = ACTIVATIONS[name][1]
    stddevs = jnp.sqrt(jnp.asarray(config.scales, jnp.float32))
    one = functools.partial(networks.measure, activation, norm, depths=config.depths)
    by_scale = jax.jit(lambda of: jax.vmap(lambda s: one(draws=of, scale=s))(stddevs))
    measured = jax.tree.map(lambda *seeds: np.stack(seeds), *map(by_scale, draws))
    made: list[dict[str, Any]] = []
    for number, scale in enumerate(config.scales):
        cell: dict[str, Any] = {}
        for field in ("z", "a", "dz", "da"):
            mean, half_width = mean_of_seeds(getattr(measured, field)[:, number])
            cell[field] = [packing.sizes(mean), packing.spreads(half_width)]
        for field in ("dead", "saturated"):
            cell[field] = packing.shares(getattr(measured, field)[:, number].mean(axis=0))
        cell["theory"] = [packing.sizes(each) for each in theory(activation, norm, scale, config)]
        made.append(cell)
    # A norm divides the scale out, so that one scale's histograms, in deviations, are all scales'.
    apart = range(len(config.scales)) if norm == "none" else [config.scales.index(LECUN)]
    at = jax.jit(
        lambda scale: networks.chosen_values(
            activation, norm, draws[0], scale, config.depths, config.shown
        )
    )
    for number in apart:
        z, a, gradients = at(stddevs[number])
        made[number]["bars"] = {
            "z": "".join(histogram(layer, centred=True) for layer in z),
            "a": "".join(histogram(layer, centred=True) for layer in a),
            **{
                field: ["".join(histogram(g, centred=False) for g in of[field]) for of in gradients]
                for field in ("dz", "da")
            },
        }
    return made


def compute(config: Config) -> dict[str, Any]:
    """All that the page shows."""
    make = functools.partial(
        networks.draw, depth=max(config.depths), width=config.width, examples=config.examples
    )
    draws = [make(jax.random.key(seed)) for seed in range(config.seeds)]
    all_cells = {}
    for name in config.activations:
        for norm in config.norms:
            all_cells[f"{name}/{norm}"] = cells(name, norm, draws, config)
    return {
        "made": {
            "by": "docs/interactive/compute.py",
            "versions": {
                "jaxdl": jaxdl.__version__,
                "jax": jax.__version__,
                "flax": flax.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        },
        "format": packing.FORMAT | {"bins": BINS, "reach": REACH},
        "width": config.width,
        "examples": config.examples,
        "seeds": config.seeds,
        "level": LEVEL,
        "limits": {
            "signal": drift.SIGNAL_RANGE,
            "gradient": drift.GRADIENT_RANGE,
            "dead": advice.DEAD_FRACTION,
            "saturated": advice.SATURATED_FRACTION,
            "float32": float(np.finfo(np.float32).smallest_normal),
        },
        "activations": {name: ACTIVATIONS[name][0] for name in config.activations},
        "norms": [*config.norms],
        "variances": [*config.scales],
        "varianceNames": [NAMES.get(scale, "") for scale in config.scales],
        "depths": [*config.depths],
        "shown": [*config.shown],
        "presets": [
            each
            for each in buttons()
            if each["activation"] in config.activations and each["norm"] in config.norms
        ],
        "cells": all_cells,
    }


def main(arguments: list[str] | None = None) -> None:
    """Compute, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    text = json.dumps(compute(PRESETS[given.preset]), separators=(",", ":"))
    given.output.write_text(f"const SIGNAL = {text};\n", encoding="utf-8")
    print(f"{given.output}: {len(text) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
