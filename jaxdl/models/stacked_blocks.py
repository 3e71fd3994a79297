"""Parameters of a transformer's blocks: one by one, or stacked as a scan has them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def stack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a `Transformer` of "plain" or "remat" blocks, for one of blocks="scan".

    Arguments:
        variables: {"params": {"block_0": ..., ...}, ...}, or any of its collections' values in
            such a dictionary, e.g. gradients.

    Raises:
        ValueError: a collection that has no `block_0`.

    Example:
        >>> variables = {"params": {"block_0": jnp.zeros(3), "block_1": jnp.ones(3)}}
        >>> stack_blocks(variables)["params"]["blocks"].shape
        (2, 3)
    """
    return {name: _stacked(name, collection) for name, collection in variables.items()}


def unstack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_blocks`.

    Raises:
        ValueError: a collection that has no `blocks`.

    Example:
        >>> sorted(unstack_blocks({"params": {"blocks": jnp.zeros((2, 3))}})["params"])
        ['block_0', 'block_1']
    """
    return {name: _unstacked(name, collection) for name, collection in variables.items()}


def _stacked(name: str, collection: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(collection)
    blocks: list[Any] = []
    while f"block_{len(blocks)}" in rest:
        blocks.append(rest.pop(f"block_{len(blocks)}"))
    if not blocks:
        raise ValueError(
            f"variables must have block_0 in {name}, got {list(collection)}; pass those of a "
            "Transformer with blocks='plain' or 'remat'"
        )
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def _unstacked(name: str, collection: Mapping[str, Any]) -> dict[str, Any]:
    if "blocks" not in collection:
        raise ValueError(
            f"variables must have blocks in {name}, got {list(collection)}; pass those of a "
            "Transformer with blocks='scan'"
        )
    rest = dict(collection)
    stacked = rest.pop("blocks")
    layers = jax.tree.leaves(stacked)[0].shape[0]
    return rest | {
        f"block_{layer}": jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked)
        for layer in range(layers)
    }
