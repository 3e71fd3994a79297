"""How the start of each parameter depends on the width, measured from draws of two models."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.calling import GivenMode, initial_variables
from jaxdl.training.widths.width_roles import shapes_by_name

DRAWS = 8
"""Starts that are drawn of each model, to measure sizes with less noise."""
GRID = 0.5
"""Every usual start is a power of the width that is a multiple of this."""
FARTHEST = GRID / 2


class Sizes(NamedTuple):
    """Of a parameter's start the logarithm of its root mean square, and its standard error."""

    log: float
    error: float


def start_sizes(model: Any, inputs: Any, mode: GivenMode) -> dict[str, Sizes]:
    """The sizes of a model's starts, over `DRAWS` of them; of all zeros -inf."""

    def moments(key: Any) -> list[Any]:
        params = initial_variables(model, key, inputs, mode=mode)["params"]
        squares = [
            jnp.square(jnp.abs(leaf).astype(jnp.float32)) for leaf in jax.tree.leaves(params)
        ]
        return [(jnp.mean(each), jnp.var(each)) for each in squares]

    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(moments, keys))(keys))
    shapes = shapes_by_name(
        jax.eval_shape(lambda: initial_variables(model, keys[0], inputs, mode=mode)["params"])
    )
    return {
        name: _sizes(means, variances, max(int(np.prod(shape)), 1))
        for (name, shape), (means, variances) in zip(shapes.items(), found, strict=True)
    }


def _sizes(means: np.ndarray, variances: np.ndarray, entries: int) -> Sizes:
    # A module that holds its parameters gives the same ones for every key.
    draws = 1 if np.ptp(means) == 0 else len(means)
    mean = float(np.mean(means, dtype=np.float64))
    if not mean > 0:
        return Sizes(-np.inf, 0.0)
    error = float(np.sqrt(np.mean(variances, dtype=np.float64) / (entries * draws)))
    return Sizes(np.log(mean) / 2, error / mean / 2)


def start_powers(
    of_model: Mapping[str, Sizes], of_other: Mapping[str, Sizes], ratios: Mapping[str, float]
) -> dict[str, float]:
    r"""The power p of the width in the standard deviation of each start: a multiple of 1/2.

    $$\sigma / \sigma' = r^{p}$$

    for two models in which a parameter's width differs by the factor r. It is 0 for a constant, and
    -1/2 for a start by the fan_in.

    Arguments:
        ratios: r of each parameter; 1 where nothing grows.

    Raises:
        ValueError: the sizes do not tell which multiple it is.

    Example:
        >>> start_powers({"w": Sizes(-1.0, 0.01)}, {"w": Sizes(-0.31, 0.01)}, {"w": 4.0})
        {'w': -0.5}
    """
    powers = {}
    for name, ratio in ratios.items():
        here, there = of_model[name], of_other[name]
        if ratio == 1 or not (np.isfinite(here.log) and np.isfinite(there.log)):
            powers[name] = 0.0
            continue
        grown = np.log(ratio)
        power = (here.log - there.log) / grown
        nearest = GRID * round(power / GRID)
        error = 2 * np.hypot(here.error, there.error) / abs(grown)
        if abs(power - nearest) + error > FARTHEST:
            raise ValueError(
                "the standard deviation of a start must be a power of the width, a multiple of "
                f"{GRID}, and that of {name} is {power:.2f}, known to {error:.2f},"
                f" for a width {ratio:.3g} times as large; pass models whose widths differ more, "
                "delta= of a far greater width, or an initializer that fits"
            )
        powers[name] = nearest + 0.0  # no -0.0
    return powers
