"""Convolutions that keep the norm of their input: a random orthogonal matrix at the centre."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.checks import require_positive
from jaxdl.factories import factory
from jaxdl.initializers.fans import compute_fans
from jaxdl.initializers.protocol import Initializer, working_dtype
from jaxdl.initializers.structured import at_centre, orthogonal


@factory
def delta_orthogonal(gain: ArrayLike = 1.0) -> Initializer:
    r"""A convolution kernel that is zero but for a random orthogonal matrix at its centre.

    $$W_{t, :, :} = gain \cdot Q \, \delta_{t, centre}, \qquad Q Q^\top = I, \quad
      Q \in \mathbb{R}^{c_{in} \times c_{out}}, \quad c_{in} \le c_{out}$$

    The layer turns the channels at each position and mixes no positions, so with stride 1 it
    multiplies the norm of its input by exactly `gain`: the singular values of the layer are all
    `gain`. With "SAME" padding nothing is cut off at the edges, for the centre alone is not zero.
    `orthogonal`, which takes the kernel as one matrix (window * in, out), makes no such layer: the
    windows of an image overlap, so its singular values differ. Training fills the other places of
    the window.

    The centre is the position that "SAME" padding aligns with the output's own, as in `dirac`. In a
    window of even size it is the left of the two middle positions. With "CIRCULAR" padding, too.

    Arguments:
        gain: positive; every singular value of the layer. Of a network with tanh and without biases
            1, of a ReLU network sqrt(2) as in `he_normal`.

    Raises:
        ValueError: a gain that is not positive; when called, a kernel without a window of 1 to 3
            axes, or with more input than output channels: the layer then loses part of the norm.

    Example:
        >>> import jax
        >>> from jax import lax
        >>> kernel = delta_orthogonal()(jax.random.key(0), (3, 3, 4, 8))
        >>> x = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
        >>> y = lax.conv_general_dilated(
        ...     x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        >>> bool(abs(jnp.linalg.norm(y) / jnp.linalg.norm(x) - 1) < 1e-5)
        True

    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington (2018), algorithm 1.
    """
    require_positive("gain", gain)
    draw = orthogonal()

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        *window, channels, features = shape
        if not 1 <= len(window) <= 3:
            raise ValueError(
                "delta_orthogonal needs a convolution kernel (*window, in, out) with 1 to 3 window "
                f"axes, got shape {tuple(shape)}; for a dense kernel use orthogonal()"
            )
        if channels > features:
            raise ValueError(
                "delta_orthogonal needs at least as many output channels as input channels, for "
                f"fewer cannot keep the norm, got {channels} in and {features} out; use "
                "he_normal() or orthogonal() for a layer that narrows"
            )
        matrix = draw(key, (channels, features), working_dtype(dtype)) * gain
        return at_centre(matrix, window).astype(dtype)

    return init
