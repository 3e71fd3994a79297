"""Values and both modes of derivative against the closed form in float64, out to the extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfc, expit, log_softmax, softmax

from jaxdl import activations, losses

SCALE, ALPHA = 1.0507009873554804934, 1.6732632423543772848
DTYPES = ["float16", "bfloat16", "float32", "float64"]
SIZES = [1e-30, 1e-6, 1e-3, 0.1, 0.3, 0.7, 1.0, 3.0, 5.0, 9.0, 12.0, 17.0, 20.0, 40.0, 80.0, 150.0,
         1e3, 6e4, 1e10, 1e30]  # fmt: skip
POINTS = np.array([0.0, *SIZES, *(-size for size in SIZES)])


def exponential(x, alpha=1.0, scale=1.0):
    """ELU, and what follows from it: value, derivative."""
    below = np.minimum(x, 0)
    return (
        scale * np.where(x > 0, x, alpha * np.expm1(below)),
        scale * np.where(x > 0, 1.0, alpha * np.exp(below)),
    )


def gated(x, gate, slope):
    """x gate(x): value, derivative, and the size of the terms that make the derivative."""
    return x * gate, gate + x * slope, np.abs(gate) + np.abs(x * slope)


def tanh_gelu(x):
    near = np.clip(x, -100, 100)
    u = 2 * np.sqrt(2 / np.pi) * (near + 0.044715 * near**3)
    rise = 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * near**2)
    return gated(x, expit(u), rise * expit(u) * expit(-u))


def mish(x):
    plus = np.logaddexp(0, x)
    return gated(x, np.tanh(plus), expit(x) / np.cosh(np.minimum(plus, 700)) ** 2)


def tanh_shrink(x):
    small = x**3 / 3 - 2 * x**5 / 15 + 17 * x**7 / 315
    wide = np.longdouble(x)
    return np.where(np.abs(x) < 5e-3, small, wide - np.tanh(wide)), np.tanh(x) ** 2


def sech(x):
    return 1 / np.cosh(np.clip(x, -700, 700))


# name: function, closed form: x -> value, derivative (, size of the derivative's terms).
ACTIVATIONS = {
    "sigmoid": (activations.sigmoid, lambda x: (expit(x), expit(x) * expit(-x))),
    "log_sigmoid": (activations.log_sigmoid, lambda x: (-np.logaddexp(0, -x), expit(-x))),
    "softplus": (activations.softplus, lambda x: (np.logaddexp(0, x), expit(x))),
    "tanh": (activations.tanh, lambda x: (np.tanh(x), sech(x) ** 2)),
    "softsign": (activations.softsign, lambda x: (x / (1 + abs(x)), 1 / (1 + abs(x)) ** 2)),
    "elu": (activations.elu, exponential),
    "elu_2": (functools.partial(activations.elu, alpha=2.0), lambda x: exponential(x, 2.0)),
    "celu": (functools.partial(activations.celu, alpha=2.0),
             lambda x: (exponential(x / 2, 2.0)[0] * np.where(x > 0, 2, 1),
                        exponential(x / 2)[1])),
    "selu": (activations.selu, lambda x: exponential(x, ALPHA, SCALE)),
    "gelu": (activations.gelu,
             lambda x: gated(x, erfc(-x / np.sqrt(2)) / 2,
                             np.exp(-np.minimum(x**2, 1e4) / 2) / np.sqrt(2 * np.pi))),
    "gelu_tanh": (functools.partial(activations.gelu, approximate=True), tanh_gelu),
    "silu": (activations.silu, lambda x: gated(x, expit(x), expit(x) * expit(-x))),
    "mish": (activations.mish, mish),
    "tanh_shrink": (activations.tanh_shrink, tanh_shrink),
}  # fmt: skip


def close(found, exact, dtype, terms):
    """Within the roundings that the form has.

    An argument that is rounded once moves exp(-x^2 / 2) by x^2 roundings; a few more are made on
    the way. Half precision is computed in float32 and rounded once. What is subnormal may be 0.
    """
    kind, wide = jnp.finfo(dtype), jnp.finfo(jnp.promote_types(dtype, jnp.float32))
    x = np.asarray(POINTS.astype(dtype), np.float64)[in_range(dtype)]
    rounding = float(wide.eps) * (16 + 4 * np.minimum(x**2, 1e4))
    if jnp.dtype(dtype).itemsize == 2:
        rounding = rounding + float(kind.eps) / 2
    slack = rounding * terms + 2 * max(float(kind.smallest_subnormal), float(wide.tiny))
    assert (np.abs(found - exact) <= slack).all(), (x[np.abs(found - exact) > slack], found, exact)


def in_range(dtype):
    return np.abs(POINTS) < float(jnp.finfo(dtype).max)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_their_tails(name, dtype):
    function, formula = ACTIVATIONS[name]
    with jax.enable_x64(dtype == "float64"), np.errstate(all="ignore"):
        x = jnp.asarray(POINTS[in_range(dtype)].astype(jnp.dtype(dtype)))
        value, forward = jax.jvp(function, (x,), (jnp.ones_like(x),))
        (backward,) = jax.vjp(function, x)[1](jnp.ones_like(x))
        assert value.dtype == forward.dtype == backward.dtype == x.dtype
        value, forward, backward = (np.asarray(each, np.float64) for each in
                                    (value, forward, backward))  # fmt: skip
        exact, slope, *terms = formula(np.asarray(x, np.float64))
        close(value, exact, dtype, np.abs(exact))
        for found in (forward, backward):
            close(found, slope, dtype, terms[0] if terms else np.abs(slope))


def both_modes(function, x):
    """The derivative of a sum, backward; forward one output at a time, where it must agree."""
    backward = jax.grad(lambda x: function(x).sum())(x)
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    forward = jax.vmap(lambda tangent: jax.jvp(function, (x,), (tangent,))[1].sum())(basis)
    np.testing.assert_allclose(
        np.asarray(forward.reshape(x.shape), np.float64), np.asarray(backward, np.float64),
        rtol=4 * float(jnp.finfo(x.dtype).eps), atol=1e-7,
    )  # fmt: skip
    return np.asarray(backward, np.float64)


def error_of(dtype):
    """Losses are float32 at least; their gradient by a half-precision output is rounded to it."""
    return 16 * 2**-24 if dtype == "float32" else 16 * 2**-53 if dtype == "float64" else float(
        jnp.finfo(dtype).eps
    )  # fmt: skip


LOGITS = np.array([-np.inf, -1e4, -100.0, -20.0, -3.0, 0.0, 0.5, 20.0, 100.0, 1e4, np.inf])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_binary_cross_entropy_at_every_logit(dtype, target, weight):
    with jax.enable_x64(dtype == "float64"):
        logits = jnp.asarray(LOGITS.astype(jnp.dtype(dtype)))
        x, t = np.asarray(logits, np.float64), target
        loss = functools.partial(losses.binary_cross_entropy, positive_weight=weight)
        targets = jnp.full_like(logits, target)
        with np.errstate(invalid="ignore"):
            exact = np.nan_to_num(weight * t * np.logaddexp(0, -x), posinf=np.inf) + np.nan_to_num(
                (1 - t) * np.logaddexp(0, x), posinf=np.inf
            )
        np.testing.assert_allclose(
            loss(logits, targets), exact, rtol=error_of(dtype), atol=np.finfo(np.float32).tiny
        )
        slope = (1 - t) * expit(x) - weight * t * expit(-x)
        # Two terms that are less than 3 together.
        np.testing.assert_allclose(
            both_modes(lambda x: loss(x, targets), logits), slope,
            rtol=error_of(dtype),
            atol=3 * error_of(dtype) * (0 < target < 1) + float(jnp.finfo(dtype).tiny),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [[0.0, 1.0, 2.0], [-np.inf, 1.0, 2.0], [-1e4, 3.0, 1e4],
                                 [-30.0, 0.0, 30.0]])  # fmt: skip
@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_where_classes_are_ruled_out(dtype, row, one_hot):
    with jax.enable_x64(dtype == "float64"):
        logits = jnp.asarray([row], dtype)
        x = np.asarray(logits[0], np.float64)
        targets = jnp.asarray([[0, 0, 1]] if one_hot else [2])
        value = losses.cross_entropy(logits, targets)
        np.testing.assert_allclose(
            value, [-log_softmax(x)[2]], rtol=error_of(dtype), atol=2 * 2.0**-24
        )
        slope = both_modes(lambda x: losses.cross_entropy(x, targets), logits)
        np.testing.assert_allclose(
            slope, [softmax(x) - [0, 0, 1]], rtol=error_of(dtype), atol=2 * 2.0**-24
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("delta", [1e-3, 1.0, 10.0, 1e30])
def test_hubers_slope_is_the_error_clipped(dtype, delta):
    with jax.enable_x64(dtype == "float64"):
        outputs = jnp.asarray([0.0, 1e-3, -1e-3, 0.5, -5.0, 1e3, -6e4], dtype)
        x = np.asarray(outputs, np.float64)
        loss = functools.partial(losses.huber, delta=delta)
        targets = jnp.zeros_like(outputs)
        exact = np.where(abs(x) <= delta, x**2 / 2, delta * (abs(x) - delta / 2))
        np.testing.assert_allclose(loss(outputs, targets), exact, rtol=16 * 2**-24)
        slope = both_modes(lambda x: loss(x, targets), outputs)
        np.testing.assert_allclose(slope, np.clip(x, -delta, delta), rtol=error_of(dtype))


def test_the_new_losses_equal_their_formulas():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(5, 3)), draw.normal(size=(5, 3))
    outputs = jnp.asarray(x, jnp.float32)
    signs, counts = np.sign(y), np.round(3 * abs(y))
    truth = softmax(y, -1)
    truth[0] = [0, 1, 0]
    safe = np.where(truth > 0, truth, 1)
    for found, exact in (
        (losses.hinge(outputs, jnp.asarray(signs)), np.maximum(0, 1 - signs * x).mean(-1)),
        (losses.poisson(outputs, jnp.asarray(counts)), (np.exp(x) - counts * x).mean(-1)),
        (losses.kl_divergence(outputs, jnp.asarray(truth, jnp.float32)),
         (truth * (np.log(safe) - log_softmax(x, -1))).sum(-1)),
    ):  # fmt: skip
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_a_gate_needs_two_halves_and_softmin_is_the_softmax_of_the_other_sign():
    x = jnp.array([[1.0, 2.0, 0.0]])
    with pytest.raises(ValueError, match="even number of entries"):
        activations.glu(x)
    np.testing.assert_array_equal(activations.softmin(x), activations.softmax(-x))
    np.testing.assert_allclose(activations.log_softmax(x), log_softmax(np.array(x), -1), rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"class_weights": jnp.ones(2)}, {"ignored": -100}],
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match=r"class_weights must have|ignored must go with labels"):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3)) / 3, **settings)
