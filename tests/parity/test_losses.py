"""Values and gradients of every loss against PyTorch's, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.training.task import mean_over_batch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
F = torch.nn.functional

# A handful of float32 operations on each side; logits of at most 30 cancel in the log-softmax.
RTOL, ATOL = 16 * 2.0**-23, 4 * 30 * 2.0**-23


def compare(ours, theirs, outputs, targets):
    """Per-example values, and gradients of their sum."""
    targets = np.asarray(targets)
    values, vjp = jax.vjp(lambda o: ours(o, jnp.asarray(targets)), outputs)
    x = torch.tensor(np.asarray(outputs), requires_grad=True)
    expected = theirs(x, torch.tensor(targets))
    expected = expected.reshape(len(expected), -1).mean(1)
    expected.sum().backward()
    np.testing.assert_allclose(values, expected.detach().numpy(), RTOL, ATOL)
    np.testing.assert_allclose(vjp(jnp.ones_like(values))[0], x.grad.numpy(), RTOL, ATOL)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy(key, kind, smoothing):
    logits = 6 * jax.random.normal(key, (50, 7))
    labels = np.arange(50) % 7
    soft = np.asarray(jax.nn.softmax(jax.random.normal(jax.random.key(1), (50, 7))))
    compare(
        lambda o, t: losses.cross_entropy(o, t, label_smoothing=smoothing),
        lambda o, t: F.cross_entropy(o, t, reduction="none", label_smoothing=smoothing),
        logits,
        labels if kind == "labels" else soft,
    )


def test_cross_entropy_of_positions(key):
    logits = 6 * jax.random.normal(key, (5, 4, 7))
    compare(
        losses.cross_entropy,
        lambda o, t: F.cross_entropy(o.movedim(-1, 1), t, reduction="none"),
        logits,
        np.arange(20).reshape(5, 4) % 7,
    )


@pytest.mark.parametrize("shape", [(60,), (60, 1), (20, 3), (5, 2, 6)], ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (losses.mean_squared_error, lambda o, t: F.mse_loss(o, t, reduction="none")),
        (losses.mean_absolute_error, lambda o, t: F.l1_loss(o, t, reduction="none")),
        (losses.huber, lambda o, t: F.huber_loss(o, t, reduction="none")),
        (
            lambda o, t: losses.huber(o, t, delta=0.5),
            lambda o, t: F.huber_loss(o, t, reduction="none", delta=0.5),
        ),
    ],
    ids=["mean_squared_error", "mean_absolute_error", "huber", "huber(0.5)"],
)
def test_regression_losses_kinks_included(key, ours, theirs, shape):
    outputs = 2 * jax.random.normal(key, shape)
    targets = np.zeros(shape, np.float32)
    # Errors of exactly 0 and exactly delta.
    outputs = outputs.ravel().at[:3].set(jnp.array([0.0, 0.5, -1.0])).reshape(shape)
    compare(ours, theirs, outputs, targets)


@pytest.mark.parametrize("shape", [(60,), (20, 3)], ids=str)
def test_binary_cross_entropy(key, shape):
    logits = 10 * jax.random.normal(key, shape)
    logits = logits.ravel().at[0].set(0.0).reshape(shape)
    for targets in (
        np.linspace(0, 1, 60, dtype=np.float32).reshape(shape),
        (np.arange(60) % 2).astype(np.float32).reshape(shape),
    ):
        compare(
            losses.binary_cross_entropy,
            lambda o, t: F.binary_cross_entropy_with_logits(o, t, reduction="none"),
            logits,
            targets,
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [None, -100, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(50,), (10, 5)])
def test_the_mean_of_weighted_and_ignored_labels(smoothing, ignored, weighted, shape):
    if ignored is None and not weighted:
        pytest.skip("a plain mean")
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (*shape, 7)).astype(np.float32)
    labels = draw.integers(0, 7, shape)
    if ignored is not None:
        labels[::3] = ignored
    weights = draw.uniform(0.2, 3, 7).astype(np.float32) if weighted else None

    def mean(outputs):
        values, counts = losses.cross_entropy(
            outputs, jnp.asarray(labels), label_smoothing=smoothing, ignored=ignored,
            class_weights=None if weights is None else jnp.asarray(weights),
        )  # fmt: skip
        return mean_over_batch(values, counts)

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(logits))
    x = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(
        x.movedim(-1, 1), torch.tensor(labels), label_smoothing=smoothing,
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=-100 if ignored is None else ignored,
    )  # fmt: skip
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), RTOL)
    np.testing.assert_allclose(gradient, x.grad.numpy(), RTOL, ATOL / 50)


def test_class_weights_of_probabilities(key):
    soft = np.asarray(jax.nn.softmax(jax.random.normal(jax.random.key(1), (50, 7))))
    weights = np.linspace(0.5, 2, 7, dtype=np.float32)
    compare(
        lambda o, t: losses.cross_entropy(o, t, class_weights=jnp.asarray(weights)),
        lambda o, t: F.cross_entropy(o, t, reduction="none", weight=torch.tensor(weights)),
        6 * jax.random.normal(key, (50, 7)),
        soft,
    )


def test_positive_weights(key):
    weights = np.array([0.5, 3.0, 1.0], np.float32)
    compare(
        lambda o, t: losses.binary_cross_entropy(o, t, positive_weight=jnp.asarray(weights)),
        lambda o, t: F.binary_cross_entropy_with_logits(
            o, t, reduction="none", pos_weight=torch.tensor(weights)
        ),
        6 * jax.random.normal(key, (20, 3)),
        np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "targets"),
    [
        (losses.poisson, lambda o, t: F.poisson_nll_loss(o, t, reduction="none"),
         np.arange(60, dtype=np.float32).reshape(20, 3) % 5),
        (losses.kl_divergence,
         lambda o, t: 3 * F.kl_div(F.log_softmax(o, -1), t, reduction="none"),
         np.asarray(jax.nn.softmax(jnp.linspace(0, 7, 60).reshape(20, 3)))),
    ],
)  # fmt: skip
def test_poisson_and_divergence(key, ours, theirs, targets):
    compare(ours, theirs, jax.random.normal(key, (20, 3)), targets)
