"""The state of a run: all that is needed to go on from where it stands."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, Key

from jaxdl.calling import adapt, initial_variables, to_share
from jaxdl.checks import require_key, require_like
from jaxdl.optimizers.averaging import evaluated_parameters
from jaxdl.optimizers.held_copies import warn_of_copies, without_pairs
from jaxdl.showing import ends, known, numbers_in, shape_of
from jaxdl.training.task import Task

# `fold_in` numbers: each purpose has its own, so its random stream is independent of the others.
DROPOUT_STREAM = 0
ORDER_STREAM = 1
AUGMENT_STREAM = 2
FLIP_STREAM = 3


@struct.dataclass
class TrainState:
    """A frozen pytree: the step count, the variables, the optimizer's state and the run's key.

    Attributes:
        step: updates made so far; with the key it fixes the position in the data as well.
        params: the learned parameters.
        batch_stats: the running statistics of norms, empty where there are none.
        collections: the model's other collections, by name; empty where there are none.
        opt_state: the optimizer's state.
        key: the run's key. It never changes: each use folds in a purpose and a count.
        evaluated_stats: the running statistics that belong to the parameters that are evaluated, of
            a run with `recalibrate=True`; else empty, and `batch_stats` are taken.
    """

    step: Int[Array, "..."]  # a state of many runs has leading axes
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key: Key[Array, "..."]
    collections: Any = struct.field(default_factory=dict)
    evaluated_stats: Any = struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        norms = {"batch_stats": self.batch_stats} if self.batch_stats else {}
        return {"params": self.params, **norms, **self.collections}

    @property
    def evaluated(self) -> dict[str, Any]:
        """`variables`, with the parameters that the optimizer says are evaluated.

        The statistics of norms are `evaluated_stats`, if the run has recalibrated some.
        """
        params = evaluated_parameters(self.opt_state, self.params)
        norms = {"batch_stats": self.evaluated_stats} if self.evaluated_stats else {}
        return {**self.variables, "params": params, **norms}

    def with_collections(self, moved: Mapping[str, Any]) -> "TrainState":
        """This state with the collections as they are after a step.

        Raises:
            ValueError: a collection is new, or changes its structure.
        """
        before = {"batch_stats": self.batch_stats, **self.collections}
        for name, values in moved.items():
            structures = {jax.tree.structure(tree) for tree in (before.get(name, {}), values)}
            if len(structures) > 1:
                raise ValueError(
                    f"a collection must keep its structure in a step, got another for {name!r}; "
                    "leave out what a model only reports: Task(collections=('batch_stats',))"
                )
        after = {**before, **moved}
        return replace(self, batch_stats=after.pop("batch_stats"), collections=after)

    def dropout_key(self) -> Key[Array, ""]:
        """The key of this step's dropout masks: a function of the run's key and the step."""
        return self._stream_key(DROPOUT_STREAM)

    def augment_key(self) -> Key[Array, ""]:
        """The key of this step's augmentation: a function of the run's key and the step."""
        return self._stream_key(AUGMENT_STREAM)

    def __repr__(self) -> str:
        parts = {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "collections": self.collections,
            "opt_state": self.opt_state,
            "evaluated_stats": self.evaluated_stats,
        }
        sizes = {name: numbers_in(tree) for name, tree in parts.items()}
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
        step = known(self.step)
        at = shape_of(self.step) if step is None else ends(step.ravel())
        runs = f" in {step.size:,} runs" if step is not None and step.ndim else ""
        return f"TrainState(step {at}{runs}; numbers: {listed or 'none'})"

    def _stream_key(self, stream: int) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(self.key, stream), self.step)


def init_state(
    key: Key[Array, ""],
    model: Any,
    optimizer: optax.GradientTransformation,
    sample_inputs: Any,
    params: Any = None,
    *,
    variables: Any = None,
) -> TrainState:
    """The state before the first step.

    Arguments:
        key: from `jax.random.key`; split into the key of the initial parameters and the run's key.
        model: a model of any library, see `calling.adapt`, or a `Task`.
        optimizer: any optax gradient transformation. One whose state holds a copy of the
            parameters, of which nothing says that it is evaluated, gives a warning.
        sample_inputs: inputs as the model sees them, (batch, ...), of any batch size; only their
            shape and dtype matter.
        params: the first parameters, if they are made elsewhere; drawn with the key by default.
        variables: the first parameters and other collections, if they are made elsewhere, e.g. by
            `initializers.transfer`: {"params": ..., "batch_stats": ...}, or a trained module of NNX
            or Equinox. A collection that is missing starts as by default.

    Raises:
        TypeError: the key is not a `jax.random.key`, no model, or the optimizer
            not an optax gradient transformation; variables of another form.
        ValueError: `params` or `variables` are not those of this model and these inputs; both were
            given.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import models, optimizers
        >>> state = init_state(
        ...     jax.random.key(0), models.MLP([4, 2]), optimizers.sgd(0.1), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, state.params)["dense_0"]
        {'bias': (4,), 'kernel': (3, 4)}
    """
    check_parts(key, model.model if isinstance(model, Task) else model, optimizer)
    init_key = jax.random.split(key)[0]
    if isinstance(model, Task):
        first = model.init(init_key, sample_inputs)
    else:
        first = initial_variables(adapt(model), init_key, sample_inputs)
    if variables is not None:
        if params is not None:
            raise ValueError("init_state takes params or variables, got both; pass variables alone")
        adapted = model.model if isinstance(model, Task) else adapt(model)
        first |= _given_variables(to_share(adapted, variables)[1], first)
    elif params is not None:
        first |= _given_variables({"params": params}, {"params": {}, **first})
    params = first.pop("params", {})
    warn_of_copies(optimizer, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=first.pop("batch_stats", {}),
        opt_state=without_pairs(optimizer.init(params)),
        key=run_key(key),
        collections=first,
    )


def _given_variables(given: Mapping[str, Any], first: Mapping[str, Any]) -> Mapping[str, Any]:
    """Variables made elsewhere, which must be some of the model's."""
    unknown = sorted(set(given) - set(first))
    if unknown:
        raise ValueError(
            f"variables must be the model's collections, {sorted(first)}, got {unknown} too; leave "
            "them out"
        )
    for name, tree in given.items():
        require_like(name, tree, first[name])
    held: Mapping[str, Any] = jax.tree.map(jnp.asarray, given)
    return held


@jax.jit
def copied(tree: Any) -> Any:
    """A copy of the arrays of a tree, in one program: `jnp.copy` would compile one a shape.

    Example:
        >>> copied({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})["bias"].tolist()
        [1.0, 1.0, 1.0]
    """
    return jax.tree.map(jnp.copy, tree)


def run_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key that a run of this key keeps in its state; the other half draws the parameters."""
    return jax.random.split(key)[1]


def check_parts(key: Any, model: Any, optimizer: Any) -> None:
    """Refuse anything but one `jax.random.key`, a model and an optax optimizer."""
    require_key(key)
    adapt(model)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {type(optimizer).__name__}; "
            "call the factory, e.g. optimizers.sgd(0.1)"
        )
