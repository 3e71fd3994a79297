"""Every initialiser of the library in one network, and what training makes of its weights.

[784, 200, 10] on MNIST digits, ReLU, gradient descent at rate 0.1, batches of 50, 10 epochs, zero
biases (PyTorch's own with its kernel). Seed k fixes the order of the data and the weights, the
same order for every initialiser. `dirac` is for convolutions alone; `zero_hadamard` is `identity`
where no layer widens.
Source: He et al. (2015) and Glorot and Bengio (2010) for the variances; the lecture's network.
Run: python experiments/initialization/initializer_comparison.py
Expected: test accuracy 91 to 92 % from every start of variance about 1/fan (He, Glorot, LeCun,
orthogonal, LSUV), 90 % from the identities, 86 % from N(0, 1); zeros never leave chance.
Time: 35 s on 2 CPU cores.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, Results, about_means, as_before, interval, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

SAMPLE = np.zeros((1, 28, 28, 1), np.float32)
BATCH_SIZE = 50
FEATURES = [200, 10]
OPTIMIZER = optimizers.sgd(0.1)
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
    "normal(0, 0.01)": initializers.normal(0.0, 0.01),
    "truncated_normal(0, 0.05)": initializers.truncated_normal(0.0, 0.05),
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
    "identity": (89.80, 0.52),
    "zero_hadamard": (89.80, 0.52),
    "normal(0, 1)": (85.73, 0.80),
    "normal(0, 0.01)": (90.45, 0.74),
    "truncated_normal(0, 0.05)": (91.25, 0.56),
    "uniform(-0.05, 0.05)": (90.94, 0.50),
    "sparse(0.9, 0.1)": (91.07, 0.53),
    "torch_kernel": (91.00, 0.56),
    "orthogonal": (91.52, 0.52),
    "lecun_normal": (91.47, 0.59),
    "lecun_uniform": (91.56, 0.53),
    "glorot_normal": (91.86, 0.56),
    "glorot_uniform": (92.00, 0.48),
    "variance_scaling(2), cut": (92.00, 0.49),
    "he_normal": (91.91, 0.50),
    "he_uniform": (92.05, 0.50),
    LSUV: (91.81, 0.42),
}
"""Test accuracy on mnist_5k in percent, its deviation: seeds 1000 to 1019, after 10 epochs.

Where all units start alike, rounding alone tells them apart, and no number is to be expected.
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


def run(config: Config) -> Results:
    """By initialiser and seed: test accuracy in percent, layer 2's kernel before and after."""
    digits = data.split(
        data.load(config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir),
        key=jax.random.key(0),
    )
    assert digits.test is not None
    print(digits)
    train, test = (
        {"inputs": jnp.asarray(part.inputs), "targets": jnp.asarray(part.targets)}
        for part in (digits.train, digits.test)
    )
    keys = jax.vmap(jax.random.key)(config.seed + jnp.arange(config.seeds))
    order = jnp.stack([batches(key, config.epochs, len(digits.train)) for key in keys])

    model = models.MLP(FEATURES)
    train_step = training.make_train_step(model, OPTIMIZER, losses.cross_entropy)
    eval_step = training.make_eval_step(model, losses.cross_entropy, [metrics.accuracy])
    # Weights differ between initialisers, the program does not: one compilation for them all.
    train_all = jax.jit(jax.vmap(training.make_train_epoch(train_step), in_axes=(0, None, 0)))
    test_all = jax.jit(jax.vmap(eval_step, in_axes=(0, None)))

    accuracy, before, after, first_layer = [], [], [], []
    for name in NAMES:
        start = initial_states(name, keys, training.scale_images(train["inputs"][:500]))
        end, _ = train_all(start, train, order)
        sums = test_all(end.variables, test)
        accuracy.append(100 * np.asarray(sums["accuracy"]) / len(digits.test))
        before.append(start.params["dense_1"]["kernel"])
        after.append(end.params["dense_1"]["kernel"])
        first_layer.append(jnp.abs(end.params["dense_0"]["kernel"]).max((1, 2)))
        mean, half_width = interval(accuracy[-1])
        print(f"{name:26} test accuracy {mean:6.2f} +- {half_width:.2f} %", flush=True)
    return {
        "names": np.array(NAMES),
        "dataset": np.array(config.dataset),
        "epochs": np.array(config.epochs),
        "accuracy": np.stack(accuracy),
        "layer_2_before": np.stack(before),
        "layer_2_after": np.stack(after),
        "layer_1_largest": np.stack(first_layer),
        "class_shares": 100 * np.bincount(digits.test.targets, minlength=10) / len(digits.test),
    }


