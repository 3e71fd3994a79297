"""The HTML of a run's page: what is known of the run, as figures and tables."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdl.diagnostics.signal.advice import advise
from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.observers.page_measurements import Look, attention_sizes, signal_sizes
from jaxdl.observers.svg_panels import COLOURS, Fan, Line, fan_panel, panel
from jaxdl.showing import counted, html_table, loss_first, number
from jaxdl.training.fit.history import History

MOST_LAYERS = COLOURS
"""Layers with a curve over time, or with a panel of their own; of more some are chosen."""
MOST_FANS = 12
MOST_NAMED = 8
MOST_ROWS = 30
"""Epochs in the table of numbers, the last ones."""


@dataclass(frozen=True)
class Told:
    """What a page tells.

    Attributes:
        history: of the run so far.
        per_epoch: steps of a whole epoch.
        steps_done: steps of the history that belong to finished epochs.
        rates: examples a second, by epoch.
        lines: what was kept of epochs, with the number of each.
        seen: the newest look into the network; None if there is none.
        first: the first measurement of this process, to see what training changed.
        examples: on how many examples it was measured.
        clipped: by step of the run, the share that clipping changed; None if that is not recorded.
        clips: whether the optimizer clips.
        settings: of the run, by name.
        failures: what could not be measured or drawn, and why.
    """

    history: History
    per_epoch: int
    steps_done: int
    rates: Sequence[float] = ()
    lines: Sequence[Mapping[str, Any]] = ()
    seen: Look | None = None
    first: Propagation | None = None
    examples: int = 0
    clipped: np.ndarray | None = None
    clips: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    failures: Sequence[str] = ()


def sections(told: Told, tell: Callable[[str], None] = lambda failure: None) -> str:
    """All parts of the page below its head. One that fails is left out, and `tell` hears why."""
    parts: dict[str, Callable[[Told], str]] = {
        "What diagnostics.advise says": _advice,
        "Learning curves": _curves,
        "Signal and gradient by layer": _signal,
        "Attention over time": _attention,
        "Activations over time": lambda told: _fans(told, "activations"),
        "Weights over time": lambda told: _fans(told, "weights"),
        "The numbers": _tables,
    }
    made = []
    for title, part in parts.items():
        try:
            body = part(told)
        except Exception as error:
            tell(f"{title}: {error}")
            body = f"<p>Could not be drawn: {html.escape(str(error))}</p>"
        if body:
            made.append(f"<section><h2>{title}</h2>\n{body}\n</section>")
    return "\n".join(made)


def _advice(told: Told) -> str:
    said = [html.escape(failure) for failure in told.failures]
    if told.seen is not None:
        found = advise(told.seen.propagation, before=told.first)
        said = [html.escape(each.sentence) for each in found] + said or [html.escape(repr(found))]
        when = f"After epoch {told.seen.epoch:,}, on {counted(told.examples, 'training example')}:"
    else:
        when = "Not everything could be measured:"
    if not said:
        return ""
    items = "".join(f"<li>{each}</li>" for each in said)
    return f"<p>{when}</p>" + (f"<ul>{items}</ul>" if items else "")


def _curves(told: Told) -> str:
    history = told.history
    names = loss_first(dict.fromkeys([*history.steps, *history.train, *history.validation]))
    figures = [_metric(told, name) for name in names]
    rates = [(line["epoch"], line["rate"]) for line in told.lines]
    figures.append(
        panel(
            "learning rate", [_line("rate", rates, 3)], note="Of the next update at an epoch's end."
        )
    )
    figures.append(_clipped(told))
    speed = list(enumerate(told.rates, start=1))
    figures.append(
        panel(
            "examples a second", [_line("speed", speed, 4)],
            note="In training alone; the first epoch of a process also compiles.",
        )
    )  # fmt: skip
    return _grid(figures)


def _metric(told: Told, name: str) -> str:
    """Batches, training and validation of one value."""
    history, lines = told.history, []
    steps = np.asarray(history.steps.get(name, ()), np.float64)
    note = ""
    if len(steps) and name != "skipped":
        # An epoch's number stands at its end; a run may have begun inside one. A run that ended in
        # its first epoch counts steps.
        missing = len(history.seconds) * told.per_epoch - told.steps_done
        unit = told.per_epoch if len(history.seconds) else 1
        at = (np.arange(1, len(steps) + 1) + missing) / unit
        lines.append(Line("batches", *_grouped(at, steps), 0, faint=True))
        note = "Thin: means of batches. "
    for label, part, colour in (("train", history.train, 0), ("valid.", history.validation, 1)):
        if name in part:
            values = part[name]
            lines.append(Line(label, np.arange(1, len(values) + 1), values, colour))
    validation = history.validation.get(name)
    if name == "loss" and validation is not None and np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        note += f"Lowest validation loss: {number(validation[best])} in epoch {best + 1:,}."
    return panel(name, lines, note=note, x_label="epoch" if len(history.seconds) else "step")


def _grouped(x: np.ndarray, y: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours, so that at most so many points are left; of few points all."""
    if len(y) <= most:
        return x, y
    starts = np.linspace(0, len(y), most, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(y)])
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _clipped(told: Told) -> str:
    if told.clipped is None:
        if not told.clips:
            return ""
        hint = (
            "The optimizer clips. To see how often, put optimizers.recorded(clip, "
            "observers.clipped_share, steps=...) in the place of the clip."
        )
        return f"<figure><figcaption>share clipped</figcaption><p class=note>{hint}</p></figure>"
    touched = (told.clipped > 0).astype(np.float64)
    at = np.arange(1, len(touched) + 1) / told.per_epoch
    return panel(
        "share clipped",
        [
            Line("steps", *_grouped(at, touched, 40), 2),
            Line("entries", *_grouped(at, told.clipped.astype(np.float64), 40), 5),
        ],
        note="The share of steps that clipping changed, and the share of a step's entries.",
    )


