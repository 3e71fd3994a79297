"""Run an action in process 0 alone, and give its outcome to every process."""

import json
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdl.training.checkpoints.packing import Bytes

Outcome = tuple[str, Sequence[Bytes]]


def from_primary(action: Callable[[], Outcome]) -> Outcome:
    """Run `action` in process 0 and give its outcome to all; every process must call this.

    Arguments:
        action: returns a text and arrays of bytes.

    Raises:
        Exception: in process 0, the error of `action`.
        RuntimeError: in the other processes, if `action` failed.

    Example:
        >>> from_primary(lambda: ("found", []))
        ('found', [])
    """
    if jax.process_count() == 1:
        return action()
    failure, text, arrays = None, "", list[Bytes]()
    if jax.process_index() == 0:
        try:
            text, found = action()
            arrays = list(found)
        except Exception as error:
            failure = error
    message = None if failure is None else f"{type(failure).__name__}: {failure}"
    header = json.dumps([text, message, [len(array) for array in arrays]]).encode()
    length = int(_broadcast(np.array(len(header), np.int32)))
    text, message, sizes = json.loads(
        bytes(_broadcast(_sized(np.frombuffer(header, np.uint8), length)))
    )
    if failure is not None:
        raise failure
    if message is not None:
        raise RuntimeError(f"process 0 must succeed, got {message}; see its own output")
    if not arrays:
        arrays = [np.empty(size, np.uint8) for size in sizes]
    return text, [_broadcast(array) for array in arrays]


def _sized(data: Bytes, length: int) -> Bytes:
    """The data in process 0; elsewhere zeros of the same length, which the broadcast replaces."""
    return data if len(data) == length else np.zeros(length, np.uint8)


def _broadcast(value: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))
