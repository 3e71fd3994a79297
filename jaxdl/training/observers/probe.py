"""The same few examples, looked at again and again while a run goes on."""

from typing import Any

import jax
import numpy as np

from jaxdl.training.events import Event, Run


def probe_batch(run: Run, examples: int) -> dict[str, np.ndarray]:
    """The first `examples` of the training split.

    Raises:
        ValueError: a training split that is no pair of arrays.
    """
    train: Any = run.dataset.train
    if not (hasattr(train, "inputs") and hasattr(train, "targets")):
        raise ValueError(
            f"the training split of {run.dataset.name} must be arrays to take examples from, got "
            f"{type(train).__name__}; pass batch={{'inputs': ..., 'targets': ...}}"
        )
    return {
        "inputs": np.asarray(train.inputs[:examples]),
        "targets": np.asarray(train.targets[:examples]),
    }


def host_variables(event: Event) -> dict[str, Any]:
    """What `model.apply` takes, on the host: one process can use it without the others."""
    return jax.tree.map(np.asarray, event.state.variables)
