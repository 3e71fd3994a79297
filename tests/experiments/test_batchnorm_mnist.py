"""BatchNorm on digits: the claims hold for the expected numbers, and each can be refuted."""

import batchnorm_mnist as experiment
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

STEPS = np.arange(50, 1001, 50)
RATES = np.array([0.1, 1.0])
AXES = ("norm", "rate", "seed", "step")


def curves(reached, end):
    """Accuracies by rate, seed and time: 10 until `reached` steps, then `end`, of each rate."""
    spread = np.array([-0.2, -0.1, 0.1, 0.2])[:, None]
    rows = zip(reached, end, strict=True)
    return np.stack([np.where(at <= STEPS, last + spread, 10.0) for at, last in rows])


def percentiles(moved):
    """Of three units, (rates, seeds, time, 3, units): two apart, all moving evenly."""
    path = moved * np.linspace(0, 1, len(STEPS))[:, None, None] + np.array([[-1.0], [0.0], [1.0]])
    return np.broadcast_to(path, (2, 4, len(STEPS), 3, 3))


def batchnorm_mnist_results(dataset="mnist_5k"):
    """BatchNorm first at both rates; at the end ahead at the small one, level at the large one."""
    accuracy = np.stack([curves((100, 100), (95.0, 96.0)), curves((900, 500), (93.0, 96.1))])
    fed = np.stack([percentiles(0.1), percentiles(2.0)])
    return xarray.Dataset(
        {
            "test": (AXES, accuracy),
            "validation": (AXES, accuracy.copy()),
            "percentiles": ((*AXES, "percentile", "unit"), fed),
        },
        coords={
            "norm": ["norm", "plain"],
            "rate": RATES,
            "seed": range(4),
            "step": STEPS,
            "percentile": list(experiment.PERCENTILES),
            "dataset": dataset,
        },
    )


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def refuted(results):
    return {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"}


def test_the_expected_numbers_hold():
    assert verdicts(batchnorm_mnist_results()) == ["holds"] * 5


NORM = {"norm": "norm"}


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("test", curves((950, 100), (95.0, 96.0)), {0}),
        ("test", curves((100, 550), (95.0, 96.0)), {1}),
        ("test", np.full((2, 4, len(STEPS)), 10.0), {0, 1, 3}),  # it never gets there
        ("percentiles", percentiles(5.0), {2}),
        ("percentiles", np.full((2, 4, len(STEPS), 3, 3), np.nan), {2}),
        ("test", curves((100, 100), (90.0, 96.0)), {3}),
        ("test", curves((100, 100), (95.0, 102.0)), {4}),
    ],
)
def test_each_claim_can_be_refuted(name, values, expected):
    results = batchnorm_mnist_results()
    results[name].loc[NORM] = values
    assert refuted(results) == expected


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_mnist_results()
    results["test"].loc[NORM | {"rate": 0.1}] += np.array([-4.0, -2.0, 2.0, 4.0])[:, None]
    assert verdicts(results)[3] == "undecided"


def test_on_the_papers_data_the_papers_claim_is_made():
    level = batchnorm_mnist_results("mnist")
    assert refuted(level) == {4}
    level["test"].loc[NORM] = curves((100, 100), (95.0, 98.0))
    assert verdicts(level)[4] == "holds"


def test_one_rate_is_not_compared_with_others():
    results = batchnorm_mnist_results().isel(rate=[0])
    assert verdicts(results) == ["holds"] * 2
    assert experiment.plot(results).axes


def test_a_run_without_batchnorm_that_never_gets_there_counts_as_the_last_step():
    results = batchnorm_mnist_results()
    results["test"].loc[{"norm": "plain"}] = 10.0
    np.testing.assert_array_equal(experiment.speed(results), np.full((2, 4), 10.0))


def test_wander_is_the_deviation_in_units_of_the_distance():
    # Moves between 0 and 1 evenly, two apart: the deviation of a uniform variable, over two.
    path = np.linspace(0, 1, 10_001)[:, None] + np.array([-1.0, 0.0, 1.0])
    coords = {"percentile": list(experiment.PERCENTILES)}
    moved = experiment.wander(xarray.DataArray(path, coords, ("step", "percentile")))
    np.testing.assert_allclose(moved, np.sqrt(1 / 12) / 2, rtol=1e-3)


@pytest.mark.parametrize("name", ["norm", "plain"])
def test_what_a_sigmoid_is_fed(name):
    model = experiment.task_of(experiment.NORMS[name]).model
    images = jax.random.randint(jax.random.key(0), (50, 28, 28, 1), 0, 256).astype(jnp.uint8)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)), train=False)
    fed = experiment.sigmoid_inputs(model, variables, images)
    assert fed.shape == (50, 100)
    if name == "norm":  # gamma is 1 and beta 0 at the start; float32 means of 50 values of size 1
        np.testing.assert_allclose(fed.mean(0), 0.0, atol=1e-5)
    else:
        follows = np.asarray(model.apply(variables, images / 255, train=False))
        last = variables["params"]["dense_3"]
        # 100 products of float32 of size 0.1, in another order.
        np.testing.assert_allclose(
            jax.nn.sigmoid(fed) @ last["kernel"] + last["bias"], follows, atol=100 * 2.0**-23
        )


def test_a_run_has_the_axes_that_claims_read():
    config = experiment.Config(seeds=3, steps=10, every=1, rates=(0.1, 1.0), dataset="mnist_5k")
    results = experiment.run(config)
    assert results["test"].dims == results["validation"].dims == AXES
    assert dict(results.sizes) == {
        "norm": 2, "rate": 2, "seed": 3, "step": 10, "percentile": 3, "unit": 100
    }  # fmt: skip
    assert len(experiment.claims(results)) == 5


def test_steps_that_are_not_measured_evenly_are_refused():
    with pytest.raises(ValueError, match="steps must be a multiple of every"):
        experiment.run(experiment.Config(steps=30, every=25))
