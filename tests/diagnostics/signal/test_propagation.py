"""Signal and gradient against networks written out by hand."""

import io
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxdl import losses, models, optimizers
from jaxdl.diagnostics import Propagation, propagation
from jaxdl.layers import BatchNorm

# Products of at most 8 terms over at most 4 layers, and means of at most 2,000 entries by tree
# summation, in float32 (eps 6e-8): (4 * 8 + 11) * eps = 3e-6, and 4 times that for cancellation.
ROUNDING = 1e-5


def regression_batch(key: jax.Array, examples: int, inputs: int, outputs: int) -> dict[str, Any]:
    input_key, target_key = jax.random.split(key)
    return {
        "inputs": jax.random.normal(input_key, (examples, inputs)),
        "targets": jax.random.normal(target_key, (examples, outputs)),
    }


def init(model: nn.Module, inputs: Any, seed: int = 1, **arguments: Any) -> Any:
    return jax.jit(lambda key: model.init(key, inputs, **arguments))(jax.random.key(seed))


def check_values(measured: Propagation, index: int, value: Any, gradient: Any) -> None:
    value, gradient = np.asarray(value, np.float64), np.asarray(gradient, np.float64)
    close = {"rtol": ROUNDING, "atol": ROUNDING * np.abs(value).max()}
    np.testing.assert_allclose(measured.mean[index], value.mean(), **close)
    np.testing.assert_allclose(measured.variance[index], value.var(), **close)
    np.testing.assert_allclose(measured.second_moment[index], np.mean(value**2), **close)
    close["atol"] = ROUNDING * np.abs(gradient).max()
    np.testing.assert_allclose(measured.gradient_mean[index], gradient.mean(), **close)
    np.testing.assert_allclose(measured.gradient_stddev[index], gradient.std(), **close)


def test_mlp_equals_backpropagation_by_hand_in_float64(key):
    batch = regression_batch(key, 16, 5, 2)
    model = models.MLP([8, 6, 2], activation=jnp.tanh)
    variables = init(model, batch["inputs"], train=False)
    learning_rate = 0.1
    measured = propagation(
        model,
        variables,
        batch,
        loss=losses.mean_squared_error,
        optimizer=optimizers.sgd(learning_rate),
    )

    x, y = (np.asarray(batch[name], np.float64) for name in ("inputs", "targets"))
    kernels = [np.asarray(variables["params"][f"dense_{i}"]["kernel"], float) for i in range(3)]
    z0 = x @ kernels[0]
    a0 = np.tanh(z0)
    z1 = a0 @ kernels[1]
    a1 = np.tanh(z1)
    z2 = a1 @ kernels[2]
    dz2 = z2 - y  # the loss of an example is (e_1^2 + e_2^2) / 2
    da1 = dz2 @ kernels[2].T
    dz1 = da1 * (1 - a1**2)
    da0 = dz1 @ kernels[1].T
    dz0 = da0 * (1 - a0**2)

    expected = [(z0, dz0), (a0, da0), (z1, dz1), (a1, da1), (z2, dz2)]
    assert measured.names == (
        "dense_0",
        "dense_0/activation",
        "dense_1",
        "dense_1/activation",
        "dense_2",
    )
    assert measured.kinds == ("Dense", "activation", "Dense", "activation", "Dense")
    assert measured.shapes == ((16, 8), (16, 8), (16, 6), (16, 6), (16, 2))
    for index, (value, gradient) in enumerate(expected):
        check_values(measured, index, value, gradient)
    np.testing.assert_allclose(measured.loss, np.mean((z2 - y) ** 2), rtol=ROUNDING)

    inputs = [x, a0, a1]
    deltas = [dz0, dz1, dz2]
    for layer, row in enumerate((0, 2, 4)):
        weight = np.linalg.norm(kernels[layer])
        gradient = np.linalg.norm(inputs[layer].T @ deltas[layer]) / 16
        np.testing.assert_allclose(measured.weight_norm[row], weight, rtol=ROUNDING)
        np.testing.assert_allclose(measured.weight_gradient_norm[row], gradient, rtol=ROUNDING)
        assert measured.update_ratio is not None
        np.testing.assert_allclose(
            measured.update_ratio[row], learning_rate * gradient / weight, rtol=ROUNDING
        )
    assert measured.has_weights == (True, False, True, False, True)
    assert np.isnan(measured.weight_norm[1])


