"""What a sweep may call: a function of a key and its settings, or a `Run` with its data."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxdl.training.fit.fit import fit
from jaxdl.training.run import Run
from jaxdl.training.sweep.axes import GIVEN_BY_SWEEP, Axis


def check_run(
    run: Callable[..., Any],
    axes: Sequence[Axis],
    made: Sequence[str],
    static: Sequence[str],
) -> None:
    """Refuse settings that `run` does not take."""
    if isinstance(static, str):
        raise TypeError(f"static must be a tuple of names, got {static!r}; pass ({static!r},)")
    given = [axis.name for axis in axes]
    if unknown := [name for name in static if name not in given]:
        raise ValueError(f"static must name settings of over, {given}, got {unknown}; leave it out")
    parameters = list(inspect.signature(run).parameters.values())[1:]
    named = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any and (unknown := [name for name in made if name not in named]):
        raise ValueError(
            f"by_seed must name arguments of run, {sorted(named)}, got {unknown}; rename them or "
            "add them to run"
        )
    if not takes_any and (unknown := [name for name in given if name not in named]):
        raise ValueError(
            f"over must name arguments of run, {sorted({*named} - {*GIVEN_BY_SWEEP})}, "
            f"got {unknown}; rename them or add them to run"
        )
    missing = [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in (*given, *made)
    ]
    if missing:
        raise ValueError(
            f"over must name every argument of run that has no default, got none for {missing}; "
            f"add it to over, e.g. {{{missing[0]!r}: [...]}}, or to by_seed, as a function of a key"
        )


def member_of(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function to be swept: of a `Run` the measured values, without the state."""
    called = getattr(run, "func", run)
    if called is fit:
        raise TypeError(
            "sweep compiles many runs into one program, got fit, which runs from the host; make "
            "the run with training.make_run(task, optimizer, batch_size=...) and sweep that"
        )
    if not isinstance(called, Run):
        return run
    if "data" not in getattr(run, "keywords", {}):
        raise TypeError(
            "a Run is swept with its data, got a Run alone; pass functools.partial(run, "
            'data={"train": ...}), and by_seed={"orders": ...}'
        )

    def member(key: Any, *, orders: Any) -> Any:
        return run(key, orders=orders)[1]

    return member
