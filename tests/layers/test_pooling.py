"""Max-pooling against Flax's, values and gradients, ties and NaN included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import max_pool


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 4), (1, 1)])
@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 7, 9, 2)])
def test_equals_flaxs_to_the_bit(window, shape):
    # Small integers: most windows hold ties.
    x = jax.random.randint(jax.random.key(0), shape, 0, 3).astype(jnp.float32)
    value, back = jax.vjp(lambda x: max_pool(x, window), x)
    expected, flaxs = jax.vjp(lambda x: nn.max_pool(x, window, strides=window), x)
    np.testing.assert_array_equal(value, expected)
    upstream = jax.random.normal(jax.random.key(1), value.shape)
    np.testing.assert_array_equal(back(upstream)[0], flaxs(upstream)[0])


@pytest.mark.parametrize("place", range(4))
def test_a_nan_is_kept(place):
    x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(max_pool(x)).all()


@pytest.mark.parametrize("window", [(0, 2), (2, 5)])
def test_refuses_windows_that_do_not_fit(window):
    with pytest.raises(ValueError, match="must be 1 or more and fit into the image"):
        max_pool(jnp.zeros((1, 4, 4, 1)), window)
