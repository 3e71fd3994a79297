"""A network can approximate any function. Does training find the network that does?

Nielsen's function 0.2 + 0.4 x^2 + 0.3 x sin(15 x) + 0.05 cos(50 x) on [0, 1]. A sigmoid unit of
weight w and bias b = -w s is a step at s; two such steps make a bump; a sum of bumps, each as high
as the function in its middle, is a network with one hidden layer whose weights are all written by
hand. Beside it, networks of the same widths that are trained, and one of 3 x 64 ReLU units with and
without dropout: 1000 points, Adam, batches of 50, the rate falling to 0 as a cosine. Of three rates
each width has the one with the least error.

Meaning: The first panel makes a bump from two sigmoids, the second shows a function and what
networks make of it, and the third the errors of networks written by hand and of trained ones, by
the number of hidden units. That a good network exists does not mean that training finds it: with 20
units training does better than the weights written by hand, with 320 it ends 18 times as far off.

Data: none (synthetic: 1,000 points of Nielsen's function, without noise).
Source: Nielsen (2015), Neural Networks and Deep Learning, chapter 4; the lecture on dropout.
Run: python experiments/first_network/universal_approximation.py
Expected: B bumps of width h = 1/B miss by rms(f') h sqrt(1/12 - 1/k), with k = w h: the error falls
as 1/B. Training does better with 20 units, for it puts the steps where they are needed; with 320 it
ends 18 times as far off as the network written by hand: that a network exists does not say that
gradient descent finds it. 3 x 64 ReLU units do much better, and 4 to 5 times worse with dropout.
Time: 2 minutes on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import activations, data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, about_slope, main
from jaxdl.plotting import new_figure

BUMPS = np.array([10, 20, 40, 80, 160])
STEEPNESS = 200.0
"""k = w h, the weight times a bump's width; Nielsen's bumps of width 0.2 have the weight 1000."""
FINE = 50_000
"""Points at which the error of hand-written networks is taken; a step is 1/k of a bump wide."""
RATES, DEEP_RATE, BATCH_SIZE, DROPOUT = (0.03, 0.1, 0.3), 3e-3, 50, 0.2


class Network(NamedTuple):
    """A network to train: its layers, its activation, its share of dropped units."""

    features: tuple[int, ...]
    activation: Any = activations.sigmoid
    dropout: float = 0.0


DEEP = {
    name: Network((64, 64, 64, 1), activations.relu, rate)
    for name, rate in {"none": 0.0, "dropout": DROPOUT}.items()
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 16
    """Networks of each width and rate; at least 3."""
    epochs: int = 800
    """Passes over the 1000 points."""
    widths: tuple[int, ...] = (20, 80, 320)
    """Hidden units of the trained networks with one layer, ascending; each twice one of BUMPS."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=200, widths=(20, 80)),
    "full": Config(seeds=20, epochs=4000, widths=(20, 40, 80, 160, 320)),
}


def run(config: Config) -> xarray.Dataset:
    """Root mean squared errors on [0, 1]: written by hand, in theory, trained; and some curves."""
    known = (2 * BUMPS).tolist()
    if not config.widths or [width for width in known if width in config.widths] != [
        *config.widths
    ]:
        raise ValueError(
            f"widths must be some of {known}, two units a bump, ascending, got {config.widths}; "
            "choose among these"
        )
    narrow = [trained(Network((width, 1)), RATES, config)["rmse"] for width in config.widths]
    deep = [trained(network, (DEEP_RATE,), config).isel(rate=0) for network in DEEP.values()]
    by_network = xarray.concat(deep, "network").drop_vars("rate")
    fine: Any = data.sample_function(data.nielsen, test_examples=FINE).test
    by_hand = [outputs(hand_written(int(bumps)), fine.inputs) for bumps in BUMPS]
    slope = np.gradient(fine.targets[:, 0], fine.inputs[:, 0])
    return xarray.Dataset(
        {
            "by_hand": ("bumps", [rms(made - fine.targets[:, 0]) for made in by_hand]),
            "theory": ("bumps", rms(slope) / BUMPS * np.sqrt(1 / 12 - 1 / STEEPNESS)),
            "narrow": xarray.concat(narrow, "width"),
            "deep": by_network["rmse"],
            "deep_curve": by_network["curve"],
        },
        {"bumps": BUMPS, "width": [*config.widths], "network": [*DEEP]},
    )


