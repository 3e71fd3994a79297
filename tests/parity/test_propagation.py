"""Activations and gradients against PyTorch's, on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, models
from jaxdl.diagnostics import propagation

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def test_an_mlp_shows_the_moments_that_pytorch_computes():
    inputs = jax.random.normal(jax.random.key(0), (16, 6))
    labels = jnp.arange(16) % 3
    model = models.MLP([8, 8, 3])
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(1))
    measured = propagation(
        model, variables, {"inputs": inputs, "targets": labels}, loss=losses.cross_entropy
    )

    values = []
    value = torch.tensor(np.asarray(inputs))
    kernels = []
    for layer in range(3):
        parameters = variables["params"][f"dense_{layer}"]
        kernels.append(torch.tensor(np.asarray(parameters["kernel"]), requires_grad=True))
        value = value @ kernels[-1] + torch.tensor(np.asarray(parameters["bias"]))
        values.append(value)
        if layer < 2:
            value = torch.relu(value)
            values.append(value)
    for each in values:
        each.retain_grad()
    targets = torch.tensor(np.asarray(labels), dtype=torch.long)
    torch.nn.functional.cross_entropy(value, targets, reduction="sum").backward()

    # Three products of 8 float32 terms and back: 6 * 8 roundings of 6e-8, and cancellation.
    rtol = 1e-5
    for row, each in enumerate(values):
        np.testing.assert_allclose(measured.stddev[row], each.std(correction=0).item(), rtol=rtol)
        np.testing.assert_allclose(
            measured.gradient_stddev[row], each.grad.std(correction=0).item(), rtol=rtol
        )
    for row, kernel in zip((0, 2, 4), kernels, strict=True):
        np.testing.assert_allclose(
            measured.weight_gradient_norm[row], kernel.grad.norm().item() / 16, rtol=rtol
        )
