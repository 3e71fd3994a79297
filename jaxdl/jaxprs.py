"""A traced program: what is in it, and how to cut it into pieces."""

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
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


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a value of a program."""
    shape: tuple[int, ...] = atom.aval.shape
    return shape


def size_of(atom: Any) -> int:
    """The number of its entries."""
    return math.prod(shape_of(atom))


def like(variable: Var) -> jax.ShapeDtypeStruct:
    """The shape and the type of a variable, to trace a function with."""
    aval: Any = variable.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def value_of(atom: Any, values: Mapping[Var, Any]) -> Any:
    """A literal's value, or that of a variable."""
    return atom.val if isinstance(atom, Literal) else values[atom]


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


_RULES = ("jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd")
"""Parameters that say how to differentiate, made anew at each trace."""


def likeness(program: Jaxpr) -> tuple[Any, ...]:
    """A key that is equal for programs of the same operations on the same shapes.

    It is meant for programs that are run as they are: how they would be differentiated does not
    count. The key holds for as long as the programs exist.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = lambda f, x: likeness(jax.make_jaxpr(f)(x).jaxpr)
        >>> key(lambda x: jnp.sin(2 * x), 1.0) == key(lambda y: jnp.sin(2 * y), 3.0)
        True
        >>> key(lambda x: jnp.sin(2 * x), 1.0) == key(lambda x: jnp.sin(3 * x), 1.0)
        False
    """
    numbers: dict[Any, int] = {}

    def of(atom: Any) -> Any:
        if isinstance(atom, Literal):
            return (id(atom.val) if shape_of(atom) else str(atom.val)), str(atom.aval)
        return numbers.setdefault(atom, len(numbers)), str(atom.aval)

    return (
        tuple(map(of, (*program.constvars, *program.invars))),
        tuple(
            (
                equation.primitive.name,
                tuple(map(of, equation.invars)),
                tuple(
                    (name, likeness_of(value))
                    for name, value in equation.params.items()
                    if name not in _RULES
                ),
                tuple(map(of, equation.outvars)),
            )
            for equation in program.eqns
        ),
        tuple(map(of, program.outvars)),
    )


def likeness_of(value: Any) -> Any:
    """Of a closed program, or another parameter of an operation.

    What cannot be compared is like itself alone.
    """
    if isinstance(value, ClosedJaxpr):
        return likeness(value.jaxpr), tuple(map(id, value.consts))
    if isinstance(value, Jaxpr):
        return likeness(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return tuple(map(likeness_of, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def scan_parts(scan: JaxprEqn) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried; the others are slices.

    Only slices have one axis less inside. jax 0.11 dropped the parameters that count them.
    """

    def axes(atoms: Sequence[Any]) -> list[int]:
        return [len(atom.aval.shape) for atom in atoms]

    (body,) = inner_programs(scan)
    carries = sum(map(operator.eq, axes(scan.outvars), axes(body.outvars)))
    slices = sum(map(operator.ne, axes(scan.invars), axes(body.invars)))
    return len(body.invars) - carries - slices, carries


def cut(program: Jaxpr, stops: Sequence[Var | int], outputs: Sequence[Any]) -> tuple[Segment, ...]:
    """Cut a program into pieces, one up to each stop and one to the end.

    Equations that neither the stops nor the outputs depend on are left out.

    Arguments:
        program: straight-line at the outer level.
        stops: in order of execution, a variable, which its piece makes, or the index of an
            equation that stands between two pieces.
        outputs: the atoms needed at the end.
    """
    made_by = makers(program)
    needed = {atom for atom in outputs if not isinstance(atom, Literal)}
    pieces, start = [], 0
    for end in stops:
        if isinstance(end, int):
            needed |= _variables(program.eqns[end].invars)
            pieces.append((start, end))
        else:
            needed.add(end)
            pieces.append((start, made_by[end] + 1))
        start = pieces[-1][1] + isinstance(end, int)
    pieces.append((start, len(program.eqns)))
    segments = []
    for first, stop in reversed(pieces):
        wanted = set(needed)
        kept = []
        for eqn in reversed(program.eqns[first:stop]):
            if wanted.isdisjoint(eqn.outvars) and not eqn.effects:
                continue
            kept.append(eqn)
            wanted |= _variables(eqn.invars)
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


def _variables(atoms: Iterable[Any]) -> set[Var]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}
