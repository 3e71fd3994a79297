"""Scalers see the training split alone, and equal the definition computed in full precision."""

import inspect
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data import (
    Arrays,
    Dataset,
    Streamed,
    image_statistics,
    load,
    normalize_images,
    shrink_images,
    split,
    standardize,
)


@pytest.fixture(scope="module")
def housing():
    return split(load("boston_housing"), key=jax.random.key(0))


def test_the_training_split_gets_mean_0_and_variance_1(housing):
    scaled, _ = standardize(housing)
    train = scaled.train.inputs.astype(np.float64)
    # Each value is rounded to float32 once: relative error 2^-24, and |z| < 10 here, so a mean of
    # such values is off by less than 10 * 2^-24 = 6e-7 and a mean square by 2 * 10 times that.
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=6e-7)
    np.testing.assert_allclose((train**2).mean(axis=0), 1, atol=1.2e-5)
    assert scaled.train.inputs.dtype == np.float32


def test_the_other_splits_are_scaled_by_the_training_statistics(housing):
    scaled, scaler = standardize(housing)
    mean = housing.train.inputs.astype(np.float64).mean(axis=0)
    std = housing.train.inputs.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(scaler.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(scaler.std, std, rtol=1e-12)
    for part in ("validation", "test"):
        before, after = getattr(housing, part).inputs, getattr(scaled, part).inputs
        np.testing.assert_allclose(after, (before - mean) / std, rtol=1e-6)


def test_what_is_outside_the_training_split_cannot_change_the_scaler(housing):
    spoiled = Dataset(
        housing.name,
        train=housing.train,
        validation=Arrays(1e6 * housing.validation.inputs, housing.validation.targets),
        test=Arrays(1e6 * housing.test.inputs, housing.test.targets),
    )
    chex.assert_trees_all_equal(vars(standardize(housing)[1]), vars(standardize(spoiled)[1]))


def test_targets_are_scaled_instead_of_inputs(housing):
    scaled, scaler = standardize(housing, targets=True)
    assert scaled.train.inputs is housing.train.inputs
    assert abs(scaled.train.targets.mean(dtype=np.float64)) < 6e-7
    back = scaler.inverse(scaled.test.targets)
    np.testing.assert_allclose(back, housing.test.targets, rtol=1e-5)


def test_inverse_undoes_transform(housing):
    scaled, scaler = standardize(housing)
    # Rounding z to float32 moves x by at most |z| sigma 2^-24.
    atol = float(np.abs(scaled.train.inputs).max() * scaler.std.max() * 2**-23)
    np.testing.assert_allclose(scaler.inverse(scaled.train.inputs), housing.train.inputs, atol=atol)


def test_a_constant_feature_is_refused_by_name(housing):
    inputs = housing.train.inputs.copy()
    # 0.1 is no float32: its computed deviation from its computed mean need not be zero.
    inputs[:, 5] = np.float32(0.1)
    dataset = Dataset(
        "d", Arrays(inputs, housing.train.targets), None, None, features=housing.features
    )
    with pytest.raises(ValueError, match=r"got 1 constant, the first being RM \(column 5\)"):
        standardize(dataset)


def test_a_constant_pixel_is_refused_by_place():
    with pytest.raises(ValueError, match=r"the first being feature \(0, 0, 0\)"):
        standardize(load("digits"))


def test_labels_and_bytes_are_refused():
    images = Arrays(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))
    dataset = Dataset("d", images, None, None, classes=("a", "b"))
    with pytest.raises(ValueError, match="inputs of uint8; pass images through normalize_images"):
        standardize(dataset)
    with pytest.raises(ValueError, match="takes regression targets, got the labels of d"):
        standardize(dataset, targets=True)


def test_a_split_that_is_read_batch_by_batch_is_refused():
    streamed = Streamed(Arrays(np.zeros((3, 1)), np.zeros((3, 1))))
    with pytest.raises(TypeError, match=r"takes data\.Arrays, got Streamed; scale examples in dec"):
        standardize(Dataset("streamed", streamed, None, None))


def test_a_training_split_with_nan_is_refused():
    arrays = Arrays(np.array([[1.0], [np.nan]]), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="inputs must be finite"):
        standardize(Dataset("d", arrays, None, None))


def standardized(values):
    values = np.asarray(values)
    scaled, scaler = standardize(Dataset("d", Arrays(values, np.zeros(len(values))), None, None))
    return scaled.train.inputs, scaler