class InlineResidual(nn.Module):
    """A residual connection that no module sees: h is used by a Dense and by a plain sum."""

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(6, name="first")(x))
        return nn.Dense(1, name="last")(h + nn.tanh(nn.Dense(6, name="branch")(h)))


def test_gradient_counts_every_use_of_a_value(key):
    batch = regression_batch(key, 12, 4, 1)
    model = InlineResidual()
    variables = init(model, batch["inputs"])
    params = variables["params"]
    measured = propagation(model, variables, batch, loss=losses.mean_squared_error)
    h = jnp.tanh(batch["inputs"] @ params["first"]["kernel"] + params["first"]["bias"])

    def rest(h):
        branch = jnp.tanh(h @ params["branch"]["kernel"] + params["branch"]["bias"])
        outputs = (h + branch) @ params["last"]["kernel"] + params["last"]["bias"]
        return jnp.sum((outputs - batch["targets"]) ** 2)

    check_values(measured, measured.names.index("first/activation"), h, jax.grad(rest)(h))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        y = nn.Conv(4, (3, 3), use_bias=False, name="conv_0")(x)
        y = nn.relu(BatchNorm(name="norm_0")(y, train=train))
        y = nn.Conv(4, (3, 3), use_bias=False, name="conv_1")(y)
        return nn.relu(x + BatchNorm(name="norm_1")(y, train=train))


class ResidualNet(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3), name="stem")(x)), (2, 2), (2, 2))
        x = Block(name="block_0")(x, train=train)
        x = nn.Dropout(0.5, name="dropout")(x, deterministic=not train)
        return nn.Dense(3, name="head")(x.mean(axis=(1, 2)))


@pytest.fixture
def images(key):
    return {"inputs": jax.random.normal(key, (6, 8, 8, 2)), "targets": jnp.arange(6) % 3}


def test_convolutions_residuals_norms_and_dropout(images):
    model = ResidualNet()
    variables = init(model, images["inputs"], train=False)
    kept = jax.tree.map(np.array, variables)
    dropout_key = jax.random.key(7)
    measured = propagation(model, variables, images, loss=losses.cross_entropy, key=dropout_key)
    block = ("conv_0", "norm_0", "norm_0/activation", "conv_1", "norm_1", "norm_1/activation")
    assert measured.names == (
        "stem",
        "stem/activation",
        *(f"block_0/{name}" for name in block),
        "dropout",
        "dropout/activation",
        "head",
    )
    assert measured.shapes[0] == (6, 8, 8, 4)
    assert measured.shapes[1] == (6, 4, 4, 4)
    chex.assert_trees_all_equal(variables, kept)

    def mean_loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params},
            images["inputs"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        return losses.cross_entropy(outputs, images["targets"]).mean()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(variables["params"])
    np.testing.assert_allclose(measured.loss, loss, rtol=ROUNDING)
    # Batch statistics of 96 values and their derivatives: 10 times the rounding of an MLP.
    for path in ("stem", "block_0/conv_0", "block_0/conv_1", "head"):
        gradient = gradients
        for part in path.split("/"):
            gradient = gradient[part]
        np.testing.assert_allclose(
            measured.weight_gradient_norm[measured.names.index(path)],
            jnp.linalg.norm(gradient["kernel"]),
            rtol=10 * ROUNDING,
        )
    dropped = measured.names.index("dropout")
    # A dropped unit passes no gradient back; a kept one, doubled, is a value's only use.
    before = dropped - 1
    assert measured.gradient_zero_fraction[before] > 0.3
    assert measured.gradient_zero_fraction[dropped] == 0


def test_evaluation_mode_uses_running_statistics_and_lists_no_idle_dropout(images):
    model = ResidualNet()
    variables = init(model, images["inputs"], train=False)
    measured = propagation(model, variables, images, loss=losses.cross_entropy, train=False)
    assert "dropout" not in measured.names
    # With mean 0 and variance 1 running, the norm is the identity but for epsilon.
    np.testing.assert_allclose(measured.stddev[2], measured.stddev[3], rtol=1e-5)


def test_jit_and_vmap_over_keys_equal_one_at_a_time(key):
    batch = regression_batch(key, 8, 3, 1)
    model = models.MLP([7, 5, 1], norm=BatchNorm, dropout_rate=0.25)

    def measure(key):
        variables = model.init(key, batch["inputs"], train=False)
        return propagation(
            model,
            variables,
            batch,
            loss=losses.mean_squared_error,
            optimizer=optimizers.adam(1e-3),
            key=key,
        )

    keys = jax.random.split(key, 3)
    together = jax.jit(jax.vmap(measure))(keys)
    compiled = jax.jit(measure)
    alone = [compiled(each) for each in keys]
    chex.assert_shape(together.mean, (3, len(together.names)))
    assert together.names == alone[0].names
    # Batch statistics of 8 values lose a digit to cancellation.
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *each: jnp.stack(each), *alone), rtol=1e-4, atol=1e-6
    )


