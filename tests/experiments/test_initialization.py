"""The experiments of initialisation: what they measure, and that each claim can be refuted."""

import gains
import glorot_histograms
import init_scale
import init_variance
import initializer_comparison
import jax
import jax.numpy as jnp
import lsuv
import numpy as np
import pytest
import vanishing_gradients
import xarray
import zero_initialization

from jaxdl import activations, diagnostics, initializers, losses, models


def those(verdict, experiment, results):
    """The claims, by number, of this verdict."""
    return {i for i, claim in enumerate(experiment.claims(results)) if claim.verdict == verdict}


def check(experiment, results, name, change, refuted):
    """All claims hold; after the change these are refuted, and nothing else."""
    assert not those("refuted", experiment, results) | those("undecided", experiment, results)
    changed = {**results, name: change(np.array(results[name]))}
    assert those("refuted", experiment, changed) == refuted


def test_the_scanned_network_is_that_of_an_mlp():
    """`init_variance.measure` against `diagnostics.propagation` of the same weights, unrolled."""
    depth, stddev = 4, 0.12
    draws = init_variance.draw(jax.random.key(3), depth)
    of_values, of_gradients = init_variance.measure(draws, jnp.array([0.05, stddev], jnp.float32))
    width = init_variance.WIDTH
    model = models.MLP([width] * depth + [1])
    params = {
        f"dense_{layer}": {"kernel": stddev * weights, "bias": jnp.zeros(width)}
        for layer, weights in enumerate(draws.weights)
    }
    params[f"dense_{depth}"] = {
        "kernel": stddev * draws.output_weights[:, None],
        "bias": jnp.zeros(1),
    }
    batch = {"inputs": draws.inputs, "targets": jnp.zeros((len(draws.inputs), 1))}
    measured = diagnostics.propagation(
        model, {"params": params}, batch, loss=losses.mean_squared_error
    )
    hidden = np.array(measured.is_activation)
    # Sums of 10,000 terms, rounded in another order.
    np.testing.assert_allclose(
        of_values.mean_square[:, 1], measured.second_moment[hidden], rtol=1e-4
    )
    np.testing.assert_allclose(
        of_gradients.mean_square[:, 1], measured.gradient_second_moment[hidden], rtol=1e-4
    )


def test_the_gradients_growth_is_that_of_jax_grad(monkeypatch):
    monkeypatch.setattr(vanishing_gradients, "DEPTH", 3)
    key, one = jax.random.key(0), jnp.ones(1)
    draws = vanishing_gradients.draw.__wrapped__(key)
    ratios = vanishing_gradients.growth.__wrapped__(activations.tanh, draws, one, 0 * one)
    weights_key, _, inputs_key, gradient_key = jax.random.split(key, 4)
    normal, width = initializers.normal(), vanishing_gradients.WIDTH
    weights = normal(weights_key, (3, width, width)) / np.sqrt(width)
    x = normal(inputs_key, (vanishing_gradients.EXAMPLES, width))
    upstream = normal(gradient_key, x.shape)

    def from_layer(layer, a):
        for w in weights[layer:]:
            a = jnp.tanh(a @ w)
        return jnp.vdot(a, upstream)

    a, squares = x, []
    for layer in range(1, 4):
        a = jnp.tanh(a @ weights[layer - 1])
        gradient = jax.grad(lambda a, layer=layer: from_layer(layer, a))(a)
        squares.append(jnp.mean(gradient**2))
    expected = [squares[0] / squares[1], squares[1] / squares[2]]
    np.testing.assert_allclose(ratios[:, 0], expected, rtol=1e-4)


def init_variance_results(seeds=100):
    draw = np.random.default_rng(0)
    law = init_variance.VARIANCES / init_variance.HE
    steps = np.arange(init_variance.DEPTH)[:, None]
    # A network strays by a random walk; its drift by finite width is a hundredth of a halving.
    noise = np.exp(0.01 * draw.normal(size=(seeds, init_variance.DEPTH, 1)) - 0.005 * steps)
    overflowed, underflowed = np.ones((2, seeds, init_variance.DEPTH, len(law)))
    overflowed[:, 45:, -1] = 0
    underflowed[:, :44, 0] = 0
    return {
        "variances": init_variance.VARIANCES,
        "activation_mean_square": law**steps * noise,
        "gradient_mean_square": law ** steps[::-1] * noise[:, ::-1],
        "activation_held_by_float32": overflowed,
        "gradient_held_by_float32": underflowed,
    }


