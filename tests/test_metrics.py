"""Metrics: ties, NaN rows, labels that exist and labels that do not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import metrics


def test_accuracy_of_labels_and_of_one_hot_agree():
    outputs = jnp.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    labels = jnp.array([1, 2, 2])
    for targets in (labels, jax.nn.one_hot(labels, 3)):
        correct = metrics.accuracy(outputs, targets)
        chex.assert_type(correct, jnp.float32)
        np.testing.assert_array_equal(correct, [1, 0, 1])


def test_the_first_of_a_tie_counts():
    outputs = jnp.zeros((3, 3))
    labels = jnp.arange(3)
    np.testing.assert_array_equal(metrics.accuracy(outputs, labels), [1, 0, 0])
    np.testing.assert_array_equal(metrics.top_k(outputs, labels, k=2), [1, 1, 0])


def test_top_k_counts_the_rank_of_the_label(key):
    outputs = jax.random.normal(key, (20, 7))
    labels = jnp.arange(20) % 7
    rank = np.argsort(np.argsort(-np.asarray(outputs), axis=1), axis=1)[np.arange(20), labels]
    for k in range(1, 8):
        np.testing.assert_array_equal(metrics.top_k(outputs, labels, k=k), rank < k)
    np.testing.assert_array_equal(
        metrics.top_k(outputs, labels, k=1), metrics.accuracy(outputs, labels)
    )


@pytest.mark.parametrize("metric", [metrics.accuracy, lambda o, t: metrics.top_k(o, t, k=2)])
def test_a_row_with_a_nan_is_wrong_whatever_its_label(metric):
    rows = jnp.array([[jnp.nan, jnp.nan, jnp.nan], [jnp.nan, 0.0, 1.0], [0.0, 1.0, jnp.nan]])
    for label in range(3):
        np.testing.assert_array_equal(metric(rows, jnp.full(3, label)), 0)


@pytest.mark.parametrize("metric", [metrics.accuracy, lambda o, t: metrics.top_k(o, t, k=3)])
def test_a_label_that_names_no_class_is_wrong(metric):
    for value in (-1.0, 1.0):
        outputs = jnp.full((2, 3), value)
        np.testing.assert_array_equal(metric(outputs, jnp.array([-1, 3])), 0)


def test_infinite_logits_still_rank():
    outputs = jnp.array([[jnp.inf, 0.0, -jnp.inf]] * 3)
    np.testing.assert_array_equal(metrics.accuracy(outputs, jnp.arange(3)), [1, 0, 0])
    np.testing.assert_array_equal(metrics.top_k(outputs, jnp.arange(3), k=2), [1, 1, 0])


def test_metrics_average_over_the_positions_of_an_example():
    outputs = jax.nn.one_hot(jnp.array([[0, 1], [1, 1]]), 3)
    labels = jnp.array([[0, 2], [1, 1]])
    np.testing.assert_array_equal(metrics.accuracy(outputs, labels), [0.5, 1.0])


def test_squared_error_averages_over_outputs():
    outputs = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_array_equal(metrics.squared_error(outputs, jnp.zeros((2, 2))), [5.0, 0.0])


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="without its last axis"):
        metrics.accuracy(jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32))
    with pytest.raises(ValueError, match="labels must be integers"):
        metrics.top_k(jnp.zeros((4, 3)), jnp.zeros(4))
    with pytest.raises(ValueError, match="shape of the outputs"):
        metrics.squared_error(jnp.zeros((4, 1)), jnp.zeros(4))


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_k_beyond_the_classes_is_refused(k):
    with pytest.raises(ValueError, match="from 1 to the 3 classes"):
        metrics.top_k(jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32), k=k)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 2, 1)])
def test_accuracy_of_one_output_is_the_sign_of_its_logit(shape):
    logits = np.array([-2.0, 0.0, 1e-3, 5.0, np.nan, np.inf])
    truth = np.array([0, 0, 0, 1, 0, 1])
    right = np.array([1, 1, 0, 1, 0, 1]).reshape(shape[0], -1).mean(1)  # by hand
    outputs = jnp.asarray(logits.reshape(shape), jnp.float32)
    for dtype in (np.int32, np.float32, bool):
        for form in {shape, shape[:-1] or shape}:
            targets = jnp.asarray(truth.reshape(form).astype(dtype))
            np.testing.assert_allclose(metrics.accuracy(outputs, targets), right, rtol=1e-7)


def test_one_output_and_targets_of_other_kinds():
    outputs = jnp.array([[-1.0], [1.0]])
    for no, yes, right in [(-1, 1, 1), (0.3, 0.7, 1), (2, 2, 0), (-2, 7.5, 0), (np.nan, np.nan, 0)]:
        targets = jnp.array([[no], [yes]])
        np.testing.assert_array_equal(metrics.accuracy(outputs, targets), [right, right])
    with pytest.raises(ValueError, match=r"of one output must have its shape.*\(2, 2\)"):
        metrics.accuracy(outputs, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="top_k must have at least two outputs"):
        metrics.top_k(outputs, jnp.array([0, 1]), k=1)