def test_gradients_do_not_depend_on_the_batch_size(key):
    batch = regression_batch(key, 8, 3, 1)
    twice = {name: jnp.concatenate([array, array]) for name, array in batch.items()}
    model = models.MLP([7, 1])
    variables = init(model, batch["inputs"], train=False)
    once, doubled = (
        propagation(model, variables, each, loss=losses.mean_squared_error)
        for each in (batch, twice)
    )
    np.testing.assert_allclose(once.gradient_stddev, doubled.gradient_stddev, rtol=ROUNDING)
    np.testing.assert_allclose(
        once.weight_gradient_norm, doubled.weight_gradient_norm, rtol=ROUNDING
    )


class Scripted(nn.Module):
    """One layer whose units are, over the batch: varying, off, constant, saturated."""

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(4, name="units")(x)
        a = jnp.stack(
            [nn.tanh(z[:, 0]), nn.relu(z[:, 1]), 0 * z[:, 2] + 1.5, nn.tanh(z[:, 3])], axis=1
        )
        return nn.Dense(1, name="out")(a)


def test_dead_and_saturated_fractions_are_exact():
    x = jnp.linspace(-1.0, 1.0, 5)[:, None]
    batch = {"inputs": x, "targets": jnp.zeros((5, 1))}
    variables = {
        "params": {
            "units": {
                "kernel": jnp.array([[1.0, 1.0, 1.0, 1.0]]),
                "bias": jnp.array([0.0, -2.0, 0.0, 5.0]),
            },
            "out": {"kernel": jnp.ones((4, 1)), "bias": jnp.zeros(1)},
        }
    }
    measured = propagation(Scripted(), variables, batch, loss=losses.mean_squared_error)
    row = measured.names.index("units/activation")
    assert measured.dead_fraction[0] == 0
    assert measured.dead_fraction[row] == 0.5
    # tanh(4) and beyond has a slope under 0.0014. The off ReLU is 0; the constant 1.5 is dead, and
    # has no slope that it could lose.
    assert measured.saturated_fraction[row] == 0.25
    assert np.isnan(measured.saturated_fraction[0])


def test_saturation_sees_an_activation_through_a_pooling(images):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.avg_pool(nn.tanh(nn.Conv(4, (3, 3), name="conv")(x)), (2, 2), (2, 2))
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    model = Pooled()
    variables = init(model, images["inputs"])
    variables = {"params": jax.tree.map(lambda p: 3 * p, variables["params"])}
    conv = variables["params"]["conv"]
    z = nn.Conv(4, (3, 3)).apply({"params": conv}, images["inputs"])
    expected = np.mean(1 - np.tanh(np.asarray(z, float)) ** 2 < 0.01)
    assert 0.1 < expected < 0.9
    measured = propagation(model, variables, images, loss=losses.cross_entropy)
    # One entry of 1,536 may stand on the other side of the limit after rounding.
    assert abs(measured.saturated_fraction[1] - expected) <= 1 / 1536