LAYERS = np.arange(50)[:, None]


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("activation_mean_square", lambda v: v * 1.2**LAYERS, {0, 2}),
        ("gradient_mean_square", lambda v: v * 1.2 ** LAYERS[::-1], {1}),
        ("activation_held_by_float32", np.zeros_like, {3, 5}),
        ("gradient_held_by_float32", np.ones_like, {4}),
    ],
)
def test_init_variances_claims(name, change, refuted):
    check(init_variance, init_variance_results(), name, change, refuted)


def test_three_networks_cannot_tell_a_law():
    few = {
        name: values[:3] if values.ndim > 1 else values
        for name, values in init_variance_results().items()
    }
    few["activation_mean_square"] *= 1 + 0.1 * np.arange(3)[:, None, None] * LAYERS
    assert {0, 3} <= those("undecided", init_variance, few)


def gains_results(seeds=40):
    gain = np.array([(entry.table, entry.table) for entry in gains.ENTRIES])
    tanh = [entry.label for entry in gains.ENTRIES].index("tanh")
    gain[tanh, 1] = 1.5925
    theory = np.ones((len(gain), gains.DEPTH, 2))
    noise = np.random.default_rng(0).normal(size=(len(gain), seeds, 1, 2))
    return {
        "labels": np.array([entry.label for entry in gains.ENTRIES]),
        "gains": gain,
        "theory": theory,
        "measured": theory[:, None] * (1 + 0.01 * noise),
    }


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("gains", lambda v: v + np.array([0, 1e-3]), {0, 1}),
        ("gains", lambda v: v[:, 1:] + np.zeros(2), {2}),
        ("measured", lambda v: v * 3, set(range(3, 13))),
        ("measured", lambda v: v / 3, set(range(3, 13))),
    ],
)
def test_gains_claims(name, change, refuted):
    check(gains, gains_results(), name, change, refuted)


def test_networks_far_apart_leave_the_gains_undecided():
    results = gains_results(seeds=4)
    results["measured"] = results["measured"] * np.array([0.5, 0.8, 1.2, 2.0])[:, None, None]
    assert those("undecided", gains, results) == set(range(3, 13))


def vanishing_gradients_results(seeds=20):
    shape = (len(vanishing_gradients.ACTIVATIONS), vanishing_gradients.DEPTH - 1, 4)
    theory = np.full(shape, 0.9)
    noise = np.random.default_rng(0).normal(size=(shape[0], seeds, 1, 4))
    growth = theory[:, None] * (1 + 0.002 * noise)
    row = list(vanishing_gradients.ACTIVATIONS).index("GELU")
    growth[row, ..., vanishing_gradients.INITIALIZERS.index("He")] *= 1.2
    return {
        "growth": growth,
        "theory": theory,
        "sigmoid_chain": np.full(5, 0.25**10),
    }


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("sigmoid_chain", lambda v: v * 10, {0}),
        ("growth", lambda v: v * 1.5, {1, *range(3, 9)}),
        ("growth", lambda v: v / 1.5, {1, *range(2, 9)}),
        # One pair of the 31 is enough.
        ("growth", lambda v: v * np.where(np.arange(8) == 7, 1.1, 1)[:, None, None, None], {1}),
    ],
)
def test_vanishing_gradients_claims(name, change, refuted):
    check(vanishing_gradients, vanishing_gradients_results(), name, change, refuted)


def test_networks_far_apart_leave_the_gradient_undecided():
    results = vanishing_gradients_results(seeds=4)
    results["growth"] = results["growth"] * np.array([0.9, 0.97, 1.03, 1.1])[:, None, None]
    assert those("undecided", vanishing_gradients, results) == {1, *range(3, 9)}


def init_scale_results(seeds=10):
    draw = np.random.default_rng(0)
    ends = {"zeros": 2.3, "zeros_sigmoid": 2.3, "small": 0.9, "large": 0.6, "he": 0.2}
    loss = np.array([*ends.values()])[:, None, None] + np.zeros((5, seeds, 300))
    loss += 0.01 * draw.normal(size=(5, seeds, 1))
    moved = np.full((5, seeds, 3), 2e-3)
    moved[0] = 0.0
    return xarray.Dataset(
        {
            "loss": (("start", "seed", "step"), loss),
            "moved": (("start", "seed", "layer"), moved),
            "apart": (("start", "seed", "hidden"), np.full((5, seeds, 2), 7e-12)),
        },
        coords={"start": [*ends], "seed": range(seeds)},
    )


