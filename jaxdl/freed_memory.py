"""Memory that a step frees, kept for the next one."""

import ctypes
import functools
import os

KEPT_BYTES = 2**31 - 1
"""So much free memory at the end of the heap is kept; more goes back to the system."""

# Parameters of `mallopt`, in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


@functools.cache
def one_heap() -> bool:
    """Let all threads that start from now on take their memory from one heap.

    glibc gives each thread a heap of its own, for pieces up to 64 MB, and takes what is larger from
    the system each time. XLA's intermediate results are taken by a thread that starts with JAX's
    backend, so `jaxdl.training` sets this when it is imported. A program that compiles ResNet-20
    then needs 100 MB less, because the compiler's threads leave no holes in many heaps, and takes
    a tenth longer to compile.

    Returns:
        Whether it is set, as `keep_memory` says.
    """
    return _set({_ARENA_MAX: 1})


@functools.cache
def keep_memory() -> bool:
    """Keep the memory that a step frees, so that the next step finds it ready.

    On a CPU, XLA takes memory for its intermediate results when a program starts and gives it back
    when it ends: 50 MB for a step of a small ConvNet, 200 MB for ResNet-20's. Linux then hands it
    out anew, page by page, each cleared first. That is a fifth to a third of a convolutional step's
    time. After this call the process keeps what it frees, up to 2 GB. Small pieces then come to lie
    between large ones, so the peak of a run grows, by 90 MB for the small ConvNet. What is computed
    stays the same, to the bit.

    It is a setting of the whole process, so also for NumPy and PyTorch. `fit` makes it before a run
    whose step has convolutions, on a CPU. Call it in a loop of your own. It has its full effect
    where `jaxdl.training` was imported before JAX was used first. Variables of the environment that
    set up the allocator (MALLOC_..., GLIBC_TUNABLES) are left to you, and nothing is changed.

    Returns:
        Whether it is set: false without glibc, or where the environment sets up the allocator.

    Example:
        >>> keep_memory() in (True, False)
        True
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: KEPT_BYTES})


def _set(settings: dict[int, int]) -> bool:
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # another C library has no such function
        return all([library.mallopt(*setting) == 1 for setting in settings.items()])
    except (AttributeError, OSError, TypeError):
        return False
