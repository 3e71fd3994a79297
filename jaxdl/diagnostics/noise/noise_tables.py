"""Measurements of gradient noise as tables for a terminal."""

from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from jaxdl.showing import counted, html_of, known, number

HIDDEN = "The gradient does not stand out from its noise in"
NONE, NOT_FINITE, TOO_FEW = "none", "not finite", "too few examples"


def noise_table(measured: Any) -> Table:
    """One line for each group of a `GradientNoise`; a mapped measurement shows its runs' mean.

    The noise scale of the mean is the ratio of the means.
    """
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("parameters", overflow="fold", min_width=10)
    heads = (
        "gradient's\nnorm", "square,\nunbiased", "trace of\ncovariance", "noise\nscale",
        "95 %\ninterval", "mean\ncosine",
    )  # fmt: skip
    for head in heads:
        table.add_column(f" {head}".replace("\n", "\n "), justify="right", no_wrap=True)
    names = ("gradient_norm", "squared_gradient", "covariance_trace")
    columns = [_by_group(getattr(measured, name)) for name in names]
    cosines = np.asarray(measured.alignment, np.float64)
    cosines = _by_group(np.average(cosines, axis=-1, weights=_shares(measured, cosines)))
    states = noise_scales(measured)
    shown = [each if isinstance(each, str) else _examples(each) for each in states]
    one = np.ndim(measured.noise_scale) == 1
    low, high = (np.asarray(end, np.float64) for end in (measured.low, measured.high))
    for index, name in enumerate(measured.names):
        table.add_row(
            name,
            *(f"{column[index]:.3g}" for column in columns),
            shown[index],
            f"{_examples(low[index])} to {_examples(high[index])}" if one else "",
            f"{cosines[index]:.2f}",
        )
    table.caption = "Noise scale and interval are in examples."
    for state, said in ((NONE, HIDDEN), (NOT_FINITE, "A gradient is not finite in")):
        if hidden := [n for n, each in zip(measured.names, states, strict=True) if each == state]:
            table.caption += f"\n{said} {', '.join(hidden)}."
    return table


def noise_scales(measured: Any) -> list[float | str]:
    """The noise scale of each group of a `GradientNoise`, or the word for why there is none.

    The noise scale of a mapped measurement is the ratio of the means.
    """
    names = ("squared_gradient", "covariance_trace", "gradient_norm")
    squares, traces, lengths = (_by_group(getattr(measured, name)) for name in names)
    scales = np.divide(traces, squares, out=np.full_like(traces, np.nan), where=squares > 0)
    if np.ndim(measured.noise_scale) == 1:  # of squares that float32 does not hold, too
        scales = np.asarray(measured.noise_scale, np.float64)
    return [
        float(scale) if np.isfinite(scale)
        else NOT_FINITE if not np.isfinite(length)
        else TOO_FEW if np.isnan(trace)
        else NONE
        for scale, trace, length in zip(scales, traces, lengths, strict=True)
    ]  # fmt: skip


def noise_line(measured: Any) -> str:
    """The repr of a `GradientNoise`."""
    groups = counted(len(measured.names), "group")
    squares, traces = known(measured.squared_gradient), known(measured.covariance_trace)
    if squares is None or traces is None or not squares.ndim or not squares.size:
        return f"GradientNoise({groups})"
    shown = [
        f"{name} {scale if isinstance(scale, str) else number(scale)}"
        for name, scale in zip(measured.names, noise_scales(measured), strict=True)
    ]
    text = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if shown[3:] else "")
    return f"GradientNoise({groups}: noise scale in examples: {text})"


def noise_html(measured: Any) -> str | None:
    """The table of a `GradientNoise` for a notebook; None if traced."""
    if known(measured.norms) is None:
        return None
    return html_of(noise_line(measured), noise_table(measured))


def ratio_table(measured: Any) -> Table:
    """One line for each group of a `SignalToNoise`."""
    from jaxdl.diagnostics.noise.signal_to_noise import FEWEST

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("parameters", overflow="fold", min_width=10)
    columns = {
        "count": np.asarray(measured.parameters),
        "median": measured.median,
        "root mean\nsquare": np.sqrt(np.maximum(_by_group(measured.mean_square), 0)),
        "seen at\n95 %": measured.seen,
        "without\ngradient": measured.without_gradient,
    }
    for name in columns:
        table.add_column(f" {name}".replace("\n", "\n "), justify="right", no_wrap=True)
    shares = {"seen at\n95 %", "without\ngradient"}
    for index, name in enumerate(measured.names):
        cells = [
            f"{values[index]:,}" if head == "count"
            else f"{_by_group(values)[index]:.0%}" if head in shares
            else f"{_by_group(values)[index]:.3g}"
            for head, values in columns.items()
        ]  # fmt: skip
        table.add_row(name, *cells)
    states = _ratios(measured)
    for state, said in (
        (NOT_FINITE, "A gradient is not finite in"),
        (TOO_FEW, f"A ratio needs {FEWEST} examples with weight:"),
    ):
        if hidden := [n for n, each in zip(measured.names, states, strict=True) if each == state]:
            table.caption = f"{said} {', '.join(hidden)}."
    return table


def _ratios(measured: Any) -> list[str]:
    """The median of each group of a `SignalToNoise`, or the word for why there is none."""
    medians, without = _by_group(measured.median), _by_group(measured.without_gradient)
    return [
        number(median) if not np.isnan(median) else NOT_FINITE if np.isnan(share) else TOO_FEW
        for median, share in zip(medians, without, strict=True)
    ]


def ratio_line(measured: Any) -> str:
    """The repr of a `SignalToNoise`."""
    groups = counted(len(measured.names), "group")
    median = known(measured.median)
    if median is None or not median.ndim or not median.size:
        return f"SignalToNoise({groups})"
    shown = [f"{n} {ratio}" for n, ratio in zip(measured.names, _ratios(measured), strict=True)]
    text = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if shown[3:] else "")
    return f"SignalToNoise({groups}: median |mean| / s.d.: {text})"


def ratio_html(measured: Any) -> str | None:
    """The table of a `SignalToNoise` for a notebook; None if traced."""
    if known(measured.median) is None:
        return None
    return html_of(ratio_line(measured), ratio_table(measured))


def _examples(count: float) -> str:
    """Two digits, or whole ones."""
    return f"{count:,.0f}" if 100 <= count < np.inf else f"{count:.2g}"


def _by_group(column: Any) -> np.ndarray:
    """The mean over the axes of a vmap."""
    values = np.asarray(column, np.float64)
    means: np.ndarray = values.reshape(-1, values.shape[-1]).mean(axis=0)
    return means


def _shares(measured: Any, cosines: np.ndarray) -> np.ndarray:
    weights = np.asarray(measured.weights, np.float64)[..., None, :]
    wide = np.broadcast_to(weights, cosines.shape)
    return np.where(wide.sum(-1, keepdims=True) > 0, wide, 1)
