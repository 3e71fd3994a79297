"""The values of a labelled program that are looked at, and the parameters that belong to each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn, Literal, Var

from jaxdl.diagnostics.signal.labels import LABEL
from jaxdl.diagnostics.signal.levels import Level, Step, before_moves
from jaxdl.jaxprs import scan_parts

Source = Level | int
"""What gives a value an axis more: the scan, or the vmap by its number from the inside out."""


class Own(NamedTuple):
    """A parameter of a site's module.

    Attributes:
        leaf: its place among the leaves of the parameters.
        axes: its axes of layers, by what maps over them.
        depth: how far below its module it stands; None if no module reads it as its own.
    """

    leaf: int
    axes: Mapping[Source, int]
    depth: int | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """A value of the program, once for all layers of a scan.

    Attributes:
        level: where it is computed.
        variable: its variable there.
        root: the variable that this one is a moved copy of, or itself.
        path: its module's path as the module knows it; None of a value that no module gave.
        part: "[0]", "[1]" ... of a module that gives several.
        kind: its module's class; "" of a value that no module gave.
        own: the parameters that belong to it.
        mapped: the axes over which vmaps around the module run, by their number.
    """

    level: Level
    variable: Var
    root: Var
    path: tuple[str, ...] | None
    part: str
    kind: str
    own: tuple[Own, ...]
    mapped: Mapping[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value in its level."""
        aval: Any = self.variable.aval
        return tuple(aval.shape)

    @property
    def dtype(self) -> Any:
        """The value's dtype."""
        aval: Any = self.variable.aval
        return aval.dtype

    @property
    def scans(self) -> list[Level]:
        """The scans around it, from the outside in."""
        found, level = [], self.level
        while level.above is not None:
            found.append(level)
            level = level.above
        return found[::-1]


def find_sites(top: Level, leaves: int, outputs: Sequence[Any]) -> list[Site]:
    """The values to look at, in order of execution, and cut every level after them.

    These are the outputs of modules that call no other module, and what plain functions make of
    them before a module receives it or the model returns it. Only what depends on a parameter is a
    signal. A value that was moved or rounded is the same value.

    Arguments:
        top: a written-out program with labels. Its first inputs are the parameters.
        leaves: the number of parameters.
        outputs: the atoms of the model's outputs.
    """
    found: dict[tuple[Level, Var], Site] = {}
    decided: dict[tuple[Level, int], frozenset[int]] = {}
    for level, _, equation in top.walk():
        if equation.primitive.name != LABEL:
            continue
        value = equation.invars[0]
        mapped = equation.params["mapped"]
        here = (level, len(mapped))
        if equation.params["path"] is None:
            members = decided.get(here, frozenset())
        else:
            # Of several examples at once the parameters are shared; of several models they are not.
            members = decided[here] = frozenset(
                number for number, axes in enumerate(mapped) if any(a is not None for a in axes[1:])
            )
        positions = _positions(mapped, 0)
        root, axes = before_moves(level.program, level.made_by, value, list(positions.values()))
        for where in _origins(level, value, set()):
            if where in found or not where[0].is_learned(where[1]):
                continue
            given = equation.params["path"] is not None and where == (level, root)
            if given:
                assert isinstance(value, Var)
                of_value, variable = positions, value
            else:
                followed = where == (level, root) and axes is not None
                of_value = dict(zip(positions, axes or (), strict=False)) if followed else {}
                variable = where[1]
            found[where] = Site(
                where[0],
                variable,
                where[1],
                path=equation.params["path"] if given else None,
                part=equation.params["part"] if given else "",
                kind=equation.params["kind"] if given else "",
                own=tuple(_own(level, equation, leaves)) if given else (),
                mapped={number: axis for number, axis in of_value.items() if number in members},
            )
    ordered = sorted(found, key=lambda where: _when(*where))
    sites = [found[where] for where in ordered]
    for level in _levels(top):
        numbers = {site.variable: n for n, site in enumerate(sites) if site.level is level}
        level.cut(numbers, level.program.outvars if level.above else outputs)
    return _with_the_rest(top, sites, leaves)