def test_vanishing_gradients_keep_a_variance_below_float32(key):
    batch = regression_batch(key, 4, 10, 1)
    width, depth, scale = 10, 24, 1e-2
    orthogonal = jax.nn.initializers.orthogonal(scale)
    model = models.MLP([width] * depth + [1], activation=lambda x: x, kernel_init=orthogonal)
    measured = propagation(
        model, init(model, batch["inputs"], train=False), batch, loss=losses.mean_squared_error
    )
    # Each square orthogonal layer multiplies every gradient's second moment by scale^2.
    square = measured.gradient_variance + np.asarray(measured.gradient_mean, np.float64) ** 2
    visible = np.flatnonzero(measured.gradient_zero_fraction[:depth] == 0)
    assert len(visible) > 15
    assert square[visible].min() < 1e-60
    seen = np.log10(square[visible] / square[depth - 1])
    # 24 orthogonal products, each to 10 float32 roundings of the largest entry.
    np.testing.assert_allclose(seen, 2 * (depth - 1 - visible) * np.log10(scale), atol=1e-3)
    # What left float32 is exactly zero, and counted.
    assert measured.gradient_zero_fraction[0] == 1
    assert measured.gradient_stddev[0] == 0


def test_values_that_are_not_finite_are_counted(key):
    batch = regression_batch(key, 4, 3, 1)
    model = models.MLP([5, 1])
    variables = init(model, batch["inputs"], train=False)
    variables["params"]["dense_0"]["bias"] = jnp.full(5, jnp.inf).at[0].set(0.0)
    measured = propagation(model, variables, batch, loss=losses.mean_squared_error)
    np.testing.assert_allclose(measured.nonfinite_fraction, [0.8, 0.8, 1.0])
    assert measured.gradient_nonfinite_fraction[-1] == 1
    assert not np.isfinite(measured.variance[0])


class Shared(nn.Module):
    def setup(self):
        self.dense = nn.Dense(3)
        self.out = nn.Dense(1)

    def __call__(self, x):
        return self.out(nn.relu(self.dense(nn.relu(self.dense(x)))))


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.remat(InlineResidual)(name="remat")(x)
        return nn.Dense(1, name="out")(x)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            lambda layer, x, _: (nn.tanh(layer(x)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = scan(nn.Dense(4, name="layers"), x, None)
        return nn.Dense(1, name="out")(x)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (
            Shared(),
            ("dense", "dense/activation", "dense:2", "dense:2/activation", "out"),
        ),
        (nn.Dense(2), ("Dense",)),
        (
            nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2), nn.sigmoid]),
            ("layers_0", "layers_0/activation", "layers_2", "layers_2/activation"),
        ),
    ],
)
def test_names_in_order_of_execution(key, model, names):
    outputs = jax.eval_shape(lambda: model.init_with_output(key, jnp.ones((4, 3))))[0].shape[1]
    batch = regression_batch(key, 4, 3, outputs)
    measured = propagation(
        model, init(model, batch["inputs"]), batch, loss=losses.mean_squared_error
    )
    assert measured.names == names
    assert np.all(measured.gradient_stddev > 0)


@pytest.mark.parametrize("model", [Remat(), Scanned()])
def test_a_lifted_transformation_is_one_row(key, model):
    batch = regression_batch(key, 4, 4, 1)
    variables = init(model, batch["inputs"])
    measured = propagation(model, variables, batch, loss=losses.mean_squared_error)
    assert measured.names[-1] == "out"
    gradient = jax.grad(
        lambda params: losses.mean_squared_error(
            model.apply({"params": params}, batch["inputs"]), batch["targets"]
        ).mean()
    )(variables["params"])
    np.testing.assert_allclose(
        measured.weight_gradient_norm[-1],
        jnp.linalg.norm(gradient["out"]["kernel"]),
        rtol=ROUNDING,
    )


def test_a_hand_written_backward_pass_is_followed_and_has_no_slope(key):
    @jax.custom_vjp
    def straight_through(z):
        return jnp.sign(z)

    straight_through.defvjp(lambda z: (jnp.sign(z), None), lambda _, g: (g,))
    batch = regression_batch(key, 8, 3, 1)
    model = models.MLP([5, 1], activation=straight_through)
    measured = propagation(
        model, init(model, batch["inputs"], train=False), batch, loss=losses.mean_squared_error
    )
    np.testing.assert_allclose(measured.gradient_stddev[0], measured.gradient_stddev[1])
    assert np.isnan(measured.saturated_fraction[1])


class Scaled(nn.Module):
    scale: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(self.scale * nn.tanh(nn.Dense(4)(x)))


