"""Whitening: outputs of one size that do not go together, measured on patches cut one by one."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import initializers as ini

# The package has the function under this name.
whitening = importlib.import_module("jaxdl.initializers.whitening")

ROUNDING = 2.0**-23


def smooth_images(channels=3):
    """Neighbours go together, and channels do; the mean is not zero."""
    draw = np.random.default_rng(0)
    walk = draw.normal(size=(40, 9, 8, channels)).cumsum(1).cumsum(2)
    return (walk + 0.5 * walk.mean(-1, keepdims=True)).astype(np.float32)


def patches_of(images, height, width):
    """Every patch, flattened as (row, column, channel), in float64."""
    found = [
        image[row : row + height, column : column + width].ravel()
        for image in images.astype(np.float64)
        for row in range(image.shape[0] - height + 1)
        for column in range(image.shape[1] - width + 1)
    ]
    return np.array(found)


@pytest.mark.parametrize("window", [(2, 2), (1, 3), (3, 1), (1, 1)])
def test_the_second_moment_is_that_of_patches_cut_one_by_one(window):
    images = smooth_images()
    patches = patches_of(images, *window)
    expected = patches.T @ patches / len(patches)
    found = ini.patch_second_moment(images, window)
    # A product is a float32 sum over the places of one image.
    np.testing.assert_allclose(found, expected, rtol=0, atol=72 * ROUNDING * expected.max())


def test_stored_images_count_as_the_numbers_that_they_are():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    patches = patches_of(images, 2, 2)
    expected = patches.T @ patches / len(patches)
    found = ini.patch_second_moment(jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=16 * ROUNDING)


def test_images_are_taken_a_part_at_a_time(monkeypatch):
    images = smooth_images()
    whole = ini.patch_second_moment(images)
    sizes = []

    def part(images, window):
        sizes.append(len(images))
        return of_images(images, window)

    of_images = whitening._of_images
    monkeypatch.setattr(whitening, "_of_images", part)
    ini.patch_second_moment(images)
    assert sizes == [40]  # small data go at once
    sizes.clear()
    # The patches of an image are 8 x 7 x 12 float32 numbers, their products 12 x 12.
    monkeypatch.setattr(whitening, "PATCH_BYTES", 15 * 4 * (8 * 7 * 12 + 12 * 12))
    in_parts = ini.patch_second_moment(images)
    assert sizes == [15, 15, 10]
    np.testing.assert_allclose(in_parts, whole, rtol=64 * np.finfo(np.float64).eps)


def test_a_list_of_images_is_taken_and_what_is_no_real_number_is_refused():
    images = smooth_images()[:2]
    np.testing.assert_array_equal(
        ini.patch_second_moment(images.tolist()), ini.patch_second_moment(images)
    )
    with pytest.raises(TypeError, match="images must be real, got complex64"):
        ini.patch_second_moment(images * np.complex64(1j))
    with pytest.raises(TypeError, match="outside jit or vmap"):
        jax.jit(ini.patch_second_moment)(images)


def test_a_convolution_of_it_whitens_and_says_the_negatives(key):
    images = smooth_images()
    init = ini.whitening(ini.patch_second_moment(images, (2, 2)))
    layer = nn.Conv(24, (2, 2), padding="VALID", use_bias=False, kernel_init=init)
    outputs, _ = layer.init_with_output(key, images)
    rows = np.asarray(outputs, np.float64).reshape(-1, 24)
    # An output is a float32 sum of 12 products of numbers that are larger than it.
    largest = np.abs(patches_of(images, 2, 2)).max() * np.abs(init(key, (2, 2, 3, 12))).max()
    tolerance = 2 * 12 * ROUNDING * float(largest)
    np.testing.assert_allclose(
        rows[:, :12].T @ rows[:, :12] / len(rows), np.eye(12), atol=tolerance
    )
    np.testing.assert_array_equal(rows[:, 12:], -rows[:, :12])


def test_the_largest_directions_come_first_and_epsilon_bounds_the_last(key):
    sizes, epsilon = np.array([9.0, 4.0, 1e-6]), 0.01
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moment = turn @ np.diag(sizes) @ turn.T
    kernel = np.asarray(ini.whitening(moment, epsilon=epsilon)(key, (3, 3)), np.float64)
    np.testing.assert_allclose(
        np.linalg.norm(kernel, axis=0), 1 / np.sqrt(sizes + epsilon), rtol=8 * ROUNDING
    )
    cosines = np.abs((kernel / np.linalg.norm(kernel, axis=0) * turn).sum(0))
    np.testing.assert_allclose(cosines, 1, rtol=8 * ROUNDING)
    # The largest number of a direction is positive, whatever sign the solver gave it.
    assert (kernel[np.abs(kernel).argmax(0), np.arange(3)] > 0).all()


def test_fewer_units_are_the_first_ones(key):
    init = ini.whitening(np.diag(np.arange(1.0, 9.0)))
    every = init(key, (2, 4, 16))
    for features in (1, 8, 11):
        np.testing.assert_array_equal(init(key, (2, 4, features)), every[..., :features])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ini.whitening(np.ones((2, 3))), r"square matrix.*got shape \(2, 3\)"),
        (lambda: ini.whitening(np.zeros((0, 0))), "square matrix"),
        (lambda: ini.whitening(np.array([[1.0, 2.0], [0.0, 1.0]])), "finite and symmetric"),
        (lambda: ini.whitening(np.array([[np.nan]])), "finite and symmetric"),
        (lambda: ini.whitening(np.diag([1.0, -1.0])), "no negative eigenvalue, got -1"),
        (lambda: ini.whitening(np.diag([1.0, 0.0])), "epsilon must be above 0"),
        (lambda: ini.whitening(np.eye(2), epsilon=-1.0), "epsilon must be"),
        (
            lambda: ini.whitening(np.eye(4))(jax.random.key(0), (3, 4)),
            r"4 inputs.*got shape \(3, 4\) with 3 inputs",
        ),
        (lambda: ini.whitening(np.eye(4))(jax.random.key(0), (4, 9)), "at most 8 units"),
        (lambda: ini.patch_second_moment(np.ones((4, 4, 3))), r"batch, height.*got shape \(4, 4"),
        (lambda: ini.patch_second_moment(np.ones((0, 4, 4, 3))), "at least one"),
        (lambda: ini.patch_second_moment(np.ones((1, 4, 4, 3)), (5, 2)), "fit into the images"),
        (lambda: ini.patch_second_moment(np.ones((1, 4, 4, 3)), (0, 2)), "height must be"),
        (lambda: ini.patch_second_moment(np.ones((1, 4, 4, 3)), [2] * 3), r"\(height, width\)"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
