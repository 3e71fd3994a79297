"""Means over a whole split, exact for any batch size."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxdl.training.steps import EvalStep
from jaxdl.training.task import Batch, Weighted, examples_in

BatchSums = Callable[[Mapping[str, Any], Batch], dict[str, Any]]


def make_batch_sums(eval_step: EvalStep, batch_size: int) -> BatchSums:
    """A pure function: the sums of each batch of a split, the smaller last batch included.

    Example:
        >>> import jax.numpy as jnp
        >>> step = lambda variables, batch: {"total": batch["inputs"].sum()}
        >>> sums = make_batch_sums(step, batch_size=2)({}, {"inputs": jnp.arange(5)})
        >>> sums["total"].tolist()
        [1, 5, 4]
    """

    def batch_sums(variables: Mapping[str, Any], arrays: Batch) -> dict[str, Any]:
        examples = examples_in(arrays)
        full, remainder = divmod(examples, batch_size)

        def sums_at(start: Array) -> dict[str, Any]:
            batch = jax.tree.map(
                lambda array: lax.dynamic_slice_in_dim(array, start, batch_size), arrays
            )
            return eval_step(variables, batch)

        parts = []
        if full:
            parts.append(lax.map(sums_at, jnp.arange(full) * batch_size))
        if remainder:
            last = jax.tree.map(lambda array: array[full * batch_size :], arrays)
            parts.append(jax.tree.map(lambda value: value[None], eval_step(variables, last)))
        sums: dict[str, Any] = jax.tree.map(lambda *values: jnp.concatenate(values), *parts)
        return sums

    return batch_sums


def means(sums: Mapping[str, Any], examples: int) -> dict[str, float]:
    """Total the batches' sums in float64, and divide by the examples or by their weights.

    Example:
        >>> means({"loss": [1.0, 2.0]}, examples=4)
        {'loss': 0.75}
    """

    def total(values: Any) -> np.float64:
        return np.sum(np.asarray(values), dtype=np.float64)

    return {
        name: float(total(values.total) / total(values.weight))
        if isinstance(values, Weighted)
        else float(total(values) / examples)
        for name, values in sums.items()
    }
