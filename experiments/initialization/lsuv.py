"""Layer-sequential unit variance, on a network that no formula covers.

A convolution with a sine, a residual convolution with a softplus, pooling, a Maxout layer and a
squared tanh: there is no table with their gains. LSUV runs one batch through, layer by layer, and
rescales each kernel until its output has variance 1. Then both starts, PyTorch's default and the
same kernels rescaled, train on MNIST digits with Adam at 1e-3. (Under gradient descent the two
want different rates: at 0.01 LSUV trains and the default stands still, at 0.2 LSUV diverges.)

Source: Mishkin and Matas (2016), algorithm 1.
Run: python experiments/initialization/lsuv.py
Expected: before, the layers' variances differ by a factor of 70; after one rescaling a layer, for
the biases are zero, each is 1; the first epoch ends some 20 points of accuracy higher.
Time: 25 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdl import data, diagnostics, initializers, losses, metrics, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, main
from jaxdl.compiling import init_options
from jaxdl.layers import Maxout
from jaxdl.plotting import new_figure

TOLERANCE, MAX_RESCALINGS = 0.05, 10
KERNEL = initializers.torch_kernel()
STARTS = {"default": "PyTorch's default", "lsuv": "after LSUV"}
STYLES = {"default": "C3s--", "lsuv": "C0o-"}


class Odd(nn.Module):
    """The network: every layer has an activation of its own."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 1"], *, train: bool
    ) -> Float[Array, "batch 10"]:
        """Logits of the ten digits."""
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = jnp.sin(nn.Conv(8, (3, 3), kernel_init=KERNEL, name="conv_sine")(x))
        x = x + nn.softplus(nn.Conv(8, (3, 3), kernel_init=KERNEL, name="conv_residual")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(len(x), -1)
        x = Maxout(64, pieces=3, kernel_init=KERNEL, name="maxout")(x)
        x = jnp.square(jnp.tanh(nn.Dense(64, kernel_init=KERNEL, name="dense_square")(x)))
        return nn.Dense(10, kernel_init=KERNEL, name="outputs")(x)


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Networks; at least 3."""
    epochs: int = 3
    """Passes over the training split, from either start."""


PRESETS = {"default": Config(), "smoke": Config(seeds=3, epochs=1), "full": Config(seeds=20)}


def run(config: Config) -> Results:
    """By seed: variances of the layers before and after, rescalings, validation accuracy."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    model, optimizer = Odd(), optimizers.adam(1e-3)
    batch = {"inputs": digits.train.inputs[:500], "targets": digits.train.targets[:500]}
    inputs = training.scale_images(jnp.asarray(batch["inputs"]))
    # Random numbers take long to compile: in one program, without optimisation.
    initial = jax.jit(
        lambda key: training.init_state(key, model, optimizer, inputs[:1]),
        compiler_options=init_options(),
    )
    gathered: dict[str, list[Any]] = {"rescalings": []}
    for name in STARTS:
        gathered |= {f"{name}_variance": [], f"{name}_accuracy": []}
    names: tuple[str, ...] = ()
    for seed in range(config.seed, config.seed + config.seeds):
        key = jax.random.key(seed)
        start = initial(key)
        scaled, rescalings = fewest_rescalings(model, start.variables, inputs)
        gathered["rescalings"].append(rescalings)
        for name, params in (("default", start.params), ("lsuv", scaled["params"])):
            state = replace(start, params=params, opt_state=optimizer.init(params))
            measured = diagnostics.propagation(
                model, state.variables, batch, loss=losses.cross_entropy
            )
            rows = np.array(measured.has_weights)
            names = tuple(np.array(measured.names)[rows].tolist())
            gathered[f"{name}_variance"].append(measured.variance[rows])
            result = training.fit(
                model,
                digits,
                optimizer,
                loss=losses.cross_entropy,
                metrics=[metrics.accuracy],
                epochs=config.epochs,
                batch_size=50,
                key=key,
                state=state,
            )
            gathered[f"{name}_accuracy"].append(100 * result.history.validation["accuracy"])
    return {"names": np.array(names), **{k: np.stack(v) for k, v in gathered.items()}}


def fewest_rescalings(
    model: nn.Module, variables: Any, inputs: Array
) -> tuple[dict[str, Any], int]:
    """LSUV's variables, and the least limit of rescalings a layer with which it succeeds."""
    for limit in range(1, MAX_RESCALINGS + 1):
        try:
            scaled = initializers.lsuv(
                model, variables, inputs, tolerance=TOLERANCE, max_iterations=limit
            )
            return scaled, limit
        except ValueError as error:
            reason = error
    raise reason


def claims(results: Results) -> list[Claim]:
    """Unit variance in every layer, in few passes, and what it is good for."""
    seeds = len(results["rescalings"])
    before, after = results["default_variance"], results["lsuv_variance"]
    return [
        about_mean(
            "Before, the layers' variances differ by more than a factor of ten: powers of ten "
            f"between the largest and the least of a network; mean of {seeds} seeds",
            np.log10(before.max(1) / before.min(1)),
            low=1.0,
        ),
        Claim(
            "LSUV brings every layer to variance 1: the farthest that one is from it, of "
            f"{seeds} seeds and {after.shape[1]} layers",
            np.abs(after - 1).max(),
            0.0,
            TOLERANCE * (1 + 1e-3),
        ),
        Claim(
            f"Few passes do: rescalings that a layer needs at most; most of {seeds} seeds",
            results["rescalings"].max(),
            1,
            3,
        ),
        about_mean(
            "From LSUV's start the network learns faster: points of validation accuracy that it is "
            f"ahead after one epoch; mean of {seeds} seeds",
            results["lsuv_accuracy"][:, 0] - results["default_accuracy"][:, 0],
            low=0.0,
        ),
    ]


def plot(results: Results) -> Any:
    """The variance of each layer before and after; accuracy by epoch from either start."""
    figure = new_figure(11, 4.5)
    variance, accuracy = figure.subplots(1, 2, width_ratios=[1.3, 1])
    layers = np.arange(len(results["names"]))
    for name, style in STYLES.items():
        values = results[f"{name}_variance"]
        variance.plot(layers, values.T, style[:2] + style[2], alpha=0.4, ms=4)
        variance.plot(layers, np.median(values, 0), style, label=STARTS[name])
        values = results[f"{name}_accuracy"]
        epochs = np.arange(1, values.shape[1] + 1)
        accuracy.plot(epochs, values.mean(0), style, label=STARTS[name])
        accuracy.fill_between(
            epochs, values.min(0), values.max(0), color=style[:2], alpha=0.25, lw=0
        )
    variance.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.85", label="within 5 % of 1")
    variance.set(
        yscale="log",
        xticks=layers,
        ylabel="variance of the layer's output",
        title="At initialisation: seeds, and their median",
    )
    variance.set_xticklabels(results["names"], rotation=20)
    variance.legend()
    accuracy.set(
        xlabel="epoch",
        xticks=epochs,
        ylabel="validation accuracy (%)",
        title=f"Training: mean and range of {len(values)} seeds",
    )
    accuracy.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
