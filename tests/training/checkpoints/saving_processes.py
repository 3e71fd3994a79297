"""Processes that save checkpoints, to be killed, to fail, or to end without a word.

Run: python saving_processes.py hold|kill|starve|forget FOLDER,
fail FOLDER return|raise|exit|forget, or share FOLDER PROCESS PORT.
"""

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Imported before the forks, which then have it already; no device is touched, so no thread runs.
import orbax.checkpoint  # noqa: F401

from jaxdl.training import checkpoints
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.packing import unpack

_KILLS = 20
# Opening takes some 100 ms, a save some 20: most of the moments fall into the loop of saves.
_LATEST_MOMENT = 0.3


def parts_of(step: int) -> dict[str, Any]:
    """NumPy arrays, which ask for no device."""
    random = np.random.default_rng(step)
    return {"state": {"kernel": random.normal(size=(100, 500)), "count": np.array(step)}}


def open_store(folder: Path) -> checkpoints.Store:
    return checkpoints.open(folder, identify(parts_of(0), config={}), keep=4)


def hold(folder: Path) -> None:
    with open_store(folder):
        print("held", flush=True)
        time.sleep(60)


def fail(folder: Path, manner: str) -> None:
    if manner == "forget":
        store = open_store(folder)
        print("saving", flush=True)
        store.save(1, parts_of(1))
        return
    with open_store(folder) as store:
        print("saving", flush=True)
        store.save(1, parts_of(1))
        if manner == "exit":
            sys.exit(143)
        if manner == "return":
            try:
                store.wait()
            except RuntimeError as error:
                print(error)
                sys.exit(3)


def check_every_step(folder: Path) -> list[int]:
    """The steps listed, each read in full and equal to what was saved."""
    steps = []
    for path in sorted(folder.glob("*-step-*")):
        manifest = on_disk.read_manifest(path)
        leaves = on_disk.read_leaves(path, manifest)
        read = unpack(parts_of(0), leaves)["state"]
        for name, expected in parts_of(manifest.step)["state"].items():
            np.testing.assert_array_equal(read[name], expected)
        steps.append(manifest.step)
    return steps


def go_on(folder: Path, report: int, most: int | None) -> None:
    """Look at the folder as it was left, tell, and save step after step."""
    leftovers = len(list(folder.glob(".partial-*")))
    steps = check_every_step(folder)
    with open_store(folder) as store:
        restored = store.restore(parts_of(0))
        newest = 0 if restored is None else restored[0]
        assert steps[-1:] == ([] if restored is None else [newest]), (steps, newest)
        os.write(report, json.dumps({"leftovers": leftovers, "steps": newest}).encode())
        if restored is not None:
            # Each save adds a line of its own; the lines of killed saves are gone.
            assert restored.lines == [{"step": one} for one in range(1, newest + 1)]
        step = newest
        while most is None or step < newest + most:
            step += 1
            store.save(step, parts_of(step), lines=[{"step": step}])


def kill(folder: Path) -> None:
    random = np.random.default_rng(0)
    told: list[dict[str, int]] = []
    killed = 0
    for moment in [*random.uniform(0, _LATEST_MOMENT, _KILLS), None]:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                go_on(folder, writer, most=1 if moment is None else None)
                status = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            told.append(json.loads(pipe.read(1000)))
        if moment is not None:
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == (0 if moment is None else -signal.SIGKILL), status
        killed += moment is not None
    leftovers = sum(look["leftovers"] for look in told)
    print(json.dumps({"killed": killed, "leftovers": leftovers, "steps": told[-1]["steps"]}))


def starve(folder: Path) -> None:
    """Restore with few file descriptors: the newest is whole, or the error passes."""
    import resource

    with open_store(folder) as store:
        for step in (1, 2, 3):
            store.save(step, parts_of(step), lines=[{"step": step}])
        assert store.restore(parts_of(0)) is not None  # everything is imported and started
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    outcomes = {"restored": 0, "refused": 0}
    for limit in range(3, highest + 64):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            with open_store(folder) as store:
                restored = store.restore(parts_of(0))
            assert restored is not None
            assert restored.step == 3
            outcomes["restored"] += 1
        except checkpoints.DamagedError:
            raise
        except Exception:
            outcomes["refused"] += 1
    print(json.dumps(outcomes))


def forget(folder: Path) -> None:
    """End while a save is under way, its store never closed."""
    open_store(folder).save(5, parts_of(5))


def share(folder: Path, process: str, port: str) -> None:
    """As one of two processes: save a state that both hold, and get it back from process 0."""
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def state(seed: int) -> dict[str, Any]:
        draw = jax.jit(
            lambda key: {"kernel": jax.random.normal(key, (50, 40)), "key": key},
            out_shardings=everywhere,
        )
        return {"state": draw(jax.random.key(seed))}

    def held(parts: dict[str, Any]) -> list[np.ndarray]:
        tree = parts["state"]
        key = jax.random.key_data(tree["key"].addressable_data(0))
        return [np.asarray(tree["kernel"].addressable_data(0)), np.asarray(key)]

    saved = state(3)
    identity = identify(saved, config={}, layout="mesh of 2")
    with checkpoints.open(folder, identity) as store:
        assert store.restore(saved) is None
        store.save(9, saved, extra={"best": 0.25}, lines=[{"loss": [1.0]}])
    with checkpoints.open(folder, identity) as store:
        restored = store.restore(state(4))
    assert restored is not None
    step, parts, extra, lines = restored
    assert step == 9
    assert not parts["state"]["kernel"].is_fully_addressable
    for one, other in zip(held(parts), held(saved), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (extra, lines) == ({"best": 0.25}, [{"loss": [1.0]}])
    sharded = jax.device_put(
        np.zeros(2, np.float32),
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")),
    )
    refused = []
    for changed in ({"bias": saved["state"]["kernel"]}, {"kernel": sharded}):
        try:
            checkpoints.open(folder, identify({"state": saved["state"] | changed}, config={}))
        except (ValueError, RuntimeError) as error:
            refused.append(f"{type(error).__name__}: {error}")
    apart = {"state": {"kernel": sharded}}
    with checkpoints.open(folder / "sharded", identify(apart, config={})) as store:
        try:
            store.save(1, apart)
        except TypeError as error:
            refused.append(f"TypeError: {error}")
    print(json.dumps(refused), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*fork\(\)")
    actions: dict[str, Callable[..., None]] = {
        "share": share,
        "hold": hold,
        "kill": kill,
        "starve": starve,
        "fail": fail,
        "forget": forget,
    }
    actions[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
