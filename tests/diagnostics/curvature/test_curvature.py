"""Sharpness, density and trace against the dense matrix in float64."""

import functools
import inspect

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdl import diagnostics, losses, models
from jaxdl.diagnostics.objective import groups, mean_loss
from jaxdl.training.task import as_task, to_measure

EXACT = {"dtype": jnp.float64, "tolerance": 1e-7}
"""What is compared with a dense matrix: 1e-5 is asked for, the residual's square is far below."""


class Normalized(nn.Module):
    """Batch norm and dropout."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(5, name="first")(x))
        x = nn.Dropout(self.rate, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(3, name="last")(x)


def plain(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WIDE = jax if hasattr(jax, "enable_x64") else jax.experimental
LABELS = np.random.default_rng(1).integers(0, 3, 12)
VECTORS = {"inputs": draw(12, 4), "targets": LABELS}
IMAGES = {"inputs": draw(12, 6, 6, 2), "targets": LABELS}
MLP = models.MLP([6, 3], activation=jnp.tanh)
DROPOUT = jax.random.key(7)


def linen(model, batch):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(3), batch["inputs"])


@functools.cache
def case(name):
    """Model or task, variables, batch, and settings of a measurement."""
    if name == "mlp":
        return MLP, linen(MLP, VECTORS), VECTORS, {}
    if name == "weights":
        return MLP, linen(MLP, VECTORS), {**VECTORS, "weights": np.abs(draw(12, seed=5))}, {}
    if name == "evaluation":
        return Normalized(0.5), linen(Normalized(0.5), VECTORS), VECTORS, {"train": False}
    if name == "batch_norm":
        return Normalized(), linen(Normalized(), VECTORS), VECTORS, {}
    if name == "dropout":
        return Normalized(0.5), linen(Normalized(0.5), VECTORS), VECTORS, {"key": DROPOUT}
    if name == "convolution":
        model = models.ConvNet([3], [3])
        return model, linen(model, IMAGES), IMAGES, {}
    if name == "function":
        return plain, {"w": draw(4, 5), "v": draw(5, 3, seed=1)}, VECTORS, {}
    model = eqx.nn.MLP(4, 3, 5, 1, activation=jnp.tanh, key=jax.random.key(0))
    return model, None, VECTORS, {}


CASES = (
    "mlp", "weights", "evaluation", "batch_norm", "dropout", "convolution", "function", "equinox",
)  # fmt: skip


@functools.cache
def dense(name, matrix="hessian"):
    """The matrix in float64, and the parameters' tree, by `jax.hessian` and by Jacobians."""
    model, variables, batch, settings = case(name)
    with WIDE.enable_x64(True):
        task = as_task(model, losses.cross_entropy)
        task, variables = to_measure(task, variables)
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(
                leaf, jnp.float64 if np.asarray(leaf).dtype == np.float32 else None
            ),
            (variables, dict(batch)),
        )
        variables, batch = wide
        train, key = settings.get("train", True), settings.get("key")
        flat, unravel = ravel_pytree(variables["params"])
        if matrix == "hessian":
            loss = mean_loss(task, variables, batch, train=train, key=key)
            made = jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))(flat)
        else:

            def outputs(flat):
                given = {**variables, "params": unravel(flat)}
                return task.outputs(given, jnp.asarray(batch["inputs"]), train=train, key=key)[0]

            jacobian = jax.jit(jax.jacobian(outputs))(flat)
            shares = jax.nn.softmax(outputs(flat))
            bends = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(shares)
            weights = jnp.asarray(batch.get("weights", np.ones(12)))
            made = jnp.einsum("b,bip,bij,bjq->pq", weights, jacobian, bends, jacobian)
            made = made / weights.sum()
        return np.asarray(made), variables["params"]


def measured(function, name, **given):
    model, variables, batch, settings = case(name)
    return function(model, variables, batch, loss=losses.cross_entropy, **settings, **given)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("name", CASES)
def test_the_largest_eigenvalues_are_those_of_the_dense_matrix(name, matrix):
    expected = np.linalg.eigvalsh(dense(name, matrix)[0])[::-1][:3]
    found = measured(diagnostics.sharpness, name, count=3, matrix=matrix, **EXACT)
    assert found.eigenvalues.dtype == np.float64
    np.testing.assert_allclose(found.eigenvalues[0], expected, rtol=1e-5)
    assert found.converged.all()
    assert (found.residuals <= 1e-7 * abs(np.linalg.eigvalsh(dense(name, matrix)[0])).max()).all()


