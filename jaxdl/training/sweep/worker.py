"""What a worker process of a sweep does: it keeps programs, and computes calls of their members."""

import hashlib
import io
import os
import pickle
import platform
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.environment import versions
from jaxdl.extras import import_extra
from jaxdl.files import differences
from jaxdl.forking import require_own_threads
from jaxdl.training.sweep.by_seed import BySeed, Make
from jaxdl.training.sweep.calls import Room, must_run_alone, room_here, usable_devices
from jaxdl.training.sweep.program import Program, trace_member

KEPT_PROGRAMS = 2
"""Programs that a worker keeps. Each holds its data, and the next group's calls need another."""

_OF_JAX: Any = (jax.custom_jvp, jax.custom_vjp, type(jax.jit(abs)))
"""The types of functions that JAX makes of others."""


class Recipe(NamedTuple):
    """What a worker needs to trace the program of the sweep's process.

    Attributes:
        run: with its static settings.
        settings: the dtypes of the others.
        by_seed: (name, make, whether all members share it) of each argument that is made by seed.
        first_seed: of the sweep, whose arrays are the shared ones.
        program: the digest of the program.
        made: the digests of the whole numbers that `by_seed` makes of the first seed.
        facts: what a trace depends on besides.
    """

    run: Callable[..., Any]
    settings: Mapping[str, np.dtype]
    by_seed: Sequence[tuple[str, Make, bool]]
    first_seed: int
    program: str
    made: Sequence[str]
    facts: Mapping[str, Any]


class Sent(NamedTuple):
    """A pickled recipe, named by its digest."""

    name: str
    content: bytes


class Answer(NamedTuple):
    """Of a call: its metrics, or an error, or neither where the worker lacks the program.

    Attributes:
        process: who answers.
        metrics: arrays with a leading axis of members.
        error: a pickled error of the user's functions, or of the program.
        trace: of the error, as text.
    """

    process: str
    metrics: list[np.ndarray] | None = None
    error: bytes | None = None
    trace: str = ""


def recipe_of(run: Callable[..., Any], by_seed: Sequence[BySeed], program: Program) -> Recipe:
    """The recipe of a program that was traced here."""
    avals = program.jaxpr.in_avals[1:]  # behind the seed
    return Recipe(
        run,
        {name: aval.dtype for name, aval in zip(program.settings, avals, strict=False)},
        [(each.name, each.make, each.shared) for each in by_seed],
        int(by_seed[0].seeds[0]) if by_seed else 0,
        program.digest(),
        [each.digest(whole_numbers=True) for each in by_seed],
        facts(),
    )


def packed(recipe: Recipe) -> Sent:
    """The recipe as bytes; functions of a script or of another function go with their code.

    Raises:
        TypeError: something that `run` holds cannot be pickled.
    """
    cloudpickle = import_extra("cloudpickle", "a sweep with an executor", "cluster")
    try:
        content = _dumps(cloudpickle, recipe)
    except Exception as error:
        raise TypeError(
            f"run and by_seed must be picklable to go to another process, got {error!r}; make "
            "locks, files and generators inside of run"
        ) from error
    return Sent(hashlib.blake2b(content, digest_size=16).hexdigest(), content)


def _dumps(cloudpickle: Any, recipe: Recipe) -> bytes:
    """As `cloudpickle.dumps`, but what a module made with jit, such as jax.nn.relu, by its name.

    cloudpickle takes only plain functions by name. A copy of relu has lost its own name, which
    JAX's C++ class keeps, and the worker's program would be another.
    """
    by_value = tuple(cloudpickle.list_registry_pickle_by_value())

    class ByName(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, _OF_JAX) and _is_imported(value, by_value):
                return value.__qualname__
            return super().reducer_override(value)

    content = io.BytesIO()
    ByName(content).dump(recipe)
    return content.getvalue()


def _is_imported(function: Any, by_value: Sequence[str]) -> bool:
    """Whether another process finds this very object in a module, as pickle does."""
    name, path = function.__module__, getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(name)
    if name == "__main__" or any(f"{name}.".startswith(f"{each}.") for each in by_value):
        return False
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is function


def facts() -> dict[str, Any]:
    """What decides how a function is traced, besides the function."""
    config = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl")
    known: dict[str, Any] = {name: getattr(jax.config, name) for name in config}
    return known | versions("jax", "flax", "optax", "numpy", "jaxdl") | {"python": _python()}


def room(ticket: str) -> Room:
    """What a worker has; the first thing that a sweep asks.

    Arguments:
        ticket: another for each task, so that no executor takes two for the same.
    """
    require_own_threads("a worker of a sweep")
    return room_here()


