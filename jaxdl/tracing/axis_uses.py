"""What a program does with each axis of its parameters: sums over it, or hands it on.

The axes are followed through reshapes, transposes, casts and norms of weights to the product in
which the parameter meets the inputs. So no name and no layout is assumed: `(in, out)` and `(out,
in)`, heads, windows and tables of embeddings are told apart by what is computed.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxdl.jaxprs import inner_programs, shape_of

Axes = tuple[frozenset[int], ...]
NOWHERE: frozenset[int] = frozenset()


class AxisUse(NamedTuple):
    """One meeting of a parameter with the inputs.

    Attributes:
        reads: the parameter's axes that are summed over: the fan_in of a unit.
        feeds: its axes that the result keeps: the units.
        clear: whether the meeting was understood; if not, both are empty.
    """

    reads: frozenset[int] = NOWHERE
    feeds: frozenset[int] = NOWHERE
    clear: bool = True


class Held(NamedTuple):
    """A value in the program.

    Attributes:
        from_inputs: whether it depends on what is no parameter and no constant.
        axes: of each parameter that it is made of alone, the parameter's axes in each of its own.
    """

    from_inputs: bool = False
    axes: dict[int, Axes] = {}  # noqa: RUF012  # never changed


def axis_uses(program: Jaxpr, parameters: Sequence[int]) -> dict[int, set[AxisUse]]:
    """How each parameter is used.

    Arguments:
        program: a traced program, `jax.make_jaxpr(...)(...).jaxpr`.
        parameters: which of its arguments are parameters; the others are inputs.

    Returns:
        By argument all its different uses; none where the program does not use it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def layer(w, b, x):
        ...     return x @ w.T + b
        >>> program = jax.make_jaxpr(layer)(jnp.ones((3, 2)), jnp.ones(3), jnp.ones((5, 2))).jaxpr
        >>> found = axis_uses(program, [0, 1])
        >>> [(sorted(use.reads), sorted(use.feeds)) for n in (0, 1) for use in found[n]]
        [([1], [0]), ([], [0])]
    """
    uses: dict[int, set[AxisUse]] = {number: set() for number in parameters}
    arguments = [
        Held(False, {number: tuple(frozenset({axis}) for axis in range(len(shape_of(atom))))})
        if number in uses
        else Held(True)
        for number, atom in enumerate(program.invars)
    ]
    for result in _walk(program, arguments, uses):
        _meet(result, uses)  # a parameter that is an output is handed on as it is
    return uses


Uses = dict[int, set[AxisUse]]


def _walk(program: Jaxpr, arguments: Sequence[Held], uses: Uses) -> list[Held]:
    known: dict[Any, Held] = dict(zip(program.invars, arguments, strict=True))

    def held(atom: Any) -> Held:
        return Held() if isinstance(atom, Literal) else known.get(atom, Held())

    for equation in program.eqns:
        given = [held(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _follow(equation, given, uses), strict=True))
    return [held(atom) for atom in program.outvars]


def _follow(equation: JaxprEqn, given: list[Held], uses: Uses) -> list[Held]:
    """What the results of an equation are made of."""
    name = equation.primitive.name
    if name in _PROGRAMS:
        return _PROGRAMS[name](equation, given, uses)
    bodies = inner_programs(equation)
    if bodies and len(bodies[0].invars) == len(given):
        return _walk(bodies[0], given, uses)
    from_inputs = any(each.from_inputs for each in given)
    results = len(equation.outvars)
    if not any(each.axes for each in given):
        return [Held(from_inputs)] * results
    if name in _MEETINGS and (from_inputs or name != "dynamic_slice"):
        _MEETINGS[name](equation, given, uses)
        return [Held(True)] * results
    if from_inputs:
        wholes = [shape_of(out) for out in equation.outvars]
        for each, atom in zip(given, equation.invars, strict=True):
            is_met = not bodies and any(_broadcasts(shape_of(atom), whole) for whole in wholes)
            (_meet if is_met or name in _JOINS else _not_understood)(each, uses)
        return [Held(True)] * results
    return [_made_of(equation, given, shape_of(out), uses) for out in equation.outvars]


_JOINS = ("concatenate", "dynamic_update_slice", "scatter", "scatter-add")
"""Operations that put a parameter beside the signal, or in a part of it."""


def _broadcasts(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether an operation by entries takes the two together."""
    pairs = zip(part, whole, strict=False)
    return not part or (len(part) == len(whole) and all(a in (1, b) for a, b in pairs))


def _meet(held: Held, uses: Uses) -> None:
    for number, axes in held.axes.items():
        uses[number].add(AxisUse(feeds=NOWHERE.union(*axes)))


def _not_understood(held: Held, uses: Uses) -> None:
    for number in held.axes:
        uses[number].add(AxisUse(clear=False))


def _unclear(given: Iterable[Held], uses: Uses) -> None:
    for held in given:
        _not_understood(held, uses)


def _made_of(equation: JaxprEqn, given: list[Held], shape: tuple[int, ...], uses: Uses) -> Held:
    """A value that is made of parameters and constants alone."""
    move = _MOVES.get(equation.primitive.name)
    merged: dict[int, Axes] = {}
    for held, atom in zip(given, equation.invars, strict=True):
        for number, axes in held.axes.items():
            if move is not None:
                moved = move(equation, axes, shape_of(atom), shape)
            elif len(axes) == len(shape):
                moved = axes
            elif not axes:
                moved = (NOWHERE,) * len(shape)
            else:
                _unclear([held], uses)
                continue
            before = merged.get(number, (NOWHERE,) * len(shape))
            merged[number] = tuple(a | b for a, b in zip(before, moved, strict=True))
    return Held(False, merged)


