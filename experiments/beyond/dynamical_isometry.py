"""Orthogonal weights stretch all directions alike, and very deep networks then train.

Square layers without biases. First the singular values of the Jacobian of all layers by the inputs,
before training, 128 units wide, Gaussian against orthogonal weights of one variance. Then networks
of 64 units on digits of 8 x 8: steps of gradient descent until the training loss is at 0.3 nats,
each at the best of three rates, which are multiples of one over the layers. Last, convolutions with
tanh on the same digits, 3 x 3 with the edges joined, 8 channels: Gaussian against delta-orthogonal.

Meaning: The panels show how strongly a network stretches each direction of its input before
training, how unequal that becomes with depth, how many steps networks then need, and the loss of
those that were given up. Gaussian layers stretch more unequally with each layer, and at 64 layers
they do not get there in 120 steps, while orthogonal ones stretch all directions alike as long as
the activation is nearly linear, and still train at 64 layers.

Data: digits, 1,797 grey digits of 8 x 8 (500 to train on), from the package scikit-learn.
Source: Saxe, McClelland and Ganguli (2014); Pennington, Schoenholz and Ganguli (2017); Xiao, Bahri,
Sohl-Dickstein, Schoenholz and Pennington (2018).
Run: python experiments/beyond/dynamical_isometry.py
Expected: the variance of the squared singular values over their squared mean is the depth for
Gaussian linear layers and 0 for orthogonal ones; with ReLU it is 2 and 1 times the depth, so
orthogonal weights do not mend a ReLU. (Measured they help a ReLU by 1.5 of the factor 2; ten draws
do not decide it.) From 4 to 64 layers the steps of orthogonal networks grow from 10 to 15 (linear)
and from 25 to 55 (tanh), those of delta-orthogonal convolutions from 10 to 100; no Gaussian network
of 64 layers is there after 120 steps. Their loss has fallen all the same, that of convolutions to
1.3: that they cannot be trained at all is not seen at this size. Xiao et al. train 10,000
delta-orthogonal layers on larger images.
Time: 3 minutes on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, initializers, losses, optimizers, training
from jaxdl.calling import adapt
from jaxdl.claims import Claim, about_mean, about_means, about_ratios, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

UNITS, CHANNELS, CLASSES = 64, 8, 10
"""Of the trained networks: as many units as a digit has pixels; of convolutions; of outputs."""
TARGET = 0.3
"""Nats of the training loss; a guess among ten classes has 2.3."""
EXAMPLES, BATCH_SIZE, BETWEEN = 500, 50, 5
"""Between two looks at the loss lie five steps, half a pass over the examples."""
TUNING_SEED = 1000
"""The seed by which a rate is chosen, less the first of the runs."""
WEIGHTS = ("Gaussian", "orthogonal")
FLOOR, SMALLEST_SPREAD = 1e-6, 1e-3
"""Below these nothing is drawn: float32's rounding, and a spread that nobody would see."""


class Kind(NamedTuple):
    """What stands between two layers, and the weights' variance times the fan-in that suits it."""

    activation: Callable[[Any], Any]
    weight_variance: float
    style: str
    window: tuple[int, ...] = ()


KINDS = {
    "linear": Kind(lambda z: z, 1.0, "C0o"),
    "tanh": Kind(jnp.tanh, 1.05, "C1s"),
    "ReLU": Kind(jax.nn.relu, 2.0, "C2^"),
}
"""With 1.05 the signal of tanh keeps a small variance, 0.02, where its slope is nearly 1."""

