"""Batch normalisation with outputs that are shifted and scaled at random."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.layers.batch_norm import BatchNorm
from jaxdl.layers.inputs import as_mask, floating


class NoisyBatchNorm(nn.Module):
    r"""BatchNorm, then noise that changes at every step, so that the outputs' distribution moves.

    $$z_{ij} = s_{ij}\, y_{ij} + m_{ij}, \qquad
      m_{ij} \sim U(\mu_j \pm r_\mu), \quad s_{ij} \sim N(\sigma_j, r_\sigma^2), \qquad
      \mu_j \sim U(\pm n_\mu), \quad \sigma_j \sim U(1, n_\sigma)$$

    for example i and feature j. All are drawn anew in every training step from the rng "dropout".
    The positions of an image share their example's draw. If BatchNorm trained well because it keeps
    the distribution of its outputs fixed, this layer would train like no norm. In evaluation there
    is no noise. The layers above were trained with noise, so the model may do worse than in
    training.

    Attributes:
        norm: the BatchNorm whose outputs are disturbed.
        mean_range: n_mu, 0 or more.
        stddev_range: n_sigma, 1 or more.
        mean_spread: r_mu, 0 or more.
        stddev_spread: r_sigma, 0 or more.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, norm = jnp.array([[1.0], [3.0]]), NoisyBatchNorm()
        >>> variables = norm.init(jax.random.key(0), x, train=False)
        >>> y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"],
        ...                   rngs={"dropout": jax.random.key(1)})
        >>> bool(jnp.abs(y - jnp.array([[-1.0], [1.0]])).max() > 0.01)
        True

    Source: Santurkar, Tsipras, Ilyas and Madry (2018), section 2.2 and appendix A.
    """

    # Each module has its own, which belongs to no parent until this module adopts it.
    norm: BatchNorm = dataclasses.field(default_factory=lambda: BatchNorm(parent=None))
    mean_range: float = 0.5
    stddev_range: float = 1.25
    mean_spread: float = 0.1
    stddev_spread: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers outside their ranges."""
        spreads = (self.mean_range, self.mean_spread, self.stddev_spread)
        if min(spreads) < 0 or self.stddev_range < 1:
            raise ValueError(
                "mean_range, mean_spread and stddev_spread must be 0 or more and stddev_range 1 or "
                f"more, got {spreads} and {self.stddev_range}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Any, *, train: bool, mask: Any = None) -> Float[Array, "batch ..."]:
        """Normalise `x`; with `train=True` also needs `rngs={"dropout": key}`.

        Arguments:
            x: the inputs, as those of BatchNorm.
            train: whether the batch's statistics are used, and noise is added.
            mask: as that of BatchNorm; the padding's outputs are 0.
        """
        x = floating("NoisyBatchNorm", x)
        y = self.norm(x, train=train, mask=mask)
        if not train or self.is_initializing():
            return y
        axis = self.norm.feature_axis % x.ndim
        of_features = [size if place == axis else 1 for place, size in enumerate(x.shape)]
        of_examples = [x.shape[0], *of_features[1:]]
        keys = jax.random.split(self.make_rng("dropout"), 4)
        mean = jax.random.uniform(
            keys[0], of_features, jnp.float32, -self.mean_range, self.mean_range
        )
        stddev = jax.random.uniform(keys[1], of_features, jnp.float32, 1.0, self.stddev_range)
        shift = mean + self.mean_spread * jax.random.uniform(
            keys[2], of_examples, jnp.float32, -1.0, 1.0
        )
        scale = stddev + self.stddev_spread * jax.random.normal(keys[3], of_examples)
        noisy = scale * y + shift
        if mask is not None:
            noisy = jnp.where(as_mask(mask, x.shape), noisy, 0)
        return noisy.astype(x.dtype)
