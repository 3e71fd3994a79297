"""Which layer of a model is which of a state dict: by names, by order, or by shape."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdl.interop.equal_names import equal_names, same_words
from jaxdl.interop.model_layers import Layer
from jaxdl.interop.moves import COUNT, LEAVES

_MOST_LINES = 30

Shapes = Mapping[str, tuple[int, ...]]
Names = Mapping[str, str | None] | Callable[[str], str | None]


@dataclass(frozen=True)
class Matches:
    """What belongs to what.

    Attributes:
        pairs: by a layer's path here, its name there.
        missing: layers here without one there.
        unused: names there without one here.
        contrary: of these, layers that have one name on both sides and two shapes.
    """

    pairs: Mapping[str, str]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    contrary: tuple[str, ...] = ()


def units_of(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The layers of a state dict, each with its variables' shapes; a lone parameter has "".

    Example:
        >>> units_of({"0.weight": (2, 3), "0.bias": (2,), "token": (1, 4)})
        {'0': {'weight': (2, 3), 'bias': (2,)}, 'token': {'': (1, 4)}}
    """
    units: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        prefix, _, last = name.rpartition(".")
        if last in LEAVES:
            units.setdefault(prefix, {})[last] = shape
        else:
            units.setdefault(name, {})[""] = shape
    return units


def match(
    layers: Sequence[Layer], shapes: Shapes, names: Names | None, *, ordered: bool
) -> Matches:
    """The pairs of a model's layers and a state dict's.

    Named ones first, then those that have one name on both sides; if their shapes differ they have
    no partner. The others are all paired in order if both lists have the same shapes in the same
    places. Else those are paired whose shapes occur once on each side, or whose names differ in
    their numbers alone, within and between the sides; these are paired by their numbers.

    Arguments:
        layers: the model's, in order of execution.
        shapes: the tensors' of the state dict, unpacked.
        names: see `from_state_dict`.
        ordered: whether the order of the state dict may be the network's.

    Raises:
        ValueError: names that neither side has, or that name one of theirs twice.
    """
    units = units_of(shapes)
    pairs, left = _named(layers, units, names)
    ours = [each for each in layers if each.path not in pairs and each.path not in left]
    taken = set(pairs.values())
    theirs = [unit for unit in units if unit not in taken]
    same = equal_names([each.path for each in ours], theirs)
    contrary = [each.path for each in ours if each.path in same and not _fits(each, units, same)]
    pairs |= {path: unit for path, unit in same.items() if path not in contrary}
    places = [
        [place for place, name in enumerate(side) if name not in done]
        for side, done in (([each.path for each in ours], same), (theirs, {*same.values()}))
    ]
    ours = [ours[place] for place in places[0]]
    theirs = [theirs[place] for place in places[1]]
    here = [_signature(each.shapes(), each.lone) for each in ours]
    there = [_signature(units[unit], unit.rpartition(".")[2]) for unit in theirs]
    ordered = ordered and places[0] == places[1]
    if here == there and (ordered or len(set(here)) == len(here)):
        pairs |= {layer.path: unit for layer, unit in zip(ours, theirs, strict=True)}
    else:
        every = [each.path for each in layers], list(units)
        for signature in dict.fromkeys(here):
            alike = tuple(
                each.path for each, own in zip(ours, here, strict=True) if own == signature
            )
            others = tuple(
                each for each, own in zip(theirs, there, strict=True) if own == signature
            )
            if len(alike) == len(others) and (len(alike) == 1 or same_words(*every, alike, others)):
                pairs |= dict(zip(_by_number(alike), _by_number(others), strict=True))
    return Matches(
        pairs,
        tuple(each.path for each in layers if each.path not in pairs),
        tuple(unit for unit in units if unit not in pairs.values()),
        tuple(contrary),
    )


def _fits(layer: Layer, units: Mapping[str, Shapes], partner: Mapping[str, str]) -> bool:
    """Whether a layer has the shapes of its partner, perhaps the table of an nn.Embedding."""
    got = units[partner[layer.path]]
    if layer.lone is not None and got.keys() == {"weight"}:
        got = {"": got["weight"]}
    return bool(_signature(layer.shapes(), None) == _signature(got, None))


def _signature(shapes: Shapes, lone: str | None) -> Any:
    known = frozenset((name, shape) for name, shape in shapes.items() if name != COUNT)
    return known, lone if "" in shapes else None


