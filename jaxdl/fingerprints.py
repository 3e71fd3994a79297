"""What a function computes, as a digest that is equal in every process."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import ClosedJaxpr, Jaxpr

_LENGTH = 8
# Where an equation only calls a program, the program is read as if it stood there.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
# Names and hints, which decide nothing.
_HINTS = {"name", "debug_info", "inline", "compiler_options_kvs", "ctx_mesh", "prevent_cse"}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Fingerprint(NamedTuple):
    """What a function computes.

    Attributes:
        program: the digest of the whole, but for the schedules.
        schedules: the digest of the numbers that depend on counts alone.
    """

    program: str
    schedules: str


_Kind = Literal["constant", "counted", "other"]


@dataclass(frozen=True)
class _Value:
    """A value in a program.

    Attributes:
        made: the digest of how it is computed.
        kind: "counted" if it depends on counts, and beside them on constants alone.
        seen: the digest that other values take up. A schedule's does not say how it is computed.
    """

    made: bytes
    kind: _Kind
    seen: bytes

    @property
    def is_schedule(self) -> bool:
        return self.seen != self.made


def fingerprint(
    function: Callable[..., Any], *arguments: Any, counts: Callable[[Any], bool] | None = None
) -> Fingerprint:
    """The digest of what `function` computes from arguments of these shapes and dtypes.

    Every value is the digest of its operation and of the values that go in. The order of the code,
    names and what is not used do not matter; constants do, to the bit.

    Arguments:
        function: it is traced, not run.
        arguments: arrays or `jax.ShapeDtypeStruct`s.
        counts: which arguments count steps, given a leaf. A float that is computed from counts
            and constants alone is a schedule, such as a learning rate that decays: it has a digest
            of its own.

    Example:
        >>> step = lambda rate: lambda x, n: x - rate * x / (n + 1)
        >>> isint = lambda leaf: leaf.dtype == jnp.int32
        >>> x, n = jnp.ones(3), jnp.array(0)
        >>> one, other = (fingerprint(step(rate), x, n, counts=isint) for rate in (0.1, 0.2))
        >>> one == fingerprint(step(0.1), x, n, counts=isint), one.program == other.program
        (True, False)
    """
    traced = jax.make_jaxpr(function)(*arguments)
    given = []
    for index, leaf in enumerate(jax.tree.leaves(arguments)):
        name = _hash("argument", index, f"{leaf.dtype}{leaf.shape}")
        counted = counts is not None and counts(leaf)
        given.append(_Value(name, "counted" if counted else "other", name))
    schedules: set[bytes] = set()
    outputs = _follow(traced, given, schedules)
    schedules |= {value.made for value in outputs if value.is_schedule}
    program = _hash(*(value.seen for value in outputs))
    return Fingerprint(program.hex(), _hash(*sorted(schedules)).hex())


def data_digest(arrays: Any) -> str:
    """The digest of arrays: names in the tree, shapes, dtypes and bytes; in any version of JAX.

    Example:
        >>> data_digest(np.zeros(2)) == data_digest(np.zeros(2, np.float32))
        False
    """
    seen = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        # A tree's own text is JAX's to change.
        seen += [jax.tree_util.keystr(path, simple=True, separator="/"), _array(leaf)]
    return _hash(*seen).hex()


def _follow(
    program: ClosedJaxpr | Jaxpr, given: Sequence[_Value], schedules: set[bytes]
) -> list[_Value]:
    """The values of a program's outputs; the schedules that other values take up are collected."""
    closed = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
    values: dict[Any, _Value] = dict(zip(closed.jaxpr.invars, given, strict=True))
    for variable, constant in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        values[variable] = _constant(constant)

    def value_of(atom: Any) -> _Value:
        return _constant(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        taken = [value_of(atom) for atom in equation.invars]
        body = equation.params.get(_CALLS.get(equation.primitive.name, ""))
        if body is None:
            made = _computed(equation, taken, schedules)
        else:
            made = _follow(body, taken, schedules)
        values |= dict(zip(equation.outvars, made, strict=True))
    return [value_of(atom) for atom in closed.jaxpr.outvars]


def _computed(
    equation: core.JaxprEqn, taken: Sequence[_Value], schedules: set[bytes]
) -> list[_Value]:
    kinds = {value.kind for value in taken} - {"constant"}
    kind: _Kind = kinds.pop() if len(kinds) == 1 else "other" if kinds else "constant"
    if kind == "other":
        schedules |= {value.made for value in taken if value.is_schedule}
    params = {name: value for name, value in equation.params.items() if name not in _HINTS}
    operation = _hash(equation.primitive.name, _canonical(params))
    inputs = [value.seen if kind == "other" else value.made for value in taken]
    results = []
    for index, variable in enumerate(equation.outvars):
        made = seen = _hash(operation, index, *inputs)
        aval: Any = variable.aval
        if kind == "counted" and jnp.issubdtype(aval.dtype, jnp.inexact):
            seen = _hash("a schedule", f"{aval.dtype}{aval.shape}")
        results.append(_Value(made, kind, seen))
    return results


def _constant(value: Any) -> _Value:
    made = _hash(_array(value))
    return _Value(made, "constant", made)


def _canonical(value: Any) -> bytes:
    """The digest of a parameter of an operation; functions and addresses leave no trace."""
    if isinstance(value, ClosedJaxpr | Jaxpr):
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        names = [_hash("argument", index) for index in range(len(inner.invars))]
        outputs = _follow(value, [_Value(name, "other", name) for name in names], set())
        return _hash(*(output.made for output in outputs))
    if isinstance(value, Mapping):
        return _hash(*(f"{key}" for key in value), *map(_canonical, value.values()))
    if isinstance(value, tuple | list):
        return _hash(type(value).__name__, *map(_canonical, value))
    if isinstance(value, frozenset | set):
        return _hash(*sorted(map(_canonical, value)))
    if isinstance(value, np.ndarray | jax.Array):
        return _array(value)
    if callable(value) and not isinstance(value, type):
        return _hash("function")
    return _hash(_ADDRESS.sub("", repr(value)))


def _array(value: Any) -> bytes:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return _hash(f"{array.dtype}{array.shape}", np.ascontiguousarray(array).reshape(-1).tobytes())


def _hash(*parts: Any) -> bytes:
    """The digest of byte strings, texts and numbers, each with its length."""
    seen = hashlib.blake2b(digest_size=_LENGTH)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        seen.update(f"{len(data)}:".encode())
        seen.update(data)
    return seen.digest()