@pytest.mark.parametrize(
    ("name", "start", "change", "refuted"),
    [
        ("moved", "zeros", 1e-9, {0}),
        ("apart", "zeros_sigmoid", 1e-6, {1}),
        ("moved", "zeros_sigmoid", -1.9e-3, {2}),
        ("loss", "he", 1.0, {3}),
        ("loss", "large", 1.0, {4}),
        ("loss", "small", 2.0, {5}),
    ],
)
def test_init_scales_claims(name, start, change, refuted):
    results = init_scale_results()
    assert not those("refuted", init_scale, results) | those("undecided", init_scale, results)
    results[name].loc[{"start": start}] += change
    assert those("refuted", init_scale, results) == refuted


def test_the_same_loss_is_undecided():
    results = init_scale_results()
    results["loss"].loc[{"start": "large"}] = results["loss"].sel(start="he").values[::-1]
    assert those("undecided", init_scale, results) == {3}


def lsuv_results(seeds=5):
    variance = np.array([[0.03, 0.01, 0.2, 0.1, 0.003]]) * np.ones((seeds, 1))
    by_seed = np.arange(seeds)[:, None] * np.ones((seeds, 3))
    return {
        "names": np.array(list("abcde")),
        "rescalings": np.ones(seeds, int),
        "default_variance": variance,
        "lsuv_variance": np.full_like(variance, 1.01),
        "default_accuracy": 60.0 + by_seed,
        "lsuv_accuracy": 80.0 + 1.1 * by_seed,
    }


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("default_variance", np.ones_like, {0}),
        ("lsuv_variance", lambda v: v + 0.1, {1}),
        ("rescalings", lambda v: v + np.arange(len(v)), {2}),
        ("lsuv_accuracy", lambda v: v - 60, {3}),
    ],
)
def test_lsuvs_claims(name, change, refuted):
    check(lsuv, lsuv_results(), name, change, refuted)


def test_a_lead_within_the_noise_is_undecided():
    results = lsuv_results()
    results["lsuv_accuracy"] = results["default_accuracy"][::-1]
    assert those("undecided", lsuv, results) == {3}


def test_the_network_that_no_formula_covers_gets_unit_variance():
    inputs = jax.random.uniform(jax.random.key(1), (20, 28, 28, 1))
    variables = lsuv.Odd().init(jax.random.key(0), inputs, train=False)
    scaled, rescalings = lsuv.fewest_rescalings(lsuv.Odd(), variables, inputs)
    outputs = lsuv.Odd().apply(scaled, inputs, train=False)
    assert rescalings == 1
    assert float(outputs.var()) == pytest.approx(1.0, abs=lsuv.TOLERANCE)


def glorot_histograms_results(seeds=20):
    draw = np.random.default_rng(0)
    layers = np.arange(glorot_histograms.HIDDEN_LAYERS)
    results = {"width": np.array(1000)}
    for kind, ratio in (("standard", 0.57), ("normalized", 0.93)):
        for what in ("signal", "gradient"):
            theory = ratio ** (layers if what == "signal" else layers[::-1])
            name = f"{kind}_{what}"
            results[f"{name}_theory"] = theory
            results[name] = theory * np.exp(0.01 * draw.normal(size=(seeds, len(layers))))
    return results


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("standard_signal", 0),
        ("standard_gradient", 1),
        ("normalized_signal", 2),
        ("normalized_gradient", 3),
    ],
)
def test_glorots_claims(name, claim):
    steeper = 0.9 ** np.arange(5)
    check(glorot_histograms, glorot_histograms_results(), name, lambda v: v * steeper, {claim})


def test_three_networks_cannot_tell_a_ratio():
    results = glorot_histograms_results(seeds=3)
    results["standard_signal"][:, -1] *= np.array([0.8, 1.0, 1.2])
    assert 0 in those("undecided", glorot_histograms, results)


