"""The experiments of initialisation: what they measure, and that each claim can be refuted."""

import functools

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
import zero_initialization

from jaxdl import activations, diagnostics, initializers, losses, models


def holds(experiment, results):
    return [claim.holds for claim in experiment.claims(results)]


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
    keys = jax.random.split(jax.random.key(0), 1)
    one = jnp.ones(1)
    ratios = vanishing_gradients.growth.__wrapped__(activations.tanh, keys, one, 0 * one)
    weights_key, _, inputs_key, gradient_key = jax.random.split(keys[0], 4)
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
    np.testing.assert_allclose(ratios[0, :, 0], expected, rtol=1e-4)


def init_variance_results(seeds=6):
    draw = np.random.default_rng(0)
    law = init_variance.VARIANCES / init_variance.HE
    noise = np.exp(0.01 * draw.normal(size=(seeds, init_variance.DEPTH, 5)))
    steps = np.arange(init_variance.DEPTH)[:, None]
    held = np.ones((seeds, init_variance.DEPTH, 5))
    overflowed = held.copy()
    overflowed[:, 45:, -1] = 0
    underflowed = held.copy()
    underflowed[:, :44, 0] = 0
    return {
        "variances": init_variance.VARIANCES,
        "activation_mean_square": law**steps * noise,
        "gradient_mean_square": law ** steps[::-1] * noise,
        "activation_held_by_float32": overflowed,
        "gradient_held_by_float32": underflowed,
    }


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        (None, None, []),
        ("activation_mean_square", lambda v: v * 1.2 ** np.arange(50)[:, None], range(5)),
        ("gradient_mean_square", lambda v: v * 1.2 ** np.arange(50)[::-1, None], range(5, 10)),
        ("activation_held_by_float32", np.zeros_like, [11, 13]),
        ("gradient_held_by_float32", np.ones_like, [12]),
    ],
)
def test_init_variance(name, change, refuted):
    results = init_variance_results()
    if name:
        results[name] = change(results[name])
    got = holds(init_variance, results)
    if name == "activation_mean_square":
        refuted = [*refuted, 10]
    assert [i for i, held in enumerate(got) if not held] == list(refuted)


SMALL = {
    vanishing_gradients: vanishing_gradients.Config(seeds=3),
    gains: gains.Config(seeds=3),
    init_scale: init_scale.Config(seeds=3, steps=120),
}


@functools.cache
def small_run(experiment):
    return experiment.run(SMALL[experiment])


@pytest.mark.parametrize("experiment", SMALL, ids=lambda experiment: experiment.__name__)
def test_small_runs_are_arrays_and_draw(experiment, tmp_path):
    results = small_run(experiment)
    np.savez(tmp_path / "results.npz", **results)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as loaded:
        assert set(loaded) == set(results)
        assert experiment.plot({name: loaded[name] for name in loaded}).axes


@pytest.mark.parametrize(
    ("experiment", "name", "change", "refuted"),
    [
        (vanishing_gradients, "sigmoid_chain", lambda v: v * 10, 0),
        (vanishing_gradients, "growth", lambda v: v * 1.5, 1),
        (gains, "gains", lambda v: v + 1e-3, 0),
        (gains, "measured", lambda v: v * 3, 3),
        (init_scale, "zeros_moved", lambda v: v + 1e-9, 0),
        (init_scale, "zeros_sigmoid_apart", lambda v: v + 1e-9, 1),
        (init_scale, "he_loss", lambda v: v + 10, 3),
    ],
)
def test_claims_of_small_runs_can_be_refuted(experiment, name, change, refuted):
    results = small_run(experiment)
    claims = experiment.claims(results)
    assert claims[refuted].holds, claims[refuted]
    assert not holds(experiment, results | {name: change(np.asarray(results[name]))})[refuted]