def batches(key: Key[Array, ""], epochs: int, examples: int) -> np.ndarray:
    """The examples of every step of a run, (steps, batch); an epoch's incomplete batch is left."""
    full = examples // BATCH_SIZE * BATCH_SIZE
    orders = [training.epoch_order(key, epoch, examples)[:full] for epoch in range(epochs)]
    return np.concatenate(orders).reshape(-1, BATCH_SIZE)


def initial_states(name: str, keys: Key[Array, " seeds"], images: Array) -> training.TrainState:
    """The states before the first step, one a seed."""
    kernel_init = KERNELS["orthogonal" if name == LSUV else name]
    bias_init: Any = initializers.torch_bias if name == "torch_kernel" else initializers.zeros()
    model = models.MLP(FEATURES, kernel_init=kernel_init, bias_init=bias_init)
    states: training.TrainState = jax.jit(
        jax.vmap(lambda key: training.init_state(key, model, OPTIMIZER, SAMPLE)),
        compiler_options=init_options(),
    )(keys)
    if name != LSUV:
        return states

    def rescale(seed: int) -> Any:
        variables = jax.tree.map(lambda leaf: leaf[seed], states.variables)
        return initializers.lsuv(model, variables, images)["params"]

    rescaled = [rescale(seed) for seed in range(len(keys))]
    return replace(states, params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *rescaled))


def claims(results: Results) -> list[Claim]:
    """He and Glorot ahead of N(0, 1) and of zeros; the accuracy that each initialiser reaches."""
    accuracy = dict(zip(results["names"].tolist(), results["accuracy"], strict=True))
    seeds = results["accuracy"].shape[1]
    made = []
    for family, members in VARIANCE_SCALED.items():
        for other in ("normal(0, 1)", "zeros"):
            leads = np.stack([accuracy[member] - accuracy[other] for member in members], axis=1)
            made.append(
                about_means(
                    f"{family} learns more than {other}: points of test accuracy ahead, the lesser "
                    f"of normal and uniform; mean of {seeds} seeds",
                    leads,
                    low=0.0,
                )
            )
    zeros = results["names"].tolist().index("zeros")
    moved = max(
        results["layer_1_largest"][zeros].max(), np.abs(results["layer_2_after"][zeros]).max()
    )
    made.append(
        Claim(
            "From zeros no weight ever moves, for each gradient has a factor 0: the largest weight "
            "after training",
            moved,
            0.0,
            0.0,
        )
    )
    if results["dataset"] != "mnist_5k" or results["epochs"] != EXPECTED_EPOCHS:
        return made
    for name, (mean, deviation) in EXPECTED.items():
        made.append(
            as_before(
                f"{name} learns as much as before: test accuracy, % ({EXPECTED_OVER} earlier "
                f"seeds: {mean:.2f}); mean of {seeds} seeds",
                accuracy[name],
                mean,
                deviation,
                over=EXPECTED_OVER,
                comparisons=len(EXPECTED),
            )
        )
    return made


def plot(results: Results) -> Any:
    """Test error with its interval, best first; layer 2's weights before and after training."""
    mean, half_width = interval(results["accuracy"], axis=1)
    ranked = np.argsort(-mean)
    figure = new_figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45])

    axes = left.subplots()
    rows = np.arange(len(ranked))
    errors = 100 - results["accuracy"][ranked]
    axes.plot(errors, rows[:, None], ".", color="0.65", ms=5)
    axes.errorbar(100 - mean[ranked], rows, xerr=half_width[ranked], fmt="ko", ms=4, capsize=3)
    axes.axvline(90, color="k", lw=0.8, ls="--")
    axes.text(88, 0, "chance", rotation=90, ha="right", va="top")
    ticks = [tick for tick in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100) if tick > errors.min()]
    axes.set(
        xscale="log",
        xlabel="test error (%)",
        yticks=rows,
        yticklabels=results["names"][ranked],
        title=f"After {results['epochs']} epochs: mean, 95 % interval, {errors.shape[1]} seeds",
    )
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", lw=0.3)
    axes.invert_yaxis()

    right.suptitle("Weights of layer 2: line, at the start; grey, after training")
    panels = right.subplots(7, 3).ravel()
    for panel, index in zip(panels, ranked, strict=True):
        before, after = results["layer_2_before"][index], results["layer_2_after"][index]
        low, high = np.quantile(np.concatenate([before.ravel(), after.ravel()]), [0.001, 0.999])
        margin = max(0.05 * (high - low), 1e-3)
        edges = np.linspace(low - margin, high + margin, 60)
        panel.hist(after.ravel(), edges, density=True, color="0.7")
        panel.hist(before.ravel(), edges, density=True, histtype="step", color="k", lw=0.8)
        panel.set_title(results["names"][index], fontsize=8, pad=2)
        panel.tick_params(labelsize=7, pad=1, length=2)
        panel.set_yticks([])
        panel.locator_params(axis="x", nbins=4)
    right.supxlabel("weight", fontsize=9)
    right.supylabel("density, each panel its own scale", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
