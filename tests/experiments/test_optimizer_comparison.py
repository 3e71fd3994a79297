"""The tuned optimizers and the lecture's table: each claim holds, and can be refuted."""

import jax
import jax.numpy as jnp
import numpy as np
import optimizer_comparison
import optimizer_table
import pytest
from optimizer_comparison import ARMS

from jaxdl import training


def verdicts(experiment, results):
    return [claim.verdict for claim in experiment.claims(results)]


def refuted(experiment, results):
    return [i for i, v in enumerate(verdicts(experiment, results)) if v == "refuted"]


def optimizer_comparison_results():
    arms, trials, seeds = len(ARMS), 8, 8
    accuracy = np.array([70.0, 80.0, 83.0, 85.0, 86.0, 85.0, 60.0, 10.0])
    scatter = 0.1 * np.random.default_rng(0).normal(size=(3, arms, seeds))
    ends = np.array([70.0, 10.0])[:, None] + scatter[2][:, None]
    return {
        "names": np.array(list(ARMS)),
        "dataset": np.array("fashion_mnist"),
        "epochs": np.array(3),
        "rates": np.stack([a.least_rate * 10.0 ** (np.arange(trials) / 2) for a in ARMS.values()]),
        "best_rate": np.array([a.least_rate * 100 for a in ARMS.values()]),
        "validation": np.tile(accuracy, (arms, 1)),
        "chosen_validation": 86.0 + scatter[0],
        "tenth_validation": 83.0 + scatter[1],
        "ends_validation": ends,
        "test": 85.5 + 0.1 * np.arange(arms)[:, None] + scatter[2],
        "loss": np.ones((arms, seeds, 60)),
    }


def test_the_comparisons_claims():
    results = optimizer_comparison_results()
    assert verdicts(optimizer_comparison, results) == ["holds"] * 3
    assert optimizer_comparison.plot(results).axes

    def changed(name, value):
        return verdicts(optimizer_comparison, results | {name: value})

    at_the_end = results["ends_validation"].copy()
    at_the_end[3, 1] = results["chosen_validation"][3]  # the end is the rate chosen
    assert changed("ends_validation", at_the_end) == ["refuted", "holds", "holds"]
    better = results["chosen_validation"] + 2
    assert changed("tenth_validation", better) == ["holds", "refuted", "refuted"]
    apart = results["test"] + np.arange(len(ARMS))[:, None]
    assert changed("test", apart) == ["holds", "holds", "refuted"]
    apart = results["test"] + 2.4 * np.arange(len(ARMS))[:, None] / 7
    assert changed("test", apart) == ["holds", "holds", "undecided"]


def optimizer_table_results():
    names, seeds = list(ARMS), 4
    is_adaptive = np.isin(names, optimizer_table.ADAPTIVE)
    by_seed = is_adaptive[:, None] * np.ones(seeds)
    drawn = np.exp(0.1 * np.random.default_rng(0).normal(size=(len(names), seeds)))
    quantiles = np.array([0.2, 0.5, 1.0, 3.0, 20.0])
    spread = np.where(is_adaptive[:, None, None], quantiles, 1.0) * np.ones((1, 2, 1))
    spread[names.index("adadelta"), 0] = np.array([0.4, 0.7, 0.9, 1.0, 1.0])
    spread = np.repeat(spread[:, None], seeds, axis=1)
    spread[is_adaptive, ..., -1] *= drawn[is_adaptive][:, :, None]
    steps = np.where(is_adaptive[:, None, None], 100, [100, 1000, 10_000]) * np.ones((1, 2, 1))
    steps[names.index("adadelta"), 0] = [80, 83, 245]
    departure = np.where(by_seed, 0.0, 1e5)
    return {
        "names": np.array(names),
        "dataset": np.array("fashion_mnist"),
        "effective_rates": spread,
        "saddle_steps": steps,
        "path_steps": np.array(100),
        "loss_step": np.where(by_seed, 1.1, optimizer_table.LOSS_SCALE),
        "loss_path": (departure + 0.4) * drawn,
        "loss_no_epsilon_path": departure,
        "units_path": drawn,
        "units_no_epsilon_step": optimizer_table.PARAMETER_SCALE ** np.where(by_seed, -1.0, -2.0),
        "units_of_epsilon_path": np.where(
            (np.array(names) == "adadelta")[:, None] * np.ones(seeds), 0.0, 1.0
        ),
    }


