"""A run in a process of its own, to be killed or ended by a signal, and gone on with.

Run: python training_processes.py kill FOLDER, or train FOLDER [checkpoint_every [slow]].
"""

import functools
import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Imported before the forks, which then have it already.
import orbax.checkpoint  # noqa: F401

from jaxdl import data, layers, losses, models, optimizers
from jaxdl.observers import early_stopping
from jaxdl.training import fit
from jaxdl.training.fit.observing import Event, Observer

_KILLS = 20
# After one to five checkpoints, and up to as long as a save takes. Twenty such lives come to some
# 500 steps, and the run is longer.
_MOST_CHECKPOINTS = 5
_LATEST_MOMENT = 0.015
_CHECKPOINT_EVERY = 5
_EPOCHS = 50
# Steps of 100, and a smaller last one: 18 an epoch.
_EXAMPLES = 1797


def train(
    folder: Path | None,
    *,
    checkpoint_every: int | None = None,
    steps_per_call: int | None = None,
    told: Callable[[Event], Any] = lambda event: None,
) -> dict[str, Any]:
    """Everything a run may carry: dropout, running statistics, a remainder batch, memories."""
    draw = np.random.default_rng(0)
    inputs = draw.uniform(size=(_EXAMPLES, 8, 8)).astype(np.float32)
    arrays = data.Arrays(inputs, draw.integers(0, 10, _EXAMPLES).astype(np.int32))
    dataset = data.Dataset("noise", arrays, None, None, tuple("0123456789"))
    model = models.MLP(
        [32, 10], norm=functools.partial(layers.BatchNorm, momentum=0.9), dropout_rate=0.2
    )

    def count(event: Event, seen: jax.Array) -> tuple[jax.Array, None]:
        told(event)
        return seen + event.epoch_ended * event.epoch, None

    counted = Observer(count, lambda state: jnp.zeros((), jnp.int32))
    result = fit(
        model,
        dataset,
        optimizers.adam(1e-3),
        loss=losses.cross_entropy,
        epochs=_EPOCHS,
        batch_size=100,
        key=jax.random.key(0),
        observers=[counted, early_stopping(patience=_EPOCHS, split="train")],
        progress=False,
        steps_per_call=steps_per_call,
        checkpoint_dir=folder,
        checkpoint_every=checkpoint_every,
    )
    digest = hashlib.sha256()
    state = result.state
    held = (state.step, state.variables, state.opt_state, jax.random.key_data(state.key))
    for leaf in jax.tree.leaves((held, dict(result.history.steps), dict(result.history.train))):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return {"bits": digest.hexdigest(), "steps": len(result.history.steps["loss"])}


def forked(
    action: Callable[[int], None], kill_after: tuple[int, float] | None
) -> tuple[int, list[int]]:
    """Run `action` in a fork, killed so many lines and seconds after its start.

    Returns its exit status, and the steps that it told of, a line each.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action(writer)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "r") as pipe:
        steps = []
        if kill_after is not None:
            steps = [int(pipe.readline() or -1) for _ in range(kill_after[0])]
            time.sleep(kill_after[1])
            os.kill(pid, signal.SIGKILL)
        steps += map(int, pipe.read().split())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), steps


def kill(folder: Path) -> None:
    def never_killed(report: int) -> None:
        told = train(None, steps_per_call=7)
        (folder / "never_killed.json").write_text(json.dumps(told))
        os.write(report, f"{told['steps']}\n".encode())

    def go_on(report: int) -> None:
        told = train(
            folder / "checkpoints",
            checkpoint_every=_CHECKPOINT_EVERY,
            told=lambda event: os.write(report, f"{event.step}\n".encode()),
        )
        (folder / "killed.json").write_text(json.dumps(told))

    status, _ = forked(never_killed, None)
    assert status == 0
    random = np.random.default_rng(0)
    began = []
    for _ in range(_KILLS):
        after = (int(random.integers(1, _MOST_CHECKPOINTS + 1)), random.uniform(0, _LATEST_MOMENT))
        status, steps = forked(go_on, after)
        assert status == -signal.SIGKILL, status
        began.append(steps[0])
    status, steps = forked(go_on, None)
    assert status == 0, status
    print(json.dumps({"killed": len(began), "began": [*began, steps[0]]}))


def to_the_end(folder: Path, checkpoint_every: str = "", slow: str = "") -> None:
    """Tell of each step of an observer; `slow` gives a signal the time to fall between two."""

    def tell(event: Event) -> None:
        print(event.step, flush=True)
        if slow:
            time.sleep(0.05)

    every = int(checkpoint_every) if checkpoint_every else None
    print(json.dumps(train(folder, checkpoint_every=every, told=tell)), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*fork\(\)")
    actions: dict[str, Callable[..., None]] = {"kill": kill, "train": to_the_end}
    actions[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
