"""The partners of a model's layers in a state dict, each found or none."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.calling import Prepared, name_of
from jaxdl.interop.matching import Matches, match, told
from jaxdl.interop.model_layers import Layer
from jaxdl.interop.moves import COUNT
from jaxdl.interop.packed import slots
from jaxdl.interop.state_dicts import StateDict, is_sorted
from jaxdl.models import Transformer

_BLOCK = re.compile(r"(.*\.)?layers\.0\.self_attn\.")


def partners(
    found: Prepared,
    layers: Sequence[Layer],
    given: StateDict,
    arrays: Mapping[str, np.ndarray],
    names: Any,
) -> Matches:
    """The pairs; the blocks of our `Transformer` know their names in `nn.TransformerEncoder`.

    Raises:
        TypeError: names that are neither a dictionary nor a function.
        ValueError: see `match`.
    """
    shapes = {name: shape for name, shape in shapes_of(arrays).items() if not name.endswith(COUNT)}
    is_mapping = isinstance(names, Mapping) and all(isinstance(each, str) for each in names)
    if not (names is None or callable(names) or is_mapping):
        raise TypeError(
            f"names must map layers here to names there, got {names!r}; pass a dictionary of words "
            "or a function"
        )
    if isinstance(found.model, Transformer) and not callable(names):
        names = names or {}
        if not any(each.startswith("block_") for each in names):
            names = _block_names(found.model, shapes) | names
    ordered = not is_sorted({name: arrays[name] for name in shapes})
    matches = match(layers, shapes, names, ordered=ordered)
    if given.tied and (matches.missing or matches.unused):
        # A tied head is one table here and two names there.
        layout = slots(given.arrays)
        again_there = {slot.name for name in given.tied for slot in layout[name]}
        untied = {name: shape for name, shape in shapes.items() if name not in again_there}
        again = match(layers, untied, names, ordered=ordered)
        if not again.missing and not again.unused:
            return again
    return matches


def _block_names(model: Transformer, shapes: Mapping[str, Any]) -> dict[str, str]:
    """Our blocks' names in `nn.TransformerEncoder`, where the state dict has one."""
    prefixes = {found[1] or "" for found in map(_BLOCK.match, shapes) if found}
    if len(prefixes) != 1:
        return {}
    (prefix,) = prefixes
    parts = {"attention": "self_attn", "dense_0": "linear1", "dense_1": "linear2"}
    parts |= {} if model.norm is None else {"norm_0": "norm1", "norm_1": "norm2"}
    return {f"block_{{}}/{ours}": f"{prefix}layers.{{}}.{theirs}" for ours, theirs in parts.items()}


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes of arrays, by their names."""
    return {name: array.shape for name, array in arrays.items()}


def unpaired(
    found: Prepared, matches: Matches, layers: Sequence[Layer], arrays: Mapping[str, Any]
) -> str:
    """The message where layers are left over."""
    if matches.contrary:
        fix = (
            f"equal names must have equal shapes, but not so {', '.join(matches.contrary)}; change "
        )
        fix += f"the model, or pass names={{{matches.contrary[0]!r}: ...}}, or strict=False"
    else:
        ours, theirs = (
            names[0] if names else other
            for names, other in (
                (matches.missing, "layer here"),
                (matches.unused, "name there"),
            )
        )
        fix = f"pass names={{{ours!r}: {theirs!r}, ...}}, or strict=False"
    return (
        f"each layer of {name_of(found.model)} must have one partner in the state dict, got layers "
        "that names, order and shapes do not pair\n"
        f"{told(matches, layers, shapes_of(arrays))}\n{fix}"
    )