@pytest.mark.parametrize(
    ("name", "arm", "change", "expected"),
    [
        (None, None, None, []),
        ("effective_rates", "sgd", lambda v: v * np.array([1, 1, 1, 1, 1.01]), [0]),
        ("effective_rates", "adam", np.ones_like, [1]),
        ("effective_rates", "adadelta", lambda v: v * np.array([1, 1, 1, 1, 20]), [2]),
        ("effective_rates", "adadelta", np.ones_like, [3]),
        ("loss_step", "momentum", lambda v: v * 0.9, [4]),
        ("loss_no_epsilon_path", "rmsprop", lambda v: v + 1e-3, [5]),
        ("loss_path", "adadelta", np.zeros_like, [6]),
        ("units_no_epsilon_step", "nesterov", lambda v: v * 2, [7]),
        ("units_no_epsilon_step", "adagrad", lambda v: v * 2, [8]),
        ("units_no_epsilon_step", "adadelta", np.ones_like, [9]),
        ("units_of_epsilon_path", "adadelta", lambda v: v + 1e-3, [10]),
        ("saddle_steps", "sgd", lambda v: v**1.2, [11]),
        ("saddle_steps", "adam", lambda v: v * np.array([1, 1, 1.1]), [12]),
        ("saddle_steps", "adadelta", lambda v: v[1], [13]),
        ("saddle_steps", "adagrad", lambda v: v * 1000, [14]),
    ],
)
def test_the_tables_claims(name, arm, change, expected):
    results = optimizer_table_results()
    if name:
        index = list(ARMS).index(arm)
        results[name][index] = change(results[name][index])
    assert refuted(optimizer_table, results) == expected
    assert verdicts(optimizer_table, results).count("holds") == 15 - len(expected)
    assert optimizer_table.plot(results).axes


def test_seeds_that_scatter_decide_nothing():
    results = optimizer_table_results()
    results["loss_path"][list(ARMS).index("adadelta"), 0] = 1e-3
    assert verdicts(optimizer_table, results)[6] == "undecided"


def test_a_run_among_many_is_the_run_alone():
    draw = np.random.default_rng(0)
    arrays = {
        "inputs": jnp.asarray(draw.normal(size=(200, 4)), jnp.float32),
        "targets": jnp.asarray(draw.integers(0, 10, 200)),
    }
    model = optimizer_comparison.models.MLP(optimizer_comparison.FEATURES)
    arm = ARMS["adam"]
    keys = [jax.random.key(seed) for seed in range(3)]
    each = [training.init_state(key, model, arm.make(0.1, 0.0), arrays["inputs"]) for key in keys]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state.params for state in each))
    starts = params, jnp.stack([state.key for state in each])
    order = np.stack([optimizer_comparison.batches(key, 2, 200) for key in keys])
    rates = np.array([1e-3, 1e-2, 1e-1])
    train = optimizer_comparison.trainer(arm)
    params, losses = train(arrays, optimizer_comparison.runs(rates, starts, order, np.arange(3)))
    alone, loss = train(arrays, optimizer_comparison.runs(rates[1:2], starts, order, np.array([1])))
    assert losses.shape == (3, 4)
    # The same sums in another program: float32's rounding, a few steps on.
    np.testing.assert_allclose(losses[1], loss[0], rtol=1e-5)
    np.testing.assert_allclose(
        params["dense_0"]["kernel"][1], alone["dense_0"]["kernel"][0], rtol=1e-3, atol=1e-5
    )


def test_the_saddle_of_gradient_descent_is_left_when_the_formula_says():
    """y grows by 1 + rate h a step, so that 0.1 has passed 1 after ln 10 / ln(1 + rate h)."""
    rate, flatness = optimizer_table.SADDLE_RATE, optimizer_table.FLATNESS
    expected = np.ceil(np.log(1 / optimizer_table.SADDLE_START) / np.log1p(rate * flatness))
    steps = np.asarray(optimizer_table.steps_off_saddle(ARMS["sgd"]))
    # 23,027 products, each rounded by at most 6e-8, shift the logarithm by 1.4e-3 of 2.3.
    np.testing.assert_allclose(steps[0], expected, rtol=1e-3)


def test_the_effective_rate_of_momentum_is_its_rate_and_adagrads_the_root():
    params = {"w": jnp.zeros(3)}
    gradients = {"w": jnp.array([1.0, -2.0, 0.0])}
    for name in ("momentum", "adagrad"):
        optimizer = ARMS[name].make(0.5, 0.0)
        state = optimizer.init(params)
        _, state = optimizer.update({"w": jnp.array([1e3, 1e3, 1e3])}, state, params)
        rates = optimizer_table.effective_rates(optimizer, state, params, gradients)
        if name == "momentum":
            np.testing.assert_allclose(rates, 0.5)
        else:
            # d/dg of g / sqrt(s + g^2) is s / (s + g^2)^1.5, here 1e-3 to a few parts in 1e6.
            np.testing.assert_allclose(rates, 0.5e-3, rtol=1e-5)
