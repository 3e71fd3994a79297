"""Search for good settings: Optuna says what to try, and a batch of trials is one compiled call."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdl.checks import Count, require_choice, whole_number
from jaxdl.environment import versions
from jaxdl.extras import import_extra
from jaxdl.files import as_path
from jaxdl.forking import require_own_threads
from jaxdl.training.search_space import RESERVED, Integers, LogUniform, Uniform, settings_of
from jaxdl.training.search_trials import Bench
from jaxdl.training.sweep.axes import GIVEN_BY_SWEEP, seed_numbers
from jaxdl.training.sweep.by_seed import checked_by_seed
from jaxdl.training.sweep.folder import open_folder
from jaxdl.training.sweep.outputs import dims_of

if TYPE_CHECKING:
    import xarray

__all__ = ["Integers", "LogUniform", "Uniform", "search"]

SAMPLERS = ("bayesian", "random")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "optuna", "jaxdl")


def search(
    member: Callable[..., Any],
    space: Any,
    *,
    trials: Count,
    batch: Count,
    minimize: str | None = None,
    maximize: str | None = None,
    sampler: Any = "bayesian",
    seed: Count = 0,
    seeds: Count | Iterable[Count] = 1,
    by_seed: Mapping[str, Any] | None = None,
    orders: str = "own",
    static: Sequence[str] = (),
    rungs: Sequence[Count] = (),
    reduction: Count = 3,
    dims: Mapping[str, Sequence[str]] | None = None,
    chunk: Count | None = None,
    folder: str | Path | None = None,
) -> tuple["xarray.Dataset", Any]:
    r"""Try settings of a pure function, a batch at a time; each batch learns from those before it.

    A trial is one draw of all settings, run once for each seed. The sampler draws a whole batch
    before it sees any of its results. All runs of a batch are then members of one sweep, compiled
    for the first batch and used again for the others.

    With `rungs` a batch is one bracket of successive halving: all its trials run for the epochs of
    the first rung, the best 1 / `reduction` of them (rounded up) for those of the second, and so
    on. A trial starts again at each rung, so its member is one run of that many epochs.

    Arguments:
        member: (key, **settings) -> metrics by name; pure, as for `sweep`. With rungs it takes
            `epochs`, a Python integer.
        space: from the name of each setting to what may be drawn: `Uniform(low, high)`,
            `LogUniform(low, high)`, `Integers(low, high)`, or a list of choices. Choices that are
            no numbers (functions; a mapping gives them labels) compile a program each.
        trials: how many to run in all.
        batch: trials in a batch, at most `trials`; the last batch may be smaller.
        minimize, maximize: the metric that decides, one number a run; give one of the two. The
            sampler is told its mean over the seeds. A trial that is not finite counts as the worst.
        sampler: "bayesian" (Optuna's tree-structured Parzen estimator; the trials of a batch keep
            away from each other), "random", or a sampler of Optuna. A grid is what `sweep` runs.
        seed: of the sampler.
        seeds, by_seed, orders, dims, chunk: as for `sweep`; every trial has the same seeds.
        static: settings with choices that decide a shape; each value compiles a program.
        rungs: epochs of each rung, growing; none for no halving.
        reduction: of this many trials, one goes on to the next rung; at least 2.
        folder: keep finished calls here. A search that was killed goes on, to the same end; so does
            one that is asked for more trials. A sampler of your own must have a seed.

    Returns:
        The dataset and Optuna's study. The dataset has a variable for each metric, with the axes
        "trial", "seed" and its own; settings are coordinates of "trial", as are "batch" and, with
        rungs, "epochs", the last rung that the trial reached, of which its metrics are.

    Raises:
        ValueError: an empty space, a batch above the trials, a metric that there is not or that is
            no single number, rungs that do not grow, a folder of another search.
        TypeError: what is no space, no count or no sampler.
        ImportError: Optuna is not installed.

    Example:
        >>> def member(key, *, rate):
        ...     return {"loss": (jax.numpy.log10(rate) + 2) ** 2}
        >>> found, study = search(
        ...     member, {"rate": LogUniform(1e-4, 1)}, trials=24, batch=8, minimize="loss"
        ... )
        >>> dict(found.sizes)
        {'trial': 24, 'seed': 1}
        >>> 0.002 < study.best_params["rate"] < 0.05
        True

    Source: Bergstra, Bardenet, Bengio and Kegl (2011) for the estimator; Jamieson and Talwalkar
    (2016) for successive halving.
    """
    require_own_threads("search")
    module = import_extra("xarray", "a search")
    optuna: Any = import_extra("optuna", "a search")
    trials, batch = whole_number("trials", trials), whole_number("batch", batch)
    if batch > trials:
        raise ValueError(
            f"batch must be at most the {trials} trials, got {batch}; pass batch={trials} or more "
            "trials"
        )
    if (minimize is None) == (maximize is None):
        raise ValueError(
            f"search needs one of minimize and maximize, got minimize={minimize!r} and "
            f"maximize={maximize!r}; pass the name of one metric, e.g. minimize='loss'"
        )
    metric, sign = str(minimize or maximize), 1.0 if maximize is None else -1.0
    reduction = whole_number("reduction", reduction, 2)
    heights = [whole_number("a rung", rung) for rung in rungs]
    if any(later <= earlier for earlier, later in itertools.pairwise(heights)):
        raise ValueError(f"rungs must grow, got {heights}; pass e.g. (1, 3, 9)")
    settings = settings_of(optuna, space, static)
    distributions = {name: each.distribution for name, each in settings.items()}
    study = _study(optuna, sampler, whole_number("seed", seed, 0), minimize is not None)
    numbers = seed_numbers(seeds)
    made = checked_by_seed(by_seed or {}, orders, [*settings, *GIVEN_BY_SWEEP], numbers)
    chunk = None if chunk is None else whole_number("chunk", chunk)
    bench = Bench(member, settings, heights or [None], made, numbers, batch, chunk)
    outputs = bench.outputs
    if taken := sorted({*settings, *RESERVED} & outputs.keys()):
        raise ValueError(
            f"metrics must not be named like settings or the search's axes, got {taken}; rename "
            "them"
        )
    if metric not in outputs or outputs[metric].shape:
        single = [name for name, output in outputs.items() if not output.shape]
        raise ValueError(
            f"the metric that decides must be one number a run, of {single}, got {metric!r}; "
            "return it from member, e.g. the loss after the last epoch"
        )
    named = dims_of(next(iter(bench.programs.values())), [], dims or {})
    if folder is not None:
        bench.kept = open_folder(
            as_path(folder),
            {
                "space": {name: str(each) for name, each in distributions.items()},
                "decides": f"{'least' if sign > 0 else 'greatest'} {metric}",
                "sampler": f"{type(study.sampler).__name__}, seed {seed}",
                "batch": batch,
                "rungs": [*heights, f"one of {reduction}"] if heights else [],
                **bench.identity(),
                "version": versions(*_PACKAGES),
                "backend": jax.default_backend(),
            },
        )

    results = {
        name: np.empty((trials, len(numbers), *output.shape), output.dtype)
        for name, output in outputs.items()
    }
    reached = np.zeros(trials, int)
    drawn: list[dict[str, Any]] = []
    for first in range(0, trials, batch):
        asked = [study.ask(distributions) for _ in range(min(batch, trials - first))]
        drawn += [trial.params for trial in asked]
        alive = np.arange(len(asked))
        for rung in range(len(bench.heights)):
            columns = bench.run(first // batch, rung, [asked[i].params for i in alive], alive)
            for name, column in zip(outputs, columns, strict=True):
                results[name][first + alive] = column
            reached[first + alive] = rung
            told = sign * results[metric][first + alive].astype(np.float64).mean(1)
            told = np.where(np.isfinite(told), told, np.inf)
            last = rung == len(bench.heights) - 1
            goes_on = np.argsort(told, kind="stable")[: 0 if last else -(-len(alive) // reduction)]
            for place, index in enumerate(alive):
                if heights:
                    asked[index].report(sign * told[place], heights[rung])
                if last:
                    study.tell(asked[index], sign * told[place])
                elif place not in goes_on:
                    study.tell(asked[index], state=optuna.trial.TrialState.PRUNED)
            alive = alive[np.sort(goes_on)]

    coords = {name: ("trial", np.asarray([each[name] for each in drawn])) for name in settings}
    coords["batch"] = ("trial", np.arange(trials) // batch)
    if heights:
        coords["epochs"] = ("trial", np.asarray(heights)[reached])
    dataset: xarray.Dataset = module.Dataset(
        {name: (("trial", "seed", *named[name]), values) for name, values in results.items()},
        coords={"trial": np.arange(trials), "seed": numbers.astype(np.int64), **coords},
    )
    return dataset, study


def _study(optuna: Any, sampler: Any, seed: int, minimize: bool) -> Any:
    """An empty study in memory, made without a line on the screen."""
    samplers = optuna.samplers
    if isinstance(sampler, str):
        require_choice("sampler", sampler, SAMPLERS)
        random = sampler == "random"
        made = samplers.RandomSampler(seed) if random else samplers.TPESampler(seed=seed)
    elif isinstance(sampler, samplers.BaseSampler) and not isinstance(
        sampler, samplers.GridSampler
    ):
        made = sampler
    else:
        raise TypeError(
            f"sampler must be one of {', '.join(SAMPLERS)}, or a sampler of Optuna that draws, got "
            f"{sampler!r}; a grid is what training.sweep runs"
        )
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=made, direction="minimize" if minimize else "maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)
