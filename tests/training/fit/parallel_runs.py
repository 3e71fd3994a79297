"""Runs for test_parallel.py, in processes of their own: JAX is told of its devices as it starts.

parallel_runs.py devices OUT            makes them on 8 devices
parallel_runs.py process I PORT OUT     as process I of 2, which have 2 devices each
"""

import functools
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.data.streamed import Streamed
from jaxdl.layers import BatchNorm
from jaxdl.training.fit import layouts

# Runs of equal settings share what is compiled.
OPTIMIZER = optimizers.momentum(0.1)


def dataset(examples):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 3, count).astype(np.int32))

    return data.Dataset("noise", arrays(examples), arrays(20), arrays(31), tuple("abc"))


def shift(key, images):
    return images + 0.1 * jax.random.normal(key, images.shape)


def run(layout, *, dropout=0.0, examples=80, given=None, epochs=4, **changes):
    return training.fit(
        models.MLP([16, 3], norm=functools.partial(BatchNorm), dropout_rate=dropout),
        given or dataset(examples),
        OPTIMIZER,
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=epochs,
        batch_size=16,
        key=jax.random.key(0),
        parallel=layout,
        **changes,
    )


def kept(name, result):
    """What is compared, as arrays by name."""
    tree = {
        "params": result.state.params,
        "batch_stats": result.state.batch_stats,
        "steps": dict(result.history.steps),
        "validation": dict(result.history.validation),
        "test": result.evaluate("test"),
    }
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(value) for path, value in flat}


def on_devices():
    everything = {}
    for name, layout in {"jit": "jit", "mesh": "auto", "pmap": "pmap"}.items():
        everything |= kept(f"{name} plain", run(layout))
        everything |= kept(f"{name} remainder", run(layout, examples=83))
        dropped = run(layout, dropout=0.2, augment=shift)
        everything |= kept(f"{name} dropout", dropped)
    again = run("pmap", dropout=0.2, augment=shift)
    everything |= kept("pmap again", again)
    square = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    everything |= kept("square dropout", run(square, dropout=0.2, augment=shift))
    return everything | {"masks": masks()}


def masks():
    """The dropout of one step under pmap, a row a device: which inputs of ones are kept."""
    seen = {}

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            jax.debug.callback(
                lambda i, values: seen.setdefault(int(i), np.asarray(values)),
                jax.lax.axis_index(layouts.AXIS),
                x,
            )
            return nn.Dense(1)(x)

    model, optimizer = Dropped(), optimizers.sgd(0.1)
    step = training.make_train_step(
        model, optimizer, losses.mean_squared_error, axis_name=layouts.AXIS
    )
    params = {"Dense_0": {"kernel": jnp.ones((32, 1)), "bias": jnp.zeros(1)}}
    state = training.TrainState(jnp.int32(0), params, {}, optimizer.init(params), jax.random.key(0))
    batch = {"inputs": jnp.ones((8, 1, 32)), "targets": jnp.ones((8, 1, 1))}
    jax.block_until_ready(
        jax.pmap(step, axis_name=layouts.AXIS, in_axes=(None, 0), out_axes=None)(state, batch)
    )
    jax.effects_barrier()
    return np.stack([seen[i].ravel() for i in range(8)])


def in_processes(process, port, folder):
    layouts.initialize(f"127.0.0.1:{port}", processes=2, process=process)
    assert jax.device_count() == 4
    everything = kept("mesh dropout", run("auto", dropout=0.2, augment=shift))
    everything |= kept("mesh remainder", run("auto", examples=83))
    whole = dataset(80)
    streamed = data.Dataset("stream", Streamed(whole.train), whole.validation, whole.test)
    everything |= kept("stream", run("auto", dropout=0.2, augment=shift, given=streamed))
    settings = {"dropout": 0.2, "augment": shift, "checkpoint_dir": folder}
    half = run("auto", epochs=2, **settings)
    assert int(half.state.step) == 10
    return everything | kept("resumed", run("auto", epochs=4, **settings))


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        np.savez(sys.argv[2], **on_devices())
    else:
        process, out = int(sys.argv[2]), Path(sys.argv[4])
        np.savez(out / f"{process}.npz", **in_processes(process, sys.argv[3], out / "saved"))