def _with_the_rest(top: Level, sites: list[Site], leaves: int) -> list[Site]:
    """A parameter that no module reads as its own belongs to the first value computed with it."""
    owned = {own.leaf for site in sites for own in site.own}
    waiting: dict[int, Own] = {}
    claimed: dict[int, list[Own]] = {}
    number = None
    for level, step in _steps(top):
        for variable in step.segment.reads:
            own = _leaf(level, variable, {}, leaves)
            if own is not None and own.leaf not in owned:
                waiting.setdefault(own.leaf, own)
                owned.add(own.leaf)
        if step.site is not None:
            number = step.site
            claimed.setdefault(number, []).extend(waiting.values())
            waiting.clear()
    if number is not None:
        claimed[number].extend(waiting.values())
    more = [tuple(claimed.get(number, ())) for number in range(len(sites))]
    return [replace(site, own=site.own + own) for site, own in zip(sites, more, strict=True)]


def _steps(level: Level) -> Iterator[tuple[Level, Step]]:
    """The pieces of the program in order of execution."""
    for step in level.steps:
        yield level, step
        if step.scan is not None:
            yield from _steps(step.scan)


def _levels(level: Level) -> Iterator[Level]:
    yield level
    for scan in level.scans.values():
        yield from _levels(scan)


def _when(level: Level, variable: Var) -> list[int]:
    """A key by which values are sorted in the order of execution."""
    key = [level.made_by[variable]]
    while level.above is not None:
        key.append(level.place)
        level = level.above
    return key[::-1]


def _origins(level: Level, atom: Any, seen: set[Any]) -> list[tuple[Level, Var]]:
    """Where a value was computed: several places if a scan carries it."""
    atom, _ = before_moves(level.program, level.made_by, atom)
    if isinstance(atom, Literal) or (level, atom) in seen:
        return []
    seen.add((level, atom))
    place = level.made_by.get(atom)
    if place in level.scans:
        inner = level.scans[place]
        out = level.program.eqns[place].outvars.index(atom)
        return _origins(inner, inner.program.outvars[out], seen)
    if place is not None:
        return [(level, atom)]
    if level.above is None or level.scan is None or atom not in level.program.invars:
        return []
    index = level.program.invars.index(atom)
    found = _origins(level.above, level.scan.invars[index], seen)
    consts, carries = scan_parts(level.scan)
    if consts <= index < consts + carries:
        found += _origins(level, level.program.outvars[index - consts], seen)
    return found


def _own(level: Level, label: JaxprEqn, leaves: int) -> Iterator[Own]:
    depths = label.params["depths"]
    for operand, depth in enumerate(depths, start=1):
        axes: dict[Source, int] = {}
        axes |= dict(_positions(label.params["mapped"], operand).items())
        own = _leaf(level, label.invars[operand], axes, leaves)
        if own is not None:
            yield own._replace(depth=depth)


def _leaf(level: Level, atom: Any, axes: dict[Source, int], leaves: int) -> Own | None:
    """The parameter that a value is a moved copy or, in a scan, a slice of."""
    while True:
        atom, moved = before_moves(level.program, level.made_by, atom, list(axes.values()))
        axes = {} if moved is None else dict(zip(axes, moved, strict=True))
        if isinstance(atom, Literal) or atom not in level.program.invars:
            return None
        index = level.program.invars.index(atom)
        if level.above is None or level.scan is None:
            return Own(index, axes) if index < leaves else None
        consts, carries = scan_parts(level.scan)
        if consts <= index < consts + carries:
            return None
        if index >= consts + carries:
            inner = [(source, axis + 1) for source, axis in axes.items()]
            axes = dict([(level, 0), *inner])
        atom, level = level.scan.invars[index], level.above


def _positions(mapped: Sequence[Sequence[int | None]], operand: int) -> dict[int, int]:
    """By the number of each vmap that maps over an operand, its axis there."""
    found: dict[int, int] = {}
    for number, axes in enumerate(mapped):
        axis = axes[operand] if operand < len(axes) else None
        if axis is not None:
            found = {other: place + (place >= axis) for other, place in found.items()}
            found[number] = axis
    return found
