"""Norms, means and deviations against NumPy's in float64 and complex128."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.diagnostics.sizes import mean_and_deviation, norm, norms

COUNT = 300
# Sums of 300 terms, a root and two products; the parts of complex numbers double the terms.
TOLERANCE = 32 * 2.0**-24

SCALES = {
    "float32": (1e-32, 1e-30, 1e-19, 1.0, 1e10, 1e19, 1e30, 1e36),
    "complex64": (1e-32, 1e-30, 1.0, 1e19, 1e36),
    "bfloat16": (1e-32, 1e-30, 1.0, 1e30, 1e36),
    "float16": (1e-7, 1e-3, 1.0, 300.0, 1e4),
    "float64": (1e-300, 1e-200, 1.0, 1e200, 1e300),
}
CASES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


def drawn(dtype, scale, mean=0.5):
    draw = np.random.default_rng(0)
    values = (mean + draw.normal(size=COUNT)) * scale
    if dtype == "complex64":
        values = values + 2j * draw.normal(size=COUNT) * scale
    values = jnp.asarray(values, dtype)
    return values, np.asarray(values, np.complex128 if dtype == "complex64" else np.float64)


@pytest.mark.parametrize(("dtype", "scale"), CASES)
def test_norms_means_and_deviations_are_numpys(dtype, scale):
    with jax.enable_x64(dtype == "float64"):
        values, wide = drawn(dtype, scale)
        wide = wide / scale  # so that NumPy's squares are in range too
        tolerance = TOLERANCE * (2.0**-29 if dtype == "float64" else 1)
        mean, deviation = jax.jit(mean_and_deviation)(values)
        of_two = jax.jit(norm)([values[:100], values[100:].reshape(4, 50)])
        by_column = jax.jit(lambda values: norm([values], 0))(values.reshape(6, 50))
        assert {mean.dtype, deviation.dtype, of_two.dtype} == {
            jnp.dtype("float64" if dtype == "float64" else "float32")
        }
        for got, expected in (
            (mean, np.abs(wide.mean()) if dtype == "complex64" else wide.mean()),
            (deviation, wide.std()),
            (of_two, np.linalg.norm(wide)),
            (by_column, np.linalg.norm(wide.reshape(6, 50), axis=0)[None]),
        ):
            got = np.asarray(got, np.float64) / scale
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_a_small_spread_about_a_mean_is_seen():
    values, wide = drawn("float32", 1e-22, mean=1e4)
    mean, deviation = mean_and_deviation(values)
    np.testing.assert_allclose(mean, wide.mean(), rtol=TOLERANCE)
    # The mean is rounded to 1e-18 / 2^24 in each of the sums; its square adds to the variance.
    np.testing.assert_allclose(deviation, wide.std(), rtol=0.01)


def test_columns_of_all_sizes_have_their_own_unit():
    scales = np.array([1e-36, 1.0, 1e36])
    values = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)) * scales, jnp.float32)
    expected = np.linalg.norm(np.asarray(values, np.float64), axis=0)
    np.testing.assert_allclose(norm([values], 0)[0], expected, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("values", "size", "mean"),
    [
        ([0.0, 0.0], 0.0, 0.0),
        ([np.inf, 1.0], np.inf, np.inf),
        ([np.nan, 1.0], np.nan, np.nan),
        ([3e38, 3e38], np.inf, 3e38),
        ([1e-37, -1e-37], 2**0.5 * 1e-37, 0.0),
    ],
)
def test_the_ends(values, size, mean):
    values = jnp.array(values)
    np.testing.assert_allclose(norm([values]), size, rtol=TOLERANCE)
    np.testing.assert_allclose(mean_and_deviation(values)[0], mean, rtol=TOLERANCE)


def test_no_entries_have_the_norm_zero():
    assert norm([jnp.zeros((0, 3))]) == 0


def test_norms_of_many_groups_are_those_of_each():
    draw = np.random.default_rng(0)
    shapes = [[(2, 3), (2, 4, 5)], [(1, 7)], [(3, 0)], [(1, 300, 300)], [(2, 20), (2,)], [(1, 17)]]
    scales = [1.0, 1e-30, 1.0, 1e30, 1e19, np.nan]
    groups = [
        [jnp.asarray(scale * draw.normal(size=shape), jnp.float32) for shape in group]
        for group, scale in zip(shapes, scales, strict=True)
    ]
    expected = [
        np.linalg.norm(np.concatenate([np.asarray(each[i], np.float64).ravel() for each in group]))
        for group in groups
        for i in range(group[0].shape[0])
    ]
    # Sums of up to 90,000 terms, halved again and again by XLA, or in 16 lanes: see TOLERANCE.
    np.testing.assert_allclose(jax.jit(norms)(groups), expected, rtol=TOLERANCE)
    complex_too = [[jnp.array([[3 + 4j]]), jnp.array([[12.0]])], [jnp.array([[1j]])]]
    np.testing.assert_allclose(norms(complex_too), [13.0, 1.0], rtol=TOLERANCE)
