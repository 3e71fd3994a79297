"""Layers that PyTorch packs into one tensor, as the single layers that they are.

`nn.MultiheadAttention` and the recurrent layers stack the weights of several layers. Here each has
a name, the one that Flax gives it: `query`, `key`, `value` and `out`, or `ii`, `hi`, `if`, ...
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

ATTENTION = ("query", "key", "value")
GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n"), 1: ("",)}
"""PyTorch's order of the gates of an LSTM, a GRU and a simple recurrence, by their number."""

_CELL = re.compile(r"(?:(.*)\.)?(weight|bias)_(ih|hh)(?:_l(\d+)(_reverse)?)?$")
_ATTENTION = re.compile(r"(?:(.*)\.)?(?:in_proj_(weight|bias)|([qkv])_proj_weight)$")


class Slot(NamedTuple):
    """A part of a packed tensor.

    Attributes:
        name: the single array that it belongs to.
        holds: whether it is that array; if not, it is added to it, and is zeros on the way back.
    """

    name: str
    holds: bool = True


def slots(state: Mapping[str, Any]) -> dict[str, list[Slot]]:
    """Of each tensor of a state dict, the parts that are stacked in it along its first axis.

    Raises:
        ValueError: a recurrence with a projection, which Flax does not have.

    Example:
        >>> layout = slots({"a.in_proj_bias": np.zeros(6), "b.weight": np.zeros((2, 2))})
        >>> [slot.name for slot in layout["a.in_proj_bias"]], layout["b.weight"][0].name
        (['a.query.bias', 'a.key.bias', 'a.value.bias'], 'b.weight')
    """
    attentions = {_joined(found[1], "") for found in map(_ATTENTION.match, state) if found}
    return {name: _slots(name, state, attentions) for name in state}


def _slots(name: str, state: Mapping[str, Any], attentions: set[str]) -> list[Slot]:
    if found := _ATTENTION.match(name):
        prefix, packed, letter = found.groups()
        which = [each for each in ATTENTION if letter in (None, each[0])]
        return [Slot(_joined(prefix, f"{each}.{packed or 'weight'}")) for each in which]
    owner, _, leaf = name.rpartition("out_proj.")
    if leaf in ("weight", "bias") and owner in attentions:
        return [Slot(f"{owner}out.{leaf}")]
    if found := _CELL.match(name):
        prefix, leaf, side, number, reverse = found.groups()
        return _of_cell(
            name, prefix, leaf, side, f"_l{number}{reverse or ''}" if number else "", state
        )
    return [Slot(name)]


def _of_cell(
    name: str, prefix: str | None, leaf: str, side: str, layer: str, state: Mapping[str, Any]
) -> list[Slot]:
    cell = prefix if layer in ("", "_l0") else _joined(prefix, layer.removeprefix("_"))
    hidden = np.shape(state.get(_joined(prefix, f"weight_hh{layer}"), ()))
    if len(hidden) != 2:
        return [Slot(name)]
    gates = GATES.get(hidden[0] // hidden[1])
    if gates is None or _joined(prefix, f"weight_hr{layer}") in state:
        raise ValueError(
            f"a recurrence must have no projection (proj_size), which Flax has not, got {name}"
        )
    # An LSTM here has its bias beside the state, the others beside the input; only a GRU's n has
    # both, because its reset gate stands between them.
    home = "h" if len(gates) == 4 else "i"
    if leaf == "weight":
        return [Slot(_joined(cell, f"{side[0]}{gate}.weight")) for gate in gates]
    return [
        Slot(
            _joined(cell, f"{side[0] if gate == 'n' else home}{gate}.bias"),
            gate == "n" or side[0] == home,
        )
        for gate in gates
    ]


def unpacked(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The single arrays of a state dict.

    Example:
        >>> found = unpacked({"rnn.weight_hh_l0": np.ones((8, 2)), "rnn.bias_hh_l0": np.ones(8),
        ...                   "rnn.bias_ih_l0": np.ones(8)})
        >>> found["rnn.hf.weight"].shape, found["rnn.hf.bias"].tolist()
        ((2, 2), [2.0, 2.0])
    """
    found: dict[str, np.ndarray] = {}
    layout = slots(state)
    for name, parts in layout.items():
        found |= dict.fromkeys((each for each in _in_order(name, parts, layout)), np.zeros(0))
    filled: set[str] = set()
    for name, parts in layout.items():
        values = [state[name]] if len(parts) == 1 else _split(name, state[name], len(parts))
        for slot, value in zip(parts, values, strict=True):
            if slot.name in filled:  # in double precision: it is rounded once, at the end
                value = found[slot.name].astype(np.float64) + value.astype(np.float64)
            found[slot.name] = value
            filled.add(slot.name)
    return found


def _split(name: str, value: np.ndarray, parts: int) -> list[np.ndarray]:
    if not value.ndim or value.shape[0] % parts:
        raise ValueError(f"{name} must stack {parts} parts along its first axis, got {value.shape}")
    return list(np.split(value, parts))


def _in_order(name: str, parts: list[Slot], layout: Mapping[str, list[Slot]]) -> list[str]:
    """Names in Flax's order of execution: of each gate the input's layer, then the state's."""
    if "weight_ih" not in name:
        return [slot.name for slot in parts]
    both = layout.get(name.replace("weight_ih", "weight_hh"), parts)
    return [slot.name for pair in zip(parts, both, strict=True) for slot in pair]


def packed(
    names: Iterable[str],
    layout: Mapping[str, list[Slot]],
    arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The tensors of a state dict from the single arrays; the inverse of `unpacked`.

    A sum of two biases goes into one of them, the other is zeros.
    """
    return {
        name: np.concatenate(
            [
                np.atleast_1d(arrays[slot.name] if slot.holds else np.zeros_like(arrays[slot.name]))
                for slot in layout[name]
            ]
        )
        if len(layout[name]) > 1
        else arrays[layout[name][0].name]
        if layout[name][0].holds
        else np.zeros_like(arrays[layout[name][0].name])
        for name in names
    }


def _joined(prefix: str | None, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
