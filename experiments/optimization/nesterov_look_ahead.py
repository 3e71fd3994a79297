"""Where Nesterov's velocity looks: one step as vectors, and what it does to a path in a valley.

(x^2 + 10 y^2)/2 from (-2, 0.8), rate 0.05, velocity 0.9. Momentum takes the gradient where it
stands, Nesterov's method where its velocity leads. So on a curvature lambda Nesterov keeps
gamma (1 - eta lambda) of the velocity, momentum gamma. Nothing is drawn at random.

Meaning: The arrows are one step in a valley, where momentum takes the gradient at its place and
Nesterov's method the one where its velocity leads; the curves are the way across the valley, step
by step. Because it looks ahead Nesterov's method brakes before it climbs the other wall, and shoots
a quarter as far past the floor.

Data: none (synthetic: a quadratic of two parameters; nothing is drawn at random).
Source: Sutskever, Martens, Dahl and Hinton (2013), section 2.1, fig. 1 and theorem 2.1; Nesterov
(1983); the lecture on optimisation.
Run: python experiments/optimization/nesterov_look_ahead.py
Expected: the optimizers' paths are the lecture's equations to rounding. Across the valley
Nesterov's path shoots a quarter as far past the floor: it feels the other wall before it climbs.
Time: 4 s on 2 CPU cores.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import optimizers
from jaxdl.claims import Claim, main
from jaxdl.diagnostics.landscape import artificial_landscapes as landscapes
from jaxdl.diagnostics.landscape.trajectories import descend
from jaxdl.plotting import new_figure

CURVATURE = np.array([1.0, 10.0])
VALLEY = functools.partial(landscapes.ravine, condition_number=10.0)
RATE, DECAY, START = 0.05, 0.9, (-2.0, 0.8)
SHOWN = 2
"""The step that is drawn as vectors: there the path crosses the valley's floor."""
LOOK_AHEAD = {"momentum": 0.0, "nesterov": 1.0}
STYLES = {"momentum": "C0--s", "nesterov": "C3-o"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    steps: int = 40
    """Of each path; at least 1."""


PRESETS = {"default": Config(), "smoke": Config(), "full": Config()}


def run(config: Config) -> xarray.Dataset:
    """By optimizer and step: the lecture's theta, along and across the valley."""
    rules = {"momentum": optimizers.momentum, "nesterov": optimizers.nesterov}
    start, paths = jnp.array(START), []
    for name, make in rules.items():
        held = np.asarray(descend(VALLEY, make(RATE, decay=DECAY), start, config.steps))
        paths.append(theta(held) if name == "nesterov" else held)
    return xarray.Dataset({"path": (("optimizer", "step", "axis"), paths)}, {"optimizer": [*rules]})


def theta(held: np.ndarray) -> np.ndarray:
    """The lecture's points from the look-ahead points phi that `nesterov` holds.

    theta_t = phi_(t-1) - rate * gradient(phi_(t-1)): the step from where the velocity led.
    """
    return np.concatenate([held[:1], held[:-1] * (1 - RATE * CURVATURE)])


def by_equations(look_ahead: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The points theta and velocities of the lecture's equations in the valley, in float64.

    The gradient is taken at theta - look_ahead * DECAY * v: 0 for momentum, 1 for Nesterov.
    """
    points, velocities = [np.array(START)], [np.zeros(2)]
    for _ in range(steps):
        at = points[-1] - look_ahead * DECAY * velocities[-1]
        velocities.append(DECAY * velocities[-1] + RATE * CURVATURE * at)
        points.append(points[-1] - velocities[-1])
    return np.array(points), np.array(velocities)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The equations, and what the look-ahead is good for; nothing is drawn."""
    path, steps = results["path"].astype(np.float64), results.sizes["step"] - 1
    expected = np.stack([by_equations(look, steps)[0] for look in LOOK_AHEAD.values()])
    lowest = -path.isel(axis=1).min("step")
    # Every step adds two roundings of numbers up to 2; the valley forgets old ones.
    rounding = 4 * steps * 2.0**-24
    return [
        Claim(
            "Nesterov's gradient is the one where the velocity leads, momentum's the one here: "
            f"paths of {steps} steps, farthest from the equations in float64 (arithmetic)",
            np.abs(path.values - expected).max(), 0.0, rounding,
        ),
        Claim(
            "Nesterov's method brakes before it climbs: how far it shoots past the valley's "
            "floor, over momentum (arithmetic)",
            lowest.sel(optimizer="nesterov") / lowest.sel(optimizer="momentum"), 0.0, 1.0,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """One step as vectors, and the way across the valley by step."""
    figure = new_figure(12, 5)
    vectors, across = figure.subplots(1, 2)
    draw_vectors(vectors)
    steps = np.arange(results.sizes["step"])
    for name, look in LOOK_AHEAD.items():
        measured = results["path"].sel(optimizer=name).isel(axis=1)
        across.plot(steps, measured, STYLES[name][:2] + STYLES[name][-1], ms=5, label=name)
        across.plot(steps, by_equations(look, len(steps) - 1)[0][:, 1], STYLES[name][:-1], lw=1)
    across.axhline(0, color="k", lw=0.7)
    across.set(
        xlabel="step", ylabel="across the valley",
        title="Nesterov shoots less far past the floor (lines: the equations)",
    )  # fmt: skip
    across.legend()
    return figure


def draw_vectors(axes: Any) -> None:
    """One step of momentum and of Nesterov's method from the same point and velocity."""
    points, velocities = by_equations(1.0, SHOWN)
    here, led = points[SHOWN], DECAY * velocities[SHOWN]
    ahead = here - led
    x, y = np.meshgrid(np.linspace(-2.1, -1.1, 80), np.linspace(-0.5, 0.9, 80))
    heights = np.asarray(VALLEY(jnp.asarray(np.stack([x, y], -1))))
    axes.contour(x, y, heights, np.geomspace(0.2, 8, 12), colors="0.8", linewidths=0.8)
    axes.plot(*points.T, "k.-", lw=0.8, ms=7, label="Nesterov's path so far")
    for start, vector, colour, label in (
        (here, -led, "0.35", r"velocity: $-\gamma v$, to the look-ahead point"),
        (ahead, -RATE * CURVATURE * here, "C0", r"momentum: $-\eta$ gradient here"),
        (ahead, -RATE * CURVATURE * ahead, "C3", r"Nesterov: $-\eta$ gradient there"),
    ):
        axes.quiver(
            *start, *vector, color=colour, angles="xy", scale_units="xy", scale=1, width=0.008,
            label=label, zorder=3,
        )  # fmt: skip
    keeps = DECAY * (1 - RATE * CURVATURE)
    axes.set(
        xlabel="along the valley", ylabel="across the valley",
        title=rf"Momentum keeps $\gamma$ = {DECAY:g} of the velocity, Nesterov" "\n"
        rf"$\gamma(1 - \eta\lambda)$: {keeps[0]:.2f} along, {keeps[1]:.2f} across",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="upper right")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
