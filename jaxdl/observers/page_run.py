"""A run as its page sees it: what to measure and to write at which epoch's end, and at the end."""

import datetime
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.files import partial_folder
from jaxdl.notices import notice
from jaxdl.observers.page_document import Head, document
from jaxdl.observers.page_measurements import Kept, Look, clipped_steps, line_of, look
from jaxdl.observers.page_sections import Told, sections
from jaxdl.observers.tensorboard import settings_of
from jaxdl.showing import loss_first, number, seconds
from jaxdl.training.fit.batches import Plan
from jaxdl.training.fit.history import EpochMeasurements, History, join
from jaxdl.training.fit.observing import Event, Setup

PAGE, DATA = "page.html", "page.jsonl"
_MOST_FACTS = 6
_RECENT = 5
"""Epochs whose time tells that of the next ones."""


class Budget:
    """When something may be done again, from what it cost the last time.

    Arguments:
        share: of the training time.
        cost: in seconds, until it is known.

    Example:
        >>> budget = Budget(0.01, cost=0.02)
        >>> budget.trained(1.0), budget.allows()
        (None, False)
        >>> budget.trained(1.0), budget.allows()
        (None, True)
    """

    def __init__(self, share: float, cost: float) -> None:
        self._share, self._cost, self._since = share, cost, 0.0

    def trained(self, count: float) -> None:
        """Count seconds of training."""
        self._since += count

    def allows(self) -> bool:
        """Whether its cost is within the share of the training since it was done."""
        return self._cost <= self._share * self._since

    def apart(self) -> float:
        """The seconds of training from one time to the next."""
        return self._cost / self._share

    def spent(self, cost: float | None) -> None:
        """It was done, at this cost; None if that is not what it will cost again."""
        self._cost = self._cost if cost is None else cost
        self._since = 0.0