def hand_written(bumps: int, steepness: float = STEEPNESS) -> dict[str, Any]:
    """The parameters of MLP((2 bumps, 1)), a pair of steps a bump, each of weight w and bias -w s.

    The outermost steps stand outside of [0, 1], for a step is only half way up where it stands.
    """
    edges, weight = np.arange(bumps + 1) / bumps, steepness * bumps
    heights = data.nielsen((edges[1:] + edges[:-1]) / 2)
    edges[[0, -1]] = -1 / bumps, 1 + 1 / bumps
    steps = np.concatenate([edges[:-1], edges[1:]])
    made: dict[str, Any] = {
        "dense_0": {"kernel": np.full((1, 2 * bumps), weight), "bias": -weight * steps},
        "dense_1": {"kernel": np.concatenate([heights, -heights])[:, None], "bias": np.zeros(1)},
    }
    return {name: jax.tree.map(jnp.float32, layer) for name, layer in made.items()}


def outputs(params: dict[str, Any], x: Any) -> np.ndarray:
    """What a network of sigmoid units computes at x, (points, 1)."""
    model = models.MLP((params["dense_0"]["kernel"].shape[1], 1), activation=activations.sigmoid)
    return np.asarray(model.apply({"params": params}, jnp.asarray(x), train=False))[:, 0]


def rms(values: np.ndarray) -> float:
    """The root of the mean square, in float64."""
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def trained(network: Network, rates: tuple[float, ...], config: Config) -> xarray.Dataset:
    """By rate and seed: the error on [0, 1] after training, and the fitted curve."""
    points: Any = data.sample_function(data.nielsen)
    steps = config.epochs * -(-len(points.train) // BATCH_SIZE)
    model = models.MLP(
        network.features, activation=network.activation, dropout_rate=network.dropout,
        kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias,
    )  # fmt: skip
    task = training.Task(model, losses.mean_squared_error)

    def member(key: Any, orders: Any, params: Any, *, rate: Any) -> dict[str, Any]:
        falling = optimizers.schedules.cosine_decay(rate, steps=steps)
        learn = training.make_run(task, optimizers.adam(falling), batch_size=BATCH_SIZE)
        start = learn.init(key, points.train, params)
        state, _ = learn(key, {"train": points.train}, orders, start)
        curve, _ = task.outputs(state.variables, jnp.asarray(points.test.inputs), train=False)
        return {
            "rmse": jnp.sqrt(learn.evaluate(state, points.test)["loss"]),
            "curve": curve[:, 0],
        }

    return training.sweep(
        member,
        {"rate": rates},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(points.train)),
            "params": training.first_weights(task, points.train),
        },
        dims={"curve": ("x",)},
    ).assign_coords(x=points.test.inputs[:, 0])


