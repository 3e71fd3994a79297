"""A run in a few words, and as a table in a notebook."""

from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

import numpy as np

from jaxdl.showing import Cell, counted, curve, ends, html_table, known, loss_first, named, number

Values = Mapping[str, SupportsFloat]


def measured_line(train: Values, validation: Values, digits: str = ".4g") -> str:
    """What an epoch measured, in four digits; those of "#.4g" keep their zeros.

    Example:
        >>> measured_line({"loss": 0.31, "accuracy": 0.91}, {"loss": 0.35})
        'loss 0.31, accuracy 0.91; validation loss 0.35'
    """
    return _joined(
        *(
            {name: format(float(value), digits) for name, value in part.items()}
            for part in (train, validation)
        )
    )


def result_line(result: Any) -> str:
    """The repr of a `Result`: how far the run came, its last measurements, what stopped it."""
    history = result.history
    last = ({name: number(v[-1]) for name, v in part.items()} for part in _parts(history))
    # An observer may have gone back to an older state, a run may have gone on from a later one.
    step = known(result.state.step)
    elsewhere = step is not None and step.ndim == 0 and step != _steps(history)
    return _run(
        "Result",
        history,
        _joined(*last),
        [
            *([f"the state of step {int(step):,}"] if elsewhere and step is not None else []),
            *([f"stopped: {result.stopped}"] if result.stopped else []),
        ],
    )


def history_line(history: Any) -> str:
    """The repr of a `History`: its first and its last measurements."""
    texts = ({name: ends(values) for name, values in part.items()} for part in _parts(history))
    return _run("History", history, _joined(*texts), [])


def history_html(line: str, history: Any) -> str:
    """A row for each value that was measured: first and last epoch, and the curves."""
    train, validation = _parts(history)
    head = ["", "training" if len(history.seconds) else "each step"]
    if validation:
        head.append("validation")
    rows: list[list[Cell]] = []
    for name in loss_first(dict.fromkeys([*train, *validation])):
        values = [part.get(name, np.zeros(0)) for part in (train, validation)]
        # The dashed curve is validation's, also where it stands alone.
        cells: list[Cell] = [ends(part) for part in values[: len(head) - 1]]
        rows.append([name, *cells, curve(*values) if len(values[0]) != 1 else ""])
    note = "Curves by epoch; solid: training" + ("; dashed: validation" if validation else "")
    return html_table(line, [*head, ""], rows, [note] if rows else [])


def _parts(history: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Training and validation by epoch; before the first one's end, training by step."""
    return (history.train if len(history.seconds) else history.steps), history.validation


def _steps(history: Any) -> int:
    return max((len(values) for values in history.steps.values()), default=0)


def _run(kind: str, history: Any, measured: str, more: Iterable[str]) -> str:
    length = f"{counted(len(history.seconds), 'epoch')}, {counted(_steps(history), 'step')}"
    return f"{kind}({'; '.join([': '.join(filter(None, [length, measured])), *more])})"


def _joined(train: Mapping[str, str], validation: Mapping[str, str]) -> str:
    parts = [named(train)] if train else []
    if validation:
        parts.append(f"validation {named(validation)}")
    return "; ".join(parts)
