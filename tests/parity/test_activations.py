"""Values and derivatives of every activation against PyTorch's, kinks included."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations
from jaxdl.layers import PReLU, RReLU

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
F = torch.nn.functional

PAIRS = {
    "identity": (activations.identity, lambda x: x * 1),
    "sigmoid": (activations.sigmoid, torch.sigmoid),
    "log_sigmoid": (activations.log_sigmoid, F.logsigmoid),
    "hard_sigmoid": (activations.hard_sigmoid, F.hardsigmoid),
    "tanh": (activations.tanh, torch.tanh),
    "hard_tanh": (activations.hard_tanh, F.hardtanh),
    "softsign": (activations.softsign, F.softsign),
    "relu": (activations.relu, F.relu),
    "relu6": (activations.relu6, F.relu6),
    "leaky_relu": (activations.leaky_relu, F.leaky_relu),
    "leaky_relu(0.3)": (
        lambda x: activations.leaky_relu(x, negative_slope=0.3),
        lambda x: F.leaky_relu(x, 0.3),
    ),
    "elu": (activations.elu, F.elu),
    "elu(0.5)": (lambda x: activations.elu(x, alpha=0.5), lambda x: F.elu(x, 0.5)),
    "celu": (activations.celu, F.celu),
    "celu(0.5)": (lambda x: activations.celu(x, alpha=0.5), lambda x: F.celu(x, 0.5)),
    "selu": (activations.selu, F.selu),
    "gelu": (activations.gelu, F.gelu),
    "gelu(tanh)": (
        lambda x: activations.gelu(x, approximate=True),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "silu": (activations.silu, F.silu),
    "hard_swish": (activations.hard_swish, F.hardswish),
    "mish": (activations.mish, F.mish),
    "softplus": (activations.softplus, F.softplus),
    "hard_shrink": (activations.hard_shrink, F.hardshrink),
    "hard_shrink(1)": (
        lambda x: activations.hard_shrink(x, threshold=1.0),
        lambda x: F.hardshrink(x, 1.0),
    ),
    "soft_shrink": (activations.soft_shrink, F.softshrink),
    "soft_shrink(1)": (
        lambda x: activations.soft_shrink(x, threshold=1.0),
        lambda x: F.softshrink(x, 1.0),
    ),
    "tanh_shrink": (activations.tanh_shrink, F.tanhshrink),
    "threshold": (activations.threshold, lambda x: F.threshold(x, 0.0, 0.0)),
    "threshold(1, -2)": (
        lambda x: activations.threshold(x, threshold=1.0, value=-2.0),
        lambda x: F.threshold(x, 1.0, -2.0),
    ),
}
KINKS = [0.0, 0.5, 1.0, 3.0, 6.0]
X = np.unique(
    np.concatenate([np.linspace(-20, 20, 4001), KINKS, -np.array(KINKS)]).astype(np.float32)
)
# Both sides evaluate a few float32 elementary functions, each within about 4 units of 2^-23 of
# its result; where terms of size |x| cancel the error is that share of |x|, hence the absolute
# part: 20 * 2^-23 is 2.4e-6.
RTOL, ATOL = 16 * 2.0**-23, 20 * 2.0**-23
# A derivative that holds f (1 - tanh^2) is in error by f times twice the two units of 2^-23 of each
# side's tanh. Without fused multiply-adds tanh is 1 nowhere up to |x| = 20. For the tanh form of
# GELU f is the inner derivative times x / 2, up to 13 where tanh differs from 1; for mish it is x.
ATOLS = {"gelu(tanh)": 13 * 2 * 4 * 2.0**-23, "mish": 20 * 2 * 4 * 2.0**-23}


def test_every_activation_is_compared():
    assert set(activations.by_name) - set(ALONG_AN_AXIS) <= set(PAIRS)


ALONG_AN_AXIS = {
    "softmax": F.softmax, "softmin": F.softmin, "log_softmax": F.log_softmax, "glu": F.glu,
}  # fmt: skip


@pytest.mark.parametrize("name", ALONG_AN_AXIS)
@pytest.mark.parametrize("axis", [0, -1])
def test_those_along_an_axis(name, axis):
    x = np.random.default_rng(0).normal(0, 5, (6, 4)).astype(np.float32)
    value, pull = jax.vjp(lambda x: getattr(activations, name)(x, axis=axis), jnp.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    expected = ALONG_AN_AXIS[name](given, dim=axis)
    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    expected.backward(torch.tensor(weights))
    np.testing.assert_allclose(value, expected.detach().numpy(), RTOL, ATOL)
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], given.grad.numpy(), RTOL, ATOL)


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_derivatives(name):
    ours, theirs = PAIRS[name]

    @jax.jit
    def value_and_derivative(x):
        value, back = jax.vjp(ours, x)
        return value, back(jnp.ones_like(x))[0]

    values, derivatives = value_and_derivative(jnp.asarray(X))
    x = torch.tensor(X, requires_grad=True)
    expected = theirs(x)
    expected.sum().backward()
    np.testing.assert_allclose(values, expected.detach().numpy(), RTOL, ATOL)
    np.testing.assert_allclose(derivatives, x.grad.numpy(), RTOL, ATOLS.get(name, ATOL))


def test_softmax(key):
    x = 5 * jax.random.normal(key, (7, 6))
    for axis in (-1, 0):
        values, vjp = jax.vjp(lambda x, a=axis: activations.softmax(x, axis=a), x)
        theirs = torch.tensor(np.asarray(x), requires_grad=True)
        expected = F.softmax(theirs, axis)
        (expected * torch.arange(6.0)).sum().backward()
        np.testing.assert_allclose(values, expected.detach().numpy(), RTOL, ATOL)
        cotangent = jnp.broadcast_to(jnp.arange(6.0), x.shape)
        np.testing.assert_allclose(vjp(cotangent)[0], theirs.grad.numpy(), RTOL, ATOL)


@pytest.mark.parametrize("per_feature", [False, True])
def test_prelu(key, per_feature):
    x = jnp.concatenate([jax.random.normal(key, (9, 4)), jnp.zeros((1, 4))])
    layer: Any = PReLU(per_feature=per_feature)
    variables = layer.init(key, x)
    values, vjp = jax.vjp(layer.apply, variables, x)
    gradients, of_x = vjp(jnp.ones_like(x))
    theirs = torch.nn.PReLU(4 if per_feature else 1)
    inputs = torch.tensor(np.asarray(x), requires_grad=True)
    expected = theirs(inputs)
    expected.sum().backward()
    np.testing.assert_allclose(values, expected.detach().numpy(), RTOL, ATOL)
    np.testing.assert_allclose(of_x, inputs.grad.numpy(), RTOL, ATOL)
    slope = np.atleast_1d(gradients["params"]["negative_slope"])
    np.testing.assert_allclose(slope, theirs.weight.grad.numpy(), RTOL, ATOL)


def test_rrelu_in_evaluation():
    expected = torch.nn.RReLU().eval()(torch.tensor(X)).numpy()
    layer: Any = RReLU()
    values = layer.apply({}, jnp.asarray(X), train=False)
    np.testing.assert_allclose(values, expected, RTOL, ATOL)
