"""Max-pooling whose gradient costs no more than its forward pass."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxdl.layers.inputs import require_real


def max_pool(
    x: Any, window: tuple[int, int] = (2, 2)
) -> Shaped[Array, "batch rows columns channels"]:
    r"""The largest value of each window; windows stand side by side.

    $$y_{ij} = \max_{0 \le a < h,\, 0 \le b < w} x_{hi + a,\, wj + b}$$

    Bit for bit the same as `flax.linen.max_pool(x, window, strides=window)` and PyTorch's
    `max_pool2d(x, window)`. Rows and columns that fill no window are dropped. Of equal values the
    first, row by row, gets the gradient. A NaN is kept. Integers and booleans stay what they are.
    It is written as comparisons of slices: on
    a CPU the gradient of XLA's windowed maximum takes many times as long.

    Arguments:
        x: images, (batch, height, width, channels).
        window: height and width, each 1 or more.

    Raises:
        TypeError: complex numbers, of which none is the largest.
        ValueError: inputs without four axes; a window below 1, or larger than the image.

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
        [5.0, 7.0, 13.0, 15.0]
    """
    x = require_real("max_pool", x)
    if x.ndim != 4:
        raise ValueError(
            "max_pool needs images of shape (batch, height, width, channels), got shape "
            f"{x.shape}; add the axes that are missing, of length 1"
        )
    height, width = window
    if not (1 <= height <= x.shape[1] and 1 <= width <= x.shape[2]):
        raise ValueError(
            f"max_pool window must be 1 or more and fit into the image, got {window} for inputs "
            f"of shape {x.shape}"
        )
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    return _largest(x.reshape(x.shape[0], rows, height, columns, width, x.shape[-1]))


@jax.custom_jvp
def _largest(windows: Array) -> Array:
    return _largest_and_place(windows)[0]


@_largest.defjvp
def _tangents(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Array, Array]:
    (windows,), (directions,) = primals, tangents
    largest, place = _largest_and_place(windows)
    height, width = windows.shape[2], windows.shape[4]
    places = jnp.arange(height * width, dtype=place.dtype).reshape(height, 1, width, 1)
    taken = places == place[:, :, None, :, None]
    return largest, jnp.where(taken, directions, 0).sum((2, 4))


def _largest_and_place(windows: Array) -> tuple[Array, Array]:
    """Of each window, the first largest value or the last NaN, and its place, row by row."""
    height, width = windows.shape[2], windows.shape[4]
    largest = windows[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, jnp.uint8 if height * width <= 256 else jnp.int32)
    for position in range(1, height * width):
        other = windows[:, :, position // width, :, position % width]
        better = (other > largest) | jnp.isnan(other)
        largest = jnp.where(better, other, largest)
        place = jnp.where(better, place.dtype.type(position), place)
    return largest, place
