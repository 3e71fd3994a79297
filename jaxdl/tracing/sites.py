"""The values of a labelled program that are looked at, and the parameters that belong to each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn, Literal, Var

from jaxdl.jaxprs import scan_parts
from jaxdl.tracing.labels import LABEL
from jaxdl.tracing.levels import Level, Step, before_moves
from jaxdl.tracing.softmaxes import find_attention

ATTENTION = "attention"

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
        features: how many of the last axes tell units apart; or the axis of channels, from the end.
        mapped: the axes over which vmaps around the module run, by their number.
        logits: of the weights of an attention what their softmax is taken of.
        keys: the axis of that softmax.
    """

    level: Level
    variable: Var
    root: Var
    path: tuple[str, ...] | None = None
    part: str = ""
    kind: str = ""
    own: tuple[Own, ...] = ()
    features: int = 1
    mapped: Mapping[int, int] = field(default_factory=dict)
    logits: Any = None
    keys: int = -1

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
    def scans(self) -> tuple[Level, ...]:
        """The scans around it, from the outside in."""
        return self.level.around()


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
    # By level and number of vmaps, over which of them models are mapped, and not examples.
    members: dict[tuple[Level, int], frozenset[int]] = {}
    carried: list[Site] = []
    for level, place, label in top.walk():
        if label.primitive.name != LABEL:
            continue
        mapped = label.params["mapped"]
        if label.params["path"] is not None:
            # Several models have parameters of their own; several examples share them.
            members[level, len(mapped)] = frozenset(
                number for number, axes in enumerate(mapped) if any(a is not None for a in axes[1:])
            )
        of_models = members.get((level, len(mapped)), frozenset())
        for origin in _origins(level, label.invars[0], set()):
            if origin in found or not origin[0].is_learned(origin[1]):
                continue
            site = _site(origin, level, label, of_models, leaves)
            if origin[0] is level and level.made_by[origin[1]] < place:
                found[origin] = site
            else:  # a scan carries it to an earlier label; who gives it may follow
                carried.append(site)
    for site in carried:
        found.setdefault((site.level, site.root), site)
    for site in _attentions(top, leaves, is_mapped=any(members.values())):
        weights = (site.level, site.variable)
        known = found.get(weights, site)  # a dropout may receive or even give the weights
        found[weights] = replace(
            known, kind=known.kind or ATTENTION, logits=site.logits, keys=site.keys
        )
    sites = sorted(found.values(), key=lambda site: _when(site.level, site.variable))
    for number, site in enumerate(sites):
        before = site_before(sites, number)
        if before is None or site.path is not None or site.kind == ATTENTION:
            continue
        # The units of an activation, also after a pooling, stand where those before it do.
        channels_first = (
            before.features < 0
            and len(site.shape) == len(before.shape)
            and site.shape[before.features] == before.shape[before.features]
        )
        if site.shape == before.shape or channels_first:
            sites[number] = replace(site, features=before.features)
    for level in top.levels():
        numbers = {site.variable: n for n, site in enumerate(sites) if site.level is level}
        level.cut(numbers, level.program.outvars if level.above else outputs)
    return _with_the_rest(top, sites, leaves)


def _site(
    origin: tuple[Level, Var],
    level: Level,
    label: JaxprEqn,
    of_models: frozenset[int],
    leaves: int,
) -> Site:
    """The site of a label's value, which was computed at its origin."""
    value = label.invars[0]
    positions = positions_of(label.params["mapped"], 0)

    def at(axes: Sequence[int]) -> dict[int, int]:
        return {
            number: axis
            for number, axis in zip(positions, axes, strict=False)
            if number in of_models
        }

    if origin[0] is not level or origin[1] != before_moves(level.program, level.made_by, value)[0]:
        # Carried by a scan, or computed in one.
        return Site(*origin, origin[1])
    if label.params["path"] is None:
        # The units are on the last axis where a module reads them: not before a transposition.
        variable, axes = before_moves(
            level.program, level.made_by, value, list(positions.values()), through_transpose=False
        )
        assert isinstance(variable, Var)
        return Site(level, variable, origin[1], mapped=at(axes or ()))
    assert isinstance(value, Var)
    return Site(
        level,
        value,
        origin[1],
        path=label.params["path"],
        part=label.params["part"],
        kind=label.params["kind"],
        own=tuple(_own(level, label, leaves)),
        features=label.params["features"],
        mapped=at(list(positions.values())),
    )


