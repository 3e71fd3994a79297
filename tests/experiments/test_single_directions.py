"""Networks that lose units: the curves against NumPy, and claims that can be refuted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import single_directions
import xarray
from single_directions import ANEW, ARMS, NOISES, REMOVED, WAYS

from jaxdl import data, layers, models

KINDS = ("norm", "anew", "seed")


def single_directions_results(seeds=8):
    """Curves and accuracies as they are expected: straight lines, whose areas are their middles."""
    draw = np.random.default_rng(0)
    middles = {
        "zero": [[60, 36, 30], [64, 42, 38], [65, 42, 38]],
        "mean": [[52, 40, 34], [70, 48, 44], [70, 49, 44]],
        "noise": [[74, 50, 43], [78, 59, 54], [77, 59, 54]],
    }
    curves = {}
    for way, middle in middles.items():
        places = NOISES / NOISES[-1] if way == "noise" else REMOVED
        height = np.array(middle)[..., None] + 0.5 * draw.normal(size=(3, 3, seeds))
        along = ("level",) if way == "noise" else ("removed",)
        curves[way] = (KINDS + along, height[..., None] + 30 - 60 * places)
    gap = np.array([2.3, 1.4, 1.1])[:, None, None] + 0.1 * draw.normal(size=(3, 3, seeds))
    train = 99.9 + 0.05 * draw.normal(size=(3, 3, seeds))
    return xarray.Dataset(
        {"train": (KINDS, train), "test": (KINDS, train - gap), **curves},
        coords={"norm": [*ARMS], "anew": [*ANEW], "removed": REMOVED, "level": NOISES},
    )


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = single_directions.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


@pytest.mark.parametrize(
    ("name", "where", "change", "refuted"),
    [
        ("train", {"norm": "batch", "anew": 1.0}, -2.0, {0}),
        ("zero", {"norm": "plain", "anew": 0.0}, -40.0, {1}),
        ("mean", {"norm": ["plain", "batch"], "anew": 1.0}, 40.0, {2}),
        ("noise", {"norm": "plain", "anew": 1.0}, 40.0, {3, 7}),
        ("zero", {"norm": "batch", "anew": 0.0}, -12.0, {4}),
        ("mean", {"norm": "plain", "anew": 0.0}, 25.0, {5}),
        ("noise", {"norm": "batch", "anew": 0.0}, np.nan, {3, 6}),
        ("zero", {"norm": "batch", "anew": 1.0}, -12.0, {7}),
        ("test", {"norm": "plain", "anew": 0.0}, 2.0, {8}),
        ("test", {"norm": "small", "anew": 0.0}, -2.0, {9}),
    ],
)
def test_each_claim_can_be_refuted(name, where, change, refuted):
    results = single_directions_results()
    assert those("holds", results) == set(range(10))
    results[name].loc[where] += change
    assert those("refuted", results) == refuted


def test_seeds_that_scatter_decide_nothing():
    results = single_directions_results(seeds=3)
    scatter = xarray.DataArray([-30.0, 0.0, 30.0], dims="seed")
    results["zero"] += scatter * (results["norm"] == "batch") * (results["anew"] == 0.0)
    assert {1, 4} <= those("undecided", results)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"width": 7}, "at least 8 units"),
        ({"orders": 0}, "1 order"),
        ({"seeds": 2}, "3 seeds"),
        ({"examples": 49}, "50 to 1078 examples"),
        ({"examples": 1079}, "50 to 1078 examples"),
    ],
)
def test_what_gives_no_curves_is_refused(wrong, rule):
    with pytest.raises(ValueError, match=rule):
        single_directions.Config(**wrong)


@pytest.mark.parametrize("norm", ["plain", "batch"])
def test_the_curves_are_those_of_numpy_in_float64(norm):
    width, orders, key = 9, 2, jax.random.key(3)
    draw = np.random.default_rng(1)
    inputs = jnp.asarray(draw.normal(size=(200, 5)).astype(np.float32))
    targets = jnp.asarray(draw.integers(0, 3, 200).astype(np.int32))
    norm = None if norm == "plain" else functools.partial(layers.BatchNorm, epsilon=1e-3)
    model = models.MLP((width, width, 3), norm=norm)
    variables = model.init(key, inputs, train=False)
    variables = jax.tree.map(  # biases, scales and running statistics that differ from their start
        lambda leaf: leaf + draw.uniform(0.1, 0.5, leaf.shape).astype(np.float32), variables
    )
    found = single_directions.robustness(
        model, variables, data.Arrays(inputs, targets), key, orders=orders
    )

    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params, stats = wide["params"], wide.get("batch_stats")

    def accuracy(change):
        h, outputs = np.asarray(inputs, np.float64), []
        for k in range(2):
            h = h @ params[f"dense_{k}"]["kernel"] + params[f"dense_{k}"].get("bias", 0)
            if stats:
                of, by = stats[f"norm_{k}"], params[f"norm_{k}"]
                h = by["scale"] * (h - of["mean"]) / np.sqrt(of["var"] + 1e-3) + by["bias"]
            h = np.maximum(h, 0)
            outputs.append(h)
            h = change(k, h)
        logits = h @ params["dense_2"]["kernel"] + params["dense_2"]["bias"]
        return 100 * np.mean(logits.argmax(1) == np.asarray(targets)), outputs

    _, outputs = accuracy(lambda _, h: h)
    curves = {way: [] for way in WAYS}
    # Layer 2's mean and deviation are those of the whole network, not of what is left of it.
    mean, deviation = ([f(h) for h in outputs] for f in (lambda h: h.mean(0), lambda h: h.std(0)))
    for order in jax.random.split(key, orders):
        place = np.asarray(jax.random.permutation(order, 2 * width)).reshape(2, width)
        noise = np.asarray(jax.random.normal(order, (2, 200, width)), np.float64)
        gone = [place < round(share * 2 * width) for share in REMOVED]
        curves["zero"].append([accuracy(lambda k, h, g=g: np.where(g[k], 0, h))[0] for g in gone])
        curves["mean"].append(
            [accuracy(lambda k, h, g=g: np.where(g[k], mean[k], h))[0] for g in gone]
        )
        curves["noise"].append(
            [accuracy(lambda k, h, d=t * noise: h + deviation[k] * d[k])[0] for t in NOISES]
        )
    for way, expected in curves.items():
        # One example of 200 on the border of two classes may fall to either side.
        np.testing.assert_allclose(found[way], np.mean(expected, axis=0), atol=0.5001, rtol=0)
        assert np.ptp(expected) > 3  # the curves do fall, or rise


def test_a_small_sweep_has_the_names_that_claims_and_figure_read():
    config = single_directions.Config(width=8, epochs=1, orders=1, seeds=3, examples=50)
    results = single_directions.run(config)
    assert dict(results["noise"].sizes) == {"norm": 3, "anew": 3, "seed": 3, "level": len(NOISES)}
    np.testing.assert_allclose(results["zero"].sel(removed=0.0), results["train"], rtol=1e-5)
    np.testing.assert_allclose(results["noise"].sel(level=0.0), results["train"], rtol=1e-5)
    assert len(single_directions.claims(results)) == 10
    assert len(single_directions.plot(results).axes) == 7
