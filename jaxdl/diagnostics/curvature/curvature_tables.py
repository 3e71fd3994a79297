"""Measurements of curvature as tables and lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxdl.showing import counted, html_of, known, number


def sharpness_table(measured: Any) -> Table:
    """A line for each group and eigenvalue of a `Sharpness`; the mean of mapped ones."""
    values, residuals = (_by_group(each, 2) for each in (measured.eigenvalues, measured.residuals))
    rows: list[Sequence[str]] = []
    for group, name in enumerate(measured.names):
        for place in range(values.shape[1]):
            rows.append(
                (
                    name if place == 0 else "",
                    f"{measured.sizes[group]:,}" if place == 0 else "",
                    number(values[group, place]),
                    f"{residuals[group, place]:.1g}",
                )
            )
    return _table(("parameters of", "number", "eigenvalue", "residual"), rows)


def spectrum_table(measured: Any) -> Table:
    """A line for each group of a `CurvatureSpectrum`."""
    low, high = measured.ends()
    mean, error = measured.moments([1])
    rows = [
        (
            name,
            f"{measured.sizes[group]:,}",
            number(low[group]),
            number(high[group]),
            f"{mean[group, 0]:.3g} ± {error[group, 0]:.1g}",
        )
        for group, name in enumerate(measured.names)
    ]
    return _table(("parameters of", "number", "smallest", "largest", "mean"), rows)


def trace_table(measured: Any) -> Table:
    """A line for each group of a `HessianTrace`; the mean of mapped ones."""
    trace = _by_group(measured.trace, 1)
    error = _by_group(measured.standard_error, 1)
    rows = [
        (
            name,
            f"{measured.sizes[group]:,}",
            number(trace[group]),
            f"{error[group]:.1g}",
            number(trace[group] / measured.sizes[group]),
        )
        for group, name in enumerate(measured.names)
    ]
    return _table(("parameters of", "number", "trace", "standard\nerror", "mean\neigenvalue"), rows)


def sharpness_line(measured: Any) -> str:
    """The repr of a `Sharpness`: the largest eigenvalue, or the groups' greatest."""
    values = known(measured.eigenvalues)
    if values is None or not values.size:
        return f"Sharpness({counted(len(measured.names), 'group')})"
    runs = f", mean of {counted(values[..., 0, 0].size, 'run')}" if values.ndim > 2 else ""
    largest = _by_group(values, 2)[:, 0]
    group = int(np.argmax(largest))
    residual = _by_group(measured.residuals, 2)[group, 0]
    left = "" if np.all(np.asarray(measured.converged)) else ", not converged"
    return (
        f"Sharpness({number(largest[group])} of {measured.names[group]}, residual {residual:.1g}"
        f"{left}{runs})"
    )


def spectrum_line(measured: Any) -> str:
    """The repr of a `CurvatureSpectrum`: from the smallest to the largest node."""
    nodes = known(measured.nodes)
    groups = counted(len(measured.names), "group")
    if nodes is None or nodes.ndim != 3:
        return f"CurvatureSpectrum({groups})"
    low, high = measured.ends()
    probes = counted(nodes.shape[1], "probe")
    is_finite = np.isfinite(low.min()) and np.isfinite(high.max())
    shown = f"{number(low.min())} to {number(high.max())}" if is_finite else "not finite"
    return f"CurvatureSpectrum({groups}, {probes}: {shown})"


def trace_line(measured: Any) -> str:
    """The repr of a `HessianTrace`: the trace, or the sum of the groups'."""
    estimates = known(measured.estimates)
    if estimates is None or estimates.ndim != 2:
        return f"HessianTrace({counted(len(measured.names), 'group')})"
    shown = [
        f"{name} {number(trace)} ± {error:.1g}"
        for name, trace, error in zip(
            measured.names, measured.trace, measured.standard_error, strict=True
        )
    ]
    left = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"HessianTrace({', '.join(shown[:3])}{left})"


def html_or_none(measured: Any, values: Any) -> str | None:
    """The table for a notebook; None of what is traced, or mapped where no table is."""
    if known(values) is None:
        return None
    try:
        return html_of(repr(measured), measured.table())
    except ValueError:
        return None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column(head[0], overflow="fold", min_width=10)
    for name in head[1:]:
        table.add_column(f" {name}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _by_group(values: Any, axes: int) -> np.ndarray:
    """The mean over the axes of a `vmap`, which come first."""
    array = np.asarray(values, np.float64)
    made: np.ndarray = array.reshape(-1, *array.shape[array.ndim - axes :]).mean(0)
    return made
