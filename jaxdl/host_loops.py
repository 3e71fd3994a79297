"""Run a program's loops from the host: on a CPU a convolution inside a compiled loop is slow.

A step with the gradient of a convolution takes 25 times as long in a `scan` on a CPU. Here the same
program is taken apart: what stands outside such loops is compiled in pieces, and the body of a loop
is compiled once and called once an iteration. The numbers are the same to rounding.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jaxdl.freed_memory import keep_memory
from jaxdl.jaxprs import CONVOLUTION, Segment, holds_primitive, inner_programs

Values = list[Any]
Piece = tuple[tuple[Any, ...], tuple[Var, ...], Callable[..., Values]]
"""What a piece reads (variables and constants), what it gives, and the function."""


def with_loops_on_host(
    function: Callable[..., Any], compiler_options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """`function`, compiled in pieces: a scan that holds a convolution is driven from the host.

    A `scan` inside another, or inside a jitted function, is found too. Other loops are compiled as
    they are.

    Arguments:
        function: a pure function of arrays. It is traced once for arguments of one kind.
        compiler_options: of every piece.

    Example:
        >>> def run(x, kernel):
        ...     def step(x, _):
        ...         x = jax.lax.conv(x, kernel, (1, 1), "SAME")
        ...         return x, x.sum()
        ...     return jax.lax.scan(step, x, None, length=3)
        >>> x, sums = with_loops_on_host(run)(jnp.ones((1, 1, 4, 4)), jnp.full((1, 1, 1, 1), 2.0))
        >>> sums.tolist()
        [32.0, 64.0, 128.0]
    """
    keep_memory()
    traced: dict[Any, tuple[_Program, Sequence[Any], Any]] = {}
    tracing = threading.Lock()  # a sweep calls from several threads

    def trace(*arguments: Any) -> tuple[_Program, Sequence[Any], Any]:
        found: list[Any] = []

        def flat(*arguments: Any) -> Values:
            outputs, structure = jax.tree.flatten(function(*arguments))
            found.append(structure)
            return outputs

        program = jax.make_jaxpr(flat)(*arguments)
        return _Program(program.jaxpr, dict(compiler_options or {})), program.consts, found[-1]

    def run(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        kind = structure, tuple(jax.typeof(leaf) for leaf in leaves)
        with tracing:
            if kind not in traced:
                traced[kind] = trace(*arguments)
        program, consts, outputs = traced[kind]
        return jax.tree.unflatten(outputs, program(*consts, *leaves))

    return run


class _Program:
    """A traced program in pieces: (constants, arguments) -> outputs, flat."""

    def __init__(self, program: Jaxpr, options: dict[str, Any]) -> None:
        self.inputs = (*program.constvars, *program.invars)
        self.outputs = program.outvars
        self.pieces = [_piece(part, options) for part in _parts(program)]

    def __call__(self, *given: Any) -> Values:
        values: dict[Any, Any] = dict(zip(self.inputs, given, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for reads, gives, function in self.pieces:
            values.update(zip(gives, function(*map(read, reads)), strict=True))
        return [read(atom) for atom in self.outputs]


def is_slow_loop(equation: JaxprEqn) -> bool:
    """Whether an equation is a scan with a convolution in it."""
    return equation.primitive.name == "scan" and any(
        holds_primitive(inner, CONVOLUTION) for inner in inner_programs(equation)
    )


def _holds_slow_loop(program: Jaxpr) -> bool:
    return any(
        is_slow_loop(equation) or any(map(_holds_slow_loop, inner_programs(equation)))
        for equation in program.eqns
    )


def _is_call_to_open(equation: JaxprEqn) -> bool:
    """Whether the equation only calls a program, and that program holds a slow loop."""
    inner = inner_programs(equation)
    return equation.primitive.name in ("jit", "pjit", "closed_call") and any(
        map(_holds_slow_loop, inner)
    )


def _parts(program: Jaxpr) -> Iterator[Segment | JaxprEqn]:
    """The equations to be driven one by one, and between them segments of all others."""
    special = [
        i for i, eqn in enumerate(program.eqns) if is_slow_loop(eqn) or _is_call_to_open(eqn)
    ]
    start = 0
    for stop in (*special, len(program.eqns)):
        if stop > start:
            yield _segment(program, start, stop)
        if stop < len(program.eqns):
            yield program.eqns[stop]
        start = stop + 1


def _segment(program: Jaxpr, start: int, stop: int) -> Segment:
    inside = program.eqns[start:stop]
    later: set[Any] = {atom for eqn in program.eqns[stop:] for atom in _variables(eqn.invars)}
    later |= set(_variables(program.outvars))
    made = [variable for eqn in inside for variable in eqn.outvars]
    read = dict.fromkeys(atom for eqn in inside for atom in _variables(eqn.invars))
    reads = tuple(variable for variable in read if variable not in set(made))
    gives = tuple(variable for variable in made if variable in later)
    piece = program.replace(constvars=[], invars=list(reads), outvars=list(gives), eqns=inside)
    return Segment(reads, gives, piece)


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _piece(part: Segment | JaxprEqn, options: dict[str, Any]) -> Piece:
    if isinstance(part, Segment):
        compiled = jax.jit(lambda *values: part.run(values), compiler_options=options)
        return part.reads, part.gives, compiled
    gives = tuple(part.outvars)
    if is_slow_loop(part):
        return tuple(part.invars), gives, _Loop(part, options)
    return tuple(part.invars), gives, _called(part.params["jaxpr"], options)


def _called(closed: Any, options: dict[str, Any]) -> Callable[..., Values]:
    program = _Program(closed.jaxpr, options)
    return lambda *values: program(*closed.consts, *values)


@dataclass(frozen=True)
class _Body:
    """One iteration of a scan: (constants, carry, all rows, index) -> carry and its own row."""

    run: Callable[..., Values]
    row: Callable[..., Values]

    def __call__(self, constants: Values, carry: Values, rows: Values, index: Any) -> Values:
        return self.run(*constants, *carry, *self.row(rows, index))


class _Loop:
    """A scan, driven from the host."""

    def __init__(self, equation: JaxprEqn, options: dict[str, Any]) -> None:
        body = equation.params["jaxpr"]
        self.length, self.reverse = equation.params["length"], equation.params["reverse"]
        # How the parameters count constants, carry and rows differs between versions of JAX. But a
        # row has an axis more outside the body than inside, and constants and carry have not.
        self.carried = _alike(equation.outvars, body.jaxpr.outvars)
        self.constants = _alike(equation.invars, body.jaxpr.invars) - self.carried
        self.shapes: list[Any] = [variable.aval for variable in equation.outvars[self.carried :]]

        def row(rows: Values, index: Any) -> Values:
            return [jax.lax.dynamic_index_in_dim(each, index, keepdims=False) for each in rows]

        if _holds_slow_loop(body.jaxpr):
            self.body: Callable[..., Values] = _Body(_called(body, options), jax.jit(row))
        else:
            whole = Segment((), (), body.jaxpr.replace(constvars=[]))
            assert not body.jaxpr.constvars, "the constants of a scan's body are its arguments"
            plain = _Body(lambda *values: whole.run(values), row)
            self.body = jax.jit(plain.__call__, compiler_options=options)

    def __call__(self, *values: Any) -> Values:
        constants = list(values[: self.constants])
        carry = list(values[self.constants : self.constants + self.carried])
        rows = list(values[self.constants + self.carried :])
        order = range(self.length)
        made: list[Values] = []
        for index in reversed(order) if self.reverse else order:
            outputs = list(self.body(constants, carry, rows, index))
            carry = outputs[: self.carried]
            made.append(outputs[self.carried :])
        if not made:
            return [*carry, *(jnp.zeros(shape.shape, shape.dtype) for shape in self.shapes)]
        if self.reverse:
            made.reverse()
        return [*carry, *(jnp.stack(column) for column in zip(*made, strict=True))]


def _alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many variables, from the first, have the same shape outside and inside a loop's body."""
    same = [one.aval.shape == other.aval.shape for one, other in zip(outside, inside, strict=True)]
    return same.index(False) if False in same else len(same)
