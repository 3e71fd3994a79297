"""The linear model around a point: what it equals there, and how it trains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.calling import adapt
from jaxdl.diagnostics import linearized, tangent_kernel

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 4))
Y = jnp.sin(3 * X[:, :1])


def half_square(outputs, targets):
    return 0.5 * jnp.square(outputs - targets).sum(-1)


def plain(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.one, self.two = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.two(jnp.tanh(self.one(x)))


MLP = models.MLP([8, 1], activation=jnp.tanh, norm=layers.BatchNorm, dropout_rate=0.3)


@jax.custom_vjp
def straight(x):
    """A straight-through estimator: the sign, with the gradient of the identity."""
    return jnp.sign(x)


straight.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


def binary(params, x):
    return straight(x @ params["in"]) @ params["out"]


MODELS = {
    "linen with norms and dropout": (MLP, MLP.init(KEY, X, train=False)),
    "plain": (
        plain,
        {"in": jax.random.normal(KEY, (4, 8)), "out": jax.random.normal(KEY, (8, 1))},
    ),
    "backward alone": (
        binary,
        {"in": jax.random.normal(KEY, (4, 8)), "out": jax.random.normal(KEY, (8, 1))},
    ),
    "equinox": (eqx.nn.MLP(4, 1, 8, 1, activation=jnp.tanh, key=KEY), None),
    "nnx": (Net(nnx.Rngs(0)), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradient_are_the_models_own_at_the_point(name):
    model, variables = MODELS[name]
    task = training.Task(model, half_square)
    linear = linearized(task, variables)
    start = linear.init(jax.random.key(5), X)
    own = start["point"]

    def loss(task, variables, params):
        outputs, _ = task.outputs({**variables, "params": params}, X, train=False)
        return half_square(outputs, Y).sum()

    here = loss(task, own, own["params"]), jax.grad(loss, 2)(task, own, own["params"])
    there = loss(linear, start, start["params"]), jax.grad(loss, 2)(linear, start, own["params"])
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # float32, in another order


@pytest.mark.parametrize("name", MODELS)
def test_it_is_linear_to_any_distance(name):
    model, variables = MODELS[name]
    linear = linearized(model, variables, half_square)
    start = linear.init(KEY, X)
    keys = iter(jax.random.split(KEY, 100))
    step = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), start["params"])

    def outputs(distance):
        moved = jax.tree.map(lambda a, b: a + distance * b, start["params"], step)
        return linear.outputs({**start, "params": moved}, X, train=True)[0]

    first = outputs(1.0) - outputs(0.0)
    np.testing.assert_allclose(
        outputs(10.0) - outputs(0.0), 10 * first, atol=1e-4 * abs(first).max() * 10
    )
    assert abs(first).max() > 0.1


def test_gradient_descent_is_kernel_regression():
    with jax.enable_x64(True):
        x, y = X.astype(jnp.float64), Y.astype(jnp.float64)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), MODELS["plain"][1])
        linear = linearized(plain, params, half_square)
        kernel = np.asarray(tangent_kernel(plain, params, {"inputs": x}).total)
        assert kernel.dtype == np.float64
        n, steps, rate = len(x), 40, 0.05
        learn = training.make_run(linear, optimizers.sgd(rate), batch_size=n)
        train = data.Arrays(x, y)
        orders = training.orders(KEY, epochs=steps, examples=n)
        state, _ = learn(KEY, {"train": train}, orders)
        found = np.asarray(linear.outputs(state.variables, x, train=False)[0])
        first = np.asarray(plain(params, x)) - np.asarray(y)
    # The loss is the mean over n examples, so a step multiplies the error by 1 - rate K / n.
    values, vectors = np.linalg.eigh(kernel / n)
    discrete = (vectors * (1 - rate * values) ** steps) @ vectors.T @ first
    np.testing.assert_allclose(found - np.asarray(y), discrete, atol=1e-12)
    flow = (vectors * np.exp(-rate * steps * values)) @ vectors.T @ first
    # (1 - a)^t is below exp(-a t) by at most a^2 t / 2 exp(-a (t - 1)).
    off = (rate * values) ** 2 * steps / 2 * np.exp(-rate * values * (steps - 1))
    allowed = np.linalg.norm(off) * np.linalg.norm(first)
    assert 0 < np.linalg.norm(found - np.asarray(y) - flow) < allowed
    assert np.linalg.norm(found - np.asarray(y)) < 0.7 * np.linalg.norm(first)


def wide_network(params, x):
    """In the neural-tangent parametrisation."""
    w, v = params
    return jnp.tanh(x @ w / 2) @ v / jnp.sqrt(v.shape[0])


def drift(width):
    """How far a trained network and its linearisation are apart, over how far the latter went."""
    one, two = jax.random.split(jax.random.key(width))
    params = (jax.random.normal(one, (4, width)), jax.random.normal(two, (width, 1)))
    task = training.Task(adapt(wide_network, init=lambda key: params), half_square)
    train = data.Arrays(X, Y)
    orders = training.orders(KEY, epochs=200, examples=len(X))
    outputs = []
    for each in (task, linearized(task, params)):
        learn = training.make_run(each, optimizers.sgd(0.5), batch_size=len(X))
        state, _ = learn(KEY, {"train": train}, orders)
        outputs.append(each.outputs(state.variables, X, train=False)[0])
    network, linear = outputs
    return float(
        jnp.linalg.norm(network - linear) / jnp.linalg.norm(linear - wide_network(params, X))
    )


def test_a_wide_network_follows_its_linearisation():
    narrow, wide = drift(16), drift(4096)
    # Lee et al. (2019): the distance falls like 1 / sqrt(width), here by 16; one draw each.
    assert wide < narrow / 4
    assert wide < 0.02


def test_fit_trains_it_and_leaves_the_point():
    model, variables = MODELS["linen with norms and dropout"]
    linear = linearized(model, variables, losses.mean_squared_error)
    dataset = data.Dataset("lines", data.Arrays(X, Y), validation=None, test=None)
    result = training.fit(
        linear, dataset, optimizers.momentum(0.1), epochs=5, batch_size=3, key=KEY
    )
    at = result.state.collections["point"]
    for a, b in zip(jax.tree.leaves(at), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), result.state.params, at["params"])
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_each_member_of_a_map_has_its_own_point():
    def final(scale):
        params = jax.tree.map(lambda leaf: scale * leaf, MODELS["plain"][1])
        linear = linearized(plain, params, half_square)
        learn = training.make_run(linear, optimizers.sgd(0.05), batch_size=6)
        orders = training.orders(KEY, epochs=3, examples=6)
        return learn(KEY, {"train": data.Arrays(X, Y)}, orders)[1]["train"]["loss"][:, 0]

    scales = jnp.array([0.5, 1.0])
    mapped = jax.vmap(final)(scales)
    for scale, row in zip(scales, mapped, strict=True):
        np.testing.assert_allclose(final(scale), row, rtol=1e-5)
    assert abs(mapped[0] - mapped[1]).max() > 1e-3


def test_what_cannot_be_linear_is_refused():
    with pytest.raises(ValueError, match="parameters under 'params', got none"):
        linearized(models.MLP([1]), {}, half_square)
    with pytest.raises(TypeError, match="a model needs a loss"):
        linearized(models.MLP([1]), MODELS["plain"][1])
    linear = linearized(plain, MODELS["plain"][1], half_square)
    with pytest.raises(ValueError, match="must have a point, got parameters alone"):
        tangent_kernel(linear.model.without_start(), MODELS["plain"][1], {"inputs": X})
