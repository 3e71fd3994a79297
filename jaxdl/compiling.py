"""Compile programs with the right options for the backend, and once for equal settings."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax

from jaxdl.jaxprs import CONVOLUTION, holds_primitive

KEPT = 64

P = ParamSpec("P")
R = TypeVar("R")

# XLA's CPU backend uses YNNPACK for products, convolutions and reductions where it can. For an
# MLP's step of batch 100 Eigen's threaded product, the older path, is 10 % faster. Vectors of the
# full AVX-512 width, if the CPU has them, save 2 %.
YNN = "xla_cpu_experimental_ynn_fusion_type"
CPU_COMPILER_OPTIONS = {YNN: "", "xla_cpu_prefer_vector_width": 512}

# Eigen's gradient of a convolution kernel takes a half to a third of YNNPACK's time. But a batch
# norm's sums over the positions of many images take ten times as long without YNNPACK. (Sums over a
# batch of vectors are faster without it.)
CPU_CONVOLUTION_OPTIONS = CPU_COMPILER_OPTIONS | {YNN: "LIBRARY_FUSION_TYPE_REDUCE"}

# The initial state is computed once, so its cost is the compilation, in time and memory. It is
# compiled without optimisation, and without the emitters, which take 45 MB for random numbers.
CPU_INIT_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def compiler_options(*, convolutional: bool = False) -> dict[str, Any]:
    """The options with which `fit` compiles a step, without those unknown to this version of XLA.

    Use them in a loop of your own: on a CPU a convolutional step takes up to twice as long without
    them (and see `keep_memory`). They are for programs that run one after another: two that run at
    the same time on a CPU, in two threads, may give wrong numbers with them (see
    `side_by_side_options`).

    Arguments:
        convolutional: whether the step has convolutions in it.

    Example:
        >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
        >>> step(1).item()
        2
    """
    if jax.default_backend() != "cpu":
        return {}
    return _known_options(CPU_CONVOLUTION_OPTIONS if convolutional else CPU_COMPILER_OPTIONS)


def side_by_side_options(*, convolutional: bool = False) -> dict[str, Any]:
    """The options for a program that several threads or devices run at the same time.

    An operation then needs no threads of its own. And products are XLA's own: with Eigen's, the
    first runs of a long program beside each other gave wrong outputs on a CPU (jax 0.10.2: the
    first 192 of 10,000 rows of a product, never when one ran after another).
    """
    options = compiler_options(convolutional=convolutional)
    if not options:
        return options
    if not convolutional:
        options = {name: value for name, value in options.items() if name != YNN}
    return {**options, "xla_cpu_multi_thread_eigen": False}


@functools.cache
def init_options() -> dict[str, Any]:
    """The options for the program that computes the initial state."""
    return _known_options(CPU_INIT_OPTIONS) if jax.default_backend() == "cpu" else {}


def loops_well(program: Any) -> bool:
    """False for a step with a convolution on a CPU: inside a loop it is 25 times slower there.

    Arguments:
        program: the result of `jax.make_jaxpr` for the step.
    """
    return jax.default_backend() != "cpu" or not holds_primitive(program.jaxpr, CONVOLUTION)


def once_for_equal(build: Callable[P, R]) -> Callable[P, R]:
    """Cache the results of `build`: equal arguments give the same result, compiled once.

    The cache keeps the results of the last 64 settings. If an argument cannot be hashed, such as a
    model that holds a list, the result is built anew.

    Arguments:
        build: a pure function that returns compiled functions.

    Example:
        >>> jitted = once_for_equal(lambda power: jax.jit(lambda x: x**power))
        >>> jitted(2) is jitted(2), jitted([2]) is jitted([2])
        (True, False)
    """
    kept = functools.lru_cache(maxsize=KEPT)(build)

    @functools.wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash((args, tuple(kwargs.values())))
        except TypeError:
            return build(*args, **kwargs)
        return kept(*args, **kwargs)  # type: ignore[arg-type]  # hashable, as just seen

    return built


@once_for_equal
def jit_with(function: Callable[..., Any], settings: tuple[Any, ...]) -> Callable[..., Any]:
    """`function(settings, ...)` as a jitted function of the rest, the same for equal settings."""
    return jax.jit(functools.partial(function, settings))


_apart = jax.make_user_context()


@contextmanager
def traced_apart() -> Iterator[None]:
    """Within, functions under `jit` are traced anew, and what is traced counts only here.

    Use it around interceptors that change or mark what modules compute. `nn.jit` knows a module by
    its settings, so a program with the change would be used where the change is not meant, too.

    Example:
        >>> traces = []
        >>> double = jax.jit(lambda x: traces.append("traced") or 2 * x)
        >>> with traced_apart():
        ...     results = double(1), double(2)
        >>> double(1).item(), len(traces)
        (2, 2)
    """
    with _apart(object()):
        yield


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start compiles nothing.

    The folder is `compiled` beside the data, in $JAXDL_DATA_DIR or ~/.cache/jaxdl. JAX's own
    $JAX_COMPILATION_CACHE_DIR names another. Programs are kept by their content, compiler and
    options: a change of any of them compiles anew.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = os.environ.get("JAXDL_DATA_DIR") or "~/.cache/jaxdl"
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser() / "compiled"))
    # Most programs here compile in less than the second that JAX waits for before it keeps one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _known_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    try:
        _least_program().compile({name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def _least_program() -> Any:
    """A program to try options with, which costs little to compile."""
    return jax.jit(lambda x: x).lower(0.0)