@pytest.mark.parametrize(
    ("dtype", "power"),
    [
        *[(np.float64, p) for p in (-960, -660, -520, 520, 660, 1020)],
        *[(np.float32, p) for p in (-120, -100, 100, 124)],
        *[(np.float16, p) for p in (-10, 12)],
    ],
)
def test_a_power_of_two_of_the_unit_changes_no_bit(dtype, power):
    # From 1e-289 to 1e307: neither the squares nor the sums of such values are in float64.
    base = np.random.default_rng(0).integers(-512, 512, (50, 3)).astype(dtype) / 128
    found, scaler = standardized(np.ldexp(base, power))
    expected, unscaled = standardized(base)
    wide = base.astype(np.float64)
    # One rounding to the dtype, of values below 4, and float64's of 50 values.
    atol = 4 * (np.finfo(dtype).eps + 50 * np.finfo(np.float64).eps)
    np.testing.assert_allclose(expected, (wide - wide.mean(0)) / wide.std(0), atol=atol, rtol=0)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scaler.mean, np.ldexp(unscaled.mean, power))
    np.testing.assert_array_equal(scaler.std, np.ldexp(unscaled.std, power))


@pytest.mark.parametrize("unit", [1e200, 1e-200, 1e-290, 1.7e308, 1.0])
def test_the_scaler_is_right_for_values_of_any_size(unit):
    values = np.array([[-1.0], [1.0], [1.0], [0.5]]) * unit
    found, scaler = standardized(values)
    exact = [Fraction(value) for value in values[:, 0]]
    mean = sum(exact) / 4
    variance = float(sum((x - mean) ** 2 for x in exact) / 4 / Fraction(unit) ** 2)
    # Ten roundings of float64.
    rtol = 10 * np.finfo(np.float64).eps
    np.testing.assert_allclose(scaler.mean, [float(mean)], rtol=rtol)
    np.testing.assert_allclose(scaler.std / unit, [variance**0.5], rtol=rtol)
    z = [float((x - mean) / Fraction(unit)) / variance**0.5 for x in exact]
    np.testing.assert_allclose(found[:, 0], z, rtol=rtol)
    np.testing.assert_allclose(scaler.inverse(found), values, rtol=rtol)


def test_a_feature_below_the_smallest_normal_number_is_refused_by_name():
    with pytest.raises(ValueError, match=r"vary by at least 2\.2.*e-308.*column 1; give it"):
        standardized([[1.0, 0.0], [2.0, 1e-310]])


def test_a_value_that_the_dtype_cannot_hold_is_refused():
    train = Arrays(np.array([[0.0], [0.01]], np.float16), np.zeros(2))
    test = Arrays(np.array([[60_000.0]], np.float16), np.zeros(1))
    with pytest.raises(ValueError, match=r"within float16, got .*convert the values to a wider"):
        standardize(Dataset("d", train, None, test))
    _, scaler = standardized(np.array([[0.0], [60_000.0]], np.float16))
    with pytest.raises(ValueError, match="within float16"):
        scaler.inverse(np.array([[3.0]], np.float16))
    # What was not finite before is left as it is.
    assert np.isnan(scaler.inverse(np.array([[np.nan]], np.float16))).all()


@pytest.mark.parametrize("unit", [2.0**-900, 2.0**-600, 1.0])
def test_image_statistics_are_right_for_any_unit(unit):
    values = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3)) / 256
    mean, std = image_statistics(values * unit)
    np.testing.assert_allclose(mean / unit, values.mean((0, 1, 2)), rtol=1e-14)
    np.testing.assert_allclose(std / unit, values.std((0, 1, 2)), rtol=1e-14)


@pytest.mark.parametrize("count", [1, 999, 2_500])  # below, at and across the chunks' borders
def test_uint8_statistics_are_those_of_float64(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 2, 3), np.uint8)
    mean, std = image_statistics(images)
    values = images.astype(np.float64) / 255
    # float64 sums of 15,000 values agree to about 1e-13; the histogram itself is exact.
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-12)


def test_uint8_and_float_images_agree():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    exact, floats = image_statistics(images), image_statistics(images / 255)
    np.testing.assert_allclose(exact, floats, rtol=1e-12)