def site_before(sites: Sequence[Site], number: int) -> Site | None:
    """The site before another; the weights of an attention stand beside the values."""
    earlier = (site for site in reversed(sites[:number]) if site.kind != ATTENTION)
    return next(earlier, None)


def _attentions(top: Level, leaves: int, *, is_mapped: bool) -> Iterator[Site]:
    """The weights of attentions; not where models are mapped, whose axis nobody knows there."""
    if is_mapped:
        return
    for level in top.levels():

        def is_parameter(atom: Any, level: Level = level) -> bool:
            return source_of(level, atom, {}, leaves) is not None

        for each in find_attention(level, is_parameter):
            at = each.weights
            yield Site(level, at, at, kind=ATTENTION, logits=each.logits, keys=each.axis)


def _with_the_rest(top: Level, sites: list[Site], leaves: int) -> list[Site]:
    """A parameter that no module reads as its own belongs to the first value computed from it."""
    owned = {own.leaf for site in sites for own in site.own}
    waiting: dict[int, Own] = {}
    claimed: dict[int, list[Own]] = {}
    next_after: dict[int, int] = {}
    made_of: dict[Var, set[int]] = {}
    for level, step in _steps(top):
        for variable in step.segment.reads:
            own = source_of(level, variable, {}, leaves)
            if own is not None and own.leaf not in owned:
                waiting.setdefault(own.leaf, own)
                owned.add(own.leaf)
            if own is not None and own.leaf in waiting:
                made_of.setdefault(variable, set()).add(own.leaf)
        for equation in step.segment.program.eqns:
            read = [made_of.get(a, set()) for a in equation.invars if not isinstance(a, Literal)]
            if any(read):
                made_of.update((made, set().union(*read)) for made in equation.outvars)
        if step.site is None:
            continue
        for leaf in list(waiting):
            next_after.setdefault(leaf, step.site)
            if leaf in made_of.get(sites[step.site].variable, set()):
                claimed.setdefault(step.site, []).append(waiting.pop(leaf))
    # What a scan brings to another level belongs to the next value there.
    for leaf, own in waiting.items():
        if sites:
            claimed.setdefault(next_after.get(leaf, len(sites) - 1), []).append(own)
    more = [tuple(claimed.get(number, ())) for number in range(len(sites))]
    return [replace(site, own=site.own + own) for site, own in zip(sites, more, strict=True)]


def _steps(level: Level) -> Iterator[tuple[Level, Step]]:
    """The pieces of the program in order of execution."""
    for step in level.steps:
        yield level, step
        if step.scan is not None:
            yield from _steps(step.scan)


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
        axes = as_axes(positions_of(label.params["mapped"], operand))
        own = source_of(level, label.invars[operand], axes, leaves)
        if own is not None:
            yield own._replace(depth=depth)


def source_of(
    level: Level,
    atom: Any,
    axes: dict[Source, int],
    leaves: int | None = None,
    *,
    through_carry: bool = False,
) -> Own | None:
    """The input of the whole program that a value is a moved copy or, in a scan, a slice of.

    Arguments:
        axes: axes of the value, by what maps over them.
        leaves: how many of the first inputs count; None for all.
        through_carry: whether what a scan carries counts as the value that it starts with.
    """
    while True:
        atom, moved = before_moves(level.program, level.made_by, atom, list(axes.values()))
        axes = {} if moved is None else dict(zip(axes, moved, strict=True))
        if isinstance(atom, Literal) or atom not in level.program.invars:
            return None
        index = level.program.invars.index(atom)
        if level.above is None or level.scan is None:
            return Own(index, axes) if leaves is None or index < leaves else None
        consts, carries = scan_parts(level.scan)
        if consts <= index < consts + carries and not through_carry:
            return None
        if index >= consts + carries:
            inner = [(source, axis + 1) for source, axis in axes.items()]
            axes = dict([(level, 0), *inner])
        atom, level = level.scan.invars[index], level.above


def as_axes(mapped: Mapping[int, int]) -> dict[Source, int]:
    """Axes of vmaps, to which those of scans may be added."""
    axes: dict[Source, int] = {}
    for number, axis in mapped.items():
        axes[number] = axis
    return axes


def positions_of(mapped: Sequence[Sequence[int | None]], operand: int) -> dict[int, int]:
    """By the number of each vmap that maps over an operand, its axis there."""
    found: dict[int, int] = {}
    for number, axes in enumerate(mapped):
        axis = axes[operand] if operand < len(axes) else None
        if axis is not None:
            found = {other: place + (place >= axis) for other, place in found.items()}
            found[number] = axis
    return found
