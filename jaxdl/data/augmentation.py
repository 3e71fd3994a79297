"""Random crops, flips and occlusions of a batch of images, on the device, from one key.

Example i of a batch uses the i-th draw. With JAX's default generator (threefry, partitionable) this
draw depends on the key and on i only. So under `jit` an example's result does not depend on the
layout over devices, or on the size of the batch. If each device has its own part and the same key
(`pmap`, `shard_map`), fold `jax.lax.axis_index` into the key. Otherwise the parts repeat the same
draws.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Literal, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Key, Shaped

from jaxdl.checks import require_at_least
from jaxdl.factories import factory
from jaxdl.public import public_names

__all__ = ["Augmentation", "compose", "cutout", "random_crop", "random_flip"]

__dir__ = public_names(globals())

Augmentation = Callable[[Key[Array, ""], Array], Array]
"""(key, images) -> images, of the same shape and dtype."""

_PAD_MODES = {"zeros": "constant", "reflect": "reflect"}


def random_crop(
    key: Key[Array, ""],
    images: Array,
    *,
    padding: SupportsIndex = 4,
    mode: Literal["zeros", "reflect"] = "zeros",
) -> Shaped[Array, "batch height width channels"]:
    r"""Pad each image on its four sides, and cut out the old size at a random place.

    $$y_{hw} = x_{h + u - p,\; w + v - p}, \quad u, v \sim \mathcal{U}\{0, \dots, 2p\}$$

    Arguments:
        key: from `jax.random.key`.
        images: (batch, height, width, channels) of any dtype, which is kept.
        padding: p, pixels, less than the height and the width.
        mode: "zeros", or "reflect": the image mirrored at its edge, without repeating the edge.

    Raises:
        ValueError: images of another shape, or another padding or mode.
        TypeError: a padding that is no whole number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> random_crop(jax.random.key(0), jnp.ones((8, 32, 32, 3), jnp.uint8)).shape
        (8, 32, 32, 3)

    Source: He, Zhang, Ren, Sun, 2016, section 4.2 (zeros, p = 4, images of 32 x 32).
    """
    _, height, width, _ = _check_images(images)
    if mode not in _PAD_MODES:
        raise ValueError(f"mode must be one of {', '.join(_PAD_MODES)}, got {mode!r}; pass one")
    require_at_least(0, padding=padding)
    padding = operator.index(padding)
    if padding >= min(height, width):
        raise ValueError(
            f"padding must be at least 0 and less than the image's {height} x {width} pixels, "
            f"got {padding}; pass a number between"
        )
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)), _PAD_MODES[mode])

    def cut(image: Array, offset: Array) -> Array:
        return lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def random_flip(
    key: Key[Array, ""], images: Array, *, probability: ArrayLike = 0.5
) -> Shaped[Array, "batch height width channels"]:
    """Mirror each image left to right with the given probability.

    Arguments:
        key, images: as in `random_crop`.
        probability: in [0, 1].

    Raises:
        ValueError: images of another shape, or a probability outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = jnp.array([[1, 2, 3]], jnp.uint8)[None, :, :, None]
        >>> random_flip(jax.random.key(0), image, probability=1.0).ravel().tolist()
        [3, 2, 1]

    Source: Krizhevsky, Sutskever, Hinton, 2012, section 4.1.
    """
    _check_images(images)
    if not 0 <= float(np.asarray(probability)) <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}; pass a share of 1")
    flipped = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
    return jnp.where(flipped, jnp.flip(images, axis=2), images)


def cutout(
    key: Key[Array, ""],
    images: Array,
    *,
    size: SupportsIndex = 8,
    value: ArrayLike | Sequence[float] = 0.0,
) -> Shaped[Array, "batch height width channels"]:
    r"""Fill one square of each image. Its centre is any pixel, so it may overlap the edge.

    $$y_{hw} = c \;\text{ where }\; 0 \le h - a + \lfloor s/2 \rfloor < s \;\text{ and }\;
    0 \le w - b + \lfloor s/2 \rfloor < s, \quad a \sim \mathcal{U}\{0, \dots, H - 1\},\;
    b \sim \mathcal{U}\{0, \dots, W - 1\}$$

    and x elsewhere. The paper fills normalised images with 0, their mean. For images as stored,
    pass the mean as `value`.

    Arguments:
        key, images: as in `random_crop`.
        size: s, pixels, at least 1 and at most the height and the width.
        value: c, one number or one per channel, which the images' dtype can hold.

    Raises:
        ValueError: images of another shape, a size that does not fit them, or a value of another
            length or one that the images' dtype cannot hold.
        TypeError: a size that is no whole number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> cutout(jax.random.key(1), jnp.ones((1, 3, 3, 1)), size=1).sum().item()
        8.0

    Source: DeVries, Taylor, 2017, section 3.
    """
    _, height, width, channels = _check_images(images)
    require_at_least(1, size=size)
    size = operator.index(size)
    if size > min(height, width):
        raise ValueError(
            f"size must be at least 1 and at most the image's {height} x {width} pixels, "
            f"got {size}; pass a number between"
        )
    fill = _check_value(value, images.dtype, channels)
    centre_key_h, centre_key_w = jax.random.split(key)

    def covered(key: Key[Array, ""], length: int) -> Array:
        centres = jax.random.randint(key, (len(images), 1), 0, length)
        distance = jnp.arange(length) - centres + size // 2
        return (distance >= 0) & (distance < size)

    rows, columns = covered(centre_key_h, height), covered(centre_key_w, width)
    square = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(square, jnp.asarray(fill), images)


@factory
def compose(*augmentations: Augmentation) -> Augmentation:
    """Combine augmentations into one that applies them in turn, each with its own key.

    Arguments:
        augmentations: functions (key, images) -> images; `functools.partial` sets their options.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from functools import partial
        >>> augment = compose(partial(random_crop, padding=2), random_flip)
        >>> jax.jit(augment)(jax.random.key(0), jnp.ones((4, 8, 8, 3))).shape
        (4, 8, 8, 3)
    """

    def composed(key: Key[Array, ""], images: Array) -> Array:
        keys = jax.random.split(key, len(augmentations))
        for i, augmentation in enumerate(augmentations):
            images = augmentation(keys[i], images)
        return images

    return composed


def _check_images(images: Array) -> tuple[int, ...]:
    if images.ndim != 4:
        raise ValueError(
            f"images must be (batch, height, width, channels), got shape {images.shape}; "
            "add the missing axis, as images[None] does for one image"
        )
    return images.shape


def _check_value(value: ArrayLike | Sequence[float], dtype: np.dtype, channels: int) -> np.ndarray:
    given = np.asarray(value)
    if given.shape not in ((), (channels,)):
        raise ValueError(
            f"value must be one number or {channels}, one a channel, got shape {given.shape}; "
            "pass the mean of each channel, for instance"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        boolean = jnp.issubdtype(dtype, jnp.bool_)
        low, high = (0, 1) if boolean else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
        if not ((given >= low) & (given <= high) & (given == np.round(given))).all():
            raise ValueError(
                f"value must be whole and in {low}..{high} for images of {dtype}, got {value}; "
                "round it, or convert the images to floats first"
            )
    with np.errstate(over="ignore"):
        held = given.astype(dtype)
    if (np.isfinite(given) & ~np.isfinite(held)).any():
        raise ValueError(
            f"value must be one that images of {dtype} can hold, got {value}; "
            "convert the images to a wider type first"
        )
    return held
