"""LSUV: what it reaches in dense, convolutional and residual nets, and where it must refuse."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.initializers import he_normal, lsuv, normal


class Net(nn.Module):
    """Names against the order of execution, to show that it is not the alphabet that counts."""

    widths: tuple[int, ...] = (64, 64, 64, 8)
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            layer = nn.Dense(
                width, kernel_init=normal(0.0, 2.0), bias_init=self.bias_init, name=f"z{9 - i}"
            )
            x = jnp.tanh(layer(x))
        return x


class ResidualConvNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(8, (3, 3), kernel_init=he_normal(), name="stem")(x)
        for i in range(3):
            y = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}")(x)
            y = nn.Conv(8, (3, 3), kernel_init=he_normal(), name=f"first_{i}")(nn.relu(y))
            y = nn.Dropout(0.5, deterministic=not train)(nn.relu(y))
            x = x + nn.Conv(8, (3, 3), kernel_init=he_normal(), name=f"second_{i}")(y)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def output_variances(model, variables, x, **settings):
    """Read by another way than the library's: Flax's own capture of outputs."""
    _, state = model.apply(
        variables,
        x,
        capture_intermediates=lambda m, _: isinstance(m, nn.Dense | nn.Conv),
        mutable=["intermediates"],
        **settings,
    )
    return {
        name: float(np.var(outputs["__call__"][0]))
        for name, outputs in state["intermediates"].items()
    }


@pytest.fixture
def x(key):
    return 3.0 + 4.0 * jax.random.normal(key, (256, 20))


def test_every_dense_layer_reaches_the_target_in_order(key, x):
    model = Net()
    variables = model.init(key, x)
    assert max(output_variances(model, variables, x).values()) > 50
    for target in (1.0, 0.3):
        reached = output_variances(model, lsuv(model, variables, x, target_variance=target), x)
        assert set(reached) == {"z9", "z8", "z7", "z6"}
        np.testing.assert_allclose(list(reached.values()), target, rtol=0.05)


def test_a_tight_tolerance_is_reached_with_biases_that_matter(key, x):
    model = Net(bias_init=normal(0.0, 0.5))
    variables = lsuv(model, model.init(key, x), x, tolerance=1e-4, max_iterations=20)
    reached = output_variances(model, variables, x)
    # The tolerance, and the float32 rounding of a variance read in another program.
    np.testing.assert_allclose(list(reached.values()), 1, rtol=1e-4 + 1e-5)


def test_a_residual_convolution_net_keeps_its_statistics(key):
    x = jax.random.normal(key, (16, 8, 8, 3))
    model = ResidualConvNet()
    variables = model.init(key, x, train=False)
    before = jax.tree.map(jnp.copy, variables)
    scaled = lsuv(model, variables, x)
    reached = output_variances(model, scaled, x, train=False)
    assert len(reached) == 8
    np.testing.assert_allclose(list(reached.values()), 1, rtol=0.05)
    chex.assert_trees_all_equal(variables, before)
    chex.assert_trees_all_equal(scaled["batch_stats"], variables["batch_stats"])
    chex.assert_trees_all_equal_shapes_and_dtypes(scaled, variables)


def test_training_mode_is_reached(key):
    x = 3 * jax.random.normal(key, (16, 8, 8, 3))
    model = ResidualConvNet()
    variables = model.init(key, x, train=False)
    settings: dict[str, Any] = {"train": True, "rngs": {"dropout": key}}
    scaled = lsuv(model, variables, x, train=True, key=key)
    _, state = model.apply(
        scaled, x, capture_intermediates=True, mutable=["intermediates", "batch_stats"], **settings
    )
    for name in ("stem", "first_2", "second_2", "head"):
        variance = float(np.var(state["intermediates"][name]["__call__"][0]))
        assert variance == pytest.approx(1, rel=0.05)


def test_kernels_keep_their_direction_and_biases_their_value(key, x):
    model = Net(bias_init=normal(0.0, 0.1))
    variables = model.init(key, x)
    scaled = lsuv(model, variables, x)
    for name, layer in scaled["params"].items():
        ratio = layer["kernel"] / variables["params"][name]["kernel"]
        # Up to three float32 roundings of each weight.
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=8 * 2.0**-23)
        chex.assert_trees_all_equal(layer["bias"], variables["params"][name]["bias"])


def test_orthogonal_start(key, x):
    model = Net()
    scaled = lsuv(model, model.init(key, x), x, orthogonal_key=jax.random.key(7))
    np.testing.assert_allclose(list(output_variances(model, scaled, x).values()), 1, rtol=0.05)
    kernels = [layer["kernel"] for layer in scaled["params"].values()]
    for kernel in kernels:
        singular = np.linalg.svd(kernel)[1]
        # Float32 QR of width 64.
        np.testing.assert_allclose(singular, singular[0], rtol=64 * 2.0**-23)
    assert not np.allclose(scaled["params"]["z8"]["kernel"], scaled["params"]["z7"]["kernel"])


def test_a_deep_tanh_net_carries_its_signal_after_it(key):
    model = Net(widths=(100,) * 30)
    x = jax.random.normal(key, (200, 50))
    reached = output_variances(model, lsuv(model, model.init(key, x), x), x)
    assert len(reached) == 30
    np.testing.assert_allclose(list(reached.values()), 1, rtol=0.05)


def test_a_shared_layer_is_judged_by_its_first_call(key):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(16, kernel_init=normal(0.0, 3.0), name="shared")
            return layer(layer(x))

    x = jax.random.normal(key, (64, 16))
    scaled = lsuv(Twice(), Twice().init(key, x), x)
    first = x @ scaled["params"]["shared"]["kernel"]
    assert float(first.var()) == pytest.approx(1, rel=0.05)


def test_a_model_that_is_one_layer_and_half_precision(key):
    x = 5 * jax.random.normal(key, (64, 32), jnp.bfloat16)
    model = nn.Dense(48, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    scaled = lsuv(model, model.init(key, x), x)
    chex.assert_type(scaled["params"]["kernel"], jnp.bfloat16)
    variance = np.var(np.asarray(model.apply(scaled, x), np.float32))
    assert float(variance) == pytest.approx(1, rel=0.05 + 2.0**-8)


def test_a_constant_output_names_its_layer(key):
    model = Net()
    variables = model.init(key, jnp.ones((4, 20)))
    with pytest.raises(ValueError, match=r"layer z9 .* got 0; check the inputs"):
        lsuv(model, variables, jnp.zeros((4, 20)))
    variables["params"]["z7"]["kernel"] *= 0
    with pytest.raises(ValueError, match=r"layer z7 .* got 0"):
        lsuv(model, variables, jax.random.normal(key, (4, 20)))


def test_a_nan_names_its_layer(key, x):
    model = Net()
    variables = model.init(key, x)
    with pytest.raises(ValueError, match=r"layer z9 .* got nan"):
        lsuv(model, variables, x.at[0, 0].set(jnp.nan))
    variables["params"]["z8"]["kernel"] = variables["params"]["z8"]["kernel"].at[0, 0].set(jnp.inf)
    with pytest.raises(ValueError, match=r"layer z8 .* got nan"):
        lsuv(model, variables, x)


def test_a_bias_beyond_the_target_names_its_layer(key, x):
    model = Net(bias_init=normal(0.0, 10.0))
    with pytest.raises(ValueError, match=r"layer z9 must reach variance 1 .*its bias at zero"):
        lsuv(model, model.init(key, x), x)


class Pair(nn.Module):
    """Two layers, of which the second sees what the first became."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(20, kernel_init=normal(0.0, 2.0), name="a")(x))
        return nn.tanh(nn.Dense(20, kernel_init=normal(0.0, 0.01), name="b")(x))


