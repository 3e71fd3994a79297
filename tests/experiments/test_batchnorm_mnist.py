"""BatchNorm on digits: the claims hold for the expected numbers, and each can be refuted."""

import batchnorm_mnist as experiment
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models

STEPS = np.arange(50, 1001, 50)
RATES = np.array([0.1, 1.0])


def curves(reached, end, seeds=4):
    """Accuracies by rate, seed and time: 10 until `reached` steps, then `end`, of each rate."""
    spread = np.array([-0.2, -0.1, 0.1, 0.2])[:seeds, None]
    rows = zip(reached, end, strict=True)
    return np.stack([np.where(at <= STEPS, last + spread, 10.0) for at, last in rows])


def percentiles(moved):
    """Of three units, (rates, seeds, time, 3, units): two apart, all moving evenly."""
    path = moved * np.linspace(0, 1, len(STEPS))[:, None, None] + np.array([[-1.0], [0.0], [1.0]])
    scale = np.array([0.9, 1.0, 1.05, 1.1])[:, None, None, None]
    return np.broadcast_to(path + 0 * scale, (4, len(STEPS), 3, 3))[None].repeat(2, 0)


def batchnorm_mnist_results(dataset="mnist_5k"):
    """BatchNorm first at both rates; at the end ahead at the small one, level at the large one."""
    return {
        "dataset": np.array(dataset),
        "rates": RATES,
        "steps": STEPS,
        "norm_test": curves((100, 100), (95.0, 96.0)),
        "plain_test": curves((900, 500), (93.0, 96.1)),
        "norm_validation": curves((100, 100), (95.0, 96.0)),
        "plain_validation": curves((900, 500), (93.0, 96.1)),
        "norm_percentiles": percentiles(0.1),
        "plain_percentiles": percentiles(2.0),
    }


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def refuted(results):
    return {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"}


def test_the_expected_numbers_hold():
    assert verdicts(batchnorm_mnist_results()) == ["holds"] * 5


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("norm_test", lambda v: curves((950, 100), (95.0, 96.0)), {0}),
        ("norm_test", lambda v: curves((100, 550), (95.0, 96.0)), {1}),
        ("norm_test", lambda v: np.full_like(v, 10.0), {0, 1, 3}),  # it never gets there
        ("norm_percentiles", lambda v: percentiles(5.0), {2}),
        ("norm_test", lambda v: curves((100, 100), (90.0, 96.0)), {3}),
        ("norm_test", lambda v: curves((100, 100), (95.0, 102.0)), {4}),
    ],
)
def test_each_claim_can_be_refuted(name, change, expected):
    results = batchnorm_mnist_results()
    results[name] = change(results[name])
    assert refuted(results) == expected


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_mnist_results()
    results["norm_test"][0] += np.array([-4.0, -2.0, 2.0, 4.0])[:, None]
    assert verdicts(results)[3] == "undecided"


def test_on_the_papers_data_the_papers_claim_is_made():
    level = batchnorm_mnist_results("mnist")
    assert refuted(level) == {4}
    level["norm_test"] = curves((100, 100), (95.0, 98.0))
    assert verdicts(level)[4] == "holds"


def test_a_run_without_batchnorm_that_never_gets_there_counts_as_the_last_step():
    results = batchnorm_mnist_results()
    results["plain_test"] = np.full_like(results["plain_test"], 10.0)
    np.testing.assert_array_equal(experiment.speed(results), np.full((2, 4), 10.0))


def test_wander_is_the_deviation_in_units_of_the_distance():
    # Moves between 0 and 1 evenly, two apart: the deviation of a uniform variable, over two.
    path = np.linspace(0, 1, 10_001)[:, None, None] + np.array([[-1.0], [0.0], [1.0]])
    np.testing.assert_allclose(experiment.wander(path), [np.sqrt(1 / 12) / 2], rtol=1e-3)


@pytest.mark.parametrize("name", ["norm", "plain"])
def test_what_a_sigmoid_is_fed(name):
    model = models.MLP(experiment.FEATURES, norm=experiment.NORMS[name])
    images = jax.random.randint(jax.random.key(0), (50, 28, 28, 1), 0, 256).astype(jnp.uint8)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)), train=False)
    fed = experiment.sigmoid_inputs(model, variables, images)
    assert fed.shape == (50, 100)
    if name == "norm":  # gamma is 1 and beta 0 at the start; float32 means of 50 values of size 1
        np.testing.assert_allclose(fed.mean(0), 0.0, atol=1e-5)
    else:
        follows = np.asarray(model.apply(variables, images / 255, train=False))
        last = variables["params"]["dense_3"]
        hidden = jnp.maximum(fed, 0)
        # 100 products of float32, in another order.
        np.testing.assert_allclose(
            hidden @ last["kernel"] + last["bias"], follows, atol=100 * 2.0**-23 * 10
        )


def test_every_seed_has_an_order_of_its_own():
    one, other = (experiment.batches(jax.random.key(seed), 200, 7) for seed in range(2))
    assert one.shape == (7, 60)
    assert len(set(np.ravel(one[:3]).tolist())) == 180  # an epoch sees each at most once
    assert (one != other).any()


def test_steps_that_are_not_measured_evenly_are_refused():
    with pytest.raises(ValueError, match="steps must be a multiple of every"):
        experiment.run(experiment.Config(steps=30, every=25))