def test_a_setting_of_the_model_may_be_mapped_over(key):
    batch = regression_batch(key, 8, 3, 1)
    variables = init(Scaled(1.0), batch["inputs"])
    measured = jax.vmap(
        lambda scale: propagation(Scaled(scale), variables, batch, loss=losses.mean_squared_error)
    )(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(2 * measured.stddev[0, 1], measured.stddev[1, 1], rtol=ROUNDING)


def test_bfloat16_is_measured_in_float32(key):
    batch = regression_batch(key, 64, 4, 1)
    model = nn.Sequential([nn.Dense(32, dtype=jnp.bfloat16), nn.tanh, nn.Dense(1)])
    measured = propagation(
        model, init(model, batch["inputs"]), batch, loss=losses.mean_squared_error
    )
    assert measured.stddev.dtype == jnp.float32
    # A unit-variance signal through a LeCun kernel; 2,048 entries that share 32 rows of weights.
    assert 0.5 < measured.variance[0] < 2


def test_the_table_names_every_row_and_blanks_what_a_row_lacks(key):
    batch = regression_batch(key, 4, 3, 1)
    model = models.MLP([5, 1], kernel_init=jax.nn.initializers.zeros)
    measured = propagation(
        model, init(model, batch["inputs"], train=False), batch, loss=losses.mean_squared_error
    )
    console = Console(width=200, file=io.StringIO())
    console.print(measured)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for name in measured.names:
        assert name in text
    assert "nan" not in text
    assert "100%" in text


def test_a_narrow_table_folds_names_and_keeps_numbers_whole(key):
    batch = regression_batch(key, 4, 3, 1)
    model = models.MLP([5, 1])
    measured = propagation(
        model,
        init(model, batch["inputs"], train=False),
        batch,
        loss=losses.mean_squared_error,
        optimizer=optimizers.sgd(1e-3),
    )
    # The longest numbers that two digits can give.
    longest = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1.2e-10), measured)
    longest = longest.replace(mean=-longest.mean)
    for each in (measured, longest):
        console = Console(width=80, file=io.StringIO())
        console.print(each)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in text
        assert f"{each.mean[0]:.2g}" in text
        assert each.update_ratio is not None
        last = f"{each.update_ratio[0]:.2g}"
        assert any(line.rstrip().endswith(last) for line in text.splitlines())


def test_refusals(key):
    batch = regression_batch(key, 4, 3, 1)
    model = models.MLP([5, 1], dropout_rate=0.5)
    variables = init(model, batch["inputs"], train=False)
    arguments: dict[str, Any] = {"loss": losses.mean_squared_error, "key": key}
    with pytest.raises(ValueError, match=r"at least 2 examples.* \(1, 3\)"):
        propagation(model, variables, {k: v[:1] for k, v in batch.items()}, **arguments)
    with pytest.raises(ValueError, match=r"without \['targets'\]"):
        propagation(model, variables, {"inputs": batch["inputs"]}, **arguments)
    with pytest.raises(ValueError, match="key=None with train=True"):
        propagation(model, variables, batch, loss=losses.mean_squared_error)
    with pytest.raises(TypeError, match="made by"):
        propagation(model, variables, batch, loss=losses.mean_squared_error, key=0)
    with pytest.raises(TypeError, match="model"):
        propagation(models.MLP, variables, batch, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"under 'params'.*dense_0"):
        propagation(model, variables["params"], batch, **arguments)
    with pytest.raises(ValueError, match="with its optimizer"):
        propagation(model, variables, batch, **arguments, opt_state=optax.EmptyState())
    with pytest.raises(ValueError, match="saturation must be a positive"):
        propagation(model, variables, batch, **arguments, saturation=0.0)
    with pytest.raises(ValueError, match="one value per example"):
        propagation(model, variables, batch, loss=lambda outputs, _: outputs.mean(), key=key)


def test_a_model_that_computes_nothing_is_refused(key):
    class Nothing(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("unused", nn.initializers.zeros, (1,))
            return x

    batch = regression_batch(key, 4, 1, 1)
    with pytest.raises(ValueError, match="got Nothing, which computes none"):
        propagation(
            Nothing(),
            init(Nothing(), batch["inputs"]),
            batch,
            loss=losses.mean_squared_error,
        )