def _by_number(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _named(
    layers: Sequence[Layer], units: Mapping[str, Shapes], names: Names | None
) -> tuple[dict[str, str], set[str]]:
    """The pairs that are named, and the layers that are said to have none."""
    paths = {each.path: each for each in layers}
    if names is None:
        return {}, set()
    say = names if callable(names) else _by_pattern(names, paths)
    pairs: dict[str, str] = {}
    left: set[str] = set()
    for path, layer in paths.items():
        name = say(path)
        if name is None:
            if not callable(names) and _rule(names, path) is not None:
                left.add(path)
            continue
        if name not in units:
            near = difflib.get_close_matches(name, units, n=3) or list(units)[:3]
            raise ValueError(
                f"names must name layers of the state dict, got {name!r} for {path!r}; nearest are "
                f"{near}"
            )
        if name in pairs.values():
            raise ValueError(f"names must name each layer once, got {name!r} twice; change one")
        pairs[path] = name
        if not _fits(layer, units, pairs):
            raise ValueError(
                "layers that belong together must have one shape, got "
                f"{describe(path, layer.shapes())} here and {describe(name, units[name])} there, "
                "in PyTorch's order of axes; change the model or names"
            )
    return pairs, left


def own_names(layers: Sequence[Layer], names: Names | None) -> dict[str, str]:
    """Names there for a state dict that nobody has yet: those given, else the paths with dots.

    Raises:
        ValueError: one name for two layers, or names of no layer.
    """
    paths = {each.path: each for each in layers}
    say = names if callable(names) else _by_pattern(names or {}, paths)
    pairs = {path: say(path) or path.replace("/", ".") for path in paths}
    if twice := [name for name in pairs.values() if list(pairs.values()).count(name) > 1]:
        raise ValueError(f"names must name each layer once, got {twice[0]!r} twice; change one")
    return pairs


def _by_pattern(
    names: Mapping[str, str | None], paths: Mapping[str, Layer]
) -> Callable[[str], str | None]:
    unknown = [each for each in names if all(_found(each, path) is None for path in paths)]
    if unknown:
        raise ValueError(
            f"names must map layers of the model, got {unknown}; it has {', '.join(paths)}"
        )

    def say(path: str) -> str | None:
        pattern = _rule(names, path)
        if pattern is None or names[pattern] is None:
            return None
        found = _found(pattern, path)
        assert found is not None
        rest = path[found.end() :].replace("/", ".")
        theirs = str(names[pattern])
        if theirs.count("{}") > len(found.groups()):
            raise ValueError(
                f"names must have no more {{}} there than here, got {pattern!r}: {theirs!r}; take "
                "one away"
            )
        numbers = iter(found.groups())
        return re.sub(r"\{\}", lambda _: next(numbers), theirs) + rest

    return say


def _rule(names: Mapping[str, str | None], path: str) -> str | None:
    """The longest of the patterns that name a layer or what it stands in."""
    fitting = [each for each in names if _found(each, path) is not None]
    return max(fitting, key=len, default=None)


def _found(pattern: str, path: str) -> re.Match[str] | None:
    return re.match(re.escape(pattern).replace(r"\{\}", r"(\d+)") + r"(?=/|$)", path)


def describe(name: str, shapes: Shapes) -> str:
    """A layer and its shapes, in one line.

    Example:
        >>> describe("dense_0", {"weight": (2, 3), "bias": (2,)})
        'dense_0: weight (2, 3), bias (2,)'
    """
    each = (f"{leaf} {shape}".strip() for leaf, shape in shapes.items() if leaf != COUNT)
    return f"{name or '(the model)'}: {', '.join(each)}"


def told(matches: Matches, layers: Sequence[Layer], shapes: Shapes) -> str:
    """What has no partner on either side, with shapes in PyTorch's order of axes."""
    paths, units = {each.path: each.shapes() for each in layers}, units_of(shapes)
    lines = []
    for title, names, known in (
        ("only in the model", matches.missing, paths),
        ("only in the state dict", matches.unused, units),
    ):
        lines += [f"{title}:"] if names else []
        lines += [f"  {describe(name, known[name])}" for name in names[:_MOST_LINES]]
        more = len(names) - _MOST_LINES
        lines += [f"  and {more} more"] if more > 0 else []
    return "\n".join(lines)