@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
def test_each_layer_has_its_own_block(name):
    matrix, params = dense(name)
    for layers in ("each", ["*/bias"]):
        found = measured(diagnostics.sharpness, name, layers=layers, eigenvectors=True, **EXACT)
        for index, group in enumerate(groups(params, layers)):
            sizes = [leaf.size for leaf in jax.tree.leaves(params)]
            own = np.repeat(np.array(group.owned), sizes)
            block = matrix[np.ix_(own, own)]
            assert (found.names[index], found.sizes[index]) == (group.name, own.sum())
            value = found.eigenvalues[index, 0]
            np.testing.assert_allclose(value, np.linalg.eigvalsh(block)[-1], rtol=1e-5)
            tree = jax.tree.map(lambda leaf, index=index: leaf[index, 0], found.eigenvectors)
            vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
            assert not vector[~own].any()
            # The dense matrix and the product differ by rounding, beside the tolerance.
            np.testing.assert_allclose(block @ vector[own], value * vector[own], atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "weights", "convolution"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_pieces_are_the_whole(name, matrix):
    whole = measured(diagnostics.sharpness, name, matrix=matrix, **EXACT)
    for size in (5, 12, 100):  # with a smaller last piece, and of all
        pieces = measured(diagnostics.sharpness, name, matrix=matrix, batch_size=size, **EXACT)
        np.testing.assert_allclose(pieces.eigenvalues, whole.eigenvalues, rtol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "convolution", "function"])
def test_float32_is_right_to_its_rounding(name):
    expected = np.linalg.eigvalsh(dense(name)[0])[-1]
    found = measured(diagnostics.sharpness, name)
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.largest[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "equinox"])
def test_the_moments_lie_within_their_error(name):
    matrix, _ = dense(name)
    values = np.linalg.eigvalsh(matrix)
    spectrum = measured(diagnostics.curvature_spectrum, name, dtype=jnp.float64, probes=100)
    orders = np.arange(5)
    mean, error = (each[0] for each in spectrum.moments(orders))
    expected = (values ** orders[:, None]).mean(1)
    np.testing.assert_allclose(mean[0], 1, rtol=1e-12)
    # 4 standard errors: chance exceeds them once in 10,000 draws, and the probes are fixed.
    assert (np.abs(mean - expected)[1:] < 4 * error[1:]).all()
    assert (error[1:] < 0.5 * np.abs(values).max() ** orders[1:]).all()
    low, high = spectrum.ends()
    np.testing.assert_allclose([low[0], high[0]], values[[0, -1]], rtol=1e-6)
    grid = np.linspace(low[0] - 1, high[0] + 1, 4001)
    density = spectrum.density(grid, 0.05)
    blurred = np.exp(-0.5 * ((grid[:, None] - values) / 0.05) ** 2).mean(1) / np.sqrt(
        2 * np.pi * 0.05**2
    )
    np.testing.assert_allclose(np.trapezoid(density.mean[0], grid), 1, rtol=1e-6)
    near = np.abs(density.mean[0] - blurred) <= 5 * density.standard_error[0] + 1e-9
    assert near.mean() > 0.99


def test_a_quadrature_is_exact_for_its_probe_up_to_its_degree():
    """v^T A^k v by products, for k up to 2 m - 1."""
    matrix, _ = dense("function")
    spectrum = measured(
        diagnostics.curvature_spectrum, "function", dtype=jnp.float64, steps=4, probes=2
    )
    start = jax.random.fold_in(jax.random.key(0), 1)
    for number in range(2):
        key = jax.random.fold_in(start, number)
        with WIDE.enable_x64(True):  # other bits are drawn
            vector = np.asarray(jax.random.rademacher(key, (len(matrix),), jnp.float64))
        for order in range(8):
            expected = vector @ np.linalg.matrix_power(matrix, order) @ vector / len(matrix)
            nodes, weights = spectrum.nodes[0, number], spectrum.weights[0, number]
            np.testing.assert_allclose(weights @ nodes**order, expected, rtol=1e-9)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("name", ["mlp", "dropout", "convolution"])
def test_the_trace_lies_within_its_error(name, matrix):
    expected = np.trace(dense(name, matrix)[0])
    found = measured(diagnostics.hessian_trace, name, matrix=matrix, dtype=jnp.float64, probes=200)
    off = dense(name, matrix)[0] - np.diag(np.diag(dense(name, matrix)[0]))
    # The standard error of Hutchinson's estimate, from the entries off the diagonal.
    error = np.sqrt(2 * (off**2).sum() / 200)
    assert abs(found.trace[0] - expected) < 4 * error
    np.testing.assert_allclose(found.standard_error[0], error, rtol=0.3)


def test_the_layers_traces_add_up():
    """The mean of many probes: the whole trace is the sum of the blocks'."""
    layers = measured(diagnostics.hessian_trace, "mlp", layers="each", probes=300)
    whole = measured(diagnostics.hessian_trace, "mlp", probes=300)
    error = np.sqrt((layers.standard_error**2).sum() + whole.standard_error[0] ** 2)
    assert abs(layers.trace.sum() - whole.trace[0]) < 4 * error


