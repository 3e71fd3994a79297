"""A process that was forked after JAX had started, where a computation may wait for ever."""

import os
import sys

_forked_late = False


def require_own_threads(what: str) -> None:
    """Refuse to compute in a process that was forked after JAX had started in its parent.

    A fork has the memory of its parent and none of its threads. JAX waits for its threads.

    Arguments:
        what: was called, for the message.

    Raises:
        RuntimeError: this is such a process.

    Example:
        >>> require_own_threads("fit")
    """
    if _forked_late:
        raise RuntimeError(
            f"{what} must run in a process that has JAX's threads, got one that was forked after "
            "JAX had started, where it would wait for ever; start the process with "
            'multiprocessing.get_context("spawn")'
        )


def _note() -> None:
    global _forked_late
    # JAX tells nowhere else whether it has started; to ask for its devices would start it.
    started = getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None)
    _forked_late = _forked_late or bool(started)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_note)
