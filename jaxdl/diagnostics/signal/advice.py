"""What is wrong with a network, at which layer, and what to change."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdl.diagnostics.signal.attention_advice import growing_logits, one_hot
from jaxdl.diagnostics.signal.drift import gradient_drift, root_mean_square, signal_drift
from jaxdl.diagnostics.signal.findings import Advice, Findings
from jaxdl.diagnostics.signal.names import PARAMETERS
from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.diagnostics.signal.remedies import resized, revived
from jaxdl.diagnostics.signal.trunk import readers_of

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
# A layer that makes its input so much smaller was started so.
SMALL_ON_PURPOSE = 0.1
# Gradients of this size are about to leave float32, whose smallest normal number is 1.2e-38.
NEAR_UNDERFLOW = 1e-30


def advise(measured: Any, *, before: Any = None) -> Findings:
    """Say what is wrong: the worst row of each kind of problem; "healthy" if nothing is.

    The signal of a row is the root mean square of its entries. The gradient of a row is the root
    mean square, over the examples, of the norm of dL/da. It does not change if more units or image
    positions share it. Both are compared over the rows with weights. The signal leaves out the last
    row, whose size the targets decide. The limits are the constants of this module, of `drift` and
    of `attention_advice`.

    Arguments:
        measured: a `Propagation`, the measurement of one run; from a mapped one take one run,
            `jax.tree.map(lambda leaf: leaf[0], measured)`.
        before: an earlier measurement of the same run, on the same examples: at the start, or when
            all was well. With it the advice also says which attention's logits grew since, and
            tells what training did from what a start did.

    Raises:
        TypeError: what no `propagation` measured.
        ValueError: a measurement holds several runs, or is traced; one of another model before.

    Returns:
        A tuple of `Advice`, empty for a healthy network.

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
    _check_one_run("measured", measured)
    if before is not None:
        _check_one_run("before", before)
    if before is not None and before.names != measured.names:
        other = sorted({*before.names} ^ {*measured.names})
        raise ValueError(
            f"before must have the rows of the measurement, {len(measured.names)}, got "
            f"{len(before.names)}; measure one model twice ({', '.join(other[:3])} is in one alone)"
        )
    found = [
        _not_finite(measured),
        _cut_off(measured),
        signal_drift(measured),
        gradient_drift(measured),
        _dead(measured),
        _saturated(measured),
        one_hot(measured, before),
        growing_logits(measured, before),
        _updates(measured),
    ]
    return Findings(
        (advice for advice in found if advice is not None), f"{len(measured.names)} rows"
    )


def _check_one_run(name: str, measured: Any) -> None:
    if not isinstance(measured, Propagation):
        raise TypeError(
            f"{name} must be what diagnostics.propagation measured, got "
            f"{type(measured).__name__}; pass diagnostics.propagation(model, variables, batch, ...)"
        )
    if isinstance(measured.mean, jax.core.Tracer) or np.ndim(measured.mean) != 1:
        raise ValueError(
            "advise must be given one run's concrete numbers, got a measurement of shape "
            f"{np.shape(measured.mean)}; take one, jax.tree.map(lambda leaf: leaf[0], measured), "
            "outside of jit"
        )


def _not_finite(measured: Propagation) -> Advice | None:
    values = np.asarray(measured.nonfinite_fraction)
    gradients = np.asarray(measured.gradient_nonfinite_fraction)
    if np.any(values > 0):
        row, share, what = int(np.argmax(values > 0)), values, "activations"
        change = "start from smaller weights, lower the learning rate or add a norm before it"
        if measured.has_weights[row] and not np.isfinite(measured.weight_norm[row]):
            change = "its weights are, too: go back to a state before, with a lower learning rate"
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
    nothing, sick = _without_gradient(measured)
    readers = readers_of(measured.feeds)
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
            cause = _of_dead(measured, reader)
        else:
            cause = f"{after} passes none back: look for a stop_gradient or a flat function there"
    return Advice(
        "cut off", name, 1.0, f"The gradient is exactly 0 in {name} and before it; {cause}."
    )


def _of_dead(measured: Propagation, row: int) -> str:
    """Why a row is constant: the rows before it that are."""
    closed = _closed(measured)
    before = [row]
    for each in before:
        before += [feed for feed in measured.feeds[each] if 0 <= feed < each and feed not in before]
    if row in closed:
        zeros = [measured.names[each] for each in before if measured.weight_norm[each] == 0]
        return f"the weights of {' and '.join(sorted(zeros))} are 0: start one from random weights"
    # Rows after a dead row are constant too: the first one is the cause.
    dead = [each for each in before if measured.dead_fraction[each] == 1 and each not in closed]
    name = measured.names[min(dead)]
    return f"every unit of {name} is dead: raise its biases or lower the learning rate"


