"""Equal blocks one after another: plain, computed again for their gradient, or compiled once."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

POSITIONS = ("before", "after", "inside")
"""Where norms stand: x + F(N(x)), N(x + F(x)), x + N(F(x))."""
KINDS = ("plain", "remat", "scan")
"""What a model's `blocks` may be."""


def through_blocks(
    block: Any, settings: Mapping[str, Any], kind: str, count: int, x: Array, *rest: Any
) -> Array:
    """The blocks' outputs; call it inside a compact method, whose module owns the blocks.

    Arguments:
        block: a class of modules, called as block(**settings)(x, *rest).
        settings: of every block.
        kind: "plain" or "remat" names them block_0, block_1, ...; "scan" has their parameters
            stacked in `blocks`.
        count: how many.
        x: what goes through them.
        rest: the same for every block. The last is static (`train`).
    """
    if kind == "remat":
        block = nn.remat(block, static_argnums=(len(rest) + 1,))
    if kind != "scan":
        for index in range(count):
            x = block(**settings, name=f"block_{index}")(x, *rest)
        return x
    scan: Callable[..., tuple[Array, None]] = nn.scan(
        lambda block, x, *rest: (block(x, *rest), None),
        variable_axes={True: 0},  # every collection has an axis of layers,
        split_rngs={True: True},  # and every layer random numbers of its own
        in_axes=nn.broadcast,
        length=count,
    )
    return scan(block(**settings, name="blocks"), x, *rest)[0]
