"""The empirical tangent kernel: against a dense Jacobian, in pieces, by layer, in both forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign.everyone import MODELS, variables_of

from jaxdl import layers, models
from jaxdl.diagnostics import tangent_kernel
from jaxdl.training.task import as_measured, to_measure

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 4))
Y = jax.random.normal(jax.random.key(2), (3, 4))
MLP = models.MLP([6, 3], activation=jnp.tanh)
VARIABLES = MLP.init(KEY, X, train=False)
ROUNDING = 1e-5
"""Relative, of float32 sums over some dozens of products."""


def dense(outputs, params, *inputs, only=lambda path: True):
    """(n, m, outputs, outputs) in float64, from whole Jacobians."""

    def jacobian(x):
        leaves = jax.tree_util.tree_leaves_with_path(jax.jacrev(outputs)(params, x))
        return np.concatenate(
            [
                np.asarray(leaf, np.float64).reshape(*leaf.shape[:2], -1)
                for path, leaf in leaves
                if only(jax.tree_util.keystr(path))
            ],
            -1,
        )

    left, right = jacobian(inputs[0]), jacobian(inputs[-1])
    return np.einsum("nkp,mlp->nmkl", left, right)


def mlp(params, x):
    return MLP.apply({"params": params}, x, train=False)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max())


def trace_of(full):
    return np.trace(full, axis1=-2, axis2=-1) / full.shape[-1]


@pytest.mark.parametrize("piece", [None, 1, 2, 5])
@pytest.mark.parametrize("two", [False, True], ids=["one batch", "two"])
def test_it_is_the_product_of_dense_jacobians(piece, two):
    others = [{"inputs": Y}] if two else []
    expected = dense(mlp, VARIABLES["params"], X, *([Y] if two else []))
    batch = {"inputs": X}
    found = tangent_kernel(MLP, VARIABLES, batch, *others, batch_size=piece)
    assert found.kernel.shape == (1, 5, 3 if two else 5)
    assert_same(found.total, trace_of(expected))
    for products in (False, True):
        full = tangent_kernel(
            MLP, VARIABLES, batch, *others, full=True, products=products, batch_size=piece
        )
        assert_same(full.total, expected)
        by_trace = tangent_kernel(MLP, VARIABLES, batch, *others, products=products)
        assert_same(by_trace.total, trace_of(expected))


def test_layers_add_up():
    found = tangent_kernel(MLP, VARIABLES, {"inputs": X}, layers="each")
    assert found.names == ("dense_0", "dense_1")
    for index, name in enumerate(found.names):
        own = dense(mlp, VARIABLES["params"], X, only=lambda path, name=name: name in path)
        assert_same(found.kernel[index], trace_of(own))
    biases = tangent_kernel(MLP, VARIABLES, {"inputs": X}, layers=["*/bias"])
    own = dense(mlp, VARIABLES["params"], X, only=lambda path: "bias" in path)
    assert_same(biases.total, trace_of(own))
    assert_same(found.total, trace_of(dense(mlp, VARIABLES["params"], X)))


def test_eigenvalues_are_those_of_the_matrix_of_examples_and_outputs():
    full = tangent_kernel(MLP, VARIABLES, {"inputs": X}, full=True)
    expected = dense(mlp, VARIABLES["params"], X)
    matrix = expected.transpose(0, 2, 1, 3).reshape(15, 15)
    assert_same(full.matrices[0], matrix)
    assert_same(full.eigenvalues[0], np.linalg.eigvalsh(matrix)[::-1])
    two = tangent_kernel(MLP, VARIABLES, {"inputs": X}, {"inputs": Y})
    with pytest.raises(ValueError, match="eigenvalues need the kernel of one batch"):
        _ = two.eigenvalues


def test_batch_statistics_couple_the_examples():
    model = models.MLP([6, 3], norm=layers.BatchNorm)
    variables = model.init(KEY, X, train=False)

    def outputs(params, x):
        return model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[
            0
        ]

    expected = dense(outputs, variables["params"], X)
    for products in (False, True):
        found = tangent_kernel(model, variables, {"inputs": X}, full=True, products=products)
        assert_same(found.total, expected)
    evaluated = tangent_kernel(model, variables, {"inputs": X}, train=False)
    assert abs(evaluated.total - trace_of(expected)).max() > 0.01


def test_a_dropout_is_that_of_its_key():
    model = models.MLP([16, 3], dropout_rate=0.5)
    variables = model.init(KEY, X, train=False)
    key = jax.random.key(3)

    def outputs(params, x):
        return model.apply({"params": params}, x, train=True, rngs={"dropout": key})

    found = tangent_kernel(model, variables, {"inputs": X}, key=key)
    assert_same(found.total, trace_of(dense(outputs, variables["params"], X)))
    with pytest.raises(ValueError, match="needs a key, got key=None"):
        tangent_kernel(model, variables, {"inputs": X})


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.first(x))))


@pytest.mark.parametrize("products", [False, True])
def test_a_module_with_random_numbers_of_its_own_has_one_mask_an_example(products):
    task, variables = to_measure(as_measured(OfNnx(nnx.Rngs(0)), preprocess=lambda x: x), None)

    def outputs(params, x):
        return task.outputs({**variables, "params": params}, x, train=True)[0]

    found = tangent_kernel(task, variables, {"inputs": X}, full=True, products=products)
    assert_same(found.total, dense(outputs, variables["params"], X))
    evaluated = tangent_kernel(task, variables, {"inputs": X}, full=True, train=False)
    assert abs(evaluated.total - found.total).max() > 0.01


def test_a_plain_function_with_a_fixed_key_has_one_mask_an_example():
    def masked(params, x):
        return (x * jax.random.bernoulli(KEY, 0.5, x.shape)) @ params

    params = jnp.ones((4, 4))
    found = tangent_kernel(masked, params, {"inputs": X}, full=True)
    assert_same(found.total, dense(masked, params, X))


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


@pytest.mark.parametrize("full", [False, True])
def test_a_derivative_that_goes_backward_alone(full):
    params = binary_params(4, 5)
    found = tangent_kernel(binary, params, {"inputs": X}, full=full)
    expected = dense(binary, params, X)
    assert_same(found.total, expected if full else trace_of(expected))
    with pytest.raises(ValueError, match=r"need a derivative forward, .* leave products out"):
        tangent_kernel(binary, params, {"inputs": X}, full=full, products=True)


def test_models_of_other_libraries():
    module = eqx.nn.MLP(4, 3, 8, 1, activation=jnp.tanh, key=KEY)
    params, rest = eqx.partition(module, eqx.is_inexact_array)

    def outputs(params, x):
        return jax.vmap(eqx.combine(params, rest))(x)

    found = tangent_kernel(module, None, {"inputs": X}, full=True)
    assert_same(found.total, dense(outputs, params, X))

    def line(params, x):
        return x @ params

    assert_same(tangent_kernel(line, jnp.ones((4, 2)), {"inputs": X}).total, np.asarray(X @ X.T))


@pytest.mark.parametrize("name", ["mixer"])
def test_a_strangers_model(name):
    foreign, variables = MODELS[name], variables_of(name)

    def outputs(params, x):
        given = {**variables, "params": params}
        made = foreign.task.outputs(given, x, train=False)[0]
        return made.reshape(len(made), -1)

    inputs = jax.tree.map(lambda leaf: leaf[:3], foreign.inputs)
    found = tangent_kernel(foreign.task, variables, {"inputs": inputs}, train=False)
    assert_same(found.total, trace_of(dense(outputs, variables["params"], inputs)))


def test_it_is_pure_and_maps_over_variables():
    many = jax.vmap(lambda key: MLP.init(key, X, train=False))(jax.random.split(KEY, 3))

    def measured(variables):
        return tangent_kernel(MLP, variables, {"inputs": X}, layers="each")

    mapped = jax.jit(jax.vmap(measured))(many)
    assert mapped.kernel.shape == (3, 2, 5, 5)
    assert mapped.eigenvalues.shape == (3, 2, 5)
    for index in range(3):
        alone = measured(jax.tree.map(lambda leaf, index=index: leaf[index], many))
        assert_same(mapped.kernel[index], np.asarray(alone.kernel))
    assert repr(mapped) == "TangentKernel(5 x 5 examples, 3 outputs, 2 groups)"
    assert mapped.table().row_count == 2


def test_it_shows_itself():
    found = tangent_kernel(MLP, VARIABLES, {"inputs": X}, layers="each")
    assert "2 groups: mean of the diagonal" in repr(found)
    assert "dense_1" in found._repr_html_()
    assert len(found.plot().axes) == 3
    two = tangent_kernel(MLP, VARIABLES, {"inputs": X}, {"inputs": Y}, full=True)
    assert repr(two) == "TangentKernel(5 x 3 examples, 3 outputs)"
    assert len(two.plot().axes) == 2
    assert two.table().row_count == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"layers": ["dense_7"]}, "must have parameters, and 'dense_7' has none"),
        ({"layers": "each", "products": True}, "products give the kernel of all parameters"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tangent_kernel(MLP, VARIABLES, {"inputs": X}, **settings)
    with pytest.raises(ValueError, match="the key 'inputs'"):
        tangent_kernel(MLP, VARIABLES, {"targets": X})
    with pytest.raises(ValueError, match=r"at least one example, got inputs of shape \(0, 4\)"):
        tangent_kernel(MLP, VARIABLES, {"inputs": X[:0]})