# Where a parameter meets the inputs.


def _product(equation: JaxprEqn, given: list[Held], uses: Uses) -> None:
    """A product of matrices; the batch axes of a parameter are units as well."""
    if all(each.axes for each in given):
        return _unclear(given, uses)  # a product of two parameters: their sum is no fan_in
    contracted = equation.params["dimension_numbers"][0]
    for held, read in zip(given, contracted, strict=True):
        for number, axes in held.axes.items():
            reads = NOWHERE.union(*(axes[axis] for axis in read))
            feeds = NOWHERE.union(*(a for axis, a in enumerate(axes) if axis not in read))
            uses[number].add(AxisUse(reads, feeds))
    return None


def _convolution(equation: JaxprEqn, given: list[Held], uses: Uses) -> None:
    image, kernel = given
    if image.axes:
        return _unclear(given, uses)
    out, read, *window = equation.params["dimension_numbers"].rhs_spec
    for number, axes in kernel.axes.items():
        reads = axes[read].union(*(axes[axis] for axis in window))
        uses[number].add(AxisUse(reads, axes[out]))
    return None


def _lookup(equation: JaxprEqn, given: list[Held], uses: Uses) -> None:
    """A row of a table: the axes that are taken whole are handed on."""
    table, *_ = given
    if any(each.axes for each in given[1:]):
        return _unclear(given, uses)
    whole = zip(shape_of(equation.invars[0]), equation.params["slice_sizes"], strict=True)
    kept = [axis for axis, (length, taken) in enumerate(whole) if length == taken]
    for number, axes in table.axes.items():
        uses[number].add(AxisUse(feeds=NOWHERE.union(*(axes[axis] for axis in kept))))
    return None


_MEETINGS: dict[str, Callable[..., None]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "gather": _lookup,
    "dynamic_slice": _lookup,
}


# What moves the axes of a parameter: (equation, axes, old shape, new shape) -> axes.


def _transposed(equation: JaxprEqn, axes: Axes, old: Any, new: Any) -> Axes:
    return tuple(axes[axis] for axis in equation.params["permutation"])


def _broadcast(equation: JaxprEqn, axes: Axes, old: Any, new: Any) -> Axes:
    places = dict(zip(equation.params["broadcast_dimensions"], axes, strict=True))
    return tuple(places.get(axis, NOWHERE) for axis in range(len(new)))


def _dropped(name: str, equation: JaxprEqn, axes: Axes, old: Any, new: Any) -> Axes:
    gone = equation.params[name]
    return tuple(each for axis, each in enumerate(axes) if axis not in gone)


def _reshaped(equation: JaxprEqn, axes: Axes, old: Any, new: Any) -> Axes:
    return regrouped(axes, old, new)


def regrouped(axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
    """The axes after a reshape; each group that is merged or split shares its axes.

    Example:
        >>> axes = (frozenset({0}), frozenset({1}), frozenset({2}))
        >>> [sorted(each) for each in regrouped(axes, (2, 4, 3), (1, 8, 3))]
        [[], [0, 1], [2]]
    """
    found = [NOWHERE] * len(new)
    before = [axis for axis, length in enumerate(old) if length != 1]
    after = [axis for axis, length in enumerate(new) if length != 1]
    while before and after:
        group, places = [before.pop(0)], [after.pop(0)]
        while (a := math.prod(old[i] for i in group)) != (b := math.prod(new[i] for i in places)):
            more, rest = (group, before) if a < b else (places, after)
            if not rest:
                break
            more.append(rest.pop(0))
        for place in places:
            found[place] = NOWHERE.union(*(axes[axis] for axis in group))
    return tuple(found)


_MOVES: dict[str, Callable[..., Axes]] = {
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "squeeze": functools.partial(_dropped, "dimensions"),
    "reshape": _reshaped,
    **{
        f"reduce_{name}": functools.partial(_dropped, "axes")
        for name in ("sum", "max", "min", "prod", "and", "or")
    },
}


# Programs inside of the program.


def _scan(equation: JaxprEqn, given: list[Held], uses: Uses) -> list[Held]:
    """A loop: what is carried belongs to the signal; of a stack each layer is a parameter."""
    (body,) = inner_programs(equation)
    constants, carried = equation.params["num_consts"], equation.params["num_carry"]
    for held in given[constants : constants + carried]:
        _meet(held, uses)
    layers = [
        Held(held.from_inputs, {number: axes[1:] for number, axes in held.axes.items()})
        for held in given[constants + carried :]
    ]
    results = _walk(body, [*given[:constants], *[Held(True)] * carried, *layers], uses)
    for result in results:
        _meet(result, uses)
    return [Held(True)] * len(equation.outvars)


def _while(equation: JaxprEqn, given: list[Held], uses: Uses) -> list[Held]:
    of_condition, of_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    constants = given[of_condition : of_condition + of_body]
    carried = given[of_condition + of_body :]
    for held in carried:
        _meet(held, uses)
    body = equation.params["body_jaxpr"].jaxpr
    _walk(body, [*constants, *[Held(True)] * len(carried)], uses)
    return [Held(True)] * len(equation.outvars)


def _condition(equation: JaxprEqn, given: list[Held], uses: Uses) -> list[Held]:
    for branch in inner_programs(equation):
        for result in _walk(branch, given[1:], uses):
            _meet(result, uses)
    return [Held(True)] * len(equation.outvars)


_PROGRAMS: dict[str, Callable[..., list[Held]]] = {
    "scan": _scan, "while": _while, "cond": _condition,
}  # fmt: skip
