"""A learning rate that falls when a metric stops improving."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxdl.checks import require_choice, require_non_negative, require_positive
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import downhill


class PlateauSettings(NamedTuple):
    """The arguments of `plateau` as arrays, so that they can be mapped over and saved."""

    is_max: Bool[Array, "..."]
    is_absolute: Bool[Array, "..."]
    factor: Float[Array, "..."]
    patience: Int[Array, "..."]
    threshold: Float[Array, "..."]
    threshold_rounding: Float[Array, "..."]
    """The rounding error of the float32 threshold: together they are exact to 48 bits."""
    cooldown: Int[Array, "..."]
    min_lr: Float[Array, "..."]
    eps: Float[Array, "..."]


class PlateauState(NamedTuple):
    """The current rate, and what decides when it falls."""

    learning_rate: Float[Array, "..."]
    best: Float[Array, "..."]
    bad_epochs: Int[Array, "..."]
    cooldown_left: Int[Array, "..."]
    settings: PlateauSettings


@factory
def plateau(
    learning_rate: ArrayLike,
    *,
    mode: Literal["min", "max"] = "min",
    factor: ArrayLike = 0.1,
    patience: ArrayLike = 10,
    threshold: ArrayLike = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: ArrayLike = 0,
    min_lr: ArrayLike = 0.0,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformation:
    r"""A learning rate that is reduced when a metric has not improved for a while.

    $$u_t = -\eta\, g_t, \qquad \eta \leftarrow \max(\gamma\,\eta, \eta_{\min})
      \quad\text{after more than `patience` bad epochs}$$

    Pass it in the place of a rate: `adam(plateau(1e-3))`. The rate changes only when
    `report_metric` gets the metric of an epoch. An epoch is good if its metric is below (above, for
    "max") the best one by more than the threshold. The threshold is `threshold * best` for "rel"
    (so a slightly worse metric "improves" a negative best), and `threshold` for "abs". Every other
    epoch is bad; a NaN is bad too. After a reduction bad epochs do not count for `cooldown` epochs.
    A reduction by no more than `eps` is not made. Names, defaults and decisions are those of
    `ReduceLROnPlateau` in PyTorch.

    PyTorch compares in float64. Here the difference of the two float32 metrics is exact and is
    compared with a threshold of 48 bits, so the decisions are the same. A difference within a
    relative 2^-40 of the threshold counts as equal to it, and is no improvement. PyTorch's
    `best * (1 - threshold)` rounds such a tie up or down.

    Arguments:
        learning_rate: eta at the start, 0 or more.
        mode: "min" for a metric that should fall, "max" for one that should rise, such as the
            accuracy.
        factor: gamma, between 0 and 1.
        patience: the number of bad epochs that are tolerated.
        threshold: 0 or more; below 1 for a relative "min".
        threshold_mode: "rel" or "abs".
        cooldown: epochs after a reduction, 0 or more.
        min_lr: eta_min, 0 or more; a rate at or below it does not change.
        eps: 0 or more.
        All arguments but the modes may be traced, to be vmapped over.

    Raises:
        ValueError: a setting outside its range, not finite or no scalar; an unknown mode.

    Example:
        >>> optimizer = plateau(1.0, factor=0.5, patience=1)
        >>> state = optimizer.init({})
        >>> for loss in (3.0, 2.0, 2.0, 2.0):
        ...     state = report_metric(state, loss)
        >>> state.learning_rate.item(), optimizer.update({"w": 4.0}, state)[0]["w"].item()
        (0.5, -2.0)

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.
    """
    require_choice("mode", mode, ("min", "max"))
    require_choice("threshold_mode", threshold_mode, ("rel", "abs"))
    numbers = {"learning_rate": learning_rate, "threshold": threshold, "min_lr": min_lr, "eps": eps}
    for name, value in numbers.items():
        _require_scalar(name, value)
        require_non_negative(name, value)
    _require_scalar("factor", factor)
    require_positive("factor", factor)
    if _known(factor, 0.5) >= 1:
        raise ValueError(f"factor must be below 1, got {factor}; the rate is multiplied by it")
    for name, value in {"patience": patience, "cooldown": cooldown}.items():
        _require_epochs(name, value)
    if mode == "min" and threshold_mode == "rel" and _known(threshold, 0.0) >= 1:
        raise ValueError(
            f"threshold must be below 1 for a relative minimum, got {threshold}, which no positive "
            "metric can meet; pass threshold_mode='abs' or a smaller one"
        )
    # A traced threshold is float32 already: its rounding error is taken as 0.
    rounding = _known(threshold, 0.0) - float(np.float32(_known(threshold, 0.0)))

    def init_fn(params: Any) -> PlateauState:
        del params

        # Each a new copy: a buffer used twice could not be donated.
        def number(value: ArrayLike) -> Array:
            return jnp.array(value, jnp.float32)

        def whole(value: ArrayLike) -> Array:
            return jnp.array(value, jnp.int32)

        return PlateauState(
            learning_rate=number(learning_rate),
            best=number(-math.inf if mode == "max" else math.inf),
            bad_epochs=whole(0),
            cooldown_left=whole(0),
            settings=PlateauSettings(
                is_max=jnp.array(mode == "max"),
                is_absolute=jnp.array(threshold_mode == "abs"),
                factor=number(factor),
                patience=whole(patience),
                threshold=number(threshold),
                threshold_rounding=number(rounding),
                cooldown=whole(cooldown),
                min_lr=number(min_lr),
                eps=number(eps),
            ),
        )

    def update_fn(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, Any]:
        del params
        return downhill(updates, state.learning_rate), state

    return optax.GradientTransformation(init_fn, update_fn)


def report_metric(opt_state: optax.OptState, value: ArrayLike) -> optax.OptState:
    """The state of an optimizer after an epoch with this metric: every plateau in it is updated.

    A pure function: it may be jitted, scanned and vmapped. The plateau may be anywhere in the
    state.

    Arguments:
        opt_state: the state of an optimizer whose rate is a `plateau`.
        value: the metric, in float32; one for each state if the states are stacked.

    Raises:
        ValueError: a state without a plateau, a value of another shape than the plateau's state.

    Example:
        >>> from jaxdl import optimizers
        >>> state = optimizers.sgd(plateau(1.0, patience=0)).init({})
        >>> state = report_metric(report_metric(state, 3.0), 3.0)
        >>> optimizers.current_learning_rate(state).round(6).item()
        0.1...
    """
    found = []

    def is_plateau(node: Any) -> bool:
        return isinstance(node, PlateauState)

    def report(node: Any) -> Any:
        if not is_plateau(node):
            return node
        found.append(node)
        return _after_epoch(node, value)

    opt_state = jax.tree.map(report, opt_state, is_leaf=is_plateau)
    if not found:
        raise ValueError(
            "opt_state must hold the state of a plateau, and this one holds none; build the "
            "optimizer with learning_rate=plateau(...)"
        )
    return opt_state


def _after_epoch(state: PlateauState, value: ArrayLike) -> PlateauState:
    if jnp.shape(value) not in ((), state.best.shape):
        raise ValueError(
            f"value must be a scalar or have the state's shape {state.best.shape}, "
            f"got {jnp.shape(value)}; average the metric over the epoch"
        )
    settings, metric = state.settings, jnp.asarray(value, jnp.float32)
    better = _is_better(metric, state.best, settings)
    cooling = state.cooldown_left > 0
    bad = jnp.where(better | cooling, 0, state.bad_epochs + 1)
    reduce = bad > settings.patience
    rate = state.learning_rate
    lower = jnp.maximum(rate * settings.factor, settings.min_lr)
    return PlateauState(
        learning_rate=jnp.where(reduce & (rate - lower > settings.eps), lower, rate),
        best=jnp.where(better, metric, state.best),
        bad_epochs=jnp.where(reduce, 0, bad),
        cooldown_left=jnp.where(reduce, settings.cooldown, state.cooldown_left - cooling),
        settings=settings,
    )


# Differences this near to the threshold are meant to equal it. It is about 2^8 times the error of a
# 48-bit threshold and its product, and 2^-16 of the spacing of float32 differences.
_TIE = 2.0**-40


def _is_better(
    metric: Float[Array, "..."], best: Float[Array, "..."], settings: PlateauSettings
) -> Bool[Array, "..."]:
    """Whether best - metric exceeds the threshold (metric - best, for a maximum)."""
    sign = jnp.where(settings.is_max, -1.0, 1.0).astype(jnp.float32)
    better, worse = -sign * metric, -sign * best
    gain, gain_rest = _exact_sum(better, -worse)
    relative, relative_rest = _exact_product(settings.threshold, best)
    relative_rest = relative_rest + settings.threshold_rounding * best
    needed = jnp.where(settings.is_absolute, settings.threshold, relative)
    needed_rest = jnp.where(settings.is_absolute, settings.threshold_rounding, relative_rest)
    # The large parts of nearly equal sums cancel without rounding.
    surplus = (gain - needed) + (gain_rest - needed_rest)
    # Compare infinities directly: inf - inf is NaN.
    infinite = jnp.isinf(metric) | jnp.isinf(best) | jnp.isinf(gain)
    return jnp.where(infinite, better > worse, surplus > _TIE * jnp.abs(needed))


def _exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and the rounding error (Knuth)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def _exact_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b to 48 bits, in two parts."""
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    # Each product is exact, so a compiler may fuse it with the following sum. In Dekker's product
    # it must not fuse a * b, because the product's rounding is needed.
    total, rest = _exact_sum(a1 * b1, a1 * b2)
    total, more = _exact_sum(total, a2 * b1)
    return total, (rest + more) + a2 * b2


def _halves(a: Array) -> tuple[Array, Array]:
    """Two numbers of 12 bits whose sum is a, so that products of such numbers are exact."""
    bits = lax.bitcast_convert_type(a, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, a - high


def _known(value: ArrayLike, otherwise: float) -> float:
    """A setting as a number, or `otherwise` while it is traced."""
    try:
        return float(value)  # type: ignore[arg-type]  # a traced one raises
    except jax.errors.ConcretizationTypeError:
        return otherwise


def _require_scalar(name: str, value: ArrayLike) -> None:
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got an array of shape {jnp.shape(value)}; "
            "vmap over the array instead"
        )


def _require_epochs(name: str, value: ArrayLike) -> None:
    _require_scalar(name, value)
    whole = jnp.issubdtype(jnp.result_type(value), jnp.integer)
    if not whole or _known(value, 0.0) < 0:
        raise ValueError(
            f"{name} must be a whole number of epochs, 0 or more, got {value}; "
            "count the reported metrics"
        )