def test_lsuvs_claims():
    variance = np.array([[0.03, 0.01, 0.2, 0.1, 0.003]] * 4)
    results = {
        "names": np.array(list("abcde")),
        "rescalings": np.array([1, 1, 2, 1]),
        "default_variance": variance,
        "lsuv_variance": np.full_like(variance, 1.01),
        "default_accuracy": 60.0 + np.arange(4)[:, None] * np.ones((4, 3)),
        "lsuv_accuracy": 80.0 + np.arange(4)[:, None] * np.ones((4, 3)),
    }
    assert all(holds(lsuv, results))
    for index, changed in enumerate(
        (
            {"default_variance": np.ones_like(variance)},
            {"lsuv_variance": np.full_like(variance, 1.2)},
            {"rescalings": np.array([1, 1, 4, 1])},
            {"lsuv_accuracy": results["default_accuracy"] - 1},
        )
    ):
        assert holds(lsuv, results | changed) == [i != index for i in range(4)]


def test_the_network_that_no_formula_covers_gets_unit_variance():
    inputs = jax.random.uniform(jax.random.key(1), (20, 28, 28, 1))
    variables = lsuv.Odd().init(jax.random.key(0), inputs, train=False)
    scaled, rescalings = lsuv.fewest_rescalings(lsuv.Odd(), variables, inputs)
    outputs = lsuv.Odd().apply(scaled, inputs, train=False)
    assert rescalings == 1
    assert float(outputs.var()) == pytest.approx(1.0, abs=lsuv.TOLERANCE)


def test_glorots_claims():
    draw = np.random.default_rng(0)
    results = {"width": np.array(1000)}
    for name in glorot_histograms.DEVIATION:
        theory = 0.3 * 0.8 ** np.arange(glorot_histograms.HIDDEN_LAYERS)
        theory = theory if name.endswith("signal") else theory[::-1]
        results[f"{name}_theory"] = theory
        results[name] = theory * np.exp(1e-4 * draw.normal(size=(10, len(theory))))
    assert all(holds(glorot_histograms, results))
    for index, name in enumerate(glorot_histograms.DEVIATION):
        changed = results | {name: results[name] * 0.9 ** np.arange(5)}
        assert holds(glorot_histograms, changed) == [i != index for i in range(4)]


def test_the_comparisons_claims():
    names = initializer_comparison.NAMES
    accuracy = np.array(
        [[initializer_comparison.EXPECTED.get(name, (9.0,))[0]] * 3 for name in names]
    ) + 0.1 * np.arange(3)
    results = {
        "names": np.array(names),
        "accuracy": accuracy,
        "layer_1_largest": np.zeros((len(names), 3)),
        "layer_2_after": np.zeros((len(names), 200, 10)),
        "dataset": np.array("mnist_5k"),
        "epochs": np.array(10),
    }
    assert all(holds(initializer_comparison, results))
    for index, name in ((0, "he_normal"), (2, "glorot_uniform")):
        worse = accuracy.copy()
        worse[names.index(name)] = 50.0
        assert not holds(initializer_comparison, results | {"accuracy": worse})[index]
    moved = results["layer_1_largest"].copy()
    moved[names.index("zeros")] = 1e-9
    assert not holds(initializer_comparison, results | {"layer_1_largest": moved})[4]


def test_zeros_claims():
    seeds, epochs = 4, 10
    spectrum = np.ones((seeds, 256))
    low_rank = np.where(np.arange(256) < 150, spectrum, 1e-9)
    results = {f"{name}_test": np.full((seeds, epochs), 93.0) for name in zero_initialization.ARMS}
    noise = 0.1 * np.arange(seeds)[:, None]
    results |= {
        "he_test": results["he_test"] + noise,
        "identity_test": results["identity_test"] - 2,
        "identical_dropout_test": results["identical_dropout_test"] - 2,
        "lit_pixels": np.array(175),
        "zero_start_difference": np.array(0.0),
        "zero_one_order_difference": np.array(0.0),
        "zero_own_order_difference": np.array(0.2),
        "identity_singular_values": low_rank,
        "zero_singular_values": spectrum,
        "identical_similarity": np.ones((seeds, 2)),
    }
    assert all(holds(zero_initialization, results))
    for index, changed in enumerate(
        (
            {"zero_start_difference": np.array(1e-9)},
            {"zero_one_order_difference": np.array(1e-9)},
            {"zero_own_order_difference": np.array(0.0)},
            {"identity_singular_values": spectrum},
            {"zero_singular_values": low_rank},
        )
    ):
        got = holds(zero_initialization, results | changed)
        assert [i for i, held in enumerate(got) if not held] == [index]
