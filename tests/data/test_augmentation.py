"""Augmentations equal NumPy's slices at the offsets drawn, and draw them uniformly, each alone."""

import functools
import inspect
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import with_devices
from scipy import stats

from jaxdl.data.augmentation import Augmentation, compose, cutout, random_crop, random_flip

# Of every test of randomness below; the keys are fixed, so a pass is a pass for good.
FALSE_ALARM = 1e-6
ALL: list[Augmentation] = [random_crop, random_flip, cutout]
ALL_IN_TURN = compose(*ALL)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(distinct_images(8, 9, 9, 1))


def distinct_images(batch, height, width, channels, dtype=np.float32):
    """No two pixels alike, none zero."""
    shape = (batch, height, width, channels)
    return np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)


def positions(batch, height, width):
    """Images of two channels: each pixel's row and column, from 1."""
    grid = np.moveaxis(np.mgrid[1 : height + 1, 1 : width + 1], 0, -1)
    return jnp.asarray(np.broadcast_to(grid, (batch, height, width, 2)), jnp.float32)


def crop_offsets(key, batch, height, width, padding):
    """The offsets drawn, read from what a crop did to an image of positions."""
    # With padding below half the image the middle pixel always comes from inside it.
    middle = random_crop(key, positions(batch, height, width), padding=padding)[
        :, height // 2, width // 2
    ]
    return np.asarray(middle, int) - 1 - np.array([height // 2, width // 2]) + padding


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_a_crop_is_a_slice_of_the_padded_image(key, mode, numpy_mode, padding):
    images = distinct_images(16, 7, 9, 3)
    cropped = random_crop(key, jnp.asarray(images), padding=padding, mode=mode)
    offsets = crop_offsets(key, 16, 7, 9, padding)
    for image, found, (row, column) in zip(images, cropped, offsets, strict=True):
        padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)], mode=numpy_mode)
        np.testing.assert_array_equal(found, padded[row : row + 7, column : column + 9])


def test_crop_offsets_are_uniform_and_independent(key):
    padding, batch = 2, 25_000
    offsets = crop_offsets(key, batch, 5, 5, padding)
    side = 2 * padding + 1
    counts = np.bincount(offsets @ [side, 1], minlength=side * side)
    assert len(counts) == side * side
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_neighbours_draw_independently(key):
    offsets = crop_offsets(key, 25_000, 5, 5, 2)
    pairs = np.bincount(offsets[:-1, 0] * 5 + offsets[1:, 0], minlength=25)
    assert stats.chisquare(pairs).pvalue > FALSE_ALARM


def test_a_flip_mirrors_columns_and_nothing_else(key):
    images = distinct_images(64, 3, 5, 2)
    flipped = np.asarray(random_flip(key, jnp.asarray(images)))
    mirrored = (flipped != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[mirrored], images[mirrored, :, ::-1])
    # 64 fair coins all fall alike with probability 1e-19.
    assert 0 < mirrored.sum() < 64


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flip_rate(key, probability):
    images = jnp.tile(jnp.array([0, 1], jnp.uint8)[None, None, :, None], (20_000, 1, 1, 1))
    flips = int(random_flip(key, images, probability=probability)[:, 0, 0, 0].sum())
    assert stats.binomtest(flips, 20_000, probability).pvalue > FALSE_ALARM


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_cutout_covers_the_square_about_its_centre(key, size):
    images = distinct_images(200, 5, 7, 2)
    cut = np.asarray(cutout(key, jnp.asarray(images), size=size, value=-1.0))
    centres = cutout_centres(key, 200, 5, 7)
    for image, found, (row, column) in zip(images, cut, centres, strict=True):
        expected = image.copy()
        top, left = row - size // 2, column - size // 2
        expected[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = -1
        np.testing.assert_array_equal(found, expected)


def cutout_centres(key, batch, height, width):
    """The centres drawn, read from squares of one pixel."""
    holes = np.asarray(cutout(key, jnp.ones((batch, height, width, 1)), size=1))[..., 0] == 0
    which, rows, columns = np.nonzero(holes)
    np.testing.assert_array_equal(which, np.arange(batch))
    return np.stack([rows, columns], axis=1)


def test_cutout_centres_are_uniform_and_independent(key):
    centres = cutout_centres(key, 30_000, 5, 6)
    counts = np.bincount(centres @ [6, 1], minlength=30)
    assert len(counts) == 30
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_cutout_fills_each_channel_with_its_value(key):
    images = jnp.full((2, 4, 4, 3), 9, jnp.uint8)
    cut = cutout(key, images, size=4, value=[0.0, 128.0, 255.0])
    filled = np.asarray(cut)[np.asarray(cut)[..., 0] == 0]
    assert len(filled)
    np.testing.assert_array_equal(filled, np.broadcast_to([0, 128, 255], filled.shape))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "bfloat16", "bool"])
