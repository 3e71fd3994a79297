"""Depth at equal width and at equal parameters: what is measured, and each claim refuted."""

import depth
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from depth import ARMS, KINDS, REFERENCE

DEPTHS = (1, 3, 7, 11)


def depth_results():
    """Accuracy rises by half a point a layer; one wide layer learns by heart."""
    scatter = xarray.DataArray([-0.3, -0.1, 0.1, 0.3], dims="seed")
    test = xarray.DataArray([80.0, 92.0, 94.0, 96.0], dims="depth")
    train = xarray.DataArray([99.0, 95.0, 97.0, 98.0], dims="depth")
    axes = xarray.DataArray(np.zeros((2, 2)), dims=("kind", "arm"))
    widths = [[[kind.width] * 4, [kind.equal_width(d) for d in DEPTHS]] for kind in KINDS.values()]
    return xarray.Dataset(
        {
            "test": axes + test + scatter,
            "train": axes + train + 0 * scatter,
            "width": (("kind", "arm", "depth"), widths),
        },
        coords={"kind": [*KINDS], "arm": [*ARMS], "depth": [*DEPTHS], "seed": range(4)},
    )


def verdicts(results):
    return [claim.verdict for claim in depth.claims(results)]


def test_the_claims_hold_for_what_is_published():
    results = depth_results()
    assert verdicts(results) == ["holds"] * 8
    assert depth.plot(results).axes


@pytest.mark.parametrize(
    ("name", "where", "change", "expected"),
    [
        ("test", {"arm": "width", "depth": 11}, -20.0, 0),
        ("test", {"arm": "parameters", "depth": [7, 11]}, -20.0, 1),
        ("test", {"arm": "parameters", "depth": 1}, 15.0, 2),
        ("train", {"arm": "parameters", "depth": 11}, 40.0, 3),
    ],
)
@pytest.mark.parametrize("kind", [0, 1])
def test_each_claim_can_be_refuted(name, where, change, expected, kind):
    results = depth_results()
    results[name].loc[{"kind": [*KINDS][kind], **where}] += change
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert 4 * kind + expected in refuted
    assert {i // 4 for i in refuted} == {kind}


def test_seeds_that_scatter_decide_nothing():
    results = depth_results()
    results["test"].loc[{"depth": 11}] += xarray.DataArray([-40.0, -10, 10, 40], dims="seed")
    assert verdicts(results)[0] == "undecided"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layers", DEPTHS)
def test_parameters_are_those_of_the_network(name, layers):
    kind = KINDS[name]
    made = jax.eval_shape(
        lambda key: kind.make(layers, 7).init(key, jnp.ones((1, 40)), train=False),
        jax.random.key(0),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(made["params"])) == kind.parameters(layers, 7)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layers", DEPTHS)
def test_no_other_width_has_more_nearly_as_many_parameters(name, layers):
    kind = KINDS[name]
    budget = kind.parameters(REFERENCE, kind.width)
    width = kind.equal_width(layers)
    off = [abs(kind.parameters(layers, w) - budget) for w in (width - 1, width, width + 1)]
    assert off[1] == min(off)
    assert kind.equal_width(REFERENCE) == kind.width


def test_the_convolutional_network_by_hand():
    # Running averages are 0 and 1 before training: BatchNorm divides by sqrt(1 + 1e-5).
    model = depth.ConvSignal(1, 2)
    x = np.random.default_rng(0).normal(size=40)
    inputs = jnp.asarray(x, jnp.float32)[None]
    variables = model.init(jax.random.key(0), inputs, train=True)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    padded = np.pad(x, 2)
    rows = np.stack([padded[i : i + 5] for i in range(40)])
    hidden = np.maximum(rows @ params["Conv_0"]["kernel"][:, 0] / np.sqrt(1 + 1e-5), 0).mean(0)
    expected = hidden @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    # Sums of 5, 40 and 2 numbers, each step rounded to float32.
    bound = 50 * 2.0**-24 * (np.abs(hidden) @ np.abs(params["Dense_0"]["kernel"])).max()
    found = model.apply(variables, inputs, train=False)[0]
    np.testing.assert_allclose(found, expected, atol=bound)


def test_a_member_measures_accuracy_in_per_cent():
    # Two classes that the first value's sign tells.
    draw = np.random.default_rng(0).normal(size=(400, 40)).astype(np.float32)
    draw[:, 0] = np.sign(draw[:, 0]) * (2 + np.abs(draw[:, 0]))
    part = depth.data.Arrays(draw, (draw[:, 0] > 0).astype(np.int32))
    signals = depth.data.Dataset("signs", part, None, part, classes=("-", "+"))
    found = depth.accuracies(depth.mlp(1, 32), signals, depth.Config(epochs=100, seeds=3))
    assert found["test"].shape == (3,)
    np.testing.assert_array_equal(found["test"], found["train"])
    assert (found["test"] > 99).all()


@pytest.mark.parametrize(
    "change", [{"depths": (1, 3)}, {"depths": (1, 5)}, {"depths": (3, 1, 5)}, {"seeds": 2}]
)
def test_what_the_claims_need_is_asked_for(change):
    with pytest.raises(ValueError, match=r"must .*, got .*; (pass|run)"):
        depth.Config(**change)