def test_it_is_mapped_over_seeds_and_jitted():
    def init(seed):
        return MLP.init(jax.random.key(seed), jnp.asarray(VECTORS["inputs"]), train=False)

    def measure(variables):
        return diagnostics.sharpness(MLP, variables, VECTORS, loss=losses.cross_entropy, count=2)

    seeds = jnp.arange(3)
    mapped = jax.jit(jax.vmap(measure))(jax.vmap(init)(seeds))
    assert mapped.eigenvalues.shape == (3, 1, 2)
    assert "mean of 3 runs" in repr(mapped)
    for seed in range(3):
        alone = measure(init(seed))
        np.testing.assert_allclose(mapped.eigenvalues[seed], alone.eigenvalues, rtol=1e-5)


def test_half_precision_is_measured_in_float32():
    variables = case("mlp")[1]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    found, expected = (
        diagnostics.sharpness(MLP, given, VECTORS, loss=losses.cross_entropy)
        for given in (half, rounded)
    )
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-5)


def test_a_run_that_has_not_converged_says_so():
    with pytest.warns(UserWarning, match=r"must have converged.*residual of .*lost orthogonality"):
        found = measured(diagnostics.sharpness, "mlp", iterations=2)
    assert not found.converged.any()
    assert "not converged" in repr(found)
    # The residual is a bound even so.
    values = np.linalg.eigvalsh(dense("mlp")[0])
    assert np.abs(values - float(found.largest[0])).min() <= found.residuals[0, 0] + 1e-5


def test_a_loss_without_curvature_has_none():
    def linear(outputs, targets):
        return outputs.sum(-1) + 0 * targets

    found = diagnostics.sharpness(
        lambda params, x: x @ params["w"], {"w": draw(4, 2)}, VECTORS, loss=linear, count=2
    )
    assert not found.eigenvalues.any()
    assert found.converged.all()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="'conv' has none of"):
        measured(diagnostics.sharpness, "mlp", layers=["conv"])
    with pytest.raises(ValueError, match="count must be at most"):
        measured(diagnostics.sharpness, "mlp", layers=["dense_1/bias"], count=4)
    with pytest.raises(ValueError, match="matrix must be one of"):
        measured(inspect.unwrap(diagnostics.hessian_trace), "mlp", matrix="fisher")
    with pytest.raises(ValueError, match="probes must be at least 2"):
        measured(diagnostics.curvature_spectrum, "mlp", probes=1)
    with pytest.raises(ValueError, match="jax_enable_x64 off"):
        jax.jit(lambda: measured(diagnostics.sharpness, "mlp", dtype=jnp.float64))()
    with pytest.raises(TypeError, match="real floats"):
        diagnostics.sharpness(
            lambda params, x: jnp.abs(x @ params["w"]), {"w": draw(4, 3) * 1j}, VECTORS,
            loss=losses.cross_entropy,
        )  # fmt: skip
    mapped = jax.tree.map(
        lambda leaf: leaf[None], measured(diagnostics.curvature_spectrum, "function", steps=3)
    )
    with pytest.raises(ValueError, match="one measurement's"):
        mapped.ends()


MEASUREMENTS = (diagnostics.sharpness, diagnostics.curvature_spectrum, diagnostics.hessian_trace)


@pytest.mark.parametrize("measure", MEASUREMENTS)
def test_what_is_not_finite_is_said(measure):
    broken = {"w": jnp.full((4, 5), jnp.nan), "v": jnp.ones((5, 3))}
    with pytest.warns(UserWarning, match="must (be finite|have converged) to be trusted, got"):
        found = measure(plain, broken, VECTORS, loss=losses.cross_entropy)
    assert "nan" in repr(found) or "not finite" in repr(found)


@pytest.mark.parametrize("measure", MEASUREMENTS)
@pytest.mark.parametrize(
    ("changed", "given", "text"),
    [
        ({"inputs": draw(0, 4), "targets": LABELS[:0]}, {}, "must have an example, got none"),
        ({"weights": np.zeros(12)}, {}, "an example whose weight is not 0"),
        ({}, {"dtype": jnp.float16}, "a real float of 32 bits or more, got float16"),
    ],
)
def test_what_has_no_curvature_is_refused(measure, changed, given, text):
    params = {"w": draw(4, 5), "v": draw(5, 3)}
    with pytest.raises(ValueError, match=text):
        measure(plain, params, {**VECTORS, **changed}, loss=losses.cross_entropy, **given)


def test_what_is_shown():
    found = measured(diagnostics.sharpness, "mlp", layers="each", count=2)
    assert len(found.table().rows) == 4
    assert "dense_1" in found._repr_html_()
    assert found.plot().axes[0].get_ylabel() == "eigenvalue"
    spectrum = measured(diagnostics.curvature_spectrum, "mlp", layers="each")
    assert len(spectrum.table().rows) == len(spectrum.plot().axes) == 2
    assert repr(spectrum).startswith("CurvatureSpectrum(2 groups, 10 probes: -")
    trace = measured(diagnostics.hessian_trace, "mlp")
    assert repr(trace).startswith("HessianTrace(all ")
    assert trace.plot().axes[0].get_ylabel() == "trace"
