"""The observer of the edge of stability, on a quadratic whose curvature is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import losses, models, observers, optimizers, training

X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
DATA = (X, X @ np.ones((3, 1), np.float32))
LINEAR = models.MLP([1])


def curvature():
    """The largest eigenvalue of the mean loss's Hessian by weights and bias."""
    design = np.c_[X, np.ones(len(X))].astype(np.float64)
    target = jnp.zeros((1, 1))
    bend = jax.grad(jax.grad(lambda y: losses.mean_squared_error(y[None, None], target)[0]))
    factor = float(bend(0.5))
    return factor * np.linalg.eigvalsh(design.T @ design / len(X))[-1]


def train(observer, optimizer, epochs=5, **settings):
    return training.fit(
        LINEAR, DATA, optimizer, loss=losses.mean_squared_error, epochs=epochs, batch_size=32,
        key=jax.random.key(0), observers=[observer], **settings,
    )  # fmt: skip


def test_it_follows_sharpness_times_half_the_rate():
    kept = []
    observer = observers.sharpness_every(2, lambda event, found: kept.append((event.epoch, found)))
    train(observer, optimizers.sgd(lambda step: 0.1 / (1 + step)))
    assert [epoch for epoch, _ in kept] == [2, 4, 5]
    for epoch, found in kept:  # one step an epoch: the next has been divided by 1 + epoch
        assert found.rate == pytest.approx(0.1 / (1 + epoch))
        assert found.edge == pytest.approx(curvature() * found.rate / 2, rel=1e-5)
    assert repr(kept[0][1]).startswith("Stability(edge ")


@pytest.mark.parametrize(("factor", "grows"), [(0.95, False), (1.05, True)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_edge_is_where_descent_diverges(momentum, factor, grows):
    """At 1 for plain descent, at 1 + beta with momentum."""
    kept = []
    rate = 2 * (1 + momentum) * factor / curvature()
    train(
        observers.sharpness_every(100, lambda event, found: kept.append(found)),
        optimizers.momentum(rate, decay=momentum),
        epochs=100,
    )
    (found,) = kept
    assert (found.edge > 1 + momentum) == grows
    quiet = observers.sharpness_every(100, lambda event, found: None)
    run = train(quiet, optimizers.momentum(rate, decay=momentum), epochs=100)
    loss = run.history.train["loss"]
    assert (loss[-1] > loss[0]) == grows


def test_it_is_kept_in_files(tmp_path):
    train(observers.sharpness_every(5, tmp_path / "s", examples=7), optimizers.sgd(0.1))
    (file,) = (tmp_path / "s").iterdir()
    assert file.name == "sharpness_000000005.npz"
    with np.load(file, allow_pickle=False) as loaded:
        assert loaded["edge"] == pytest.approx(loaded["eigenvalues"][0, 0] * 0.1 / 2)


def test_a_rate_that_no_state_shows_is_given():
    seen = []
    with pytest.raises(ValueError, match="must hold a learning rate"):
        train(observers.sharpness_every(1, seen.append), optax.sgd(0.1), epochs=1)
    with pytest.raises(ValueError, match="must hold a learning rate") as refused:
        train(observers.sharpness_every(3, print), optax.sgd(0.1), epochs=3)
    assert not hasattr(refused.value, "result")  # which an error after a step has
    kept = []
    observer = observers.sharpness_every(1, lambda event, found: kept.append(found), rate=0.1)
    train(observer, optax.sgd(0.1), epochs=1)
    assert kept[0].rate == 0.1
