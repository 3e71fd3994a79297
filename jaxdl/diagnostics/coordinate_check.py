"""How the values inside a network, and their change in training, depend on its width."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxdl.calling import GivenMode
from jaxdl.checks import require_choice, require_key, require_positive, whole_number
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.recording import record
from jaxdl.diagnostics.sizes import norm
from jaxdl.intervals import Estimate, interval
from jaxdl.plotting import width_curves
from jaxdl.showing import counted, ends, html_of, named
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import make_train_step
from jaxdl.training.task import (
    Batch,
    PerExample,
    Task,
    as_measured,
    as_task,
    parts_of,
    scale_images,
    to_measure,
)
from jaxdl.training.widths.parametrization import parametrization
from jaxdl.training.widths.parametrized import Parametrization

MEASURES = ("sizes", "changes")
LEAST_SEEDS = 2


@struct.dataclass
class CoordinateCheck:
    """What `coordinate_check` measured: one entry for each row of `propagation`.

    Attributes:
        sizes: root mean square of the row's entries, by width, seed and step,
            (widths, seeds, steps + 1, rows); the first is that of the start.
        changes: root mean square of the entries minus those at the start, for the same examples and
            dropout masks; of the same shape, and 0 at the start.
        loss: the mean loss of each step, before its update, (widths, seeds, steps).
        names: of the rows.
        widths: as they were given.
        kind: the parametrisation.
        tolerance: the slope up to which a row counts as level.
    """

    sizes: np.ndarray
    changes: np.ndarray
    loss: np.ndarray
    names: tuple[str, ...] = struct.field(pytree_node=False)
    widths: tuple[int, ...] = struct.field(pytree_node=False)
    kind: str = struct.field(pytree_node=False)
    tolerance: float = struct.field(pytree_node=False)

    def slopes(self, measure: str = "changes", step: int = -1) -> Estimate:
        r"""By row the power of the width, with its 95 % interval over the seeds.

        $$\text{size} \propto \text{width}^{b}$$

        b is the slope of the line through the logarithms of one seed. It is NaN where a size is 0
        or not finite.

        Arguments:
            measure: "sizes" or "changes".
            step: updates before the measurement; -1 is the last.

        Raises:
            ValueError: another measure.
        """
        require_choice("measure", measure, MEASURES)
        values = np.asarray(getattr(self, measure), np.float64)[:, :, step]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(values)
        logs[~np.isfinite(logs)] = np.nan
        offsets = np.log(self.widths) - np.mean(np.log(self.widths))
        of_seeds = np.tensordot(offsets, logs, 1) / (offsets @ offsets)
        return interval(of_seeds)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What each row's change does as the network grows wider, after the last step.

        "level": the interval of its slope lies within the tolerance of 0. "grows" and "shrinks":
        it lies beyond. "undecided": it covers both. "constant": nothing changes at all. "not
        finite": the training diverged.
        """
        last = np.asarray(self.changes)[:, :, -1]
        slopes = self.slopes()
        found = []
        for row in range(len(self.names)):
            low, high = slopes.low[row], slopes.high[row]
            if not np.isfinite(last[..., row]).all():
                found.append("not finite")
            elif not last[..., row].any():
                found.append("constant")
            elif low > self.tolerance:
                found.append("grows")
            elif high < -self.tolerance:
                found.append("shrinks")
            elif -self.tolerance <= low and high <= self.tolerance:
                found.append("level")
            else:
                found.append("undecided")
        return tuple(found)

    def table(self) -> Table:
        """A `rich.table.Table`: slopes of log size against log width, and the verdict, by row."""
        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("row", overflow="fold", min_width=10)
        columns = {
            "size,\nat first": self.slopes("sizes", 0),
            "size,\nat last": self.slopes("sizes"),
            "change,\nat last": self.slopes(),
        }
        for name in (*columns, "change"):
            table.add_column(name, justify="right", no_wrap=True)
        for row, (name, verdict) in enumerate(zip(self.names, self.verdicts, strict=True)):
            shown = [_shown(each.mean[row], each.half_width[row]) for each in columns.values()]
            table.add_row(name, *shown, verdict)
        return table

    def plot(self) -> Any:
        """A matplotlib figure: sizes and changes after the last step against the width, by row."""
        return width_curves(
            self.names,
            self.widths,
            {
                "r.m.s. of the values": np.asarray(self.sizes)[:, :, -1],
                "r.m.s. of their change": np.asarray(self.changes)[:, :, -1],
            },
            title=f"{self.kind.replace('_', ' ')}, after {counted(self.loss.shape[-1], 'step')}",
        )

    def __rich__(self) -> Table:
        return self.table()

    def __repr__(self) -> str:
        verdicts = self.verdicts
        texts = {each: str(verdicts.count(each)) for each in dict.fromkeys(verdicts)}
        return (
            f"CoordinateCheck({self.kind}, widths {ends(self.widths)}, "
            f"{counted(len(self.names), 'row')}; change: {named(texts)})"
        )

    def _repr_html_(self) -> str:
        return html_of(repr(self), self.table())