def _signal(told: Told) -> str:
    if told.seen is None:
        return ""
    figures = []
    sizes = zip(("signal", "gradient"), signal_sizes(told.seen.propagation), strict=True)
    for kind, newest in sizes:
        past = [line for line in told.lines if kind in line]
        names, rows = list(newest), range(1, len(newest) + 1)
        lines = []
        if past and past[0]["epoch"] < told.seen.epoch:
            first = [past[0][kind].get(name) for name in names]
            lines.append(Line(f"epoch {past[0]['epoch']}", rows, first, 5, value=False))
        now = [newest[name] for name in names]
        lines.append(Line(f"epoch {told.seen.epoch}", rows, now, 0, value=False))
        figures.append(
            panel(
                f"{kind} by layer",
                lines,
                x_label="layer",
                note=f"{_NOTES[kind]} {_numbered(names)}",
                logarithmic=True,
            )
        )
        over_time = [
            _line(name, [(each["epoch"], each[kind].get(name)) for each in past], k, False)
            for k, name in enumerate(_some(names, MOST_LAYERS))
        ]
        left = len(names) - len(over_time)
        note = f"Not drawn: {counted(left, 'layer')} between these." if left else ""
        figures.append(panel(f"{kind} over time", over_time, note=note, logarithmic=True))
    return _grid(figures)


_NOTES = {
    "signal": "Root mean square of each layer's output.",
    "gradient": "Size of the loss's gradient with respect to each layer's output.",
}


def _numbered(names: Sequence[str]) -> str:
    """Which layer is which on an axis of their numbers; of many, where that stands."""
    if len(names) > MOST_NAMED:
        return 'The layers are in the order of the table "Layers" below.'
    return (
        ", ".join(f"{place}\N{NO-BREAK SPACE}{name}" for place, name in enumerate(names, start=1))
        + "."
    )


