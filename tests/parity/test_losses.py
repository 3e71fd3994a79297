"""Values and gradients of every loss against PyTorch's, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses

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
