"""Which parameters Muon takes as matrices, and which axes of them are inputs."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.checks import whole_number
from jaxdl.optimizers.by_layer import fits, names_of

TABLES = ("tok", "token", "tokens", "wte", "wpe", "pos")
HEADS = ("head", "lm_head")
NOT_HIDDEN = ("*embed*", *(f"{p}{each}" for each in (*TABLES, *HEADS) for p in ("", "*/")))
"""Names of embeddings and heads, which Muon leaves to Adam."""

NO_MATRICES = ("bias", "scale")
"""Last parts of the names of vectors: those of attention have an axis for the heads, too."""

ATTENTION = {"query": 1, "key": 1, "value": 1, "out": 2}
"""The leading axes that are inputs, of the kernels of Flax's attention."""


def hidden_matrices(
    params: Any, matrices: Mapping[str, int | None] | None = None
) -> dict[str, tuple[int, int]]:
    r"""What `muon` makes orthogonal: of each such parameter the inputs m and the outputs n.

    All other parameters take Adam's step. See `muon` for the rule, and correct it with `matrices`
    where it takes an embedding or a head of a name that it does not know.

    Arguments:
        params: the parameters, or their shapes.
        matrices: as in `muon`.

    Raises:
        TypeError: `matrices` is no such mapping.
        ValueError: as `muon` at init.

    Example:
        >>> from jaxdl import models
        >>> model = models.MLP([8, 8, 2])
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)["params"]
        >>> hidden_matrices(params)
        {'dense_0/kernel': (4, 8), 'dense_1/kernel': (8, 8), 'dense_2/kernel': (8, 2)}
        >>> list(hidden_matrices(params, {"dense_2": None}))
        ['dense_0/kernel', 'dense_1/kernel']
    """
    check_patterns(matrices)
    axes = input_axes(matrices or {}, params)
    shapes = map(jnp.shape, jax.tree.leaves(params))
    return {
        name: sides(shape, inputs)
        for name, shape, inputs in zip(names_of(params), shapes, axes, strict=True)
        if inputs is not None
    }


def sides(shape: tuple[int, ...], inputs: int) -> tuple[int, int]:
    """The inputs and the outputs of a matrix, whose input axes are as in `input_axes`.

    Example:
        >>> sides((3, 3, 2, 4), 3), sides((4, 2), -1)
        ((18, 4), (2, 4))
    """
    first, last = math.prod(shape[:inputs]), math.prod(shape[inputs:])
    return (first, last) if inputs > 0 else (last, first)


def input_axes(matrices: Mapping[str, int | None], params: Any) -> list[int | None]:
    """For each leaf the leading axes that are inputs, negative for last ones; None for no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> input_axes({}, params), input_axes({"dense/kernel": None}, params)
        ([None, 1], [None, None])
    """
    leaves, names = jax.tree.leaves(params), list(names_of(params))
    shapes = {name: jnp.shape(leaf) for name, leaf in zip(names, leaves, strict=True)}
    for pattern in matrices:
        if names and not any(fits(pattern, name) for name in names):
            raise ValueError(
                f"a pattern of matrices must fit a parameter, and {pattern!r} fits none of "
                f"{', '.join(names[:20])}; rename it, or leave it out"
            )
    attention = {name: axes for each in names for name, axes in _attention(each, shapes).items()}
    return [
        _input_axes(matrices, attention, name, leaf)
        for name, leaf in zip(names, leaves, strict=True)
    ]


def _attention(query: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The input axes of the kernels of Flax's attention, if this is the name of a query's."""
    layer, _, last = query.rpartition("query/kernel")
    if last or query.rpartition("/")[0].rpartition("/")[2] != "query":
        return {}
    known = {f"{layer}{each}/kernel": axes for each, axes in ATTENTION.items()}
    if any(len(shapes.get(name, ())) != 3 for name in known):
        return {}
    # (inputs, heads, d) of the values, and (heads, d, outputs): no kernels of convolutions.
    is_attention = shapes[f"{layer}value/kernel"][1:] == shapes[f"{layer}out/kernel"][:2]
    return known if is_attention else {}


def _input_axes(
    matrices: Mapping[str, int | None], attention: Mapping[str, int], name: str, leaf: Any
) -> int | None:
    axes = jnp.ndim(leaf)
    pattern = next((each for each in matrices if fits(each, name)), None)
    if jnp.size(leaf) == 0 or name.rpartition("/")[2] in NO_MATRICES:
        # No number to move; or a bias beside a kernel, which the name of their layer fits too.
        inputs = None
    elif pattern is not None:
        inputs = None if axes < 2 else matrices[pattern]
        if inputs is not None and not 0 < abs(inputs) < axes:
            raise ValueError(
                f"a matrix must have axes for its inputs and for its outputs, got {name!r} with "
                f"{axes} axes, of which {pattern!r} takes {inputs} for inputs; pass 1 to {axes - 1}"
            )
    elif name in attention:
        inputs = attention[name]
    elif axes == 2 and not any(fits(each, name) for each in NOT_HIDDEN):
        inputs = -1 if name.rpartition("/")[2] == "weight" else 1
    else:
        inputs = None
    if inputs is not None and jnp.iscomplexobj(leaf):
        raise ValueError(
            f"muon makes real matrices orthogonal, got a complex one, {name!r}; leave it to Adam: "
            f"matrices={{{name!r}: None}}"
        )
    return inputs


def check_patterns(matrices: Any) -> None:
    """Refuse what is no mapping from patterns to numbers of axes, or None."""
    if matrices is None:
        return
    is_mapping = isinstance(matrices, Mapping) and all(isinstance(each, str) for each in matrices)
    if not is_mapping:
        raise TypeError(
            f"matrices must be a mapping from patterns to numbers of axes, got {matrices!r}; pass "
            'e.g. {"conv_*": 3, "dense_2": None}'
        )
    for pattern, inputs in matrices.items():
        if inputs is not None:
            name = f"matrices[{pattern!r}]"
            whole_number(name, abs(inputs) if isinstance(inputs, int | float) else inputs)
