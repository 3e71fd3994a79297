"""BatchNorm alone makes gradients explode with depth, and a skip connection tames it.

50 layers of 256 units at initialisation: weights, BatchNorm, activation, weights, and so on. The
gradient that arrives at the last layer is standard normal, and is followed back to the first.
BatchNorm brings each unit to variance 1. ReLU turns part of that variance into a mean, which the
next BatchNorm takes away; what is left it must enlarge, and it enlarges the gradient by as much.
So the gradient's mean square grows in each layer by E[f'(z)^2] / Var[f(z)], z ~ N(0, 1), whatever
the weights' scale. A batch of a few examples makes it worse, and a skip connection makes the growth
a power of the depth instead of an exponential.

Meaning: The curves follow the gradient back through 48 layers before training, with BatchNorm, with
skip connections as well, and with neither; the right panel shows how fast it grows, by the size of
the batch. BatchNorm holds the signal but makes the gradient explode: with ReLU its mean square
grows by nearly a half in each layer, and more in small batches, while skip connections let it grow
only as a power of the depth.

Data: none (synthetic: standard normal inputs, and gradients at the last layer).
Source: the lecture on BatchNorm; Yang, Pennington, Rao, Sohl-Dickstein and Schoenholz (2019), A
mean field theory of batch normalization; De and Smith (2020) for the skip connection.
Run: python experiments/normalization/batchnorm_depth.py
Expected: in wide layers and large batches the mean square grows a layer by pi/(pi - 1) = 1.467 with
ReLU, by 1.178 with tanh, not at all without an activation; by 1.79 with ReLU in batches of 8. In 48
layers ReLU gains 4 powers of ten with BatchNorm, 0.8 with skip connections too, and none with
neither (He's weights).
Time: 30 s on 2 CPU cores.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import activations, diagnostics, initializers, training
from jaxdl.claims import Claim, about_mean, about_means, main
from jaxdl.plotting import band, new_figure

LIMIT = math.pi / (math.pi - 1)
"""ReLU's growth in the limit of wide layers and large batches, as published."""
SHARE = 5.0
"""A layer of so many units over 1 strays from its law by up to this number of units, on average."""


class Arm(NamedTuple):
    """A kind of network: its label, activation and line; fan_in Var(W); what it has besides."""

    label: str
    activation: Callable[[Array], Array]
    style: str
    weight_variance: float = 1.0
    batch_norm: bool = True
    residual: bool = False


ARMS = {
    "relu": Arm("BatchNorm, ReLU", activations.relu, "C3-"),
    "tanh": Arm("BatchNorm, tanh", activations.tanh, "C0--"),
    "linear": Arm("BatchNorm, no activation", activations.identity, "C2:"),
    "skip": Arm("BatchNorm, ReLU, skip connections", activations.relu, "C4-.", 2.0, residual=True),
    "plain": Arm("ReLU alone, He's weights", activations.relu, "C1-", 2.0, batch_norm=False),
}
CHAINS = ("relu", "tanh", "linear")
"""With BatchNorm and without skip connections."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 24
    """Networks of each kind; at least 3."""
    depth: int = 50
    """Layers; at least 3."""
    width: int = 256
    """Units a layer."""
    batches: tuple[int, ...] = (8, 16, 64, 256)
    """Examples a batch, ascending; the last batch stands for a large one."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=12, depth=20, width=128, batches=(16, 128)),
    "full": Config(seeds=40, width=1024, batches=(8, 16, 64, 256, 1024)),
}


class Draws(NamedTuple):
    """The random numbers of a network, of its inputs and of the last layer's gradient."""

    weights: Float[Array, "depth width width"]
    """Of variance 1 / width."""
    inputs: Float[Array, "examples width"]
    gradient: Float[Array, "examples width"]


def draw(key: PRNGKeyArray, depth: int, width: int, examples: int) -> Draws:
    """What all kinds of networks share, the smaller batches too."""
    weights_key, inputs_key, gradient_key = jax.random.split(key, 3)
    normal = initializers.normal()
    return Draws(
        normal(weights_key, (depth, width, width)) / math.sqrt(width),
        normal(inputs_key, (examples, width)),
        normal(gradient_key, (examples, width)),
    )


