"""The learning-rate range test: find a rate to train at, in a run of seconds."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxdl.compiling import compiler_options, loops_well, once_for_equal
from jaxdl.data.types import Arrays, Dataset
from jaxdl.showing import Cell, counted, curve, ends, html_table, number
from jaxdl.training.fit.batches import batch_shapes, put_on_device
from jaxdl.training.orders import epoch_order
from jaxdl.training.state import TrainState, check_parts, init_state
from jaxdl.training.steps import make_train_step, take
from jaxdl.training.task import Batch, PerExample, scale_images

OptimizerFactory = Callable[[Any], optax.GradientTransformation]
"""(learning rate, a traced array) -> optimizer."""

# The default number of rates, and of steps at each. 29 rates from 1e-6 to 10 are four per decade.
DEFAULT_SIZES = {"ramp": (100, 1), "runs": (29, 100)}
# A run is judged by the mean loss over this last share of its steps.
TAIL = 0.25


class RateCurve(NamedTuple):
    """What a range test measured.

    Attributes:
        rates: the learning rates, in geometric progression.
        loss: the loss after the steps at each rate; inf where it overflowed or was NaN.
        start: the loss of the initial parameters, on the same examples.
        change: loss - start, from which the suggestion is read. It is smoothed in a ramp. A rise
            is cut at the size of the largest fall, so that a divergence stays on the scale.
    """

    rates: Float[np.ndarray, " rates"]
    loss: Float[np.ndarray, " rates"]
    start: Float[np.ndarray, " rates"]
    change: Float[np.ndarray, " rates"]

    def __repr__(self) -> str:
        return f"RateCurve({counted(len(self.rates), 'rate')}: {ends(self.rates)})"


class RateRange(NamedTuple):
    """The suggested learning rate, and the curve that it was read from."""

    suggested: float
    curve: RateCurve

    def __repr__(self) -> str:
        rates = counted(len(self.curve.rates), "rate")
        return f"RateRange(suggested {number(self.suggested)}; {rates}, {ends(self.curve.rates)})"

    def _repr_html_(self) -> str:
        measured = {"loss after its steps": self.curve.loss, "change of it": self.curve.change}
        best = int(np.argmin(np.abs(self.curve.rates - self.suggested)))
        rows: list[list[Cell]] = [
            [name, *(number(values[i]) for i in (0, best, -1)), curve(values)]
            for name, values in measured.items()
        ]
        head = ["", *(f"rate {number(self.curve.rates[i])}" for i in (0, best, -1)), "by rate"]
        return html_table(repr(self), head, rows)


def rate_range(
    model: nn.Module,
    dataset: Dataset | Arrays,
    optimizer: OptimizerFactory,
    *,
    loss: PerExample,
    batch_size: int,
    key: Key[Array, ""],
    method: Literal["ramp", "runs"] = "ramp",
    low: float = 1e-6,
    high: float = 10.0,
    rates: int | None = None,
    steps: int | None = None,
    smoothing: float = 0.8,
    chunk: int = 8,
    preprocess: Callable[[Array], Array] = scale_images,
) -> RateRange:
    r"""Suggest a learning rate: train at many rates, and find where the loss falls fastest.

    $$\eta_i = \eta_{low} (\eta_{high} / \eta_{low})^{i/(n-1)}, \qquad
      c_i = L_i - L_i^{(0)}$$

    with L_i the loss after the steps at rate i, and L^(0) the loss of the initial parameters on the
    same examples. The differences between batches cancel in c.

    "ramp" is one run whose rate grows at every step. The suggestion is the steepest descent,

    $$\eta^* = \eta_k, \quad k = \arg\min_i \bar{c'_i}, \qquad
      \bar{c'_i} = \frac{\sum_j \beta^{|i-j|}\, c'_j}{\sum_j \beta^{|i-j|}}, \qquad
      c' = \frac{dc}{d \log \eta}$$

    which smooths the slope exponentially, with bias correction, in both directions so that it does
    not lag. To first order a step lowers the loss by eta |g|^2, so the slope grows with the rate
    until curvature stops it or nothing is left to learn. On a quadratic it turns before the bound
    of stability 2/lambda_max. The point where the loss starts to rise is no such mark: a ramp with
    no loss left passes the bound unharmed. The suggestion is cautious. A longer ramp has less loss
    left at each rate and suggests a smaller rate. A normalised network bears up to ten times more.

    "runs" gives each rate a short run of its own, with the same initial parameters and batches. It
    suggests the rate whose run ends lowest (by the mean of its last quarter). It costs more, and is
    right for runs of that length. Longer runs with noisy gradients need a smaller rate.

    Arguments:
        model: a Linen module.
        dataset: its training split is used, or arrays themselves.
        optimizer: a function of the rate, e.g. `optimizers.adam` or
            `functools.partial(optimizers.momentum, decay=0.9)`; it is given a traced array.
        loss: per example, (outputs, targets) -> (batch,).
        batch_size: examples per step; the smaller last batch of an epoch is left out.
        key: parameters, batches and dropout follow from it, as in `training.fit`.
        method: "ramp" or "runs".
        low: the smallest rate, above 0.
        high: the largest rate.
        rates: the number of rates, at least 4 / (1 - beta) in a ramp (default 100), at least 5 in
            "runs" (default 29).
        steps: steps at each rate; by default 1 in a ramp and 100 in "runs".
        smoothing: beta, in [0, 1), of a ramp.
        chunk: runs that are computed together; the result does not depend on it.
        preprocess: a pure function of a batch's inputs, applied on the device.

    Returns:
        `(suggested, curve)`, a float and a `RateCurve`.

    Raises:
        ValueError: settings out of range; no rate lowers the loss; the suggestion is at an end of
            the range.
        TypeError: an optimizer that is no function of a traced rate.

    Example:
        >>> import jax, numpy as np
        >>> from jaxdl import data, losses, models, optimizers
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> suggested, curve = rate_range(
        ...     models.MLP([1]), data.Arrays(x, 2 * x), optimizers.sgd, batch_size=64,
        ...     loss=losses.mean_squared_error, key=jax.random.key(0), high=100.0)
        >>> 0.01 < suggested < 1.0, curve.rates.shape
        (True, (100,))

    Source: Smith (2017), section 3.3; the steepest descent follows Howard and Gugger (2020).
    """
    rates, steps = check_settings(method, low, high, rates, steps, smoothing, chunk)
    arrays = dataset.train if isinstance(dataset, Dataset) else dataset
    _check_data(arrays, batch_size)
    check_parts(key, model, made_by(optimizer))
    values = np.geomspace(low, high, rates).astype(np.float32)
    programs = _programs(model, optimizer, loss, preprocess)
    on_device = put_on_device(arrays)
    sample = jax.eval_shape(preprocess, batch_shapes(on_device, 1)["inputs"])
    state = programs.init(key, jnp.zeros(sample.shape, sample.dtype))
    count = rates * steps + 1 if method == "ramp" else steps
    rows = _batches(state.key, count, len(arrays), batch_size)
    shapes = batch_shapes(on_device, batch_size)
    scanned = loops_well(jax.make_jaxpr(programs.train_step)(state, shapes))
    if method == "ramp":
        ramp = programs.ramp if scanned else functools.partial(_ramp_by_steps, programs)
        by_step = ramp(state, on_device, rows, np.repeat(values, steps))
        # The loss of a batch is measured before its update: a step's effect shows in the next.
        after, start = (
            np.asarray(part, np.float64)[1:].reshape(rates, steps).mean(1) for part in by_step
        )
    else:
        together = functools.partial(programs.runs, chunk=min(chunk, rates + 1))
        runs = together if scanned else functools.partial(_runs_by_steps, programs)
        by_run = np.asarray(runs(state, on_device, rows, np.append(values, 0)), np.float64)
        ends = by_run[:, -max(1, round(TAIL * steps)) :].mean(1)
        after, start = ends[:-1], np.full(rates, ends[-1])
    return _suggest(values, after, start, smoothing if method == "ramp" else None)


def _suggest(
    rates: np.ndarray, loss: np.ndarray, start: np.ndarray, smoothing: float | None
) -> RateRange:
    loss = np.where(np.isfinite(loss), loss, np.inf)
    change = loss - start
    largest_fall = -change.min()
    if not largest_fall > 0:
        raise ValueError(
            f"a rate between {rates[0]:.3g} and {rates[-1]:.3g} must lower the loss, got none: it "
            f"starts at {start[0]:.4g} and is at best {loss.min():.4g}; pass a smaller low, or see "
            "diagnostics.propagation for whether a gradient arrives"
        )
    change = np.minimum(change, largest_fall)
    if smoothing is None:
        chosen = int(change.argmin())
        falls_on = chosen == len(rates) - 1
    else:
        places = np.arange(len(rates))
        weights = smoothing ** np.abs(places[:, None] - places)
        weights /= weights.sum(1, keepdims=True)
        # Smooth the slope, not the loss: the smoothed loss is too flat at the ends.
        slope = weights @ np.gradient(change, np.log(rates.astype(np.float64)))
        change = weights @ change
        chosen = int(slope[: change.argmin() + 1].argmin())
        # A ramp with no loss left need not rise, if the steepest fall is well inside.
        reach = round(1 / (1 - smoothing))
        falls_on = min(change.argmin(), chosen + 3 * reach) >= len(rates) - reach
    if falls_on or chosen == 0:
        raise ValueError(
            f"the range from {rates[0]:.3g} to {rates[-1]:.3g} must hold a rate on either side of "
            f"which the loss falls less, got the best at its {'upper' if falls_on else 'lower'} "
            f"end; pass a {'greater high' if falls_on else 'smaller low'}"
        )
    curve = RateCurve(rates.astype(np.float64), loss, start, change)
    return RateRange(float(curve.rates[chosen]), curve)


class _Programs(NamedTuple):
    """The programs of a range test, compiled at the first call of each shape."""

    train_step: Callable[..., Any]
    init: Callable[..., TrainState]
    with_rate: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Array]]
    start: Callable[..., Array]
    ramp: Callable[..., tuple[Array, Array]]
    runs: Callable[..., Array]


@once_for_equal
def _programs(
    model: nn.Module,
    optimizer: OptimizerFactory,
    loss: PerExample,
    preprocess: Callable[[Array], Array],
) -> _Programs:
    def with_rate(state: TrainState, rate: Array) -> TrainState:
        return replace(state, opt_state=optimizer(rate).init(state.params))

    def step(
        state: TrainState, arrays: Batch, row: Int[Array, " batch"], rate: Float[Array, ""]
    ) -> tuple[TrainState, Array]:
        train_step = make_train_step(model, optimizer(rate), loss, preprocess=preprocess)
        state, measured = train_step(state, take(arrays, row))
        return state, measured["loss"]

    def start(state: TrainState, arrays: Batch, row: Array) -> Array:
        # XLA drops the update, because its result is not used.
        return step(state, arrays, row, jnp.zeros(()))[1]

    def ramp(state: TrainState, arrays: Batch, rows: Array, rates: Array) -> tuple[Array, Array]:
        def one(now: TrainState, at: tuple[Array, Array]) -> tuple[TrainState, Any]:
            beginning = replace(state, step=now.step)  # with the current dropout masks
            now, value = step(now, arrays, *at)
            return now, (value, start(beginning, arrays, at[0]))

        # The last batch only measures.
        steps = rows, jnp.append(rates, rates[-1])
        losses: tuple[Array, Array] = lax.scan(one, with_rate(state, rates[0]), steps)[1]
        return losses

    def runs(state: TrainState, arrays: Batch, rows: Array, rates: Array, *, chunk: int) -> Array:
        def one(rate: Array) -> Array:
            return lax.scan(
                lambda now, row: step(now, arrays, row, rate), with_rate(state, rate), rows
            )[1]

        losses: Array = lax.map(one, rates, batch_size=chunk)
        return losses

    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    return _Programs(
        train_step=make_train_step(model, optimizer(1.0), loss, preprocess=preprocess),
        init=jax.jit(lambda key, sample: init_state(key, model, optimizer(1.0), sample)),
        with_rate=jit(with_rate),
        step=jit(step),
        start=jit(start),
        ramp=jit(ramp),
        runs=jit(runs, static_argnames="chunk"),
    )


def _ramp_by_steps(
    programs: _Programs, state: TrainState, arrays: Batch, rows: np.ndarray, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    now, losses = programs.with_rate(state, rates[0]), []
    for row, rate in zip(rows, np.append(rates, rates[-1]), strict=True):
        beginning = replace(state, step=now.step)
        now, value = programs.step(now, arrays, row, rate)
        losses.append((value, programs.start(beginning, arrays, row)))
    after, start = np.array(jax.device_get(losses)).T
    return after, start


def _runs_by_steps(
    programs: _Programs, state: TrainState, arrays: Batch, rows: np.ndarray, rates: np.ndarray
) -> np.ndarray:
    runs = []
    for rate in rates:
        now, losses = programs.with_rate(state, rate), []
        for row in rows:
            now, value = programs.step(now, arrays, row, rate)
            losses.append(value)
        runs.append(np.array(jax.device_get(losses)))
    return np.stack(runs)


def _batches(
    key: Key[Array, ""], count: int, examples: int, batch_size: int
) -> Int[np.ndarray, "count batch"]:
    """The examples of the first `count` batches that `fit(drop_last=True)` takes."""
    per_epoch = examples // batch_size
    orders = [
        epoch_order(key, epoch, examples)[: per_epoch * batch_size]
        for epoch in range(-(-count // per_epoch))
    ]
    return np.concatenate(orders).reshape(-1, batch_size)[:count]


def made_by(optimizer: Any) -> Any:
    """The optimizer that a factory makes of a traced rate; refuse anything but a factory."""
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of the rate, got {optimizer!r}; pass the factory, e.g. "
            "optimizers.adam or functools.partial(optimizers.momentum, decay=0.9)"
        )
    made = []
    try:
        jax.eval_shape(lambda rate: made.append(optimizer(rate)), jnp.ones(()))
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            "optimizer must take a traced rate, on whose value Python cannot branch; build the "
            f"chain from jaxdl.optimizers or optax, which take one ({error.__class__.__name__})"
        ) from error
    return made[0]


def check_settings(
    method: str,
    low: float,
    high: float,
    rates: int | None,
    steps: int | None,
    smoothing: float,
    chunk: int,
) -> tuple[int, int]:
    """The number of rates, and of steps at each rate; refuse settings out of range."""
    if method not in DEFAULT_SIZES:
        raise ValueError(f"method must be 'ramp' or 'runs', got {method!r}")
    rates = DEFAULT_SIZES[method][0] if rates is None else rates
    steps = DEFAULT_SIZES[method][1] if steps is None else steps
    if not 0 < low < high < np.inf:
        raise ValueError(
            f"0 < low < high < inf must hold, got low={low} and high={high}; "
            "the range is geometric, so low is not 0"
        )
    if not 0 <= smoothing < 1:
        raise ValueError(
            f"smoothing must lie in [0, 1), got {smoothing}; it is a neighbour's weight"
        )
    fewest = 4 * round(1 / (1 - smoothing)) if method == "ramp" else 5
    for name, value, least in (("rates", rates, fewest), ("steps", steps, 1), ("chunk", chunk, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}; pass more")
    return rates, steps


def _check_data(arrays: Arrays, batch_size: int) -> None:
    if len(arrays.inputs) != len(arrays.targets):
        raise ValueError(
            f"there must be as many targets as inputs, got {len(arrays.inputs)} inputs and "
            f"{len(arrays.targets)} targets"
        )
    if not 1 <= batch_size <= len(arrays):
        raise ValueError(
            f"batch_size must be from 1 to the {len(arrays)} training examples, got {batch_size}; "
            "pass another batch_size"
        )
