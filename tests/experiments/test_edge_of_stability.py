"""The experiment of the edge of stability: what it measures, and that each claim can be refuted."""

import edge_of_stability
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data, losses, training

EDGES = np.array([12.0, 18.0])
STEPS, BETWEEN = 4000, edge_of_stability.BETWEEN


def edge_of_stability_results(level=1.01, start=0.7, swings=0.3, fall=3.0, early=0.0):
    """Sharpness that rises to the edge by step 1,000 and stays; a loss that swings from then on."""
    draw = np.random.default_rng(0)
    measured, steps = np.arange(0, STEPS, BETWEEN), np.arange(STEPS)
    path = np.interp(measured, [0, 200, 1000], [1.2, start, level])
    near = path * np.exp(0.003 * draw.normal(size=(5, 2, len(measured))))
    share = np.where(steps < 900, early, swings)
    up = draw.random((5, 2, STEPS)) < share
    loss = np.exp(-fall * steps / STEPS) * np.where(up, 1.01, 1.0)
    return xarray.Dataset(
        {
            "sharpness": (("seed", "edge", "measured"), near * EDGES[:, None]),
            "residual": (("seed", "edge", "measured"), 0 * near),
            "loss": (("seed", "edge", "step"), loss),
        },
        coords={"seed": range(5), "edge": EDGES, "measured": measured, "step": steps},
    )


def refuted(results):
    return [i for i, claim in enumerate(edge_of_stability.claims(results)) if claim.refuted]


def test_the_claims_hold_for_the_expected_numbers():
    results = edge_of_stability_results()
    assert all(claim.holds for claim in edge_of_stability.claims(results))
    assert edge_of_stability.plot(results).axes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start": 0.98}, [0]),
        ({"level": 1.3}, [1]),
        ({"level": 0.92}, [1]),
        ({"early": 0.2}, [2]),
        ({"swings": 0.0}, [3]),
        ({"fall": 0.0}, [4]),
    ],
)
def test_each_claim_can_be_refuted(settings, expected):
    assert refuted(edge_of_stability_results(**settings)) == expected


def test_a_run_that_never_arrives_refutes():
    assert 1 in refuted(edge_of_stability_results(level=0.8))


def test_steps_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="steps must be a multiple of 200"):
        edge_of_stability.run(edge_of_stability.Config(steps=2050))


def test_the_run_is_plain_descent_and_its_sharpness_the_dense_one(monkeypatch):
    """On a few small examples, against a loop and `jax.hessian`."""
    draw = np.random.default_rng(0)
    arrays = data.Arrays(draw.normal(size=(40, 3)).astype(np.float32), draw.integers(0, 10, 40))
    small = data.as_dataset(arrays)
    monkeypatch.setattr(edge_of_stability.data, "load", lambda name: small)
    monkeypatch.setattr(edge_of_stability, "EARLY", 25)
    task = training.Task(
        edge_of_stability.models.MLP((4, 10), activation=jnp.tanh), losses.mean_squared_error
    )
    monkeypatch.setattr(edge_of_stability, "TASK", task)
    config = edge_of_stability.Config(seeds=1, edges=(2.0,), steps=200, examples=20)
    found = edge_of_stability.run(config).isel(seed=0, edge=0)

    train = data.split(small, key=jax.random.key(0)).train
    inputs, targets = jnp.asarray(train.inputs[:20]), jax.nn.one_hot(train.targets[:20], 10)
    params = training.first_weights(task, (inputs, targets))(jax.random.key(0))
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def loss(flat):
        outputs = task.model.apply({"params": unravel(flat)}, inputs, train=True)
        return losses.mean_squared_error(outputs, targets).mean()

    descend = jax.jit(jax.value_and_grad(loss))
    for step in range(101):
        value, gradient = descend(flat)
        np.testing.assert_allclose(found["loss"][step], value, rtol=1e-4)
        if step % 50 == 0:
            dense = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64))
            np.testing.assert_allclose(found["sharpness"].sel(measured=step), dense[-1], rtol=1e-4)
        flat = flat - 1.0 * gradient
