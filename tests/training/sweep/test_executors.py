"""Calls of a sweep in other processes: as in one, whatever dies, waits or differs there."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import STRICT_PYTHON, environment

from jaxdl import forking, losses, models, optimizers, training
from jaxdl.training.sweep import elsewhere, worker
from jaxdl.training.sweep import folder as sweep_folder

xarray = pytest.importorskip("xarray")
distributed = pytest.importorskip("distributed")

EXAMPLES, FEATURES, EPOCHS = 24, 5, 2
# As in test_sweep.py: float32 sums of at most 24 terms in another order, through 6 steps of Adam.
ROUNDING = 2e-5


def small_network():
    """A member and its orders; functions of a function travel with their code."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    train = {"inputs": inputs, "targets": np.sin(inputs.sum(1, keepdims=True))}

    def orders(key):
        return training.orders(key, EPOCHS, EXAMPLES)

    def member(key, orders, *, rate, width):
        task = training.Task(models.MLP([width, 1]), losses.mean_squared_error)
        run = training.make_run(task, optimizers.adam(rate), batch_size=8)
        _, measured = run(key, {"train": train}, orders)
        return {"loss": measured["train"]["loss"]}

    over = {"rate": [0.003, 0.01, 0.03], "width": [3, 4]}
    return member, {
        "over": over, "static": ["width"], "seeds": 4, "by_seed": {"orders": orders}, "chunk": 1,
    }  # fmt: skip


def draws():
    """The quickest member."""

    def member(key, *, scale=1.0):
        return {"value": scale * jax.random.normal(key, (3,))}

    return member


class Inline(Executor):
    """Runs a task when it is submitted, here, as if it had travelled; after `most`, none."""

    def __init__(self, most=10**6, before=lambda number: None):
        self.most, self.before, self.tasks, self.futures, self.bytes = most, before, [], [], []

    def submit(self, function, /, *arguments):
        future = Future()
        self.futures.append(future)
        self.tasks.append(function.__name__)
        content = pickle.dumps((function, arguments))
        self.bytes.append(len(content))
        if len(self.tasks) <= self.most:
            try:
                self.before(len(self.tasks))
                function, arguments = pickle.loads(content)
                future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
            except Exception as error:
                future.set_exception(error)
        return future


