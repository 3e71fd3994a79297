"""Losses: formulas in float64, shapes that must not broadcast, and numerics far from zero."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses

REGRESSION = [losses.mean_squared_error, losses.mean_absolute_error, losses.huber]
PAIRED = [*REGRESSION, losses.binary_cross_entropy]
# A loss is a handful of float32 operations, each rounding by half of 2^-23.
RTOL = 16 * 2.0**-23
# Below it a backend may flush a number to zero, or keep what is left of exp(-2 size).
TINY = float(np.finfo(np.float32).tiny)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, outputs, targets):
    """Of the sum over the examples."""
    return jax.value_and_grad(lambda o: loss(o, targets).sum())(outputs)


def reference_cross_entropy(logits, probabilities, smoothing=0.0):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    q = (1 - smoothing) * probabilities + smoothing / logits.shape[-1]
    return -(q * log_p).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels_one_hot_and_formula_agree(key, smoothing):
    logits = 5 * jax.random.normal(key, (64, 10))
    labels = jnp.arange(64) % 10
    one_hot = jax.nn.one_hot(labels, 10)
    expected = reference_cross_entropy(logits, np.asarray(one_hot, np.float64), smoothing)
    cross_entropy = jax.jit(functools.partial(losses.cross_entropy, label_smoothing=smoothing))
    for targets in (labels, one_hot, one_hot.astype(jnp.int32)):
        loss = cross_entropy(logits, targets)
        chex.assert_shape(loss, (64,))
        # Logits of 20 cancel in the log-softmax: an absolute error of 20 * 2^-23 each time.
        np.testing.assert_allclose(loss, expected, rtol=RTOL, atol=8 * 20 * 2.0**-23)


def test_cross_entropy_is_averaged_over_positions(key):
    logits = jax.random.normal(key, (4, 6, 3))
    labels = jnp.arange(24).reshape(4, 6) % 3
    each = losses.cross_entropy(logits.reshape(24, 3), labels.ravel()).reshape(4, 6)
    chex.assert_trees_all_close(losses.cross_entropy(logits, labels), each.mean(1), rtol=RTOL)


def test_cross_entropy_gradient_is_probabilities_minus_targets(key):
    logits = jax.random.normal(key, (8, 5))
    labels = jnp.arange(8) % 5
    _, gradient = value_and_gradient(losses.cross_entropy, logits, labels)
    expected = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)
    # Both sides are differences of numbers of at most one.
    chex.assert_trees_all_close(gradient, expected, atol=8 * 2.0**-23)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_names_no_class_gives_nan_and_not_another_class(label):
    loss = losses.cross_entropy(jnp.zeros((2, 3)), jnp.array([0, label]))
    assert np.isfinite(loss[0])
    assert np.isnan(loss[1])


def test_labels_stored_in_a_byte_fit_any_number_of_classes():
    loss = losses.cross_entropy(jnp.zeros((1, 1000)), jnp.array([255], jnp.uint8))
    np.testing.assert_allclose(loss, np.log(1000), rtol=RTOL)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_cross_entropies_are_finite_with_finite_gradients_at_any_confidence(size):
    logits = jnp.array([[size, -size], [-size, size]])
    for targets in (jnp.array([0, 0]), jnp.array([[1.0, 0.0], [1.0, 0.0]])):
        loss, gradient = value_and_gradient(losses.cross_entropy, logits, targets)
        np.testing.assert_allclose(loss, 2 * size, rtol=RTOL)
        np.testing.assert_allclose(gradient, [[0, 0], [-1, 1]], atol=TINY)
    binary = jnp.array([size, -size])
    loss, gradient = value_and_gradient(losses.binary_cross_entropy, binary, jnp.array([0, 0]))
    np.testing.assert_allclose(loss, size, rtol=RTOL)
    np.testing.assert_allclose(gradient, [1, 0], atol=TINY)


def test_a_class_ruled_out_by_minus_infinity_costs_nothing():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    for targets in (jnp.array([0]), jnp.array([[1.0, 0.0, 0.0]])):
        loss, gradient = value_and_gradient(losses.cross_entropy, logits, targets)
        np.testing.assert_allclose(loss, np.log(2), rtol=RTOL)
        np.testing.assert_allclose(gradient, [[-0.5, 0.5, 0]], rtol=RTOL)


def test_regression_losses_equal_their_formulas(key):
    outputs, targets = 2 * jax.random.normal(key, (2, 32, 3))
    error = np.abs(np.asarray(outputs, np.float64) - np.asarray(targets, np.float64))
    expected = {
        losses.mean_squared_error: error**2,
        losses.mean_absolute_error: error,
        losses.huber: np.where(error <= 1, error**2 / 2, error - 0.5),
    }
    for loss, value in expected.items():
        np.testing.assert_allclose(loss(outputs, targets), value.mean(1), rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(
        losses.huber(outputs, targets, delta=0.3),
        np.where(error <= 0.3, error**2 / 2, 0.3 * (error - 0.15)).mean(1),
        rtol=RTOL,
        atol=RTOL,
    )


def test_huber_gradient_is_the_error_clipped_at_delta():
    outputs = jnp.array([-3.0, -0.5, 0.0, 0.5, 2.0, 5.0])
    huber = functools.partial(losses.huber, delta=2.0)
    _, gradient = value_and_gradient(huber, outputs, jnp.zeros(6))
    np.testing.assert_allclose(gradient, [-2.0, -0.5, 0.0, 0.5, 2.0, 2.0], atol=0)


def test_absolute_error_does_not_push_where_there_is_no_error():
    outputs = jnp.array([-2.0, 0.0, 0.5])
    _, gradient = value_and_gradient(losses.mean_absolute_error, outputs, jnp.zeros(3))
    np.testing.assert_array_equal(gradient, [-1.0, 0.0, 1.0])


def test_binary_cross_entropy_equals_its_formula(key):
    logits = 3 * jax.random.normal(key, (16, 4))
    targets = jnp.linspace(0, 1, 64).reshape(16, 4)
    o, t = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    expected = t * np.log1p(np.exp(-o)) + (1 - t) * np.log1p(np.exp(o))
    np.testing.assert_allclose(
        losses.binary_cross_entropy(logits, targets), expected.mean(1), rtol=RTOL
    )


@pytest.mark.parametrize("loss", PAIRED)
def test_targets_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r"outputs \(4, 1\) and targets \(4,\)"):
        loss(jnp.zeros((4, 1)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"outputs \(4,\) and targets \(4, 1\)"):
        jax.jit(loss)(jnp.zeros(4), jnp.zeros((4, 1)))


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        ((4, 3), jnp.zeros((3,), jnp.int32), "without its last axis"),
        ((4, 3), jnp.zeros((4, 1), jnp.int32), "without its last axis"),
        ((4, 3), jnp.zeros((4, 2)), "without its last axis"),
        ((4,), jnp.zeros((4,), jnp.int32), "without its last axis"),
        ((4, 3), jnp.zeros((4,)), "labels must be integers"),
    ],
)
def test_class_targets_that_do_not_fit_are_refused(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy(jnp.zeros(outputs), targets)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        losses.cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), label_smoothing=smoothing)


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_huber_delta_that_is_not_positive_is_refused(delta):
    with pytest.raises(ValueError, match="delta must be positive"):
        losses.huber(jnp.zeros(1), jnp.zeros(1), delta=delta)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("loss", [*PAIRED, losses.cross_entropy])
def test_half_precision_outputs_give_a_float32_loss(key, loss, half):
    outputs, targets = jax.random.normal(key, (4, 3), half), jnp.ones((4, 3), jnp.uint8)
    result = loss(outputs, targets)
    chex.assert_type(result, jnp.float32)
    # Not only the result: nothing is rounded to half precision on the way.
    np.testing.assert_array_equal(result, loss(outputs.astype(jnp.float32), targets))
    np.testing.assert_array_equal(result, loss(outputs, targets.astype(half)))


@pytest.mark.parametrize("loss", [*PAIRED, losses.cross_entropy])
def test_losses_do_not_mix_examples(key, loss):
    outputs = jax.random.normal(key, (6, 3))
    targets = jax.nn.one_hot(jnp.arange(6) % 3, 3)
    jacobian = np.asarray(jax.jit(jax.jacobian(loss))(outputs, targets))
    for i in range(6):
        assert np.any(jacobian[i, i] != 0)
        np.testing.assert_array_equal(np.delete(jacobian[i], i, axis=0), 0)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (losses.cross_entropy, jnp.ones((4, 1))),
        (losses.cross_entropy, jnp.zeros(4, jnp.int32)),
        (losses.kl_divergence, jnp.ones((4, 1))),
    ],
)
def test_a_softmax_of_one_output_is_refused(loss, targets):
    with pytest.raises(ValueError, match=r"at least two outputs, got .*use binary_cross_entropy"):
        loss(jnp.zeros((4, 1)), targets)


def test_weights_of_classes_are_an_array_in_their_order():
    with pytest.raises(TypeError, match=r"class_weights must be an array.*got a mapping"):
        losses.cross_entropy(jnp.zeros((2, 2)), jnp.array([0, 1]), class_weights={0: 1.0, 1: 3.0})
