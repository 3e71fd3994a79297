"""What a run says while it lasts: on a terminal, in a pipe and in a notebook."""

import io
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdl import data, losses, models, optimizers, training
from jaxdl.training.fit import progress as progress_module
from jaxdl.training.fit.history import EpochMeasurements
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.progress import shown
from jaxdl.training.fit.standing import Length

ONES = data.Arrays(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32))
DATASET = data.Dataset("ones", ONES, ONES, None)
SETTINGS: dict[str, Any] = {
    "loss": losses.mean_squared_error,
    "metrics": {"error": losses.mean_squared_error},
    "batch_size": 4,
    "key": jax.random.key(0),
}
LENGTH = Length(0, 4, 2, 50.0)
LINE = (
    r"epoch {}/{}: loss \d\.\d+(e-\d+)?, error \d\.\d+(e-\d+)?; "
    r"validation loss \d\.\d+(e-\d+)?, error \d\.\d+(e-\d+)?; [\d.,e-]+ s"
)


def fit(progress: Any, **changes: Any):
    given = SETTINGS | {"epochs": 2} | changes
    return training.fit(models.MLP([1]), DATASET, optimizers.sgd(0.1), progress=progress, **given)


def moment(step: int, *losses_: float, stopped: str | None = None) -> Moment:
    """A moment after so many steps, two an epoch; the epochs had these losses."""
    state = training.TrainState(jnp.int32(step), {}, {}, (), jax.random.key(0))
    epochs = tuple(
        EpochMeasurements({}, {"loss": loss, "accuracy": 1 - loss}, {"loss": 2 * loss}, 1.5)
        for loss in losses_
    )
    steps = {"loss": np.zeros(step - 2 * len(losses_))}
    return Moment(step, state, (), epochs, steps, stopped=stopped)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def drawn(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", console.file.getvalue())


def test_a_bar_has_measurements_speed_and_time_on_a_terminal():
    console = terminal()
    with shown(None, moment(0), LENGTH, console) as show:
        show(moment(2, 0.5), {"accuracy": 0.25, "loss": 0.5})
        show(moment(4, 0.5, 0.25), {"accuracy": 0.75, "loss": 0.25})
    for part in ("epoch 2/2", "loss 0.2500, accuracy 0.7500", "examples/s", "0:00:00"):
        assert part in drawn(console)


def test_a_bar_goes_on_where_the_run_does():
    """An epoch of two is over at the start, so the next fills the bar."""
    console = terminal()
    with shown(True, moment(2, 0.5), LENGTH, console):
        pass
    assert "epoch 1/2" in drawn(console)
    with shown(True, moment(2, 0.5), LENGTH, console) as show:
        show(moment(4, 0.5, 0.5), {"loss": 0.5})
    assert "0:00:00" in drawn(console)


def test_a_bar_that_ends_early_says_why():
    console = terminal()
    with shown(None, moment(0), LENGTH, console) as show:
        show(moment(3, 0.5), {}, "[loss] was nan")
    assert drawn(console).endswith("1/2 epochs and 1 step; stopped: [loss] was nan\n")
    console = terminal()
    with pytest.raises(KeyError), shown(None, moment(0), LENGTH, console):
        raise KeyError
    assert drawn(console).endswith("0/2 epochs; ended by KeyError\n")


@pytest.mark.parametrize("progress", [None, False])
def test_a_run_in_a_pipe_says_nothing_unasked(progress, capfd):
    fit(progress)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, np.True_, "lines"])
def test_a_run_in_a_pipe_says_a_line_an_epoch(progress, capfd):
    fit(progress, epochs=10)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 10
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(LINE.format(f"{number:2}", 10), line)


def test_lines_are_those_of_the_history(capfd):
    result = fit("lines", epochs=1)
    values = [*result.history.train.values(), *result.history.validation.values()]
    numbers = re.findall(r"(?:loss|error) ([\d.e-]+)", capfd.readouterr().err)
    assert numbers == [f"{value[-1]:#.4g}" for value in values]


def test_a_terminal_may_have_lines_too():
    console = terminal()
    with shown("lines", moment(0), LENGTH, console):
        pass
    assert drawn(console) == ""


def test_lines_of_a_run_that_an_observer_stops(capfd):
    fit("lines", observers=[lambda event: training.Change(stop="seen enough")])
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(LINE.format(1, 2), lines[0])
    assert lines[1:] == ["1/2 epochs; stopped: seen enough"]


