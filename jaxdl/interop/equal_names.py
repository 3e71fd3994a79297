"""Layers that have one name on both sides, and names that differ in their numbers alone."""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

Parts = tuple[str, ...]
_ANY = re.compile(r"[./_]")
_STRICT = re.compile(r"[./]")


def equal_names(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """The layers of one name, ours to theirs.

    "/", "." and "_" part the words of a name. A prefix that all names of a side share may be left
    out. A number that stands alone is an index, and two lists may count in two ways, one with its
    activations: names with an index are equal only if both sides have the same indices.

    Example:
        >>> equal_names(["fc", "layer1_0/bn1"], ["net.layer1.0.bn1", "net.fc"])
        {'fc': 'net.fc', 'layer1_0/bn1': 'net.layer1.0.bn1'}
        >>> equal_names(["conv_0", "conv_1", "conv_2"], ["conv.0", "conv.2", "conv.4"])
        {}
    """
    best: dict[str, str] = {}
    for separator in (_ANY, _STRICT):
        for here in _forms(ours, separator):
            for there in _forms(theirs, separator):
                found = _equal(here, there)
                best = max(best, found, key=len)  # of equals the first, with less left out
    return best


def same_words(ours: Sequence[str], theirs: Sequence[str], here: Parts, there: Parts) -> bool:
    """Whether names differ in their numbers alone, within each side and between the sides.

    Arguments:
        ours: all names of this side, which may share a prefix.
        theirs: those of the other.
        here: the names in question of this side.
        there: those of the other.

    Example:
        >>> names = ("dense_0", "dense_1"), ("net.0", "net.2")
        >>> same_words(*names, *names)
        True
        >>> same_words(("a_0", "a_1", "b"), ("c.0", "c.2", "b"), ("a_0", "a_1"), ("c.0", "c.2"))
        False
    """
    of_ours, of_theirs = (
        [_words(form[name] for name in names) for form in _forms(every, _ANY)]
        for every, names in ((ours, here), (theirs, there))
    )
    return any(len(words) == 1 and words in of_theirs for words in of_ours)


def _words(names: Iterable[Parts]) -> set[Parts]:
    return {tuple(re.sub(r"\d+", "#", part) for part in name) for name in names}


def _forms(names: Sequence[str], separator: re.Pattern[str]) -> list[dict[str, Parts]]:
    """The names in parts: whole, and without the prefix that all share."""
    whole = {name: tuple(separator.split(name)) for name in names}
    columns = zip(*(parts[:-1] for parts in whole.values()), strict=False)
    shared = len([*takewhile(lambda column: len(set(column)) == 1, columns)])
    without = {name: parts[shared:] for name, parts in whole.items()}
    return [whole, without] if shared else [whole]


def _equal(ours: dict[str, Parts], theirs: dict[str, Parts]) -> dict[str, str]:
    owners = {parts: name for name, parts in theirs.items()}
    if len(owners) < len(theirs) or len(set(ours.values())) < len(ours):
        return {}  # a_b and a.b
    here, there = _families(ours.values()), _families(theirs.values())
    return {
        name: owners[parts]
        for name, parts in ours.items()
        if here[_family(parts)] == there.get(_family(parts)) and not all(map(str.isdigit, parts))
    }


def _families(names: Iterable[Parts]) -> dict[Parts, set[Parts]]:
    found: dict[Parts, set[Parts]] = {}
    for parts in names:
        found.setdefault(_family(parts), set()).add(parts)
    return found


def _family(parts: Parts) -> Parts:
    """The name without its indices; the 1 of "bn1" is part of a word."""
    return tuple("#" if part.isdigit() else part for part in parts)
