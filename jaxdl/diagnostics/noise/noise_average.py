"""The two parts of the noise scale, averaged along a run."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.diagnostics.noise.gradient_noise import GradientNoise, Values
from jaxdl.showing import ends, known


@struct.dataclass
class NoiseAverage:
    """The two parts of the noise scale, averaged apart along a run; see `average_noise`.

    Attributes:
        covariance_trace: the weighted sum of the estimates, (groups,).
        squared_gradient: the same of the gradient's square.
        weight: the sum of the weights.
    """

    covariance_trace: Values
    squared_gradient: Values
    weight: Values

    @property
    def noise_scale(self) -> Any:
        """Their ratio, in examples; NaN where the averaged square is not positive."""
        positive = self.squared_gradient > 0
        return jnp.where(
            positive, self.covariance_trace / jnp.where(positive, self.squared_gradient, 1), jnp.nan
        )

    def __repr__(self) -> str:
        weight = known(self.weight)
        shown = "" if weight is None else ends(np.asarray(self.noise_scale, np.float64).ravel())
        return f"NoiseAverage(noise scale in examples: {shown or 'unknown'})"


def average_noise(
    measured: GradientNoise, before: NoiseAverage | None = None, *, decay: float = 0.9
) -> NoiseAverage:
    r"""Average the noise and the gradient's square along a run, each for itself.

    $$\bar S_t = \beta \bar S_{t-1} + (1 - \beta) S_t, \qquad
      \bar{\mathcal G}^2_t = \beta \bar{\mathcal G}^2_{t-1} + (1 - \beta) \mathcal G^2_t, \qquad
      B_t = \bar S_t / \bar{\mathcal G}^2_t$$

    A ratio of two noisy numbers is biased, and its mean more so. The start is not biased to 0: both
    parts have the same weights, which leave the ratio alone. A pure function, as for `lax.scan`.

    Arguments:
        measured: a new measurement.
        before: the average so far; None at the first.
        decay: beta, in [0, 1). The average reaches back over about 1 / (1 - beta) measurements.

    Raises:
        ValueError: `decay` outside of [0, 1).

    Example:
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params
        >>> found = diagnostics.gradient_noise(
        ...     line, jnp.zeros((1, 1)), (jnp.ones((2, 1)), jnp.array([[1.0], [3.0]])),
        ...     loss=losses.mean_squared_error)
        >>> average = diagnostics.average_noise(found)
        >>> average = diagnostics.average_noise(found, average)
        >>> round(average.noise_scale.item(), 4) == round(found.noise_scale.item(), 4)
        True

    Source: McCandlish, Kaplan and Amodei (2018), appendix A.1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay}; 0.9 reaches back over about 10")
    if before is None:
        nothing = jnp.zeros_like(jnp.asarray(measured.covariance_trace))
        before = NoiseAverage(nothing, nothing, nothing)

    def mixed(old: Any, new: Any) -> Any:
        return decay * old + (1 - decay) * new

    return NoiseAverage(
        covariance_trace=mixed(before.covariance_trace, measured.covariance_trace),
        squared_gradient=mixed(before.squared_gradient, measured.squared_gradient),
        weight=mixed(before.weight, jnp.ones_like(jnp.asarray(measured.covariance_trace))),
    )
