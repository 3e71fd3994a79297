"""The library's own rows: `fit`, ResNet-18, the record, a sweep, propagation."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import data, diagnostics, layers, losses, metrics, models, optimizers, training

from .measured import Measured, of_rounds, seconds_of

KEY = jax.random.key(0)


def fit(*, tiny: bool) -> list[Measured]:
    """784-128-10 as PyTorch's rows have it; a call of `fit`, from one epoch's end to the next."""
    examples, batch_size, rounds = 400 if tiny else 60_000, 100, 2 if tiny else 5
    dataset = data.Dataset("noise", noise(examples, (28, 28, 1)), None, None, tuple("0123456789"))
    ends: list[float] = []

    def note(event: training.Event) -> None:
        ends.append(time.perf_counter())

    training.fit(
        models.MLP([128, 10]),
        dataset,
        optimizers.adam(1e-3),
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=2 + rounds,
        batch_size=batch_size,
        key=KEY,
        observers=[note],
        progress=False,
    )
    note_of_row = f"an epoch of {examples:,}, batches of {batch_size}"
    return [of_rounds("fit", np.diff(ends)[-rounds:], "s", note_of_row)]


def resnet_float32(*, tiny: bool) -> list[Measured]:
    """ResNet-18 for images of 32 x 32; JAX multiplies float32 in TF32 on a GPU that has it."""
    return _resnet("float32", None, tiny)


def resnet_bfloat16(*, tiny: bool) -> list[Measured]:
    """The same; layers compute in bfloat16, parameters and statistics are float32."""
    return _resnet("bfloat16", jnp.bfloat16, tiny)


def _resnet(name: str, dtype: Any, tiny: bool) -> list[Measured]:
    depth, size, steps, rounds = (8, 4, 1, 2) if tiny else (18, 512, 20, 5)
    model = models.ResNet(depth, norm=layers.BatchNorm, dtype=dtype)
    optimizer = optimizers.momentum(0.1)
    batch = jax.device_put(vars(noise(size, (32, 32, 3))))
    sample = jnp.zeros((1, 32, 32, 3))
    state = training.init_state(KEY, model, optimizer, sample)
    step = jax.jit(
        training.make_train_step(model, optimizer, losses.cross_entropy),
        donate_argnums=0,
        compiler_options=training.compiler_options(convolutional=True),
    )

    def several() -> Any:
        nonlocal state
        for _ in range(steps):
            state, measured = step(state, batch)
        return measured

    seconds = np.array(seconds_of(several, rounds)) / steps
    rate = size / np.median(seconds)
    note = f"a train step of {size} images, momentum; {rate:,.0f} images/s"
    return [of_rounds(f"ResNet-{depth}, {name}", 1e3 * seconds, "ms", note)]


def record(*, tiny: bool) -> list[Measured]:
    """`cifar10_record`, whitened: seconds from images on the device to the decisions."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "beyond"))
    import cifar10_record as script

    if tiny:
        config = replace(
            script.PRESETS["smoke"], seeds=2, examples=100, test_examples=50, bfloat16=True
        )
        dataset, of = noisy_cifar10(100), "noise"
    else:
        config = replace(script.PRESETS["full"], seeds=4)
        ready = {entry.name for entry in data.available() if entry.ready}
        if "cifar10" in ready:
            dataset, of = data.load("cifar10"), "cifar10"
        else:
            dataset, of = noisy_cifar10(50_000), "noise, for cifar10 is not on this machine"
    _, rows = script.runs_of("whitened", config, dataset)
    seconds = [row["seconds"] for row in rows]
    accuracies = [row["accuracy"] for row in rows]
    first = f"{of}; the first run, with compilation, took {seconds[0]:.1f} s"
    return [
        of_rounds("CIFAR-10 record", seconds[1:], "s", first),
        of_rounds("its test accuracy", accuracies, "%", "94.0 at the paper's size"),
    ]


def sweep(*, tiny: bool) -> list[Measured]:
    """2-4-3-1 on 404 dwellings, Adam, 100 epochs of batches of 128; members in one program."""
    from jaxdl.training.sweep.by_seed import checked_by_seed
    from jaxdl.training.sweep.calls import prepare
    from jaxdl.training.sweep.program import trace_member

    epochs, counts = (2, (1, 4)) if tiny else (100, (1, 16, 256, 4096))
    task = training.Task(models.MLP([4, 3, 1]), losses.mean_squared_error)
    learn = training.make_run(task, optimizers.adam(0.01), batch_size=128)
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(404, 2)).astype(np.float32)
    train = {"train": data.Arrays(inputs, inputs.sum(1, keepdims=True))}

    def member(key: Any, orders: Any) -> Any:
        return {"loss": learn(key, train, orders)[1]["train"]["loss"][-1].mean()}

    found = []
    for count in counts:
        seeds = np.arange(count, dtype=np.uint32)
        shared = checked_by_seed(
            {"orders": lambda key: training.orders(key, epochs, 404)}, "shared", (), seeds
        )
        execute = prepare(trace_member(member, {}, by_seed=shared), count, None)
        last = np.full(count, np.nan)

        def call(count: int = count, last: Any = last, execute: Any = execute, given: Any = shared,
                 seeds: Any = seeds) -> None:  # fmt: skip
            def finished(members: np.ndarray, values: list[np.ndarray]) -> None:
                last[members] = values[0]

            execute((seeds, *given), np.arange(count), finished)

        seconds = np.array(seconds_of(call, 3))
        if not np.isfinite(last).all():
            raise RuntimeError(f"{np.isnan(last).sum()} of {count} members have no finite loss")
        each = f"{epochs} epochs; {1e3 * np.median(seconds) / count:.3g} ms a member"
        found.append(of_rounds(f"sweep, {count:,} member{'s' * (count > 1)}", seconds, "s", each))
    return found


def propagation(*, tiny: bool) -> list[Measured]:
    """Signal and gradient of every layer of a transformer, beside loss and gradient alone."""
    sequences, length, blocks = (2, 8, 2) if tiny else (16, 256, 12)
    tokens = np.random.default_rng(0).integers(0, 256, (sequences, length + 1)).astype(np.int32)
    batch = {"inputs": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    task = training.Task(
        models.Transformer(vocabulary=256, layers=blocks, length=length), losses.cross_entropy
    )
    variables = task.init(KEY, batch["inputs"])

    @jax.jit
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, _ = task.outputs({**variables, "params": params}, batch["inputs"], train=True)
            return task.loss(outputs, batch["targets"]).mean()

        return jax.value_and_grad(loss)(params)

    both = {
        "propagation": lambda: diagnostics.propagation(task, variables, batch).gradient_variance,
        "loss and gradient": lambda: gradient(variables["params"]),
    }
    note = f"transformer of {blocks} blocks, {sequences} sequences of {length}"
    return [
        of_rounds(what, 1e3 * np.array(seconds_of(call, 5)), "ms", note)
        for what, call in both.items()
    ]


def noise(examples: int, shape: tuple[int, ...]) -> data.Arrays:
    """Images of random bytes, as they are stored, with labels of ten classes."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (examples, *shape), np.uint8)
    return data.Arrays(images, draw.integers(0, 10, examples).astype(np.int32))


def noisy_cifar10(examples: int) -> data.Dataset:
    """Noise in the shapes of CIFAR-10, with a fifth as many images to test on."""
    splits = (noise(count, (32, 32, 3)) for count in (examples, examples // 5))
    train, test = splits
    return data.Dataset("noise", train, None, test, tuple("0123456789"))
