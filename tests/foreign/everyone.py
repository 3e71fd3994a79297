"""All foreign models by name, and what is measured of each, once for all tests of a process."""

import functools
from typing import Any

import jax
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
ADAM = optax.adam(1e-3)


@functools.cache
def variables_of(name: str) -> Any:
    """The start of a model."""
    return MODELS[name].init()


@functools.cache
def rows_of(name: str) -> Oracle:
    """What the oracle says of a model at its start."""
    return oracle(MODELS[name], variables_of(name), KEY, MODELS[name].train)


@functools.cache
def measured(name: str) -> Propagation:
    """What `propagation` says of a model at its start."""
    return measure(name, variables_of(name))


def measure(name: str, variables: Any, **changed: Any) -> Propagation:
    """What it says of other variables, or with another part of the batch; compiled once."""
    foreign = MODELS[name]
    return propagation(
        foreign.task, variables, foreign.batch | changed, optimizer=ADAM, train=foreign.train,
        key=KEY,
    )  # fmt: skip
