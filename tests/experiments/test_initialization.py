"""The experiments of initialisation: what they measure, and that each claim can be refuted."""

import gains
import glorot_histograms
import identical_features
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

from jaxdl import activations, data, diagnostics, initializers, losses, models


def those(verdict, experiment, results):
    """The claims, by number, of this verdict."""
    return {i for i, claim in enumerate(experiment.claims(results)) if claim.verdict == verdict}


def check(experiment, results, name, change, refuted):
    """All claims hold; after the change these are refuted, and nothing else."""
    assert not those("refuted", experiment, results) | those("undecided", experiment, results)
    changed = results.assign({name: change(results[name])})
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
    draws = vanishing_gradients.draw(key)
    ratios = vanishing_gradients.growth(activations.tanh, draws, one, 0 * one)
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
    axes = ("seed", "layer", "variance")
    return xarray.Dataset(
        {
            "activation_mean_square": (axes, law**steps * noise),
            "gradient_mean_square": (axes, law ** steps[::-1] * noise[:, ::-1]),
            "activation_held_by_float32": (axes, overflowed),
            "gradient_held_by_float32": (axes, underflowed),
        },
        coords={"layer": init_variance.LAYERS, "variance": init_variance.VARIANCES},
    )


LAYERS = np.arange(50)[:, None]


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("activation_mean_square", lambda v: v * 1.2**LAYERS, {0, 2}),
        ("gradient_mean_square", lambda v: v * 1.2 ** LAYERS[::-1], {1}),
        ("activation_held_by_float32", xarray.zeros_like, {3, 5}),
        ("gradient_held_by_float32", xarray.ones_like, {4}),
    ],
)
def test_init_variances_claims(name, change, refuted):
    check(init_variance, init_variance_results(), name, change, refuted)


def test_three_networks_cannot_tell_a_law():
    few = init_variance_results().isel(seed=slice(3))
    few["activation_mean_square"] *= 1 + 0.1 * np.arange(3)[:, None, None] * LAYERS
    assert {0, 3} <= those("undecided", init_variance, few)


def test_what_float32_cannot_hold_is_measured_all_the_same():
    results = init_variance.run(init_variance.Config(seeds=2))
    assert results["activation_variance"].sizes == {"seed": 2, "layer": 50, "variance": 5}
    forward, held = (
        results[f"activation_{part}"].sel(variance=1.0, layer=50)
        for part in ("mean_square", "held_by_float32")
    )
    assert (held == 0).all()
    # The law, and a network's strayings from it by a factor of e^{2.5 s.d.}.
    np.testing.assert_allclose(np.log10(forward), 83.3, atol=2.0)
    back = results["gradient_mean_square"].sel(variance=0.001)
    assert (back > 0).all()
    assert (back.sel(layer=1) < np.finfo(np.float32).tiny).all()


def gains_results(seeds=40):
    labels = [entry.label for entry in gains.ENTRIES]
    gain = np.array([(entry.table, entry.table) for entry in gains.ENTRIES])
    gain[labels.index("tanh"), 1] = 1.5925
    theory = np.ones((len(gain), 2, gains.DEPTH))
    noise = np.random.default_rng(0).normal(size=(seeds, len(gain), 2, 1))
    axes = ("activation", "kind", "layer")
    return xarray.Dataset(
        {
            "gain": (axes[:2], gain),
            "theory": (axes, theory),
            "measured": (("seed", *axes), theory * (1 + 0.01 * noise)),
        },
        coords={
            "activation": labels,
            "kind": [*gains.KINDS],
            "layer": np.arange(1, gains.DEPTH + 1),
        },
    )


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("gain", lambda v: v + np.array([0, 1e-3]), {0, 1}),
        ("gain", lambda v: v.sel(kind="quadrature", drop=True) + 0 * v, {2}),
        ("measured", lambda v: v * 3, set(range(3, 13))),
        ("measured", lambda v: v / 3, set(range(3, 13))),
    ],
)
def test_gains_claims(name, change, refuted):
    check(gains, gains_results(), name, change, refuted)


def test_networks_far_apart_leave_the_gains_undecided():
    results = gains_results(seeds=4)
    results["measured"] *= xarray.DataArray([0.5, 0.8, 1.2, 2.0], dims="seed")
    assert those("undecided", gains, results) == set(range(3, 13))


