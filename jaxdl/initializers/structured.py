"""Weights with a structure: constants, identities, and matrices of dependent draws."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.checks import require_finite, require_non_negative, require_positive
from jaxdl.factories import factory
from jaxdl.initializers.fans import compute_fans
from jaxdl.initializers.protocol import Initializer, working_dtype
from jaxdl.initializers.random import he_normal, normal


@factory
def constant(value: ArrayLike) -> Initializer:
    """Every weight is the same finite `value`; the key is not used.

    Every unit of a layer then computes the same function and receives the same gradient, and
    training cannot tell them apart.

    Raises:
        ValueError: a value that is not finite; when called, a dtype that is no float.

    Example:
        >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
        [0.5, 0.5]
    """
    require_finite("value", value)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        return jnp.full(tuple(shape), value, working_dtype(dtype)).astype(dtype)

    return init


@factory
def zeros() -> Initializer:
    """Every weight is 0, the usual start of a bias; see `constant`."""
    return constant(0.0)


@factory
def ones() -> Initializer:
    """Every weight is 1, the usual start of a norm's scale; see `constant`."""
    return constant(1.0)


@factory
def identity(gain: ArrayLike = 1.0) -> Initializer:
    r"""A dense kernel that passes on as many inputs as it has units for; the key is not used.

    $$W_{ij} = gain \cdot \delta_{ij}$$

    Arguments:
        gain: positive.

    Raises:
        ValueError: a gain that is not positive; when called, a shape that is not (fan_in, fan_out).

    Example:
        >>> identity()(jax.random.key(0), (2, 3)).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Source: Le, Jaitly and Hinton (2015).
    """
    require_positive("gain", gain)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        _require_dense("identity", shape, "for a convolution use dirac()")
        fan_in, fan_out = shape
        return (jnp.eye(fan_in, fan_out, dtype=working_dtype(dtype)) * gain).astype(dtype)

    return init


