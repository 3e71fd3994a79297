"""Measurements as tables for a terminal."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdl.showing import counted, ends, html_of, known, named, number


def propagation_table(measured: Any) -> Table:
    """One line for each row of a `Propagation`; a mapped measurement shows the mean over its runs.

    "exact zeros" are those of the gradient. A value that is not finite shows as nan or inf. The
    table fits 80 columns.
    """
    shares = {"dead", "satu-\nrated", "exact\nzeros"}
    of_weights = {
        "weight\nnorm": measured.weight_norm,
        "weight\ngradient": measured.weight_gradient_norm,
    }
    if measured.update_ratio is not None:
        of_weights["update/\nweight"] = measured.update_ratio
    columns = {
        "mean": measured.mean,
        "variance": measured.variance,
        "dead": measured.dead_fraction,
        "satu-\nrated": measured.saturated_fraction,
        "gradient\nvariance": measured.gradient_variance,
        "exact\nzeros": measured.gradient_zero_fraction,
        **of_weights,
    }
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("row", overflow="fold", min_width=10)
    for name in columns:
        # A narrow terminal may fold names. A number without its exponent would be wrong.
        table.add_column(name, justify="right", no_wrap=True)
    cells = {name: _per_row(column) for name, column in columns.items()}
    for index, row in enumerate(measured.names):
        shown = [
            ""
            if name in of_weights and not measured.has_weights[index]
            else _cell(cells[name][index], name in shares)
            for name in columns
        ]
        table.add_row(row, *shown)
    if measured.hidden:
        table.caption = f"without rows: {', '.join(measured.hidden)}"
    return table


def propagation_line(measured: Any) -> str:
    """The repr of a `Propagation`: the signal from the first row to the last, and the gradient."""
    rows = counted(len(measured.names), "row")
    values = (measured.loss, measured.stddev, measured.gradient_stddev)
    loss, signal, gradient = map(known, values)
    # A tree's structure may hold anything in the place of its arrays.
    if loss is None or signal is None or gradient is None or not signal.ndim or not signal.size:
        return f"Propagation({rows})"
    runs = f", mean of {loss.size:,} runs" if loss.ndim else ""
    texts = {
        "loss": number(loss.mean()),
        "s.d.": ends(_per_row(signal)),
        "gradient's s.d.": ends(_per_row(gradient)),
    }
    return f"Propagation({rows}{runs}: {named(texts)})"


def propagation_html(measured: Any) -> str | None:
    """The table of a `Propagation` for a notebook, and that of its attentions; None if traced."""
    if known(measured.stddev) is None:
        return None
    page = html_of(propagation_line(measured), measured.table())
    attentions = attention_table(measured) if measured.entropy is not None else None
    return page + (html_of("Attentions", attentions) if attentions and attentions.rows else "")


def attention_table(measured: Any) -> Table:
    """One line for each attention of a `Propagation`: its logits, its weights, its keys."""
    keys = [shape[-1] if shape else 1 for shape in measured.shapes]
    if measured.entropy is None:
        return _attention_table(measured, keys, [])
    # Other rows are NaN, but so is an attention that diverged.
    known_ones = np.isfinite(_per_row(measured.entropy))
    known_ones |= np.array(measured.kinds) == "attention"
    return _attention_table(measured, keys, np.flatnonzero(known_ones).tolist())


def attentions_table(measured: Any) -> Table:
    """The same of an `Attention`."""
    return _attention_table(measured, measured.keys, range(len(measured.keys)))


def _attention_table(measured: Any, keys: Any, rows: Iterable[int]) -> Table:
    columns = {
        "largest\nlogit": measured.largest_logit,
        "entropy\n(nats)": measured.entropy,
        "log of\nkeys": np.log(keys),
        "least\nentropy": measured.least_entropy,
        "entropy\nover log": measured.normalized_entropy,
        "on one\nkey": measured.on_one_key,
    }
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("attention", overflow="fold", min_width=10)
    shown = {name: column for name, column in columns.items() if column is not None}
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    cells = {name: _per_row(column) for name, column in shown.items()}
    shares = {"entropy\nover log", "on one\nkey"}
    for index in rows:
        row = [_cell(cells[name][index], name in shares) for name in shown]
        table.add_row(measured.names[index], *row)
    return table


def attentions_line(measured: Any) -> str:
    """The repr of an `Attention`: the largest logit and the least spread of all."""
    rows = counted(len(measured.names), "attention")
    logit, spread, one = map(
        known, (measured.largest_logit, measured.normalized_entropy, measured.on_one_key)
    )
    if logit is None or spread is None or one is None or not logit.ndim or not logit.size:
        return f"Attention({rows})"
    runs = f", mean of {logit[..., 0].size:,} runs" if logit.ndim > 1 else ""
    texts = {
        "largest logit": number(_per_row(logit).max()),
        "entropy over log of keys": f"{_per_row(spread).min():.0%} or more",
        "on one key": f"{_per_row(one).max():.0%} or less",
    }
    return f"Attention({rows}{runs}: {named(texts)})"


def attentions_html(measured: Any) -> str | None:
    """The table of an `Attention` for a notebook; None if traced."""
    if known(measured.largest_logit) is None:
        return None
    return html_of(attentions_line(measured), attentions_table(measured))


def _per_row(column: Any) -> np.ndarray:
    values = np.asarray(column, np.float64)
    with np.errstate(invalid="ignore"):  # of infinities
        means: np.ndarray = values.reshape(-1, values.shape[-1]).mean(axis=0)
    return means


def _cell(value: float, is_share: bool) -> str:
    if is_share:
        return "" if np.isnan(value) else f"{value:.0%}"
    return "0" if value == 0 else f"{value:.2g}"


def summary_table(sizes: Any) -> Table:
    """One line for each layer of a `Summary`, and the totals."""
    table = Table(show_footer=True, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    held_elsewhere = sizes.total_parameters - sum(sizes.parameters)
    table.add_column("layer", footer="total", overflow="fold")
    for name in ("type", "output\nshape"):
        table.add_column(name, overflow="fold")
    totals = {
        "parameters": f"{sizes.total_parameters:,}",
        "forward\nFLOPs": _operations(sizes.total_flops.forward),
        "backward\nFLOPs": _operations(sizes.total_flops.backward),
        "output\n(MB)": _megabytes(sizes.total_activation_bytes),
    }
    for name, total in totals.items():
        table.add_column(name, footer=total, justify="right", no_wrap=True)
    for index, name in enumerate(sizes.names):
        table.add_row(
            name,
            sizes.kinds[index],
            "x".join(map(str, sizes.shapes[index])),
            f"{sizes.parameters[index]:,}" if sizes.parameters[index] else "",
            *(_operations(count) if count else "" for count in sizes.flops[index]),
            _megabytes(sizes.activation_bytes[index]),
        )
    if held_elsewhere:
        table.add_row("not used", "", "", f"{held_elsewhere:,}", "", "", "")
    of_sizes = {
        "input size": sizes.input_bytes,
        "forward/backward pass size": sizes.pass_bytes,
        "params size": sizes.parameter_bytes + sizes.state_bytes,
        "estimated total size": sizes.total_bytes,
    }
    lines = [
        f"total params: {sizes.total_parameters + sizes.state_numbers:,}",
        f"trainable params: {sizes.total_parameters:,}",
        f"non-trainable params: {sizes.state_numbers:,}",
        *(f"{name} (MB): {_megabytes(size)}" for name, size in of_sizes.items()),
        "1 MB is 10^6 bytes of the arrays' own dtypes.",
        *([f"without rows: {', '.join(sizes.hidden)}"] if sizes.hidden else []),
    ]
    table.caption = Text("\n".join(lines), style="not italic")
    table.caption_justify = "left"
    return table


def summary_line(sizes: Any) -> str:
    """The repr of a `Summary`."""
    forward = _operations(sizes.total_flops.forward)
    size = _megabytes(sizes.total_bytes)
    return (
        f"Summary({counted(len(sizes.names), 'row')}: "
        f"{counted(sizes.total_parameters, 'parameter')}, {forward} FLOPs forward, {size} MB)"
    )


def as_text(table: Table) -> str:
    """The table as `print` shows it, in at most 100 columns."""
    text = io.StringIO()
    Console(file=text, width=100, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _operations(count: int) -> str:
    """Three digits and a decimal prefix."""
    size: int | float = count
    for prefix in ("", "k", "M", "G", "T"):
        if size < 1000:
            return f"{size:.3g} {prefix}".rstrip()
        size /= 1000
    return f"{size:.3g} P"


def _megabytes(size: int) -> str:
    """Two decimals; below 1 MB two digits."""
    millions = size / 1e6
    if millions >= 1:
        return f"{millions:,.2f}"
    return np.format_float_positional(millions, precision=2, fractional=False, trim="-")
