"""Batch norms folded into the layers before them: the same outputs, to rounding.

In evaluation a BatchNorm is an affine map of each feature, and so a part of the dense layer or the
convolution before it: the folded network has no norms, and fewer operations. A dense network and a
small ConvNet are trained for some steps on digits, folded, and evaluated both ways. The difference
is held against what roundings of float32 can make of it, by the number of products in each sum.

Source: Jacob et al. (2018), eq. 14; Higham and Mary (2019), theorem 2.4, for the bound.
Run: python experiments/normalization/batchnorm_folding.py
Expected: outputs of size 10 differ by some 10^-6, and no output by more than its bound; weights
changed by a thousandth, by far more.
Time: 20 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, main
from jaxdl.plotting import new_figure

NETWORKS = {
    "mlp": models.MLP((128, 128, 10), norm=layers.BatchNorm),
    "convnet": models.ConvNet((8, 16), (32, 10), norm=layers.BatchNorm),
}
LABELS = {"mlp": "dense network", "convnet": "ConvNet"}
BATCH_SIZE, RATE = 32, 0.1
WRONG = 1e-3
"""The relative change of the weights that the bound must be able to tell from rounding."""
ROUNDING = 2.0**-24
"""The unit roundoff of float32."""
CONFIDENCE = 7.0
"""A sum of products exceeds its bound by chance with probability 2 exp(-7^2 / 2), 5e-11."""
FLOOR = 1e-8
"""Where the figure puts a difference of zero."""
OTHER_ROUNDINGS = 8
"""Beside the products of a unit: variance, root, quotient, scale, mean, bias, in either form."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 3
    """Runs of each network; at least 3."""
    steps: int = 30
    """Updates of each run, so that there is something to fold."""
    images: int = 256
    """Test images whose outputs are compared."""


PRESETS = {
    "default": Config(),
    "smoke": Config(steps=10),
    "full": Config(seeds=10, steps=500, images=750),
}


def run(config: Config) -> Results:
    """By network, seed and output: the differences, the bounds, the outputs themselves."""
    # What the images are makes no difference to rounding; these are always there.
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    assert digits.test is not None
    inputs, targets = training.scale_images(jnp.asarray(digits.train.inputs)), digits.train.targets
    images = training.scale_images(jnp.asarray(digits.test.inputs[: config.images]))
    optimizer = optimizers.sgd(RATE)
    results: dict[str, Any] = {}
    for name, model in NETWORKS.items():
        step = jax.jit(training.make_train_step(model, optimizer, losses.cross_entropy))
        compare = make_comparison(model)
        found = []
        for seed in range(config.seed, config.seed + config.seeds):
            key = jax.random.key(seed)
            state = training.init_state(key, model, optimizer, images[:1])
            for number in range(config.steps):
                rows = training.epoch_order(key, number, len(targets))[:BATCH_SIZE]
                state, _ = step(state, {"inputs": inputs[rows], "targets": targets[rows]})
            found.append(compare(state.variables, images))
        for measured in found[0]:
            results[f"{name}_{measured}"] = np.stack([each[measured] for each in found])
    return results


def make_comparison(model: Any) -> Callable[..., dict[str, np.ndarray]]:
    """(variables, images) -> folded outputs less the others, the bound, the outputs."""
    plain = model.clone(norm=None)
    evaluate = jax.jit(functools.partial(model.apply, train=False))
    evaluate_folded = jax.jit(functools.partial(plain.apply, train=False))
    bound_of = jax.jit(functools.partial(rounding_bound, plain, epsilon=model.norm().epsilon))

    def compare(variables: Any, images: Any) -> dict[str, np.ndarray]:
        _, without = training.fold(model, variables)
        wrong = jax.tree.map(lambda leaf: leaf * (1 + WRONG), without)
        # Accelerators round the factors of a product to fewer bits unless they are told not to.
        with jax.default_matmul_precision("highest"):
            outputs = np.asarray(evaluate(variables, images))
            return {
                "outputs": outputs,
                "difference": np.abs(evaluate_folded(without, images) - outputs),
                "wrong": np.abs(evaluate_folded(wrong, images) - outputs),
                "bound": np.asarray(bound_of(without, variables, images)),
            }

    return compare