class Lifted(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "scan":
            scan = nn.scan(
                lambda pair, x, _: (pair(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return scan(Pair(name="pairs"), x, None)[0]
        lift = {"plain": lambda pair: pair, "remat": nn.remat, "jit": nn.jit}[self.kind]
        for layer in range(3):
            x = lift(Pair)(name=f"pairs_{layer}")(x)
        return x


@pytest.mark.parametrize("kind", ["remat", "jit", "scan"])
@pytest.mark.parametrize("is_orthogonal", [False, True])
def test_blocks_under_a_lifted_transformation_become_what_plain_ones_do(
    key, x, kind, is_orthogonal
):
    def stacked(variables):
        pairs = [variables["params"][f"pairs_{layer}"] for layer in range(3)]
        return {"params": {"pairs": jax.tree.map(lambda *each: jnp.stack(each), *pairs)}}

    given = Lifted("plain").init(key, x)
    settings = {"orthogonal_key": jax.random.key(5)} if is_orthogonal else {}
    expected = lsuv(Lifted("plain"), given, x, **settings)
    if kind == "scan":
        given, expected = stacked(given), stacked(expected)
    found = lsuv(Lifted(kind), given, x, **settings)
    # Each kernel is scaled by the root of a float32 variance of 20 terms, after six layers.
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_kernels_in_a_branch_are_refused(key, x):
    class Branch(nn.Module):
        def setup(self):
            self.dense = nn.Dense(20)

        def __call__(self, x):
            if self.is_initializing():
                return self.dense(x)
            return nn.cond(x[0, 0] > 0, lambda m, x: m.dense(x), lambda m, x: 2 * x, self, x)

    with pytest.raises(ValueError, match="must not be put aside in a branch"):
        lsuv(Branch(), Branch().init(key, x), x)


def test_a_model_without_kernels_is_refused(key, x):
    model = nn.LayerNorm()
    with pytest.raises(ValueError, match=r"parameter named kernel, got .*scale"):
        lsuv(model, model.init(key, x), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_variance": 0.0}, "target_variance must be finite and positive"),
        ({"tolerance": -0.1}, "tolerance must be finite and positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(key, x, settings, message):
    with pytest.raises(ValueError, match=message):
        lsuv(Net(), Net().init(key, x), x, **settings)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, left, right, deterministic):
        x = nn.Dropout(0.5)(jnp.concatenate([left, right], -1), deterministic=deterministic)
        cell = nn.GRUCell(8, kernel_init=nn.with_partitioning(normal(0.0, 0.1), ("in", "out")))
        return nn.RNN(cell, name="rnn")(x)


def test_layers_of_a_recurrence_agree_and_boxes_stay(key, x):
    series = x.reshape(-1, 4, x.shape[-1])
    inputs = {"left": series, "right": 2 * series}
    variables = Recurrent().init(key, series, series, True)
    scaled = lsuv(Recurrent(), variables, inputs, tolerance=0.01)
    assert jax.tree.structure(scaled) == jax.tree.structure(variables)  # the boxes too
    # What is measured of scaled variables is within the tolerance, so nothing changes.
    chex.assert_trees_all_equal(lsuv(Recurrent(), scaled, inputs, tolerance=0.01), scaled)


class Delayed(nn.Module):
    """The first layer reads what the second gave a step before."""

    @nn.compact
    def __call__(self, h, x):
        output = nn.Dense(8, name="first")(h)
        return nn.tanh(nn.Dense(8, kernel_init=normal(0.0, 0.1), name="second")(x)), output


def test_layers_that_do_not_agree_in_time_are_named(key, x):
    scan = nn.scan(Delayed, variable_broadcast="params", split_rngs={"params": False})()
    inputs = (jnp.zeros((16, 8)), jnp.stack([x[:16]] * 5))
    variables = scan.init(key, *inputs)
    with pytest.raises(ValueError, match=r"together, got .* at first after 1 rounds"):
        lsuv(scan, variables, inputs, max_iterations=1)
    scaled = lsuv(scan, variables, inputs, max_iterations=2)
    outputs = np.asarray(scan.apply(scaled, *inputs)[1], np.float64)
    assert outputs.var() == pytest.approx(1, abs=0.05)


def test_a_kernel_of_zero_is_told_from_a_constant_input(key, x):
    variables = nn.Dense(3, kernel_init=nn.initializers.zeros).init(key, x)
    with pytest.raises(ValueError, match="its kernel is 0: pass orthogonal_key"):
        lsuv(nn.Dense(3), variables, x)
    drawn = lsuv(nn.Dense(3), variables, x, orthogonal_key=key)
    assert float(nn.Dense(3).apply(drawn, x).var()) == pytest.approx(1, abs=0.05)