def initializer_comparison_results(seeds=5):
    names = initializer_comparison.NAMES
    expected = [[initializer_comparison.EXPECTED.get(name, (9.0,))[0]] for name in names]
    noise = 0.1 * np.random.default_rng(0).normal(size=(len(names), seeds))
    return {
        "names": np.array(names),
        "accuracy": expected + noise,
        "layer_1_largest": np.zeros((len(names), seeds)),
        "layer_2_after": np.zeros((len(names), seeds, 200, 10)),
        "dataset": np.array("mnist_5k"),
        "epochs": np.array(10),
    }


def changed_for(name, change):
    row = initializer_comparison.NAMES.index(name)

    def apply(values):
        values[row] = change(values[row])
        return values

    return apply


@pytest.mark.parametrize(
    ("what", "name", "change", "refuted"),
    [
        # Behind N(0, 1), and not what it was before.
        ("accuracy", "he_normal", lambda v: v - 40, {0, 5 + 14}),
        ("accuracy", "he_uniform", lambda v: v - 90, {0, 1, 5 + 15}),
        ("accuracy", "glorot_uniform", lambda v: v - 90, {2, 3, 5 + 12}),
        ("accuracy", "identity", lambda v: v - 10, {5}),
        ("layer_1_largest", "zeros", lambda v: v + 1e-9, {4}),
        ("layer_2_after", "zeros", lambda v: v - 1e-9, {4}),
    ],
)
def test_the_comparisons_claims(what, name, change, refuted):
    results = initializer_comparison_results()
    check(initializer_comparison, results, what, changed_for(name, change), refuted)


def test_a_small_change_of_accuracy_is_undecided():
    results = initializer_comparison_results()
    # Its band is that of 17 comparisons, 99 times in 100: 4 standard errors of 0.26.
    results["accuracy"] = changed_for("identity", lambda v: v - 1.2)(results["accuracy"])
    assert those("undecided", initializer_comparison, results) == {5}


def test_other_data_or_epochs_have_no_earlier_numbers():
    for other in ({"epochs": np.array(2)}, {"dataset": np.array("mnist")}):
        results = initializer_comparison_results() | other
        assert len(initializer_comparison.claims(results)) == 5


def zero_initialization_results(seeds=5):
    epochs = 10
    spectrum = np.ones((seeds, 256))
    noise = 0.1 * np.arange(seeds)[:, None]
    tests = {f"{name}_test": np.full((seeds, epochs), 93.0) for name in zero_initialization.ARMS}
    return tests | {
        "he_test": tests["he_test"] + noise,
        "identity_test": tests["identity_test"] - 2,
        "identical_dropout_test": tests["identical_dropout_test"] - 2,
        "lit_pixels": np.array(175),
        "zero_start_difference": np.zeros(seeds - 1),
        "zero_one_order_difference": np.zeros(seeds - 1),
        "zero_own_order_difference": np.full(seeds - 1, 0.2),
        "identity_singular_values": np.where(np.arange(256) < 150, spectrum, 1e-9),
        "zero_singular_values": spectrum,
        "identical_similarity": np.ones((seeds, 2)),
    }


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("zero_start_difference", lambda v: v + 1e-9, {0}),
        ("zero_one_order_difference", lambda v: v + 1e-9, {1}),
        ("zero_own_order_difference", np.zeros_like, {2}),
        ("identity_singular_values", np.ones_like, {3}),
        ("zero_singular_values", lambda v: v * (np.arange(256) < 150), {4}),
        ("identical_similarity", lambda v: v - 1e-3, {5}),
        ("identity_test", lambda v: v + 4, {6}),
        ("zero_test", lambda v: v - 3, {7}),
        ("identical_dropout_test", lambda v: v - 6, {8}),
    ],
)
def test_zero_initializations_claims(name, change, refuted):
    check(zero_initialization, zero_initialization_results(), name, change, refuted)


def test_what_five_seeds_cannot_tell_of_zero_initialization():
    results = zero_initialization_results()
    results["identity_test"] = results["he_test"][::-1]
    assert those("undecided", zero_initialization, results) == {6}
    results["identity_test"] = results["identity_test"][:, :3]
    results = {name: v[:, :3] if name.endswith("_test") else v for name, v in results.items()}
    assert len(zero_initialization.claims(results)) == 6  # the leads are those of ten epochs
