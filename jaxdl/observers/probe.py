"""The same few examples, measured again and again during a run."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.streamed import as_streamed
from jaxdl.data.types import Arrays
from jaxdl.training.fit.batches import batch_shapes, example_shapes, read
from jaxdl.training.fit.observing import Event, Setup


def make_probe(
    batch: Mapping[str, Any] | None, examples: int
) -> Callable[[Setup], Mapping[str, Any]]:
    """The batch given, or else the first `examples` of a run's training split, read once."""

    @functools.lru_cache(maxsize=1)
    def probe(setup: Setup) -> Mapping[str, Any]:
        if batch is not None:
            return batch
        train = setup.dataset.train
        split = train if isinstance(train, Arrays) else as_streamed(train)
        return read(split, np.arange(min(examples, len(split))))

    return probe


def check_measurement(setup: Setup, measure: Callable[[Any], Any]) -> None:
    """Refuse a measurement that a run does not allow, before its first step; nothing is computed.

    Arguments:
        setup: the run.
        measure: of the variables, which are traced.

    Raises:
        ValueError, TypeError: what the measurement raises.
    """
    train = setup.dataset.train
    shapes = example_shapes(train if isinstance(train, Arrays) else as_streamed(train))

    def start(inputs: Any) -> Any:
        return setup.task.init(jax.random.key(0), setup.task.preprocess(inputs))

    try:
        variables = jax.eval_shape(start, batch_shapes(shapes, 1)["inputs"])
    except Exception:  # a model that does not start: `fit` says why
        return
    jax.eval_shape(lambda variables: jax.tree.leaves(measure(variables)), variables)


def host_variables(event: Event) -> dict[str, Any]:
    """The variables on the host, so that one process can use them without the others."""
    variables: dict[str, Any] = jax.tree.map(np.asarray, event.state.variables)
    return variables


def on_host(tree: Any) -> Any:
    """Any tree on the host, such as an optimizer's state; random keys stay where they are."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf),
        tree,
    )  # fmt: skip
