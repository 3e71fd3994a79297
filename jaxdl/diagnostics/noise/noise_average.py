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
        shown = shown.replace("nan", "none")
        return f"NoiseAverage(noise scale in examples: {shown or 'unknown'})"


def average_noise(
    measured: GradientNoise | Any, before: NoiseAverage | None = None, *, decay: float = 0.9
) -> NoiseAverage:
    r"""Average the noise and the gradient's square along a run, each for itself.

    $$\bar S_t = \beta \bar S_{t-1} + (1 - \beta) S_t, \qquad
      \bar{\mathcal G}^2_t = \beta \bar{\mathcal G}^2_{t-1} + (1 - \beta) \mathcal G^2_t, \qquad
      B_t = \bar S_t / \bar{\mathcal G}^2_t$$

    A ratio of two noisy numbers is biased, and its mean more so. The start is not biased to 0: both
    parts have the same weights, which leave the ratio alone. What is not finite is left out, as if
    it had not been measured. A pure function, as for `lax.scan`.

    Arguments:
        measured: a new measurement.
        before: the average so far; None at the first.
        decay: beta, in [0, 1). The average reaches back over about 1 / (1 - beta) measurements.

    Raises:
        TypeError: no `GradientNoise`, such as a list of them.
        ValueError: `decay` outside of [0, 1); an average of other groups.

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
    if not isinstance(measured, GradientNoise):
        raise TypeError(
            f"measured must be one GradientNoise, got {type(measured).__name__}; of several call "
            "average = average_noise(each, average) in turn, from average = None"
        )
    trace, square = jnp.asarray(measured.covariance_trace), jnp.asarray(measured.squared_gradient)
    if before is None:
        nothing = jnp.zeros_like(trace)
        before = NoiseAverage(nothing, nothing, nothing)
    if jnp.shape(before.weight) != trace.shape:
        raise ValueError(
            f"an average must be of the groups that are measured, of shape {trace.shape}, got "
            f"{jnp.shape(before.weight)}; begin with before=None"
        )
    finite = jnp.isfinite(trace) & jnp.isfinite(square)

    def mixed(old: Any, new: Any) -> Any:
        return jnp.where(finite, decay * old + (1 - decay) * new, old)

    return NoiseAverage(
        covariance_trace=mixed(before.covariance_trace, trace),
        squared_gradient=mixed(before.squared_gradient, square),
        weight=mixed(before.weight, jnp.ones_like(trace)),
    )
