"""The numbers of the interactive page: against the library, against theory, packed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interactive_numbers import (
    STATIC,
    compute,
    half_widths,
    in_node,
    networks,
    packing,
    propagated,
    read,
    share,
    sizes,
)
from scipy.stats import t

from jaxdl import diagnostics
from jaxdl.layers import BatchNorm

SHARE = 5.0
"""A layer of n units strays from its law by a relative SHARE / n, as in `mean_field`'s docstring:
the relative spread of a mean square after l layers is sqrt(5 l / n) or so."""
MOST_BYTES = 1.5e6


@pytest.fixture(scope="module")
def stored():
    return read(STATIC / "signal.js")


@pytest.mark.parametrize(
    ("name", "norm", "variance"),
    [("tanh", "none", 16.0), ("relu", "none", 2.0), ("relu", "BatchNorm", 1.0)],
)
def test_measures_what_propagation_measures(name, norm, variance):
    draws = networks.draw(jax.random.key(0), 4, 64, 16)
    activation, scale = compute.ACTIVATIONS[name][1], variance**0.5
    ours = networks.measure(activation, norm, draws, jnp.float32(scale), (2, 4))
    theirs = propagated(draws, scale, activation, BatchNorm if norm == "BatchNorm" else None)
    rows = [f"dense_{layer}" for layer in range(4)]
    kind = "norm_{}/activation" if norm == "BatchNorm" else "dense_{}/activation"
    after = [kind.format(layer) for layer in range(4)]
    # float32 sums of 1,024 entries in another order, through 4 layers.
    close = {"rtol": 1e-4, "atol": 0}
    for names, value, gradient in ((rows, ours.z, ours.dz), (after, ours.a, ours.da)):
        places = [theirs.names.index(name) for name in names]
        np.testing.assert_allclose(value, theirs.stddev[np.array(places)], **close)
        np.testing.assert_allclose(gradient[2:], theirs.gradient_stddev[np.array(places)], **close)
    places = np.array([theirs.names.index(name) for name in after])
    np.testing.assert_array_equal(ours.dead, theirs.dead_fraction[places])
    # An entry whose slope is the limit to rounding may fall on either side.
    np.testing.assert_allclose(ours.saturated, theirs.saturated_fraction[places], atol=2 / 1024)
    if name == "tanh":
        assert np.all(np.asarray(ours.saturated)[1:] > 0.25)


def test_norms_are_those_of_the_library_and_of_flax():
    z = jax.random.normal(jax.random.key(0), (16, 64)) * 3 + 1
    by_batch, by_layer, by_square = (
        networks.normalizer(norm)(z) for norm in ("BatchNorm", "LayerNorm", "RMSNorm")
    )
    close = {"rtol": 1e-4, "atol": 1e-5}  # the epsilons, over a variance of 9
    np.testing.assert_allclose(by_batch, (z - z.mean(0)) / z.std(0), **close)
    centred = z - z.mean(1, keepdims=True)
    np.testing.assert_allclose(by_layer, centred / z.std(1, keepdims=True), **close)
    root = jnp.sqrt(jnp.mean(z**2, axis=1, keepdims=True))
    np.testing.assert_allclose(by_square, z / root, **close)


def test_packed_sizes_keep_their_precision():
    given = 10.0 ** np.linspace(-59, 39, 1001)
    step = (packing.HIGHEST - packing.LOWEST) / (64**3 - 2)
    unpacked = sizes(packing.sizes(given))
    assert np.max(np.abs(np.log10(unpacked / given))) <= step / 2 * (1 + 1e-6)
    assert sizes(packing.sizes([0.0, 1.0]))[0] == 0
    spread = np.array([0.0, 0.001, 0.1, 3.0])
    widened = half_widths(packing.spreads(spread))
    assert np.all(widened >= spread)
    assert widened[0] == 0
    with pytest.raises(ValueError, match="must lie between 0 and 4095"):
        packing.letters([4096], 2)


def test_a_histogram_row():
    """Of 10 times -1, 30 times 1 and 40 zeros: the mean is 1/4, the deviation sqrt(7) / 4."""
    row = compute.histogram([-1.0] * 10 + [1.0] * 30 + [0.0] * 40, centred=True)
    assert share(row[:2]) == pytest.approx(0.5, abs=1 / 4095)
    of_mean = (2 * share(row[2:4]) - 1) * packing.FARTHEST_MEAN
    assert of_mean == pytest.approx(1 / 7**0.5, abs=packing.FARTHEST_MEAN / 4095)
    expected = ["A"] * compute.BINS
    for value, letter in ((-1.0, packing.LETTERS[21]), (1.0, packing.LETTERS[63])):
        units = (value - 0.25) / (7**0.5 / 4)
        place = (units + compute.REACH) / (2 * compute.REACH) * compute.BINS
        expected[math.floor(place)] = letter
    assert row[4:] == "".join(expected)
    # What lies beyond stands in the outermost bars; of zeros alone no bar is left.
    assert compute.histogram([0.5] * 99 + [1000.0], centred=False)[-1] != "A"
    assert compute.histogram([0.0] * 10, centred=False)[4:] == "A" * compute.BINS


HOLDS = [
    ("relu", "none"), ("leaky_relu", "none"), ("linear", "none"), ("tanh", "none"),
    ("sigmoid", "none"), ("relu", "BatchNorm"), ("tanh", "BatchNorm"), ("linear", "BatchNorm"),
    ("relu", "LayerNorm"), ("tanh", "LayerNorm"), ("relu", "RMSNorm"), ("tanh", "RMSNorm"),
]  # fmt: skip


def departures(stored, name, norm, scale, *, theory_of):
    """By how many decades, at most, a measured size lies outside of its interval around theory.

    The allowance: the law itself is off by SHARE / n a layer in the mean square, and by half of
    that in the logarithm of its root. The interval: Student's t for all checks of this file
    together, one of which chance fails in one of 1,000 files.
    """
    depth, cell = max(stored["depths"]), stored["cells"][f"{name}/{norm}"][scale]
    theory_norm, theory_scale = theory_of
    q, _, chi = map(sizes, stored["cells"][f"{name}/{theory_norm}"][theory_scale]["theory"])
    squares = np.cumprod(chi[::-1])[::-1] / stored["variances"][theory_scale]
    checks = 2 * depth * len(HOLDS) * len(stored["variances"])
    freedom = stored["seeds"] - 1
    wider = t.ppf(1 - 0.001 / (2 * checks), freedom) / t.ppf((1 + stored["level"]) / 2, freedom)
    found = []
    steps = np.arange(1, depth + 1)
    for field, theory, layers in (("z", q, steps), ("dz", np.sqrt(squares), steps[::-1])):
        start = sum(stored["depths"][:-1]) if field == "dz" else 0
        measured, spread = cell[field]
        measured, spread = sizes(measured)[start:], half_widths(spread)[start:]
        allowed = layers * np.log10(1 + SHARE / stored["width"]) / 2 + wider * spread
        known = measured > 0
        off = np.abs(np.log10(measured[known] / theory[known])) - allowed[known]
        found.append(off.max(initial=-np.inf))
    return max(found)


@pytest.mark.parametrize(("name", "norm"), HOLDS)
def test_stored_measurement_agrees_with_theory(stored, name, norm):
    variances = stored["variances"]
    for scale, variance in enumerate(variances):
        assert departures(stored, name, norm, scale, theory_of=(norm, scale)) <= 0, variance
        # The theory of a scale twice as large does not agree, so the allowance is not everything.
        twice = [each for each in range(len(variances)) if variances[each] > 1.99 * variance]
        for other in twice[:1]:
            assert departures(stored, name, norm, scale, theory_of=(norm, other)) > 0, variance


def test_theory_of_another_norm_does_not_agree(stored):
    one = stored["variances"].index(1.0)
    for norm, other in (("BatchNorm", "LayerNorm"), ("LayerNorm", "none"), ("none", "BatchNorm")):
        assert departures(stored, "relu", norm, one, theory_of=(other, one)) > 0, norm


def test_a_norm_divides_the_scale_out(stored):
    """So one scale's histograms stand for all: scales differ by less than networks do."""
    step = (packing.HIGHEST - packing.LOWEST) / (64**3 - 2)
    for norm in ("BatchNorm", "LayerNorm", "RMSNorm"):
        cells = stored["cells"][f"relu/{norm}"]
        one = cells[stored["variances"].index(1.0)]
        for other in cells:
            for field in ("a", "da"):
                difference = np.log10(sizes(one[field][0]) / sizes(other[field][0]))
                assert np.all(np.abs(difference) <= half_widths(one[field][1]) + step)
            assert ("bars" in other) == (other is one)