@factory
def dirac(groups: int = 1, *, rest: Initializer | None = None) -> Initializer:
    r"""A convolution that passes on as many channels as it has units for.

    $$W_{t, c, \, gm + c} = \delta_{t, centre}, \qquad
      c < \min(c_{in}, m), \quad m = c_{out} / groups$$

    The centre is the position that "SAME" padding aligns with the output's own, so the layer
    returns its input. In a window of even size it is the left of the two middle positions. PyTorch
    pads both sides equally and takes the right one.

    The units beyond m = c_in are zero, and nothing flows through them. Drawn by `rest` they start
    as the units of another layer, beside the channels that are passed on. Only then the key is
    used.

    Arguments:
        groups: the layer's `feature_group_count`; each group passes on its own channels.
        rest: the initializer of the units beyond the channels, for one group; None leaves zeros.

    Raises:
        ValueError: groups below 1, or `rest` with groups above 1; when called, a kernel without a
            window of 1 to 3 axes, or groups that do not divide the output channels.

    Example:
        >>> dirac()(jax.random.key(0), (3, 1, 1)).ravel().tolist()
        [0.0, 1.0, 0.0]
        >>> dirac(rest=constant(0.5))(jax.random.key(0), (3, 1, 2))[:, 0].T.tolist()
        [[0.0, 1.0, 0.0], [0.5, 0.5, 0.5]]

    Source: Zagoruyko and Komodakis (2017); `torch.nn.init.dirac_`; the rest: Jordan (2024).
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}; 1 is a plain convolution")
    if rest is not None and groups > 1:
        raise ValueError(
            f"rest is for one group, got {groups} groups; leave rest out, or pass groups=1"
        )

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        *window, channels, features = shape
        if not 1 <= len(window) <= 3:
            raise ValueError(
                "dirac needs a convolution kernel (*window, in, out) with 1 to 3 window axes, "
                f"got shape {tuple(shape)}; for a dense kernel use identity()"
            )
        if features % groups:
            raise ValueError(
                f"groups must divide the output channels, got {groups} groups for {features}; "
                "pass the layer's feature_group_count"
            )
        within = jnp.eye(channels, features // groups, dtype=working_dtype(dtype))
        kernel = at_centre(jnp.tile(within, (1, groups)), window).astype(dtype)
        if rest is None or features <= channels:
            return kernel
        drawn = rest(key, (*window, channels, features - channels), dtype)
        return jnp.concatenate([kernel[..., :channels], drawn], -1)

    return init


@factory
def zero_hadamard(*, orthonormal: bool = False) -> Initializer:
    r"""ZerO: identities, and a Hadamard matrix where a layer widens; the key is not used.

    $$W = \begin{cases} I^* & n_{in} \ge n_{out} \\
      c \, I^* H_m I^* & n_{in} < n_{out} \end{cases}, \qquad
      m = \lceil \log_2 n_{out} \rceil, \quad c = 2^{-(m-1)/2}$$

    I* is the identity, cut or padded with zeros to fit. H_m is Sylvester's matrix of size 2^m, with
    entries +-1. Without it a wider layer would have units that stay zero. A convolution has W at
    its centre, see `dirac`.

    Arguments:
        orthonormal: whether to take c = 2^{-m/2}, as in the authors' published code. It keeps the
            norm if the width is a power of two. The paper's c doubles the squared norm.

    Raises:
        ValueError: when called, a shape without fans.

    Example:
        >>> zero_hadamard()(jax.random.key(0), (1, 2)).tolist()
        [[1.0, 1.0]]
        >>> zero_hadamard(orthonormal=True)(jax.random.key(0), (2, 4)).tolist()
        [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5]]

    Source: Zhao, Schäfer and Anandkumar (2022), algorithms 1 and 2.
    """

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        *window, channels, features = shape
        working = working_dtype(dtype)
        if features <= channels:
            matrix = jnp.eye(channels, features, dtype=working)
        else:
            order = (features - 1).bit_length()
            scale = 2.0 ** (-(order if orthonormal else order - 1) / 2)
            row, column = jnp.arange(channels)[:, None], jnp.arange(features)
            odd = lax.population_count(row & column) % 2 == 1
            matrix = jnp.where(odd, -scale, scale).astype(working)
        return at_centre(matrix, window).astype(dtype)

    return init


@factory
def orthogonal(gain: ArrayLike = 1.0) -> Initializer:
    r"""A uniformly random kernel with orthonormal rows or columns, whichever are fewer.

    $$W^\top W = gain^2 I \ (n_{in} \ge n_{out}), \qquad
      W W^\top = gain^2 I \ (n_{in} \le n_{out})$$

    A convolution kernel is taken as the matrix (window * in, out).

    Arguments:
        gain: positive; every singular value of W.

    Raises:
        ValueError: a gain that is not positive; when called, a shape without fans.

    Example:
        >>> w = orthogonal()(jax.random.key(0), (5, 3))
        >>> bool(abs(w.T @ w - jnp.eye(3)).max() < 1e-6)
        True

    Source: Saxe, McClelland and Ganguli (2014); Mezzadri (2007) for the uniform draw.
    """
    require_positive("gain", gain)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        q, r = jnp.linalg.qr(jax.random.normal(key, tall, working_dtype(dtype)))
        # QR leaves the signs to the algorithm; a positive diagonal of R makes the draw uniform.
        q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1)
        return ((q if rows >= columns else q.T) * gain).reshape(shape).astype(dtype)

    return init


@factory
def sparse(sparsity: float, stddev: ArrayLike = 0.01) -> Initializer:
    r"""Normal weights, with a stated share of zeros for every input.

    Of the `fan_out` outgoing weights of each input, `ceil(sparsity * fan_out)` chosen at random
    are zero, and the others N(0, stddev^2).

    Arguments:
        sparsity: share of zeros, in [0, 1).
        stddev: the standard deviation of the other weights, at least 0.

    Raises:
        ValueError: settings out of range; when called, a shape that is not (fan_in, fan_out).

    Example:
        >>> w = sparse(0.5)(jax.random.key(0), (100, 4))
        >>> bool(((w == 0).sum(axis=1) == 2).all())
        True

    Source: Martens (2010), section 5; `torch.nn.init.sparse_`.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity must be in [0, 1), got {sparsity}; for a kernel of zeros use zeros()"
        )
    require_non_negative("stddev", stddev)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        _require_dense("sparse", shape, "a convolution has no sparse initializer")
        weights_key, places_key = jax.random.split(key)
        weights = normal(0.0, stddev)(weights_key, shape, dtype)
        column = lax.broadcasted_iota(jnp.int32, tuple(shape), 1)
        rank = jax.random.permutation(places_key, column, axis=1, independent=True)
        return jnp.where(rank < math.ceil(sparsity * shape[1]), 0, weights)

    return init


@factory
def identical_features() -> Initializer:
    r"""All units of a layer are the same: one random column, repeated.

    $$W_{ij} = w_i, \qquad w_i \sim N(0, 2 / n_{in})$$

    Each weight has the variance of `he_normal`, so the signal keeps its size. But the units share
    their inputs, outputs and gradients. They stay equal until something else, such as dropout or
    another layer's draws, makes them differ.

    Raises:
        ValueError: when called, a shape without fans.

    Example:
        >>> w = identical_features()(jax.random.key(0), (4, 3))
        >>> bool((w == w[:, :1]).all())
        True

    Source: Goodfellow, Bengio and Courville (2016), section 8.4, on breaking symmetry.
    """
    he = he_normal()

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        compute_fans(shape)
        return jnp.broadcast_to(he(key, (*shape[:-1], 1), dtype), tuple(shape))

    return init


def at_centre(matrix: Array, window: Sequence[int]) -> Array:
    """A kernel (*window, in, out) of zeros but for its centre, see `dirac`."""
    centre = tuple((size - 1) // 2 for size in window)
    return jnp.zeros((*window, *matrix.shape), matrix.dtype).at[centre].set(matrix)


def _require_dense(owner: str, shape: Sequence[int], otherwise: str) -> None:
    compute_fans(shape)
    if len(shape) != 2:
        raise ValueError(
            f"{owner} needs a dense kernel (fan_in, fan_out), got shape {tuple(shape)}; {otherwise}"
        )
