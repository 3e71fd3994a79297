"""A first layer that whitens its inputs: the patches' principal directions, scaled to one size."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.checks import is_traced, require_at_least, require_non_negative
from jaxdl.factories import factory
from jaxdl.initializers.fans import compute_fans
from jaxdl.initializers.protocol import Initializer, working_dtype

SYMMETRIC = 1e-5
"""A matrix is symmetric, and has no negative eigenvalue, to this share of its largest number."""

PATCH_BYTES = 64_000_000
"""The bytes of patches and products at once. Those of a whole data set are many times its size."""


@factory
def whitening(second_moment: ArrayLike, *, epsilon: ArrayLike = 0.0) -> Initializer:
    r"""A kernel whose outputs are uncorrelated and of one size; the key is not used.

    $$M = \mathbb{E}[p p^\top] = \sum_{i=1}^{d} \lambda_i v_i v_i^\top, \qquad
      w_i = \frac{v_i}{\sqrt{\lambda_i + \epsilon}}, \qquad w_{d + i} = -w_i$$

    with p the d inputs of a unit: a patch of (*window, in) numbers for a convolution, an example
    for a dense layer. Then E[(w_i p)(w_j p)] is 1 for i = j and 0 else, but for epsilon. The
    directions come in the order of their size, the largest first; of an eigenvector the largest
    number is positive. Units from d on have the negatives: after an activation that is not odd they
    tell something else.

    Neighbouring pixels are nearly equal, so the sum of a patch has many times the size of its
    differences. Whitened, the next layer sees edges and colours in the same size as brightness from
    the first step on. The kernel is usually frozen: `optimizers.freeze`.

    Arguments:
        second_moment: M, (d, d), of the inputs as the layer sees them; `patch_second_moment` of
            images.
        epsilon: 0 or more, in the units of M. It bounds the size of directions that are nearly
            absent from the data, where noise would be all that is seen.

    Raises:
        ValueError: a matrix that is not square, symmetric and finite, or has a negative eigenvalue;
            a negative epsilon, or 0 with an eigenvalue of 0; when called, a shape with other than d
            inputs, or more than 2 d units.

    Example:
        >>> kernel = whitening(np.diag([4.0, 1.0]))(jax.random.key(0), (2, 4))
        >>> kernel.tolist()
        [[0.5, 0.0, -0.5, -0.0], [0.0, 1.0, -0.0, -1.0]]

    Source: Coates, Ng and Lee (2011), section 3.1; as a frozen first layer: Page (2019); with the
    negatives: Jordan (2024), section 3.1.
    """
    require_non_negative("epsilon", epsilon)
    directions = _directions(np.asarray(second_moment, np.float64), float(np.asarray(epsilon)))
    inputs = len(directions)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        *inner, features = shape
        if math.prod(inner) != inputs or features > 2 * inputs:
            raise ValueError(
                f"whitening needs a kernel of {inputs} inputs, the size of its second moment, and "
                f"at most {2 * inputs} units, got shape {tuple(shape)} with {math.prod(inner)} "
                f"inputs and {features} units; measure the second moment of this layer's inputs, "
                "or name fewer units"
            )
        both = np.concatenate([directions, -directions], 1)[:, :features]
        return jnp.asarray(both, working_dtype(dtype)).reshape(shape).astype(dtype)

    return init


def patch_second_moment(
    images: Any, window: Sequence[int] = (2, 2)
) -> Float[np.ndarray, "inputs inputs"]:
    r"""The mean of p p^T over all patches of images, for `whitening`.

    $$M = \frac{1}{n} \sum_{k=1}^{n} p_k p_k^\top, \qquad p_k \in \mathbb{R}^{h w c}$$

    over the patches that lie inside the images, at every place. No mean is subtracted: normalise
    the images first, as the layer sees them. Measured on the device, summed in float64.

    Arguments:
        images: (batch, height, width, channels), numbers.
        window: height and width of a patch, each 1 or more; the layer's window.

    Returns:
        (d, d), d = h w c, in the order of a kernel's axes (row, column, channel).

    Raises:
        ValueError: images of another shape, or none; a window below 1, or larger than they are.
        TypeError: complex or traced images; a window of no whole numbers.

    Example:
        >>> patch_second_moment(jnp.arange(4.0).reshape(1, 2, 2, 1), (1, 2)).tolist()
        [[2.0, 3.0], [3.0, 5.0]]
    """
    if is_traced(images):
        raise TypeError(
            "patch_second_moment is measured on the host, from images whose numbers are known, got "
            "traced ones; call it outside jit or vmap"
        )
    if not isinstance(images, jax.Array | np.ndarray):
        images = np.asarray(images)
    if np.ndim(images) != 4 or not len(images):
        raise ValueError(
            "images must be (batch, height, width, channels), at least one, got shape "
            f"{np.shape(images)}; add the missing axis, as images[None] does for one image"
        )
    if np.iscomplexobj(images):
        raise TypeError(
            f"images must be real, got {images.dtype}; pass x.real and x.imag side by side, as "
            "channels"
        )
    if np.shape(window) != (2,):
        raise ValueError(f"window must be (height, width), got {window!r}; pass e.g. (2, 2)")
    height, width = window
    require_at_least(1, height=height, width=width)
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    if min(rows, columns) < 1:
        raise ValueError(
            f"window must fit into the images of {images.shape[1]} x {images.shape[2]} pixels, got "
            f"{height} x {width}; pass a smaller one"
        )
    inputs = height * width * images.shape[3]
    at_once = max(1, PATCH_BYTES // (4 * max(1, inputs) * (rows * columns + inputs)))
    total = np.zeros((inputs, inputs))
    for start in range(0, len(images), at_once):
        some = jnp.asarray(images[start : start + at_once])
        total += np.asarray(_of_images(some, (height, width)), np.float64).sum(0)
    moment: np.ndarray = total / len(images)
    return moment


@functools.partial(jax.jit, static_argnums=1)
def _of_images(images: Array, window: tuple[int, int]) -> Array:
    """The same for each image, (batch, d, d)."""
    rows, columns = images.shape[1] - window[0] + 1, images.shape[2] - window[1] + 1
    shifted = [
        images[:, i : i + rows, j : j + columns] for i in range(window[0]) for j in range(window[1])
    ]
    patches = jnp.concatenate(shifted, -1).astype(jnp.float32)
    products = jnp.einsum("nrcp,nrcq->npq", patches, patches, precision="highest")
    return products / (rows * columns)


def _directions(moment: np.ndarray, epsilon: float) -> np.ndarray:
    """v_i over the root of lambda_i + epsilon, a column each; the largest eigenvalue first."""
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not moment.size:
        raise ValueError(
            f"second_moment must be a square matrix (d, d), got shape {moment.shape}; pass "
            "patch_second_moment(images, window), or x.T @ x / len(x) of examples x"
        )
    largest = np.abs(moment).max()
    if not np.isfinite(largest) or np.abs(moment - moment.T).max() > SYMMETRIC * largest:
        raise ValueError(
            "second_moment must be finite and symmetric, got a matrix whose largest number is "
            f"{largest}; pass patch_second_moment(images, window)"
        )
    sizes, vectors = np.linalg.eigh(moment)
    sizes, vectors = sizes[::-1], vectors[:, ::-1]
    if sizes[-1] < -SYMMETRIC * largest:
        raise ValueError(
            f"second_moment must have no negative eigenvalue, got {sizes[-1]:.3g}; pass the mean "
            "of products p p^T, not of another matrix"
        )
    sizes = np.maximum(sizes, 0) + epsilon
    if not sizes[-1] > 0:
        raise ValueError(
            "epsilon must be above 0 if the inputs lack a direction altogether, got 0 with an "
            "eigenvalue of 0; pass a small one, such as a thousandth of the mean square of inputs"
        )
    highest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    scaled: np.ndarray = vectors * np.sign(highest) / np.sqrt(sizes)
    return scaled