@pytest.mark.parametrize("augmentation", ALL)
def test_dtype_and_shape_are_kept(key, augmentation, dtype):
    images = jax.ShapeDtypeStruct((3, 9, 10, 2), dtype)
    found = jax.eval_shape(augmentation, key, images)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)


def test_is_a_function_of_the_key_alone_traced_or_not(key, images):
    once = ALL_IN_TURN(key, images)
    chex.assert_trees_all_equal(once, ALL_IN_TURN(key, images))
    chex.assert_trees_all_equal(once, jax.jit(ALL_IN_TURN)(key, images))
    # Eight images crop, flip and lose the same under two keys with probability 2^-8 at most.
    assert (once != ALL_IN_TURN(jax.random.key(1), images)).any()


def test_vmap_over_keys_equals_each_key_alone(key, images):
    keys = jax.random.split(key, 3)
    together = jax.vmap(ALL_IN_TURN, in_axes=(0, None))(keys, images)
    chex.assert_trees_all_equal(together, jnp.stack([ALL_IN_TURN(k, images) for k in keys]))


def test_an_example_does_not_depend_on_how_many_follow(key, images):
    whole = ALL_IN_TURN(key, images)
    chex.assert_trees_all_equal(jax.jit(ALL_IN_TURN)(key, images[:5]), whole[:5])


def test_compose_gives_each_its_own_key(key, images):
    crop = functools.partial(random_crop, padding=2)
    keys = jax.random.split(key, 3)
    by_hand = random_crop(keys[2], random_flip(keys[1], crop(keys[0], images)))
    chex.assert_trees_all_equal(compose(crop, random_flip, random_crop)(key, images), by_hand)
    chex.assert_trees_all_equal(compose()(key, images), images)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxdl.data.augmentation import compose, cutout, random_crop, random_flip

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
images = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)
key = jax.random.key(0)
augment = jax.jit(compose(random_crop, random_flip, cutout))
one = augment(key, images)
shared = augment(key, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))
assert len(shared.sharding.device_set) == 8
np.testing.assert_array_equal(shared, one)
"""


def test_does_not_depend_on_the_sharding():
    ended = subprocess.run(
        [sys.executable, "-c", SHARDED], env=with_devices(8), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("augmentation", ALL)
@pytest.mark.parametrize("shape", [(9, 9, 3), (9, 9), (1, 2, 9, 9, 3)])
def test_other_shapes_are_refused(key, augmentation, shape):
    with pytest.raises(ValueError, match=r"images must be \(batch, height, width, channels\)"):
        augmentation(key, jnp.ones(shape))


def test_errors(key):
    images = jnp.ones((2, 6, 9, 3), jnp.uint8)
    with pytest.raises(ValueError, match="less than the image's 6 x 9 pixels, got 6"):
        random_crop(key, images, padding=6)
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        random_crop(key, images, padding=-1)
    with pytest.raises(ValueError, match="at most the image's 6 x 9 pixels, got 7"):
        cutout(key, images, size=7)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        cutout(key, images, size=0)
    for probability in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]"):
            random_flip(key, images, probability=probability)
    for value in (0.5, 256.0, -1.0, [0.0, 1.0, float("nan")]):
        with pytest.raises(ValueError, match=r"value must be whole and in 0\.\.255"):
            cutout(key, images, size=2, value=value)
    for dtype, value in (("float16", 1e6), ("float32", 1e300)):
        with pytest.raises(ValueError, match=f"images of {dtype} can hold, got"):
            cutout(key, images.astype(dtype), size=2, value=value)
    with pytest.raises(ValueError, match=r"one number or 3, one a channel, got shape \(2,\)"):
        cutout(key, images, size=2, value=[1.0, 2.0])


def test_another_mode_is_refused(key, images):
    # Unwrapped of the checks of types that tests add, which refuse it first.
    with pytest.raises(ValueError, match="mode must be one of zeros, reflect, got 'edge'"):
        inspect.unwrap(random_crop)(key, images, mode="edge")


def test_counts_are_whole_numbers_of_any_kind(key, images):
    for number in (2, np.int64(2), np.uint8(2), jnp.int32(2)):
        chex.assert_trees_all_equal(
            random_crop(key, images, padding=number), random_crop(key, images, padding=2)
        )
        chex.assert_trees_all_equal(cutout(key, images, size=number), cutout(key, images, size=2))
    with pytest.raises(TypeError, match=r"padding must be a whole number, got 2\.0"):
        inspect.unwrap(random_crop)(key, images, padding=2.0)
    with pytest.raises(TypeError, match=r"size must be a whole number, got 2\.0"):
        inspect.unwrap(cutout)(key, images, size=2.0)
    chex.assert_trees_all_equal(
        random_flip(key, images, probability=np.float32(0.5)), random_flip(key, images)
    )
