"""Many runs at once: a pure run over hyper-parameters and seeds, as arrays with named axes."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdl.checks import Count, whole_number
from jaxdl.environment import versions
from jaxdl.extras import import_extra
from jaxdl.files import as_path
from jaxdl.forking import require_own_threads
from jaxdl.training.sweep.axes import (
    GIVEN_BY_SWEEP,
    Axis,
    make_axis,
    member_arguments,
    seed_numbers,
)
from jaxdl.training.sweep.by_seed import BySeed, checked_by_seed
from jaxdl.training.sweep.calls import Prepare, prepare
from jaxdl.training.sweep.elsewhere import elsewhere
from jaxdl.training.sweep.folder import SweepFolder, open_folder
from jaxdl.training.sweep.members_bar import members_bar
from jaxdl.training.sweep.outputs import check_outputs, dims_of
from jaxdl.training.sweep.program import Program, trace_member
from jaxdl.training.sweep.swept import check_run, member_of

if TYPE_CHECKING:
    import xarray

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxdl")


def sweep(
    run: Callable[..., Any],
    over: Mapping[str, Any] | None = None,
    *,
    seeds: Count | Iterable[Count] = 8,
    by_seed: Mapping[str, Any] | None = None,
    orders: str = "own",
    static: Sequence[str] = (),
    dims: Mapping[str, Sequence[str]] | None = None,
    chunk: Count | None = None,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    r"""Call the pure function `run` for every combination of the settings and every seed.

    $$\text{result}[h_1, \dots, h_n, s] = \text{run}(\text{key}(s), h_1, \dots, h_n)$$

    A member is one run: one combination of settings and one seed. Members that differ in numbers
    only share one compiled program, vectorised in calls that fit cache or memory, on all cores and
    local devices. A member equals the same run alone to rounding. A member that diverges does not
    change the others.

    What a member needs from the host, such as the orders of its data, `by_seed` makes from the key
    of its seed. A member made with `make_run` then is the run that `fit` makes of that key.

    On a CPU a member with convolutions is driven from the host, step by step, one member at a time
    on each core: in a compiled loop they would be 25 times slower.

    Arguments:
        run: (key, **settings) -> metrics, a dictionary (or another pytree) of arrays; pure. Or a
            `Run` with its data, `functools.partial(run, data=splits)`, whose settings are `orders`.
        over: the values of each setting. Numbers are arguments of one compiled program, of dtype
            float32, int32 or bool (64 bits with `jax_enable_x64`). Other values (functions,
            strings, tuples; a mapping gives them labels) are static: each compiles a program of its
                own.
        seeds: a number n gives `run` the keys `jax.random.key(0)` to `key(n - 1)`; a list gives the
            keys of its seeds.
        by_seed: further arguments of `run` by name, each a function of a seed's key that is called
            on the host: {"orders": lambda key: training.orders(key, epochs, examples)}. They are
            made when a call needs them; the first 64 MB are kept.
        orders: "own" gives each seed its own `orders` (or `order`); "shared" gives all members
            those of the first seed. Each batch is then gathered once for all, and the first layer
            is one matrix product. Only the first seed's member is then the run that `fit` makes.
        static: settings that decide a shape or a branch, such as a width. Each value compiles a
            program.
        dims: the names of a metric's own axes, e.g. {"loss": ("epoch",)}; "loss_dim_0" by default.
        chunk: members in a call on each device; by default as many as fit. It changes the results
            by rounding only.
        folder: keep finished calls here. A restart computes what is missing; files that cannot be
            read are computed again, with a warning.
        executor: a `concurrent.futures.Executor` whose workers compute the calls, here or on other
            machines: `Client(...).get_executor()` of Dask, or a `ProcessPoolExecutor` that spawns.
            `run` and `by_seed` go to each worker, and are traced and called there. A call keeps one
            core busy, or all accelerators of its worker. If a worker dies, its call is done again.
        progress: show the members done and the time left; by default if standard error is a
            terminal.

    Returns:
        An `xarray.Dataset`: a variable for each metric, with the axes of `over`, "seed", and the
        metric's own. Nested metrics are named by their path, "train/loss".

    Raises:
        ValueError: an axis that is empty, repeats a value, or is no argument of `run`; seeds, chunk
            or dims out of range; metrics whose shape depends on a setting; a folder of another
            sweep.
        TypeError: a metric that is no array of numbers, an argument of the wrong type, or `fit`,
            which runs from the host; with an executor, a run that cannot be pickled.
        RuntimeError: the executor broke, or a worker traces another program than this process.
        ImportError: xarray is not installed, or for an executor cloudpickle.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def run(key, *, rate):
        ...     start = jax.random.normal(key)
        ...     return {"distance": jnp.abs(start) * (1 - rate) ** jnp.arange(5)}
        >>> result = sweep(run, {"rate": [0.1, 0.5]}, seeds=3, dims={"distance": ("step",)})
        >>> dict(result.sizes)
        {'rate': 2, 'seed': 3, 'step': 5}
        >>> bool((result.distance.sel(rate=0.5) <= result.distance.sel(rate=0.1)).all())
        True
    """
    require_own_threads("sweep")
    module = import_extra("xarray", "a sweep")
    axes = [make_axis(name, values, name in static) for name, values in (over or {}).items()]
    seed_values = seed_numbers(seeds)
    run = member_of(run)
    made = checked_by_seed(
        by_seed or {}, orders, [*(axis.name for axis in axes), *GIVEN_BY_SWEEP], seed_values
    )
    check_run(run, axes, [each.name for each in made], static)
    chunk = None if chunk is None else whole_number("chunk", chunk)
    away = None if executor is None else elsewhere(executor)

    fixed = [axis for axis in axes if axis.static]
    moving = [axis for axis in axes if not axis.static]
    places = list(itertools.product(*(range(len(axis.values)) for axis in fixed)))
    coordinates = [
        ", ".join(f"{a.name}={a.labels[i]}" for a, i in zip(fixed, place, strict=True))
        for place in places
    ]
    dtypes = {axis.name: np.asarray(axis.values).dtype for axis in moving}
    runs, programs = [], []
    for place, here in zip(places, coordinates, strict=True):
        settings = {a.name: a.values[i] for a, i in zip(fixed, place, strict=True)}
        runs.append(functools.partial(run, **settings))
        with _naming(here):
            programs.append(trace_member(runs[-1], dtypes, by_seed=made))
    check_outputs(programs, axes)
    own_dims = dims_of(programs[0], axes, dims or {})
    kept = None
    if folder is not None:
        backend = jax.default_backend() if away is None else away.room.platform
        identity = _identity(programs, axes, seed_values, backend)
        if made:
            identity["by seed"] = {each.name: each.digest() for each in made}
        kept = open_folder(as_path(folder), identity)

    numbers = member_arguments(moving, seed_values)
    members = numbers[0]
    arguments: list[np.ndarray | BySeed] = [*numbers]
    arguments += [replace(each, seeds=members) for each in made]
    with members_bar(len(members) * len(programs), show=progress) as tell:
        columns = []
        for group, (program, here) in enumerate(zip(programs, coordinates, strict=True)):
            with _naming(here):
                ready = prepare
                if away is not None:
                    ready = functools.partial(away.prepare, runs[group], made)
                columns.append(_run_group(group, program, arguments, chunk, kept, tell, ready))

    grid = [*fixed, *moving]
    shape = (*(len(axis.values) for axis in grid), len(seed_values))
    names = [*(axis.name for axis in axes), "seed"]
    variables = {}
    for index, (name, output) in enumerate(programs[0].outputs.items()):
        values = np.stack([column[index] for column in columns]).reshape(*shape, *output.shape)
        array = module.DataArray(
            values, dims=[*(axis.name for axis in grid), "seed", *own_dims[name]]
        )
        variables[name] = array.transpose(*names, *own_dims[name])
    coords = {axis.name: axis.labels for axis in axes} | {"seed": seed_values.astype(np.int64)}
    result: xarray.Dataset = module.Dataset(variables, coords=coords)
    return result


@contextlib.contextmanager
def _naming(coordinates: str) -> Iterator[None]:
    """Add to an error which of the static members raised it."""
    try:
        yield
    except Exception as error:
        if coordinates:
            error.add_note(f"the members of the sweep with {coordinates} raised this")
        raise


def _run_group(
    group: int,
    program: Program,
    arguments: Sequence[np.ndarray | BySeed],
    chunk: int | None,
    kept: SweepFolder | None,
    tell: Callable[[int], None],
    ready: Prepare,
) -> list[np.ndarray]:
    """The metrics of all members that share a program, one array per metric."""
    assert isinstance(arguments[0], np.ndarray)
    members = len(arguments[0])
    columns = [np.empty((members, *out.shape), out.dtype) for out in program.outputs.values()]
    done = np.zeros(members, bool) if kept is None else kept.load(group, columns)

    def finished(indices: np.ndarray, metrics: list[np.ndarray]) -> None:
        for column, values in zip(columns, metrics, strict=True):
            column[indices] = values
        if kept is not None:
            kept.save(group, indices, metrics)
        tell(len(indices))

    tell(int(done.sum()))
    if not done.all():
        todo = np.flatnonzero(~done)
        ready(program, len(todo), chunk)(arguments, todo, finished)
    return columns


def _identity(
    programs: Sequence[Program], axes: Sequence[Axis], seeds: np.ndarray, backend: str
) -> dict[str, Any]:
    """What decides the results, as JSON values."""
    outputs = programs[0].outputs.items()
    return {
        "over": {axis.name: axis.labels.tolist() for axis in axes},
        "static": [axis.name for axis in axes if axis.static],
        "seeds": seeds.tolist(),
        "metrics": {name: f"{out.dtype}{list(out.shape)}" for name, out in outputs},
        "digest of run": [program.digest() for program in programs],
        "version": versions(*_PACKAGES),
        "backend": backend,
    }
