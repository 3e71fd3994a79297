"""The calls of a sweep in other processes or machines, through an executor."""

import contextlib
import itertools
import pickle
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import numpy as np

from jaxdl.extras import import_extra
from jaxdl.training.sweep import worker
from jaxdl.training.sweep.by_seed import BySeed
from jaxdl.training.sweep.calls import Execute, Finished, Room, members_of_a_call, padded_calls
from jaxdl.training.sweep.program import Program
from jaxdl.training.sweep.worker import Answer, Sent

IN_FLIGHT = 4096
"""Calls at the executor at once. One is a few hundred bytes, and some kilobytes of its books."""

LIGHT = 1_000_000
"""A program of so many bytes travels with every call. A larger one is sent once to each worker."""

ON_THE_WAY = 1_000_000_000
"""The bytes of programs at the executor at once."""

LOST = 3
"""So often a call is given anew, after the executor lost it."""

MET = 3
"""A call that met so many workers without the program takes it along: they may be new each time."""

AT_ONCE = 32
"""How many calls an executor is taken to run at once if it does not tell."""


@dataclass(eq=False)
class _Call:
    """Some members on their way: how often they met a worker without the program, or were lost."""

    members: np.ndarray
    padded: np.ndarray
    met: int = 0
    lost: int = 0


@dataclass(eq=False)
class Elsewhere:
    """An executor, and what the first of its workers to answer has.

    Attributes:
        executor: of the user, who also shuts it down.
        room: of a worker. All are taken to be like it.
    """

    executor: Executor
    room: Room
    _tickets: Iterator[str]

    def prepare(
        self,
        run: Callable[..., Any],
        by_seed: Sequence[BySeed],
        program: Program,
        members: int,
        chunk: int | None,
    ) -> Execute:
        """As `calls.prepare`, but the executor's workers compute, and one thread tells.

        Arguments:
            run: what `program` was traced from, with its static settings.
            by_seed: the arguments that are made by seed.
        """
        size = members_of_a_call(program, members, chunk, self.room, calls_at_once(self.executor))
        sent = worker.packed(worker.recipe_of(run, by_seed, program))

        def execute(
            arguments: Sequence[np.ndarray | BySeed], todo: np.ndarray, finished: Finished
        ) -> None:
            numbers = [each for each in arguments if isinstance(each, np.ndarray)]
            calls = [_Call(*each) for each in padded_calls(todo, size)]
            _Flight(self.executor, self._tickets, sent, size, numbers, finished).run(calls)

        return execute


def elsewhere(executor: Any) -> Elsewhere:
    """Ask a worker of the executor what it has.

    Raises:
        TypeError: no `concurrent.futures.Executor`.
        RuntimeError: the executor has no worker that answers.
    """
    if not isinstance(executor, Executor):
        instead = (
            "pass its get_executor()"
            if hasattr(executor, "get_executor")
            else "pass e.g. dask.distributed.Client().get_executor()"
        )
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {executor!r}; {instead}"
        )
    import_extra("cloudpickle", "a sweep with an executor", "cluster")
    sweep = uuid4().hex
    tickets = (f"{sweep}-{number}" for number in itertools.count())
    with _broken():
        room = _submitted(executor, worker.room, next(tickets)).result()
    return Elsewhere(executor, Room(*room), tickets)


def calls_at_once(executor: Executor) -> int:
    """How many calls an executor runs at once, as far as it tells."""
    told = getattr(executor, "_max_workers", None)  # pools of processes and threads
    client = getattr(executor, "_client", None)
    if told is None and client is not None and hasattr(client, "nthreads"):  # Dask's
        told = sum(client.nthreads().values())
    return told if isinstance(told, int) and told > 0 else AT_ONCE