def at_best_rate(results: xarray.Dataset) -> xarray.DataArray:
    """By seed and width: the error at the rate whose geometric mean over the seeds is least."""
    errors = results["narrow"]
    best = xarray.DataArray(np.log(errors)).mean("seed").argmin("rate")
    return xarray.DataArray(errors.isel(rate=best).transpose("seed", "width"))


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the networks written by hand do, and what the trained ones do."""
    bumps, by_hand = results["bumps"].values, results["by_hand"].values
    best, deep = at_best_rate(results), results["deep"]
    of = f"geometric mean of {results.sizes['seed']} seeds"
    made = [
        about_slope(
            "Twice as many bumps make half the error: the error of the network written by hand "
            "goes as n^p (Barron's bound has -1/2, straight pieces -2: nearer to -1 than to "
            "these), p",
            np.log(bumps), np.log(by_hand), -1.5, -0.75,
        ),
        Claim(
            "The network written by hand misses by what the function's slope predicts: error of "
            f"{bumps[-1]} bumps over rms(f') h sqrt(1/12 - 1/k)",
            by_hand[-1] / results["theory"][-1], 0.98, 1.02,
        ),
        about_ratios(
            "Dropout costs accuracy where nothing is noise: 3 x 64 ReLU units, error with a share "
            f"of {DROPOUT} dropped over the error without, {of}",
            deep.sel(network="dropout") / deep.sel(network="none"), 2,
        ),
    ]  # fmt: skip
    for width, low, high, does in (
        (best["width"][0], 0, 1, "finds a better network than the one written by hand"),
        (best["width"][-1], 1, np.inf, "does not find the network that was written by hand"),
    ):
        made.append(
            about_ratios(
                f"With {int(width)} sigmoid units training {does}: its error over the error by "
                f"hand, {of}",
                best.sel(width=width) / by_hand[bumps.tolist().index(width // 2)], low, high,
            )
        )  # fmt: skip
    return made


def plot(results: xarray.Dataset) -> Any:
    """A bump; the function and its approximations; the errors by hidden units."""
    figure = new_figure(13, 5)
    bump, curves, errors = figure.subplots(1, 3, width_ratios=[0.8, 1.2, 1.2])
    x = np.linspace(0, 1, 1001)
    for weight, style in ((20, "C0:"), (60, "C0--"), (1000, "C0-")):
        up, down = (activations.sigmoid(jnp.asarray(weight * (x - at))) for at in (0.4, 0.6))
        bump.plot(x, 0.8 * (up - down), style, label=f"w = {weight}")
    bump.set(
        title="Two sigmoids, steps at s = -b/w", xlabel="x", ylim=(-0.02, 1.05),
        ylabel=r"$0.8\,\sigma(w(x - 0.4)) - 0.8\,\sigma(w(x - 0.6))$",
    )  # fmt: skip
    bump.legend(loc="upper left")
    curves.plot(x, data.nielsen(x), "k-", lw=3, alpha=0.3, label="the function")
    drawn = outputs(hand_written(int(BUMPS[0])), x[:, None].astype(np.float32))
    curves.plot(x, drawn, "C0-", lw=1, label=f"by hand, {BUMPS[0]} bumps ({2 * BUMPS[0]} units)")
    for name, style, label in (("none", "C2--", ""), ("dropout", "C3-.", f", dropout {DROPOUT}")):
        fitted = results["deep_curve"].sel(network=name).isel(seed=0)
        curves.plot(results["x"], fitted, style, label=f"trained, 3 x 64 ReLU{label}")
    curves.set(title="Nielsen's function (trained: one seed)", xlabel="x", ylabel="f(x)")
    curves.legend(loc="upper left", fontsize=9)
    units = 2 * results["bumps"].values
    errors.plot(units, results["theory"], "k-", lw=1, label="theory, 1/n")
    errors.plot(units, results["by_hand"], "C0o", ms=8, label="by hand, sigmoid")
    best = at_best_rate(results)
    errors.plot(best["width"], best.T, "C1_", ms=14)
    errors.plot(
        best["width"], np.exp(np.log(best.values).mean(0)), "C1-s", label="trained, sigmoid"
    )
    for name, style, label in (("none", "C2^", ""), ("dropout", "C3v", f", dropout {DROPOUT}")):
        deep = results["deep"].sel(network=name)
        errors.plot(3 * [64 * 3], np.quantile(deep, (0, 0.5, 1)), style[:2] + "-", lw=1)
        errors.plot(64 * 3, np.exp(np.log(deep).mean()), style, ms=9, label=f"3 x 64 ReLU{label}")
    errors.set(
        xscale="log", yscale="log", xlabel="hidden units", ylabel="root mean squared error",
        title=f"{results.sizes['seed']} seeds: each or range, and geometric mean",
        xticks=units, xticklabels=units,
    )  # fmt: skip
    errors.minorticks_off()
    errors.legend(loc="lower left", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
