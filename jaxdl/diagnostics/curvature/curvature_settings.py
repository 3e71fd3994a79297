"""What the measurements of curvature share: their arguments, layers, types and loops."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdl.checks import is_traced, require_at_least, require_choice, require_key
from jaxdl.compiling import compiler_options, jit_with, loops_well, once_for_equal
from jaxdl.diagnostics.curvature.curvature_products import (
    Measured,
    Operands,
    computed_type,
    flat_parameters,
    product,
)
from jaxdl.diagnostics.objective import Group, groups, weighed_batch
from jaxdl.host_loops import with_loops_on_host
from jaxdl.notices import notice
from jaxdl.training.task import as_task, to_measure

START = 1
"""What is folded into the key for the vectors to start from, so that dropout has another."""


class Prepared(NamedTuple):
    """Arguments that have been checked.

    Attributes:
        measured: what does not change.
        operands: the arrays.
        groups: the layers, each with its own block of the matrix.
        key: of the random vectors.
        traced: whether the caller traces.
    """

    measured: Measured
    operands: Operands
    groups: tuple[Group, ...]
    key: Any
    traced: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The groups' names."""
        return tuple(group.name for group in self.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of their parameters."""
        sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(self.operands.variables["params"])]
        return tuple(
            sum(size for size, own in zip(sizes, group.owned, strict=True) if own)
            for group in self.groups
        )


def prepared(
    model: Any, variables: Any, batch: Any, *, layers: Any, key: Any, **settings: Any
) -> Prepared:
    """The arguments of a measurement, checked; see `sharpness`."""
    require_choice("matrix", settings["matrix"], ("hessian", "gauss_newton"))
    require_at_least(1, batch_size=settings["batch_size"])
    if key is not None:
        require_key(key)
    task = as_task(
        model, settings["loss"], preprocess=settings["preprocess"], mode=settings["mode"]
    )
    task, variables = to_measure(task, variables)
    dtype = None if settings["dtype"] is None else jnp.dtype(settings["dtype"])
    is_wide = dtype is None or (jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32)
    if not is_wide:
        raise ValueError(
            f"dtype must be a real float of 32 bits or more, got {dtype}; jnp.float64 is exact "
            "enough, and None takes float32 for parameters of half precision"
        )
    measured = Measured(task, settings["matrix"], settings["train"], settings["batch_size"], dtype)
    operands = Operands(variables, weighed_batch(batch), key)
    found = groups(variables.get("params", {}), layers)
    start = jax.random.fold_in(jax.random.key(0) if key is None else key, START)
    # Constants inside of a jitted function are traced, too.
    traced = any(map(is_traced, jax.tree.leaves((operands, start, jnp.zeros(())))))
    computed_type(measured, operands)
    return Prepared(measured, operands, found, start, traced)


def tell_of_nonfinite(values: Any, names: tuple[str, ...], made: Prepared) -> None:
    """Say of which group's measurement, along the first axis, something is NaN or infinite."""
    if made.traced:
        return
    apart = [
        name for name, each in zip(names, np.asarray(values), strict=True)
        if not np.isfinite(each).all()
    ]  # fmt: skip
    if apart:
        notice(
            "curvature must be finite to be trusted, got NaN or infinite products for "
            f"{', '.join(apart)}; look at the loss there, e.g. with diagnostics.propagation"
        )


@contextmanager
def in_type(dtype: DTypeLike | None) -> Iterator[bool]:
    """Within, arrays may have 64 bits if that is asked for; says whether it had to be turned on."""
    wide = dtype is not None and jnp.finfo(dtype).bits == 64
    if not wide or jnp.result_type(float) == jnp.dtype(dtype):
        yield False
        return
    if is_traced(jnp.zeros(())):
        raise ValueError(
            "dtype=float64 inside of a jitted function needs 64 bits in all of it, got "
            "jax_enable_x64 off; call it outside, or put `with jax.enable_x64(True):` around"
        )
    # Older versions have it among the experiments.
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    with home.enable_x64(True):
        yield True


def measure(function: Callable[..., Any], settings: tuple[Any, ...], made: Prepared) -> Any:
    """`function((measured, groups, on_host, *settings), operands, key)`, compiled.

    A convolution is slow in a compiled loop on a CPU, so the loop is driven from the host then.
    """
    on_host = not made.traced and not _loops_well(made.measured, made.operands)
    given = (made.measured, made.groups, on_host, *settings)
    run = functools.partial(function, given) if on_host else jit_with(function, given)
    return run(made.operands, made.key)


def program(
    function: Callable[..., Any], settings: tuple[Any, ...], on_host: bool
) -> Callable[..., Any]:
    """`function(settings, ...)` as a function of the rest; compiled, if the host drives it."""
    return _compiled(function, settings) if on_host else functools.partial(function, settings)


def over(function: Callable[[Any], Any], given: Any, on_host: bool) -> Any:
    """`lax.map`, or the same on the host."""
    count = len(jax.tree.leaves(given)[0])
    if not on_host and count > 1:
        return jax.lax.map(function, given)
    made = [function(jax.tree.map(lambda leaf, i=i: leaf[i], given)) for i in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def owned_by(found: tuple[Group, ...]) -> Array:
    """Which leaf belongs to which group, (groups, leaves)."""
    return jnp.array([group.owned for group in found])


def masked(measured: Measured, operands: Operands, owned: Array, vector: Array) -> Array:
    """The part of a vector that belongs to a group, 0 elsewhere."""
    leaves = jax.tree.leaves(operands.variables["params"])
    spread = [jnp.broadcast_to(owned[i], (leaf.size,)) for i, leaf in enumerate(leaves)]
    return jnp.where(jnp.concatenate(spread), vector, 0)


def block_product(
    measured: Measured, whole: bool, operands: Operands, owned: Array, vector: Array
) -> Array:
    """The group's own diagonal block times a vector that is 0 elsewhere."""
    made = product(measured, operands, vector)
    return made if whole else masked(measured, operands, owned, made)


@once_for_equal
def _compiled(function: Callable[..., Any], settings: tuple[Any, ...]) -> Callable[..., Any]:
    options = compiler_options(convolutional=True)
    return with_loops_on_host(functools.partial(function, settings), options)


def _loops_well(measured: Measured, operands: Operands) -> bool:
    if jax.default_backend() != "cpu":
        return True
    leaves, structure = jax.tree.flatten(operands)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _loops_well_of(measured, structure, shapes)


@once_for_equal
def _loops_well_of(measured: Measured, structure: Any, shapes: tuple[Any, ...]) -> bool:
    operands = jax.tree.unflatten(structure, shapes)

    def once(operands: Operands) -> Array:
        return product(measured, operands, flat_parameters(measured, operands)[0])

    return loops_well(jax.make_jaxpr(once)(operands))
