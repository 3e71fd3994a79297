"""Layers whose derivatives are written out, and networks of them: the modular approach.

For teaching: `jax.grad` does all this. A network is a list of (layer, parameters). An array has a
first axis of examples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.public import public_names

__all__ = [
    "LINEAR",
    "Layer",
    "Network",
    "backward",
    "elementwise",
    "forward",
    "jacobian",
    "mean_loss",
    "mlp",
    "push",
    "softmax_layer",
]

__dir__ = public_names(globals())


def _no_parameters(params: Any, x: Any, delta: Any) -> Any:
    return {}


class Layer(NamedTuple):
    r"""A layer y = f(x; W) as four pure functions.

    Attributes:
        forward: (params, x) -> y.
        by_input: (params, x, delta) -> dL/dx, for delta = dL/dy.
        push: (params, x, change of x) -> the change of y, to first order.
        by_params: (params, x, delta) -> dL/dW, a tree like the parameters; {} without any.
    """

    forward: Callable[..., Any]
    by_input: Callable[..., Any]
    push: Callable[..., Any]
    by_params: Callable[..., Any] = _no_parameters


Network = Sequence[tuple[Layer, Any]]
"""Layers from the first to the last, each with its parameters."""

LINEAR = Layer(
    forward=lambda params, x: x @ params["kernel"] + params["bias"],
    by_input=lambda params, x, delta: delta @ params["kernel"].T,
    push=lambda params, x, change: change @ params["kernel"],
    by_params=lambda params, x, delta: {"kernel": x.T @ delta, "bias": delta.sum(0)},
)
"""y = x W + b, with parameters {"kernel": (inputs, outputs), "bias": (outputs,)}."""


def elementwise(f: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Layer:
    """y_i = f(x_i): deltas and changes are multiplied by f'(x_i).

    Arguments:
        f: any function of each element alone.
        slope: its derivative f'.

    Example:
        >>> square = elementwise(lambda x: x**2, lambda x: 2 * x)
        >>> square.by_input({}, jnp.array([3.0]), jnp.array([10.0])).tolist()
        [60.0]
    """

    def times(_: Any, x: Any, by: Any) -> Any:
        return slope(x) * by

    return Layer(lambda _, x: f(x), times, times)


def mean_loss(value: Callable[..., Any], slope: Callable[..., Any]) -> Layer:
    """The last layer: the mean of a loss over n examples, whose "parameters" are the targets.

    Arguments:
        value: (outputs, targets) -> (n,).
        slope: (outputs, targets) -> its derivative by the outputs, (n, ...).

    Example:
        >>> squared = mean_loss(lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t))
        >>> squared.by_input(jnp.array([1.0, 1.0]), jnp.array([4.0, 1.0]), 1.0).tolist()
        [3.0, 0.0]
    """
    return Layer(
        lambda target, x: jnp.mean(value(x, target)),
        lambda target, x, delta: delta * slope(x, target) / len(x),
        lambda target, x, change: jnp.sum(slope(x, target) * change) / len(x),
    )


def softmax_layer() -> Layer:
    """p_i = exp(x_i) / sum_j exp(x_j): the Jacobian diag(p) - p p^T is symmetric.

    Example:
        >>> softmax_layer().by_input({}, jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).tolist()
        [[0.25, -0.25]]
    """

    def softmax(_: Any, x: Any) -> Any:
        powers = jnp.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def times(_: Any, x: Any, by: Any) -> Any:
        p = softmax(_, x)
        return p * (by - (p * by).sum(-1, keepdims=True))

    return Layer(softmax, times, times)


def mlp(params: Mapping[str, Any], hidden: Layer) -> list[tuple[Layer, Any]]:
    """The layers of a `models.MLP` from its parameters: linear, hidden, linear, ..., linear.

    Example:
        >>> dense = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        >>> layers = mlp({"dense_0": dense, "dense_1": dense}, elementwise(jnp.sin, jnp.cos))
        >>> len(layers), layers[0][0] is LINEAR
        (3, True)
    """
    layers: list[tuple[Layer, Any]] = []
    for place in range(len(params)):
        layers += [(LINEAR, params[f"dense_{place}"]), (hidden, {})]
    return layers[:-1]


def forward(network: Network, x: Any) -> list[Any]:
    """The input of every layer, and last the output.

    Example:
        >>> double = (LINEAR, {"kernel": jnp.array([[2.0]]), "bias": jnp.zeros(1)})
        >>> [value.item() for value in forward([double, double], jnp.array([[3.0]]))]
        [3.0, 6.0, 12.0]
    """
    values = [x]
    for layer, params in network:
        values.append(layer.forward(params, values[-1]))
    return values


def backward(network: Network, values: Sequence[Any], delta: Any) -> tuple[list[Any], list[Any]]:
    """A vector-Jacobian product: (dL by every value, dL by the parameters of every layer).

    Arguments:
        network: the layers, as for `forward`.
        values: what `forward` returned.
        delta: dL by the output, of its shape; 1 where the last layer is a loss.

    Example:
        >>> double = (LINEAR, {"kernel": jnp.array([[2.0]]), "bias": jnp.zeros(1)})
        >>> values = forward([double, double], jnp.array([[3.0]]))
        >>> deltas, gradients = backward([double, double], values, jnp.ones((1, 1)))
        >>> [delta.item() for delta in deltas], gradients[1]["kernel"].item()
        ([4.0, 2.0, 1.0], 6.0)
    """
    deltas, gradients = [delta], []
    for (layer, params), x in zip(network[::-1], values[-2::-1], strict=True):
        gradients.append(layer.by_params(params, x, deltas[-1]))
        deltas.append(layer.by_input(params, x, deltas[-1]))
    return deltas[::-1], gradients[::-1]


def push(network: Network, x: Any, change: Any) -> Any:
    """A Jacobian-vector product: the change of the output for a change of x, to first order.

    Example:
        >>> double = (LINEAR, {"kernel": jnp.array([[2.0]]), "bias": jnp.zeros(1)})
        >>> push([double, double], jnp.array([[3.0]]), jnp.array([[1.0]])).item()
        4.0
    """
    for layer, params in network:
        x, change = layer.forward(params, x), layer.push(params, x, change)
    return change


def jacobian(network: Network, x: Any) -> Any:
    """dy/dx of one example (1, inputs): (outputs, inputs), a pass backward for each output.

    Example:
        >>> layer = (LINEAR, {"kernel": jnp.array([[2.0, 5.0]]), "bias": jnp.zeros(2)})
        >>> jacobian([layer], jnp.array([[3.0]])).tolist()
        [[2.0], [5.0]]
    """
    values = forward(network, x)

    def row(delta: Any) -> Any:
        for (layer, params), at in zip(network[::-1], values[-2::-1], strict=True):
            delta = layer.by_input(params, at, delta)
        return delta[0]

    return jax.vmap(row)(jnp.eye(values[-1].shape[1], dtype=values[-1].dtype)[:, None])
