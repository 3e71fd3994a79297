"""Max-pooling against Flax's, values and gradients, ties and NaN included."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import max_pool

WINDOWS = [(2, 2), (3, 2), (1, 4), (1, 1)]


@functools.cache
def pooled(pool, shape):
    """(value, gradient) of each window, all of them in one program."""
    draw = np.random.default_rng(0)
    # Small integers: most windows hold ties.
    x = jnp.asarray(draw.integers(0, 3, shape), jnp.float32)

    @jax.jit
    def both(x, noise):
        found = []
        for window in WINDOWS:
            value, back = jax.vjp(lambda x, window=window: pool(x, window), x)
            found.append((value, back(noise[: value.size].reshape(value.shape))[0]))
        return found

    return both(x, jnp.asarray(draw.normal(size=x.size), jnp.float32))


def flaxs(x, window):
    return nn.max_pool(x, window, strides=window)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 7, 9, 2)])
def test_equals_flaxs_to_the_bit(window, shape):
    # No value is rounded: a maximum is one of the inputs, a gradient goes to one of them.
    index = WINDOWS.index(window)
    for ours, theirs in zip(
        pooled(max_pool, shape)[index], pooled(flaxs, shape)[index], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("place", range(4))
def test_a_nan_is_kept(place):
    x = np.arange(4.0, dtype=np.float32)
    x[place] = np.nan
    assert np.isnan(max_pool(jnp.asarray(x.reshape(1, 2, 2, 1)))).all()


@pytest.mark.parametrize("window", [(0, 2), (2, 5)])
def test_refuses_windows_that_do_not_fit(window):
    with pytest.raises(ValueError, match="must be 1 or more and fit into the image"):
        max_pool(jnp.zeros((1, 4, 4, 1)), window)