def standardize(z: Float[Array, "examples width"]) -> Float[Array, "examples width"]:
    """BatchNorm at the start: scale 1, shift 0; without an epsilon."""
    centred = z - z.mean(axis=0)
    return centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=0))


def growth(arm: Arm, draws: Draws) -> Float[Array, " layers"]:
    """The mean square of dL/dz_l over that of dL/dz_{l+1}, for l = 1 to depth - 1.

    z_{l+1} = [z_l +] f(BatchNorm(z_l)) W_{l+1}. The gradient is brought back to mean square 1 after
    each layer, so none overflows.
    """
    weights = math.sqrt(arm.weight_variance) * draws.weights

    def layer(z: Array, kernel: Array) -> Array:
        branch = arm.activation(standardize(z) if arm.batch_norm else z) @ kernel
        return z + branch if arm.residual else branch

    def backward(gradient: Array, of: tuple[Array, Array]) -> tuple[Array, Array]:
        z, kernel = of
        (before,) = jax.vjp(lambda z: layer(z, kernel), z)[1](gradient)
        mean_square = jnp.mean(jnp.square(before))
        return before / jnp.sqrt(mean_square), mean_square

    first = draws.inputs @ weights[0]
    _, all_z = jax.lax.scan(lambda z, kernel: (layer(z, kernel), z), first, weights[1:])
    top = draws.gradient / jnp.sqrt(jnp.mean(jnp.square(draws.gradient)))
    return jnp.asarray(jax.lax.scan(backward, top, (all_z, weights[1:]), reverse=True)[1])


def run(config: Config) -> xarray.Dataset:
    """By kind, batch, seed and layer: growth of the gradient's mean square; theory."""
    by_batch = [
        [
            diagnostics.batch_norm_gradient_growth(ARMS[arm].activation, batch_size=examples)
            for examples in config.batches
        ]
        for arm in CHAINS
    ]  # refuses a batch without a law

    def member(key: Any) -> dict[str, Any]:
        whole = draw(key, config.depth, config.width, config.batches[-1])

        def part(examples: int) -> Draws:
            return Draws(whole.weights, whole.inputs[:examples], whole.gradient[:examples])

        rows = [[growth(arm, part(n)) for n in config.batches] for arm in ARMS.values()]
        return {"growth": jnp.stack([jnp.stack(row) for row in rows])}

    swept = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        dims={"growth": ("arm", "batch", "layer")},
    )
    large = [
        diagnostics.mean_field(
            arm.activation,
            weight_variance=arm.weight_variance,
            depth=config.depth,
            batch_norm=arm.batch_norm,
            residual=arm.residual,
        ).gradient_factor[:-1]
        for arm in ARMS.values()
    ]
    return swept.assign(
        theory=(("arm", "layer"), np.array(large)),
        theory_by_batch=(("chain", "batch"), np.array(by_batch)),
    ).assign_coords(
        arm=[*ARMS],
        chain=[*CHAINS],
        batch=[*config.batches],
        layer=np.arange(1, config.depth),
        width=config.width,
    )


def a_layer(results: xarray.Dataset) -> xarray.DataArray:
    """By seed, chain and batch: the mean growth a layer. The inputs' own scale is in layer 1."""
    chains = results["growth"].sel(arm=[*CHAINS]).rename(arm="chain")
    return chains.isel(layer=slice(1, None)).mean("layer", skipna=False)


def decades(growth_of_square: xarray.DataArray) -> xarray.DataArray:
    """log10 of the root mean square of dL/dz_l over that of the last layer, by layer."""
    logs = xarray.DataArray(np.log10(growth_of_square.astype(np.float64))) / 2
    whole, back = (each("layer", skipna=False) for each in (logs.sum, logs.cumsum))
    return whole - back + logs


