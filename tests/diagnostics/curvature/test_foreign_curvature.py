"""Curvature of models as strangers write them: several inputs, outputs that are no array, scans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign.everyone import KEY, MODELS, variables_of
from jax.flatten_util import ravel_pytree

from jaxdl import diagnostics
from jaxdl.diagnostics.objective import mean_loss


@pytest.mark.parametrize("name", ["siamese", "lists"])
def test_the_eigenvalue_is_that_of_the_dense_matrix(name):
    foreign, variables = MODELS[name], variables_of(name)
    flat, unravel = ravel_pytree(variables["params"])
    loss = mean_loss(foreign.task, variables, foreign.batch, train=foreign.train, key=KEY)
    dense = np.asarray(jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))(flat), np.float64)
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = diagnostics.sharpness(
        foreign.task, variables, foreign.batch, train=foreign.train, key=KEY, tolerance=1e-4
    )
    # Both are float32: rounding of the largest eigenvalue in size.
    np.testing.assert_allclose(found.largest[0], values[-1], atol=1e-5 * abs(values).max())
    bent = diagnostics.sharpness(
        foreign.task, variables, foreign.batch, train=foreign.train, key=KEY, matrix="gauss_newton"
    )
    assert bool(bent.converged.all())
    assert jnp.isfinite(bent.largest).all()
