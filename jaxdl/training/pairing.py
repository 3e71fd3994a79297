"""Whether a loss pairs each example with its own target, and not every two examples."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn

from jaxdl.jaxprs import equations, inner_programs

# Numbers of examples that no array has as another axis; only shapes are computed with them.
_UNUSUAL = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)

# What makes pairs of examples on purpose: a product of matrices, an index.
_ON_PURPOSE = ("dot_general", "gather")

# The losses that were found to pair rightly, with the shapes and dtypes for which they do.
_fine: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


def check_pairing(
    name: str, function: Callable[[Any, Any], Any], outputs: Any, targets: Any
) -> None:
    """Refuse a loss or metric that broadcasts one example against the others.

    Outputs (batch, 1) and targets (batch,) broadcast to (batch, batch): every output is then
    compared with every target, and nothing is learned. The function is traced with shapes in which
    one array has another number of examples than the rest. A function that pairs examples cannot be
    traced so, or keeps the two numbers apart. One that broadcasts makes an array with both.

    Pairs that are written out, as `outputs[:, None] - targets[None, :]` or a product of matrices,
    are taken.

    Arguments:
        name: of the function, for the message.
        outputs, targets: pytrees; shapes are enough.

    Raises:
        ValueError: it broadcasts over the examples.

    Example:
        >>> import optax
        >>> loss = optax.sigmoid_binary_cross_entropy
        >>> check_pairing("loss", loss, jnp.ones((8, 1)), jnp.ones(8, int))
        Traceback (most recent call last):
        ...
        ValueError: loss must pair each output with its own target, got outputs of shape (8, 1) and
        targets of shape (8,), which it broadcasts to every pair of examples; give both the same
        shape, e.g. targets[:, None] for one output
    """
    leaves, structure = jax.tree.flatten((outputs, targets))
    shapes = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    batch = next((jnp.shape(leaf)[0] for leaf in jax.tree.leaves(targets) if jnp.shape(leaf)), 0)
    held = [index for index, (shape, _) in enumerate(shapes) if shape[:1] == (batch,)]
    # The axes of each array without that of the examples. Another may happen to be as long.
    rest = [shape[index in held :] for index, (shape, _) in enumerate(shapes)]
    lengths = {size for shape in rest for size in shape}
    kinds = [(shape, dtype) for shape, (_, dtype) in zip(rest, shapes, strict=True)]
    case = (structure, *kinds, *held, batch if batch in lengths else None)
    try:
        seen = _fine.setdefault(function, set())
    except TypeError:  # it has no hash, or cannot be referred to weakly
        seen = set()
    if case in seen:
        return
    common, other = [size for size in _UNUSUAL if size not in lengths][:2]

    def traced(index: int, size: int, promotion: str = "allow") -> tuple[Jaxpr, bool]:
        """The function's program where one array has `size` examples, and the others `common`.

        A function with an error of its own has a program up to there; the run will meet it.
        """
        finished = True

        def up_to_an_error(*given: Any) -> None:
            nonlocal finished
            try:
                function(*given)
            except Exception:
                finished = False

        given = [
            jax.ShapeDtypeStruct(
                (size if place == index else common, *shape) if place in held else shape, dtype
            )
            for place, (shape, dtype) in enumerate(kinds)
        ]
        with jax.numpy_rank_promotion(promotion):
            program = jax.make_jaxpr(up_to_an_error)(*jax.tree.unflatten(structure, given)).jaxpr
        return program, finished

    def broadcasts(index: int) -> bool:
        pairs = _pairs(traced(index, other)[0], common, other)
        if not pairs:
            return False
        # Where NumPy's rule must add an axis, nobody has written that every pair is meant.
        written = _pairs(traced(index, other, "raise")[0], common, other)
        return len(written) < len(pairs) or any(map(_adds_axis, pairs))

    def fits_an_axis(index: int) -> bool:
        program, finished = traced(index, batch)
        adds = any(map(_adds_axis, _pairs(program, common, batch)))
        return finished and (adds or not traced(index, batch, "raise")[1])

    found = any(map(broadcasts, held))
    if batch in lengths and not found and not traced(-1, common)[1]:
        # It runs for this number of examples alone: (10, 10) and (10,) broadcast, for instance.
        found = any(map(fits_an_axis, held))
    if found:
        one_shape = _shape_of(outputs) == _shape_of(targets)
        fix = (
            "keep the axes of both inside it"
            if one_shape
            else "give both the same shape, e.g. targets[:, None] for one output"
        )
        raise ValueError(
            f"{name} must pair each output with its own target, got outputs of shape "
            f"{_shape_of(outputs)} and targets of shape {_shape_of(targets)}, which it broadcasts "
            f"to every pair of examples; {fix}"
        )
    seen.add(case)


def _pairs(program: Jaxpr, common: int, other: int) -> list[JaxprEqn]:
    """The operations that make an array with both axes from arrays without."""

    def has_both(atom: Any) -> bool:
        return {common, other} <= set(getattr(atom.aval, "shape", ()))

    return [
        equation
        for equation in equations(program)
        if not inner_programs(equation)
        and equation.primitive.name not in _ON_PURPOSE
        and any(map(has_both, equation.outvars))
        and not any(map(has_both, equation.invars))
    ]


def _adds_axis(equation: JaxprEqn) -> bool:
    """Whether a lower array was broadcast at once, as `jnp.where` does."""
    if equation.primitive.name != "broadcast_in_dim":
        return False
    before: Any = equation.invars[0].aval
    after: Any = equation.outvars[0].aval
    return bool(0 < before.ndim < after.ndim)


def _shape_of(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)
