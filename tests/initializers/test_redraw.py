"""Parameters drawn again by a rule: what it names, and nothing else."""

import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import initializers, models
from jaxdl.layers import BatchNorm

KEY = jax.random.key(7)


class Stranger(nn.Module):
    """Dense and convolution, a norm, dropout, and a parameter of its own."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        x = nn.relu(nn.Conv(16, (3, 3), feature_group_count=2)(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x.mean(axis=(1, 2)))
        scale = self.param("temperature", nn.initializers.ones, ())
        return scale * nn.Dense(300)(x)


IMAGES = jnp.ones((2, 8, 8, 4))


def start() -> Any:
    return Stranger().init(jax.random.key(0), IMAGES, train=False)


def test_a_rule_by_kind_draws_these_and_leaves_the_others_to_the_bit() -> None:
    before = start()
    rule = {nn.Dense: {"kernel": initializers.glorot_normal(), "bias": initializers.constant(0.01)}}
    after = initializers.apply(Stranger(), before, rule, KEY, IMAGES)
    kernel = after["params"]["Dense_0"]["kernel"]
    # 4,800 draws: the standard deviation is known to 1 / sqrt(2 n), taken five times.
    expected = math.sqrt(2 / (16 + 300))
    assert float(kernel.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * kernel.size))
    np.testing.assert_array_equal(after["params"]["Dense_0"]["bias"], np.float32(0.01))
    for name in ("Conv_0", "BatchNorm_0", "temperature"):
        chex.assert_trees_all_equal(after["params"][name], before["params"][name])
    chex.assert_trees_all_equal(after["batch_stats"], before["batch_stats"])


def test_a_bare_initializer_is_the_kernels_and_the_first_class_counts() -> None:
    rule = {nn.Conv: initializers.zeros(), nn.Module: initializers.ones()}
    after = initializers.apply(Stranger(), start(), rule, KEY, IMAGES)["params"]
    assert not after["Conv_0"]["kernel"].any()
    assert (after["Dense_0"]["kernel"] == 1).all()
    chex.assert_trees_all_equal(after["Dense_0"]["bias"], start()["params"]["Dense_0"]["bias"])


def test_a_rule_by_name_sees_shape_and_dtype() -> None:
    seen = {}

    def rule(name: str, parameter: Any) -> Any:
        seen[name] = parameter.shape
        return initializers.constant(3.0) if name.endswith("temperature") else None

    before = start()
    after = initializers.apply(Stranger(), before, rule, KEY, IMAGES)
    assert float(after["params"].pop("temperature")) == 3.0
    before["params"].pop("temperature")
    chex.assert_trees_all_equal(after, before)
    assert seen["Conv_0/kernel"] == (3, 3, 2, 16)
    assert set(seen) > {"Dense_0/bias", "BatchNorm_0/scale", "temperature"}


def test_a_function_of_the_fan_in_gets_it() -> None:
    rule = {nn.Conv: {"bias": initializers.torch_bias}}
    bias = initializers.apply(Stranger(), start(), rule, KEY, IMAGES)["params"]["Conv_0"]["bias"]
    bound = 1 / math.sqrt(3 * 3 * 2)
    assert bound / 2 < float(jnp.abs(bias).max()) <= bound


def test_what_the_rule_says_of_one_does_not_change_another() -> None:
    both = {nn.Conv: initializers.he_normal(), nn.Dense: initializers.he_normal()}
    one = {nn.Dense: initializers.he_normal()}
    first, second = (
        initializers.apply(Stranger(), start(), rule, KEY, IMAGES)["params"]["Dense_0"]
        for rule in (both, one)
    )
    chex.assert_trees_all_equal(first, second)


class Scanned(nn.Module):
    """Five blocks in one scan, rematerialised; each is 32 -> 32."""

    axis: int = 0

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def block(module: nn.Module, x: Any, _: Any) -> Any:
            return nn.tanh(nn.Dense(32, name="dense")(x)), None

        scan = nn.scan(
            nn.remat(block), variable_axes={"params": self.axis}, split_rngs={"params": True},
            length=5,
        )  # fmt: skip
        return scan(self, x, None)[0]


@pytest.mark.parametrize("axis", [0, 1])
def test_scanned_blocks_are_drawn_one_by_one(axis: int) -> None:
    model, x = Scanned(axis), jnp.ones((2, 32))
    variables = model.init(jax.random.key(0), x)
    rule = {nn.Dense: initializers.orthogonal()}
    kernels = initializers.apply(model, variables, rule, KEY, x)["params"]["dense"]["kernel"]
    kernels = np.moveaxis(np.asarray(kernels, np.float64), axis, 0)
    for kernel in kernels:
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(32), atol=1e-5)
    assert not np.allclose(kernels[0], kernels[1])


def test_boxed_parameters_stay_in_their_boxes() -> None:
    model = nn.Dense(
        3, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    )
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    rule = {nn.Dense: initializers.ones()}
    after = initializers.apply(model, variables, rule, KEY, jnp.ones((1, 2)))
    boxed = after["params"]["kernel"]
    assert isinstance(boxed, nn.Partitioned)
    assert boxed.names == ("in", "out")
    assert (boxed.value == 1).all()


def test_our_models_and_shapes_alone() -> None:
    model = models.MLP([5, 2], norm=BatchNorm)
    x = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    variables = model.init(jax.random.key(0), jnp.ones((4, 3)), train=False)
    after = initializers.apply(model, variables, {nn.Dense: initializers.identity()}, KEY, x)
    np.testing.assert_array_equal(after["params"]["dense_1"]["kernel"], np.eye(5, 2))


def test_bad_rules_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"got none of its 7, .* held by BatchNorm, Conv, Dense, S"
    ):
        initializers.apply(Stranger(), start(), {nn.LSTMCell: initializers.zeros()}, KEY, IMAGES)
    with pytest.raises(TypeError, match=r"rule must be a mapping .*, got str"):
        initializers.apply(Stranger(), start(), "he_normal", KEY, IMAGES)
    wrong = {nn.Dense: {"bias": lambda key, shape, dtype: jnp.zeros(2)}}
    with pytest.raises(ValueError, match=r"own shape and dtype, got float32\(2,\) for Dense_0/b"):
        initializers.apply(Stranger(), start(), wrong, KEY, IMAGES)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="dense")(x)


Jitted = nn.jit(Dense)  # keeps its programs as long as the class lives


def test_layers_of_a_jitted_class_are_found_again() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Jitted(name="block")(x)

    x = jnp.ones((2, 3))
    variables = Net().init(KEY, x)
    rule = {nn.Dense: initializers.zeros()}
    for _ in range(2):
        drawn = initializers.apply(Net(), variables, rule, KEY, x)
        assert not drawn["params"]["block"]["dense"]["kernel"].any()
