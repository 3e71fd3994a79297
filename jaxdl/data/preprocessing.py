"""Scale inputs by statistics of the training split only."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import DTypeLike

from jaxdl.checks import require_at_least
from jaxdl.data.types import Arrays, Dataset
from jaxdl.factories import factory
from jaxdl.showing import shape_of

_CHUNK = 1_000
_LEVELS = 256


@dataclass(frozen=True, eq=False)
class Scaler:
    r"""Shift and scale each feature: $z = (x - \mu) / \sigma$.

    Arguments:
        mean: the mean of each feature, in its units, float64.
        std: the standard deviation of each feature, in its units, float64, positive.

    Example:
        >>> import numpy as np
        >>> scaler = Scaler(mean=np.array([1.0]), std=np.array([2.0]))
        >>> scaler.transform(np.array([[5.0]])), scaler.inverse(np.array([[2.0]]))
        (array([[2.]]), array([[5.]]))
    """

    mean: np.ndarray
    std: np.ndarray

    def __repr__(self) -> str:
        return f"Scaler(mean {shape_of(self.mean)}, std {shape_of(self.std)})"

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Scale `values` of shape (n, ...); the dtype is kept.

        Raises:
            ValueError: a finite value whose scaled value the dtype cannot hold.
        """
        # In units of a power of two near sigma the difference of two huge numbers is finite.
        exponents = np.frexp(self.std)[1]
        with np.errstate(over="ignore", under="ignore"):
            shifted = _ldexp(values, -exponents) - _ldexp(self.mean, -exponents)
            return _narrow(shifted / _ldexp(self.std, -exponents), values)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Undo `transform`: back to the features' units; the dtype is kept.

        Raises:
            ValueError: a finite value whose value in the features' units the dtype cannot hold.
        """
        exponents = np.frexp(self.std)[1]
        with np.errstate(over="ignore", under="ignore"):
            shifted = values * _ldexp(self.std, -exponents) + _ldexp(self.mean, -exponents)
            return _narrow(np.ldexp(shifted, exponents), values)


def standardize(
    dataset: Dataset, *, targets: bool = False, ddof: Any = 0
) -> tuple[Dataset, Scaler]:
    r"""Give each feature mean 0 and variance 1 over the training split.

    $$z = \frac{x - \mu}{\sigma}, \quad \mu = \frac{1}{n} \sum_i x_i, \quad
    \sigma^2 = \frac{1}{n - d} \sum_i (x_i - \mu)^2$$

    with d the `ddof`. The sums run in float64 over the training examples, in units of a power of
    two near each feature's largest value: no square is too large or too small. The same mu and
    sigma scale the other splits. To scale inputs and targets, call it twice, the second time with
    `targets=True`.

    Arguments:
        dataset: already cut by `split`. Otherwise the statistics would see the later validation and
            test examples.
        targets: whether to scale the targets INSTEAD of the inputs; regression only.
        ddof: 0 for the variance that divides by n, as scikit-learn's `StandardScaler`; 1 for the
            one that divides by n - 1, as pandas' and PyTorch's `std`: without bias for what the
            examples were drawn from.

    Raises:
        ValueError: a `ddof` that is neither; values that are not finite floats, labels, or a
            feature that is constant over the training split, or all but constant (a sigma below
            2.2e-308); a value of another split whose scaled value the dtype cannot hold.
        TypeError: a split that is read batch by batch.

    Example:
        >>> import jax
        >>> from jaxdl.data import load, split
        >>> housing, scaler = standardize(split(load("boston_housing"), key=jax.random.key(0)))
        >>> bool(abs(housing.train.inputs.mean(axis=0)).max() < 1e-6)
        True
    """
    if ddof not in (0, 1):
        raise ValueError(
            f"ddof must be 0, to divide by n, or 1, to divide by n - 1, got {ddof!r}; pass one"
        )
    side = "targets" if targets else "inputs"
    if not isinstance(dataset.train, Arrays):
        raise TypeError(
            f"standardize takes data.Arrays, got {type(dataset.train).__name__}; scale examples "
            "in decode, or batches in the preprocess of fit"
        )
    values = getattr(dataset.train, side)
    if targets and dataset.classes:
        raise ValueError(
            f"standardize(targets=True) takes regression targets, got the labels of "
            f"{dataset.name}; scale the inputs alone"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"standardize takes floats, got {side} of {values.dtype}; pass images through "
            "normalize_images instead"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float64)).all()
    if not finite:
        raise ValueError(
            f"{side} must be finite, got NaN or infinity in the training split of {dataset.name}; "
            "remove or repair those examples"
        )
    constant = values.max(axis=0) == values.min(axis=0)
    if constant.any():
        raise ValueError(
            f"every feature must vary over the training split, got {int(constant.sum())} "
            f"constant, the first being {_column(dataset, constant, side)}; leave it out"
        )
    mean, std = _moments(values, 0)
    scaler = Scaler(mean, std * math.sqrt(len(values) / (len(values) - ddof)))
    tiny = scaler.std < np.finfo(np.float64).tiny
    if tiny.any():
        raise ValueError(
            f"every feature must vary by at least {np.finfo(np.float64).tiny}, the smallest number "
            f"that has all its digits, got {scaler.std[tiny][0]} of "
            f"{_column(dataset, tiny, side)}; give it another unit"
        )

    def scaled(arrays: Arrays) -> Arrays:
        return replace(arrays, **{side: scaler.transform(getattr(arrays, side))})

    return replace(
        dataset,
        train=scaled(dataset.train),
        validation=None if dataset.validation is None else scaled(dataset.validation),
        test=None if dataset.test is None else scaled(dataset.test),
    ), scaler


def image_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and standard deviation of each channel, in units where 1 is the full intensity.

    $$\mu_c = \frac{1}{255 N} \sum_k k\, n_{ck}, \quad \sigma_c^2 = \frac{1}{255^2 N} \sum_k k^2
    n_{ck} - \mu_c^2$$

    For uint8, n_ck is the histogram: how often channel c has level k. Its sums are exact integers,
    and the images are not copied. Floats take two passes in float64.

    Arguments:
        images: (n, height, width, channels), uint8 or floats in [0, 1].

    Returns:
        (mean, std), each float64 of shape (channels,).

    Raises:
        ValueError: no image, another shape, another dtype, or floats outside [0, 1].

    Example:
        >>> import numpy as np
        >>> image_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
        (array([0.5]), array([0.5]))
    """
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            "images must be (n, height, width, channels) with n at least 1, "
            f"got {images.shape}; add the missing axis"
        )
    if images.dtype == np.uint8:
        return _histogram_statistics(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8 or floats, got {images.dtype}; convert them")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"float images must be in [0, 1], got {images.min()} to {images.max()}; "
            "divide them by their full intensity"
        )
    return _moments(images, (0, 1, 2))