def _closed(measured: Propagation) -> set[int]:
    """The rows that are constant because parameters are 0: gates, until a step opens them."""
    closed: set[int] = set()
    for row, feeds in enumerate(measured.feeds):
        if measured.weight_norm[row] == 0 or (feeds and closed.issuperset(feeds)):
            closed.add(row)
    return closed


def _without_gradient(measured: Propagation) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose gradient is exactly 0, and those of them that will get none either."""
    nothing = np.asarray(measured.gradient_zero_fraction) == 1
    readers = readers_of(measured.feeds)
    # A loss may leave an output out, unless it reads none.
    is_unread = all(nothing[end] for end, read in enumerate(readers) if not read)
    # From the loss back: a gradient of 0 is no fault where the next step lets one through.
    sick = np.zeros(len(nothing), bool)
    for row in reversed(np.flatnonzero(nothing).tolist()):
        sick[row] = (readers[row] or is_unread) and all(
            sick[reader] if nothing[reader] else not _opens(measured, row, reader)
            for reader in readers[row]
        )
    return nothing, sick


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


def _dead(measured: Propagation) -> Advice | None:
    share = np.nan_to_num(np.array(measured.dead_fraction))
    share[list(_closed(measured))] = 0
    return _widespread(
        measured,
        share,
        DEAD_FRACTION,
        "dead units",
        "of the units never change over the batch",
        revived,
    )


def _saturated(measured: Propagation) -> Advice | None:
    share = np.nan_to_num(np.asarray(measured.saturated_fraction))
    # A norm without parameters divides by the size of its inputs, and that is its slope.
    share = np.where(["Norm" in kind for kind in measured.kinds], 0, share)
    return _widespread(
        measured,
        share,
        SATURATED_FRACTION,
        "saturated",
        "of the activations stand where their slope is almost 0",
        lambda *_: (
            "scale the kernel before it down, standardise the inputs, or add a norm before it"
        ),
    )


def _widespread(
    measured: Propagation,
    share: np.ndarray,
    limit: float,
    problem: str,
    what: str,
    change: Callable[[Propagation, int], str],
) -> Advice | None:
    if not np.any(share > limit):
        return None
    row = int(np.argmax(share))
    others = int(np.sum(share > limit)) - 1
    name = measured.names[row]
    also = f" ({others} other rows are over {limit:.0%} too)" if others else ""
    return Advice(
        problem,
        name,
        float(share[row]),
        f"{share[row]:.0%} {what} in {name}{also}: {change(measured, row)}.",
    )


def _updates(measured: Propagation) -> Advice | None:
    if measured.update_ratio is None:
        return None
    ratio = np.asarray(measured.update_ratio, np.float64)
    # A kernel of 0 has no ratio. If the gradient is 0, the rate is not at fault.
    known = np.isfinite(ratio) & (ratio > 0)
    distance = np.abs(np.log(np.where(known, ratio, USUAL_UPDATE_RATIO) / USUAL_UPDATE_RATIO))
    others = distance[known]
    distance = np.where((ratio > USUAL_UPDATE_RATIO) & _small_on_purpose(measured), 0, distance)
    row = int(np.argmax(distance))
    if distance[row] < np.log(FAR_FROM_USUAL):
        return None
    small, name = bool(ratio[row] < USUAL_UPDATE_RATIO), measured.names[row]
    times: Any = USUAL_UPDATE_RATIO / ratio[row]
    if np.median(others) > distance[row] / 2:
        change = f"multiply the learning rate by about {times:.0e}"
    else:
        change = resized(measured, row, "smaller" if small else "larger")
        change = f"that of most others is usual, so {change}"
    return Advice(
        "small update" if small else "large update",
        name,
        float(ratio[row]),
        f"The update of {name} is {ratio[row]:.1e} of its weights, where {USUAL_UPDATE_RATIO:g} is "
        f"usual: {change}.",
    )


def _small_on_purpose(measured: Propagation) -> np.ndarray:
    """Rows whose weights may start near 0: what a container holds, or the head of a policy."""
    sizes = root_mean_square(measured.mean, measured.stddev)
    largest = [
        max((sizes[feed] for feed in feeds if feed >= 0), default=0.0) for feeds in measured.feeds
    ]
    held = [kind == PARAMETERS for kind in measured.kinds]
    small: np.ndarray = np.array(held) | (sizes < SMALL_ON_PURPOSE * np.array(largest))
    return small
