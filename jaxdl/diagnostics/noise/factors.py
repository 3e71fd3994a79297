"""The gradient of one example, kept as two factors where a layer is a product.

A layer z = a W, applied at T places of one example, has the gradient a' d with a: (T, n), d: (T, m)
and d = dl/dz. The factors have T (n + m) numbers, the gradient n m. With one place its norm is
|a| |d|. So norms, products and sums need no gradient of an example in memory. A convolution is such
a product of its patches.

Source: Goodfellow (2015), Efficient per-example gradient computations.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array

from jaxdl.jaxprs import CONVOLUTION, shape_of
from jaxdl.tracing.opened import run_equation, written_out

_MOVES = ("convert_element_type", "transpose", "reshape", "squeeze", "copy")


@struct.dataclass
class Factors:
    """A leaf's gradient as a product.

    Attributes:
        received: what met the parameter, (places, n).
        sent: the loss's gradient by what came out, (places, m).
    """

    received: Array
    sent: Array


class Meeting(NamedTuple):
    """Where a parameter meets a signal, once, in a product.

    Attributes:
        leaf: its number among the parameters.
        place: the number of the equation.
        side: which operand it is.
        moves: the equations that moved it before.
    """

    leaf: int
    place: int
    side: int
    moves: tuple[JaxprEqn, ...]


class Traced(NamedTuple):
    """The program of one example's loss, and the parameters that it meets in products.

    Attributes:
        program: (parameters..., the example's arrays...) -> (loss, what else is asked for...).
        consts: the values of its constants.
        meetings: by the number of the equation.
    """

    program: Jaxpr
    consts: Sequence[Any]
    meetings: dict[int, Meeting]

    def like(self, leaf: int) -> jax.ShapeDtypeStruct:
        """The shape of a leaf, in float32 or wider."""
        aval: Any = self.program.invars[leaf].aval
        return jax.ShapeDtypeStruct(aval.shape, jnp.promote_types(aval.dtype, jnp.float32))

    def arrange(self, leaf: int) -> Callable[[Array], Array]:
        """The function that makes a matrix (n, m) of a leaf, in the order of its factors."""
        meeting = next(each for each in self.meetings.values() if each.leaf == leaf)

        def arranged(values: Array) -> Array:
            for move in meeting.moves:
                # Rounding belongs to the model's arithmetic, not to the gradient's place.
                if move.primitive.name != "convert_element_type":
                    values = move.primitive.bind(values, **move.params)
            return _as_matrix(self.program.eqns[meeting.place], meeting.side, values)

        return arranged


def trace(loss: Callable[[list[Array], Any], Any], leaves: list[Array], example: Any) -> Traced:
    """The program of one example's loss, whose parameters are these leaves."""
    closed, _ = written_out(jax.make_jaxpr(loss)(leaves, example), everything=True)
    program = closed.jaxpr
    users = _users(program)
    meetings = {}
    for leaf, variable in enumerate(program.invars[: len(leaves)]):
        moves: list[JaxprEqn] = []
        while len(uses := users.get(variable, [])) == 1 and uses[0][0] >= 0:
            ((place, side),) = uses
            equation = program.eqns[place]
            if _is_product(equation, side):
                meetings[place] = Meeting(leaf, place, side, tuple(moves))
            if equation.primitive.name not in _MOVES:
                break
            moves.append(equation)
            (variable,) = equation.outvars
    return Traced(program, closed.consts, meetings)


def _users(program: Jaxpr) -> dict[Var, list[tuple[int, int]]]:
    """By variable, the equations and operands through which the first output's gradient reaches it.

    No gradient passes a comparison: what it gives is no float.
    """
    users: dict[Var, list[tuple[int, int]]] = {}
    loss = program.outvars[0]
    if not isinstance(loss, Literal):
        users[loss] = [(-1, 0)]
    for place, equation in reversed([*enumerate(program.eqns)]):
        if users.keys().isdisjoint(equation.outvars):
            continue
        for side, atom in enumerate(equation.invars):
            aval: Any = atom.aval
            if isinstance(atom, Literal) or not jnp.issubdtype(aval.dtype, jnp.inexact):
                continue
            if _takes(equation, side):
                users.setdefault(atom, []).append((place, side))
    return users


def _takes(equation: JaxprEqn, side: int) -> bool:
    """Whether the value of an equation depends on an operand: not all do with a rule of their own.

    A convolution of this library is told a number of its kernel and gives it the gradient 0.
    """
    body = equation.params.get("call_jaxpr")
    if equation.primitive.name != "custom_jvp_call" or body is None:
        return True
    read = {atom for inner in body.jaxpr.eqns for atom in inner.invars if isinstance(atom, Var)}
    return body.jaxpr.invars[side] in read | set(body.jaxpr.outvars)


def gradient_of_one(
    traced: Traced, leaves: list[Array], example: Any
) -> tuple[list[Array | Factors], list[Array]]:
    """One example's gradient, of each leaf an array or factors; and what else the program gives."""
    apart = {meeting.leaf for meeting in traced.meetings.values()}
    others = [None if leaf in apart else values for leaf, values in enumerate(leaves)]
    made: dict[int, Any] = {
        place: traced.program.eqns[place].outvars[0].aval for place in traced.meetings
    }
    taps = {place: jnp.zeros(aval.shape, aval.dtype) for place, aval in made.items()}

    def loss(taps: Any, others: Any) -> tuple[Array, Any]:
        given = [
            leaf if other is None else other for leaf, other in zip(leaves, others, strict=True)
        ]
        return _run(traced, given, example, taps)

    (sent, gradients), (received, rest) = jax.grad(loss, argnums=(0, 1), has_aux=True)(taps, others)
    for place, meeting in traced.meetings.items():
        equation = traced.program.eqns[place]
        gradients[meeting.leaf] = Factors(
            *_factors(equation, meeting.side, received[place], sent[place])
        )
    return list(gradients), rest


def _run(
    traced: Traced, leaves: list[Array], example: Any, taps: dict[int, Array]
) -> tuple[Array, tuple[dict[int, Array], list[Array]]]:
    program = traced.program
    values: dict[Var, Any] = dict(zip(program.constvars, traced.consts, strict=True))
    values.update(zip(program.invars, [*leaves, *jax.tree.leaves(example)], strict=True))
    received = {}
    for place, equation in enumerate(program.eqns):
        operands = [a.val if isinstance(a, Literal) else values[a] for a in equation.invars]
        results = run_equation(program, equation, operands)
        if place in taps:
            results = [results[0] + taps[place]]
            received[place] = operands[1 - traced.meetings[place].side]
        values.update(zip(equation.outvars, results, strict=True))
    loss, *rest = (a.val if isinstance(a, Literal) else values[a] for a in program.outvars)
    return loss, (received, rest)


def _is_product(equation: JaxprEqn, side: int) -> bool:
    parameters = equation.params
    # Of complex numbers a gradient is conjugated; they stay as they are.
    operands: list[Any] = list(equation.invars)
    if any(jnp.issubdtype(each.aval.dtype, jnp.complexfloating) for each in operands):
        return False
    if equation.primitive.name == "dot_general":
        return not parameters["dimension_numbers"][1][0] and len(set(equation.invars)) == 2
    if equation.primitive.name != CONVOLUTION or side != 1:
        return False
    return (
        parameters["feature_group_count"] == parameters["batch_group_count"] == 1
        and set(parameters["lhs_dilation"]) <= {1}
        and len(set(equation.invars)) == 2
    )


def _as_matrix(equation: JaxprEqn, side: int, values: Array) -> Array:
    """A parameter as (n, m)."""
    if equation.primitive.name == CONVOLUTION:
        out, in_, *window = equation.params["dimension_numbers"].rhs_spec
        moved = values.transpose(*window, in_, out)
        return moved.reshape(-1, moved.shape[-1])
    contracted = equation.params["dimension_numbers"][0][side]
    free = [axis for axis in range(values.ndim) if axis not in contracted]
    n = math.prod(values.shape[axis] for axis in contracted)
    return values.transpose(*contracted, *free).reshape(n, -1)


def _factors(equation: JaxprEqn, side: int, received: Array, sent: Array) -> tuple[Array, Array]:
    """What came in as (places, n), what went out as (places, m)."""
    if equation.primitive.name == CONVOLUTION:
        patches = _patches(equation, received)
        batch, features, *places = equation.params["dimension_numbers"].out_spec
        sent = sent.transpose(batch, *places, features)
        return patches, sent.reshape(-1, sent.shape[-1])
    contracted = equation.params["dimension_numbers"][0][1 - side]
    free = [axis for axis in range(received.ndim) if axis not in contracted]
    n = math.prod(received.shape[axis] for axis in contracted)
    received = received.transpose(*free, *contracted).reshape(-1, n)
    # The result has the left operand's axes first.
    if side == 1:
        return received, sent.reshape(len(received), -1)
    return received, sent.reshape(-1, len(received)).T


def _patches(equation: JaxprEqn, received: Array) -> Array:
    """What each place of a convolution sees, (places, window's offsets x channels)."""
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    batch, features, *axes = numbers.lhs_spec
    values = received.transpose(batch, *axes, features)
    nothing = jnp.zeros((), values.dtype)
    padding = [(0, 0, 0), *((low, high, 0) for low, high in parameters["padding"]), (0, 0, 0)]
    values = lax.pad(values, nothing, padding)
    kernel = shape_of(equation.invars[1])
    places = [shape_of(equation.outvars[0])[axis] for axis in numbers.out_spec[2:]]
    steps, gaps = parameters["window_strides"], parameters["rhs_dilation"]
    seen = []
    for offsets in itertools.product(*(range(kernel[axis]) for axis in numbers.rhs_spec[2:])):
        starts = [offset * gap for offset, gap in zip(offsets, gaps, strict=True)]
        stops = [
            start + (count - 1) * step + 1
            for start, count, step in zip(starts, places, steps, strict=True)
        ]
        window = lax.slice(
            values,
            (0, *starts, 0),
            (values.shape[0], *stops, values.shape[-1]),
            (1, *steps, 1),
        )
        seen.append(window.reshape(-1, values.shape[-1]))
    return jnp.concatenate(seen, axis=-1)
