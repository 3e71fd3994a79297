"""What instruments differentiate: a batch's losses or outputs as functions of the parameters alone.

The parameters are the whole model's, or those of one group: a layer, or what a pattern names.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdl.checks import is_traced
from jaxdl.training.task import (
    Batch,
    Task,
    as_batch,
    examples_in,
    mean_over_batch,
    per_example,
)

WHOLE = "all"
"""The name of the group of all parameters."""


class Group(NamedTuple):
    """Some of a model's parameters, as a list of leaves.

    Attributes:
        name: the layer's path, the pattern, or "all".
        owned: for each leaf of the parameters, in the tree's order, whether it belongs.
    """

    name: str
    owned: tuple[bool, ...]

    def take(self, params: Any) -> list[Array]:
        """The group's leaves."""
        leaves = jax.tree.leaves(params)
        return [leaf for leaf, own in zip(leaves, self.owned, strict=True) if own]

    def put(self, own: Sequence[Array], params: Any) -> Any:
        """The parameters with these leaves in the group's places."""
        structure: Any = jax.tree.structure(params)
        leaves, given = jax.tree.leaves(params), iter(own)
        return structure.unflatten(
            next(given) if mine else leaf for leaf, mine in zip(leaves, self.owned, strict=True)
        )


def groups(params: Any, layers: Any = None) -> tuple[Group, ...]:
    """The groups of parameters that are measured apart.

    Arguments:
        params: the parameters, a tree of arrays.
        layers: None takes all parameters together; "each" makes a group of each layer, which is a
            module with parameters of its own; or a sequence of patterns, one group each, as in
            `optimizers.by_layer`: "block_0", "block_*/attention", "*/bias".

    Raises:
        TypeError: `layers` is none of these.
        ValueError: no parameters; a pattern that fits none; no pattern.

    Example:
        >>> params = {"dense_0": {"kernel": 1.0, "bias": 0.0}, "dense_1": {"kernel": 1.0}}
        >>> [group.name for group in groups(params, "each")], groups(params, ["*/bias"])
        (['dense_0', 'dense_1'], (Group(name='*/bias', owned=(True, False, False)),))
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:
        raise ValueError(
            "variables must hold the model's parameters under 'params', got none; pass what "
            "model.init returned"
        )
    if layers is None:
        return (Group(WHOLE, (True,) * len(paths)),)
    if isinstance(layers, str) and layers == "each":
        owners = [_joined(path[:-1]) or _joined(path) for path in paths]
        names: Sequence[str] = tuple(dict.fromkeys(owners))
        return tuple(Group(name, tuple(owner == name for owner in owners)) for name in names)
    is_sequence = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not is_sequence or not all(isinstance(pattern, str) for pattern in layers):
        raise TypeError(
            "layers must be None, 'each', or a sequence of names or patterns, got "
            f'{layers!r}; pass e.g. ["dense_0", "*/bias"]'
        )
    if not layers:
        raise ValueError("layers must name at least one layer, got none; pass None for all")
    return tuple(_of_pattern(pattern, [_joined(path) for path in paths]) for pattern in layers)


def _of_pattern(pattern: str, names: Sequence[str]) -> Group:
    owned = tuple(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*") for name in names)
    if not any(owned):
        listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if names[20:] else "")
        raise ValueError(
            f"a layer that is measured must have parameters, and {pattern!r} has none of {listed}; "
            "pass the beginning of a name, or layers='each'"
        )
    return Group(pattern, owned)


def _joined(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def measured_batch(batch: Batch) -> dict[str, Any]:
    """A batch to measure, as arrays by name.

    Raises:
        TypeError: as in `as_batch`.
        ValueError: no examples, or inputs, targets and weights of different lengths.

    Example:
        >>> sorted(measured_batch((jnp.ones((2, 3)), [0, 1])))
        ['inputs', 'targets']
    """
    given = as_batch(batch)
    _require_examples(given)
    return given


def weighed_batch(batch: Batch) -> dict[str, Any]:
    """The same for what no batch without weight has.

    Raises:
        ValueError: weights that are all 0; traced ones pass.
    """
    given = measured_batch(batch)
    weights = given.get("weights")
    if weights is not None and not is_traced(weights) and not np.any(np.asarray(weights)):
        raise ValueError(
            "a batch must have an example whose weight is not 0, got "
            f"{np.size(weights)} weights that are all 0; leave such batches out"
        )
    return given


def _require_examples(arrays: Any) -> None:
    if not examples_in(arrays):
        raise ValueError("a batch must have an example, got none; pass one or more")


def example_losses(
    task: Task, variables: Mapping[str, Any], batch: Batch, *, train: bool, key: Any
) -> Callable[[Any], tuple[Array, Array | None]]:
    """The loss of each example and its weight (None: all 1), as a function of the parameters."""
    given = as_batch(batch)
    outputs = outputs_at(task, variables, given["inputs"], train=train, key=key)

    def losses(params: Any) -> tuple[Array, Array | None]:
        return per_example("loss", task.loss, outputs(params), given)

    return losses


def mean_loss(
    task: Task, variables: Mapping[str, Any], batch: Batch, *, train: bool, key: Any
) -> Callable[[Any], Array]:
    """The mean loss over the batch, as in training, as a function of the parameters."""
    losses = example_losses(task, variables, batch, train=train, key=key)
    return lambda params: mean_over_batch(*losses(params))


def outputs_at(
    task: Task, variables: Mapping[str, Any], inputs: Any, *, train: bool, key: Any
) -> Callable[[Any], Any]:
    """The outputs for a batch's inputs, as a function of the parameters."""
    _require_examples(inputs)
    ready = task.preprocess(jax.tree.map(jnp.asarray, inputs))

    def outputs(params: Any) -> Any:
        return task.outputs({**variables, "params": params}, ready, train=train, key=key)[0]

    return outputs
