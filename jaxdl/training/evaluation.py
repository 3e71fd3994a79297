"""Means over a whole split, exact for any batch size."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxdl.training.steps import Batch, EvalStep

BatchSums = Callable[[Mapping[str, Any], Batch], dict[str, Array]]


def make_batch_sums(eval_step: EvalStep, batch_size: int) -> BatchSums:
    """A pure function: the sums of each batch of a split, the smaller last batch included.

    Example:
        >>> import jax.numpy as jnp
        >>> step = lambda variables, batch: {"total": batch["inputs"].sum()}
        >>> sums = make_batch_sums(step, batch_size=2)({}, {"inputs": jnp.arange(5)})
        >>> sums["total"].tolist()
        [1, 5, 4]
    """

    def batch_sums(variables: Mapping[str, Any], arrays: Batch) -> dict[str, Array]:
        (examples,) = {len(array) for array in arrays.values()}
        full, remainder = divmod(examples, batch_size)

        def sums_at(start: Array) -> dict[str, Array]:
            batch = {
                name: lax.dynamic_slice_in_dim(array, start, batch_size)
                for name, array in arrays.items()
            }
            return eval_step(variables, batch)

        parts = []
        if full:
            parts.append(lax.map(sums_at, jnp.arange(full) * batch_size))
        if remainder:
            last = {name: array[full * batch_size :] for name, array in arrays.items()}
            parts.append(jax.tree.map(lambda value: value[None], eval_step(variables, last)))
        sums: dict[str, Array] = jax.tree.map(lambda *values: jnp.concatenate(values), *parts)
        return sums

    return batch_sums


def means(sums: Mapping[str, Any], examples: int) -> dict[str, float]:
    """Total the batches' sums in float64, and divide by the number of examples.

    Example:
        >>> means({"loss": [1.0, 2.0]}, examples=4)
        {'loss': 0.75}
    """
    return {
        name: float(np.sum(np.asarray(values), dtype=np.float64) / examples)
        for name, values in sums.items()
    }