class PageRun:
    """One run of `fit`, with what its page shows.

    Arguments:
        folder: of the page.
        setup: of the run.
        probe: (setup) -> the examples to measure on.
        every: epochs between two measurements; None for none.
        updates: whether to measure updates.
        overhead: the share of the training time that the page may take.
    """

    def __init__(
        self,
        folder: Path,
        setup: Setup,
        probe: Callable[[Setup], Mapping[str, Any]],
        every: int | None,
        updates: bool,
        overhead: float,
    ) -> None:
        self._folder, self._setup, self._probe = folder, setup, probe
        self._every, self._updates = every, updates
        # A guess until the first page, or the second measurement: the first one compiles.
        self._writing, self._looking = Budget(overhead / 2, 0.01), Budget(overhead / 2, 0.01)
        self._plan = Plan(
            len(setup.dataset.train),
            setup.config["batch_size"],
            setup.config.get("drop_last", False),
        )
        self._failures: list[str] = []
        self._kept: Kept | None = None
        self._seen: Look | None = None
        self._first: Propagation | None = None
        self._examples = 0
        self._clipped: np.ndarray | None = None
        self._ends: list[float] = []
        self._last = time.time()
        self._epochs = setup.config["epochs"]
        self._epoch, self._measurements = 0, tuple[EpochMeasurements, ...]()
        self._clips = "clip_by_" in repr(setup.optimizer)

    def epoch_ended(self, event: Event) -> None:
        """Note an epoch, measure where it is due, and write the page where that is."""
        assert event.measured is not None
        is_first, is_last = self._kept is None, event.epoch == event.epochs
        self._last = time.time()
        self._ends.append(time.monotonic())
        self._epoch, self._epochs = event.epoch, event.epochs
        self._measurements = tuple(event.measurements)
        for budget in (self._writing, self._looking):
            budget.trained(event.measured.seconds)
        due = self._every is not None and event.epoch % self._every == 0
        if is_first or is_last or (due and self._looking.allows()):
            self._look(event, compiles=is_first)
        self._keep(event)
        writes = not is_last and (is_first or self._writing.allows())
        if writes or is_last:
            self._read_clipped(event)
        if writes:  # after the last epoch the end is written
            self._write(join(self._measurements), None, "")

    def ended(self, error: BaseException | None) -> None:
        """Write the last page of a run that this error ended; None if none did."""
        now = _clock(time.time())
        epochs = self._epochs
        place = (
            f"after epoch {self._epoch:,} of {epochs:,}" if self._epoch else "in its first epoch"
        )
        # A run that raises has its history in the error, with the steps of its last epoch.
        result = getattr(error, "result", None)
        history = join(self._measurements) if result is None else result.history
        if error is None and self._kept is None:
            return  # a run that was over before it began
        if error is None:
            stopped = "" if self._epoch == epochs else f" early, {place}"
            state, mood = f"Ended at {now}{stopped}.", "" if stopped else "good"
        elif isinstance(error, Exception):
            what = f"{type(error).__name__}: {error}"
            state, mood = f"Ended at {now} by an error, {place}. {what}", "bad"
        else:
            state, mood = f"Interrupted at {now}, {place}.", "bad"
        self._write(history, state, mood)

    def _look(self, event: Event, *, compiles: bool) -> None:
        if self._every is None:
            return
        started = time.perf_counter()
        try:
            batch = self._probe(self._setup)
            self._seen = look(event, batch, self._updates)
            if self._first is None:
                self._first = self._seen.propagation
            self._examples = self._seen.propagation.shapes[0][0]
        except Exception as error:
            # A measurement is not worth a run.
            self._every = None
            self._fail(f"Signal and gradient could not be measured: {error}")
        self._looking.spent(None if compiles else time.perf_counter() - started)

    def _keep(self, event: Event) -> None:
        steps = [len(each.steps["loss"]) for each in event.measurements]
        begun = event.step - sum(steps)
        try:
            if self._kept is None:
                self._kept = Kept(self._folder / DATA, begun, event.step - steps[-1])
            seen = self._seen if self._seen and self._seen.epoch == event.epoch else None
            self._kept.add(line_of(event, seen))
        except Exception as error:
            self._fail(f"What is beside the history could not be kept: {error}")

    def _read_clipped(self, event: Event) -> None:
        try:
            self._clipped = clipped_steps(event.state.opt_state)
        except Exception as error:
            self._fail(f"What was clipped could not be read: {error}")

    def _write(self, history: History, state: str | None, mood: str) -> None:
        started = time.perf_counter()
        try:
            if self._kept is not None:
                self._kept.write()
            text = document(
                self._head(history, state, mood), sections(self._told(history), self._fail)
            )
            with partial_folder(self._folder) as partial:
                (partial / PAGE).write_text(text, encoding="utf-8")
                # Not synced, which takes milliseconds: the next page comes soon.
                os.replace(partial / PAGE, self._folder / PAGE)
        except Exception as error:
            self._fail(f"The page could not be written: {error}")
        self._writing.spent(time.perf_counter() - started)

    def _fail(self, failure: str) -> None:
        """Warn of what went wrong, once, and show it on the page. The run goes on."""
        if failure not in self._failures:
            self._failures.append(failure)
            notice(f"observers.page: {failure}")

    def _told(self, history: History) -> Told:
        steps = [len(each.steps["loss"]) for each in self._measurements]
        ends = {end: epoch for epoch, end in enumerate(np.cumsum(steps).tolist(), start=1)}
        lines = [] if self._kept is None else self._kept.lines
        begun = 0 if self._kept is None else self._kept.begun
        return Told(
            history=history,
            per_epoch=len(self._plan.sizes),
            steps_done=sum(steps),
            rates=self._rates(),
            # By the step: of another run there may be lines between.
            lines=[
                {**line, "epoch": ends[line["step"] - begun]}
                for line in lines
                if line["step"] - begun in ends
            ],
            seen=self._seen,
            first=self._first,
            examples=self._examples,
            clipped=self._clipped,
            clips=self._clips,
            settings=settings_of(self._setup) | {"optimizer": repr(self._setup.optimizer)},
            failures=self._failures,
        )

    def _rates(self) -> list[float]:
        """Examples a second in each epoch; one that began inside has its last steps alone."""
        sizes = self._plan.sizes
        return [
            sum(sizes[-len(each.steps["loss"]) :]) / each.seconds if each.seconds else float("nan")
            for each in self._measurements
        ]

    def _head(self, history: History, state: str | None, mood: str) -> Head:
        epochs, done = self._epochs, self._epoch
        pace, facts = self._pace(), dict[str, str]()
        named: Sequence[tuple[str, Mapping[str, Any]]] = (
            ("train", history.train), ("validation", history.validation),
        )  # fmt: skip
        for split, part in named:
            for name in loss_first(part)[: _MOST_FACTS // 2]:
                facts[f"{split} {name}"] = number(part[name][-1])
        rates = self._rates()
        if rates:
            facts["examples a second"] = f"{rates[-1]:,.0f}"
            facts["time in training"] = _duration(float(history.seconds.sum()))
        is_running = state is None
        if state is None:
            facts["time left"] = _duration(pace * (epochs - done))
            state = f"Running: epoch {done:,} of {epochs:,} ended at {_clock(self._last)}."
        return Head(
            title=f"{type(self._setup.task.model).__name__} on {self._setup.dataset.name}",
            state=state,
            mood=mood,
            done=done,
            total=epochs,
            facts=facts,
            written=self._last,
            at=_clock(self._last),
            gap=max(pace, self._writing.apart()) if is_running else None,
        )

    def _pace(self) -> float:
        """Seconds from one epoch's end to the next, validation and observers included."""
        recent = np.diff(self._ends[-_RECENT - 1 :]).tolist()
        if recent:
            return statistics.median(recent)
        return self._measurements[-1].seconds if self._measurements else 0.0


def _clock(moment: float) -> str:
    local = datetime.datetime.fromtimestamp(moment).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %Z")


def _duration(count: float) -> str:
    """A time in words.

    Example:
        >>> _duration(8.04), _duration(75.2), _duration(7322.0)
        ('8.0 s', '1 min 15 s', '2 h 2 min')
    """
    if count < 60:
        return seconds(count)
    minutes, rest = divmod(round(count), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