def test_an_image_of_one_intensity_has_deviation_exactly_0():
    _, std = image_statistics(np.full((10, 3, 3, 1), 77, np.uint8))
    assert std.tolist() == [0.0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 2, 2, 1), np.uint8), "n at least 1"),
        (np.zeros((5, 2, 2), np.uint8), r"got \(5, 2, 2\)"),
        (np.zeros((5, 2, 2, 1), np.int32), "uint8 or floats, got int32"),
        (np.full((5, 2, 2, 1), 16.0), r"in \[0, 1\], got 16\.0 to 16\.0"),
        (np.full((5, 2, 2, 1), np.nan), r"in \[0, 1\], got nan"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        image_statistics(images)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalized_images_have_mean_0_and_variance_1(dtype):
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8)
    normalize = jax.jit(normalize_images(*image_statistics(images)))
    given = images if dtype == np.uint8 else (images / 255).astype(np.float32)
    values = normalize(jnp.asarray(given))
    chex.assert_shape(values, images.shape)
    assert values.dtype == jnp.float32
    wide = np.asarray(values, np.float64)
    # x in [0, 1] and its mean are off by at most 2.5 * 2^-24 together; divided by a standard
    # deviation of 0.289, z is off by at most 9 * 2^-24 = 5.2e-7, and z^2 by 2 |z| < 4 times that.
    np.testing.assert_allclose(wide.mean((0, 1, 2)), 0, atol=5.2e-7)
    np.testing.assert_allclose((wide**2).mean((0, 1, 2)), 1, atol=2.1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], [0.5], r"shapes \(2,\) and \(1,\)"),
        (0.5, 0.0, "std positive"),
        (0.5, -1.0, "std positive"),
        (float("nan"), 1.0, "mean must be finite"),
        (0.5, float("inf"), "std positive"),
        (0.5, 1e-60, "a float32 must hold both"),
        (0.5, 1e60, "a float32 must hold both"),
        (1e60, 1.0, "a float32 must hold both"),
    ],
)
def test_bad_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        normalize_images(mean, std)


def test_statistics_of_other_channels_are_refused():
    # Broadcasting would turn a grey image into three channels.
    with pytest.raises(ValueError, match=r"\(batch, height, width, 3\)"):
        normalize_images([0.5] * 3, [0.5] * 3)(jnp.zeros((1, 2, 2, 1)))


def test_shrinking_averages_squares_of_pixels():
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    shrunk = shrink_images(pixels, 2)
    assert shrunk.shape == (2, 2, 3, 3)
    assert shrunk.dtype == np.float32
    # Means of four whole numbers are exact.
    assert shrunk[1, 1, 0, 2] == pixels[1, 2:, :2, 2].mean()
    np.testing.assert_array_equal(shrink_images(pixels, 1), pixels)


def test_shrinking_keeps_means_that_sums_in_float32_would_lose():
    large = np.full((1, 2, 2, 1), 3e38, np.float32)
    np.testing.assert_array_equal(shrink_images(large, 2), large[:, :1, :1])
    # 2^24 + 1 is no float32, and neither is the sum of these.
    whole = np.array([2**24 - 1, 2**24 - 1, 2**24 - 2, 2**24], np.int32).reshape(1, 2, 2, 1)
    assert shrink_images(whole, 2).item() == 2**24 - 1
    with pytest.raises(ValueError, match="within float32, got 1e\\+200"):
        shrink_images(np.full((1, 2, 2, 1), 1e200), 2)


def test_a_window_is_a_whole_number():
    images = np.zeros((1, 4, 4, 1), np.uint8)
    assert shrink_images(images, np.int64(2)).shape == (1, 2, 2, 1)
    with pytest.raises(TypeError, match=r"window must be a whole number, got 2\.0"):
        inspect.unwrap(shrink_images)(images, 2.0)


@pytest.mark.parametrize("window", [-2, 0, 3, 4, 8])
def test_a_window_that_does_not_divide_the_images_is_refused(window):
    with pytest.raises(ValueError, match=f"window must .* got {window}"):
        shrink_images(np.zeros((1, 4, 6, 3), np.uint8), window)


def test_the_variance_divides_by_n_or_by_one_less() -> None:
    """As scikit-learn's StandardScaler, and as pandas' std."""
    drawn = np.random.default_rng(0).normal(3.0, 5.0, (7, 4))
    dataset = Dataset("drawn", Arrays(drawn, drawn[:, :1]), None, None, ())
    for ddof in (0, 1):
        scaled, scaler = standardize(dataset, ddof=ddof)
        exact = drawn - drawn.sum(axis=0) / 7
        expected = np.sqrt((exact**2).sum(axis=0) / (7 - ddof))
        np.testing.assert_allclose(scaler.std, expected, rtol=4e-16 * 7)
        np.testing.assert_allclose(scaled.train.inputs.std(axis=0, ddof=ddof), 1, rtol=1e-14)
    with pytest.raises(ValueError, match=r"ddof must be 0, to divide by n, or 1, .*, got 2"):
        standardize(dataset, ddof=2)