@factory
def normalize_images(
    mean: float | Sequence[float] | np.ndarray, std: float | Sequence[float] | np.ndarray
) -> Callable[[Array], Float[Array, "batch height width channels"]]:
    r"""A function for `fit(preprocess=...)`: it gives image channels mean 0 and variance 1.

    $$z_c = \frac{x_c - \mu_c}{\sigma_c}$$, with x divided by 255 first where it is uint8.

    Arguments:
        mean: the mean of each channel in units of [0, 1], from `image_statistics`.
        std: the standard deviation of each channel in units of [0, 1], positive.

    Raises:
        ValueError: statistics that are not finite, a std that is not positive, lengths that differ.
            From the function itself: images with another number of channels.

    Example:
        >>> import jax.numpy as jnp
        >>> normalize = normalize_images(0.5, 0.25)
        >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8)).item()
        2.0
    """
    means, stds = (np.atleast_1d(np.asarray(values, np.float64)) for values in (mean, std))
    if means.ndim != 1 or means.shape != stds.shape:
        raise ValueError(
            "mean and std must be one number a channel each, "
            f"got shapes {means.shape} and {stds.shape}; pass what image_statistics returned"
        )
    # The images are float32, and so are the statistics beside them.
    held = np.finfo(np.float32)
    if not ((np.abs(means) <= held.max) & (stds >= held.tiny) & (stds <= held.max)).all():
        raise ValueError(
            "mean must be finite and std positive, and a float32 must hold both, "
            f"got {means.tolist()} and {stds.tolist()}; "
            "a channel of one intensity cannot be normalised"
        )

    def normalize(images: Array) -> Float[Array, "batch height width channels"]:
        if images.ndim != 4 or images.shape[-1] != len(means):
            raise ValueError(
                f"images must be (batch, height, width, {len(means)}) as the statistics are, "
                f"got {images.shape}; take the statistics of these images"
            )
        scale = 1 / 255 if images.dtype == jnp.uint8 else 1.0
        values = images.astype(jnp.float32) * jnp.float32(scale)
        normalized: Array = (values - means.astype(np.float32)) / stds.astype(np.float32)
        return normalized

    return normalize