def at_width(name, *, width, examples=64, depth=50):
    """Of a network with BatchNorm: in how many directions its batch lies, and the gradient.

    The directions are (sum of lambda)^2 / sum of lambda^2 at the last layer. The lambda are the
    squared singular values. Of independent examples it is examples / (1 + examples / width) in the
    mean. The gradient is dL/dz of layer 2 over that of the last layer.
    """
    draws = networks.draw(jax.random.key(0), depth, width, examples)
    activation = compute.ACTIVATIONS[name][1]
    values, (gradients,) = jax.jit(
        lambda draws: networks.follow(activation, "BatchNorm", draws, jnp.float32(1), (depth,))
    )(draws)
    squares = np.linalg.svd(np.asarray(values["y"][-1]), compute_uv=False) ** 2
    dz = np.asarray(gradients["dz"])
    return squares.sum() ** 2 / (squares**2).sum(), dz[1].std() / dz[-1].std()


def test_examples_are_not_equally_correlated_under_silu(stored):
    """Why theory fails with SiLU and BatchNorm."""
    preset = next(each for each in stored["presets"] if "theory fails" in each["label"])
    keys = ("activation", "variance", "depth", "norm")
    (of,) = in_node(STATIC / "signal.js", ["#" + "&".join(f"{k}={preset[k]}" for k in keys)])
    off = np.log10(of["measured"]["dz"][0] / of["theory"]["dz"][0])
    assert off - of["spread"]["dz"][0] > 50 * np.log10(1 + SHARE / stored["width"]) / 2
    # Equally correlated, they would lie in as many directions as independent ones, at any layer.
    width, examples, depth = 512, 64, 50
    independent = examples / (1 + examples / width)
    directions, of_relu = at_width("relu", width=width)
    assert directions > independent / 2
    directions, of_silu = at_width("silu", width=width)
    assert directions < independent / 4
    # In wider layers, too, the gradient departs from the formula under SiLU alone.
    allowed = (depth - 2) * np.log10(1 + SHARE / width) / 2
    for name, measured, fails in (("relu", of_relu, False), ("silu", of_silu, True)):
        activation = compute.ACTIVATIONS[name][1]
        growth = diagnostics.batch_norm_gradient_growth(activation, batch_size=examples)
        departs = abs(np.log10(measured) - (depth - 2) * np.log10(growth) / 2)
        assert (departs > allowed) == fails, name


def test_stored_file(stored):
    assert (STATIC / "signal.js").stat().st_size <= MOST_BYTES
    assert set(stored["made"]["versions"]) >= {"jaxdl", "jax", "flax", "numpy", "python"}
    config = compute.PRESETS["default"]
    assert stored["variances"] == [*config.scales]
    assert stored["depths"] == [*config.depths]
    assert stored["presets"] == compute.buttons()
    assert len(stored["cells"]) == len(compute.ACTIVATIONS) * len(networks.NORMS)
    assert stored["format"] == packing.FORMAT | {"bins": compute.BINS, "reach": compute.REACH}
    # Another CPU differs by rounding, which chaotic networks enlarge; theory does not.
    for key, cells in stored["cells"].items():
        name, norm = key.split("/")
        for scale in (0, 6):
            new = compute.theory(compute.ACTIVATIONS[name][1], norm, config.scales[scale], config)
            for old, each in zip(cells[scale]["theory"], new, strict=True):
                np.testing.assert_allclose(sizes(old), each, rtol=1e-3)