class Counting(Executor):
    """Passes tasks on and counts the calls."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def submit(self, function, /, *arguments):
        self.calls += function is worker.compute
        return self.inner.submit(function, *arguments)


def local_cluster(workers):
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )


def spawned(workers=2):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def plain():
    member, settings = small_network()
    return training.sweep(member, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "light"), [(2, True), (4, False)])
def test_a_worker_that_is_killed_costs_its_call_only(workers, light, plain, tmp_path, monkeypatch):
    if not light:
        monkeypatch.setattr(elsewhere, "LIGHT", 0)  # each worker gets the program once
    member, settings = small_network()
    save, saved, killed = sweep_folder.SweepFolder.save, [], []
    with local_cluster(workers) as cluster, distributed.Client(cluster) as client:
        before = set(client.run(os.getpid).values())
        assert len(before) == workers

        def save_and_kill(self, group, members, metrics):
            save(self, group, members, metrics)
            saved.append((group, *members.tolist()))
            if len(saved) == 4:
                victim = random.choice(sorted(before))
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

        monkeypatch.setattr(sweep_folder.SweepFolder, "save", save_and_kill)
        executor = client.get_executor()
        found = training.sweep(member, folder=tmp_path, executor=executor, **settings)
        client.wait_for_workers(workers)
        after = set(client.run(os.getpid).values())
    assert len(killed) == 1
    assert before - after == set(killed)
    assert sorted(saved) == [(group, index) for group in range(2) for index in range(12)]
    xarray.testing.assert_allclose(found, plain, rtol=ROUNDING)


@pytest.mark.slow
def test_a_pool_that_breaks_says_so_and_a_new_one_computes_what_is_missing(tmp_path):
    fated, marker = 5, tmp_path / "died"

    def noise(key):
        if int(jax.random.key_data(key)[-1]) == fated and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return jax.random.normal(key)

    def member(key, noise):
        return {"value": noise + jax.random.normal(key)}

    settings = {"seeds": 8, "by_seed": {"noise": noise}, "chunk": 1, "folder": tmp_path / "kept"}
    with spawned() as pool, pytest.raises(RuntimeError, match="make a new executor and call sweep"):
        training.sweep(member, executor=pool, **settings)
    kept = len(list((tmp_path / "kept").glob("group0-members*.npz")))
    with spawned() as pool:
        counting = Counting(pool)
        found = training.sweep(member, executor=counting, **settings)
    assert counting.calls == 8 - kept
    assert counting.calls >= 1
    xarray.testing.assert_allclose(found, training.sweep(member, **settings | {"folder": None}))


def test_what_is_sent_to_each_worker_once_is_not_sent_with_the_calls(monkeypatch):
    data = np.random.default_rng(0).normal(size=(600, 1000)).astype(np.float32)

    def member(key, *, scale):
        return {"value": scale * jnp.sum(data @ jax.random.normal(key, (1000,)))}

    executor = Inline()
    settings = {"over": {"scale": [1.0, 2.0]}, "seeds": 6, "chunk": 1}
    found = training.sweep(member, executor=executor, **settings)
    assert executor.tasks == ["room", "keep", *["compute"] * 12]
    assert executor.bytes[1] > data.nbytes > elsewhere.LIGHT
    assert max(executor.bytes[2:]) < 2000  # names, a seed and a rate
    plain = training.sweep(member, **settings)
    # A sum of 600 times 1000 products of float32.
    scale = np.abs(plain.value).max().item()
    xarray.testing.assert_allclose(found, plain, rtol=0, atol=1000 * 1.2e-7 * scale)


def test_workers_that_are_new_for_each_call_get_the_program_with_it(monkeypatch):
    monkeypatch.setattr(elsewhere, "LIGHT", 0)
    executor = Inline(before=lambda number: worker._held_here.clear())
    found = training.sweep(draws(), seeds=3, chunk=1, executor=executor)
    assert found.equals(training.sweep(draws(), seeds=3, chunk=1))
    # Each call came to workers without it, and took it along then.
    assert executor.tasks.count("compute") == 3 * (elsewhere.MET + 1)


def lose(numbers, error):
    """Lose the tasks of these numbers."""

    def before(number):
        if number in numbers:
            raise error

    return before


@pytest.mark.parametrize("light", [True, False])
def test_a_lost_task_is_given_again(light, monkeypatch):
    monkeypatch.setattr(elsewhere, "LIGHT", elsewhere.LIGHT if light else 0)
    executor = Inline(before=lose([2, 3, 6], OSError("worker lost")))
    found = training.sweep(draws(), seeds=3, chunk=1, executor=executor)
    assert found.equals(training.sweep(draws(), seeds=3, chunk=1))
    assert len(executor.tasks) == 1 + (not light) + 3 + 3


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (OSError("worker lost"), elsewhere.LOST + 1),
        (distributed.KilledWorker("task", None, 3), 1),  # Dask has tried it on four
    ],
)
@pytest.mark.parametrize("light", [True, False])
def test_a_task_that_is_lost_again_and_again_ends_the_sweep(error, times, light, monkeypatch):
    monkeypatch.setattr(elsewhere, "LIGHT", elsewhere.LIGHT if light else 0)
    executor = Inline(before=lose(range(2, 100), error))
    with pytest.raises(type(error)) as caught:
        training.sweep(draws(), seeds=1, executor=executor)
    assert len(executor.tasks) == 1 + times
    assert any("raised this, not run" in note for note in caught.value.__notes__)


def test_a_stop_cancels_what_waits_and_a_restart_computes_what_is_missing(tmp_path, monkeypatch):
    save, saved = sweep_folder.SweepFolder.save, []

    def stop_at_third(self, *arguments):
        saved.append(arguments)
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(self, *arguments)

    settings = {"seeds": 9, "chunk": 1, "folder": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(sweep_folder.SweepFolder, "save", stop_at_third)
        stopped = Inline(most=1 + 4)  # what the worker has, and four calls
        with pytest.raises(KeyboardInterrupt):
            training.sweep(draws(), executor=stopped, **settings)
    assert [future.cancelled() for future in stopped.futures] == [False] * 5 + [True] * 5
    again = Inline()
    found = training.sweep(draws(), executor=again, **settings)
    assert again.tasks.count("compute") == 7
    assert found.equals(training.sweep(draws(), seeds=9, chunk=1))
    # A sweep without an executor takes it from there, and the other way round.
    training.sweep(draws(), **settings)
    third = Inline()
    training.sweep(draws(), executor=third, **settings)
    assert third.tasks == ["room"]


def test_calls_at_the_executor_are_bounded(monkeypatch):
    monkeypatch.setattr(elsewhere, "IN_FLIGHT", 2)
    executor = Inline(most=1)
    executor.before = lambda number: executor.futures[-1].set_running_or_notify_cancel()
    most = []

    class Later(Inline):
        """Answers the oldest task only when the bound is reached."""

        def submit(self, function, /, *arguments):
            future = Future()
            if function is not worker.compute:
                future.set_result(function(*arguments))
                return future
            self.futures.append((future, function, arguments))
            most.append(len(self.futures))
            if len(self.futures) == 2:
                for future_, function_, arguments_ in self.futures:
                    future_.set_result(function_(*arguments_))
                self.futures.clear()
            return future

    training.sweep(draws(), seeds=6, chunk=1, executor=Later())
    assert most == [1, 2] * 3


class OfTwoError(Exception):
    """An error that pickle cannot make again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_of_a_member_is_raised_with_its_coordinates():
    def data(key):
        seed = int(jax.random.key_data(key)[-1])
        if seed == 3:
            raise LookupError(f"no data for seed {seed}")
        return jnp.ones(2)

    def member(key, data, *, width):
        return {"value": data.sum() * jax.random.normal(key, (width,)).sum()}

    settings = {"over": {"width": [3]}, "static": ["width"], "by_seed": {"data": data}}
    with ThreadPoolExecutor(2) as pool, pytest.raises(LookupError, match="for seed 3") as caught:
        training.sweep(member, seeds=9, chunk=1, executor=pool, **settings)
    notes = "\n".join(caught.value.__notes__)
    assert "with width=3 raised this" in notes
    assert f"process {os.getpid()} on" in notes
    assert "in data\n" in notes  # the traceback


