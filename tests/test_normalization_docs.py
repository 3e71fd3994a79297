"""What docs/normalization.md shows runs as it stands, and its numbers are so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import run_page

from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm


def test_the_page_runs():
    assert run_page("normalization.md") == 6


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.BatchNorm])
def test_fast_variance_is_noise_at_a_large_mean(make):
    # E[x^2] is 1e8, whose neighbours in float32 are 8 apart: the variance of 1 is lost, and where
    # it comes out as 0 the outputs are divided by the root of epsilon, 0.001 or 0.003.
    draw = np.random.default_rng(0).normal(size=(256, 256))
    x = jnp.asarray(10_000 + draw, jnp.float32)

    def deviation(norm):
        variables = norm.init(jax.random.key(0), x, **evaluating(norm))
        y = norm.bind(variables, mutable=["batch_stats"])
        return float(apply_norm(y, x, train=True).std())

    assert deviation(make()) > 100
    # Inputs at 1e4 are rounded to 2^-10, a thousandth of their deviation.
    assert deviation(make(use_fast_variance=False)) == pytest.approx(1.0, abs=1e-3)
    assert deviation(BatchNorm()) == pytest.approx(1.0, abs=1e-3)


def evaluating(norm):
    if isinstance(norm, BatchNorm):
        return {"train": False}
    return {"use_running_average": True} if isinstance(norm, nn.BatchNorm) else {}
