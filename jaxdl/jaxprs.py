"""A traced program: what is in it, and how to cut it into pieces."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

CONVOLUTION = "conv_general_dilated"
DECOMPOSITIONS = (
    "cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur",
    "svd", "triangular_solve", "tridiagonal",
)  # fmt: skip
"""The operation whose gradient is slow inside a compiled loop on a CPU."""


def inner_programs(equation: JaxprEqn) -> list[Jaxpr]:
    """The programs that an equation holds: the body of a loop, the branches of a condition."""
    found: list[Jaxpr] = []
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, ClosedJaxpr):
                found.append(each.jaxpr)
            elif isinstance(each, Jaxpr):
                found.append(each)
    return found


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Every equation, followed by the equations of its inner programs."""
    for equation in program.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from equations(inner)


def holds_primitive(program: Jaxpr, *names: str) -> bool:
    """Whether one of these operations is anywhere in the program.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr
        >>> holds_primitive(program, "sin"), holds_primitive(program, "cos", "tan")
        (True, False)
    """
    return any(equation.primitive.name in names for equation in equations(program))


_MOVES = (
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "gather", "iota", "pad",
    "reshape", "slice", "squeeze", "stop_gradient", "transpose",
)  # fmt: skip


def operations(program: Jaxpr) -> int:
    """Additions, multiplications, comparisons, powers and the like; moving numbers is free.

    A product of matrices has two for each term; everything else one for each entry of the largest
    array that it reads or writes. The body of a loop counts once; convolutions are not counted
    right.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, w = jnp.ones((5, 4)), jnp.ones((4, 3))
        >>> operations(jax.make_jaxpr(lambda x: jnp.sin(x @ w))(x).jaxpr) == 2 * 5 * 4 * 3 + 5 * 3
        True
    """
    total = 0
    for equation in equations(program):
        atoms: list[Any] = [*equation.invars, *equation.outvars]
        sizes = [math.prod(getattr(atom.aval, "shape", ())) for atom in atoms]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(atoms[0].aval.shape[axis] for axis in contracted)
            total += 2 * sizes[-1] * terms
        elif equation.primitive.name not in _MOVES and not inner_programs(equation):
            total += max(sizes)
    return total


def atom_bytes(atom: Any) -> int:
    """The size of a value in memory; a key counts as four bytes."""
    aval = atom.aval
    return math.prod(getattr(aval, "shape", ())) * getattr(aval.dtype, "itemsize", 4)


def makers(program: Jaxpr) -> dict[Var, int]:
    """The index of the equation that makes each variable."""
    return {made: index for index, eqn in enumerate(program.eqns) for made in eqn.outvars}


@dataclass(frozen=True)
class Segment:
    """A piece of a program: what it reads, what it gives to later pieces, and its code."""

    reads: tuple[Var, ...]
    gives: tuple[Var, ...]
    program: Jaxpr

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Compute the values it gives from the values it reads."""
        given: list[Any] = jaxpr_as_fun(ClosedJaxpr(self.program, ()))(*values)
        return given


def cut(program: Jaxpr, after: Sequence[Var], outputs: Sequence[Any]) -> tuple[Segment, ...]:
    """Cut a program into pieces, one up to each variable and one to the end.

    Equations that neither these variables nor the outputs depend on are left out.

    Arguments:
        program: straight-line at the outer level.
        after: the variables, in the order in which the program makes them.
        outputs: the atoms needed at the end.
    """
    made_by = makers(program)
    bounds = [0, *(made_by[variable] + 1 for variable in after), len(program.eqns)]
    needed = {atom for atom in outputs if not isinstance(atom, Literal)}
    needed |= set(after)
    segments = []
    for start, stop in reversed(list(itertools.pairwise(bounds))):
        wanted = set(needed)
        kept = []
        for eqn in reversed(program.eqns[start:stop]):
            if wanted.isdisjoint(eqn.outvars) and not eqn.effects:
                continue
            kept.append(eqn)
            wanted |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
        kept.reverse()
        made = [variable for eqn in kept for variable in eqn.outvars]
        gives = tuple(variable for variable in made if variable in needed)
        needed = wanted - set(made)
        read = dict.fromkeys(
            atom for eqn in kept for atom in eqn.invars if not isinstance(atom, Literal)
        )
        reads = tuple(variable for variable in read if variable in needed)
        piece = program.replace(constvars=[], invars=reads, outvars=gives, eqns=kept)
        segments.append(Segment(reads, gives, piece))
    return tuple(reversed(segments))
