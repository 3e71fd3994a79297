"""The Jacobian's singular values: against a dense Jacobian, through rows, and in any library."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign.everyone import MODELS, variables_of

from jaxdl import initializers, layers, models
from jaxdl.diagnostics import jacobian_spectrum
from jaxdl.plotting import singular_values_figure

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 5))
ROUNDING = 2e-6
"""Of a float32 singular value, relative to the largest; of products over at most 16 numbers."""


def dense(function, x):
    """Of each example by the library's own Jacobian, and NumPy's decomposition."""
    whole = jax.jacrev(function)(x)
    matrices = [
        np.asarray(whole[i, ..., i, :] if x.ndim == 2 else whole[i][..., i, :, :, :], np.float64)
        for i in range(len(x))
    ]
    return np.stack([np.linalg.svd(m.reshape(-1, x[0].size))[1] for m in matrices])


def assert_same(found, expected):
    scale = expected.max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=ROUNDING)


MLP = models.MLP([7, 6, 4], activation=jnp.tanh)
VARIABLES = MLP.init(KEY, X, train=False)
BATCH = {"inputs": X}


def test_it_is_the_dense_jacobian():
    found = jacobian_spectrum(MLP, VARIABLES, BATCH)
    assert (found.source, found.target, found.shape) == ("input", "output", (4, 5))
    assert_same(found.singular_values, dense(lambda x: MLP.apply(VARIABLES, x, train=False), X))
    assert found.is_whole
    values = np.asarray(found.singular_values, np.float64)
    np.testing.assert_allclose(found.mean_square, (values**2).mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        found.spread, (values**2).var(1) / (values**2).mean(1) ** 2, rtol=1e-12
    )
    np.testing.assert_allclose(found.condition_number, values[:, 0] / values[:, -1], rtol=1e-6)


def test_a_chain_of_rows_is_the_product_of_its_layers():
    params = VARIABLES["params"]
    first = X @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]

    def rest(z):
        z = jnp.tanh(z) @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
        return jnp.tanh(z)

    found = jacobian_spectrum(MLP, VARIABLES, BATCH, source="dense_0", target="dense_1/activation")
    assert found.shape == (6, 7)
    assert_same(found.singular_values, dense(rest, first))
    own = jacobian_spectrum(MLP, VARIABLES, BATCH, target="dense_0")
    assert_same(own.singular_values, dense(lambda x: x @ params["dense_0"]["kernel"], X))
    last = jacobian_spectrum(MLP, VARIABLES, BATCH, source="dense_1/activation")
    kernel = np.linalg.svd(np.asarray(params["dense_2"]["kernel"]))[1]
    assert_same(last.singular_values, np.tile(kernel, (3, 1)))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        return x + 2 * nn.Dense(4, name="second")(jnp.tanh(x))


def test_every_way_from_source_to_target_counts():
    variables = Residual().init(KEY, X)
    first = X @ variables["params"]["first"]["kernel"]

    def rest(z):
        return z + 2 * jnp.tanh(z) @ variables["params"]["second"]["kernel"]

    found = jacobian_spectrum(Residual(), variables, BATCH, source="first")
    assert_same(found.singular_values, dense(rest, first))


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return jnp.tanh(nn.Dense(5, name="dense")(x)), None

        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        return nn.Dense(3, name="head")(scan(name="blocks")(x, None)[0])


def test_a_layer_of_a_scan_is_a_row_of_its_own():
    variables = Scanned().init(KEY, X)
    stack = variables["params"]["blocks"]["dense"]
    kernels, biases = stack["kernel"], stack["bias"]
    source, target = "blocks/dense[1]", "blocks/dense[3]"
    z = X
    for layer in range(2):
        z = (jnp.tanh(z) if layer else z) @ kernels[layer] + biases[layer]

    def rest(z):
        for layer in (2, 3):
            z = jnp.tanh(z) @ kernels[layer] + biases[layer]
        return z

    found = jacobian_spectrum(Scanned(), variables, BATCH, source=source, target=target)
    assert_same(found.singular_values, dense(rest, z))


def test_batch_statistics_hold_the_other_examples():
    model = models.MLP([6, 4], norm=layers.BatchNorm)
    x = jax.random.normal(KEY, (5, 5))
    variables = model.init(KEY, x, train=False)

    def outputs(x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    found = jacobian_spectrum(model, variables, {"inputs": x})
    assert_same(found.singular_values, dense(outputs, x))
    evaluated = jacobian_spectrum(model, variables, {"inputs": x}, train=False)
    assert_same(
        evaluated.singular_values, dense(lambda x: model.apply(variables, x, train=False), x)
    )
    assert abs(found.singular_values - evaluated.singular_values).max() > 0.01


def test_a_dropout_is_that_of_its_key():
    model = models.MLP([16, 4], dropout_rate=0.5)
    variables = model.init(KEY, X, train=False)
    with pytest.raises(ValueError, match="key"):
        jacobian_spectrum(model, variables, BATCH)
    found = jacobian_spectrum(model, variables, BATCH, key=jax.random.key(3))
    expected = dense(
        lambda x: model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)}),
        X,
    )
    assert_same(found.singular_values, expected)


def conv(kernel):
    names = ("NHWC", "HWIO", "NHWC")

    def apply(params, x):
        return jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=names)

    return apply, kernel


def test_a_plain_function_of_images():
    apply, kernel = conv(initializers.delta_orthogonal()(KEY, (3, 3, 2, 3)))
    images = jax.random.normal(KEY, (2, 4, 4, 2))
    found = jacobian_spectrum(apply, kernel, {"inputs": images})
    assert found.shape == (48, 32)
    np.testing.assert_allclose(found.singular_values, 1, atol=ROUNDING)
    other = initializers.he_normal()(KEY, (3, 3, 2, 3))
    found = jacobian_spectrum(apply, other, {"inputs": images})
    assert_same(found.singular_values, dense(lambda x: apply(other, x), images))


@jax.custom_vjp
def straight(x):
    """A straight-through estimator: the sign, with the gradient of the identity."""
    return jnp.sign(x)


straight.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


def binary(params, x):
    return straight(x @ straight(params["in"])) @ params["out"]


def binary_params(inputs, outputs):
    shapes = {"in": (inputs, 6), "out": (6, outputs)}
    return {name: jax.random.normal(KEY, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("outputs", [2, 8])
def test_a_derivative_that_goes_backward_alone(outputs):
    """By hand: J is the product of the kernels, of which the first is rounded to signs."""
    params = binary_params(5, outputs)
    matrix = np.sign(params["in"]).astype(np.float64) @ np.asarray(params["out"], np.float64)
    expected = np.tile(np.linalg.svd(matrix)[1], (3, 1))
    whole = jacobian_spectrum(binary, params, BATCH)
    assert_same(whole.singular_values, expected)
    some = jacobian_spectrum(binary, params, BATCH, count=2)
    assert_same(some.singular_values, expected[:, :2])
    assert jacobian_spectrum(binary, params, BATCH, source="in").shape[0] == outputs


def test_models_of_other_libraries():
    linear = eqx.nn.MLP(5, 4, 8, 1, activation=jnp.tanh, key=KEY)
    found = jacobian_spectrum(linear, None, BATCH)
    assert_same(found.singular_values, dense(jax.vmap(linear), X))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.two(jnp.tanh(self.one(x)))

    net = Net(nnx.Rngs(0))
    found = jacobian_spectrum(net, None, BATCH, source="one")
    kernel = np.asarray(net.two.kernel[...])
    assert_same(found.singular_values, dense(lambda z: jnp.tanh(z) @ kernel, net.one(X)))


def test_a_strangers_model_agrees_with_its_own_derivative():
    """ConvNeXt: a derivative along one direction, by the model itself, is no larger than s_1."""
    foreign, variables = MODELS["convnext"], variables_of("convnext")
    x = jnp.asarray(foreign.inputs)
    found = jacobian_spectrum(foreign.task, variables, foreign.batch, count=2, train=False)

    def outputs(x):
        return foreign.task.outputs(variables, x, train=False)[0]

    _, pull = jax.vjp(outputs, x)
    rows = jnp.stack(
        [pull(jnp.zeros_like(outputs(x)).at[:, k].set(1))[0] for k in range(outputs(x).shape[1])], 1
    )
    expected = np.linalg.svd(np.asarray(rows, np.float64).reshape(*rows.shape[:2], -1))[1][:, :2]
    # Products in float32 through all layers, and a bidiagonalisation that ends where J does.
    np.testing.assert_allclose(found.singular_values, expected, rtol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(40, 60), (60, 40), (50, 50)])
def test_the_largest_values_come_from_products_alone(rows, columns):
    with jax.enable_x64(True):
        matrix = jax.random.normal(KEY, (rows, columns), jnp.float64)
        x = jax.random.normal(KEY, (2, columns), jnp.float64)

        def apply(params, x):
            return x @ params.T

        found = jacobian_spectrum(apply, matrix, {"inputs": x}, count=4)
        assert not found.is_whole
        assert np.isnan(found.mean_square).all()
        expected = np.linalg.svd(np.asarray(matrix))[1][:4]
        errors = abs(np.asarray(found.singular_values) - expected)
        # The bound of the residual, and float64's rounding.
        assert (errors <= np.asarray(found.residual) + 1e-12).all()
        assert errors.max() < 1e-4 * expected[0]
        assert np.asarray(found.residual).max() < 0.02 * expected[0]
        all_of_them = jacobian_spectrum(apply, matrix, {"inputs": x}, count=min(rows, columns))
        np.testing.assert_allclose(
            all_of_them.singular_values[0], np.linalg.svd(np.asarray(matrix))[1], atol=1e-10
        )


def test_equal_singular_values_are_found_as_often_as_they_are_there():
    rotation = 3 * initializers.orthogonal()(KEY, (30, 30))

    def apply(params, x):
        return x @ params

    x = jax.random.normal(KEY, (2, 30))
    found = jacobian_spectrum(apply, rotation, {"inputs": x}, count=5)
    np.testing.assert_allclose(found.singular_values, 3, atol=30 * 3 * 2.0**-23)
    rank_two = jnp.zeros((30, 30)).at[0, 0].set(2.0).at[1, 1].set(2.0)
    found = jacobian_spectrum(apply, rank_two, {"inputs": x}, count=3)
    np.testing.assert_allclose(found.singular_values, [[2, 2, 0]] * 2, atol=1e-5)


def test_it_is_pure_and_maps_over_variables():
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: MLP.init(key, X, train=False))(keys)

    def measured(variables):
        return jacobian_spectrum(MLP, variables, BATCH)

    mapped = jax.jit(jax.vmap(measured))(many)
    assert mapped.singular_values.shape == (3, 3, 4)
    for index in range(3):
        alone = measured(jax.tree.map(lambda leaf, index=index: leaf[index], many))
        assert_same(mapped.singular_values[index], np.asarray(alone.singular_values))
    assert "JacobianSpectrum(output by input, 4 x 5, 9 examples: largest" in repr(mapped)


def test_it_shows_itself():
    found = jacobian_spectrum(MLP, VARIABLES, BATCH)
    assert repr(found).startswith("JacobianSpectrum(output by input, 4 x 5, 3 examples: largest ")
    assert "<table>" in found._repr_html_()
    assert found.table().row_count == 4
    axes = found.plot(expected={"isometry": [1.0, 1.0]}).axes[0]
    assert len(axes.lines) == 4
    assert len(singular_values_figure([[1.0, 0.0, 1e-20]]).axes[0].lines) == 2  # rounding is shown
    part = jacobian_spectrum(MLP, VARIABLES, BATCH, count=2)
    assert "values known 2" in repr(part)
    assert part.table().row_count == 3


TOKENS: Any = {"inputs": jnp.zeros((2, 3), jnp.int32)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "dense_9"}, "a row's name, got 'dense_9'; pass one of dense_0, dense_0/act"),
        ({"source": "dense_1", "target": "dense_0"}, "after the source, got 'dense_0'"),
        ({"source": "dense_1", "target": "dense_1"}, "after the source"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 5}, "at most the 4 singular values of a Jacobian of 4 x 5, got 5"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        jacobian_spectrum(MLP, VARIABLES, BATCH, **settings)


def test_a_batch_without_examples_is_refused():
    with pytest.raises(ValueError, match=r"at least one example, got inputs of shape \(0, 5\)"):
        jacobian_spectrum(MLP, VARIABLES, {"inputs": X[:0]})


def test_tokens_have_no_derivative_but_their_embedding_has():
    class Words(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.Embed(4, 6, name="embed")(x).mean(1))

    variables = Words().init(KEY, TOKENS["inputs"])
    with pytest.raises(ValueError, match="source= the row of the embedding"):
        jacobian_spectrum(Words(), variables, TOKENS)
    found = jacobian_spectrum(Words(), variables, TOKENS, source="embed")
    assert found.shape == (3, 18)
    kernel = np.linalg.svd(np.asarray(variables["params"]["head"]["kernel"]))[1] / np.sqrt(3)
    assert_same(found.singular_values, np.tile(kernel, (2, 1)))


def test_matrices_that_are_too_large_are_refused():
    def wide(params, x):
        return x * params

    with pytest.raises(ValueError, match=r"at most 134,217,728 numbers.*pass fewer .* or count="):
        jacobian_spectrum(wide, jnp.ones(20000), {"inputs": jnp.ones((1, 20000))})
    found = jacobian_spectrum(wide, jnp.ones(20000), {"inputs": jnp.ones((1, 20000))}, count=1)
    np.testing.assert_allclose(found.singular_values, 1, atol=1e-4)