def test_an_exit_of_a_member_is_no_lost_worker():
    class Exits(Inline):
        def submit(self, function, /, *arguments):
            try:
                return super().submit(function, *arguments)
            except SystemExit as error:  # as a pool of processes does
                self.futures[-1].set_exception(error)
                return self.futures[-1]

    def data(key):
        if int(jax.random.key_data(key)[-1]):
            raise SystemExit("no licence")
        return jnp.ones(2)

    executor = Exits()
    with pytest.raises(SystemExit, match="no licence") as caught:
        training.sweep(
            lambda key, data: {"value": data}, seeds=2, by_seed={"data": data}, chunk=1,
            executor=executor,
        )  # fmt: skip
    assert "a worker of the sweep's executor" in caught.value.__notes__[0]
    assert executor.tasks.count("compute") == 2  # none was given again


def test_an_error_that_cannot_travel_keeps_its_name():
    def data(key):
        if int(jax.random.key_data(key)[-1]):
            raise OfTwoError("this", "that")
        return jnp.ones(2)

    with pytest.raises(RuntimeError, match="OfTwoError: this and that"):
        training.sweep(
            lambda key, data: {"value": data}, seeds=2, by_seed={"data": data}, executor=Inline()
        )


SCRIPT = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import jax, jax.numpy as jnp, numpy as np
from jaxdl import training

DATA = np.arange(6, dtype=np.float32)

def halved(x):
    return x / 2

def orders(key):
    return jax.random.permutation(key, 6)

def member(key, orders, *, rate):
    return {"value": rate * halved(jnp.asarray(DATA)[orders]) + jax.random.normal(key)}

if __name__ == "__main__":
    settings = {"over": {"rate": [1.0, 2.0]}, "seeds": 3, "by_seed": {"orders": orders}}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = training.sweep(member, executor=pool, **settings)
    print(float(abs(found.value - training.sweep(member, **settings).value).max()))
"""


@pytest.mark.slow
def test_functions_of_a_script_travel(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [*STRICT_PYTHON, "script.py"], capture_output=True, text=True, cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(training.__file__).parents[2])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 6 * np.finfo(np.float32).eps  # of numbers below 6


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.relu6, jnp.tanh, jax.nn.gelu])
def test_functions_of_jax_travel_by_name(activation):
    def member(key, *, rate, activation):
        return {"value": activation(jax.random.normal(key, (3,))) * rate}

    over = {"rate": [1.0, 2.0], "activation": [activation]}
    found = training.sweep(member, over, seeds=2, executor=Inline())
    xarray.testing.assert_equal(found, training.sweep(member, over, seeds=2))


ONLY_HERE = """
import jax

@jax.jit
def doubled(x):
    return 2 * x
