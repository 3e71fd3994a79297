"""What a pickled thing computes, in the process that made it and in one that loads it."""

import functools
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.factories import factory

KEY = jax.random.key(7)
VECTORS = jnp.linspace(-2.0, 2.0, 12).reshape(4, 3)
TARGETS = jnp.ones((4, 3))
BATCH = {"inputs": VECTORS, "targets": TARGETS}
IMAGES = jnp.arange(2 * 32 * 32 * 3, dtype=jnp.uint8).reshape(2, 32, 32, 3)
TOKENS = jnp.array([[0, 3, 2], [1, 1, 0]])
SEQUENCE = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
PARAMS = {"dense": {"kernel": VECTORS, "bias": jnp.array([0.5, -1.0, 2.0])}}


def linear(params, x):
    return x @ params["kernel"]


def linear_start(key):
    return {"kernel": jax.random.normal(key, (3, 3))}


@factory
def clipped(rate):
    return optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(rate))


def norms(gradients, updates):
    return jnp.stack([jnp.linalg.norm(tree["dense"]["kernel"]) for tree in (gradients, updates)])


class Measure:
    def __call__(self, gradients, updates):
        return jnp.ones(())


def quiet(event, *measured):
    """A report of nothing."""


def noticed(event, memory):
    return memory, None


def state_of(task, optimizer):
    return training.init_state(KEY, task, optimizer, VECTORS)


def weights(init):
    return jax.jit(init, static_argnums=1)(KEY, (8, 8))


def kernel_weights(init):
    return jax.jit(init, static_argnums=1)(KEY, (3, 3, 4, 8))


def rates(schedule):
    return jax.jit(schedule)(jnp.arange(20))


def updates(optimizer):
    return jax.jit(functools.partial(_updates, optimizer))()


def _updates(optimizer):
    state, params, every = optimizer.init(PARAMS), PARAMS, []
    for factor in (1.0, -0.5):
        gradients = jax.tree.map(lambda p, factor=factor: factor * (p - 0.25), params)
        changes, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, changes)
        every.append(changes)
    return every, state


def sharp_updates(optimizer):
    """Of SAM, which asks for gradients."""
    gradients = jax.tree.map(jnp.sin, PARAMS)
    return optimizer.update(
        gradients, optimizer.init(PARAMS), PARAMS, grad_fn=lambda at, i: jax.tree.map(jnp.sin, at)
    )


def _outputs(model, inputs, **mode):
    def run():
        variables = model.init({"params": KEY, "dropout": KEY}, inputs, **mode)
        return variables, model.apply(variables, inputs, **mode)

    return jax.jit(run)()


def on_vectors(model):
    return _outputs(model, VECTORS, train=False)


def on_images(model):
    return _outputs(model, IMAGES / 255, train=False)


def on_sequence(model):
    return _outputs(model, SEQUENCE, train=False)


def on_tokens(model):
    return _outputs(model, TOKENS, train=False)


def outputs_of_layer(layer):
    return _outputs(layer, VECTORS)


def adapted_outputs(model):
    task = training.Task(model, losses.mean_squared_error)
    variables = task.init(KEY, VECTORS)
    return variables, task.outputs(variables, VECTORS, train=False)[0]


def task_outputs(task):
    return task.outputs(task.init(KEY, VECTORS), VECTORS, train=False)[0]


def small_state():
    return state_of(models.MLP([3]), optimizers.adam(0.1))


def stepped(step):
    return vars(jax.jit(step)(small_state(), BATCH)[0])


def evaluated(step):
    return jax.jit(step)(small_state().variables, BATCH)


def epoch_of(epoch):
    return vars(epoch(small_state(), BATCH, jnp.array([[0, 1], [2, 3]]))[0])


def whole_run(run):
    orders = training.orders(KEY, epochs=1, examples=4)
    state, measured = run(KEY, {"train": data.Arrays(VECTORS, TARGETS)}, orders)
    return vars(state), measured


def memory(observer):
    return observer.init(None)


def arrays(thing):
    """The arrays that a plain container holds."""
    return [leaf for leaf in jax.tree.leaves(vars(thing)) if hasattr(leaf, "dtype")]


def settings(thing):
    return [np.asarray(value) for value in vars(thing).values() if isinstance(value, int | float)]


def factors_by_width(parametrization):
    return [np.asarray(row[2:]) for row in parametrization.parameters]


def split_arrays(dataset):
    return dataset.train.inputs, dataset.train.targets


def examples(streamed):
    return streamed.read(np.array([2, 0]))


def scaled(scaler):
    return scaler.transform(np.asarray(VECTORS)), scaler.inverse(np.asarray(VECTORS))


def images(function):
    return function(IMAGES)


def augmented(augment):
    return jax.jit(augment)(KEY, IMAGES)


def number(error):
    return np.asarray(getattr(error, "step", 0))


def measured(probe, thing):
    """Its text, and to the bit the numbers that it gives."""
    tree = probe(thing)
    leaves = [
        jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    held = [np.asarray(leaf) for leaf in leaves]
    return repr(thing), [f"{leaf.dtype}{leaf.shape}{leaf.tobytes().hex()}" for leaf in held]


def answer(folder):
    """Load each of the pickles of a folder, with its probe, and write what it computes."""
    stored = pickle.loads(Path(folder, "stored").read_bytes())
    found = {name: measured(*pickle.loads(each)) for name, each in stored.items()}
    Path(folder, "found").write_bytes(pickle.dumps(found))


def train(model, optimizer, observers, dataset):
    """The losses of a run of what another process made."""
    result = training.fit(
        model,
        dataset,
        optimizer,
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=3,
        batch_size=5,
        key=KEY,
        observers=observers,
    )
    return result.history.steps["loss"].tolist(), result.stopped
