r"""Functions whose derivatives keep their tails, where JAX's own cancel to 0.

JAX takes $y (1 - y)$ for the derivative of the sigmoid y; in float32 that is 0 from x = 17 on, and
$1 - y^2$ for tanh is 0 from x = 9 on. Here each derivative is written without a difference of
near numbers. Half precision is computed in float32 and rounded once, as in PyTorch.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Function = Callable[[Array], Array]
P = ParamSpec("P")


def in_float32(
    function: Callable[Concatenate[Array, P], Array],
) -> Callable[Concatenate[Array, P], Array]:
    """`function` of an array, and settings; half precision is computed in float32."""

    @functools.wraps(function)
    def wide(x: Array, *args: P.args, **kwargs: P.kwargs) -> Array:
        x = jnp.asarray(x)
        kind = jnp.promote_types(x.dtype, jnp.float32)
        value = function(x.astype(kind), *args, **kwargs)
        return value.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else value

    return wide  # type: ignore[return-value]  # the wrapper names its first argument


def with_derivative(derivative: Function) -> Callable[[Function], Function]:
    """`function`, whose derivative is the given function of its argument."""

    def made(function: Function) -> Function:
        exact = jax.custom_jvp(function)
        exact.defjvps(lambda tangent, _, x: tangent * derivative(x))
        return functools.wraps(function)(exact)

    return made


@with_derivative(lambda x: sigmoid(x) * sigmoid(-x))
def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$1 / (1 + e^{-x})$, with the derivative $\sigma(x)\,\sigma(-x)$.

    Example:
        >>> x = jnp.float32(20)
        >>> jax.grad(sigmoid)(x).item(), jax.grad(jax.nn.sigmoid)(x).item()
        (2.061...e-09, 0.0)
    """
    return lax.logistic(x)


@with_derivative(lambda x: 4 * sigmoid(2 * x) * sigmoid(-2 * x))
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\tanh x$, with the derivative $\operatorname{sech}^2 x = 4\sigma(2x)\sigma(-2x)$."""
    return lax.tanh(x)


@with_derivative(jnp.exp)
def expm1(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """$e^x - 1$, with the derivative $e^x$."""
    return lax.expm1(x)


@with_derivative(sigmoid)
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\log(1 + e^x)$, with the derivative $\sigma(x)$."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@with_derivative(lambda x: jnp.square(1 / (1 + jnp.abs(x))))
def softsign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$x / (1 + |x|)$, with the derivative $1 / (1 + |x|)^2$."""
    return x / (1 + jnp.abs(x))
