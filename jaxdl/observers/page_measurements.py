"""What a page shows beside the history: signal and gradient, distributions, the rate, clipping."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.drift import root_mean_square
from jaxdl.diagnostics.signal.propagation import Propagation, propagation
from jaxdl.diagnostics.signal.recording import record
from jaxdl.files import partial_folder
from jaxdl.observers.lines import read_lines
from jaxdl.observers.probe import host_variables, on_host
from jaxdl.optimizers.learning_rate import current_learning_rate, nodes
from jaxdl.optimizers.recorded_updates import RecordedState
from jaxdl.tracing.sites import ATTENTION
from jaxdl.training.fit.observing import Event

# A prime, so that entries at equal distances are not all of one unit.
ENTRIES = 9973
QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)
CLIPPED = "clipped"

Entries = Mapping[str, np.ndarray]


class Look(NamedTuple):
    """One look into a network.

    Attributes:
        epoch: after which it was.
        propagation: signal and gradient.
        activations, weights: by row and by parameter, at most `ENTRIES` entries of each.
    """

    epoch: int
    propagation: Propagation
    activations: Entries
    weights: Entries


def look(event: Event, batch: Mapping[str, Any], updates: bool) -> Look:
    """Measure on these examples, by one compiled program. The run's state stays as it is."""
    setup = event.setup
    measure = jit_with(_measure, (setup.task, setup.optimizer if updates else None))
    measured, activations, weights = jax.device_get(
        measure(
            host_variables(event),
            dict(batch),
            on_host(event.state.opt_state) if updates else None,
            jax.random.key(event.step),
        )
    )
    # A compiled function sorts names; the rows are in the order of execution.
    ordered = {name: activations[name] for name in measured.names}
    return Look(event.epoch, measured, ordered, weights)


def _measure(
    settings: tuple[Any, ...], variables: Any, batch: Any, opt_state: Any, key: Any
) -> tuple[Propagation, Any, Any]:
    task, optimizer = settings
    measured = propagation(
        task, variables, batch, optimizer=optimizer, opt_state=opt_state, key=key
    )
    # The compiler computes what both share once.
    recorded = record(task, variables, batch, train=True, key=key)
    activations = {row.name: _sample(recorded.values[row.site][row.layer]) for row in recorded.rows}
    weights = {
        "/".join(str(getattr(part, "key", part)) for part in path): _sample(leaf)
        for path, leaf in jax.tree.leaves_with_path(variables["params"])
        if jnp.ndim(leaf) > 1
    }
    return measured, activations, weights


def _sample(values: Any) -> Any:
    """At most `ENTRIES` entries, at equal distances; of complex ones the moduli."""
    entries = jnp.ravel(values)
    if entries.size > ENTRIES:
        entries = entries[np.arange(ENTRIES) * entries.size // ENTRIES]
    if jnp.iscomplexobj(entries):
        entries = jnp.abs(entries)
    return entries.astype(jnp.float32)


def signal_sizes(measured: Propagation) -> tuple[dict[str, float], dict[str, float]]:
    """By row with weights: the root mean square of its entries, and the gradient's size.

    As `diagnostics.advise` has them: the gradient of a row is the root mean square, over the
    examples, of the norm of the loss's gradient with respect to it.
    """
    units = np.array([np.prod(shape[1:]) for shape in measured.shapes])
    forward = root_mean_square(measured.mean, measured.stddev)
    back = root_mean_square(measured.gradient_mean, measured.gradient_stddev) * np.sqrt(units)
    rows = [row for row, has in enumerate(measured.has_weights) if has]
    return (
        {measured.names[row]: float(forward[row]) for row in rows},
        {measured.names[row]: float(back[row]) for row in rows},
    )


ATTENTION_FIELDS = ("largest_logit", "normalized_entropy", "on_one_key")


def attention_sizes(measured: Propagation) -> dict[str, dict[str, float]]:
    """By field and row, what `diagnostics.attention` says of each attention; {} without any."""
    rows = [row for row, kind in enumerate(measured.kinds) if kind == ATTENTION]
    return {
        field: {measured.names[row]: float(getattr(measured, field)[row]) for row in rows}
        for field in ATTENTION_FIELDS
        if rows
    }


def line_of(event: Event, seen: Look | None) -> dict[str, Any]:
    """What is kept of an epoch, as JSON: null for what is not finite."""
    line: dict[str, Any] = {
        "step": event.step,
        "rate": _finite(learning_rate(event.state.opt_state)),
    }
    if seen is not None:
        forward, back = signal_sizes(seen.propagation)
        line["signal"] = {name: _finite(size) for name, size in forward.items()}
        line["gradient"] = {name: _finite(size) for name, size in back.items()}
        for kind, by_row in attention_sizes(seen.propagation).items():
            line[kind] = {name: _finite(value) for name, value in by_row.items()}
        for kind in ("activations", "weights"):
            line[kind] = {name: _quantiles(each) for name, each in getattr(seen, kind).items()}
    return line


def learning_rate(opt_state: Any) -> float:
    """The rate of the next update; NaN if the state shows none, or several."""
    try:
        return float(current_learning_rate(opt_state))
    except (ValueError, TypeError):
        return math.nan


def clipped_steps(opt_state: Any) -> np.ndarray | None:
    """By update so far, the share that clipping changed, of a `recorded` that keeps "clipped".

    None if the state holds no such record. A record is shorter than a run that has more steps.
    """
    for node in nodes(opt_state, lambda node: isinstance(node, RecordedState) or None):
        if isinstance(node, RecordedState) and isinstance(node.values, Mapping):
            kept = node.values.get(CLIPPED)
            if kept is not None and np.ndim(kept) == 1:
                return np.asarray(kept)[: int(node.step)]
    return None


def _quantiles(entries: np.ndarray) -> list[float] | None:
    finite = entries[np.isfinite(entries)].astype(np.float64)
    return np.quantile(finite, QUANTILES).tolist() if finite.size else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Kept:
    """The lines of a run so far, in memory and in a file from which a later process goes on.

    Arguments:
        path: the file. Lines of steps that the run has not made are dropped from it: they are those
            of an earlier run, or of one that was killed after its last checkpoint.
        begun: the step at which the history begins.
        step: the step at which this process begins.
    """

    def __init__(self, path: Path, begun: int, step: int) -> None:
        self._path, self.begun = path, begun
        found = read_lines(path) if path.exists() else []
        self.lines = [line for line in found if begun < line["step"] <= step]
        self._unwritten: list[dict[str, Any]] = []
        with partial_folder(path.parent) as partial:
            (partial / path.name).write_text(_text(self.lines), encoding="utf-8")
            os.replace(partial / path.name, path)

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line in memory."""
        self.lines.append(line)
        self._unwritten.append(line)

    def write(self) -> None:
        """Write the lines that are not in the file."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(self._unwritten))
        self._unwritten = []


def _text(lines: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
