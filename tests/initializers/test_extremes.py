"""Draws at the ends of the floats: tails, bounds that rounding would reach, fans of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, truncnorm

from jaxdl import initializers

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "bounds", [(-2, 2), (1, 3), (2.1, 50), (2.5, 3), (6, 7), (-7, -6), (13, 14), (30, 31),
               (-9, -2.1)], ids=str
)  # fmt: skip
def test_a_tail_has_its_distribution(bounds):
    draws = initializers.truncated_normal(0.0, 1.0, *bounds)(KEY, (20_000,))
    assert (draws >= bounds[0]).all()
    assert (draws <= bounds[1]).all()
    # One key is right by chance in 999 of 1000.
    assert kstest(np.asarray(draws, np.float64), truncnorm(*bounds).cdf).pvalue > 1e-3


def test_bounds_of_a_tail_may_be_traced():
    def draw(lower):
        return initializers.truncated_normal(0.0, 1.0, lower, 7.0)(KEY, (100,))

    compiled = jax.jit(jax.vmap(draw))(jnp.array([-1.0, 6.0]))
    np.testing.assert_allclose(compiled, [draw(-1.0), draw(6.0)], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("bounds", [(100.0, 101.0), (-1.0, 1.0), (0.0, 1e-3)])
def test_the_upper_bound_is_never_drawn(dtype, bounds):
    draws = initializers.uniform(*bounds)(KEY, (100_000,), dtype)
    low, high = (jnp.asarray(bound, dtype) for bound in bounds)
    assert low <= draws.min()
    # To a half-precision dtype a draw is rounded once more.
    assert (draws.max() < high) | ((dtype != jnp.float32) & (draws.max() == high))
    # The mean of so many is off by 1e-3 of the width, rounding by half a unit in the last place.
    width = bounds[1] - bounds[0]
    slack = 5e-3 * width + 0.5 * float(jnp.finfo(dtype).eps) * max(map(abs, bounds))
    assert abs(draws.astype(jnp.float32).mean() - sum(bounds) / 2) < slack


def test_bounds_that_are_one_number_leave_it():
    draws = initializers.uniform(100.0, 100.0000001)(KEY, (3,))
    assert draws.tolist() == [100, 100, 100]


def test_fans_of_groups_and_of_transposed_kernels():
    # A depthwise 3 x 3 layer of 4 channels and 8 outputs: an input feeds two of them.
    assert initializers.compute_fans((3, 3, 1, 8), groups=4) == (9, 18)
    assert initializers.compute_fans((5, 8, 3), transposed=True) == (15, 40)
    draws = initializers.variance_scaling(1.0, "fan_out", groups=4)(KEY, (3, 3, 1, 400))
    np.testing.assert_allclose(draws.var() * 900, 1, atol=0.15)
    with pytest.raises(ValueError, match="groups must divide the 8 output channels, got 3"):
        initializers.compute_fans((3, 3, 1, 8), groups=3)


def test_names_of_layers_have_pytorchs_gain_and_true_is_no_number():
    for name in ("conv1d", "conv3d", "conv_transpose2d"):
        assert initializers.gain(name) == 1
    with pytest.raises(TypeError, match="a name or a function, and numbers"):
        initializers.gain("leaky_relu", negative_slope=True)
    with pytest.raises(TypeError, match="gain must be a number, got True"):
        initializers.glorot_normal(True)