def vanishing_gradients_results(seeds=20):
    axes = {
        "activation": [*vanishing_gradients.ACTIVATIONS],
        "initializer": [*vanishing_gradients.INITIALIZERS],
        "layer": np.arange(1, vanishing_gradients.DEPTH),
    }
    theory = np.full([len(values) for values in axes.values()], 0.9)
    noise = np.random.default_rng(0).normal(size=(seeds, *theory.shape[:2], 1))
    results = xarray.Dataset(
        {
            "growth": (("seed", *axes), theory * (1 + 0.002 * noise)),
            "theory": ((*axes,), theory),
            "sigmoid_chain": ("input", np.full(5, 0.25**10)),
        },
        coords=axes,
    )
    results["growth"].loc[{"activation": "GELU", "initializer": "He"}] *= 1.2
    return results


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("sigmoid_chain", lambda v: v * 10, {0}),
        ("growth", lambda v: v * 1.5, {1, *range(3, 9)}),
        ("growth", lambda v: v / 1.5, {1, *range(2, 9)}),
        # One pair of the 31 is enough.
        ("growth", lambda v: v.where(v["activation"] != "SiLU", 1.1 * v), {1}),
    ],
)
def test_vanishing_gradients_claims(name, change, refuted):
    check(vanishing_gradients, vanishing_gradients_results(), name, change, refuted)


def test_networks_far_apart_leave_the_gradient_undecided():
    results = vanishing_gradients_results(seeds=4)
    results["growth"] *= xarray.DataArray([0.9, 0.97, 1.03, 1.1], dims="seed")
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
    before = np.array([0.03, 0.01, 0.2, 0.1, 0.003])
    by_seed = np.arange(seeds)[:, None] * np.ones((seeds, 3))
    runs = ("start", "seed")
    return xarray.Dataset(
        {
            "variance": (
                (*runs, "layer"),
                np.stack([np.tile(each, (seeds, 1)) for each in (before, 0 * before + 1.01)]),
            ),
            "rescalings": (runs, np.array([[0], [1]]) * np.ones(seeds, int)),
            "accuracy": ((*runs, "epoch"), np.stack([60.0 + by_seed, 80.0 + 1.1 * by_seed])),
        },
        coords={"start": ["default", "lsuv"], "layer": [*lsuv.LAYERS], "epoch": [1, 2, 3]},
    )


def of_lsuv(change):
    """The change, of the values after LSUV."""
    return lambda values: values.where(values["start"] == "default", change(values))


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("variance", lambda v: v.where(v["start"] == "lsuv", 1.0), {0}),
        ("variance", of_lsuv(lambda v: v + 0.1), {1}),
        ("rescalings", of_lsuv(lambda v: v + 3), {2}),
        ("accuracy", of_lsuv(lambda v: v - 60), {3}),
    ],
)
def test_lsuvs_claims(name, change, refuted):
    check(lsuv, lsuv_results(), name, change, refuted)


def test_a_lead_within_the_noise_is_undecided():
    results = lsuv_results()
    accuracy = results["accuracy"]
    accuracy.loc[{"start": "lsuv"}] = accuracy.sel(start="default").values[::-1]
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
    ratios = np.array([[0.57], [0.93]])
    results = xarray.Dataset(coords={"initializer": ["standard", "normalized"]})
    for what, powers in (("signal", layers), ("gradient", layers[::-1])):
        theory = ratios**powers
        noise = np.exp(0.01 * draw.normal(size=(seeds, *theory.shape)))
        results[f"{what}_theory"] = (("initializer", "layer"), theory)
        results[what] = (("seed", "initializer", "layer"), theory * noise)
    return results


@pytest.mark.parametrize(
    ("initializer", "what", "claim"),
    [
        ("standard", "signal", 0),
        ("standard", "gradient", 1),
        ("normalized", "signal", 2),
        ("normalized", "gradient", 3),
    ],
)
def test_glorots_claims(initializer, what, claim):
    def steepen(values):
        return values.where(values["initializer"] != initializer, values * 0.9 ** np.arange(5))

    check(glorot_histograms, glorot_histograms_results(), what, steepen, {claim})


def test_three_networks_cannot_tell_a_ratio():
    results = glorot_histograms_results(seeds=3)
    last = {"initializer": "standard", "layer": 4}
    results["signal"].loc[last] *= np.array([0.8, 1.0, 1.2])
    assert 0 in those("undecided", glorot_histograms, results)


def initializer_comparison_results(seeds=5):
    names = initializer_comparison.NAMES
    expected = [[initializer_comparison.EXPECTED.get(name, (9.0,))[0]] for name in names]
    noise = 0.1 * np.random.default_rng(0).normal(size=(len(names), seeds))
    # A weight that starts at 1 and moves by so much, in units of its start.
    farther = {"normal(0, 0.01)": 12.0, "normal(0, 0.1)": 1.0, "normal(0, 1)": 0.4}
    kernel = np.ones((len(names), seeds, 2, 1, 1))
    for number, name in enumerate(names):
        kernel[number, :, 1, 0, 0] += farther.get(name, 1.0) * (1 + 0.1 * noise[number])
    return xarray.Dataset(
        {
            "accuracy": (("initializer", "seed"), expected + noise),
            "kernel": (("initializer", "seed", "when", "unit", "class"), kernel),
            "moved": (("initializer", "seed"), np.zeros((len(names), seeds))),
        },
        coords={"initializer": [*names], "when": ["before", "after"]},
        attrs={"dataset": "mnist_5k", "epochs": 10},
    )


