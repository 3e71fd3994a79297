"""Backpropagation by hand: every layer with its derivatives written out, against JAX's.

A layer y = f(x; W) is four pure functions (`jaxdl.backpropagation`): forward; the derivatives by
input and by parameters, which take delta = dL/dy to dL/dx and dL/dW; and the push, which takes a
change of x to that of y. A network is a list of layers: deltas go backward through it (a
vector-Jacobian product), changes forward (a Jacobian-vector product). All in float64. The network
in the figure is that of Boston housing, 2-4-3-1 with ReLU, untrained, for one house.

Meaning: The table follows one house through a small network, values forward and derivatives
backward; the panels below show how far the derivatives written by hand are from JAX's, and what
each kind of product costs. Backpropagation is the chain rule, one layer at a time, and it gives the
derivatives by all parameters for the price of about three forward passes, however many outputs
there are.

Data: boston_housing, 506 examples, of which the table follows one (Harrison and Rubinfeld (1978),
from the package mlxtend); the layers are compared on standard normal numbers.
Source: the lecture on backpropagation, the modular approach; Griewank and Walther (2008),
Evaluating Derivatives, section 4.6, for the cost.
Run: python experiments/first_network/autodiff_by_hand.py
Expected: each derivative equals JAX's to rounding. A vector-Jacobian product, the gradient by all
parameters, costs three forward passes for any number of outputs; the Jacobian one for each output.
Time: 10 s on 2 CPU cores.
"""

import functools
import itertools
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import backpropagation, data, initializers, losses, models, training
from jaxdl.activations import relu, sigmoid, softmax, softplus, tanh
from jaxdl.backpropagation import LINEAR, elementwise, mean_loss
from jaxdl.claims import Claim, main
from jaxdl.jaxprs import operations
from jaxdl.plotting import new_figure

EXAMPLES, UNITS, OUTPUTS = 5, 4, (1, 4, 16, 64, 256)
"""Of random layers; the last, K, of networks of 64-64-64-K units whose operations are counted."""
PRODUCTS, DERIVATIVES = ["push", "pull", "Jacobian"], ["value", "by input", "by parameters", "push"]
ROUNDING, AT_MOST = 1e-12, 4
"""Relative to the largest entry; the passes that a gradient costs, after Griewank and Walther."""
COLUMNS, WIDTHS = (5, 12), (4, 3, 1)
"""Rooms a dwelling and the share of lower-status people, as in boston_housing."""
PLACES = {
    r"inputs $x$": r"$W_1 \delta_1$",
    r"$z_1 = W_1^\top x + b_1$": r"$\delta_1 = f'(z_1) \circ W_2 \delta_2$",
    r"$a_1 = f(z_1)$": r"$W_2 \delta_2$",
    r"$z_2 = W_2^\top a_1 + b_2$": r"$\delta_2 = f'(z_2) \circ W_3 \delta_3$",
    r"$a_2 = f(z_2)$": r"$W_3 \delta_3$",
    r"$y = W_3^\top a_2 + b_3$": r"$\delta_3 = 2 (y - t)$",
}
"""The values on the way through the network, and the formula of the loss's derivative by each."""


def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + jnp.exp(-x))


def dense(params: Any, x: Any) -> Any:
    """The library's linear layer."""
    return models.MLP([len(params["bias"])]).apply({"params": {"dense_0": params}}, x, train=False)


def of_input(f: Any) -> Any:
    """A function of the input alone, as one of (params, x)."""
    return lambda _, x: f(x)


def mean_of(loss: Any) -> Any:
    """The mean of a loss, as a function of (targets, x)."""
    return lambda target, x: jnp.mean(loss(x, target))


