"""The trials of a search, a batch at a time, as members of compiled programs."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdl.compiling import once_for_equal
from jaxdl.training.search_space import Setting
from jaxdl.training.sweep.by_seed import BySeed, Make
from jaxdl.training.sweep.calls import prepare
from jaxdl.training.sweep.folder import SweepFolder
from jaxdl.training.sweep.outputs import check_outputs
from jaxdl.training.sweep.program import Program, trace_member


class Bench:
    """Runs the trials of a batch at one rung; holds the programs, compiled when first needed."""

    def __init__(
        self,
        member: Callable[..., Any],
        settings: Mapping[str, Setting],
        heights: Sequence[int | None],
        made: Sequence[BySeed],
        seeds: np.ndarray,
        batch: int,
        chunk: int | None,
    ) -> None:
        self.settings, self.heights, self.made = settings, heights, made
        self.seeds, self.batch, self.chunk = seeds, batch, chunk
        self.kept: SweepFolder | None = None
        self.moving = {name: each for name, each in settings.items() if each.dtype is not None}
        self.fixed = {name: each for name, each in settings.items() if each.dtype is None}
        axes = [each.choices for each in self.fixed.values() if each.choices is not None]
        self.programs: dict[tuple[Any, ...], Program] = {}
        self.traced: dict[tuple[Any, ...], _Traced] = {}
        dtypes = {name: each.dtype for name, each in self.moving.items() if each.dtype is not None}
        for rung, epochs in enumerate(heights):
            for places in itertools.product(*(range(len(axis.values)) for axis in axes)):
                given = {a.name: a.values[i] for a, i in zip(axes, places, strict=True)}
                given |= {} if epochs is None else {"epochs": epochs}
                run = _Traced(
                    member,
                    tuple(given.items()),
                    tuple(dtypes.items()),
                    tuple((each.name, each.make, each.shared) for each in made),
                    jnp.result_type(float) == jnp.float64,
                )
                self.programs[rung, *places], self.traced[rung, *places] = _program(run), run
        programs = list(self.programs.values())
        check_outputs(programs, axes)
        self.outputs = programs[0].outputs

    def identity(self) -> dict[str, Any]:
        """What decides a trial's results, as JSON values."""
        return {
            "seeds": self.seeds.tolist(),
            "digest of member": [program.digest() for program in self.programs.values()],
            "by seed": {each.name: each.digest() for each in self.made},
        }

    def run(
        self, batch: int, rung: int, drawn: Sequence[dict[str, Any]], trials: np.ndarray
    ) -> list[np.ndarray]:
        """The metrics of the trials of a batch, each (trials, seeds, ...)."""
        each = len(self.seeds)
        places = np.array([[s.number(d[n]) for n, s in self.settings.items()] for d in drawn])
        rows = (trials[:, None] * each + np.arange(each)).ravel()
        count = self.batch * each
        columns = [np.zeros((count, len(self.settings)))]
        columns += [np.empty((count, *o.shape), o.dtype) for o in self.outputs.values()]
        group = batch * len(self.heights) + rung
        done = np.zeros(count, bool)
        if self.kept is not None:
            done = self._loaded(self.kept, group, columns, rows, np.repeat(places, each, 0))
        columns[0][rows] = np.repeat(places, each, 0)

        def finished(members: np.ndarray, metrics: list[np.ndarray]) -> None:
            for column, values in zip(columns[1:], metrics, strict=True):
                column[members] = values
            if self.kept is not None:
                self.kept.save(group, members, [columns[0][members], *metrics])

        seeds = self.seeds[np.arange(count) % each]
        arguments: list[Any] = [seeds]
        for name, setting in self.moving.items():
            values = np.zeros(count, setting.dtype)
            values[rows] = np.repeat([setting.argument(d[name]) for d in drawn], each)
            arguments.append(values)
        arguments += [replace(made, seeds=seeds) for made in self.made]
        programs: dict[tuple[Any, ...], list[int]] = {}
        for index, d in enumerate(drawn):
            which = (rung, *(int(s.number(d[name])) for name, s in self.fixed.items()))
            members = rows[index * each : (index + 1) * each]
            programs.setdefault(which, []).extend(members[~done[members]])
        for which, todo in programs.items():
            if todo:
                # Static choices share the batch; a folder may have most of it already.
                size = -(-len(rows) * len(self.heights) // len(self.programs))
                execute = _prepared(self.traced[which], size, self.chunk)
                execute(arguments, np.asarray(todo), finished)
        return [column[rows].reshape(len(drawn), each, *column.shape[1:]) for column in columns[1:]]

    def _loaded(
        self,
        kept: SweepFolder,
        group: int,
        columns: Sequence[np.ndarray],
        rows: np.ndarray,
        places: np.ndarray,
    ) -> np.ndarray:
        """Which members the folder has; their metrics are then in the columns."""
        done = kept.load(group, columns)
        if not np.array_equal(columns[0][rows][done[rows]], places[done[rows]]):
            raise ValueError(
                f"folder must hold the trials that the sampler draws, got {kept.path} with other "
                "settings; pass a sampler with a seed, or another folder"
            )
        return done


class _Traced(NamedTuple):
    """What decides a program: like `jax.jit`, a search traces an equal member once."""

    member: Callable[..., Any]
    given: tuple[tuple[str, Any], ...]
    dtypes: tuple[tuple[str, Any], ...]
    by_seed: tuple[tuple[str, Make, bool], ...]
    x64: bool


@once_for_equal
def _program(traced: _Traced) -> Program:
    made = [BySeed(*each, seeds=np.zeros(1, np.uint32)) for each in traced.by_seed]
    run = functools.partial(traced.member, **dict(traced.given))
    return trace_member(run, dict(traced.dtypes), by_seed=made)


@once_for_equal
def _prepared(traced: _Traced, size: int, chunk: int | None) -> Any:
    return prepare(_program(traced), size, chunk)
