"""The sharpness, and how near it is to the edge of stability, every few epochs of a run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxdl.checks import Count, require_at_least, require_choice
from jaxdl.diagnostics.curvature.sharpness import Sharpness, sharpness
from jaxdl.factories import factory
from jaxdl.files import as_path, partial_folder, publish
from jaxdl.observers.probe import check_measurement, host_variables, make_probe
from jaxdl.optimizers.learning_rate import current_learning_rate
from jaxdl.showing import number
from jaxdl.training.fit.observing import Event, Observer, Setup


class Stability(NamedTuple):
    r"""Where a run stands to the edge of stability.

    Attributes:
        sharpness: the largest eigenvalue of the Hessian, and how exact it is.
        rate: eta, the learning rate of the next update.
    """

    sharpness: Sharpness
    rate: float

    @property
    def edge(self) -> float:
        r"""lambda_max eta / 2. Plain gradient descent on a quadratic is stable below 1.

        The greatest stable value is $1 + \beta$ with heavy-ball momentum beta, and
        $(1 + \beta) / (1 + 2\beta)$ with Nesterov's, if the rate multiplies the velocity.
        """
        return float(np.max(self.sharpness.largest)) * self.rate / 2

    def __repr__(self) -> str:
        return f"Stability(edge {number(self.edge)}, rate {number(self.rate)}, {self.sharpness!r})"


Report = Callable[[Event, Stability], None]


@factory
def sharpness_every(
    epochs: Count,
    report: Report | str | os.PathLike[str],
    *,
    examples: Count = 1000,
    batch: Mapping[str, Any] | None = None,
    batch_size: Count | None = None,
    matrix: Literal["hessian", "gauss_newton"] = "hessian",
    rate: float | None = None,
) -> Observer:
    r"""Measure `diagnostics.sharpness` every few epochs, and after the last one.

    $$\frac{\lambda_{\max} \eta}{2}$$

    is `edge`: full-batch gradient descent with rate eta on a quadratic diverges above 1. A network
    trained so sharpens until it is there, and then stays near. With heavy-ball momentum beta the
    threshold is lambda_max = 2 (1 + beta) / eta, so `edge` reaches 1 + beta. An adaptive optimizer
    sees other curvature, divided by its own denominators, and small batches keep the sharpness
    below.

    The examples are the same each time, so only the network changes. Only the first process
    measures.

    Arguments:
        epochs: epochs between two measurements, at least 1.
        report: a function of the event and the `Stability`. Or a folder for a file
            `sharpness_<step>.npz` each time: the fields of `Sharpness`, `rate` and `edge`.
        examples: how many of the first training examples to use. The edge is that of the full
            batch: use all of them if you can.
        batch: {"inputs": ..., "targets": ...} to use instead of them.
        batch_size: examples in memory at a time, as in `diagnostics.sharpness`.
        matrix: "hessian" or "gauss_newton".
        rate: eta, for an optimizer whose state does not show it; those of `jaxdl` do.

    Raises:
        ValueError: fewer than 1 epoch or example; from `fit`, before its first step, no rate is
            given or shown.

    Example:
        >>> from jaxdl import data, losses, models, optimizers, training
        >>> kept = []
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> result = training.fit(
        ...     models.MLP([1]), (x, 2 * x), optimizers.sgd(0.1), epochs=4, batch_size=64,
        ...     loss=losses.mean_squared_error, key=jax.random.key(0),
        ...     observers=[sharpness_every(2, lambda event, measured: kept.append(measured.edge))])
        >>> [round(edge, 3) for edge in kept]  # the bias decides: lambda is 2
        [0.1, 0.1]

    Source: Cohen et al. (2021), sections 2 and 3, and appendix B for momentum.
    """
    require_at_least(1, epochs=epochs, examples=examples, batch_size=batch_size)
    require_choice("matrix", matrix, ("hessian", "gauss_newton"))
    probe = make_probe(batch, examples)
    tell = report if callable(report) else _writer(as_path(report))

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        due = event.epoch % epochs == 0 or event.epoch == event.epochs
        if event.epoch_ended and due and jax.process_index() == 0:
            found = measure(event.setup, host_variables(event), event.step)
            now = current_learning_rate(event.state.opt_state) if rate is None else rate
            tell(event, Stability(found, float(now)))
        return memory, None

    def measure(setup: Setup, variables: Any, step: int) -> Sharpness:
        return sharpness(
            setup.task,
            variables,
            probe(setup),
            matrix=matrix,
            batch_size=batch_size,
            key=jax.random.key(step),
        )

    def check(setup: Setup) -> None:
        def both(variables: Any) -> Any:
            if rate is None:
                current_learning_rate(setup.optimizer.init(variables["params"]))
            return measure(setup, variables, 0)

        check_measurement(setup, both)

    return Observer(observe, check=check)


def _writer(folder: Path) -> Report:
    def write(event: Event, measured: Stability) -> None:
        found = measured.sharpness
        arrays: dict[str, Any] = {
            name: np.asarray(getattr(found, name))
            for name in ("eigenvalues", "residuals", "converged", "products", "overlap")
        }
        name = f"sharpness_{event.step:09d}.npz"
        with partial_folder(folder) as partial:
            np.savez(partial / name, **arrays, rate=measured.rate, edge=measured.edge)
            publish(partial / name, folder / name)

    return write