SOFTMAX = backpropagation.softmax_layer()
shares = functools.partial(SOFTMAX.forward, {})
RELU = elementwise(lambda x: jnp.maximum(x, 0), lambda x: x > 0)
SQUARED_ERROR = mean_loss(
    lambda y, t: ((y - t) ** 2).mean(-1), lambda y, t: 2 * (y - t) / y.shape[-1]
)
CATALOGUE = {
    "linear": (LINEAR, dense),
    "sigmoid": (elementwise(logistic, lambda x: logistic(x) * logistic(-x)), of_input(sigmoid)),
    "tanh": (elementwise(jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2), of_input(tanh)),
    "ReLU": (RELU, of_input(relu)),
    "softplus": (elementwise(lambda x: jnp.log1p(jnp.exp(x)), logistic), of_input(softplus)),
    "softmax": (SOFTMAX, of_input(softmax)),
    "squared error": (SQUARED_ERROR, mean_of(losses.mean_squared_error)),
    "softmax and cross-entropy": (
        mean_loss(lambda y, t: -(t * jnp.log(shares(y))).sum(-1), lambda y, t: shares(y) - t),
        mean_of(losses.cross_entropy),
    ),
    "sigmoid and cross-entropy": (
        mean_loss(
            lambda y, t: -(t * jnp.log(logistic(y)) + (1 - t) * jnp.log(logistic(-y))).mean(-1),
            lambda y, t: (logistic(y) - t) / y.shape[-1],
        ),
        mean_of(losses.binary_cross_entropy),
    ),
}  # fmt: skip
"""A layer with its derivatives by hand, and the library's, which JAX differentiates."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """Of the random layers; the first of the network on Boston housing."""
    draws: int = 100
    """Random inputs, parameters and deltas of each layer; at least 1."""


PRESETS = {"default": Config(), "smoke": Config(draws=3), "full": Config(draws=1000)}


def run(config: Config) -> xarray.Dataset:
    """How far each derivative is from JAX's; the operations counted; the deltas of one house."""
    if config.draws < 1:
        raise ValueError(f"draws must be at least 1, got {config.draws}; pass 1 or more")
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(config.seed), config.draws)
        apart = jax.jit(lambda keys: jax.vmap(differences)(keys).max(0))(keys)
        counted = [[passes(name, outputs) for outputs in OUTPUTS] for name in PRODUCTS]
        found = {
            "apart": (("layer", "derivative"), np.asarray(apart)),
            "passes": (("product", "outputs"), np.array(counted)),
            **one_house(config.seed),
        }
    named = {"layer": [*CATALOGUE], "derivative": DERIVATIVES}
    return xarray.Dataset(found, {**named, "product": PRODUCTS, "outputs": [*OUTPUTS]})


def differences(key: Any) -> Any:
    """By layer: value, both derivatives and the push, farthest from JAX's, relative."""
    x, change, delta, target, kernel = jax.random.normal(key, (5, EXAMPLES, UNITS), float)
    found = []
    for name, (layer, reference) in CATALOGUE.items():
        linear = {"kernel": kernel[:UNITS], "bias": target[0]}
        params: Any = linear if name == "linear" else shares(target)
        value, pull = jax.vjp(reference, params, x)
        delta_y = delta if value.ndim else delta[0, 0]
        by_params, by_input = pull(delta_y)
        still = jax.tree.map(jnp.zeros_like, params)
        _, pushed = jax.jvp(reference, (params, x), (still, change))
        pairs = [
            (layer.forward(params, x), value),
            (layer.by_input(params, x, delta_y), by_input),
            (layer.by_params(params, x, delta_y) or 0.0, by_params if name == "linear" else 0.0),
            (layer.push(params, x, change), pushed),
        ]
        found.append(jnp.stack([relative(*pair) for pair in pairs]))
    return jnp.stack(found)


def relative(tree: Any, expected: Any) -> Any:
    """The largest difference of two arrays over the largest entry; of all arrays of two trees."""

    def apart(made: Any, true: Any) -> Any:
        largest = jnp.abs(true).max()
        return jnp.abs(made - true).max() / jnp.where(largest > 0, largest, 1)

    return jnp.stack(jax.tree.leaves(jax.tree.map(apart, tree, expected))).max()


def passes(product: str, outputs: int) -> float:
    """The operations of a product with the Jacobian of 64-64-64-K units, in forward passes."""
    x, delta, widths = jnp.ones((1, 64)), jnp.ones((1, outputs)), (64, 64, outputs)
    params = {
        f"dense_{place}": {"kernel": jnp.ones((64, width)), "bias": jnp.ones(width)}
        for place, width in enumerate(widths)
    }
    network = backpropagation.mlp(params, RELU)
    values_of = functools.partial(backpropagation.forward, network)
    function = {
        "push": lambda x: backpropagation.push(network, x, x),
        "pull": lambda x: backpropagation.backward(network, values_of(x), delta),
        "Jacobian": lambda x: backpropagation.jacobian(network, x),
    }[product]
    made, once = (operations(jax.make_jaxpr(f)(x).jaxpr) for f in (function, values_of))
    return made / once


