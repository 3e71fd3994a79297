"""Where the norm stands: verdicts on pairs, networks of the rows, a run on noise."""

import batchnorm_placement as placement
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data

MEANS = {
    "none": 44.4,
    "before": 48.7,
    "before_affine": 49.3,
    "after": 46.4,
    "after_affine": 46.5,
    "prelu": 49.8,
    "rrelu": 48.9,
    "elu": 50.0,
    "maxout": 46.6,
    "sigmoid": 49.3,
    "tanh": 42.8,
    "identity": 50.5,
    "dropout_20": 43.5,
    "dropout_50": 37.3,
}
CAFFENETS_ORDER = {"elu": 48.0, "after": 47.5, "maxout": 46.0, "sigmoid": 45.0, "identity": 30.0}
SEEDS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def rows_of(means, scatter, images=10_000):
    """Results with these means by row."""
    test = np.array(list(means.values()))[:, None] + scatter
    coords = {"arm": list(means), "seed": range(test.shape[1])}
    return xarray.Dataset({"test": (("arm", "seed"), test)}, coords, {"images": images})


def batchnorm_placement_results(images=10_000, **changes):
    """Results as they are expected at the default size, or changed in some rows."""
    means = MEANS | changes
    # Another order of the seeds in each row: differences of rows scatter too.
    scatter = np.stack([np.roll(SEEDS, row) for row in range(len(means))])
    return rows_of(means, 0.1 * scatter, images)


def few(**changes):
    """Three rows of two tables, three seeds: standard deviation 1 each."""
    means = {"after": 50.0, "none": 40.0, "identity": 51.0} | changes
    return rows_of(means, np.array([-1.0, 0.0, 1.0]))


def verdicts(results):
    return [claim.verdict for claim in placement.claims(results)]


def refuted(results):
    return {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"}


def test_the_expected_numbers_hold():
    results = batchnorm_placement_results()
    assert verdicts(results) == ["holds"] * 8
    assert placement.plot(results).axes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"none": 52.0}, {0}),
        ({"after": 53.4, "after_affine": 52.0, "maxout": 43.0}, {1, 4}),
        ({"elu": 35.0}, {2}),
        ({"tanh": 49.0}, {3}),
        ({"identity": 44.0}, {4}),
        ({"tanh": 53.0}, {3, 5}),
        ({"dropout_50": 49.0}, {6}),
        (CAFFENETS_ORDER, {4, 5, 7}),
    ],
)
def test_each_claim_can_be_refuted(changes, expected):
    assert refuted(batchnorm_placement_results(**changes)) == expected


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_placement_results()
    results["test"].loc[{"arm": "none"}] = 48.6 + 5 * SEEDS
    assert verdicts(results)[0] == "undecided"


def test_other_rows_and_sizes():
    # Of rows that were not measured nothing is claimed; more images are held to CaffeNet's order.
    assert verdicts(few(identity=60.0)) == ["holds"]
    assert refuted(batchnorm_placement_results(images=50_000)) == {1, 4, 5}


def test_caffenets_own_numbers_agree():
    for table, rows in placement.TABLES.items():
        results = rows_of({name: value for name, (_, value) in rows.items()}, 1e-3 * SEEDS)
        assert {pair.verdict for pair in placement.decided(results, table)} == {"agrees"}


def test_only_rows_of_one_table_are_compared():
    (pair,) = placement.decided(few(), placement.PLACES)
    assert (pair.better, pair.worse) == ("after", "none")
    counts = [len(placement.decided(batchnorm_placement_results(), t)) for t in placement.TABLES]
    assert counts == [10, 28, 3]


def test_every_table_is_best_first():
    for rows in placement.TABLES.values():
        values = [value for _, value in rows.values()]
        assert values == sorted(values, reverse=True)
        assert set(rows) <= set(placement.ARMS)


def parameters(name):
    model = placement.network(placement.ARMS[name], (32, 64), (64, 64))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    )
    return shapes["params"]


def size(name):
    return sum(leaf.size for leaf in jax.tree.leaves(parameters(name)))


def test_maxout_has_as_many_weights():
    # All but the first layer's, the last's and the biases, which have sqrt(2) times or 1 /
    # sqrt(2) times as many; widths are rounded.
    for layer in ("conv_1", ("head", "dense_0"), ("head", "dense_1")):
        kernels = []
        for name in ("after", "maxout"):
            params = parameters(name)
            for part in (layer,) if isinstance(layer, str) else layer:
                params = params[part]
            kernels.append(np.prod(params["kernel"].shape))
        assert abs(kernels[1] / kernels[0] - 1) < 0.05


def test_norms_stand_where_they_are_named():
    units = 32 + 64 + 64 + 64
    assert "norm_0" not in parameters("none")
    assert size("before") == size("after") - units  # a norm takes the place of the biases
    assert size("before_affine") == size("before") + 2 * units
    assert size("after_affine") == size("after") + 2 * units
    assert size("prelu") == size("after") + 4  # one slope a layer
    for name in ("rrelu", "elu", "sigmoid", "tanh", "identity", "dropout_50", "none"):
        assert size(name) == size("after")


def test_a_run_has_the_axes_that_claims_read(monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (150, 32, 32, 3)).astype(np.uint8)
    noise = data.Arrays(images, draw.integers(0, 10, 150).astype(np.int32))
    few = data.Dataset("few", noise, None, noise)
    monkeypatch.setattr(placement.data, "load", lambda name, **where: few)
    config = placement.Config(
        seeds=3, epochs=1, images=150, channels=(4,), hidden=(), arms=("none", "before")
    )
    results = placement.run(config)
    assert results["test"].dims == ("arm", "seed")
    assert results["arm"].values.tolist() == ["none", "before"]
    assert ((results["test"] >= 0) & (results["test"] <= 100)).all()
    assert len(placement.claims(results)) == 1
    assert placement.plot(results).axes


def test_knobs_that_no_run_can_be_made_from_are_refused():
    with pytest.raises(ValueError, match=r"arms must be of .*, got \['gelu'\]"):
        placement.run(placement.Config(arms=("after", "gelu")))
