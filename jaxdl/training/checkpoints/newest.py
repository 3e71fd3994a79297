"""Read a checkpoint without the run that wrote it: no data, no model, no identity, no lock."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdl.files import as_path
from jaxdl.notices import notice
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.errors import DamagedError
from jaxdl.training.checkpoints.listing import saves
from jaxdl.training.checkpoints.log import Log
from jaxdl.training.checkpoints.on_disk import Manifest

EVALUATED = "evaluated"
"""In a checkpoint's extra values: where the state holds the parameters to evaluate."""

BOXED = "boxed"
"""The same: which variables stood in boxes, as `nn.with_partitioning` makes them."""


class Found(NamedTuple):
    """A checkpoint: its manifest, its trees of arrays by name, and the lines of the log."""

    manifest: Manifest
    parts: dict[str, Any]
    lines: list[Any]


def load_variables(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The variables of the newest whole checkpoint in a folder, as `model.apply` takes them.

    They are those that the run evaluates: of an optimizer that holds an average (`ema`, `swa`,
    `schedule_free`, `lookahead`), the average. Nothing else is needed, neither the model nor the
    data. A run that is writing there is not disturbed.

    Arguments:
        folder: the `checkpoint_dir` of `fit`, or what `Result.save` wrote.

    Returns:
        {"params": ..., "batch_stats": ..., ...}: dicts and lists of NumPy arrays in the dtypes that
        were saved. Without collections that are empty.

    Raises:
        FileNotFoundError: no checkpoint in the folder.
        DamagedError: every checkpoint is damaged.

    Example:
        >>> import tempfile, jax
        >>> from jaxdl import losses, models, optimizers, training
        >>> folder = tempfile.mkdtemp()
        >>> result = training.fit(
        ...     models.MLP([1]), (np.ones((4, 2)), np.ones((4, 1))), optimizers.sgd(0.1), epochs=1,
        ...     batch_size=2, loss=losses.mean_squared_error, key=jax.random.key(0),
        ...     checkpoint_dir=folder)
        >>> load_variables(folder)["params"]["dense_0"]["kernel"].shape
        (2, 1)
    """
    found = newest(folder)
    state = found.parts["state"]
    variables = {"params": state["params"], **(state.get("collections") or {})}
    statistics = state.get("evaluated_stats") or state.get("batch_stats")
    if statistics:
        variables["batch_stats"] = statistics
    extra = found.manifest.extra or {}
    for place in places(extra):
        variables["params"] = _with_dtypes(at(state, place), variables["params"])
    for place in extra.get(BOXED, ()):
        *way, last = place.split("/")
        holder = at(variables, "/".join(way)) if way else variables
        holder[last] = holder[last]["value"]
    return variables


def newest(folder: str | os.PathLike[str], *, with_lines: bool = False) -> Found:
    """The newest whole checkpoint of a folder. A damaged one is passed over with a warning.

    Arguments:
        with_lines: whether to read the log too.

    Raises:
        FileNotFoundError, DamagedError: as in `load_variables`.
    """
    path = as_path(folder).absolute()
    listed = saves(path) if path.is_dir() else []
    damaged = []
    for _, _, each in reversed(listed):
        try:
            manifest = on_disk.read_manifest(each)
            parts = _filled(on_disk.read_parts(each, manifest), manifest)
            lines = Log(path).read(manifest.log) if with_lines else []
        except DamagedError as error:
            damaged.append(str(error))
            continue
        if damaged:
            notice(f"a damaged checkpoint is passed over: {damaged[0]}; the one before it is taken")
        return Found(manifest, parts, lines)
    if damaged:
        raise DamagedError(
            f"a folder must hold a whole checkpoint, got none in {path}: {'; '.join(damaged)}"
        )
    raise FileNotFoundError(
        f"a folder must hold a checkpoint, got none in {path}; pass the checkpoint_dir of fit, or "
        "the folder of result.save"
    )


def places(extra: Mapping[str, Any]) -> list[str]:
    """Where the state holds parameters to evaluate; older versions wrote one place, or None."""
    found = extra.get(EVALUATED) or []
    return [found] if isinstance(found, str) else list(found)


def at(tree: Any, place: str) -> Any:
    """What stands in a tree at a place such as "opt_state/1/average"."""
    for name in place.split("/"):
        tree = tree[int(name)] if isinstance(tree, list | tuple) else tree[name]
    return tree


def _filled(parts: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The trees with the dtypes and shapes of the manifest, and with the arrays of no elements."""

    def filled(node: Any, name: str) -> Any:
        if isinstance(node, dict):
            return {key: filled(child, f"{name}/{key}") for key, child in node.items()}
        if isinstance(node, list | tuple):
            return [filled(child, f"{name}/{place}") for place, child in enumerate(node)]
        leaf = manifest.leaves.get(name)
        if leaf is None or leaf.dtype.startswith("key<"):
            return node
        if node is None:
            return np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
        return np.asarray(node).view(jnp.dtype(leaf.dtype)).reshape(leaf.shape)

    return {part: filled(tree, part) for part, tree in parts.items()}


def _with_dtypes(average: Any, params: Any) -> Any:
    """The average in the parameters' dtypes; where there is none, as of a frozen layer, these."""
    if average is None:
        return params
    if isinstance(params, dict):
        return {name: _with_dtypes(average.get(name), child) for name, child in params.items()}
    if isinstance(params, list):
        return [_with_dtypes(*pair) for pair in zip(average, params, strict=True)]
    return in_dtype_of(params, average)


def in_dtype_of(theta: Any, held: Any) -> Any:
    """What the state holds for a parameter, in its dtype; of a complex one a pair of parts."""
    if np.iscomplexobj(theta) and not np.iscomplexobj(held):
        held = held[..., 0] + 1j * held[..., 1]
    return held.astype(theta.dtype)
