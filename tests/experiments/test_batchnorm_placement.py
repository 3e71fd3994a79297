"""Where the norm stands: verdicts on pairs, networks of the rows, a run on noise."""

import batchnorm_placement as placement
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t

from jaxdl import data


def small(**changes):
    """Three rows of two tables, three seeds: standard deviation 1 each."""
    means = {"after": 50.0, "none": 40.0, "identity": 51.0} | changes
    seeds = np.array([-1.0, 0.0, 1.0])
    return {"arms": np.array(list(means)), "test": np.array(list(means.values()))[:, None] + seeds}


def test_only_rows_of_one_table_are_compared():
    assert list(placement.pairs(small())) == [
        (placement.PLACES, "after", "none"),
        (placement.ACTIVATIONS, "after", "identity"),
    ]
    every = {"arms": np.array(list(placement.ARMS))}
    every["test"] = np.random.default_rng(0).normal(size=(len(placement.ARMS), 3))
    assert len(placement.pairs(every)) == 10 + 28 + 3


def test_the_interval_is_students_over_the_pairs():
    # Two pairs share 5 %; pooled over 3 rows of 3 seeds there are 6 degrees of freedom.
    half_width = t.ppf(1 - 0.05 / 2 / 2, 6) * 1.0 * np.sqrt(1 / 3 + 1 / 3)
    for pair in placement.pairs(small()).values():
        np.testing.assert_allclose(pair.half_width, half_width)


def test_verdicts_follow_the_difference_and_its_interval():
    def verdict(identity):
        return placement.pairs(small(identity=identity))[
            placement.ACTIVATIONS, "after", "identity"
        ].verdict

    half_width = next(iter(placement.pairs(small()).values())).half_width
    assert verdict(50 - 1.01 * half_width) == "agrees"
    assert verdict(50 - 0.99 * half_width) == "undecided"
    assert verdict(50 + 0.99 * half_width) == "undecided"
    assert verdict(50 + 1.01 * half_width) == "disagrees"


def test_the_intervals_hold_together():
    # Without any difference a pair is decided in at most 5 of 100 runs; the bound of 400 runs is
    # five standard deviations above: 0.05 + 5 * sqrt(0.05 * 0.95 / 400) = 0.105, false alarm 3e-6.
    draw = np.random.default_rng(0)
    arms = np.array(list(placement.ARMS))
    wrong = 0
    for _ in range(400):
        results = {"arms": arms, "test": draw.normal(size=(len(arms), 5))}
        wrong += any(pair.verdict != "undecided" for pair in placement.pairs(results).values())
    assert 0 < wrong < 0.105 * 400


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
    small = placement.shrink(data.Arrays(pixels, np.zeros(2, np.int32)), 2).inputs
    assert small.shape == (2, 2, 2, 3)
    assert small.dtype == np.float32
    # The mean of four whole numbers is exact; then a product and a sum near 1: two roundings.
    expected = pixels[1, 2:, :2, 2].mean() / 127.5 - 1
    np.testing.assert_allclose(small[1, 1, 0, 2], expected, atol=2.0**-23)


def test_the_whole_experiment_on_noise(monkeypatch, tmp_path):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 10, count).astype(np.int32))

    noise = data.Dataset("noise", arrays(200), None, arrays(50), tuple("abcdefghij"))
    monkeypatch.setattr(placement.data, "load", lambda name, **where: noise)
    config = placement.Config(
        seeds=2, epochs=2, images=130, side=8, channels=(4,), hidden=(4,), arms=("after", "rrelu")
    )
    results = placement.run(config)
    np.savez(tmp_path / "results.npz", **results)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as loaded:
        assert loaded["test"].shape == loaded["loss"].shape == (2, 2)
        assert ((loaded["test"] >= 0) & (loaded["test"] <= 100)).all()
        assert placement.plot({name: loaded[name] for name in loaded}).subfigs