TRAINED = {
    "linear": KINDS["linear"],
    "tanh": KINDS["tanh"],
    "tanh convolutions": Kind(jnp.tanh, 1.05, "C3D", window=(3, 3)),
}
"""ReLU has no isometry to gain."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 3
    """Networks that are trained, of each kind and depth; at least 3."""
    draws: int = 10
    """Networks whose Jacobian is measured; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    width: int = 128
    """Units of the networks whose Jacobian is measured."""
    depths: tuple[int, ...] = (1, 4, 16, 32)
    """Layers of these, increasing."""
    layers: tuple[int, ...] = (4, 16, 64)
    """Hidden layers of networks that are trained, increasing."""
    rates: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Learning rates times the layers, of which the best is taken."""
    most_steps: int = 120
    """A run is given up after so many."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=3, draws=4, width=64, depths=(8,), layers=(4, 24), most_steps=80
    ),
    "full": Config(
        seeds=10, draws=50, width=1024, depths=(1, 2, 4, 8, 16, 32, 64, 128),
        layers=(4, 16, 64, 256, 1024), rates=(0.06, 0.125, 0.25, 0.5, 1.0), most_steps=5000,
    ),
}  # fmt: skip


def stack(kind: Kind, key: Any, depth: int, shape: tuple[int, ...]) -> Any:
    """The weights of all layers, Gaussian and orthogonal of one variance: (2, depth, *shape)."""
    isometry = initializers.delta_orthogonal if kind.window else initializers.orthogonal
    drawn = [
        jax.vmap(lambda key, draw=draw: draw(key, shape))(jax.random.split(key, depth))
        for draw in (
            initializers.variance_scaling(kind.weight_variance, "fan_in", "normal"),
            isometry(kind.weight_variance**0.5),
        )
    ]
    return jnp.stack(drawn)


