"""The gradient of each example: equal to a loop of gradients, for models of every kind."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign.everyone import MODELS, variables_of

from jaxdl import diagnostics, layers, losses, models, training
from jaxdl.diagnostics.noise.small_batches import settings_of, units_of

KEY = jax.random.key(3)
COUNT = 6


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def labels(classes=3):
    return jax.random.randint(jax.random.key(7), (COUNT,), 0, classes)


def in_half_precision(logits, targets):
    """The loss of a network that computes in bfloat16."""
    return losses.cross_entropy(logits, targets)


def by_a_loop(task, variables, batch, *, train, key=None):
    """Each example in a batch of its own."""
    params = variables["params"]

    def loss(params, inputs, targets, key):
        ready = task.preprocess(inputs)
        outputs = task.outputs({**variables, "params": params}, ready, train=train, key=key)[0]
        values = task.loss(outputs, targets)
        return (values[0] if isinstance(values, tuple) else values)[0]

    gradient = jax.jit(jax.grad(loss))
    found = []
    for index in range(len(jax.tree.leaves(batch["targets"])[0])):
        one = jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], batch)
        own = None if key is None else jax.random.fold_in(key, index)
        found.append(gradient(params, one["inputs"], one["targets"], own))
    return jax.tree.map(lambda *each: jnp.stack(each), *found)


def assert_equal_to_a_loop(task, variables, batch, *, train=True, key=None):
    found = diagnostics.example_gradients(task, variables, batch, train=train, key=key)
    expected = by_a_loop(task, variables, batch, train=train, key=key)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # Sums of float32 in another order. Of products of bfloat16 the loop rounds the gradient to 8
    # bits, at the last layer alone; the factors are multiplied in float32.
    rtol = 3e-4 if task.loss is not in_half_precision else 2.0**-7
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=3e-5 * largest)
    return found


class Mixed(nn.Module):
    """Strides, dilation, groups, a transposed convolution, a used-twice layer, a shared kernel."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 2), strides=(2, 1), padding="SAME", kernel_dilation=(1, 2))(x)
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, padding="VALID")(x))
        x = nn.tanh(nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x))
        twice = nn.Dense(3)
        x = twice(twice(x))
        x = nn.DenseGeneral((2, 3), axis=(-2, -1))(x)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3))
        return (x @ kernel.T @ jnp.tanh(kernel)).mean((1, 2))


def network(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"].T + params[-1]["b"]


def plain():
    params = [
        {"w": normal(4, 5, seed=1), "b": jnp.ones(5)},
        {"w": normal(3, 5, seed=2), "b": jnp.zeros(3)},
    ]
    task = training.Task(network, losses.cross_entropy)
    return task, {"params": params}, normal(COUNT, 4), labels()


def linen(model, inputs, targets=None, loss=losses.cross_entropy):
    task = training.Task(model, loss)
    variables = jax.jit(task.init)(jax.random.key(0), inputs)
    return task, variables, inputs, labels() if targets is None else targets


def of_equinox():
    model = eqx.nn.MLP(4, 3, 5, 2, key=jax.random.key(1))
    task = training.Task(model, losses.cross_entropy)
    return task, task.model.own, normal(COUNT, 4), labels()


def of_nnx():
    model = nnx.Sequential(
        nnx.Linear(4, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1))
    )
    task = training.Task(model, losses.cross_entropy)
    return task, task.model.own, normal(COUNT, 4), labels()


def transformer():
    ids = jax.random.randint(jax.random.key(2), (COUNT, 5), 0, 7)
    model = models.Transformer(7, features=8, layers=2, heads=2, blocks="remat", tied_head=True)
    task = training.Task(model, losses.cross_entropy)
    return task, jax.jit(task.init)(jax.random.key(0), ids), ids, jnp.roll(ids, -1, 1)


