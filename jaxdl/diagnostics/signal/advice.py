"""What is wrong with a network, at which layer, and what to change."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.diagnostics.signal.trunk import readers_of, trunk

# One learning rate serves layers whose gradients differ by a factor of 10 or 100. At 1,000 the
# layers with small gradients hardly learn.
GRADIENT_RANGE = 1e3
# The same holds for the signal: a bias or a norm's epsilon that suits one layer is too large or too
# small for another.
SIGNAL_RANGE = 1e3
# A quarter of a layer's units do nothing for the batch. Some dead units are usual, and deep layers
# have more, because their inputs point the same way.
DEAD_FRACTION = 0.25
# A quarter of the entries pass less than a hundredth of the gradient. In tanh this needs inputs
# with a standard deviation of 2.6 instead of 1.
SATURATED_FRACTION = 0.25
# Karpathy's rule of thumb, and a factor that is far from it: in networks that train, Adam's first
# step is 30 times larger.
USUAL_UPDATE_RATIO = 1e-3
FAR_FROM_USUAL = 100.0
# Gradients of this size are about to leave float32, whose smallest normal number is 1.2e-38.
NEAR_UNDERFLOW = 1e-30
# Nine of ten queries attend to one key alone: the weights pass no gradient back to the logits.
# Trained heads may do so; at the start, or in all heads at once, it ends learning.
ONE_KEY_FRACTION = 0.9


@dataclass(frozen=True)
class Advice:
    """One thing that is wrong.

    Attributes:
        problem: "not finite", "cut off", "vanishing signal", "exploding signal", "vanishing
            gradient", "exploding gradient", "dead units", "saturated", "one-hot attention",
            "small update" or "large update".
        row: the row where it is worst.
        measured: the number that shows it; the sentence says which number.
        sentence: what is wrong, where, and what to change.
    """

    problem: str
    row: str
    measured: float
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def advise(measured: Propagation) -> tuple[Advice, ...]:
    """Say what is wrong: the worst row of each kind of problem; nothing for a healthy network.

    The signal of a row is the root mean square of its entries. The gradient of a row is the root
    mean square, over the examples, of the norm of dL/da. It does not change if more units or image
    positions share it. Both are compared over the rows with weights. The signal leaves out the last
    row, whose size the targets decide. The limits are the constants of this module.

    Arguments:
        measured: the measurement of one run; from a mapped one take one run,
            `jax.tree.map(lambda leaf: leaf[0], measured)`.

    Raises:
        ValueError: the measurement holds several runs, or is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdl import diagnostics, losses, models
        >>> model = models.MLP([64] * 8 + [1], activation=jax.nn.sigmoid)
        >>> batch = {"inputs": jnp.eye(16), "targets": jnp.ones((16, 1))}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> found = diagnostics.advise(diagnostics.propagation(
        ...     model, variables, batch, loss=losses.mean_squared_error))
        >>> [(each.problem, each.row) for each in found]
        [('vanishing gradient', 'dense_0')]

    Source: Glorot and Bengio (2010) for saturation and vanishing; Karpathy, CS231n notes (2015),
    for the ratio of update to weight.
    """
    if isinstance(measured.mean, jax.core.Tracer) or np.ndim(measured.mean) != 1:
        raise ValueError(
            "advise must be given one run's concrete numbers, got a measurement of shape "
            f"{np.shape(measured.mean)}; take one, jax.tree.map(lambda leaf: leaf[0], measured), "
            "outside of jit"
        )
    found = [
        _not_finite(measured),
        _cut_off(measured),
        _signal(measured),
        _gradient(measured),
        _dead(measured),
        _saturated(measured),
        _on_one_key(measured),
        _updates(measured),
    ]
    return tuple(advice for advice in found if advice is not None)


def _not_finite(measured: Propagation) -> Advice | None:
    values = np.asarray(measured.nonfinite_fraction)
    gradients = np.asarray(measured.gradient_nonfinite_fraction)
    if np.any(values > 0):
        row, share, what = int(np.argmax(values > 0)), values, "activations"
        change = "start from smaller weights, lower the learning rate or add a norm before it"
    elif np.any(gradients > 0):
        row = len(gradients) - 1 - int(np.argmax(gradients[::-1] > 0))
        share, what = gradients, "gradients"
        change = "look for a division, root or logarithm at 0 after it, or clip the gradient"
    else:
        return None
    name = measured.names[row]
    return Advice(
        "not finite",
        name,
        float(share[row]),
        f"{share[row]:.1%} of the {what} of {name} are NaN or infinite, the first that are: "
        f"{change}.",
    )


def _cut_off(measured: Propagation) -> Advice | None:
    """A gradient that is exactly 0 in every entry and stays so, and what stopped it."""
    nothing = np.asarray(measured.gradient_zero_fraction) == 1
    readers = readers_of(measured.feeds)
    # From the loss back: a gradient of 0 is no fault where the next step lets one through.
    sick = np.zeros(len(nothing), bool)
    for row in reversed(np.flatnonzero(nothing).tolist()):
        sick[row] = all(
            sick[reader] if nothing[reader] else not _opens(measured, row, reader)
            for reader in readers[row]
        )
    if not np.any(sick):
        return None
    row = int(np.flatnonzero(sick)[-1])
    name = measured.names[row]
    if not readers[row]:
        cause = "the loss does not depend on it, the targets are met exactly, or it is flat there"
    else:
        reader = max(readers[row], key=lambda reader: not nothing[reader])
        after = measured.names[reader]
        if measured.weight_norm[reader] == 0:
            cause = f"the kernel of {after} is 0: start it from random weights"
        elif measured.gradient_stddev[reader] < NEAR_UNDERFLOW:
            cause = (
                f"it underflowed float32 after {measured.gradient_stddev[reader]:.0e} at {after}: "
                "start from larger weights or add a norm"
            )
        elif measured.dead_fraction[reader] == 1:
            # Rows after a dead row are constant too: the first one is the cause.
            source = measured.names[int(np.argmax(np.asarray(measured.dead_fraction) == 1))]
            cause = f"every unit of {source} is dead: raise its biases or lower the learning rate"
        else:
            cause = f"{after} passes none back: look for a stop_gradient or a flat function there"
    return Advice(
        "cut off", name, 1.0, f"The gradient is exactly 0 in {name} and before it; {cause}."
    )


def _opens(measured: Propagation, row: int, reader: int) -> bool:
    """Whether a row gets no gradient from a reader only because of parameters that are 0 and learn.

    They are the reader's own (a last norm, a head or a LayerScale of 0), or a row beside it is the
    factor (adaLN-zero).
    """
    gates = [reader, *(feed for feed in measured.feeds[reader] if feed >= 0 and feed != row)]
    return any(_is_closed(measured, gate) for gate in gates)


def _is_closed(measured: Propagation, row: int) -> bool:
    """Whether its parameters are 0 and will not be after the next step."""
    return bool(measured.weight_norm[row] == 0 and measured.weight_gradient_norm[row] > 0)


def _signal(measured: Propagation) -> Advice | None:
    rows = trunk(measured.feeds, measured.has_weights)[:-1]
    if len(rows) < 2:
        return None
    size = _root_mean_square(measured.mean, measured.stddev)[rows]
    return _drift(
        measured,
        rows,
        size / size[0] if size[0] > 0 else np.ones_like(size),
        "signal",
        SIGNAL_RANGE,
    )


def _gradient(measured: Propagation) -> Advice | None:
    rows = trunk(measured.feeds, measured.has_weights)[::-1]
    units = np.array([np.prod(shape[1:]) for shape in measured.shapes])
    size = _root_mean_square(measured.gradient_mean, measured.gradient_stddev)[rows]
    size = size * np.sqrt(units)[rows]
    # A gradient of exactly 0 has its own advice.
    rows, size = rows[size > 0], size[size > 0]
    if len(rows) < 2:
        return None
    return _drift(measured, rows, size / size[0], "gradient", GRADIENT_RANGE)


def _root_mean_square(mean: Any, stddev: Any) -> np.ndarray:
    """Without the squares, of which those of 1e-200 vanish."""
    size: np.ndarray = np.hypot(np.asarray(mean, np.float64), np.asarray(stddev, np.float64))
    return size


def _drift(
    measured: Propagation, rows: np.ndarray, ratio: np.ndarray, what: str, limit: float
) -> Advice | None:
    """The advice if a size departs, along `rows`, from its value at the first row."""
    if not np.all(np.isfinite(ratio)) or np.all(ratio == 1):
        return None
    with np.errstate(divide="ignore"):
        departure = np.log(ratio)
    worst = int(np.argmax(np.abs(departure)))
    if abs(departure[worst]) < np.log(limit):
        return None
    start, name = measured.names[rows[0]], measured.names[rows[worst]]
    vanishes = departure[worst] < 0
    per_layer = float(np.exp(departure[worst] / worst))
    if not vanishes:
        change = "start from smaller weights, he_normal for ReLU and glorot_normal for tanh, or add"
    elif what == "signal":
        change = "start from larger weights, he_normal for ReLU and glorot_normal for tanh, or add"
    else:
        change = "use ReLU with he_normal in place of a function that flattens, or add"
    return Advice(
        f"{'vanishing' if vanishes else 'exploding'} {what}",
        name,
        float(ratio[worst]),
        f"The {what} at {name} is {ratio[worst]:.1e} times that at {start}, a factor of "
        f"{per_layer:.2g} a layer: {change} a norm or residual connections.",
    )


def _dead(measured: Propagation) -> Advice | None:
    # What a closed gate gives is constant until the next step.
    closed: set[int] = set()
    for row, feeds in enumerate(measured.feeds):
        if _is_closed(measured, row) or (feeds and closed.issuperset(feeds)):
            closed.add(row)
    share = np.nan_to_num(np.array(measured.dead_fraction))
    share[list(closed)] = 0
    return _widespread(
        measured,
        share,
        DEAD_FRACTION,
        "dead units",
        "of the units never change over the batch",
        "lower the learning rate, start biases at 0, or use leaky_relu",
    )


def _saturated(measured: Propagation) -> Advice | None:
    return _widespread(
        measured,
        np.nan_to_num(np.asarray(measured.saturated_fraction)),
        SATURATED_FRACTION,
        "saturated",
        "of the activations stand where their slope is almost 0",
        "scale the kernel before it down, standardise the inputs, or add a norm before it",
    )


def _on_one_key(measured: Propagation) -> Advice | None:
    if measured.on_one_key is None:
        return None
    share = np.nan_to_num(np.asarray(measured.on_one_key))
    row = int(np.argmax(share))
    if share[row] < ONE_KEY_FRACTION:
        return None
    name, others = measured.names[row], int(np.sum(share >= ONE_KEY_FRACTION)) - 1
    also = f" ({others} other attentions do so too)" if others else ""
    return Advice(
        "one-hot attention",
        name,
        float(share[row]),
        f"{share[row]:.0%} of the queries in {name} attend to one key alone{also}, with logits up "
        f"to {np.asarray(measured.largest_logit)[row]:.1e}: divide the logits by the root of the "
        "head's width, normalise queries and keys, or start their kernels smaller.",
    )


def _widespread(
    measured: Propagation, share: np.ndarray, limit: float, problem: str, what: str, change: str
) -> Advice | None:
    if not np.any(share > limit):
        return None
    row = int(np.argmax(share))
    others = int(np.sum(share > limit)) - 1
    name = measured.names[row]
    also = f" ({others} other rows are over {limit:.0%} too)" if others else ""
    return Advice(
        problem, name, float(share[row]), f"{share[row]:.0%} {what} in {name}{also}: {change}."
    )


def _updates(measured: Propagation) -> Advice | None:
    if measured.update_ratio is None:
        return None
    ratio = np.asarray(measured.update_ratio, np.float64)
    # A kernel of 0 has no ratio. If the gradient is 0, the rate is not at fault.
    known = np.isfinite(ratio) & (ratio > 0)
    if not np.any(known):
        return None
    distance = np.abs(np.log(np.where(known, ratio, USUAL_UPDATE_RATIO) / USUAL_UPDATE_RATIO))
    row = int(np.argmax(distance))
    if distance[row] < np.log(FAR_FROM_USUAL):
        return None
    small, name = ratio[row] < USUAL_UPDATE_RATIO, measured.names[row]
    times: Any = USUAL_UPDATE_RATIO / ratio[row]
    return Advice(
        "small update" if small else "large update",
        name,
        float(ratio[row]),
        f"The update of {name} is {ratio[row]:.1e} of its weights, where {USUAL_UPDATE_RATIO:g} is "
        f"usual: multiply the learning rate by about {times:.0e}.",
    )
