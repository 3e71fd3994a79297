"""Labels for a program without modules: where it reads its parameters.

A plain function has no modules, but its parameters have names. A row is the value of an operation
that brings parameters and data together, with those that follow at once and read their siblings: a
product and its bias, a norm's scale and offset.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxdl.jaxprs import (
    CONVOLUTION,
    equations,
    inner_programs,
    scan_parts,
    shape_of,
    size_of,
    value_of,
)
from jaxdl.tracing.dominators import Dominators
from jaxdl.tracing.labels import LABEL, bind_label
from jaxdl.tracing.levels import MOVES
from jaxdl.tracing.opened import run_equation, written_out

_KINDS = {"dot_general": "linear", CONVOLUTION: "convolution", "gather": "embedding"}
_SPREADS = {"add", "sub", "mul", "div"}
_MOVES = {*MOVES, "broadcast_in_dim"}

Names = tuple[str, ...]


@dataclass
class _Reading:
    """A value computed from parameters and data.

    Attributes:
        place: the equation that gives it.
        value: its variable.
        received: the value that came in.
        factor: what the parameter met; of a norm perhaps the deviation.
        leaves: by the number of each parameter read, the variable that holds it here.
        kind: what the row is called.
        features: as of `adapted.Called`.
    """

    place: int
    value: Var
    received: Var
    factor: Var
    leaves: dict[int, Var]
    kind: str
    features: int = 1


def label_readings(
    program: ClosedJaxpr, paths: Sequence[Names]
) -> tuple[ClosedJaxpr, tuple[str, ...]]:
    """The program with labels, as modules would have them, where it reads its parameters.

    Several that are read inside of one function with its own derivative, or one branch, share a
    row; their names are the second result.

    Arguments:
        program: its first inputs are the parameters.
        paths: of each parameter the names that lead to it.
    """
    opened, _ = written_out(program, everything=True)
    parameters = dict(zip(opened.jaxpr.invars, range(len(paths)), strict=False))
    used: Counter[Names] = Counter()
    hidden = _count(opened.jaxpr, parameters, paths, used)
    return _labelled(opened, parameters, paths, used), tuple(dict.fromkeys(hidden))


def _count(
    program: Jaxpr,
    parameters: Mapping[Var, int],
    paths: Sequence[Names],
    used: Counter[Names],
    constants: Sequence[Var] = (),
) -> list[str]:
    """Count the rows that read parameters with one parent; the names that stay hidden."""
    found = _Level(program, parameters, paths, constants)
    used.update(paths[next(iter(each.leaves))][:-1] for each in found.readings)
    hidden = found.hidden
    for body, inner, constant in found.scans():
        hidden += _count(body.jaxpr, inner, paths, used, constant)
    return hidden


def _labelled(
    program: ClosedJaxpr,
    parameters: Mapping[Var, int],
    paths: Sequence[Names],
    used: Counter[Names],
    constants: Sequence[Var] = (),
) -> ClosedJaxpr:
    found = _Level(program.jaxpr, parameters, paths, constants)
    after: dict[int, list[_Reading]] = {}
    for reading in found.readings:
        after.setdefault(reading.place, []).append(reading)
    bodies = iter(
        [_labelled(body, inner, paths, used, constant) for body, inner, constant in found.scans()]
    )

    def run(*arguments: Any) -> list[Any]:
        values: dict[Var, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        values.update(zip(program.jaxpr.invars, arguments, strict=True))
        for place, equation in enumerate(program.jaxpr.eqns):
            operands = [value_of(atom, values) for atom in equation.invars]
            if found.is_opened(equation):
                settings = {**equation.params, "jaxpr": next(bodies)}
                results = equation.primitive.bind(*operands, **settings)
            else:
                results = run_equation(program.jaxpr, equation, operands)
            values.update(zip(equation.outvars, results, strict=True))
            for reading in after.get(place, ()):
                _bind(reading, values, paths, used)
        return [value_of(atom, values) for atom in program.jaxpr.outvars]

    like = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars]
    return jax.make_jaxpr(run)(*like)


def _bind(
    reading: _Reading, values: Mapping[Var, Any], paths: Sequence[Names], used: Counter[Names]
) -> None:
    """Label the value that came in, and the row."""
    bind_label(values[reading.received], kind="")
    first = next(iter(reading.leaves))
    is_alone = len(paths[first]) > 1 and used[paths[first][:-1]] == 1
    bind_label(
        values[reading.value],
        *(values[variable] for variable in reading.leaves.values()),
        kind=reading.kind,
        path=paths[first][:-1] if is_alone else paths[first],
        depths=tuple(len(paths[leaf]) - len(paths[first]) + is_alone for leaf in reading.leaves),
        features=reading.features,
    )


class _Level:
    """The readings of one program, without those in its scans."""

    def __init__(
        self,
        program: Jaxpr,
        parameters: Mapping[Var, int],
        paths: Sequence[Names],
        constants: Sequence[Var] = (),
    ) -> None:
        self.program, self.paths = program, paths
        # A row owns a parameter as it enters, also where it reads what was computed from it.
        self.given = {leaf: variable for variable, leaf in parameters.items()}
        # What depends on parameters alone, with the parameters; everything else is data.
        self.held: dict[Any, tuple[int, ...]] = {v: (leaf,) for v, leaf in parameters.items()}
        self.held.update((variable, ()) for variable in (*program.constvars, *constants))
        self.source: dict[Any, Any] = {}
        self.readers = Counter(
            atom
            for equation in program.eqns
            for atom in {a for a in equation.invars if not isinstance(a, Literal)}
        )
        self.readings: list[_Reading] = []
        self.hidden: list[str] = []
        self.ways = Dominators()
        self.made_by: dict[Any, JaxprEqn] = {}
        for place, equation in enumerate(program.eqns):
            self._follow(place, equation)

    def is_opened(self, equation: JaxprEqn) -> bool:
        """Whether it is a scan that a parameter enters."""
        is_scan = equation.primitive.name == "scan"
        return is_scan and any(self._leaves(atom) for atom in equation.invars)

    def scans(self) -> Iterator[tuple[ClosedJaxpr, dict[Var, int], list[Var]]]:
        """The bodies of scans that parameters enter; what is a parameter or a constant there."""
        for equation in self.program.eqns:
            if not self.is_opened(equation):
                continue
            body: ClosedJaxpr = equation.params["jaxpr"]
            consts, carries = scan_parts(equation)
            parameters, constants = {}, []
            for number, atom in enumerate(equation.invars):
                variable, leaves = body.jaxpr.invars[number], self._leaves(atom)
                is_carried = consts <= number < consts + carries
                if len(leaves) == 1 and not is_carried:
                    parameters[variable] = leaves[0]
                elif self._is_data(atom) or leaves:
                    continue
                elif not is_carried or _counts(body.jaxpr, number, number - consts):
                    constants.append(variable)
            yield body, parameters, constants

    def _leaves(self, atom: Any) -> tuple[int, ...]:
        return () if isinstance(atom, Literal) else self.held.get(atom, ())

    def _is_data(self, atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom not in self.held

    def _follow(self, place: int, equation: JaxprEqn) -> None:
        data = [atom for atom in equation.invars if self._is_data(atom)]
        leaves: dict[int, Var] = {}
        for atom in equation.invars:
            variable: Any = atom
            for leaf in self._leaves(atom):
                leaves.setdefault(leaf, self.given.get(leaf, variable))
        if not data:
            self.held.update((made, tuple(leaves)) for made in equation.outvars)
            return
        for made in equation.outvars:
            self.ways.add(made, data)
            self.made_by[made] = equation
        if equation.primitive.name in _MOVES:
            self.source[equation.outvars[0]] = equation.invars[0]
        elif leaves and not self.is_opened(equation):
            self._note(place, equation, data[0], leaves)
        elif self.readings and equation.primitive.name in _SPREADS:
            self._spread(place, equation, data)

    def _note(self, place: int, equation: JaxprEqn, data: Any, leaves: dict[int, Var]) -> None:
        kind = _KINDS.get(equation.primitive.name, "parameters")
        owners = list(dict.fromkeys("/".join(self.paths[leaf][:-1]) for leaf in leaves))
        if len(owners) > 1 and inner_programs(equation):
            self.hidden += owners
        value = equation.outvars[0]
        last = self.readings[-1] if self.readings else None
        if last is not None and self._joins(last, data, leaves, kind):
            if data != last.value and last.kind == "linear":  # it was moved
                last.features = 1
            last.place, last.value = place, value
            last.leaves |= leaves
            return
        received, features = self._received(data, kind), self._features(equation, data)
        self.readings.append(_Reading(place, value, received, data, dict(leaves), kind, features))

    def _features(self, equation: JaxprEqn, data: Any) -> int:
        """Which axes of the value come from the kernel, as of `adapted.Called`."""
        axes = len(shape_of(equation.outvars[0]))
        if equation.primitive.name == CONVOLUTION:
            axis = equation.params["dimension_numbers"].out_spec[1]
            return 1 if axis == axes - 1 else axis - axes
        if equation.primitive.name != "dot_general":
            return 1
        contracted, batched = equation.params["dimension_numbers"]
        free = [
            len(shape_of(atom)) - len(summed) - len(shared)
            for atom, summed, shared in zip(equation.invars, contracted, batched, strict=True)
        ]
        if data is equation.invars[0]:
            return max(free[1], 1)
        return -1 - free[1] if free[0] == 1 and free[1] else 1

    def _joins(self, last: _Reading, data: Any, leaves: Mapping[int, Var], kind: str) -> bool:
        parents = {self.paths[leaf][:-1] for leaf in (*last.leaves, *leaves)}
        is_sibling = kind == "parameters" and len(parents) == 1  # a kernel has a row of its own
        return is_sibling and self._before(data) == last.value

    def _spread(self, place: int, equation: JaxprEqn, data: Sequence[Any]) -> None:
        """A scale of a norm meets the larger array that it belongs to."""
        last = self.readings[-1]
        value = equation.outvars[0]
        reads_it = any(self._before(atom) == last.value for atom in data)
        # Of scale / deviation and of the deviation alone: it is a factor, not yet the value.
        smallest = min(size_of(self._before(last.factor)), size_of(last.value))
        is_factor = last.kind == "parameters" and smallest < size_of(value)
        if reads_it and is_factor and self.readers[last.value] == 1:
            last.place, last.value = place, value

    def _received(self, data: Any, kind: str) -> Any:
        """What comes in: of a norm the value whose mean and deviation it takes."""
        if kind != "parameters":
            return data
        rows = {reading.value for reading in self.readings}
        here = self._before(data)
        while here not in rows and here in self.made_by and self._is_of_norm(here):
            here = self._before(self.ways.nearest(here))
        return here

    def _is_of_norm(self, value: Any) -> bool:
        """Whether it is a step of a norm: a mean, a deviation, what constants shift or scale."""
        before = self.ways.nearest(value)
        if before is None:
            return False
        steps = self.ways.between(before, value) | {value}
        if any("reduce" in self.made_by[step].primitive.name for step in steps):
            return True
        equation = self.made_by[value]
        reads = [atom for atom in equation.invars if self._is_data(atom)]
        name = equation.primitive.name  # jnp.var selects NaN where it takes too many degrees off
        is_affine = name in (*_SPREADS, "select_n") and len(reads) == 1
        return is_affine or name in ("sqrt", "rsqrt", "square", "integer_pow")

    def _before(self, atom: Any) -> Any:
        while atom in self.source:
            atom = self.source[atom]
        return atom


def _counts(body: Jaxpr, given: int, carried: int) -> bool:
    """Whether a carry is a counter: its next value is it and a number."""
    variable, after = body.invars[given], body.outvars[carried]
    made = [equation for equation in body.eqns if after in equation.outvars]
    if after is variable:
        return True
    reads = made[0].invars if made else []
    return bool(reads) and all(atom is variable or isinstance(atom, Literal) for atom in reads)


def holds_modules(program: Jaxpr) -> bool:
    """Whether a module labelled its output anywhere in the program."""
    return any(
        equation.primitive.name == LABEL and equation.params["path"] is not None
        for equation in equations(program)
    )
