"""The slopes of a model's activations at the values that they receive."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun
from jaxtyping import Array

from jaxdl.jaxprs import Segment, cut, holds_primitive, like, likeness_of
from jaxdl.tracing.labels import LABEL
from jaxdl.tracing.sites import ATTENTION, Site, site_before

# Beside the kink of a ReLU, where its slope is that of most arguments.
NEAR_ZERO = 1e-3


class Slope(NamedTuple):
    """A function's value and |f'| at each entry of its real argument, and the largest |f'| known.

    That is among these entries and near the argument 0; of an entry with no slope at all it is 0.
    """

    value: Array
    slope: Array
    steepest: Array


class Activation(NamedTuple):
    """A function from one site's value to the next one's, without parameters of its own.

    Attributes:
        function: its code.
        at: the place of its argument among the values that it reads.
    """

    function: Segment
    at: int

    def reads(self, values: Mapping[Var, Any]) -> tuple[Any, ...]:
        """What it reads, as constants."""
        return tuple(jax.lax.stop_gradient(values[variable]) for variable in self.function.reads)

    def slope(self, values: Sequence[Any]) -> Slope:
        r"""The slope at the values that it reads.

        For a vector v of signs, |J v| = |f'(z)| in every entry if f is elementwise. The signs
        alternate at random: a norm or a softmax has J v = 0 for a constant v and would look flat.
        """
        at = self.at
        signs = _scattered_signs(values[at])

        def activation(z: Array) -> Any:
            return self.function.run([*values[:at], z, *values[at + 1 :]])[0]

        value, slope = jax.jvp(activation, (values[at],), (signs,))
        _, near_zero = jax.jvp(activation, (jnp.full_like(values[at], NEAR_ZERO),), (signs,))
        known = [jnp.where(jnp.isfinite(each), jnp.abs(each), 0) for each in (slope, near_zero)]
        # An entry without any slope is masked, as by a dropout, and not saturated.
        is_masked = (slope == 0) & (near_zero == 0)
        return Slope(value, jnp.abs(slope), jnp.where(is_masked, 0, jnp.maximum(*known).max()))


class Read(NamedTuple):
    """An activation with what it reads.

    Attributes:
        activation: the function.
        values: what it reads.
        layers_first: gives a site's values a first axis of layers.
        mapped: over which axes of them layers run; it decides what `layers_first` does.
    """

    activation: Activation
    values: Sequence[Any]
    layers_first: Callable[[Array], Array]
    mapped: tuple[int, ...]

    def program(self) -> ClosedJaxpr:
        """The slope with a first axis of layers, as a program of `values`."""

        def slope(*values: Any) -> Slope:
            found: Slope = jax.tree.map(self.layers_first, self.activation.slope(values))
            return found

        return jax.make_jaxpr(slope)(*map(like, self.activation.function.reads))


def activation_of(sites: Sequence[Site], number: int, segment: Segment) -> Activation | None:
    """The function from the value before a site to the site's, where it has a slope.

    Both must be real, and of one level. The function may end before the site, at the last value of
    its argument's shape: the activation before a pooling.
    """
    site, previous = sites[number], site_before(sites, number)
    if site.own or site.kind == ATTENTION:
        return None
    if previous is None or previous.level is not site.level:
        return None
    if previous.variable not in segment.reads:
        return None
    if jnp.issubdtype(previous.dtype, jnp.complexfloating):
        return None  # the slope of a complex function depends on the direction
    made = _last_of_same_shape(segment.program, previous.variable, site.variable)
    if made is None or holds_primitive(segment.program, "custom_vjp_call"):
        return None  # a hand-written backward pass has no forward derivative
    function = _without_labels(segment.program, made)
    return Activation(function, function.reads.index(previous.variable))


def _without_labels(program: Jaxpr, made: Var) -> Segment:
    """What computes a value; labels are values unchanged, and read parameters beside."""
    (piece,) = cut(program, (), [made])
    behind: dict[Any, Any] = {}
    kept = []
    for equation in piece.program.eqns:
        operands = [
            atom if isinstance(atom, Literal) else behind.get(atom, atom)
            for atom in equation.invars
        ]
        if equation.primitive.name == LABEL:
            behind[equation.outvars[0]] = operands[0]
        else:
            kept.append(equation.replace(invars=operands))
    out = behind.get(made, made)
    inner = {each for equation in kept for each in equation.outvars}
    atoms = [*(atom for equation in kept for atom in equation.invars), out]
    reads = tuple(dict.fromkeys(a for a in atoms if isinstance(a, Var) and a not in inner))
    code = program.replace(constvars=[], invars=reads, outvars=[out], eqns=kept)
    return Segment(reads, (out,), code)


def map_alike(function: Callable[[Slope], Array], activations: Sequence[Read]) -> Array:
    """`function` of the slope of each activation, one after another; equal ones together.

    A deep network has the same activation at many values of one shape, and a program that repeats
    it for each takes long to compile.

    Arguments:
        function: of a slope, (layers,) of a slope with a first axis of layers.
        activations: what was recorded, one or more.
    """
    programs = [each.program() for each in activations]
    alike: dict[Any, list[int]] = {}
    for number, (program, each) in enumerate(zip(programs, activations, strict=True)):
        # A derivative of its own is written out there, so equal functions have equal programs.
        alike.setdefault((likeness_of(program), each.mapped), []).append(number)
    results, owners = [], []
    for numbers in alike.values():
        reads = list(zip(*(activations[number].values for number in numbers), strict=True))
        # What all of them read stays one array.
        is_shared = [all(each is of_one[0] for each in of_one) for of_one in reads]
        stacked = [
            of_one[0] if shared or len(numbers) == 1 else jnp.stack(of_one)
            for of_one, shared in zip(reads, is_shared, strict=True)
        ]

        def measured(*values: Array, program: ClosedJaxpr = programs[numbers[0]]) -> Array:
            return function(Slope(*jaxpr_as_fun(program)(*values)))

        if len(numbers) > 1:
            axes = [None if shared else 0 for shared in is_shared]
            measured = jax.vmap(measured, in_axes=axes)
        results.append(measured(*stacked).reshape(-1))
        owners += list(np.repeat(numbers, results[-1].size // len(numbers)))
    return jnp.concatenate(results)[np.argsort(owners, kind="stable")]


def _scattered_signs(like: Array) -> Array:
    """Signs without a pattern along any axis: a hash of the index, faster than a generator."""
    index = jax.lax.iota(jnp.uint32, like.size)
    for multiplier in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D):
        index = (index ^ (index >> 15)) * jnp.uint32(multiplier)
    return jnp.where(index >> 31, 1, -1).astype(like.dtype).reshape(like.shape)


def _last_of_same_shape(program: Jaxpr, source: Var, target: Var) -> Var | None:
    """The last value between two with the first one's shape: the activation before a pooling."""
    used = {target}
    for eqn in reversed(program.eqns):
        if not used.isdisjoint(eqn.outvars):
            used |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    shaped: Any = source.aval
    like = (shaped.shape, shaped.dtype)
    depends, found = {source}, None
    for eqn in program.eqns:
        if any(not isinstance(atom, Literal) and atom in depends for atom in eqn.invars):
            for made in used.intersection(eqn.outvars):
                depends.add(made)
                aval: Any = made.aval
                if (aval.shape, aval.dtype) == like:
                    found = made
    return found