def coordinate_check(
    make_model: Any,
    widths: Any,
    batch: Batch,
    optimizer: Any,
    *,
    loss: PerExample | None = None,
    kind: str = "maximal_update",
    base: int | None = None,
    multipliers: Callable[[int], Mapping[str, float]] | None = None,
    roles: Mapping[str, str] | None = None,
    steps: int = 4,
    seeds: int = 4,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
    tolerance: float = 0.1,
) -> CoordinateCheck:
    r"""Train networks of several widths for a few steps, and see which of their values scale.

    $$\text{size}_l(t) = \sqrt{\overline{a_l(t)^2}}, \qquad
      \text{change}_l(t) = \sqrt{\overline{(a_l(t) - a_l(0))^2}}$$

    for the value a_l of each row of `propagation` after t steps on one batch. Under a right
    maximal-update parametrisation no size grows with the width, and every change is level: each
    layer learns at every width. Under the standard one some changes grow, so the best rate falls as
    the network grows wider. Under the neural tangent one the changes of hidden layers shrink.

    Arguments:
        make_model: a function of the width that makes a model of any library, or a `Task` of it.
        widths: at least two; the ratio of the largest to the smallest decides how sharp the slopes
            are.
        batch: {"inputs": ..., "targets": ...}.
        optimizer: a function of a `Parametrization`, its optimizer, such as
            `lambda found: found.optimizer(optimizers.adam, 0.01)`.
        loss: per example, unless the models are tasks.
        kind: as in `training.parametrization`.
        base: the width of the base, one of the widths or another; by default the smallest.
        multipliers: from a width to the multipliers of `training.parametrization`.
        roles: as in `training.parametrization`.
        steps: updates, at least 1.
        seeds: runs at each width, at least 2.
        key: the key of all of them; `jax.random.key(0)` by default.
        preprocess, mode: as in `training.Task`.
        tolerance: the slope up to which a row is level.

    Raises:
        TypeError: no model, no loss, no optimizer, or one in the place of its function; one width.
        ValueError: fewer than 2 widths or seeds; seeds that start alike, as a module that holds its
            parameters; models of different depths; what `training.parametrization` refuses.

    Example:
        >>> from jaxdl import diagnostics, losses, models, optimizers
        >>> x = jax.random.normal(jax.random.key(1), (8, 4))
        >>> check = coordinate_check(
        ...     lambda width: models.MLP([width, width, 1]), [16, 64, 256],
        ...     {"inputs": x, "targets": x[:, :1]},
        ...     lambda found: found.optimizer(optimizers.adam, 0.01),
        ...     loss=losses.mean_squared_error)
        >>> check.names[-1], check.sizes.shape
        ('dense_2', (3, 4, 5, 5))

    Source: Yang, Hu et al. (2022), Tensor Programs V, appendix D.1.
    """
    _check_functions(make_model, optimizer)
    if not isinstance(widths, Iterable):
        raise TypeError(
            f"widths must be two or more numbers, got {widths!r}; pass e.g. [64, 256, 1024]"
        )
    listed = tuple(whole_number("a width", width) for width in widths)
    if len({*listed}) < 2 or len({*listed}) < len(listed):
        raise ValueError(
            f"widths must be two or more different numbers, got {listed}; pass e.g. [64, 256, 1024]"
        )
    whole_number("steps", steps)
    whole_number("seeds", seeds, LEAST_SEEDS)
    require_positive("tolerance", tolerance)
    key = jax.random.key(0) if key is None else key
    require_key(key)
    narrow = min(listed) if base is None else whole_number("base", base)
    delta = max(listed, key=lambda width: abs(np.log(width / narrow)))

    def task_of(width: int) -> Task:
        made = make_model(width)
        if isinstance(made, Task):
            return as_task(made, loss)
        return as_task(made, loss, preprocess=preprocess, mode=mode)

    keys, given = jax.random.split(key, seeds), parts_of(batch)
    measured, names = [], None
    for width in listed:
        task = task_of(width)
        found = parametrization(
            kind, task, task_of(narrow), given["inputs"], delta=task_of(delta), roles=roles,
            multipliers=multipliers(width) if multipliers and kind != "standard" else None,
        )  # fmt: skip
        rows, *values = _of_width(task, found, optimizer(found), keys, given, steps)
        if names is not None and rows != names:
            raise ValueError(
                "models of all widths must have the same rows, got others at width "
                f"{width}: {sorted({*rows} ^ {*names})}; change widths alone, not the depth"
            )
        names = rows
        measured.append(values)
    assert names is not None
    sizes, changes, losses = (np.stack(each) for each in zip(*measured, strict=True))
    return CoordinateCheck(sizes, changes, losses, names, listed, kind, float(tolerance))