class _Flight:
    """The calls of one program on their way.

    A call names the program. A worker that lacks it says so. Then the call waits until the program
    was delivered, as a task of its own, which an idle worker takes. A call that meets workers
    without the program too often takes it along.
    """

    def __init__(
        self,
        executor: Executor,
        tickets: Iterator[str],
        sent: Sent,
        size: int,
        numbers: Sequence[np.ndarray],
        finished: Finished,
    ) -> None:
        self.executor, self.tickets, self.sent = executor, tickets, sent
        self.size, self.numbers, self.finished = size, numbers, finished
        self.light = len(sent.content) <= LIGHT
        self.most_sent = max(1, ON_THE_WAY // len(sent.content))
        self.flying: dict[Future[Any], _Call | None] = {}  # None is a delivery
        self.answered: SimpleQueue[Future[Any]] = SimpleQueue()
        # Each worker that lacks the program is owed one delivery. The first is for anyone.
        self.lacking: set[str] = set() if self.light else {"anyone"}
        self.delivering = self.sending = self.lost_deliveries = 0

    def run(self, calls: Sequence[_Call]) -> None:
        """Compute all calls. An error, or Ctrl-C, cancels what waits at the executor."""
        waiting = deque(calls)
        parked: list[_Call] = []  # until nobody lacks the program
        try:
            while waiting or parked or self.flying:
                while self.delivering < len(self.lacking) and self.sending < self.most_sent:
                    self._submit(None, worker.keep, self.sent)
                if self.lacking:
                    parked.extend(waiting)
                    waiting.clear()
                else:
                    waiting.extend(parked)
                    parked.clear()
                while waiting and self._may_send(waiting[0]):
                    self._send(waiting.popleft())
                if again := self._next_answer():
                    waiting.append(again)
        finally:
            for future in self.flying:
                future.cancel()

    def _takes_along(self, call: _Call) -> bool:
        return self.light or call.met >= MET

    def _may_send(self, call: _Call) -> bool:
        free = len(self.flying) < IN_FLIGHT
        return free and (self.sending < self.most_sent or not self._takes_along(call))

    def _send(self, call: _Call) -> None:
        sent = self.sent if self._takes_along(call) else None
        numbers = [each[call.padded] for each in self.numbers]
        self._submit(call, worker.compute, self.sent.name, self.size, numbers, sent)

    def _submit(self, call: _Call | None, function: Callable[..., Any], *arguments: Any) -> None:
        with warnings.catch_warnings(), _broken():
            # Dask's advice is to send large things once to each worker, which is what happens.
            warnings.filterwarnings("ignore", message="Sending large graph")
            future = _submitted(self.executor, function, next(self.tickets), *arguments)
        self.flying[future] = call
        self.delivering += call is None
        self.sending += call is None or self._takes_along(call)
        future.add_done_callback(self.answered.put)

    def _next_answer(self) -> _Call | None:
        """Wait for an answer and take it in; the result is a call that must be sent again."""
        future = self.answered.get()
        call = self.flying.pop(future)
        self.delivering -= call is None
        self.sending -= call is None or self._takes_along(call)
        with _broken():
            result = self._result(future, call)
        if call is None:
            if result is not None:  # one delivery less is owed, whoever took it
                self.lacking.discard(result if result in self.lacking else next(iter(self.lacking)))
            return None
        if result is None:
            return call
        answer = Answer(*result)
        if answer.error is not None:
            raise _error_of(answer)
        if answer.metrics is None:
            call.met += 1
            self.lacking.add(answer.process)
            return call
        self.finished(call.members, [each[: len(call.members)] for each in answer.metrics])
        return None

    def _result(self, future: Future[Any], call: _Call | None) -> Any:
        """What a task gave, or None if the executor lost it and it may be sent again."""
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, BrokenExecutor):
            raise error
        if call is None:
            self.lost_deliveries += 1
        else:
            call.lost += 1
        times = self.lost_deliveries if call is None else call.lost
        if times > LOST or _has_tried(error):
            error.add_note(
                "the executor raised this, not run: a worker was lost (had it memory enough?), or "
                "cannot import jaxdl"
            )
            raise error
        return None


def _submitted(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The task at the executor. An executor that was shut down raises a plain RuntimeError."""
    try:
        return executor.submit(function, *arguments)
    except RuntimeError as error:
        raise error if isinstance(error, BrokenExecutor) else BrokenExecutor(str(error)) from error


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    """Say what is left to do when the executor takes no more calls."""
    try:
        yield
    except (BrokenExecutor, CancelledError) as error:
        raise RuntimeError(
            f"the executor must work until the sweep ends, got {error!r}: a worker died, or it was "
            "shut down, and takes no more calls; make a new executor and call sweep again, which "
            "with folder=... computes only what is missing (Dask starts lost workers by itself)"
        ) from error


def _error_of(answer: Answer) -> BaseException:
    """The error of a call, with where it was raised."""
    assert answer.error is not None
    error: BaseException = pickle.loads(answer.error)
    error.add_note(f"raised in {answer.process}, a worker of the sweep's executor:\n{answer.trace}")
    return error


def _has_tried(error: BaseException) -> bool:
    """Whether the executor itself has given the task to several workers, and all died."""
    dask = sys.modules.get("distributed")
    return dask is not None and isinstance(error, dask.KilledWorker)
