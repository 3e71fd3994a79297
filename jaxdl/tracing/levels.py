"""A labelled program as nested levels: its own equations, and those in the bodies of its scans.

A scan over layers holds the program of one layer. Its values are found there, and have an axis more
outside. So a network of scanned blocks is analysed and compiled as fast as one block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxdl.jaxprs import (
    Segment,
    cut,
    holds_primitive,
    inner_programs,
    makers,
    scan_parts,
    shape_of,
    size_of,
    value_of,
)
from jaxdl.tracing.labels import LABEL

# These operations move or round values: a reshaped value is the same signal.
MOVES = {
    LABEL, "reshape", "squeeze", "expand_dims", "transpose", "convert_element_type", "copy",
    "sharding_constraint", "optimization_barrier",
}  # fmt: skip
_CALLS = {"jit", "pjit", "closed_call"}


class Step(NamedTuple):
    """Straight-line code, then a value that is looked at, or a scan that holds some."""

    segment: Segment
    site: int | None = None
    scan: "Level | None" = None


@dataclass(eq=False)
class Level:
    """A program without calls around labels, or the body of one of its scans.

    Attributes:
        program: its equations.
        consts: the values of its constants.
        above: the level of the scan whose body this is; None for the whole program.
        scan: the scan's equation.
        place: its index there.
        scans: by the index of its equation, each scan that holds labels.
        learned: the variables that depend on a parameter.
        steps: the program, cut.
        outputs: the atoms that `run` gives.
        variables: by its number, the variable of each site of this level.
    """

    program: Jaxpr
    consts: Sequence[Any]
    above: "Level | None" = None
    scan: JaxprEqn | None = None
    place: int = 0
    scans: dict[int, "Level"] = field(default_factory=dict)
    learned: set[Var] = field(default_factory=set)
    steps: tuple[Step, ...] = ()
    outputs: Sequence[Any] = ()
    variables: dict[int, Var] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.made_by = makers(self.program)
        for place, equation in enumerate(self.program.eqns):
            if equation.primitive.name == "scan" and any(
                holds_primitive(inner, LABEL) for inner in inner_programs(equation)
            ):
                body: ClosedJaxpr = equation.params["jaxpr"]
                self.scans[place] = Level(body.jaxpr, body.consts, self, equation, place)

    def walk(self) -> Iterator[tuple["Level", int, JaxprEqn]]:
        """Every equation in order of execution, with its level and its index there."""
        for place, equation in enumerate(self.program.eqns):
            if place in self.scans:
                yield from self.scans[place].walk()
            else:
                yield self, place, equation

    def levels(self) -> Iterator["Level"]:
        """This level, and those within."""
        yield self
        for scan in self.scans.values():
            yield from scan.levels()

    def around(self) -> tuple["Level", ...]:
        """The scans around its equations, from the outside in, its own included."""
        return () if self.above is None else (*self.above.around(), self)

    def mark_learned(self, inputs: Sequence[bool]) -> list[bool]:
        """Find what depends on inputs that do; whether each output does."""
        given = zip(self.program.invars, inputs, strict=True)
        self.learned.update(variable for variable, is_learned in given if is_learned)
        for place, equation in enumerate(self.program.eqns):
            reads = [self.is_learned(atom) for atom in equation.invars]
            gives = [any(reads)] * len(equation.outvars)
            if place in self.scans:
                consts, carries = scan_parts(equation)
                before = None
                while before != reads:  # what a step gives is what the next one reads
                    before = list(reads)
                    gives = self.scans[place].mark_learned(reads)
                    for carry in range(carries):
                        reads[consts + carry] |= gives[carry]
            made = zip(equation.outvars, gives, strict=True)
            self.learned.update(variable for variable, is_learned in made if is_learned)
        return [self.is_learned(atom) for atom in self.program.outvars]

    def is_learned(self, atom: Any) -> bool:
        """Whether a value depends on a parameter."""
        return not isinstance(atom, Literal) and atom in self.learned

    def cut(self, sites: Mapping[Var, int], outputs: Sequence[Any]) -> None:
        """Cut the program after each site, and around each scan.

        Arguments:
            sites: the numbers of this level's sites by their variables.
            outputs: the atoms needed at the end.
        """
        self.outputs = outputs
        self.variables = {number: variable for variable, number in sites.items()}
        ends: list[tuple[int, Any]] = [(self.made_by[each], each) for each in sites]
        ends = sorted([*ends, *self.scans.items()], key=lambda end: end[0])
        stops = [end if isinstance(end, Var) else place for place, end in ends]
        segments = cut(self.program, stops, outputs)
        steps = [
            Step(segment, sites[end]) if isinstance(end, Var) else Step(segment, scan=end)
            for segment, (_, end) in zip(segments, ends, strict=False)
        ]
        self.steps = (*steps, Step(segments[-1]))

    def run(
        self,
        inputs: Sequence[Any],
        taps: Mapping[int, Any],
        on_site: "OnSite",
    ) -> tuple[list[Any], dict[int, Any]]:
        """The program's outputs, and what `on_site` kept of each site.

        Arguments:
            inputs: the program's.
            taps: by a site's number, what is handed to `on_site` with its value.
            on_site: see `OnSite`.
        """
        values: dict[Var, Any] = dict(zip(self.program.constvars, self.consts, strict=True))
        values.update(zip(self.program.invars, inputs, strict=True))
        kept: dict[int, Any] = {}
        for step in self.steps:
            given = step.segment.run([values[variable] for variable in step.segment.reads])
            values.update(zip(step.segment.gives, given, strict=True))
            if step.site is not None:
                variable = self.variables[step.site]
                values[variable], kept[step.site] = on_site(
                    step.site, values[variable], taps.get(step.site), step.segment, values
                )
            elif step.scan is not None:
                assert step.scan.scan is not None
                equation = step.scan.scan
                operands = [value_of(atom, values) for atom in equation.invars]
                results, inner = step.scan.run_scan(operands, taps, on_site)
                values.update(zip(equation.outvars, results, strict=True))
                kept |= inner
        return [value_of(atom, values) for atom in self.outputs], kept

    def run_scan(
        self, operands: Sequence[Any], taps: Mapping[int, Any], on_site: "OnSite"
    ) -> tuple[list[Any], dict[int, Any]]:
        """`run` for every step of the scan; what is kept has an axis of steps."""
        assert self.scan is not None
        consts, carries = scan_parts(self.scan)
        own = {number: taps[number] for number in self.numbers() if number in taps}

        def body(carry: list[Any], slices: Any) -> tuple[list[Any], Any]:
            xs, own = slices
            outputs, kept = self.run([*operands[:consts], *carry, *xs], own, on_site)
            return outputs[:carries], (outputs[carries:], kept)

        carry, (stacked, kept) = jax.lax.scan(
            body,
            list(operands[consts : consts + carries]),
            (list(operands[consts + carries :]), own),
            length=self.scan.params["length"],
            reverse=self.scan.params["reverse"],
        )
        return [*carry, *stacked], kept

    @property
    def length(self) -> int:
        """How often the body runs; 1 of the whole program."""
        return 1 if self.scan is None else int(self.scan.params["length"])

    def numbers(self) -> list[int]:
        """The numbers of the sites here and in the scans within."""
        inner = (number for scan in self.scans.values() for number in scan.numbers())
        return [*self.variables, *inner]


OnSite = Callable[[int, Any, Any, Segment, Mapping[Var, Any]], tuple[Any, Any]]
"""(number, value, tap, code that made it, values before) -> value to go on with, what is kept."""


def before_moves(
    program: Jaxpr,
    made_by: Mapping[Var, int],
    atom: Any,
    axes: Sequence[int] = (),
    *,
    through_transpose: bool = True,
) -> tuple[Any, tuple[int, ...] | None]:
    """The value that `atom` is a moved or rounded copy of, and where its axes stand there.

    Arguments:
        axes: some axes of `atom`; None if they cannot be followed.
        through_transpose: whether a transposed value is a copy, too.
    """
    known: tuple[int, ...] | None = tuple(axes)
    while not isinstance(atom, Literal) and atom in made_by:
        equation = program.eqns[made_by[atom]]
        name = equation.primitive.name
        if _is_move(equation) and (through_transpose or name != "transpose"):
            known = _axes_before(equation, known)
            # A barrier moves several values at once.
            atom = equation.invars[equation.outvars.index(atom)]
        elif name in _CALLS and "jaxpr" in equation.params:
            inner = equation.params["jaxpr"].jaxpr
            out = inner.outvars[equation.outvars.index(atom)]
            source, inside = before_moves(inner, makers(inner), out, known or ())
            if source not in inner.invars:
                break
            known = None if known is None else inside
            atom = equation.invars[inner.invars.index(source)]
        else:
            break
    return atom, known


def _is_move(equation: JaxprEqn) -> bool:
    """Whether it moves or rounds; x[:, None] is a broadcast to as many entries."""
    if equation.primitive.name == "broadcast_in_dim":
        return size_of(equation.invars[0]) == size_of(equation.outvars[0])
    return equation.primitive.name in MOVES


def _axes_before(equation: JaxprEqn, axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if not axes:
        return axes
    if equation.primitive.name == "transpose":
        return tuple(equation.params["permutation"][axis] for axis in axes)
    before, after = (shape_of(atoms[0]) for atoms in (equation.invars, equation.outvars))
    kept = max(axes) + 1
    return axes if before == after or before[:kept] == after[:kept] else None
