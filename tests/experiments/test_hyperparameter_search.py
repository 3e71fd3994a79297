"""Searches for hyper-parameters: the claims hold, can be refuted, and a trial is a network."""

import hyperparameter_search
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hyperparameter_search import COST, FEW, FINISH, SPACE

from jaxdl import training
from jaxdl.claims import expected_best

SIZES = {"grid": 96, "random": 64, "bayesian": 64, "batched": 64, "halving": FINISH}
LEVEL = {"grid": 94.0, "random": 94.5, "bayesian": 95.5, "batched": 95.6, "halving": 95.5}


def verdicts(results):
    return [claim.verdict for claim in hyperparameter_search.claims(results)]


def hyperparameter_search_results(seeds=16):
    """Every trial of a search is about as good as its LEVEL."""
    draw = np.random.default_rng(0)
    variables = {}
    for kind, trials in SIZES.items():
        by = ("seed", f"trial_{kind}")
        for name in ("validation", "test"):
            scatter = 0.1 * draw.uniform(-1, 1, (seeds, trials))
            variables[f"{kind}_{name}"] = (by, LEVEL[kind] + scatter)
        variables[f"{kind}_rate"] = (by, draw.uniform(0.1, 1, (seeds, trials)))
    return xarray.Dataset(variables)


@pytest.mark.parametrize(
    ("kinds", "change", "refuted"),
    [
        ((), 0.0, []),
        (("grid",), 3.0, [0, 1]),
        (("bayesian", "batched"), -2.0, [2]),
        (("batched",), 2.0, [3]),
        (("halving",), -2.0, [4]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(kinds, change, refuted):
    results = hyperparameter_search_results()
    for kind in kinds:
        for name in ("validation", "test"):
            results[f"{kind}_{name}"] += change
    expected = ["refuted" if index in refuted else "holds" for index in range(5)]
    assert verdicts(results) == expected


def test_seeds_that_disagree_leave_it_undecided():
    results = hyperparameter_search_results()
    spread = 4.0 * np.resize([-1.0, 1.0], results.sizes["seed"])
    results["batched_validation"] += xarray.DataArray(spread, dims="seed")
    assert verdicts(results)[3] == "undecided"


def test_the_trial_chosen_is_that_of_best_validation():
    results = hyperparameter_search_results(seeds=2)
    found = hyperparameter_search.chosen(results, "random", FEW)
    for seed in range(2):
        for experiment in range(64 // FEW):
            trials = slice(experiment * FEW, (experiment + 1) * FEW)
            part = results.isel(seed=seed, trial_random=trials)
            best = np.argmax(part["random_validation"].values)
            for name, values in zip(("validation", "test"), found, strict=True):
                assert values[seed, experiment] == part[f"random_{name}"].values[best]


def test_the_grid_has_about_a_hundred_points_and_stays_inside_the_ranges():
    grid = {name: hyperparameter_search.levels(name) for name in SPACE}
    assert np.prod([len(values) for values in grid.values()]) == SIZES["grid"]
    # The middles of thirds of four decades.
    np.testing.assert_allclose(grid["rate"], 10.0 ** (np.array([4, 12, 20]) / 6 - 3))


@pytest.mark.parametrize("activation", hyperparameter_search.ACTIVATIONS)
def test_units_beyond_the_width_change_nothing(activation):
    """The masked network and its gradient are those of NumPy's network of that width."""
    width, scale = 5, 1.7
    which = hyperparameter_search.ACTIVATIONS[activation]
    task = hyperparameter_search.make_task(width, which)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(7, 64)), jnp.float32)
    train = {"inputs": inputs, "targets": jnp.arange(7)}
    params = training.first_weights(task, train)(jax.random.key(0))
    scaled = hyperparameter_search.scaled(params, scale, width)
    logits = task.model.apply({"params": scaled}, inputs, train=True)

    first, last = (np.asarray(params[f"dense_{i}"]["kernel"], np.float64) for i in (0, 1))
    hidden = np.asarray(inputs, np.float64) @ (scale * first[:, :width])
    hidden = np.maximum(hidden, 0) if activation == "ReLU" else np.tanh(hidden)
    ratio = np.sqrt(hyperparameter_search.WIDEST / width)
    expected = hidden @ (scale * ratio * last[:width])
    # Sums of 64 float32 products of numbers of a few units.
    np.testing.assert_allclose(logits, expected, atol=64 * 2.0**-23 * 10)

    def first_logit(kernel):
        layer = scaled["dense_0"] | {"kernel": kernel}
        variables = {"params": scaled | {"dense_0": layer}}
        return task.model.apply(variables, inputs, train=True)[:, 0].sum()

    gradient = jax.grad(first_logit)(scaled["dense_0"]["kernel"])
    assert not np.asarray(gradient)[:, width:].any()
    assert np.asarray(gradient)[:, :width].any()


def test_a_run_has_every_search_with_its_draws():
    optuna = pytest.importorskip("optuna")
    config = hyperparameter_search.Config(seeds=3, trials=16, batch=16, epochs=9)
    results = hyperparameter_search.run(config)
    sizes = {f"trial_{kind}": min(size, 16) for kind, size in SIZES.items()}
    assert dict(results.sizes) == {"seed": 3} | sizes | {"trial_grid": 96}
    assert len(hyperparameter_search.claims(results)) == 5
    assert hyperparameter_search.plot(results).axes
    for kind in ("random", "bayesian", "batched", "halving"):
        rates = results[f"{kind}_rate"].values
        assert ((rates >= SPACE["rate"].low) & (rates <= SPACE["rate"].high)).all()
        assert len(np.unique(rates)) > 1

    # The first draw of the third seed is Optuna's own, from the published range of rates.
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(2))
    rates = {"rate": optuna.distributions.FloatDistribution(1e-3, 10, log=True)}
    np.testing.assert_allclose(results["random_rate"][2, 0], study.ask(rates).params["rate"])
    # Searches of one seed train the same network: Bayesian search begins with random draws.
    first = [results[f"{kind}_test"].values[:, 0] for kind in ("bayesian", "batched")]
    # Rounding may move digits at the border of two classes: 3 of 599.
    np.testing.assert_allclose(*first, atol=100 * 3 / 599)


def test_order_statistics_predict_the_best_of_independent_trials():
    """Over all experiments of the trials that were run, with 5 standard errors."""
    results = hyperparameter_search_results(seeds=400)
    validation, test = (results[f"random_{name}"].values for name in ("validation", "test"))
    found = hyperparameter_search.chosen(results, "random", FEW)[0].ravel()
    expected = expected_best(validation.ravel(), FEW)[0]
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(found.size)
    assert expected > validation.mean() > 0
    assert test.shape == validation.shape


@pytest.mark.parametrize("change", [{"trials": 8}, {"trials": 20}, {"epochs": 10}])
def test_sizes_that_do_not_divide_are_refused(change):
    config = hyperparameter_search.Config(**change)
    with pytest.raises(ValueError, match="trials must be a multiple of 8 from 16 on and epochs"):
        hyperparameter_search.run(config)


def test_a_bracket_costs_what_is_said():
    first, second = hyperparameter_search.BRACKET, hyperparameter_search.BRACKET // 3
    assert first / 9 + second / 3 + FINISH == COST