def shrink_images(
    images: np.ndarray, window: SupportsIndex
) -> Float[np.ndarray, "batch height width channels"]:
    """Images averaged over squares of `window` pixels, so many times smaller in each direction.

    Arguments:
        images: (batch, height, width, channels).
        window: pixels, a divisor of height and width.

    Returns:
        float32, in the images' units: uint8 images give 0 to 255.

    Raises:
        ValueError: other axes, a window that does not divide them, or a mean that float32 cannot
            hold.
        TypeError: a window that is no whole number.

    Example:
        >>> import numpy as np
        >>> pixels = np.array([[0, 100], [50, 250]], np.uint8).reshape(1, 2, 2, 1)
        >>> shrink_images(pixels, 2).tolist()
        [[[[100.0]]]]
    """
    require_at_least(1, window=window)
    window = operator.index(window)
    if images.ndim != 4 or images.shape[1] % window or images.shape[2] % window:
        raise ValueError(
            "window must divide the height and width of images (batch, height, width, channels), "
            f"got {window} and {images.shape}; pass a divisor"
        )
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // window, window, width // window, window, channels)
    # In float64 the sum of any float32 numbers is finite, and that of whole numbers exact.
    with np.errstate(over="ignore"):
        means = squares.mean((2, 4), dtype=np.float64)
        return _narrow(means, images, np.float32)


def _moments(values: np.ndarray, axes: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the axes, each right for any finite values."""
    exponents = np.frexp(np.abs(values).max(axes).astype(np.float64))[1]
    # At most 1 in magnitude: no sum overflows, and no square that counts underflows.
    with np.errstate(under="ignore"):
        scaled = _ldexp(values, -exponents)
        return _ldexp(scaled.mean(axes), exponents), _ldexp(scaled.std(axes), exponents)


def _ldexp(values: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """values * 2^exponents in float64; the power itself may be outside float64."""
    product: np.ndarray = np.ldexp(np.asarray(values, np.float64), exponents)
    return product


def _narrow(wide: np.ndarray, given: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
    """`wide` in the dtype of `given`, or another one; refuse what becomes infinite or NaN by it."""
    with np.errstate(over="ignore", under="ignore"):
        narrow: np.ndarray = wide.astype(given.dtype if dtype is None else dtype)
    if not np.isfinite(narrow).all() and np.isfinite(given).all():
        raise ValueError(
            f"the results must be within {narrow.dtype}, got {wide[~np.isfinite(narrow)][0]}; "
            "convert the values to a wider type, or give them another unit"
        )
    return narrow


def _histogram_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    channels = images.shape[-1]
    counts = np.zeros((channels, _LEVELS), np.int64)
    # bincount converts its input to 8-byte integers, so count some examples at a time.
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=_LEVELS)
    # Python's integers are exact: neither the sums nor the difference of squares loses a digit.
    means, stds = [], []
    for row in counts.tolist():
        total = sum(row)
        first = sum(level * count for level, count in enumerate(row))
        second = sum(level * level * count for level, count in enumerate(row))
        means.append(first / (total * 255))
        stds.append(((total * second - first * first) / (total * total * 255 * 255)) ** 0.5)
    return np.array(means), np.array(stds)


def _column(dataset: Dataset, constant: np.ndarray, side: str) -> str:
    place = tuple(int(i) for i in np.argwhere(constant)[0])
    if side == "inputs" and dataset.features:
        return f"{dataset.features[place[0]]} (column {place[0]})"
    return f"column {place[0]}" if len(place) == 1 else f"feature {place}"
