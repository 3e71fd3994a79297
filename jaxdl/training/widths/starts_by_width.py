"""How the start of each parameter depends on the width, measured from draws of two models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.calling import GivenMode, initial_variables
from jaxdl.training.widths.width_roles import shapes_by_name

DRAWS = 8
"""Starts that are drawn of each model at least, to measure sizes with less noise."""
ENTRIES = 4096
"""Numbers that are drawn of each parameter, if not so many of all: 2 % of a normal one's size."""
MOST = 2**22
"""Numbers that are drawn of all parameters, where these are more than `DRAWS` starts."""
GRID = 0.5
"""Every usual start is a power of the width that is a multiple of this."""
FARTHEST = GRID / 2


class Sizes(NamedTuple):
    """Of a parameter's start the logarithm of its root mean square, and its standard error."""

    log: float
    error: float


def start_sizes(model: Any, inputs: Any, mode: GivenMode) -> dict[str, Sizes]:
    """The sizes of a model's starts, over `DRAWS` of them or more; of all zeros -inf."""

    def moments(key: Any) -> list[Any]:
        params = initial_variables(model, key, inputs, mode=mode)["params"]
        squares = [
            jnp.square(jnp.abs(leaf).astype(jnp.float32)) for leaf in jax.tree.leaves(params)
        ]
        return [(jnp.mean(each), jnp.var(each)) for each in squares]

    key = jax.random.key(0)
    shapes = shapes_by_name(
        jax.eval_shape(lambda: initial_variables(model, key, inputs, mode=mode)["params"])
    )
    entries = [max(math.prod(shape), 1) for shape in shapes.values()]
    wanted = -(-ENTRIES // min(entries, default=ENTRIES))
    keys = jax.random.split(key, max(DRAWS, min(wanted, MOST // max(sum(entries), 1))))
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(moments, keys))(keys))
    return {
        name: _sizes(means, variances, count)
        for name, count, (means, variances) in zip(shapes, entries, found, strict=True)
    }


def _sizes(means: np.ndarray, variances: np.ndarray, entries: int) -> Sizes:
    # A module that holds its parameters gives the same ones for every key.
    draws = 1 if np.ptp(means) == 0 else len(means)
    mean = float(np.mean(means, dtype=np.float64))
    if not mean > 0:
        return Sizes(-np.inf, 0.0)
    error = float(np.sqrt(np.mean(variances, dtype=np.float64) / (entries * draws)))
    return Sizes(np.log(mean) / 2, error / mean / 2)


class Power(NamedTuple):
    """Of which ratio a start is a power: its place among the ratios of the parameter."""

    place: int
    power: float


def start_powers(
    of_model: Mapping[str, Sizes],
    of_other: Mapping[str, Sizes],
    ratios: Mapping[str, Sequence[float]],
) -> dict[str, Power]:
    r"""The power p of the width in the standard deviation of each start: a multiple of 1/2.

    $$\sigma / \sigma' = r^{p}$$

    for two models in which a parameter's width differs by the factor r. It is 0 for a constant, and
    -1/2 for a start by the fan_in. Of several ratios it is the first that explains the sizes to
    twice their standard errors, else the one that comes nearest.

    Arguments:
        ratios: the r of each parameter that may be: first that by which its start is usually
            measured, 1 where nothing grows; then those of which the power may be -1/2 or -1.

    Raises:
        ValueError: the sizes do not tell which multiple it is.

    Example:
        >>> start_powers({"w": Sizes(-1.0, 0.01)}, {"w": Sizes(-0.31, 0.01)}, {"w": (4.0,)})
        {'w': Power(place=0, power=-0.5)}
        >>> start_powers({"b": Sizes(-1.0, 0.01)}, {"b": Sizes(-0.65, 0.01)}, {"b": (4.0, 2.0)})
        {'b': Power(place=1, power=-0.5)}
    """
    return {
        name: _power(name, of_model[name], of_other[name], tuple(own))
        for name, own in ratios.items()
    }


def _power(name: str, here: Sizes, there: Sizes, ratios: tuple[float, ...]) -> Power:
    if not (np.isfinite(here.log) and np.isfinite(there.log)):
        return Power(0, 0.0)
    change, error = here.log - there.log, 2 * float(np.hypot(here.error, there.error))
    grown = [float(np.log(ratio)) for ratio in ratios]
    power = change / grown[0] if grown[0] else 0.0
    found = [Power(0, GRID * round(power / GRID) + 0.0)]  # no -0.0
    others = (place for place, each in enumerate(grown) if place and each not in (0.0, grown[0]))
    found += [Power(place, each) for place in others for each in (-GRID, -2 * GRID)]

    def distance(each: Power) -> float:
        return abs(change - each.power * grown[each.place])

    best = next((each for each in found if distance(each) <= error), min(found, key=distance))
    if best.place or not grown[0]:
        return best
    apart, error = abs(power - best.power), error / abs(grown[0])
    # Either no other multiple is nearer, or none but this one lies in the interval.
    if apart + error > FARTHEST and not apart <= error < GRID - apart:
        raise ValueError(
            "the standard deviation of a start must be a power of the width, a multiple of "
            f"{GRID}, and that of {name} is {power:.2f}, known to {error:.2f},"
            f" for a width {ratios[0]:.3g} times as large; pass models whose widths differ more, "
            "delta= of a far greater width, or an initializer that fits"
        )
    return best