def claims(results: xarray.Dataset) -> list[Claim]:
    """The published growth; the formula for any batch; what a skip connection does."""
    near = SHARE / int(results["width"])
    of_seeds = f"mean of {results.sizes['seed']} seeds"
    measured, expected = a_layer(results), results["theory_by_batch"]
    examples, below = int(results["batch"][-1]), results.sizes["layer"]
    made = [
        about_mean(
            "BatchNorm alone makes a ReLU network's gradient explode: growth of its mean square a "
            f"layer, batches of {examples} (theory of large batches: pi/(pi - 1) = {LIMIT:.3f}); "
            f"{of_seeds}",
            measured.sel(chain="relu").isel(batch=-1),
            LIMIT * (1 - near),
            LIMIT * (1 + near),
        ),
        about_means(
            "Theory tells the growth for any activation and batch: measured over predicted, the "
            f"farthest from 1 of {expected.size} pairs; {of_seeds}",
            (measured / expected).stack(pair=("chain", "batch")).transpose("seed", "pair"),
            1 - near,
            1 + near,
        ),
        about_mean(
            "A small batch makes the gradient explode faster: growth a layer with ReLU in "
            f"batches of {int(results['batch'][0])}, over that in batches of {examples}; "
            f"{of_seeds}",
            measured.sel(chain="relu").isel(batch=0) / measured.sel(chain="relu").isel(batch=-1),
            low=1.0,
        ),
    ]
    large = results["growth"].isel(batch=-1)
    total, predicted = (decades(of.isel(layer=slice(1, None))) for of in (large, results["theory"]))
    # Each layer's share of `near` adds up: below - 1 layers, and half of it for a root.
    wide = (below - 1) * math.log10(1 + near) / 2
    for arm, parts, does in (
        ("relu", "BatchNorm and ReLU", "explodes, as an exponential of the depth"),
        (
            "skip",
            "BatchNorm, ReLU and skip connections",
            "grows much less, as a power of the depth",
        ),
        ("plain", "ReLU alone and He's weights", "neither grows nor shrinks"),
    ):
        gain = float(predicted.sel(arm=arm).isel(layer=0))
        made.append(
            about_mean(
                f"With {parts} the gradient {does}: powers of ten that its root mean "
                f"square gains in {below - 1} layers (theory {gain:.2f}); {of_seeds}",
                total.sel(arm=arm).isel(layer=0),
                gain - wide,
                gain + wide,
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """The gradient on its way back, by kind of network; its growth a layer by batch size."""
    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    large = results["growth"].isel(batch=-1)
    curves, predicted = (decades(of) for of in (large, results["theory"]))
    back = results.sizes["layer"] + 1 - results["layer"]
    for name, arm in ARMS.items():
        of_arm = 10 ** curves.sel(arm=name).transpose("seed", "layer").values[:, 1:]
        band(left, back[1:], of_arm, arm.style, spread="range", lw=2.5, label=arm.label)
        left.plot(back[1:], 10 ** predicted.sel(arm=name)[1:], "k-", lw=0.7)
    left.plot([], [], "k-", lw=0.7, label="theory, wide layers, large batches")
    left.set(
        yscale="log",
        xlabel="layers passed on the way back",
        ylabel="root mean square of dL/dz, last layer = 1",
        title=f"Gradient at initialisation, batches of {int(results['batch'][-1])}",
    )
    left.locator_params(axis="x", integer=True)
    left.legend(loc="upper left", frameon=False)
    sizes = np.unique(np.geomspace(6, 1.5 * int(results["batch"][-1]), 60).astype(int))
    for name in CHAINS:
        arm, values = ARMS[name], a_layer(results).sel(chain=name).transpose("seed", "batch")
        mean = values.mean("seed")
        reach = np.abs(np.stack([values.min("seed"), values.max("seed")]) - mean.values)
        right.errorbar(
            results["batch"], mean, reach, color=arm.style[:2], fmt="o", capsize=4, label=arm.label
        )
        law = [
            diagnostics.batch_norm_gradient_growth(arm.activation, batch_size=int(size))
            for size in sizes
        ]
        right.plot(sizes, law, "k-", lw=0.7)
    right.plot([], [], "k-", lw=0.7, label="theory, wide layers")
    right.axhline(LIMIT, color="C3", ls="--", lw=1)
    right.text(24, LIMIT - 0.01, r"$\pi/(\pi-1)$", va="top", color="C3")
    right.set(
        xscale="log",
        xlabel="examples a batch",
        ylabel="growth of the gradient's mean square a layer",
        title=f"Mean and range of {results.sizes['seed']} seeds",
        xticks=results["batch"].values,
    )
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter("")
    right.legend(loc="upper right", frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
