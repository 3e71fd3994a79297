"""Does clipping save a network whose gradients explode, and how often does it clip?

Ten hidden ReLU layers of 64 units on MNIST digits, weights 1.2 times He's, momentum 0.9 at a rate
of 0.1, batches of 50: the gradients' size is that of a product of eleven matrices, each too large.
Without clipping, by the norm of the whole gradient, and by the value of each entry, at limits over
five decades. A run survives if its last loss is below chance.

Source: Pascanu, Mikolov and Bengio (2013), section 3.2 and algorithm 1; the lecture on
optimisation ("should not happen too much").
Run: python experiments/optimization/gradient_clipping.py
Expected: EXPECTED
Time: TIME on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_share, main
from jaxdl.plotting import band, new_figure

RATES = np.array([0.1, 0.01])
"""With the first the network explodes; the second is the smaller rate that clipping is beside."""
BATCH_SIZE, DEPTH, WIDTH, TOO_LARGE = 50, 10, 64, 1.2
MODEL = models.MLP(
    (WIDTH,) * DEPTH + (10,),
    kernel_init=initializers.variance_scaling(2 * TOO_LARGE**2, "fan_in", "normal"),
)
TASK = training.Task(MODEL, losses.cross_entropy)
WAYS = {"norm": 0, "value": 1}
LIMITS = {"norm": np.array([1e-2, 1e-1, 1.0, 1e1, 1e2, np.inf])}
LIMITS["value"] = LIMITS["norm"] / 100
"""By way and place; the last is no clipping."""
CHOSEN, NONE, LAST = 2, 5, 50
"""Places among the limits that the claims are about; the steps of the last loss."""
CHANCE_LOSS = np.log(10)
ROUNDING = 1e-5
"""Relative: a norm over 87,000 entries, and a cosine, in float32."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Runs at each limit; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""
    steps: int = 300
    """Updates of each run, at least 100."""

    def __post_init__(self) -> None:
        if self.steps < 2 * LAST:
            raise ValueError(
                f"steps must be at least {2 * LAST}, the first and the last {LAST}, got "
                f"{self.steps}; pass more"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=100),
    "full": Config(seeds=40, steps=2000),
}


def run(config: Config) -> xarray.Dataset:
    """By rate, way, place among the limits, seed and step: the loss, and what clipping did."""
    digits = data.load("mnist_5k").train
    used = config.steps * BATCH_SIZE
    epochs = -(-used // len(digits))

    def member(key: Any, order: Any, params: Any, *, rate: Any, way: Any, place: Any) -> Any:
        by_norm, by_value = (
            jnp.where(way == number, jnp.asarray(LIMITS[name], jnp.float32)[place], jnp.inf)
            for name, number in WAYS.items()
        )
        clip = optax.chain(
            optimizers.clip_by_value(by_value), optimizers.clip_by_global_norm(by_norm)
        )
        clip = optimizers.recorded(clip, what_clipping_did, steps=config.steps)
        learn = training.make_run(
            TASK, optax.chain(clip, optimizers.momentum(rate)), batch_size=BATCH_SIZE
        )
        state, measured = learn.epoch(learn.init(key, digits, params), digits, order)
        return {"loss": measured["loss"], **state.opt_state[0].values}

    names = ("loss", "clipped", "before", "after", "cosine")
    return training.sweep(
        member,
        {"rate": RATES, "way": WAYS, "place": range(NONE + 1)},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "order": lambda key: training.orders(key, epochs, len(digits)).ravel()[:used],
            "params": training.first_weights(TASK, digits),
        },
        dims={name: ("step",) for name in names},
    )


def what_clipping_did(gradients: Any, clipped: Any) -> dict[str, Any]:
    """The share of entries clipped, the norms, the cosine; NaN for a gradient that is not finite.

    Of a step that is clipped by norm the share is 1.
    """
    before, after = (ravel_pytree(tree)[0] for tree in (gradients, clipped))
    norms = jnp.linalg.norm(before), jnp.linalg.norm(after)
    found = {
        "clipped": jnp.mean(before != after),
        "before": norms[0],
        "after": norms[1],
        "cosine": before @ after / (norms[0] * norms[1]),
    }
    alive = jnp.isfinite(norms[0])
    return {name: jnp.where(alive, value, jnp.nan) for name, value in found.items()}