def quickly(draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of a key, compiled without optimisation: random numbers take seconds with it."""
    return jax.jit(draw, compiler_options=init_options())


def run(config: Config) -> xarray.Dataset:
    """Singular values by kind, weights and depth; steps to the target, and the loss at the end."""
    by_kind = [
        xarray.concat([jacobians(config, kind, depth) for depth in config.depths], "depth")
        for kind in KINDS.values()
    ]
    runs = [
        xarray.concat([trained(config, name, depth) for depth in config.layers], "layers")
        for name in TRAINED
    ]
    results = xarray.concat(runs, "trained")
    results["singular_values"] = xarray.concat(by_kind, "kind")
    results["theory"] = (
        ("kind", "weights", "depth"),
        [
            [expected_spread(config, kind, bool(which)) for which in range(2)]
            for kind in KINDS.values()
        ],
    )
    return results.assign_coords(
        kind=[*KINDS], trained=[*TRAINED], weights=[*WEIGHTS], depth=[*config.depths],
        layers=[*config.layers],
    )  # fmt: skip


def expected_spread(config: Config, kind: Kind, orthogonal: bool) -> np.ndarray:
    """By depth, of wide layers."""
    moments = diagnostics.jacobian_moments(
        kind.activation, weight_variance=kind.weight_variance, depth=max(config.depths),
        orthogonal=orthogonal,
    )  # fmt: skip
    return np.asarray(moments.spread[np.array(config.depths) - 1])


def jacobians(config: Config, kind: Kind, depth: int) -> xarray.DataArray:
    """By weights and draw: the singular values at one input of normal numbers."""

    def network(weights: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, w: (kind.activation(x @ w), None), x, weights)[0]

    def drawn(key: Any) -> Any:
        draw_key, x_key = jax.random.split(key)
        both = stack(kind, draw_key, depth, (config.width, config.width))
        return both, jax.random.normal(x_key, (1, config.width))

    def measured(weights: Any, x: Any) -> Any:
        return diagnostics.jacobian_spectrum(network, weights, {"inputs": x}).singular_values[0]

    of_seed, found = quickly(drawn), []
    for seed in range(config.seed, config.seed + config.draws):
        # One program after another: a decomposition waits for threads that another may hold.
        both, x = jax.block_until_ready(of_seed(jax.random.key(seed)))
        found.append([np.asarray(measured(weights, x)) for weights in both])
    return xarray.DataArray(np.array(found), dims=("draw", "weights", "value"))


def network(kind: Kind, params: Any, x: Any) -> Any:
    """Logits of digits, through square layers or convolutions with the edges joined."""

    def layer(x: Any, w: Any) -> Any:
        if kind.window:  # as one product: a loop over convolutions is slow on a CPU
            moved = [jnp.roll(x, (1 - i, 1 - j), (1, 2)) for i in range(3) for j in range(3)]
            x, w = jnp.concatenate(moved, -1), w.reshape(-1, w.shape[-1])
        return kind.activation(x @ w), None

    x = x @ params["lift"] if kind.window else x.reshape(len(x), -1)
    x = jax.lax.scan(layer, x, params["hidden"])[0]
    return x.reshape(len(x), -1) @ params["head"]


def draw(kind: Kind, depth: int, key: Any) -> list[Any]:
    """The parameters of a network with both sorts of weights; the last layer is Gaussian."""
    hidden_key, head_key, lift_key = jax.random.split(key, 3)
    units = CHANNELS if kind.window else UNITS
    features = UNITS * CHANNELS if kind.window else UNITS
    ends = {"head": initializers.lecun_normal()(head_key, (features, CLASSES))}
    if kind.window:  # one channel becomes many, and keeps its norm
        ends["lift"] = initializers.orthogonal()(lift_key, (1, CHANNELS))
    both = stack(kind, hidden_key, depth, (*kind.window, units, units))
    return [{"hidden": hidden, **ends} for hidden in both]


def trained(config: Config, name: str, depth: int) -> xarray.Dataset:
    """By weights and seed: steps to the target at the best rate, or inf; the loss at the end."""
    kind, digits = TRAINED[name], data.load("digits").train
    pixels = jnp.asarray(digits.inputs[:EXAMPLES])
    standard = (pixels - pixels.mean()) / pixels.std()
    train = data.Arrays(standard, jnp.asarray(digits.targets[:EXAMPLES]))
    model = adapt(functools.partial(network, kind), init=lambda key: draw(kind, depth, key)[0])
    task = training.Task(model, losses.cross_entropy)
    turns = config.most_steps // BETWEEN

    def member(key: Any, orders: Any, drawn: Any, *, weights: Any, rate: Any) -> dict[str, Any]:
        learn = training.make_run(task, optimizers.sgd(rate / depth), batch_size=BATCH_SIZE)

        def is_on_its_way(carry: Any) -> Any:
            turn, _, loss = carry
            return (turn < turns) & (loss > TARGET)  # a NaN ends it, too

        def go_on(carry: Any) -> Any:
            turn, state, _ = carry
            state, _ = learn.epoch(state, train, orders[turn])
            return turn + 1, state, learn.evaluate(state, train)["loss"]

        own = jax.tree.map(lambda *both: jnp.stack(both)[weights], *drawn)
        start = learn.init(key, train, own)
        turn, _, loss = jax.lax.while_loop(is_on_its_way, go_on, (0, start, jnp.float32(jnp.inf)))
        return {"steps": jnp.where(loss <= TARGET, turn * BETWEEN, jnp.inf), "loss": loss}

    def orders(key: Any) -> Any:
        epochs = -(-config.most_steps * BATCH_SIZE // EXAMPLES)
        return training.orders(key, epochs, EXAMPLES).reshape(-1, BETWEEN * BATCH_SIZE)[:turns]

    def swept(weights: int, rates: Any, seeds: range) -> xarray.Dataset:
        # One member a call: it stops when it is there.
        return training.sweep(
            member, {"weights": [weights], "rate": rates}, seeds=seeds, chunk=1,
            by_seed={"orders": orders, "drawn": quickly(functools.partial(draw, kind, depth))},
        ).squeeze("weights", drop=True)  # fmt: skip

    seeds = range(config.seed, config.seed + config.seeds)
    first, found = config.seed + TUNING_SEED, []
    for weights, what in enumerate(WEIGHTS):
        rate = best(swept(weights, config.rates, range(first, first + 1)).squeeze("seed"))
        found.append(swept(weights, [rate], seeds).squeeze("rate", drop=True))
        steps, loss = found[-1]["steps"].values, found[-1]["loss"].values.round(2)
        print(f"{name}, {depth} layers, {what}: rate {rate:g}, {steps} steps, {loss}", flush=True)
    return xarray.concat(found, "weights").drop_vars("seed")


def best(tried: xarray.Dataset) -> float:
    """The rate of the fewest steps; of the least loss where none came to the target."""
    reached = bool(np.isfinite(tried["steps"]).any())
    order = tried["steps"] if reached else tried["loss"].fillna(np.inf)
    return float(tried["rate"][int(order.argmin("rate"))])


def spread(results: xarray.Dataset) -> xarray.DataArray:
    """The variance of the squared singular values over their squared mean."""
    squares = results["singular_values"].astype(np.float64) ** 2
    return squares.var("value") / squares.mean("value") ** 2


def near(depth: int, width: int) -> tuple[float, float]:
    """The band about 1 in which a law of infinite width holds: a relative 2 depth / width.

    A layer of Gaussian weights adds 1 / width to the second moment of s^2, relative to itself.
    """
    return 1 / (1 + 2 * depth / width), 1 + 2 * depth / width


def claims(results: xarray.Dataset) -> list[Claim]:
    """The spread of singular values by depth, and what it costs in steps."""
    values, depth = results["singular_values"].astype(np.float64), int(results["depth"][-1])
    width, spreads = results.sizes["value"], spread(results)
    law = diagnostics.gaussian_product_singular_values(depth, width)[0]
    draws = f"geometric mean of {results.sizes['draw']} draws"
    seeds = f"geometric mean of {results.sizes['seed']} seeds"
    deep, shallow = (int(results["layers"][place]) for place in (-1, 0))
    growth = results["steps"].sel(layers=deep) / results["steps"].sel(layers=shallow)
    unequal = {
        kind: spreads.sel(kind=kind, depth=depth, weights="Gaussian")
        / spreads.sel(kind=kind, depth=depth, weights="orthogonal")
        for kind in ("ReLU", "tanh")
    }
    gaussian = {"kind": "linear", "weights": "Gaussian"}
    convolved = results["loss"].sel(trained="tanh convolutions", layers=deep)
    return [
        Claim(
            "Orthogonal layers without an activation stretch no direction: the largest |s - 1| of "
            f"all singular values, up to {depth} layers",
            float(np.abs(values.sel(kind="linear", weights="orthogonal") - 1).max()),
            0.0,
            depth * width * 2.0**-23,  # a QR and a product of `width` terms a layer, in float32
        ),
        about_means(
            "Gaussian layers stretch more unequally with each layer: the variance of s^2 over its "
            "squared mean, over the law's, which is the depth; the depth farthest from 1, mean of "
            f"{results.sizes['draw']} draws",
            (spreads.sel(gaussian) / results["theory"].sel(gaussian)).transpose("draw", "depth"),
            *near(depth, width),
        ),
        about_ratios(
            "The most stretched direction of Gaussian layers is known, too: the largest singular "
            f"value of {depth} layers over the law's {law:.3g}, {draws}",
            values.sel(gaussian).sel(depth=depth).max("value") / law,
            *near(depth, width),
        ),
        about_ratios(
            f"For ReLU orthogonal weights help little: the spread of {depth} layers, Gaussian over "
            f"orthogonal (theory 2), {draws}",
            unequal["ReLU"],
            1.5,
            3.0,
        ),
        about_ratios(
            f"For tanh they help much: the spread of {depth} layers, Gaussian over orthogonal, "
            f"{draws}",
            unequal["tanh"],
            3.0,
        ),
        *(
            about_ratios(
                "With orthogonal weights the steps to train grow at most as the root of the depth: "
                f"{kind}, steps of {deep} layers over those of {shallow}, {seeds}",
                growth.sel(trained=kind, weights="orthogonal"),
                0.0,
                (deep / shallow) ** 0.5,  # far less than the depth grows
            )
            for kind in ("linear", "tanh")
        ),
        about_mean(
            "Deep delta-orthogonal convolutions train: the training loss at the end, nats (a guess "
            f"has {np.log(CLASSES):.2f}), {deep} layers, mean of {results.sizes['seed']} seeds",
            convolved.sel(weights="orthogonal"),
            0.0,
            1.0,
        ),
        about_mean(
            "Gaussian convolutions as deep do not: the training loss at the end, nats, "
            f"{deep} layers, mean of {results.sizes['seed']} seeds",
            convolved.sel(weights="Gaussian"),
            1.5,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Sorted singular values, their spread by depth, and training by depth."""
    figure = new_figure(12, 8.5)
    panels = figure.subplots(2, 2)
    draw_values(panels[0, 0], results)
    draw_spread(panels[0, 1], results)
    draw_training(panels[1, 0], results, "steps", f"Steps to a training loss of {TARGET} nats")
    draw_training(panels[1, 1], results, "loss", "Training loss at the end (nats)")
    panels[1, 1].axhline(np.log(CLASSES), color="0.5", lw=1, ls=":")
    panels[1, 1].set_ylim(0, 1.3 * np.log(CLASSES))
    for axes, name in ((panels[0, 1], "depth"), *((each, "layers") for each in panels[1])):
        axes.set(xscale="log", xlabel="layers", xticks=results[name].values)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(lw=0.3)
    return figure


def draw_values(axes: Any, results: xarray.Dataset) -> None:
    """Singular values of the deepest networks from the largest down."""
    logs = xarray.apply_ufunc(
        np.log, results["singular_values"].isel(depth=-1).astype(np.float64).clip(FLOOR)
    )
    depth, width = int(results["depth"][-1]), results.sizes["value"]
    share = (np.arange(width) + 0.5) / width
    for name, kind in KINDS.items():
        for weights, dash in zip(WEIGHTS, ("--", "-"), strict=True):
            mean = np.exp(logs.sel(kind=name, weights=weights).mean("draw").values)
            shown = np.where(mean > 2 * FLOOR, mean, np.nan)
            axes.plot(share, shown, kind.style[:2] + dash, lw=1.8, label=f"{name}, {weights}")
    law = diagnostics.gaussian_product_singular_values(depth, width)
    axes.plot(share, law, "k:", lw=1.2, label="law of Gaussian products")
    axes.set(
        yscale="log", ylim=(FLOOR, None), xlabel="share of the values that are larger",
        ylabel="singular value", title=f"Jacobian of {depth} layers of {width} units",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="upper right")


def draw_spread(axes: Any, results: xarray.Dataset) -> None:
    """The spread by depth, beside that of wide layers."""
    measured, theory = spread(results).mean("draw"), results["theory"]
    for name, kind in KINDS.items():
        for weights, dash in zip(WEIGHTS, ("--", "-"), strict=True):
            one = {"kind": name, "weights": weights}
            if float(measured.sel(one).max()) < SMALLEST_SPREAD:
                axes.plot([], [], kind.style + dash, label=f"{name}, {weights}: below 1e-3")
                continue
            label = f"{name}, {weights}"
            axes.plot(results["depth"], measured.sel(one), kind.style + dash, ms=5, label=label)
            axes.plot(results["depth"], theory.sel(one), "k-", lw=0.7)
    axes.plot([], [], "k-", lw=0.7, label="theory, wide layers")
    axes.set(
        yscale="log", ylabel="Var(s$^2$) / mean(s$^2$)$^2$",
        title="How unequally the directions are stretched",
    )  # fmt: skip
    axes.legend(fontsize=8)


def draw_training(axes: Any, results: xarray.Dataset, what: str, title: str) -> None:
    """Median over seeds, and each seed; runs that were given up have no steps."""
    for name, kind in TRAINED.items():
        for weights, dash in zip(WEIGHTS, ("--", "-"), strict=True):
            runs = results[what].sel(trained=name, weights=weights).transpose("layers", "seed")
            finite = runs.where(np.isfinite(runs))
            median = finite.median("seed", skipna=False)
            axes.plot(
                results["layers"], median, kind.style + dash, ms=5, label=f"{name}, {weights}"
            )
            axes.plot(results["layers"], finite, kind.style[:2] + ".", ms=3)
    axes.set(title=title, ylabel=what, yscale="log" if what == "steps" else "linear")
    axes.legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
