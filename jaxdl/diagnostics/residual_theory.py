"""Predictions for a wide residual network: how its stream grows, and its gradient, by block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxdl.checks import (
    require_choice,
    require_finite,
    require_non_negative,
    require_positive,
    whole_number,
)
from jaxdl.diagnostics.theory import gaussian_moments
from jaxdl.initializers.gains import Elementwise, gaussian_expectation
from jaxdl.public import public_names
from jaxdl.showing import counted, ends, named

__all__ = ["ResidualStream", "residual_stream"]

__dir__ = public_names(globals())


@dataclass(frozen=True)
class ResidualStream:
    r"""The prediction for the stream x_0, ..., x_L between blocks, in float64.

    Attributes:
        second_moment: E[x_l^2], l = 0 to L.
        branch_second_moment: E of the square of what block l adds, l = 1 to L; before an "after"
            norm.
        gradient: E[(dL/dx_l)^2], l = 0 to L, divided by that of the last.
    """

    second_moment: Float[np.ndarray, " states"]
    branch_second_moment: Float[np.ndarray, " blocks"]
    gradient: Float[np.ndarray, " states"]

    def __repr__(self) -> str:
        parts = {
            "second_moment": ends(self.second_moment),
            "gradient": ends(self.gradient),
        }
        blocks = counted(len(self.branch_second_moment), "block")
        return f"ResidualStream({blocks}: {named(parts)})"


def residual_stream(
    activation: Elementwise,
    *,
    blocks: int,
    norm_position: str | None = None,
    weight_variance: float = 2.0,
    last_weight_variance: float = 1.0,
    branch_layers: int = 2,
    branch_scale: float = 1.0,
    input_second_moment: float = 1.0,
    kinks: Sequence[float] = (),
) -> ResidualStream:
    r"""Follow the stream's second moment q_l forward, and its gradient g_l backward, by block.

    A branch is m dense layers, F(x) = W_m f(... f(W_1 x)), without biases. Let v be the second
    moment of what enters it. Its layers' pre-activations have the second moments

    $$z_1 = \sigma_w^2 v, \qquad z_{i+1} = \sigma_w^2 E[f(\zeta_i)^2], \qquad
      B(v) = \sigma_m^2 E[f(\zeta_{m-1})^2], \qquad
      \chi(v) = \sigma_m^2 \sigma_w^{2(m-1)} \prod_{i<m} E[f'(\zeta_i)^2], \quad
      \zeta_i \sim N(0, z_i)$$

    and x and F(x) are uncorrelated, because the last kernel has mean 0. With a the `branch_scale`:

    $$\text{no norm:}\quad q_l = q_{l-1} + a^2 B(q_{l-1}), \qquad
      g_{l-1} = g_l\,(1 + a^2 \chi(q_{l-1}))$$

    $$\text{"before":}\quad q_l = q_{l-1} + a^2 B(1), \qquad
      g_{l-1} = g_l\,(1 + a^2 \chi(1) / q_{l-1})$$

    $$\text{"inside":}\quad q_l = q_{l-1} + a^2, \qquad
      g_{l-1} = g_l\,(1 + a^2 \chi(q_{l-1}) / B(q_{l-1}))$$

    $$\text{"after":}\quad q_l = 1, \qquad
      g_{l-1} = g_l\,\frac{1 + a^2 \chi(q_{l-1})}{q_{l-1} + a^2 B(q_{l-1})}$$

    So with ReLU, and with the defaults, where B(v) = v (He's weights before the activation, LeCun's
    for the last): without a norm q_l = 2^l q_0; with each branch divided by sqrt(L), a^2 = 1 / L,
    it ends at (1 + 1/L)^L q_0, which is below e; norms "before" or "inside" make it grow by one a
    block; "after" it is 1. A branch that starts at zero, a = 0, leaves both as they are.

    A norm divides by the root mean square, over the features or over a large batch, and passes the
    gradient's part along x on, too, which is a share of 1 / features. With ReLU, normal weights and
    no norm q_l is the mean over draws of the weights at every width.

    Arguments:
        activation: an elementwise function f in JAX.
        blocks: L, at least 1.
        norm_position: None, "before", "inside" or "after", as in `models.ResidualMLP`.
        weight_variance: sigma_w^2 = fan_in Var(W) of each layer of a branch but the last. Under
            Fixup it is 2 L^(-1 / (m - 1)).
        last_weight_variance: sigma_m^2 of the last; Fixup's is 0.
        branch_layers: m, at least 2.
        branch_scale: a; SkipInit's is 0.
        input_second_moment: q_0, which must be positive if there is a norm.
        kinks: as in `mean_field`.

    Raises:
        ValueError: a number outside its range, an unknown position, an f that is not elementwise, a
            branch of zero signal before an "inside" norm, a signal beyond the range of float64.

    Example:
        >>> import jax
        >>> plain = residual_stream(jax.nn.relu, blocks=4)
        >>> plain.second_moment.round(9).tolist()
        [1.0, 2.0, 4.0, 8.0, 16.0]
        >>> residual_stream(jax.nn.relu, blocks=4, norm_position="before").second_moment.round(9)
        array([1., 2., 3., 4., 5.])
        >>> deep = residual_stream(jax.nn.relu, blocks=64, branch_scale=64**-0.5)
        >>> round(float(deep.second_moment[-1]), 3), round(math.e, 3)
        (2.697, 2.718)

    Source: Zhang, Dauphin and Ma (2019), section 2; De and Smith (2020), section 3; Yang and
    Schoenholz (2017); norms "after": Xiong et al. (2020).
    """
    whole_number("blocks", blocks)
    whole_number("branch_layers", branch_layers, 2)
    if norm_position is not None:
        require_choice("norm_position", norm_position, ("before", "inside", "after"))
        require_positive("input_second_moment", input_second_moment)
    require_non_negative("input_second_moment", input_second_moment)
    require_non_negative("weight_variance", weight_variance)
    require_non_negative("last_weight_variance", last_weight_variance)
    require_finite("branch_scale", branch_scale)
    gaussian_expectation(activation, kinks=kinks)  # refuses what is no elementwise function

    def branch(entering: float) -> tuple[float, float]:
        """B and chi of what enters with this second moment."""
        square, slope = entering, 1.0
        for _ in range(branch_layers - 1):
            with np.errstate(over="ignore", invalid="ignore"):
                moments = gaussian_moments(activation, weight_variance * square, kinks)
            square, slope = moments.square, slope * weight_variance * moments.squared_slope
        return last_weight_variance * square, last_weight_variance * slope

    squared, stream = branch_scale**2, [float(input_second_moment)]
    added: list[float] = []
    factors: list[float] = []
    once = branch(1.0) if norm_position == "before" else None
    for block in range(1, blocks + 1):
        q = stream[-1]
        signal, slope = once or branch(q)
        if norm_position == "inside":
            if not signal > 0:
                raise ValueError(
                    f"an inside norm must have a signal to normalise, got the second moment "
                    f"{signal:g} in the branch of block {block}; pass positive weight variances"
                )
            signal, slope = 1.0, slope / signal
        if norm_position == "before":
            slope = slope / q
        signal, slope = squared * signal, squared * slope
        whole = q + signal
        if not (math.isfinite(whole) and math.isfinite(slope)):
            raise ValueError(
                f"the stream must stay within float64, got a second moment of {whole:g} at block "
                f"{block} of {blocks}; pass fewer blocks or a smaller weight_variance"
            )
        added.append(signal)
        factors.append((1 + slope) / (whole if norm_position == "after" else 1.0))
        stream.append(1.0 if norm_position == "after" else whole)
    gradient = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    return ResidualStream(np.array(stream), np.array(added), gradient)
