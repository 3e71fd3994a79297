"""A program in which calls that hold labels are written out, as if they stood there plainly."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from jaxdl.jaxprs import equations, holds_primitive, inner_programs, like
from jaxdl.tracing.labels import LABEL

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")


def written_out(
    program: ClosedJaxpr, *, everything: bool = False
) -> tuple[ClosedJaxpr, tuple[str, ...]]:
    """The program without calls around labels, and the names of the labels that stay hidden.

    The inner program of `jit` and `remat` is put in its place, that of a scan is written out in
    itself. A branch, a while loop, a function with its own derivative and a callback stay as they
    are; what they hold is hidden.

    Arguments:
        everything: whether calls without labels are written out, too.
    """
    hidden: dict[str, None] = {}

    def run(*values: Any) -> list[Any]:
        return _run(program.jaxpr, program.consts, values, hidden, everything)

    made = jax.make_jaxpr(run)(*map(like, program.jaxpr.invars))
    return made, tuple(hidden)


def _run(
    program: Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    hidden: dict[str, None],
    everything: bool,
) -> list[Any]:
    """Compute a program, equation by equation, inside those that are opened."""
    values: dict[Var, Any] = dict(zip(program.constvars, consts, strict=True))
    values.update(zip(program.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in program.eqns:
        operands = [read(atom) for atom in equation.invars]
        inner_ones = inner_programs(equation)
        holds = any(holds_primitive(inner, LABEL) for inner in inner_ones)
        # An attention is looked at, too: a softmax and its products in one call.
        attends = all(
            any(holds_primitive(inner, name) for inner in inner_ones)
            for name in ("exp", "dot_general")
        )
        is_opened = holds or attends or everything
        if is_opened and equation.primitive.name in _CALLS:
            inner, own = _program_of(equation)
            results = _run(inner, own, operands, hidden, everything)
        elif (holds or everything) and equation.primitive.name == "scan":
            body, names = written_out(equation.params["jaxpr"], everything=everything)
            hidden.update(dict.fromkeys(names))
            results = equation.primitive.bind(*operands, **{**equation.params, "jaxpr": body})
        else:
            if holds:
                hidden.update(dict.fromkeys(_names(inner_ones)))
            results = run_equation(program, equation, operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def run_equation(program: Jaxpr, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation of a program."""
    invars = [atom for atom in equation.invars if not isinstance(atom, Literal)]
    distinct = list(dict.fromkeys(invars))
    piece = program.replace(
        constvars=[], invars=distinct, outvars=equation.outvars, eqns=[equation]
    )
    function = jaxpr_as_fun(ClosedJaxpr(piece, ()))
    places = [
        equation.invars.index(variable)  # the first of those that are equal
        for variable in distinct
    ]
    results: list[Any] = function(*(operands[place] for place in places))
    return results


def _program_of(equation: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]]:
    (inner,) = (
        value for value in equation.params.values() if isinstance(value, ClosedJaxpr | Jaxpr)
    )
    return (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())


def _names(programs: Iterable[Jaxpr]) -> list[str]:
    labels = [
        equation.params
        for program in programs
        for equation in equations(program)
        if equation.primitive.name == LABEL
    ]
    names = (p["kind"] if p["path"] is None else "/".join(p["path"]) or p["kind"] for p in labels)
    return [name for name in names if name]
