"""The gradients of a batch's examples, or of small batches of them, and what is summed of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array

from jaxdl.calling import name_of
from jaxdl.checks import require_at_least
from jaxdl.diagnostics.noise.factors import Factors, Traced, gradient_of_one, trace
from jaxdl.diagnostics.noise.noise_estimates import Shares
from jaxdl.diagnostics.objective import example_losses
from jaxdl.diagnostics.sizes import norm
from jaxdl.training.task import Task, as_batch, examples_in, mean_over_batch

Gradient = list[Array | Factors]
"""Of each leaf an array, or factors; with a first axis of small batches."""


def _same(inputs: Any) -> Any:
    return inputs


class Settings(NamedTuple):
    """What is measured, hashable.

    Attributes:
        task: the model and its loss.
        train: whether it trains.
        small_batch: examples of a small batch.
        at_once: small batches that are computed together; None for all.
    """

    task: Task
    train: bool
    small_batch: int
    at_once: int | None


def settings_of(task: Task, *, train: bool, small_batch: int, batch_size: int | None) -> Settings:
    """The settings, checked."""
    require_at_least(1, small_batch=small_batch)
    if batch_size is None:
        return Settings(task, train, small_batch, None)
    require_at_least(small_batch, batch_size=batch_size)
    return Settings(task, train, small_batch, batch_size // small_batch)


@struct.dataclass
class Units:
    """The small batches of a batch, and how the gradient of one is computed.

    Attributes:
        leaves: the parameters.
        parts: inputs, targets, weights, (units, small_batch, ...), and a key of each, (units,).
        others: the model's variables without the parameters.
        structure: of the parameters.
        settings: what is measured.
    """

    leaves: list[Array]
    parts: Any
    others: Any
    structure: Any = struct.field(pytree_node=False)
    settings: Settings = struct.field(pytree_node=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return examples_in(self.parts["inputs"])

    def traced(self) -> Traced:
        """The program of one small batch's loss."""
        first = jax.tree.map(lambda leaf: leaf[0], self.parts)
        return trace(self._loss, self.leaves, first)

    def _loss(self, leaves: list[Array], part: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        """The mean loss of a small batch, the sum of its weights, and that of their squares."""
        settings = self.settings
        batch = {name: each for name, each in part.items() if name != "key"}
        losses = example_losses(
            replace(settings.task, preprocess=_same),
            self.others,
            batch,
            train=settings.train,
            key=part.get("key"),
        )
        values, weights = losses(self.structure.unflatten(leaves))
        counted = jnp.ones_like(values) if weights is None else weights.astype(values.dtype)
        return mean_over_batch(values, weights), counted.sum(), jnp.square(counted).sum()


def units_of(
    settings: Settings, variables: Mapping[str, Any], batch: Any, key: Any, *, least: int = 2
) -> Units:
    """The batch in small ones.

    Raises:
        ValueError: too few, examples left over, or a model that couples examples.
    """
    given, size = as_batch(batch), settings.small_batch
    examples = examples_in(given["inputs"])
    if examples % size:
        raise ValueError(
            f"small_batch must divide the batch, got {size} and {examples} examples; pass "
            f"{examples - examples % size} examples"
        )
    count = examples // size
    if count < least:
        raise ValueError(
            f"the noise is the difference of gradients, so the batch must hold {least} small "
            f"batches or more, got {examples} examples in small batches of {size}; pass more "
            "examples" + (" or a smaller small_batch" if size > 1 else "")
        )
    given["inputs"] = settings.task.preprocess(jax.tree.map(jnp.asarray, given["inputs"]))
    _require_apart(settings, variables, given["inputs"], key)
    parts = jax.tree.map(
        lambda leaf: jnp.asarray(leaf).reshape(count, size, *jnp.shape(leaf)[1:]), given
    )
    if key is not None:
        parts["key"] = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(count))
    leaves, structure = jax.tree.flatten(variables["params"])
    if not leaves:
        raise ValueError(
            "variables must hold the model's parameters under 'params', got none; pass what "
            "model.init returned"
        )
    others = {name: tree for name, tree in variables.items() if name != "params"}
    return Units([jnp.asarray(leaf) for leaf in leaves], parts, others, structure, settings)


def _require_apart(settings: Settings, variables: Mapping[str, Any], inputs: Any, key: Any) -> None:
    """Refuse the gradient of single examples where a norm takes the statistics of all."""
    task = settings.task
    if settings.small_batch > 1 or not settings.train or len(variables) < 2:
        return

    def moved(inputs: Any) -> Any:
        return task.outputs(variables, inputs, train=True, key=key)[1]

    program = jax.make_jaxpr(moved)(inputs).jaxpr
    touched = set(program.invars)
    for equation in program.eqns:
        if not touched.isdisjoint(a for a in equation.invars if type(a).__name__ != "Literal"):
            touched.update(equation.outvars)
    if not touched.isdisjoint(a for a in program.outvars if type(a).__name__ != "Literal"):
        raise ValueError(
            f"an example's gradient must not depend on the others, got {name_of(task.model)}, "
            "which in training takes statistics of the whole batch; pass train=False for its "
            "running statistics, or small_batch=16 for batches that each have their own"
        )


def summed(function: Callable[[Any], Any], units: Units) -> Any:
    """The sum of what the function gives of some small batches, over all of them."""
    whole, rest = _cut(units)
    if whole is None:
        return function(rest)
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], whole))
    total, _ = lax.scan(
        lambda total, some: (jax.tree.map(jnp.add, total, function(some)), None),
        jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes),
        whole,
    )
    return total if rest is None else jax.tree.map(jnp.add, total, function(rest))


