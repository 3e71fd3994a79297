"""Scale inputs by statistics of the training split only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdl.data.types import Arrays, Dataset

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

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Scale `values` of shape (n, ...); the dtype is kept."""
        scaled: np.ndarray = ((values - self.mean) / self.std).astype(values.dtype)
        return scaled

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Undo `transform`: back to the features' units; the dtype is kept."""
        restored: np.ndarray = (values * self.std + self.mean).astype(values.dtype)
        return restored


def standardize(dataset: Dataset, *, targets: bool = False) -> tuple[Dataset, Scaler]:
    r"""Give each feature mean 0 and variance 1 over the training split.

    $$z = \frac{x - \mu}{\sigma}, \quad \mu = \frac{1}{n} \sum_i x_i, \quad
    \sigma^2 = \frac{1}{n} \sum_i (x_i - \mu)^2$$

    The sums run in float64 over the training examples. The same mu and sigma scale the other
    splits. To scale inputs and targets, call it twice, the second time with `targets=True`.

    Arguments:
        dataset: already cut by `split`. Otherwise the statistics would see the later validation and
            test examples.
        targets: whether to scale the targets INSTEAD of the inputs; regression only.

    Raises:
        ValueError: values that are not finite floats, labels, or a feature that is constant over
            the training split.

    Example:
        >>> import jax
        >>> from jaxdl.data import load, split
        >>> housing, scaler = standardize(split(load("boston_housing"), key=jax.random.key(0)))
        >>> bool(abs(housing.train.inputs.mean(axis=0)).max() < 1e-6)
        True
    """
    side = "targets" if targets else "inputs"
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
    if not np.isfinite(values).all():
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
    scaler = Scaler(
        mean=values.mean(axis=0, dtype=np.float64), std=values.std(axis=0, dtype=np.float64)
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
    axes = (0, 1, 2)
    return images.mean(axes, dtype=np.float64), images.std(axes, dtype=np.float64)


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
    if not (np.isfinite(means).all() and np.isfinite(stds).all() and (stds > 0).all()):
        raise ValueError(
            f"mean must be finite and std positive, got {means.tolist()} and {stds.tolist()}; "
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
    images: np.ndarray, window: int
) -> Float[np.ndarray, "batch height width channels"]:
    """Images averaged over squares of `window` pixels, so many times smaller in each direction.

    Arguments:
        images: (batch, height, width, channels).
        window: pixels, a divisor of height and width.

    Returns:
        float32, in the images' units: uint8 images give 0 to 255.

    Raises:
        ValueError: other axes, or a window that does not divide them.

    Example:
        >>> import numpy as np
        >>> pixels = np.array([[0, 100], [50, 250]], np.uint8).reshape(1, 2, 2, 1)
        >>> shrink_images(pixels, 2).tolist()
        [[[[100.0]]]]
    """
    if images.ndim != 4 or window < 1 or images.shape[1] % window or images.shape[2] % window:
        raise ValueError(
            "window must divide the height and width of images (batch, height, width, channels), "
            f"got {window} and {images.shape}; pass a divisor"
        )
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // window, window, width // window, window, channels)
    means: np.ndarray = squares.mean((2, 4), dtype=np.float32)
    return means


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
