"""Write a result to a folder, as a checkpoint that says what it was trained on."""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxdl.data.types import Dataset
from jaxdl.factories import Made
from jaxdl.files import as_path, partial_folder, publish
from jaxdl.optimizers.averaging import evaluates
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.log import Log
from jaxdl.training.checkpoints.newest import BOXED, EVALUATED
from jaxdl.training.checkpoints.on_disk import Manifest
from jaxdl.training.checkpoints.packing import Leaf, digest, named, pack
from jaxdl.training.fit.recipe import recipe_of_model
from jaxdl.training.fit.trained_inputs import to_json
from jaxdl.training.state import TrainState
from jaxdl.training.task import Task

HISTORY = "history"

# Examples for which the model is traced: norms need two.
_BATCH = 2


def about(task: Task, dataset: Dataset, example: Any, state: TrainState) -> dict[str, Any]:
    """What a checkpoint says of its run, so that it can be used without the data.

    Arguments:
        example: the shapes and dtypes of one example's inputs.
    """
    return {
        "name": dataset.name,
        "example": to_json(example),
        "features": list(dataset.features),
        "classes": list(dataset.classes),
        "names": {place: list(names) for place, names in dataset.names.items()},
        "encoder": None if dataset.encoder is None else dataset.encoder.to_json(),
        "preprocess": name_of_function(task.preprocess),
        EVALUATED: _averages_in(state.opt_state),
        BOXED: _boxed_in(state.variables),
    }


def save(result: Any, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a `Result`; see `Result.save`. With several processes the first one writes."""
    folder = as_path(path).absolute()
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"path must be a new folder, got {folder}, which has something in it; pass another, or "
            "overwrite=True"
        )
    state = vars(result.state)
    packed = {"state": pack(state)}
    if jax.process_index() != 0:
        return
    recipe = {}
    if result.example is not None:
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((_BATCH, *leaf.shape), leaf.dtype), result.example
        )
        recipe = recipe_of_model(result.task, result.state, batch)
    digests = {name: digest(array) for name, array in named(packed).items()}
    leaves = {
        name: Leaf(str(leaf.dtype), tuple(leaf.shape), digests.get(name, ""))
        for name, leaf in named({"state": state}).items()
    }
    extra = {
        **about(result.task, result.dataset, result.example, result.state),
        "stopped": result.stopped,
    }
    identity = identify({"state": state}, config={"batch_size": _BATCH}, recipe=recipe)
    with partial_folder(folder.parent) as partial:
        made = partial / folder.name
        checkpoint = made / f"{1:08d}-step-{int(result.state.step)}"
        checkpoint.mkdir(parents=True)
        log = Log(made).write([{HISTORY: _history_as_json(result.history)}])
        manifest = Manifest(int(result.state.step), identity, leaves, extra, log, {})
        on_disk.write(checkpoint, manifest, packed)
        publish(made, folder)


def _history_as_json(history: Any) -> dict[str, Any]:
    def listed(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {name: listed(each) for name, each in values.items()}
        return {"dtype": str(values.dtype), "values": np.asarray(values).tolist()}

    return {field: listed(values) for field, values in vars(history).items()}


def history_from_json(text: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `History` that `save` wrote."""

    def read(values: Any) -> Any:
        if set(values) == {"dtype", "values"}:
            return np.array(values["values"], np.dtype(values["dtype"]))
        return {name: read(each) for name, each in values.items()}

    return {field: read(values) for field, values in text.items()}


def name_of_function(function: Any) -> str:
    """The name of a function, with its module; of what a factory made, the call.

    Example:
        >>> name_of_function(as_path)
        'jaxdl.files.as_path'
    """
    if isinstance(function, Made):
        return repr(function)
    function = getattr(function, "func", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def _boxed_in(variables: Any) -> list[str]:
    def is_box(node: Any) -> bool:
        return isinstance(node, nn.meta.AxisMetadata)

    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, node in jax.tree_util.tree_leaves_with_path(variables, is_leaf=is_box)
        if is_box(node)
    ]


def _averages_in(opt_state: Any) -> list[str]:
    """Where the optimizer's state holds parameters that are evaluated."""
    return [
        "/".join(part for part in ("opt_state", names_of_path(path), node.evaluated_field) if part)
        for path, node in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=evaluates)
        if evaluates(node)
    ]


def names_of_path(path: Any) -> str:
    """The way to a part of a tree, "1/inner_state"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
