"""Where the norm stands: verdicts on pairs, networks of the rows, a run on noise."""

import batchnorm_placement as placement
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

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


def batchnorm_placement_results(images=10_000, **changes):
    """Results as they are expected at the default size, or changed in some rows."""
    means = MEANS | changes
    # Another order of the seeds in each row: differences of rows scatter too.
    scatter = np.stack([np.roll(SEEDS, row) for row in range(len(means))])
    test = np.array(list(means.values()))[:, None] + 0.1 * scatter
    return {"arms": np.array(list(means)), "images": np.array(images), "test": test}


def few(**changes):
    """Three rows of two tables, three seeds: standard deviation 1 each."""
    means = {"after": 50.0, "none": 40.0, "identity": 51.0} | changes
    test = np.array(list(means.values()))[:, None] + np.array([-1.0, 0.0, 1.0])
    return {"arms": np.array(list(means)), "images": np.array(10_000), "test": test}


def verdicts(results):
    return [claim.verdict for claim in placement.claims(results)]


def refuted(results):
    return {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"}


def test_the_expected_numbers_hold():
    assert verdicts(batchnorm_placement_results()) == ["holds"] * 8


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
    results["test"][0] = 48.6 + 5 * SEEDS
    assert verdicts(results)[0] == "undecided"


def test_other_rows_and_sizes():
    # Of rows that were not measured nothing is claimed; more images are held to CaffeNet's order.
    assert verdicts(few(identity=60.0)) == ["holds"]
    assert refuted(batchnorm_placement_results(images=50_000)) == {1, 4, 5}


def test_caffenets_own_numbers_agree():
    for table, rows in placement.TABLES.items():
        test = np.array([value for _, value in rows.values()])[:, None] + 1e-3 * SEEDS
        results = {"arms": np.array(list(rows)), "test": test}
        for of_table, pair in placement.compared(results):
            assert of_table != table or pair.verdict == "agrees"


def test_only_rows_of_one_table_are_compared():
    found = placement.compared(few())
    assert [(table, pair.better, pair.worse) for table, pair in found] == [
        (placement.PLACES, "after", "none"),
        (placement.ACTIVATIONS, "after", "identity"),
    ]
    assert len(placement.compared(batchnorm_placement_results())) == 10 + 28 + 3


def test_the_intervals_are_those_of_all_pairs_together():
    # Two pairs share 5 %; pooled over 3 rows of 3 seeds there are 6 degrees of freedom.
    quantile = t.ppf(1 - 0.05 / 2 / 2, 6)
    for _, pair in placement.compared(few()):
        np.testing.assert_allclose(pair.half_width, quantile * 1.0 * np.sqrt(1 / 3 + 1 / 3))


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


def test_shrinking_averages():
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    shrunk = placement.shrink(data.Arrays(pixels, np.zeros(2, np.int32)), 2).inputs
    assert shrunk.shape == (2, 2, 2, 3)
    assert shrunk.dtype == np.float32
    # The mean of four whole numbers is exact; then a product and a sum near 1: two roundings.
    expected = pixels[1, 2:, :2, 2].mean() / 127.5 - 1
    np.testing.assert_allclose(shrunk[1, 1, 0, 2], expected, atol=2.0**-23)


def test_knobs_that_no_run_can_be_made_from_are_refused():
    with pytest.raises(ValueError, match=r"arms must be of .*, got \['gelu'\]"):
        placement.run(placement.Config(arms=("after", "gelu")))
    pixels = data.Arrays(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32))
    for side in (0, 12, 64):
        with pytest.raises(ValueError, match=f"side must divide .* 32 pixels, got {side}"):
            placement.shrink(pixels, side)
