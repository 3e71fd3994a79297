"""Floating-point operations of a traced program: its matrix products and convolutions."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxdl.jaxprs import inner_programs, scan_parts


class Flops(NamedTuple):
    """Operations of a forward pass and of the backward pass that follows it."""

    forward: int
    backward: int

    def plus(self, other: "Flops", times: int = 1) -> "Flops":
        """The sum with `other`, counted `times` times."""
        return Flops(self.forward + times * other.forward, self.backward + times * other.backward)


NONE = Flops(0, 0)


def count_flops(program: Jaxpr, learned: Sequence[bool]) -> tuple[Flops, list[bool]]:
    r"""The operations of a program, and which of its outputs depend on a learned input.

    A product of an m x k with a k x n matrix is 2 m k n operations: k multiplications and k
    additions for each output. A convolution is 2 operations for each output, window position and
    input channel of its group. Positions in the padding count. Zeros from an input dilation do not.
    The backward pass costs the same again for each factor that depends on a learned input. The data
    do not, so a first layer needs no gradient of its input.

    A product of complex matrices is 4 real ones. Elementwise operations and reductions are not
    counted. The body of a scan counts as often as it runs. The body of a while loop counts once,
    because its length is unknown. A conditional counts its costliest branch.

    Arguments:
        program: a jaxpr.
        learned: for each input, whether it is learned or depends on a learned value.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(jnp.dot)(jnp.ones((4, 5)), jnp.ones((5, 7)))
        >>> count_flops(program.jaxpr, [False, True])
        (Flops(forward=280, backward=280), [True])
    """
    depends = {v for v, is_learned in zip(program.invars, learned, strict=True) if is_learned}
    total = NONE
    for eqn in program.eqns:
        reads = [not isinstance(atom, Literal) and atom in depends for atom in eqn.invars]
        flops, gives = _of_equation(eqn, reads)
        total = total.plus(flops)
        depends.update(made for made, given in zip(eqn.outvars, gives, strict=True) if given)
    gives = [not isinstance(atom, Literal) and atom in depends for atom in program.outvars]
    return total, gives


def _of_equation(eqn: JaxprEqn, reads: list[bool]) -> tuple[Flops, list[bool]]:
    name = eqn.primitive.name
    any_out = [any(reads)] * len(eqn.outvars)
    if name in ("dot_general", "conv_general_dilated"):
        forward = _dot(eqn) if name == "dot_general" else _convolution(eqn)
        if all(_is_complex(atom) for atom in eqn.invars[:2]):
            forward *= 4
        return Flops(forward, forward * sum(reads[:2])), any_out
    programs = inner_programs(eqn)
    if not programs:
        return NONE, any_out
    if name == "scan":
        return _of_scan(eqn, programs[0], reads)
    if name == "cond":
        branches = [count_flops(branch, reads[1:])[0] for branch in programs]
        return max(branches, key=sum), any_out
    if len(programs) == 1 and len(programs[0].invars) == len(reads):
        flops, gives = count_flops(programs[0], reads)
        return flops, gives if len(gives) == len(eqn.outvars) else any_out
    total = NONE
    for program in programs:
        total = total.plus(count_flops(program, [any(reads)] * len(program.invars))[0])
    return total, any_out


def _of_scan(eqn: JaxprEqn, body: Jaxpr, reads: list[bool]) -> tuple[Flops, list[bool]]:
    consts, carries = scan_parts(eqn)
    while True:
        flops, gives = count_flops(body, reads)
        carried = [
            before or after
            for before, after in zip(reads[consts : consts + carries], gives[:carries], strict=True)
        ]
        if carried == reads[consts : consts + carries]:
            return NONE.plus(flops, times=eqn.params["length"]), gives
        reads = [*reads[:consts], *carried, *reads[consts + carries :]]


def _dot(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    products: int = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(_shape(eqn.outvars[0])) * products


def _convolution(eqn: JaxprEqn) -> int:
    numbers = eqn.params["dimension_numbers"]
    inputs, kernel, outputs = (_shape(v) for v in (*eqn.invars[:2], eqn.outvars[0]))
    out_axis, in_axis, *window_axes = numbers.rhs_spec
    window: int = math.prod(kernel[axis] for axis in window_axes)
    if any(step > 1 for step in eqn.params["lhs_dilation"]):
        # A transposed convolution: each input meets the window of its group's outputs.
        per_input: int = kernel[out_axis] // eqn.params["feature_group_count"]
        return 2 * math.prod(inputs) * window * per_input
    channels: int = kernel[in_axis]
    return 2 * math.prod(outputs) * window * channels


def _pairs(left: Sequence[Any], right: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(left, right, strict=True)


def _is_complex(atom: Any) -> bool:
    return bool(np.issubdtype(atom.aval.dtype, np.complexfloating))


def _shape(atom: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = atom.aval.shape
    return shape