def as_earlier(name):
    """The number of the claim that an initialiser reaches what it did before."""
    return 9 + [*initializer_comparison.EXPECTED].index(name)


def changed_for(name, change):
    return lambda values: values.where(values["initializer"] != name, change(values))


@pytest.mark.parametrize(
    ("what", "name", "change", "refuted"),
    [
        # Behind N(0, 1), and not what it was before.
        ("accuracy", "he_normal", lambda v: v - 40, {0, as_earlier("he_normal")}),
        ("accuracy", "he_uniform", lambda v: v - 90, {0, 1, 2, as_earlier("he_uniform")}),
        ("accuracy", "glorot_uniform", lambda v: v - 90, {3, 4, 5, as_earlier("glorot_uniform")}),
        ("accuracy", "identity", lambda v: v - 10, {as_earlier("identity")}),
        ("kernel", "normal(0, 0.1)", lambda v: 1 + 20 * (v - 1), {6}),
        ("kernel", "normal(0, 1)", lambda v: 1 + 9 * (v - 1), {7}),
        ("moved", "zeros", lambda v: v + 1e-9, {8}),
    ],
)
def test_the_comparisons_claims(what, name, change, refuted):
    results = initializer_comparison_results()
    check(initializer_comparison, results, what, changed_for(name, change), refuted)


def test_a_small_change_of_accuracy_is_undecided():
    results = initializer_comparison_results()
    # Its band is that of 19 comparisons, 99 times in 100: 4 standard errors of 0.26.
    results["accuracy"] = changed_for("identity", lambda v: v - 1.2)(results["accuracy"])
    assert those("undecided", initializer_comparison, results) == {as_earlier("identity")}


def test_other_data_or_epochs_have_no_earlier_numbers():
    for other in ({"epochs": 2}, {"dataset": "mnist"}):
        results = initializer_comparison_results().assign_attrs(other)
        assert len(initializer_comparison.claims(results)) == 9


def zero_initialization_results(seeds=5):
    accuracy = 93.0 - np.array([0, 0, 2])[:, None, None] * np.ones((3, seeds, 10))
    accuracy[0] += 0.1 * np.arange(seeds)[:, None]
    spectrum = np.ones((3, seeds, 256))
    spectrum[2, :, 150:] = 1e-9
    difference = np.array([0, 0.2, 0])[:, None] * (np.arange(seeds) > 0)
    return xarray.Dataset(
        {
            "accuracy": (("start", "seed", "epoch"), accuracy),
            "singular_value": (("start", "seed", "index"), spectrum),
            "difference": (("trained", "seed"), difference),
            "lit_pixels": 175,
        },
        coords={
            "start": ["he", "zero", "identity"],
            "trained": ["not", "own order", "one order"],
            "index": np.arange(1, 257),
        },
    )


def where(change, **labels):
    """The change, of the values at these labels alone."""

    def apply(values):
        changed = values.copy()
        changed.loc[labels] = change(values).sel(labels)
        return changed

    return apply


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("difference", where(lambda v: v + 1e-9, trained="not"), {0}),
        ("difference", where(lambda v: v + 1e-9, trained="one order"), {1}),
        ("difference", where(xarray.zeros_like, trained="own order"), {2}),
        ("singular_value", where(xarray.ones_like, start="identity"), {3}),
        ("singular_value", where(lambda v: v * (v["index"] <= 150), start="zero"), {4}),
        ("accuracy", where(lambda v: v + 4, start="identity"), {5}),
        ("accuracy", where(lambda v: v - 3, start="zero"), {6}),
    ],
)
def test_zero_initializations_claims(name, change, refuted):
    check(zero_initialization, zero_initialization_results(), name, change, refuted)


def test_what_five_seeds_cannot_tell_of_zero_initialization():
    results = zero_initialization_results()
    accuracy = results["accuracy"]
    accuracy.loc[{"start": "identity"}] = accuracy.sel(start="he").values[::-1]
    assert those("undecided", zero_initialization, results) == {5}
    # The leads are those of ten epochs.
    assert len(zero_initialization.claims(results.isel(epoch=slice(3)))) == 5


