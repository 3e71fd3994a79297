"""The program of `propagation` stays in proportion to the gradient's, and equal parts are one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import diagnostics, losses, models, training
from jaxdl.diagnostics.objective import mean_loss
from jaxdl.diagnostics.signal.activation_slopes import map_alike
from jaxdl.jaxprs import equations

BATCH = {"inputs": jnp.linspace(-1, 1, 32).reshape(8, 4), "targets": jnp.zeros((8, 4))}


def sizes(layers, width=4):
    """Equations of the gradient, and of the propagation, for so many equal layers."""
    task = training.Task(models.MLP([width] * layers), losses.mean_squared_error)
    variables = task.init(jax.random.key(0), BATCH["inputs"])
    loss = mean_loss(task, variables, BATCH, train=True, key=None)
    gradient = jax.make_jaxpr(jax.value_and_grad(loss))(variables["params"])
    measured = jax.make_jaxpr(lambda v: diagnostics.propagation(task, v, BATCH))(variables)
    return np.array([sum(1 for _ in equations(each.jaxpr)) for each in (gradient, measured)])


def test_a_layer_more_costs_no_reductions_of_its_own():
    gradient, measured = sizes(12) - sizes(8)
    # Its own values, their labels and copies into what is measured together.
    assert measured < 3 * gradient


def test_equal_activations_are_one_program_and_others_are_not(monkeypatch):
    traced = []

    def spied(function, activations):
        def once(slope):
            traced.append(slope)
            return function(slope)

        return map_alike(once, activations)

    monkeypatch.setattr("jaxdl.diagnostics.signal.recording.map_alike", spied)

    def model(params, x):
        for number, kernel in enumerate(params["kernels"]):
            x = x @ kernel
            x = jnp.tanh(x) if number % 2 else jax.nn.relu(x)
        return x @ params["last"]

    draw = np.random.default_rng(0)
    params = {
        "kernels": [jnp.asarray(draw.normal(size=(4, 4)), jnp.float32) for _ in range(6)],
        "last": jnp.eye(4),
    }
    loss = losses.mean_squared_error
    measured = diagnostics.propagation(model, params, BATCH, loss=loss, saturation=0.5)
    assert len(traced) == 2
    # tanh'(z) = 1 - tanh(z)^2; a ReLU that is off gives 0, one that is on has the slope 1.
    value, expected = np.asarray(BATCH["inputs"], np.float64), []
    for number, kernel in enumerate(params["kernels"]):
        z = value @ np.asarray(kernel, np.float64)
        value = np.tanh(z) if number % 2 else np.maximum(z, 0)
        slope = 1 - value**2 if number % 2 else (z > 0) * 1.0
        limit = min(0.5, max(slope.max(), 1 - np.tanh(1e-3) ** 2) / 10)
        expected.append(np.mean((slope < limit) & (value != 0)))
    known = measured.saturated_fraction[~np.isnan(measured.saturated_fraction)]
    np.testing.assert_allclose(known, expected, atol=1e-6)
    assert max(expected[1::2]) > 0


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_with_few_activations_is_measured_too(layers):
    gradient, measured = sizes(layers)
    assert 0 < gradient < measured
