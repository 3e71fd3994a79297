"""Networks of layers with derivatives by hand: chained, they are those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import backpropagation, initializers, models
from jaxdl.jaxprs import operations

TANH = backpropagation.elementwise(jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2)


def network_and_inputs():
    model = models.MLP([5, 3], activation=jnp.tanh, kernel_init=initializers.normal())
    x = jax.random.normal(jax.random.key(1), (4, 2))
    params = model.init(jax.random.key(0), x, train=False)["params"]
    return model, params, x


def test_backward_push_and_jacobian_are_jaxs():
    model, params, x = network_and_inputs()
    network = backpropagation.mlp(params, TANH)
    delta, change = jnp.cos(jnp.arange(12.0)).reshape(4, 3), jnp.sin(x)

    def outputs(params, x):
        return model.apply({"params": params}, x, train=False)

    y, pull = jax.vjp(outputs, params, x)
    by_params, by_input = pull(delta)
    values = backpropagation.forward(network, x)
    deltas, gradients = backpropagation.backward(network, values, delta)
    # Sums of at most 5 terms of size 1 to 10, in float32.
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(values[-1], y, **tolerance)
    np.testing.assert_allclose(deltas[0], by_input, **tolerance)
    for place, name in ((0, "dense_0"), (2, "dense_1")):
        for part in ("kernel", "bias"):
            np.testing.assert_allclose(gradients[place][part], by_params[name][part], **tolerance)
    assert gradients[1] == {}
    pushed = jax.jvp(lambda x: outputs(params, x), (x,), (change,))[1]
    np.testing.assert_allclose(backpropagation.push(network, x, change), pushed, **tolerance)
    jacobian = jax.jacobian(lambda one: outputs(params, one[None])[0])(x[0])
    np.testing.assert_allclose(backpropagation.jacobian(network, x[:1]), jacobian, **tolerance)


def test_softmax_times_is_its_jacobian_and_mean_loss_divides_by_the_examples():
    x, by = jnp.array([[0.3, -1.0, 2.0]]), jnp.array([[1.0, -2.0, 0.5]])
    p = np.exp(np.asarray(x, np.float64)) / np.exp(np.asarray(x, np.float64)).sum()
    full = np.diag(p[0]) - np.outer(p, p)
    softmax = backpropagation.softmax_layer()
    np.testing.assert_allclose(softmax.push({}, x, by)[0], full @ np.asarray(by)[0], atol=1e-6)
    squared = backpropagation.mean_loss(lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t))
    y, t = jnp.array([1.0, 4.0]), jnp.array([0.0, 1.0])
    assert squared.forward(t, y) == 5
    assert squared.by_input(t, y, 2.0).tolist() == [2, 6]
    assert squared.push(t, y, jnp.ones(2)) == 4


def test_operations_are_counted_inside_compiled_functions_and_moves_are_free():
    x, w = jnp.ones((7, 5)), jnp.ones((5, 3))
    program = jax.make_jaxpr(jax.jit(lambda x: (jnp.maximum(x @ w, 0).T, x.sum())))(x)
    # 2 for each term of the product, 1 for each maximum, 1 for each number that is summed.
    assert operations(program.jaxpr) == 2 * 7 * 5 * 3 + 7 * 3 + 7 * 5