def mapped(function: Callable[[Any], Any], units: Units) -> Any:
    """What the function gives of each small batch, over some of them, joined."""
    whole, rest = _cut(units)
    if whole is None:
        return function(rest)
    found = lax.map(function, whole)
    joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    if rest is None:
        return joined
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), joined, function(rest))


def _cut(units: Units) -> tuple[Any, Any]:
    """The parts in equal pieces, (pieces, units of a piece, ...), and what is left."""
    size = units.settings.at_once
    if size is None or size >= units.count:
        return None, units.parts
    end = units.count // size * size
    whole = jax.tree.map(lambda leaf: leaf[:end].reshape(-1, size, *leaf.shape[1:]), units.parts)
    rest = jax.tree.map(lambda leaf: leaf[end:], units.parts) if end < units.count else None
    return whole, rest


class Weighed(NamedTuple):
    """Some small batches' gradients, and their weights.

    Attributes:
        gradient: of each leaf.
        weight: the sum of the weights of each one's examples.
        squares: the sum of their squares.
    """

    gradient: Gradient
    weight: Array
    squares: Array


def gradients_of(traced: Traced, leaves: list[Array], parts: Any) -> Weighed:
    """The gradients of some small batches."""
    found = jax.vmap(lambda part: gradient_of_one(traced, leaves, part))(parts)
    gradient, (weight, squares) = found
    return Weighed(gradient, weight, squares)


def add_up(traced: Traced, weighed: Weighed, *, squares: bool = False) -> list[Array]:
    """The weighted sum of the gradients of each leaf, or of their entries' squares."""
    sums = []
    for leaf, gradient in enumerate(weighed.gradient):
        if isinstance(gradient, Factors):
            total = _sum_of_products(gradient, weighed.weight, squares=squares)
            back = jax.linear_transpose(traced.arrange(leaf), traced.like(leaf))
            total = back(total)[0]
        else:
            wide = _wide(gradient)
            entries = (jnp.square(jnp.abs(wide)) if squares else wide).reshape(len(wide), -1)
            total = (weighed.weight.astype(entries.dtype) @ entries).reshape(wide.shape[1:])
        sums.append(total)
    return sums


def _sum_of_products(factors: Factors, weight: Array, *, squares: bool) -> Array:
    received, sent = _wide(factors.received), _wide(factors.sent)
    weight = weight[:, None, None]
    if not squares:
        return jnp.einsum("kti,ktj->ij", received, weight * sent)
    if received.shape[1] == 1:
        return jnp.einsum("kti,ktj->ij", received**2, weight * sent**2)
    return jnp.sum(weight * jnp.square(jnp.einsum("kti,ktj->kij", received, sent)), axis=0)


def multiplied(traced: Traced, gradient: Gradient) -> list[Array]:
    """The gradients themselves, each leaf (units, ...)."""

    def one(leaf: int, factors: Factors) -> Array:
        back = jax.linear_transpose(traced.arrange(leaf), traced.like(leaf))
        made: Array = back(_wide(factors.received).T @ _wide(factors.sent))[0]
        return made

    return [
        jax.vmap(lambda each, leaf=leaf: one(leaf, each))(values)
        if isinstance(values, Factors)
        else values
        for leaf, values in enumerate(gradient)
    ]


def norms_and_products(
    traced: Traced, gradient: Gradient, directions: list[Array]
) -> tuple[Array, Array]:
    """By small batch and leaf: the gradient's norm, and its product with a direction."""

    def one(leaf: int, values: Any, direction: Array) -> tuple[Array, Array]:
        if not isinstance(values, Factors):
            wide = _wide(values)
            return norm([wide]), jnp.real(jnp.vdot(direction.astype(wide.dtype), wide))
        received, sent = _wide(values.received), _wide(values.sent)
        matrix = traced.arrange(leaf)(direction)
        size = norm([received]), norm([sent])
        along = jnp.sum((received @ matrix) * sent)
        if len(received) == 1:
            return size[0] * size[1], along
        units = [
            each / jnp.where(s > 0, s, 1) for each, s in zip((received, sent), size, strict=True)
        ]
        (places, n), m = received.shape, sent.shape[1]
        if places * (n + m) < n * m:
            square = jnp.sum((units[0] @ units[0].T) * (units[1] @ units[1].T))
        else:
            product = units[0].T @ units[1]
            square, along = (
                jnp.sum(jnp.square(product)),
                jnp.vdot(product, matrix) * size[0] * size[1],
            )
        return size[0] * size[1] * jnp.sqrt(jnp.maximum(square, 0)), along

    found = [
        jax.vmap(lambda each, leaf=leaf: one(leaf, each, directions[leaf]))(values)
        for leaf, values in enumerate(gradient)
    ]
    sizes, along = zip(*found, strict=True)
    return jnp.stack(sizes, 1), jnp.stack(along, 1)


def shares_of(weight: Array, squares: Array) -> Shares:
    """How the small batches make up the whole one."""
    total, known = weight.sum(), weight > 0
    spread = jnp.where(known, squares / jnp.where(known, weight, 1) ** 2, 0)
    return Shares(weight / jnp.where(total > 0, total, 1), spread)


def _wide(values: Array) -> Array:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