def keep(ticket: str, sent: Sent) -> str:
    """Keep a program for the calls to come, and say who keeps it."""
    _held(sent.name, sent)
    return _process()


def compute(
    ticket: str, name: str, size: int, numbers: Sequence[np.ndarray], sent: Sent | None
) -> Answer:
    """Compute a call of `size` members.

    Arguments:
        ticket: another for each task.
        name: of the program.
        size: the members of a call.
        numbers: by member: the seeds, then each setting.
        sent: the program, where it travels with the call.
    """
    try:
        require_own_threads("a worker of a sweep")
        held = _held(name, sent)
        if held is None:
            return Answer(_process())
        return Answer(_process(), held.call(size, numbers))
    except (
        Exception,
        SystemExit,
    ) as error:  # sys.exit of the user's functions is not a lost worker
        return Answer(_process(), error=_pickled(error), trace=traceback.format_exc())


class _Held:
    """A program that this process keeps: traced once, and compiled once for each size of calls."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self._opened: tuple[Program, list[BySeed]] | None = None
        self._calls: dict[int, Callable[..., list[np.ndarray]]] = {}
        self._alone = threading.Lock()  # an executor may call from several threads

    def call(self, size: int, numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._alone:
            if self._opened is None:
                assert self._content is not None
                self._opened, self._content = _opened(self._content), None
            program, by_seed = self._opened
            if size not in self._calls:
                self._calls[size] = _compiled(program, size)
        given = list(numbers)
        members = np.arange(len(numbers[0]))
        for each in by_seed:
            # The first seed of the sweep stands before the call's: its arrays may be shared.
            seeds = np.concatenate([each.seeds[:1], numbers[0]])
            given += replace(each, seeds=seeds).take(members + 1)
        return self._calls[size](*given)


_held_here: OrderedDict[str, _Held] = OrderedDict()
_looking = threading.Lock()
_one_call = threading.Lock()


def _held(name: str, sent: Sent | None) -> _Held | None:
    """The program of this name, kept from now on if it was sent."""
    with _looking:
        if sent is not None and name not in _held_here:
            _held_here[name] = _Held(sent.content)
        if name not in _held_here:
            return None
        _held_here.move_to_end(name)
        while len(_held_here) > KEPT_PROGRAMS:
            _held_here.popitem(last=False)
        return _held_here[name]


def _opened(content: bytes) -> tuple[Program, list[BySeed]]:
    """Trace the program of a recipe. Refuse one that the sweep's process would not compute."""
    try:
        recipe: Recipe = pickle.loads(content)
    except ImportError as error:
        raise ImportError(
            f"a worker must be able to import what run needs, got {error} in {_process()}; install "
            "it there, put its folder on PYTHONPATH before workers start, or move the function "
            "into the script",
            name=error.name,
        ) from error
    seeds = np.asarray([recipe.first_seed], np.uint32)
    by_seed = [BySeed(name, make, shared, seeds) for name, make, shared in recipe.by_seed]
    program = trace_member(recipe.run, recipe.settings, by_seed=by_seed)
    # It is read in the sweep's process, so "there" is the worker.
    found = "; ".join(differences(facts(), recipe.facts))
    where = f"{_process()} ({found or 'its versions are the same'})"
    if program.digest() != recipe.program:
        raise RuntimeError(
            f"a worker must trace the same program as the sweep's process, got another in {where}; "
            "install the same versions, set the same JAX options where workers start, and let run "
            "be pure: no constant that is drawn anew, no file that differs"
        )
    for each, expected in zip(by_seed, recipe.made, strict=True):
        if each.digest(whole_numbers=True) != expected:
            raise RuntimeError(
                f"by_seed[{each.name!r}] must make the same numbers everywhere, got others for the "
                f"seed {recipe.first_seed} in {where}; make them of the key alone"
            )
    return program, by_seed


def _compiled(program: Program, size: int) -> Callable[..., list[np.ndarray]]:
    """A call that keeps one core busy, or all accelerators of this process."""
    here = room_here()
    devices = jax.local_devices()[: usable_devices(program, here)]
    if size % len(devices):  # the worker that was asked had another number of devices
        devices = devices[:1]
    # Compiled for calls side by side: the workers of a machine have a core each.
    call = program.compile(size, devices, threads=2)
    if not must_run_alone(program, here.platform):
        return call

    def one_after_another(*arguments: np.ndarray) -> list[np.ndarray]:
        with _one_call:
            return call(*arguments)

    return one_after_another


def _process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _pickled(error: BaseException) -> bytes:
    """The error as bytes that can be read again; of one that cannot, its type and text."""
    cloudpickle = import_extra("cloudpickle", "a sweep with an executor", "cluster")
    try:
        content: bytes = cloudpickle.dumps(error)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content