def one_house(seed: int) -> dict[str, Any]:
    """Values and deltas in the network of Boston housing, and how far they are from JAX's."""
    boston = data.load("boston_housing")
    train = data.Arrays(boston.train.inputs[:, COLUMNS], boston.train.targets)
    train = data.standardize(data.Dataset(boston.name, train, None, None))[0].train
    x, price = (jnp.asarray(part[:1], float) for part in (train.inputs, train.targets))
    model = models.MLP(
        WIDTHS, kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    task = training.Task(model, losses.mean_squared_error)
    draw = training.first_weights(task, train)

    @jax.jit
    def measured(params: Any, x: Any) -> Any:
        def goal(params: Any, x: Any) -> Any:
            return task.loss(task.outputs({"params": params}, x, train=False)[0], price)[0]

        network = [*backpropagation.mlp(params, RELU), (SQUARED_ERROR, price)]
        values = backpropagation.forward(network, x)
        deltas, gradients = backpropagation.backward(network, values, jnp.ones(()))
        mine = {f"dense_{layer}": gradients[2 * layer] for layer in range(len(WIDTHS))}
        pushed = backpropagation.push(network, x, jnp.ones_like(x))
        theirs = jax.jvp(functools.partial(goal, params), (x,), (jnp.ones_like(x),))[1]
        expected = (*jax.grad(goal, (0, 1))(params, x), theirs)
        return values, deltas, relative((mine, deltas[0], pushed), expected)

    for trial in itertools.count(seed):  # the first network that is not dead for this house
        first = jax.tree.map(lambda leaf: leaf.astype(float), draw(jax.random.key(trial)))
        *signal, apart = measured(first, x)
        if np.any(signal[1][0]):
            break
    padded = np.full((2, len(PLACES), max(WIDTHS)), np.nan)
    for kind, place in np.ndindex(2, len(PLACES)):
        row = signal[kind][place][0]
        padded[kind, place, : len(row)] = row
    return {
        "house": (("direction", "place", "unit"), padded),
        "house_apart": float(apart),
        "house_price": float(price[0, 0]),
    }


def claims(results: xarray.Dataset) -> list[Claim]:
    """The derivatives are JAX's; what products with the Jacobian cost."""
    counted, outputs = results["passes"], results["outputs"]
    return [
        Claim(
            f"The derivatives written by hand are JAX's: {results.sizes['layer']} layers, "
            "values, both derivatives and pushes, largest relative difference in float64",
            results["apart"].max(), 0, ROUNDING,
        ),
        Claim(
            "Chained, the derivatives of layers are those of a whole network: Boston housing, "
            "gradients by every parameter and input, and a push, largest relative difference "
            "from JAX's",
            results["house_apart"], 0, ROUNDING,
        ),
        Claim(
            f"Backpropagation is as cheap with {OUTPUTS[-1]} outputs as with one: a "
            "vector-Jacobian product by inputs and parameters, operations in forward passes, the "
            "most",
            counted.sel(product="pull").max(), 1, AT_MOST,
        ),
        Claim(
            "The whole Jacobian costs a pass for each output: its operations in forward passes "
            "over the number of outputs, the least",
            (counted.sel(product="Jacobian") / outputs).min(), 1, np.inf,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """Values and deltas of one house; the distance from JAX; the cost by outputs."""
    figure = new_figure(13, 8)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1.1])
    table, apart, cost = (figure.add_subplot(at) for at in (grid[0, :], grid[1, 0], grid[1, 1]))
    signal = [[shown(row) for row in direction] for direction in results["house"].values]
    rows = list(zip(PLACES, signal[0], PLACES.values(), signal[1], strict=True))
    cells = table.table(
        rows, colLabels=["", "forward: value", "formula of dL by it", "backward: dL by it"],
        loc="center", colWidths=[0.18, 0.28, 0.26, 0.28], cellLoc="left",
    )  # fmt: skip
    cells.auto_set_font_size(False)
    cells.scale(1, 1.7)
    table.set_axis_off()
    title = f"A house of t = {float(results['house_price']):g} (1000 dollars), loss (y - t)$^2$"
    table.set(title=title)
    places, floor = np.arange(len(CATALOGUE)), np.finfo(float).eps / 4
    for kind, marker in zip(DERIVATIVES, "os^D", strict=True):
        shift = np.maximum(results["apart"].sel(derivative=kind), floor)
        shift = shift[: 1 if kind == "by parameters" else None]  # the linear layer alone has some
        apart.plot(shift, places[: len(shift)], marker, label=kind, fillstyle="none", ms=7)
    apart.axvline(ROUNDING, color="k", ls="--", lw=1, label="claimed")
    apart.set(
        xscale="log", yticks=places, yticklabels=results["layer"].values, xlim=(floor / 2, 1e-7),
        xlabel="largest relative difference from JAX (left edge: none)",
        title="By hand against jax.vjp and jax.jvp, float64", ylim=(len(places) - 0.5, -0.5),
    )  # fmt: skip
    apart.legend(loc="center right", fontsize=9)
    labels = "Jacobian-vector: forward", "vector-Jacobian: backward, all gradients", "Jacobian"
    for product, style, label in zip(PRODUCTS, ("C2-^", "C0-s", "C3-o"), labels, strict=True):
        cost.plot(OUTPUTS, results["passes"].sel(product=product), style, label=label)
    cost.plot(OUTPUTS, OUTPUTS, "k:", lw=1, label="one pass an output")
    cost.axhline(AT_MOST, color="k", ls="--", lw=1, label=f"{AT_MOST} passes")
    cost.set(
        xscale="log", yscale="log", xlabel="outputs K of 64-64-64-K",
        ylabel="operations, in forward passes", title="What a product with the Jacobian costs",
    )  # fmt: skip
    cost.legend(fontsize=9)
    return figure


def shown(row: np.ndarray) -> str:
    """The numbers of the units that there are."""
    return "  ".join(f"{unit + 0:.3g}" for unit in row[np.isfinite(row)])


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