"""


def test_a_module_that_is_to_travel_with_its_code_does(tmp_path, monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle")
    (tmp_path / "with_its_code.py").write_text(ONLY_HERE)
    monkeypatch.syspath_prepend(tmp_path)
    import with_its_code  # type: ignore[import-not-found]

    doubled = with_its_code.doubled

    def member(key):
        return {"value": doubled(jax.random.normal(key))}

    def forget(number):
        if number > 1:
            sys.modules.pop("with_its_code", None)
            (tmp_path / "with_its_code.py").unlink(missing_ok=True)

    cloudpickle.register_pickle_by_value(with_its_code)
    try:
        found = training.sweep(member, seeds=2, executor=Inline(before=forget))
    finally:
        cloudpickle.unregister_pickle_by_value(with_its_code)
    xarray.testing.assert_equal(found, training.sweep(member, seeds=2))


def test_a_function_that_the_worker_cannot_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def member(key):\n    return {'value': 1.0}\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    def forget(number):
        if number > 1:
            sys.modules.pop("only_here", None)
            (tmp_path / "only_here.py").unlink(missing_ok=True)

    executor = Inline(before=forget)
    with pytest.raises(ImportError, match=r"must be able to import .* 'only_here'.*PYTHONPATH"):
        training.sweep(only_here.member, seeds=1, executor=executor)


def test_a_program_that_differs_on_the_worker_is_refused(monkeypatch):
    def member(key):
        return {"value": jax.random.normal(key) + time.perf_counter_ns() % 1_000_003}

    with pytest.raises(RuntimeError, match=r"same program .*its versions are the same"):
        training.sweep(member, seeds=1, executor=Inline())

    facts = worker.facts()
    given = iter([facts | {"flax": "0.1"}, facts])
    monkeypatch.setattr(worker, "facts", lambda: next(given))
    with pytest.raises(RuntimeError, match=r"same program .* \(flax is .* there and 0.1 here\)"):
        training.sweep(member, seeds=1, executor=Inline())


def test_orders_that_differ_on_the_worker_are_refused():
    def orders(key):
        return jnp.full(3, time.perf_counter_ns() % 1_000_003)

    with pytest.raises(RuntimeError, match=r"by_seed\['orders'\] must make the same numbers"):
        training.sweep(
            lambda key, orders: {"value": orders}, seeds=1, by_seed={"orders": orders},
            executor=Inline(),
        )  # fmt: skip


def test_a_run_that_cannot_travel_is_refused():
    lock = threading.Lock()

    def member(key):
        with lock:
            return {"value": jax.random.normal(key)}

    with pytest.raises(TypeError, match=r"must be picklable .* make locks, files"):
        training.sweep(member, seeds=1, executor=Inline())


class LikeAClient:
    def get_executor(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("executor", "fix"),
    [
        (object(), r"pass e\.g\. dask"),
        ("processes", r"pass e\.g\. dask"),
        (LikeAClient(), r"pass its get_executor\(\)"),
    ],
)
def test_what_is_no_executor_is_refused(executor, fix):
    message = rf"executor must be a concurrent\.futures\.Executor, got .*{fix}"
    with pytest.raises(TypeError, match=message):
        training.sweep(draws(), seeds=1, executor=executor)


def test_a_worker_that_was_forked_late_is_refused(monkeypatch):
    executor = Inline(before=lambda number: monkeypatch.setattr(forking, "_forked_late", True))
    with pytest.raises(RuntimeError, match=r"a worker of a sweep must run .*spawn"):
        training.sweep(draws(), seeds=1, executor=executor)


def test_an_executor_that_was_shut_down_or_cancels_is_named():
    class Cancels(Inline):
        def submit(self, function, /, *arguments):
            future = super().submit(function, *arguments)
            if function is not worker.compute:
                return future
            future = Future()
            future.cancel()
            return future

    with pytest.raises(RuntimeError, match="executor must work until the sweep ends"):
        training.sweep(draws(), seeds=1, executor=Cancels())

    class ShutDown(Inline):
        def submit(self, function, /, *arguments):
            if function is worker.compute:
                raise RuntimeError("cannot schedule new futures after shutdown")
            return super().submit(function, *arguments)

    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    for executor in (ended, ShutDown()):
        with pytest.raises(RuntimeError, match=r"must work until .* make a new executor"):
            training.sweep(draws(), seeds=1, executor=executor)


@pytest.mark.parametrize(("threads", "calls"), [(1, 1), (3, 3)])
def test_members_are_divided_among_all_workers(threads, calls):
    with ThreadPoolExecutor(threads) as pool:
        counting = Counting(pool)
        counting._max_workers = pool._max_workers
        found = training.sweep(draws(), seeds=12, executor=counting)
    assert counting.calls == calls
    xarray.testing.assert_allclose(found, training.sweep(draws(), seeds=12))


def test_decompositions_and_convolutions_run_there_as_they_must():
    def member(key, *, scale):
        kernel = scale * jax.random.normal(key, (1, 1, 3, 3))

        def step(image, _):
            return jax.lax.conv(image, kernel, (1, 1), "SAME"), None

        image = jax.lax.scan(step, jnp.ones((1, 1, 5, 5)), None, 2)[0][0, 0]
        return {"image": image, "values": jnp.linalg.eigvalsh(image + image.T)}

    settings = {"over": {"scale": [0.1, 0.2]}, "seeds": 2}
    with ThreadPoolExecutor(4) as pool:
        found = training.sweep(member, executor=pool, **settings)
    plain = training.sweep(member, **settings)
    # Two convolutions of 9 products; eigenvalues to the rounding of the matrix.
    atol = 40 * np.finfo(np.float32).eps * np.abs(plain["values"]).max().item()
    xarray.testing.assert_allclose(found, plain, rtol=0, atol=atol)
