"""Muon: what is orthogonal, which leaves are matrices, and how a kernel is made one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import MATRIX, STEPS, for_leaf, relative_error, trajectory

from jaxdl import layers, models, optimizers
from jaxdl.optimizers import muon
from jaxdl.optimizers.muon import MuonState, input_axes
from jaxdl.optimizers.newton_schulz import QUINTIC, orthogonalized

DRAW = np.random.default_rng(0)


def by_svd(matrix, iterations=5):
    """The same, singular value by singular value, in float64."""
    left, values, right = np.linalg.svd(np.float64(matrix), full_matrices=False)
    values = values / np.linalg.norm(values)
    a, b, c = QUINTIC
    for _ in range(iterations):
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 7), (7, 1), (40, 30)])
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e25])
def test_only_the_singular_values_change(shape, scale):
    matrix = scale * DRAW.normal(size=shape)
    found = orthogonalized(jnp.asarray(matrix, jnp.float32), epsilon=0.0)
    # An iteration multiplies a small error by at most 3.4445; a product of 40 terms rounds
    # 40 times, at 2^-24 of numbers of about 1.
    np.testing.assert_allclose(found, by_svd(matrix), atol=3.4445**5 * 40 * 2**-24)


def test_singular_values_come_near_one():
    values = np.geomspace(0.01, 1, 100_001)
    for _ in range(5):
        values = QUINTIC[0] * values + QUINTIC[1] * values**3 + QUINTIC[2] * values**5
    assert values.min() > 0.68
    assert values.max() < 1.14


def test_nothing_stays_nothing():
    assert not orthogonalized(jnp.zeros((3, 2))).any()
    small = jnp.full((2, 2), 1e-9)
    # Below epsilon the norm is not made 1: 2e-9 / 1e-7, times at most 3.4445^5.
    assert 0 < jnp.abs(orthogonalized(small)).max() < 0.01 * 3.4445**5
    assert jnp.abs(orthogonalized(small, epsilon=0.0)).max() > 0.3


def stepped(rate, momentum=0.95, nesterov=True, scaling="spectral", decay=0.0):
    w, b = MATRIX.start, 0 * MATRIX.start
    fan_in, fan_out = w.shape
    scale = np.sqrt(max(1, fan_out / fan_in))
    if scaling == "rms":
        scale = 0.2 * np.sqrt(max(fan_in, fan_out))
    for t in range(STEPS):
        g = MATRIX.gradient(np, w)
        b = momentum * b + (1 - momentum) * g
        ahead = momentum * b + (1 - momentum) * g if nesterov else b
        w = w - rate(t) * (scale * by_svd(ahead) + decay * w)
        yield w


@pytest.mark.parametrize(
    ("ours", "formula"),
    [
        ({}, {}),
        ({"momentum": 0.5, "nesterov": False}, {"momentum": 0.5, "nesterov": False}),
        ({"scaling": "rms", "weight_decay": 0.3, "mask": None}, {"scaling": "rms", "decay": 0.3}),
    ],
)
def test_equals_the_formula(ours, formula):
    def decaying(step):
        return 0.004 / (1 + 0.1 * step)

    expected = np.stack(list(stepped(decaying, **formula)))
    assert relative_error(trajectory(muon(decaying, **ours), MATRIX), expected) < 1e-5


def test_the_scale_has_the_sides_of_a_kernel_and_of_a_weight():
    wide = DRAW.normal(size=(2, 8))
    for name, shape in (("kernel", (2, 8)), ("weight", (8, 2))):
        gradient = jnp.asarray(wide.reshape(shape), jnp.float32)
        optimizer = for_leaf(muon(1.0), name)
        moved, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        # 2 inputs and 8 outputs: the root of 4.
        np.testing.assert_allclose(moved, -2 * by_svd(gradient), atol=1e-3)


PARAMS = {
    "conv_0": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "dense_0": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
    "embed": {"embedding": jnp.ones((9, 4))},
    "head": {"kernel": jnp.ones((4, 2))},
    "scale": jnp.ones(()),
}


def taken(matrices, params=PARAMS):
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    pairs = zip(names, input_axes(matrices, params), strict=True)
    return {name: axes for name, axes in pairs if axes is not None}


def test_hidden_matrices_are_taken():
    assert taken({}) == {"dense_0/kernel": 1}
    assert taken({"conv_*": 3}) == {"conv_0/kernel": 3, "dense_0/kernel": 1}
    assert taken({"dense_0": None, "head": 1, "*/embedding": 1}) == {
        "head/kernel": 1, "embed/embedding": 1,
    }  # fmt: skip
    assert taken({}, {"layer": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}}) == {
        "layer/weight": -1
    }


def test_attention_of_flax_is_matrices_and_its_biases_are_none():
    x = jnp.ones((1, 3, 8))
    ours, theirs = layers.MultiHeadAttention(heads=2), nn.MultiHeadDotProductAttention(num_heads=2)
    for variables in (
        ours.init(jax.random.key(0), x, train=False), theirs.init(jax.random.key(0), x)
    ):  # fmt: skip
        params = variables["params"]
        params = {"block": jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)}
        # Flax's biases of queries, keys and values are (heads, d).
        assert params["block"]["query"]["kernel"].shape == (8, 2, 4)
        found = optimizers.hidden_matrices(params)
        assert found == {
            f"block/{each}/kernel": (8, 8) for each in ("key", "out", "query", "value")
        }
        # The name of a layer fits its bias, too.
        assert optimizers.hidden_matrices(params, {"block/query": 1}) == found
        del params["block"]["key"]
        assert not optimizers.hidden_matrices(params)
    top = params["block"] | {"key": params["block"]["query"]}
    assert len(optimizers.hidden_matrices(top)) == 4


def test_kernels_of_convolutions_with_the_names_of_attention_are_left():
    kernel = {"kernel": jnp.ones((3, 8, 8))}
    assert not optimizers.hidden_matrices(dict.fromkeys(("query", "key", "value", "out"), kernel))


@pytest.mark.parametrize("name", ["tok", "wte", "body/wpe", "token", "token_embedding", "body/pos"])
def test_tables_of_equinox_are_left_to_adam(name):
    table = {"weight": jnp.ones((7, 4))}
    for part in reversed(name.split("/")):
        table = {part: table}
    assert optimizers.hidden_matrices(table | {"hidden": {"weight": jnp.ones((6, 4))}}) == {
        "hidden/weight": (4, 6)
    }
    # A name that only begins alike is another.
    assert optimizers.hidden_matrices({"token_mixer": {"weight": jnp.ones((7, 4))}})


def test_attentions_step_is_that_of_its_flat_matrix():
    shapes = {"query": (6, 2, 4), "key": (6, 2, 4), "value": (6, 2, 4), "out": (2, 4, 6)}
    params = {
        name: {"kernel": jnp.asarray(DRAW.normal(size=shape), jnp.float32)}
        for name, shape in shapes.items()
    }
    optimizer = muon(1.0)
    moved, _ = optimizer.update(params, optimizer.init(params), params)
    for name, flat, scale in (("query", (6, 8), np.sqrt(8 / 6)), ("out", (8, 6), 1.0)):
        expected = -scale * by_svd(params[name]["kernel"].reshape(flat))
        np.testing.assert_allclose(moved[name]["kernel"].reshape(flat), expected, atol=1e-3)


def test_a_parameter_without_numbers_stays():
    params = {"kernel": jnp.ones((0, 3)), "other": jnp.ones((2, 2))}
    for matrices in (None, {"kernel": 1}):
        optimizer = muon(0.1, matrices=matrices)
        moved, _ = optimizer.update(params, optimizer.init(params), params)
        assert moved["kernel"].shape == (0, 3)


@pytest.mark.parametrize("coefficients", [3, (1.0, 2.0), None])
def test_refuses_other_coefficients(coefficients):
    with pytest.raises(ValueError, match=r"three numbers, a, b and c, got .*; leave them out"):
        muon(0.02, coefficients=coefficients)


@pytest.mark.parametrize(
    "make", [optimizers.lamb, functools.partial(muon, weight_decay=0.1)], ids=["lamb", "muon"]
)
def test_decay_without_parameters_is_refused(make):
    params = {"kernel": jnp.ones((2, 2))}
    optimizer = make(0.1)
    with pytest.raises(ValueError, match=r"needs the parameters: update\(grads, state, params\)"):
        optimizer.update(params, optimizer.init(params))


def test_a_kernel_of_four_axes_is_a_matrix_of_all_its_inputs():
    kernel = jnp.asarray(DRAW.normal(size=(3, 3, 2, 4)), jnp.float32)
    optimizer = for_leaf(muon(1.0, matrices={"kernel": 3}), "kernel")
    moved, _ = optimizer.update(kernel, optimizer.init(kernel), kernel)
    expected = by_svd(kernel.reshape(18, 4)).reshape(kernel.shape)
    np.testing.assert_allclose(moved, -expected, atol=1e-3)


def test_the_rest_takes_adams_step_at_its_own_rate():
    gradients = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), PARAMS
    )
    adam = optimizers.adam(0.25, epsilon_position="outside")
    expected, _ = adam.update(gradients, adam.init(PARAMS), PARAMS)
    for optimizer in (muon(0.25), muon(1.0, adam_rate=0.25)):
        moved, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
        for place in ("conv_0", "embed", "head", "scale"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                moved[place], expected[place],
            )  # fmt: skip
        assert isinstance(state[0], MuonState)
    with pytest.raises(ValueError, match="holds 2"):
        optimizers.current_learning_rate(state)
    assert optimizers.current_learning_rate(state[-1].matrices) == 1.0


def test_weights_decay_in_both_parts():
    optimizer = muon(0.5, weight_decay=0.2)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    moved, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(moved["dense_0"]["kernel"], -0.1)
    np.testing.assert_allclose(moved["head"]["kernel"], -0.1)
    assert not moved["dense_0"]["bias"].any()


def test_it_trains_inside_other_optimizers():
    model, x = models.MLP([8, 8, 1]), jnp.asarray(DRAW.normal(size=(20, 5)), jnp.float32)
    params = model.init(jax.random.key(0), x, train=False)["params"]
    inner = muon(0.02, matrices={"dense_2": None})
    optimizer = optimizers.freeze(optimizers.accumulate(inner, 2), "dense_0")

    def loss(params):
        return jnp.mean((model.apply({"params": params}, x, train=False) - x[:, :1]) ** 2)

    @jax.jit
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (after, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 100)
    assert loss(after) < 0.5 * loss(params)
    np.testing.assert_array_equal(after["dense_0"]["kernel"], params["dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("matrices", "params", "text"),
    [
        ({"conv_9": 3}, PARAMS, "'conv_9' fits none of conv_0/bias, conv_0/kernel"),
        ({"dense_0": 2}, PARAMS, r"'dense_0/kernel' with 2 axes, .* takes 2 .*; pass 1 to 1"),
        ({}, {"kernel": jnp.ones((2, 2), complex)}, "got a complex one, 'kernel'"),
    ],
)
def test_what_is_no_matrix_is_refused(matrices, params, text):
    with pytest.raises(ValueError, match=text):
        muon(0.1, matrices=matrices).init(params)


@pytest.mark.parametrize("matrices", [["conv_0"], {3: 1}, {"conv_0": 1.5}, {"conv_0": "1"}])
def test_refuses_other_patterns(matrices):
    with pytest.raises(TypeError, match="matrices"):
        muon(0.1, matrices=matrices)


def test_complex_parameters_that_are_no_matrices_are_pairs():
    params = {"kernel": jnp.ones((2, 2), jnp.complex64), "bias": jnp.ones(2, jnp.complex64)}
    optimizer = muon(0.5, matrices={"kernel": None})
    moved, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(moved["kernel"].real, -0.5, rtol=1e-6)
    assert not moved["bias"].imag.any()