CASES = {
    "a plain function": (plain, {}),
    "Equinox": (of_equinox, {}),
    "NNX": (of_nnx, {}),
    "dropout": (
        lambda: linen(models.MLP([8, 3], dropout_rate=0.5), normal(COUNT, 4)),
        {"key": KEY},
    ),
    "running statistics": (
        lambda: linen(models.MLP([8, 3], norm=layers.BatchNorm), normal(COUNT, 4)),
        {"train": False},
    ),
    "convolutions": (lambda: linen(Mixed(), normal(COUNT, 7, 6, 2)), {}),
    "half precision": (
        lambda: linen(
            nn.Dense(3, dtype=jnp.bfloat16), normal(COUNT, 4), loss=in_half_precision
        ),
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_a_loop(name):
    make, settings = CASES[name]
    task, variables, inputs, targets = make()
    assert_equal_to_a_loop(task, variables, {"inputs": inputs, "targets": targets}, **settings)


def test_they_are_those_of_a_transformer_in_a_loop():
    task, variables, inputs, targets = transformer()
    assert_equal_to_a_loop(task, variables, {"inputs": inputs, "targets": targets}, key=KEY)


STRANGERS = [
    name
    for name, foreign in MODELS.items()
    if isinstance(foreign.inputs, jax.Array) and foreign.inputs.shape[0] == 8
][:3]


@pytest.mark.parametrize("name", STRANGERS)
def test_they_are_those_of_a_stranger_in_a_loop(name):
    foreign = MODELS[name]
    assert_equal_to_a_loop(foreign.task, variables_of(name), foreign.batch, train=False)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 100])
def test_pieces_change_nothing_but_rounding(batch_size):
    task, variables, inputs, targets = plain()
    whole = diagnostics.example_gradients(task, variables, (inputs, targets))
    pieces = diagnostics.example_gradients(
        task, variables, (inputs, targets), batch_size=batch_size
    )
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_one_example_has_a_gradient():
    task, variables, inputs, targets = plain()
    found = diagnostics.example_gradients(task, variables, (inputs[:1], targets[:1]))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(found)} == {1}


def test_an_example_of_weight_zero_has_none():
    task, variables, inputs, targets = plain()
    batch = {"inputs": inputs, "targets": targets, "weights": jnp.array([1.0, 0, 2, 1, 1, 1])}
    weighted = diagnostics.example_gradients(task, variables, batch)
    plainly = diagnostics.example_gradients(task, variables, (inputs, targets))
    for one, other in zip(jax.tree.leaves(weighted), jax.tree.leaves(plainly), strict=True):
        assert not one[1].any()
        np.testing.assert_allclose(np.delete(one, 1, 0), np.delete(other, 1, 0), rtol=1e-5)


class OfNNX(nnx.Module):
    """A batch norm of NNX."""

    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x))


class OfEquinox(eqx.Module):
    """A batch norm of Equinox."""

    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.head = eqx.nn.Linear(4, 3, key=key)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.head(x), state


NORMALISED = {
    "Linen": lambda: models.MLP([8, 3], norm=layers.BatchNorm),
    "NNX": lambda: OfNNX(nnx.Rngs(0)),
    "Equinox": lambda: eqx.nn.make_with_state(OfEquinox)(jax.random.key(0)),
}


@pytest.mark.parametrize("library", NORMALISED)
def test_a_norm_over_the_batch_is_refused_with_the_ways_out(library):
    task, variables, x, y = linen(NORMALISED[library](), normal(COUNT, 4))
    with pytest.raises(
        ValueError, match=r"must not depend on the others.*train=False.*small_batch"
    ):
        diagnostics.example_gradients(task, variables, (x, y))
    assert_equal_to_a_loop(task, variables, {"inputs": x, "targets": y}, train=False)
    assert diagnostics.gradient_noise(task, variables, (x, y), small_batch=2).norms.shape == (1, 3)


def test_what_moves_without_the_inputs_couples_nothing():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            steps = self.variable("batch_stats", "steps", lambda: jnp.zeros(()))
            if self.is_mutable_collection("batch_stats"):
                steps.value += 1
            return nn.Dense(3)(x)

    task, variables, inputs, targets = linen(Counting(), normal(COUNT, 4))
    assert_equal_to_a_loop(task, variables, {"inputs": inputs, "targets": targets})


@pytest.mark.parametrize("name", ["MLP", "ConvNet", "Equinox", "NNX"])
def test_every_kernel_of_a_usual_network_is_kept_as_factors(name):
    # A gradient of an example would need its size in memory: the benchmark's speed comes from this.
    make = {
        "MLP": lambda: linen(models.MLP([8, 3], dropout_rate=0.5), normal(COUNT, 4)),
        "ConvNet": lambda: linen(models.ConvNet([2, 3], [4, 3]), normal(COUNT, 8, 8, 1)),
        "Equinox": of_equinox,
        "NNX": of_nnx,
    }[name]
    task, variables, x, y = make()
    settings = settings_of(task, train=True, small_batch=1, batch_size=None)
    units = units_of(settings, variables, (x, y), KEY)
    met = {meeting.leaf for meeting in units.traced().meetings.values()}
    assert met == {leaf for leaf, values in enumerate(units.leaves) if values.ndim > 1}