def test_lines_of_a_run_that_stops_inside_an_epoch(capfd):
    inputs = np.ones((8, 2), np.float32)
    inputs[7] = np.nan
    broken = data.Dataset("broken", data.Arrays(inputs, ONES.targets), None, None)
    training.fit(
        models.MLP([1]), broken, optimizers.sgd(0.1), epochs=2, progress="lines",
        on_nonfinite="stop", steps_per_call=1, **SETTINGS,
    )  # fmt: skip
    (line,) = capfd.readouterr().err.splitlines()
    assert re.match(r"0/2 epochs( and 1 step)?; stopped: .*not finite", line)


def test_lines_of_a_run_that_goes_on(tmp_path, capfd):
    faults = [OSError("full")]

    def watched(event):
        if event.epoch == 2 and faults:
            raise faults.pop()

    settings = {"checkpoint_dir": tmp_path / "run", "epochs": 3, "observers": [watched]}
    with pytest.raises(OSError, match="full"):
        fit("lines", **settings)
    assert capfd.readouterr().err.splitlines()[-1] == "2/3 epochs; ended by OSError"
    fit("lines", **settings)
    first, third = capfd.readouterr().err.splitlines()
    assert first == "goes on after 2/3 epochs"
    assert re.fullmatch(LINE.format(3, 3), third)


def test_lines_count_the_epochs_of_this_call(capfd):
    state = fit(False).state
    fit("lines", state=state)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.parametrize("progress", ["bar", "", 1, 0.5, ["lines"], np.ones(2)])
def test_anything_else_is_refused_first(progress, tmp_path):
    with pytest.raises(ValueError, match='progress must be True, False, None or "lines", got'):
        fit(progress, checkpoint_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_of_several_processes_the_first_speaks(monkeypatch, capfd):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    console = terminal()
    for progress in (None, True, "lines"):
        with shown(progress, moment(0), LENGTH, console) as show:
            show(moment(2, 0.5), {"loss": 0.5}, "enough")
    assert drawn(console) == ""
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def notebook(monkeypatch):
    """The texts that a line in a notebook had, and a clock that tells the time as one sets it."""
    texts: list[str] = []
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def update(content, *, raw):
        assert raw
        texts.append(content["text/plain"])

    def display(content, *, raw, display_id):
        assert display_id is True
        update(content, raw=raw)
        return SimpleNamespace(update=update)

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress_module, "time", clock)
    return texts, clock, Console(force_jupyter=True)


def test_a_line_in_a_notebook_is_renewed_twice_a_second(notebook):
    texts, clock, console = notebook
    with shown(True, moment(0), LENGTH, console) as show:
        for clock.now, step in ((0.4, 1), (10.0, 2), (10.2, 3)):
            show(moment(step, *[0.5] * (step // 2)), {"loss": 0.5})
        show(moment(4, 0.5, 0.25), {})
    assert texts == [
        "0/2 epochs",
        # Two of four steps took ten seconds.
        "1/2 epochs: loss 0.5000; 10 s left",
        "2/2 epochs: loss 0.25, accuracy 0.75; validation loss 0.5; 3.0 s",
    ]


def test_the_last_line_in_a_notebook_says_why_it_is_the_last(notebook):
    texts, _, console = notebook
    with shown(True, moment(2, 0.5), LENGTH, console) as show:
        show(moment(3, 0.5), {}, "the loss of step 3 is nan")
    assert texts == [
        "1/2 epochs",
        "1/2 epochs and 1 step: loss 0.5, accuracy 0.5; validation loss 1; 1.5 s; "
        "stopped: the loss of step 3 is nan",
    ]
    with pytest.raises(KeyboardInterrupt), shown(True, moment(0), LENGTH, console):
        raise KeyboardInterrupt
    assert texts[-1] == "0/2 epochs; 0 s; ended by KeyboardInterrupt"


def test_lines_in_a_notebook_are_not_red(notebook, capsys):
    _, _, console = notebook
    with shown("lines", moment(0), LENGTH, console) as show:
        show(moment(2, 0.5), {"loss": 0.5})
    out, err = capsys.readouterr()
    assert out == "epoch 1/2: loss 0.5000, accuracy 0.5000; validation loss 1.000; 1.5 s\n"
    assert err == ""


def test_a_notebook_unasked_stays_silent(notebook):
    texts, _, console = notebook
    with shown(None, moment(0), LENGTH, console):
        pass
    assert texts == []
