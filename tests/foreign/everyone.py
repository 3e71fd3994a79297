"""All foreign models by name, and what is measured of each, once for all tests of a process."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from foreign import generative, language, mechanics, vision
from foreign.oracle import Oracle, oracle
from foreign.zoo import Foreign

from jaxdl.diagnostics import Propagation, propagation

MODELS: dict[str, Foreign] = {
    **vision.MODELS,
    **language.MODELS,
    **generative.MODELS,
    **mechanics.MODELS,
}
KEY = jax.random.key(5)
# Adam's first step, as a smaller program.
ADAM = optax.stateless(lambda grads, _: jax.tree.map(lambda g: -1e-3 * jnp.sign(g), grads))


@functools.cache
def variables_of(name: str) -> Any:
    """The start of a model."""
    return MODELS[name].init()


@functools.cache
def rows_of(name: str) -> Oracle:
    """What the oracle says of a model at its start."""
    return oracle_of(name, MODELS[name].train)(variables_of(name))


def oracle_of(name: str, train: bool) -> Callable[[Any], Oracle]:
    """The oracle of a model in a mode; the same one for both where it has none."""
    has_mode = MODELS[name].task.mode_keyword is not None
    return _oracle_of(name, train if has_mode else True)


@functools.cache
def _oracle_of(name: str, train: bool) -> Callable[[Any], Oracle]:
    return oracle(MODELS[name], KEY, train)


@functools.cache
def measured(name: str) -> Propagation:
    """What `propagation` says of a model at its start."""
    return measure(name, variables_of(name))


def measure(name: str, variables: Any) -> Propagation:
    """What it says of other variables; compiled once."""
    foreign = MODELS[name]
    return propagation(
        foreign.task, variables, foreign.batch, optimizer=ADAM, train=foreign.train,
        key=KEY,
    )  # fmt: skip
