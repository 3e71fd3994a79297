"""A matrix made nearly orthogonal, by products alone."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.optimizers.clipping import scaled_norm

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's a, b, c: the steepest start of a quintic that keeps singular values near 1."""


def orthogonalized(
    matrix: Float[Array, "m n"],
    coefficients: tuple[Any, Any, Any] = QUINTIC,
    iterations: int = 5,
    epsilon: Any = 1e-7,
) -> Float[Array, "m n"]:
    r"""The matrix with singular values near 1, by the iteration of Newton and Schulz.

    $$X_0 = \frac{M}{\max(\lVert M\rVert_F, \epsilon)}, \qquad
      X_{k+1} = aX_k + bA_kX_k + cA_k^2X_k, \quad A_k = X_kX_k^\top$$

    Its singular vectors stay, and each singular value x becomes a x + b x^3 + c x^5 in an
    iteration. Zero stays zero. The norm neither overflows nor vanishes.

    Arguments:
        matrix: real, (m, n); the smaller of both sides of the product is taken for A.
        coefficients: a, b, c.
        iterations: at least 1.
        epsilon: the least norm by which is divided.

    Example:
        >>> import jax.numpy as jnp
        >>> x = orthogonalized(jnp.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
        >>> bool(abs(jnp.linalg.svd(x, compute_uv=False) - 1).max() < 0.35)
        True
    """
    a, b, c = coefficients
    unit, scaled, norm = scaled_norm(matrix)
    x: Array = scaled / jnp.maximum(norm, jnp.maximum(epsilon * unit, jnp.finfo(norm.dtype).tiny))
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = x.T if is_tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x