def identical_features_results(seeds=5):
    accuracy = 93.0 - np.array([0, 2, 6])[:, None, None] * np.ones((3, seeds, 10))
    accuracy[0] += 0.1 * np.arange(seeds)[:, None]
    cosine = np.ones((3, seeds, 11))
    cosine[1, :, 1:] = 0.99 + 0.001 * np.arange(seeds)[:, None]
    return xarray.Dataset(
        {
            "accuracy": (("arm", "seed", "epoch"), accuracy),
            "cosine": (("arm", "seed", "after"), cosine),
        },
        coords={
            "arm": [*identical_features.ARMS],
            "seed": range(seeds),
            "after": np.arange(11),
        },
    )


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("cosine", where(lambda v: v - 1e-3, arm="identical", after=0), {0}),
        ("cosine", where(lambda v: v - 0.5 - v["seed"] / 100, arm="identical", after=1), {1}),
        ("accuracy", where(lambda v: v - 6, arm="dropout"), {2}),
    ],
)
def test_identical_features_claims(name, change, refuted):
    check(identical_features, identical_features_results(), name, change, refuted)


def test_the_mean_cosine_is_that_of_all_pairs():
    kernel = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    columns = kernel / np.linalg.norm(kernel, axis=0)
    pairs = (columns.T @ columns)[np.triu_indices(4, 1)]
    np.testing.assert_allclose(
        identical_features.mean_cosine(jnp.asarray(kernel)), pairs.mean(), atol=1e-6
    )


def few_digits(name, **where):
    """120 examples of noise, 84 of them to train on."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (120, 28, 28, 1)).astype(np.uint8)
    return data.Dataset("noise", data.Arrays(images, np.arange(120) % 10), None, None)


def test_zeros_results_have_their_axes_and_its_keys_change_nothing(monkeypatch):
    monkeypatch.setattr(zero_initialization.data, "load", few_digits)
    results = zero_initialization.run(zero_initialization.Config(seeds=4, epochs=2))
    assert results["accuracy"].sizes == {"start": 3, "seed": 4, "epoch": 2}
    assert results["singular_value"].sizes == {"start": 3, "seed": 4, "index": 256}
    assert results["difference"].sizes == {"seed": 4, "trained": 3}
    assert those("holds", zero_initialization, results) >= {0, 1}


@pytest.mark.parametrize(
    ("experiment", "sizes"),
    [
        (
            identical_features,
            {"accuracy": {"arm": 3, "epoch": 2}, "cosine": {"arm": 3, "after": 3}},
        ),
        (
            initializer_comparison,
            {
                "accuracy": {"initializer": 12},
                "kernel": {"initializer": 12, "when": 2, "unit": 200, "class": 10},
            },
        ),
        (
            lsuv,
            {"variance": {"start": 2, "layer": 5}, "accuracy": {"start": 2, "epoch": 2}},
        ),
    ],
)
def test_what_is_trained_has_its_axes(monkeypatch, experiment, sizes):
    monkeypatch.setattr(experiment.data, "load", few_digits)
    names = ("zeros", "normal(0, 1)", "normal(0, 0.1)", "normal(0, 0.01)", "uniform(0, 1)")
    names += ("orthogonal", "torch_kernel")
    names += ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform")
    few = {name: initializer_comparison.KERNELS[name] for name in names}
    monkeypatch.setattr(initializer_comparison, "KERNELS", few)
    monkeypatch.setattr(initializer_comparison, "NAMES", (*few, initializer_comparison.LSUV))
    results = experiment.run(experiment.Config(seeds=3, epochs=2))
    for name, expected in sizes.items():
        assert results[name].sizes == expected | {"seed": 3}
        assert np.isfinite(results[name]).all()
    assert experiment.claims(results)


def test_what_is_measured_at_the_start_has_its_axes(monkeypatch):
    for experiment in (gains, vanishing_gradients):
        monkeypatch.setattr(experiment, "DEPTH", 5)
        monkeypatch.setattr(experiment, "WIDTH", 10)
    of_gains = gains.run(gains.Config(seeds=3))
    assert of_gains["measured"].sizes == {"seed": 3, "activation": 5, "layer": 5, "kind": 2}
    of_gradients = vanishing_gradients.run(vanishing_gradients.Config(seeds=3))
    assert of_gradients["growth"].sizes == {
        "seed": 3, "activation": 8, "layer": 4, "initializer": 4
    }  # fmt: skip
    small = glorot_histograms.Config(width=20, seeds=3, examples=20)
    of_layers = glorot_histograms.run(small)
    assert of_layers["signal"].sizes == {"initializer": 2, "seed": 3, "layer": 5}
    assert of_layers["signal_density"].sizes == {"initializer": 2, "layer": 5, "bin": 200}
    for experiment, results in (
        (gains, of_gains), (vanishing_gradients, of_gradients), (glorot_histograms, of_layers)
    ):  # fmt: skip
        assert experiment.claims(results)
        assert experiment.plot(results).axes
