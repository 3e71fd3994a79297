"""A warm start takes what fits, leaves the rest to the bit, and says so."""

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import meta

from jaxdl import calling, models
from jaxdl.initializers import transfer
from jaxdl.layers import BatchNorm

X = jnp.ones((2, 4))


def start(model, seed):
    return model.init(jax.random.key(seed), X, train=False)


def mlp(classes, seed, **settings):
    return start(models.MLP([8, 6, classes], norm=BatchNorm, **settings), seed)


def test_a_head_of_other_width_stays_and_statistics_come_along():
    source, target = mlp(10, 0), mlp(5, 1)
    source["batch_stats"] = jax.tree.map(lambda leaf: leaf + 3, source["batch_stats"])
    before = jax.tree.map(jnp.copy, (source, target))
    variables, report = transfer(target, source)
    for name in ("dense_0", "norm_0", "dense_1", "norm_1"):
        chex.assert_trees_all_equal(variables["params"][name], source["params"][name])
    chex.assert_trees_all_equal(variables["batch_stats"], source["batch_stats"])
    chex.assert_trees_all_equal(variables["params"]["dense_2"], target["params"]["dense_2"])
    assert report.mismatched == {
        "params/dense_2/bias": ("float32[5]", "float32[10]"),
        "params/dense_2/kernel": ("float32[6,5]", "float32[6,10]"),
    }
    assert (report.left, report.unused, report.cast) == ((), (), {})
    assert set(report.taken) | set(report.mismatched) == {
        f"{collection}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        for collection, tree in target.items()
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }
    chex.assert_trees_all_equal((source, target), before)


def test_what_is_taken_is_a_copy():
    source, target = mlp(5, 0), mlp(5, 1)
    variables, _ = transfer(target, source)
    pointers = [
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(each)}
        for each in (variables, source)
    ]
    assert not pointers[0] & pointers[1]


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = models.MLP([8, 6], norm=BatchNorm, name="encoder")(x, train=train)
        return nn.Dense(3, name="head")(x)


def test_a_whole_model_becomes_a_part_and_a_part_a_model():
    alone = start(models.MLP([8, 6], norm=BatchNorm), 0)
    whole = start(Classifier(), 1)
    inside, report = transfer(whole, alone, names={"": "encoder"})
    for collection in ("params", "batch_stats"):
        chex.assert_trees_all_equal(inside[collection]["encoder"], alone[collection])
    assert report.left == ("params/head/bias", "params/head/kernel")
    outside, report = transfer(alone, whole, names={"encoder": ""})
    chex.assert_trees_all_equal(outside["params"], whole["params"]["encoder"])
    assert report.unused == ("params/head/bias", "params/head/kernel")
    assert report.left == ()


def test_the_longest_beginning_counts_and_ends_at_a_part():
    one, two, three = (jnp.full((), value) for value in (1.0, 2.0, 3.0))
    source = {"params": {"a": {"b": one, "bb": two}, "ab": three}}
    target = jax.tree.map(jnp.zeros_like, {"params": {"new": {"bb": one}, "c": one, "ab": one}})
    variables, report = transfer(target, source, names={"a": "new", "a/b": "c"})
    assert variables["params"] == {"new": {"bb": 2.0}, "c": 1.0, "ab": 3.0}
    assert (report.left, report.unused) == ((), ())


def test_a_function_names_and_leaves_out():
    source, target = start(models.MLP([8, 5]), 0), start(models.MLP([8, 5]), 1)
    variables, report = transfer(
        target, source, names=lambda name: name if name.endswith("kernel") else None
    )
    chex.assert_trees_all_equal(
        variables["params"]["dense_0"]["kernel"], source["params"]["dense_0"]["kernel"]
    )
    assert report.left == report.unused == ("params/dense_0/bias", "params/dense_1/bias")


def test_the_targets_dtype_stays_and_is_noted():
    source = {"params": {"w": np.array([1.0, 1 + 2**-7], np.float64), "n": jnp.ones(2)}}
    target = {"params": {"w": jnp.zeros(2, jnp.bfloat16), "n": jnp.zeros(2, jnp.int32)}}
    variables, report = transfer(target, source)
    assert variables["params"]["w"].dtype == jnp.bfloat16
    assert variables["params"]["w"].tolist() == [1.0, 1 + 2**-7]  # eight bits, so exact
    assert report.cast == {"params/w": ("float64", "bfloat16")}
    assert report.mismatched == {"params/n": ("int32[2]", "float32[2]")}
    assert "float64 made bfloat16" in str(report)


def test_lists_and_boxes():
    source = {"params": [{"w": jnp.ones((2, 3))}, jnp.ones(3)], "cache": (jnp.ones(1),)}
    target = jax.tree.map(jnp.zeros_like, source)
    target["params"][0]["w"] = meta.Partitioned(jnp.zeros((2, 3)), ("a", None))
    variables, report = transfer(target, source, strict=True)
    assert set(report.taken) == {"params/0/w", "params/1", "cache/0"}
    assert isinstance(variables["params"][0]["w"], meta.Partitioned)
    chex.assert_trees_all_equal(meta.unbox(variables), source)


def made_by(library, classes, seed):
    if library == "nnx":
        rngs = nnx.Rngs(seed)
        model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, classes, rngs=rngs))
    else:
        model = eqx.nn.MLP(4, classes, 8, 1, key=jax.random.key(seed))
    return calling.adapt(model).own


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_models_of_other_libraries(library):
    source, target = made_by(library, 10, 0), made_by(library, 5, 1)
    variables, report = transfer(target, source)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, target)
    assert len(report.taken) == len(report.mismatched) == 2
    assert not report.left
    assert not report.unused
    old, new = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in
         jax.tree_util.tree_leaves_with_path(each)}
        for each in (source, variables)
    )  # fmt: skip
    for name in report.taken:
        np.testing.assert_array_equal(new[name], old[name])


def test_random_keys_are_taken():
    source, target = ({"params": jnp.zeros(1), "rngs": jax.random.key(seed)} for seed in (1, 2))
    variables, report = transfer(target, source)
    assert report.taken == ("params/", "rngs/")
    assert jax.random.key_data(variables["rngs"]).tolist() == [0, 1]


def test_it_prints_short_and_long():
    _, report = transfer(mlp(5, 0), mlp(10, 1))
    assert repr(report) == "TransferReport(10 taken, 2 mismatched, 0 left, 0 unused)"
    assert len(str(report).splitlines()) == 1 + 12


SOURCE, TARGET = mlp(10, 0), mlp(5, 1)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"strict": True}, ValueError, r"10 taken, 2 mismatched(.|\n)*strict=False"),
        ({"names": {"dense": "d"}}, ValueError, r"got 'dense'; they begin with dense_0, dense_1"),
        ({"names": {"dense_0": "dense_1"}}, ValueError, r"dense_1/kernel for the one"),
        ({"names": lambda name: None}, ValueError, r"at least one array(.|\n)*names="),
        ({"names": "dense_0"}, TypeError, r"a mapping from beginnings"),
        ({"source": SOURCE["params"]}, TypeError, r"source must be a dictionary with \"params\""),
        ({"variables": [X]}, TypeError, r"variables must be a dictionary .* got list"),
        ({"source": {"params": {"dense_0": {"bias": 0.5}}}}, TypeError, r"float at params/dense_0"),
    ],
)
def test_refuses(given, kind, text):
    with pytest.raises(kind, match=text):
        transfer(**{"variables": TARGET, "source": SOURCE} | given)
