"""Make a result again from a folder that `Result.save` or a run's checkpoints wrote."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.data.columns import TableEncoder
from jaxdl.data.types import Dataset
from jaxdl.environment import environment
from jaxdl.files import differences
from jaxdl.training.checkpoints.newest import Found, at, in_dtype_of, newest, places
from jaxdl.training.checkpoints.on_disk import Manifest
from jaxdl.training.checkpoints.packing import bytes_of, describe, named, unpack
from jaxdl.training.fit.history import History, join
from jaxdl.training.fit.moment import measurements
from jaxdl.training.fit.recipe import recipe_of_model
from jaxdl.training.fit.result import Result
from jaxdl.training.fit.saving import HISTORY, history_from_json, name_of_function
from jaxdl.training.fit.trained_inputs import from_json
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.task import PerExample, Task, as_measured, scale_images


def load(
    path: str | os.PathLike[str],
    model: Any,
    optimizer: optax.GradientTransformation | None = None,
    *,
    loss: PerExample | Any | None = None,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any = (),
    preprocess: Callable[[Any], Any] = scale_images,
) -> Result:
    """The result of a run, from the folder of `Result.save` or the `checkpoint_dir` of `fit`.

    It predicts and evaluates as the result did that was saved. The data are not saved: pass them to
    `evaluate`.

    Arguments:
        path: the folder. Its newest whole checkpoint is read.
        model: the model that was trained, or its `Task`. Names and shapes of its variables must be
            those saved, and so must the preprocessing; on the machine and versions that saved it
            the whole computation of the model is compared.
        optimizer: that of the run, to train on from `result.state`. Without it the state has no
            optimizer state, and the parameters that the run evaluated: those of `ema`, `swa`,
            `schedule_free` or `lookahead`, if it had one.
        loss, metrics: as in `fit`, for `evaluate`; a `Task` has its own.
        preprocess: as in `fit`.

    Raises:
        FileNotFoundError: no checkpoint there.
        DamagedError: every checkpoint is damaged.
        ValueError: another model, optimizer or preprocessing; the message names the differences.

    Example:
        >>> import tempfile
        >>> from jaxdl import losses, models, optimizers, training
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> model, folder = models.MLP([1]), tempfile.mkdtemp()
        >>> result = training.fit(
        ...     model, (x, 2 * x), optimizers.sgd(0.5), epochs=20, batch_size=16,
        ...     loss=losses.mean_squared_error, key=jax.random.key(0))
        >>> result.save(folder)
        >>> training.load(folder, model).predict([[0.5]]).round(3).tolist()
        [[1.0]]
    """
    task = as_measured(model, loss, metrics=metrics, preprocess=preprocess)
    found = newest(path, with_lines=True)
    extra = found.manifest.extra
    if not isinstance(extra, Mapping) or "example" not in extra:
        raise ValueError(
            f"a checkpoint must say what it was trained on, got one of an older version in {path}; "
            "read it with checkpoints.load_variables"
        )
    example = from_json(extra["example"])
    _check_preprocess(task, extra["preprocess"], path)
    state = _state(task, optimizer, found, example, path)
    _check_program(task, state, found.manifest, example, path)
    encoder = None if extra["encoder"] is None else TableEncoder.from_json(extra["encoder"])
    names = {place: tuple(each) for place, each in extra["names"].items()}
    known = tuple(extra["classes"]), tuple(extra["features"]), encoder, names
    dataset = Dataset(extra["name"], None, None, None, *known)
    return Result(state, _history(found), dataset, task, optimizer, extra["stopped"], example)


def _state(
    task: Task,
    optimizer: optax.GradientTransformation | None,
    found: Found,
    example: Any,
    path: Any,
) -> TrainState:
    def initial(key: Any, inputs: Any) -> Any:
        return vars(init_state(key, task, optimizer or optax.identity(), task.preprocess(inputs)))

    target = jax.eval_shape(initial, jax.random.key(0), _batch_of(example, 1))
    stored = {
        name.removeprefix("state/"): leaf.kind
        for name, leaf in found.manifest.leaves.items()
        if name.startswith("state/")
    }
    if any(name.startswith("evaluated_stats/") for name in stored):
        target = {**target, "evaluated_stats": target["batch_stats"]}
    if optimizer is None:
        target = {**target, "opt_state": ()}
        stored = {name: kind for name, kind in stored.items() if not _is_of_optimizer(name)}
    # The key's implementation is that of the run.
    kinds = {**describe(target), "key": stored.get("key", "")}
    different = "; ".join(differences(stored, kinds))
    if different:
        raise ValueError(
            f"the model and optimizer must be those that were saved in {path}, got others: "
            f"{different}; pass the same"
        )
    words = found.parts["state"]["key"]
    implementation = stored["key"].partition("<")[2].partition(">")[0]
    key = jax.random.wrap_key_data(jnp.asarray(words), impl=_IMPLEMENTATIONS[implementation])
    leaves = {
        name: bytes_of(leaf)
        for name, leaf in named(found.parts["state"] | {"key": np.zeros(0)}).items()
    }
    tree = {**unpack({**target, "key": jnp.zeros(0)}, leaves), "key": key}
    if optimizer is None:
        names = named(tree["params"])
        for place in places(found.manifest.extra):
            held = named(at(found.parts["state"], place))  # without what is frozen
            own = {name: in_dtype_of(names[name], leaf) for name, leaf in held.items()}
            names |= {name: jnp.asarray(leaf) for name, leaf in own.items()}
        tree["params"] = jax.tree.unflatten(jax.tree.structure(tree["params"]), names.values())
    return TrainState(**tree)


# JAX's short names of its generators, as dtypes show them.
_IMPLEMENTATIONS = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}


def _history(found: Found) -> History:
    if found.lines and HISTORY in found.lines[0]:
        return History(**history_from_json(found.lines[0][HISTORY]))
    return join(*measurements(found.lines, found.manifest.extra["dtypes"]))


def _check_preprocess(task: Task, saved: str, path: Any) -> None:
    given = name_of_function(task.preprocess)
    if given != saved:
        raise ValueError(
            f"preprocess must be that of the run in {path}, {saved}, got {given}; pass "
            "load(..., preprocess=...)"
        )


def _check_program(
    task: Task, state: TrainState, manifest: Manifest, example: Any, path: Any
) -> None:
    """Compare what the model computes, where versions and machine allow it."""
    stored, recipe = manifest.identity, manifest.identity.get("recipe", {})
    here, there = environment(), dict(stored.get("environment", {}))
    for name in ("cores", "layout"):
        here.pop(name, None), there.pop(name, None)
    if here != there:
        return
    batch = _batch_of(example, stored["config"]["batch_size"])
    current = recipe_of_model(task, state, batch)
    changed = [name for name in current if recipe.get(name, current[name]) != current[name]]
    if changed:
        raise ValueError(
            f"a result must be loaded with what was trained, got another {' and '.join(changed)} "
            f"than in {path}; pass the same"
        )


def _batch_of(example: Any, size: int) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), example)


def _is_of_optimizer(name: str) -> bool:
    return name == "opt_state" or name.startswith("opt_state/")