def rounding_bound(
    folded: Any, without: Any, variables: Any, images: Any, *, epsilon: float
) -> Any:
    r"""How far float32 sets folded and unfolded outputs apart, if roundings are independent.

    A sum of n products is off by at most gamma (|W'|^T |x| + |beta| + |mu W'/W|), either way, with
    gamma = CONFIDENCE sqrt(n + OTHER_ROUNDINGS) u; errors that come in as e go out with the root of
    the sum of (W' e)^2. With n in the place of sqrt(n), and |W'| |e|, nothing could exceed it, and
    nothing would come near: it allows some 10^5 times what is found.
    """
    inputs: dict[Any, Any] = {}
    local: dict[Any, Any] = {}

    def at_layers(change: Callable[..., Any]) -> Any:
        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, (nn.Dense, nn.Conv)):
                return change(call, args[0], context.module)
            return call(*args, **kwargs)

        return nn.intercept_methods(watch)

    def keep_inputs(call: Any, x: Any, module: Any) -> Any:
        inputs[module.path] = x
        return call(x)

    def keep_local(call: Any, x: Any, module: Any) -> Any:
        count = module.variables["params"]["kernel"][..., 0].size + OTHER_ROUNDINGS
        size = call(jnp.abs(inputs[module.path]))
        local[module.path] = 2 * CONFIDENCE * np.sqrt(count) * ROUNDING * size
        return size

    def propagate(call: Any, squared: Any, module: Any) -> Any:
        own = module.variables["params"]["bias"]
        return call(squared) - own + jnp.square(local[module.path])

    sizes = magnitudes(without["params"], variables["params"], variables["batch_stats"], epsilon)
    with at_layers(keep_inputs):
        folded.apply(without, images, train=False)
    with at_layers(keep_local):
        folded.apply({"params": sizes}, images, train=False)
    squares = jax.tree.map(jnp.square, without["params"])
    with at_layers(propagate):
        # ReLU and max-pooling pass an error on no larger than it came, and pass all of |e|.
        return jnp.sqrt(folded.apply({"params": squares}, jnp.zeros_like(images), train=False))


def magnitudes(folded: Any, params: Any, stats: Any, epsilon: float) -> dict[str, Any]:
    """|W'|, and |beta| + |mu gamma / sigma| in the place of the folded biases."""
    sizes = {}
    for name, layer in folded.items():
        if "kernel" not in layer:
            sizes[name] = magnitudes(layer, params[name], stats.get(name, {}), epsilon)
            continue
        norm = "norm_" + name.rsplit("_", 1)[1]
        bias = jnp.abs(layer["bias"])
        if norm in stats:
            factor = params[norm]["scale"] / jnp.sqrt(stats[norm]["var"] + epsilon)
            bias = jnp.abs(params[norm]["bias"]) + jnp.abs(stats[norm]["mean"] * factor)
        sizes[name] = {"kernel": jnp.abs(layer["kernel"]), "bias": bias}
    return sizes


def claims(results: Results) -> list[Claim]:
    """The difference is rounding, and a difference that is not would be seen."""
    made = []
    for name, label in LABELS.items():
        difference, bound, wrong, outputs = (
            results[f"{name}_{each}"] for each in ("difference", "bound", "wrong", "outputs")
        )
        made += [
            Claim(
                f"{label}: folding changes the outputs by rounding only. Difference over the bound "
                f"of float32's roundings, largest of {difference.size} (itself "
                f"{difference.max():.1e}, of outputs up to {np.abs(outputs).max():.1f})",
                float((difference / bound).max()),
                0.0,
                1.0,
            ),
            about_mean(
                f"{label}: the bound would see a wrong fold. The same with folded weights wrong by "
                f"{WRONG:g}: powers of ten over the bound; mean of {len(wrong)} seeds",
                np.log10((wrong / bound).max((1, 2))),
                low=0.0,
            ),
        ]
    return made


def plot(results: Results) -> Any:
    """Each output's difference, by its bound."""
    figure = new_figure(12, 5)
    for axes, (name, label) in zip(figure.subplots(1, 2, sharey=True), LABELS.items(), strict=True):
        bound = results[f"{name}_bound"].ravel()
        for measured, text, style in (
            ("wrong", f"weights wrong by {WRONG:g}", "C1s"),
            ("difference", "folded", "C0o"),
        ):
            # A difference of zero has no logarithm: it is drawn at the bottom.
            values = np.maximum(results[f"{name}_{measured}"].ravel(), FLOOR)
            axes.plot(bound, values, style, ms=2.5, alpha=0.4, label=text)
        ends = np.array([bound.min(), bound.max()])
        axes.plot(ends, ends, "k-", lw=1.5, label="the bound")
        axes.set(
            xscale="log",
            yscale="log",
            title=label,
            xlabel="bound of float32's roundings, by output",
        )
        axes.grid(lw=0.3)
        axes.set_ylim(bottom=FLOOR / 1000)  # room for the legend
        axes.legend(loc="lower right", markerscale=3)
    figure.axes[0].set_ylabel(f"|folded - unfolded| (zeros at {FLOOR:g})")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