def _attention(told: Told) -> str:
    if told.seen is None:
        return ""
    newest = attention_sizes(told.seen.propagation)
    figures = []
    for measure, (title, note) in _ATTENTION.items():
        names = list(newest.get(measure, ()))
        past = [line for line in told.lines if measure in line]
        short = _without_shared_end(names)
        lines = [
            _line(short[name], [(at["epoch"], at[measure].get(name)) for at in past], place, False)
            for place, name in enumerate(_some(names, MOST_LAYERS))
        ]
        left = len(names) - len(lines)
        more = f" Not drawn: {counted(left, 'attention')} between these." if left else ""
        figures.append(panel(title, lines, note=note + more))
    return _grid(figures) if any(figures) else ""


def _without_shared_end(names: Sequence[str]) -> dict[str, str]:
    """By name, the name without the last parts of its path that all names share."""
    parts = [name.split("/") for name in names]
    shared = 0
    while parts and all(len(each) > shared + 1 for each in parts):
        if len({each[-1 - shared] for each in parts}) > 1:
            break
        shared += 1
    return {"/".join(each): "/".join(each[: len(each) - shared]) for each in parts}


_ATTENTION = {
    "largest_logit": ("largest |logit|", "Of all heads and queries."),
    "normalized_entropy": ("entropy", "Over that of even weights: 0 on one key, 1 on all alike."),
    "on_one_key": ("queries on one key", "The share with a weight of 0.99 or more on one key."),
}


def _fans(told: Told, kind: str) -> str:
    if told.seen is None:
        return ""
    newest: Mapping[str, np.ndarray] = getattr(told.seen, kind)
    past = [line for line in told.lines if kind in line]
    chosen = _some(list(newest), MOST_FANS)
    figures = []
    for name in chosen:
        given = [line for line in past if line[kind].get(name)]
        times = [line["epoch"] for line in given]
        quantiles = [line[kind][name] for line in given]
        if given:
            figures.append(fan_panel(name, Fan(times, quantiles, newest[name])))
    left = len(newest) - len(chosen)
    more = f" Not drawn: {left:,} between these." if left else ""
    return (
        "<p class=note>Line: the median. Dark: half of the entries. Light: 95 % of them. Right: "
        f"their histogram after epoch {told.seen.epoch:,}.{more}</p>{_grid(figures)}"
    )


def _tables(told: Told) -> str:
    history = told.history
    columns = {
        **{f"train {name}": history.train[name] for name in loss_first(history.train)},
        **{f"validation {n}": history.validation[n] for n in loss_first(history.validation)},
        "seconds": history.seconds,
    }
    epochs = range(max(0, len(history.seconds) - MOST_ROWS), len(history.seconds))
    rows = [
        [f"{epoch + 1:,}", *(number(values[epoch]) for values in columns.values())]
        for epoch in epochs
    ]
    parts = [("Epochs", html_table("", ["epoch", *columns], rows))]
    if told.seen is not None:
        parts.append(("Layers", told.seen.propagation._repr_html_() or ""))
    settings = "".join(
        f"<li>{html.escape(f'{name}: {value}')}</li>" for name, value in told.settings.items()
    )
    parts.append(("Settings", f"<ul>{settings}</ul>"))
    return "".join(
        f'<details id="{title}"><summary>{title}</summary><div class=wide>{body}</div></details>'
        for title, body in parts
    )


def _line(label: str, points: Sequence[tuple[Any, Any]], colour: int, value: bool = True) -> Line:
    values = [math.nan if value is None else value for _, value in points]
    return Line(label, [place for place, _ in points], values, colour, value=value)


def _some(names: Sequence[str], most: int) -> list[str]:
    """Some of the names, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[place] for place in np.linspace(0, len(names) - 1, most).round().astype(int)]


def _grid(figures: Sequence[str]) -> str:
    return f"<div class=grid>{''.join(figures)}</div>"