def _check_functions(make_model: Any, optimizer: Any) -> None:
    if not callable(make_model):
        raise TypeError(
            f"make_model must be a function of the width, got {make_model!r}; pass e.g. "
            "lambda width: models.MLP([width, width, 10])"
        )
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of the parametrisation, got {optimizer!r}; pass e.g. "
            "lambda found: found.optimizer(optimizers.adam, 0.01)"
        )


def _of_width(
    task: Task, found: Parametrization, optimizer: Any, keys: Array, batch: Any, steps: int
) -> tuple[Any, ...]:
    """Names, and sizes, changes and losses of the seeds, (seeds, steps, ...)."""
    sample = task.preprocess(jax.tree.map(lambda array: jnp.asarray(array[:1]), batch["inputs"]))
    starts = jax.vmap(lambda key: found.init(key, sample))(keys)
    leaves = jax.tree.leaves(starts["params"])
    if all(bool(jnp.all(leaf == leaf[:1])) for leaf in leaves):
        raise ValueError(
            "seeds must start from different parameters, got the same for all keys, as of a module "
            "that holds them; pass calling.adapt(model, init=...), which says how they are drawn"
        )
    shared, _ = to_measure(task, jax.tree.map(lambda leaf: leaf[0], starts))
    settings = (shared, optimizer)
    state = jit_with(_begin, (task, optimizer))(keys, sample, starts)
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    names = tuple(row.name for row in _rows(shared, first, batch, keys[0]))
    measure, advance = jit_with(_measure, settings), jit_with(_advance, settings)
    found_here = [measure(starts, starts, batch, keys)]
    losses = []
    for _ in range(steps):
        state, loss = advance(state, batch)
        losses.append(loss)
        found_here.append(measure(state.variables, starts, batch, keys))
    sizes, changes = (np.stack(each, 1) for each in zip(*jax.device_get(found_here), strict=True))
    return names, sizes, changes, np.stack(jax.device_get(losses), 1)


def _begin(settings: tuple[Any, ...], keys: Array, sample: Any, starts: Any) -> TrainState:
    task, optimizer = settings
    return jax.vmap(
        lambda key, variables: init_state(key, task, optimizer, sample, variables=variables)
    )(keys, starts)


def _advance(settings: tuple[Any, ...], state: TrainState, batch: Any) -> tuple[TrainState, Array]:
    step = make_train_step(*settings)
    state, measured = jax.vmap(step, (0, None))(state, batch)
    return state, measured["loss"]


def _values(task: Task, variables: Any, batch: Any, key: Any) -> Any:
    """The recorded values in training, without a loss and its gradients."""
    without = as_measured(task.model, preprocess=task.preprocess, mode=task.mode)
    return record(without, variables, batch, train=True, key=key)


def _rows(task: Task, variables: Any, batch: Any, key: Any) -> Any:
    recorded: list[Any] = []

    def look() -> None:
        recorded.append(_values(task, variables, batch, key).rows)

    jax.eval_shape(look)
    return recorded[0]


def _measure(
    settings: tuple[Any, ...], variables: Any, starts: Any, batch: Any, keys: Array
) -> tuple[Array, Array]:
    task, _ = settings

    def root_mean_square(values: Array) -> Array:
        mean: Array = norm([values]) / np.sqrt(max(values.size, 1))
        return mean

    def of_seed(variables: Any, start: Any, key: Any) -> tuple[Array, Array]:
        now, before = (_values(task, each, batch, key) for each in (variables, start))
        changed = [_less(a, b) for a, b in zip(now.values, before.values, strict=True)]
        return now.map_rows(root_mean_square, now.values), now.map_rows(root_mean_square, changed)

    return jax.vmap(of_seed)(variables, starts, keys)


def _less(now: Array, before: Array) -> Array:
    wide = jnp.promote_types(now.dtype, jnp.float32)
    change: Array = now.astype(wide) - before.astype(wide)
    return change


def _shown(mean: float, half_width: float) -> str:
    return "" if np.isnan(mean) else f"{mean:+.2f} ± {half_width:.2f}"
