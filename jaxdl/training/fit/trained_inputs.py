"""Inputs for a model that was trained: they must be what it was trained on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.data.arrays import as_arrays, check_columns, columns_in
from jaxdl.training.checkpoints.packing import kind
from jaxdl.training.fields import check_fields, check_held
from jaxdl.training.task import examples_in


def example_of(shapes: Any) -> Any:
    """The shape and dtype of one example's inputs, from those of a batch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.dtype(leaf.dtype)), shapes
    )


def checked_inputs(
    inputs: Any,
    example: Any,
    names: Mapping[str, tuple[str, ...]] | None = None,
    name: str = "the inputs",
) -> Any:
    """Inputs as arrays of the dtypes in which the model was trained.

    Preprocessing depends on the dtype: uint8 images are divided by 255, floats are not. So bytes
    and other numbers are not taken for each other. Integers become floats where floats are due.

    Arguments:
        inputs: what `data.as_dataset` takes as inputs.
        example: the shapes and dtypes of one training example; None checks nothing.
        names: those of the columns of frames, by place.

    Raises:
        TypeError: what is no array of numbers; another kind of numbers than in training.
        ValueError: no examples, examples of another shape, a frame with other columns.

    Example:
        >>> trained = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> checked_inputs([[1, 2, 3]], trained).dtype
        dtype('float32')
        >>> checked_inputs(jnp.ones(3), trained)
        Traceback (most recent call last):
        ...
        ValueError: the inputs must be examples of shape [3], got one of shape [] for each of 3;
        pass inputs[None] for a single example
    """
    where = name.removeprefix("the inputs").removeprefix(" of ") or "what is predicted"
    check_columns(columns_in({"inputs": inputs}), names or {}, where)
    arrays = as_arrays(inputs, name)
    check_fields({"inputs": arrays}, where)
    if not examples_in(arrays):
        raise ValueError(f"{name} must hold examples, got none")
    if example is None:
        check_held({"inputs": arrays}, name)
        return arrays
    expected, given = str(jax.tree.structure(example)), str(jax.tree.structure(arrays))
    if expected != given:
        raise ValueError(
            f"{name} must be like those of training, {to_json(example)}, got "
            f"{_described(arrays)}; pass the inputs alone, with the same names"
        )

    def checked(path: Any, leaf: Any, wanted: Any) -> Any:
        part = name + jax.tree_util.keystr(path)
        if leaf.shape[1:] != wanted.shape:
            fix = (
                "inputs[None] for a single example"
                if leaf.shape == wanted.shape
                else ("examples prepared as those of training")
            )
            raise ValueError(
                f"{part} must be examples of shape {list(wanted.shape)}, got one of shape "
                f"{list(leaf.shape[1:])} for each of {leaf.shape[0]}; pass {fix}"
            )
        if leaf.dtype == wanted.dtype:
            return leaf
        held = jnp.dtype(jax.dtypes.canonicalize_dtype(leaf.dtype))
        kinds = [_kind(held), _kind(jnp.dtype(wanted.dtype))]
        if kinds[0] != kinds[1] and kinds != ["integer", "float"]:
            raise TypeError(
                f"{part} must be {wanted.dtype}, as in training, for the preprocessing depends on "
                f"it, got {leaf.dtype}; prepare them as the training inputs"
            )
        check_held({"inputs": leaf}, name)
        return leaf.astype(wanted.dtype)

    return jax.tree_util.tree_map_with_path(checked, arrays, example)


def _described(tree: Any) -> Any:
    return to_json(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree))


def _kind(dtype: Any) -> str:
    if dtype == jnp.uint8:
        return "bytes"
    for name, family in {"integer": jnp.integer, "float": jnp.floating}.items():
        if jnp.issubdtype(dtype, family):
            return name
    return str(dtype)


def to_json(example: Any) -> Any:
    """The shapes and dtypes of a tree as JSON values.

    Example:
        >>> to_json({"image": jax.ShapeDtypeStruct((2, 2), jnp.uint8)})
        {'dict': {'image': 'uint8[2,2]'}}
    """
    if isinstance(example, Mapping):
        return {"dict": {name: to_json(child) for name, child in example.items()}}
    if isinstance(example, list | tuple):
        word = "list" if isinstance(example, list) else "tuple"
        return {word: [to_json(child) for child in example]}
    return kind(example)


def from_json(text: Any) -> Any:
    """The tree that `to_json` wrote.

    Example:
        >>> from_json({"tuple": ["float32[]", "uint8[2,2]"]})[1].shape
        (2, 2)
    """
    if isinstance(text, str):
        dtype, _, axes = text.removesuffix("]").partition("[")
        shape = tuple(int(size) for size in axes.split(",") if size)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    ((word, children),) = text.items()
    if word == "dict":
        return {name: from_json(child) for name, child in children.items()}
    read = [from_json(child) for child in children]
    return tuple(read) if word == "tuple" else read
