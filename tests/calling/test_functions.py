"""Rows of plain functions, whose parameters have any form: the names lead to them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl import losses
from jaxdl.diagnostics import propagation, summary

LOSS = losses.mean_squared_error
KEYS = jax.random.split(jax.random.key(0), 12)


def normal(number, *shape):
    return jax.random.normal(KEYS[number], shape) / 2


def measure(function, params, x, y):
    batch = {"inputs": x, "targets": y}
    measured = propagation(function, params, batch, loss=LOSS)
    found = summary(function, x, variables=params)
    assert sum(found.parameters) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.names == measured.names
    return measured


def row(measured, name):
    return measured.names.index(name)


def tapped(function, x, y, shape):
    """The gradient of the summed loss with respect to a value, by adding a zero to it."""
    return jax.grad(lambda tap: LOSS(function(tap, x), y).sum())(jnp.zeros(shape))


def test_a_flat_dictionary():
    params = {"w1": normal(0, 4, 5), "b1": normal(1, 5), "w2": normal(2, 5, 3), "b2": normal(3, 3)}

    def net(p, x, tap=0.0):
        h = jax.nn.relu(x @ p["w1"] + p["b1"] + tap)
        return h @ p["w2"] + p["b2"]

    x, y = normal(4, 8, 4), normal(5, 8, 3)
    measured = measure(net, params, x, y)
    assert measured.names == ("w1", "w1/activation", "w2")
    assert measured.kinds == ("linear", "activation", "linear")
    value = x @ params["w1"] + params["b1"]
    gradient = tapped(lambda tap, x: net(params, x, tap), x, y, value.shape)
    np.testing.assert_allclose(measured.stddev[0], value.std(), 1e-5)
    np.testing.assert_allclose(measured.gradient_stddev[0], gradient.std(), 1e-5)
    np.testing.assert_allclose(measured.weight_norm[0], jnp.linalg.norm(params["w1"]), 1e-6)


def test_pairs_in_a_list_under_checkpoint_and_jit():
    params = [(normal(n, 4, 4), normal(n + 3, 4)) for n in range(3)]

    @jax.jit
    def layer(p, x):
        w, b = p
        return jnp.tanh(x @ w + b)

    def net(params, x):
        for p in params:
            x = jax.checkpoint(layer)(p, x)
        return x

    x, y = normal(6, 8, 4), normal(7, 8, 4)
    measured = measure(net, params, x, y)
    assert measured.names == tuple(f"{n}{end}" for n in range(3) for end in ("", "/activation"))
    assert measured.feeds == ((-1,), (0,), (1,), (2,), (3,), (4,))


def stacked(params, x):
    def block(x, p):
        return x + jax.nn.gelu(x @ p["w"] + p["b"]) @ p["out"], None

    return lax.scan(jax.checkpoint(block), x, params["blocks"])[0] @ params["head"]


def test_scanned_layers_have_the_rows_of_the_layers_one_by_one():
    blocks = {"w": normal(0, 3, 4, 6), "b": normal(1, 3, 6), "out": normal(2, 3, 6, 4)}
    params = {"blocks": blocks, "head": normal(3, 4, 2)}
    plain = {"head": params["head"]} | {
        f"block{n}": {name: leaf[n] for name, leaf in blocks.items()} for n in range(3)
    }

    def unrolled(params, x):
        for n in range(3):
            p = params[f"block{n}"]
            x = x + jax.nn.gelu(x @ p["w"] + p["b"]) @ p["out"]
        return x @ params["head"]

    x, y = normal(4, 8, 4), normal(5, 8, 2)
    scanned, expected = measure(stacked, params, x, y), measure(unrolled, plain, x, y)
    names = [re.sub(r"blocks\[(\d)\]", r"block\1", name) for name in scanned.names]
    assert tuple(names) == expected.names
    assert scanned.feeds == expected.feeds
    for name in ("stddev", "gradient_stddev", "weight_norm", "weight_gradient_norm"):
        np.testing.assert_allclose(getattr(scanned, name), getattr(expected, name), 1e-5)


def test_channels_that_stand_first_are_the_units():
    params = {"conv": {"w": normal(0, 5, 2, 3, 3), "b": jnp.zeros((5, 1, 1))}, "out": normal(1, 5)}
    params["conv"]["w"] = params["conv"]["w"].at[1].set(0)  # a dead channel of five

    def net(p, x):
        h = lax.conv_general_dilated(
            x, p["conv"]["w"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        h = jax.nn.relu(h + p["conv"]["b"])
        return h.mean((2, 3)) @ p["out"][:, None]

    measured = measure(net, params, normal(2, 8, 2, 6, 6), normal(3, 8, 1))
    assert measured.kinds[0] == "convolution"
    np.testing.assert_allclose(measured.dead_fraction[row(measured, "conv")], 0.2)


def test_tokens_positions_norms_and_a_shared_table():
    params = {
        "table": normal(0, 11, 6),
        "positions": normal(1, 5, 6),
        "norm": {"scale": 1 + normal(2, 6)},
        "query": {"w": normal(3, 6, 6)}, "key": {"w": normal(4, 6, 6)},
    }  # fmt: skip

    def net(p, tokens):
        x = p["table"][tokens] + p["positions"]
        h = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p["norm"]["scale"]
        weights = jax.nn.softmax((h @ p["query"]["w"]) @ (h @ p["key"]["w"]).swapaxes(-1, -2))
        return (x + weights @ h) @ p["table"].T

    tokens = jax.random.randint(KEYS[5], (8, 5), 0, 11)
    measured = measure(net, params, tokens, normal(6, 8, 5, 11))
    wanted = ("table", "norm", "query", "key")
    assert [name for name in measured.names if name in wanted] == list(wanted)
    embedded = params["table"][tokens] + params["positions"]
    rms = jnp.sqrt(jnp.square(embedded).mean(-1, keepdims=True) + 1e-6)
    normed = embedded / rms * params["norm"]["scale"]
    np.testing.assert_allclose(measured.stddev[row(measured, "norm")], normed.std(), 1e-5)


def test_a_function_with_its_own_derivative_is_one_row():
    @jax.custom_vjp
    def layer(p, x):
        return jnp.tanh(x @ p["w"])

    layer.defvjp(
        lambda p, x: (layer(p, x), (p, x)),
        lambda kept, g: ({"w": kept[1].T @ g}, g @ kept[0]["w"].T),
    )
    params = {"a": {"w": normal(0, 4, 4)}, "b": {"w": normal(1, 4, 2)}}

    def net(p, x):
        return layer(p["a"], x) @ p["b"]["w"]

    x, y = normal(2, 8, 4), normal(3, 8, 2)
    measured = measure(net, params, x, y)
    assert measured.names == ("a", "b")
    np.testing.assert_allclose(measured.stddev[0], jnp.tanh(x @ params["a"]["w"]).std(), 1e-5)


def test_what_an_operation_with_its_own_derivative_hides_is_named():
    @jax.custom_vjp
    def network(p, x):
        return jnp.tanh(x @ p["a"]["w"]) @ p["b"]["w"]

    network.defvjp(
        lambda p, x: (network(p, x), (p, x)),
        lambda kept, g: (jax.tree.map(jnp.zeros_like, kept[0]), kept[1]),
    )
    params = {"a": {"w": normal(0, 4, 4)}, "b": {"w": normal(1, 4, 2)}}
    with pytest.warns(UserWarning, match="a, b run inside"):
        propagation(
            network, params, {"inputs": normal(2, 8, 4), "targets": normal(3, 8, 2)}, loss=LOSS
        )


def test_a_weight_that_is_computed_first_belongs_to_the_row_that_uses_it():
    params = {"a": normal(0, 5, 7), "b": 5 * normal(1, 7, 3)}

    def net(p, x):
        w = jax.tree.map(lambda v: v / jnp.linalg.norm(v), p)
        return jnp.tanh(x @ w["a"]) @ w["b"]

    measured = measure(net, params, normal(2, 8, 5), normal(3, 8, 3))
    assert measured.names == ("a", "a/activation", "b")
    norms = [jnp.linalg.norm(params[name]) for name in ("a", "b")]
    np.testing.assert_allclose(measured.weight_norm[np.array([0, 2])], norms, 1e-6)


@pytest.mark.parametrize("loop", ["fori_loop", "scan", "python"])
def test_weights_that_a_counter_picks_are_weights(loop):
    params = {"W": normal(0, 3, 5, 5), "out": normal(1, 5, 3)}

    def net(p, x):
        def step(h, i):
            return jnp.tanh(h @ p["W"][i])

        if loop == "fori_loop":
            x = lax.fori_loop(0, 3, lambda i, h: step(h, i), x)
        elif loop == "scan":
            x, _ = lax.scan(lambda h, i: (step(h, i), None), x, jnp.arange(3))
        else:
            for i in range(3):
                x = step(x, i)
        return x @ p["out"]

    measured = measure(net, params, normal(2, 8, 5), normal(3, 8, 3))
    assert measured.kinds[0] == "linear"
    assert all(shape[-2:] in ((8, 5), (8, 3)) for shape in measured.shapes)


def test_a_norm_before_a_product_has_a_row_of_its_own():
    params = {"g": 1 + normal(0, 5), "head": normal(1, 5, 3)}

    def net(p, x):
        return (x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True)) * p["g"]) @ p["head"]

    measured = measure(net, params, normal(2, 8, 5), normal(3, 8, 3))
    assert measured.names == ("g", "head")
    assert measured.shapes == ((8, 5), (8, 3))


def test_units_are_the_axes_of_the_kernel():
    kernel = normal(0, 4, 5).at[0].set(0)  # one of four units is dead
    x, y = normal(1, 8, 5), jnp.zeros((8, 4))
    example = jax.vmap(lambda p, x: jnp.tanh(p["w"] @ x), (None, 0))
    for net, w in ((example, kernel), (lambda p, x: jnp.tanh(x @ p["w"]), kernel.T)):
        measured = propagation(net, {"w": w}, {"inputs": x, "targets": y}, loss=LOSS)
        np.testing.assert_array_equal(measured.dead_fraction, 0.25)
    heads = normal(2, 5, 2, 4).at[:, 0].set(0)  # a head of two

    def net(p, x):
        return jnp.einsum("bd,dhk->bhk", x, p["w"]).sum(1)

    measured = propagation(net, {"w": heads}, {"inputs": x, "targets": y}, loss=LOSS)
    np.testing.assert_allclose(measured.dead_fraction[0], 0.5)


def test_one_array_is_parameters_enough():
    batch = {"inputs": normal(1, 8, 5), "targets": jnp.zeros((8, 3))}
    measured = propagation(lambda w, x: x @ w, normal(0, 5, 3), batch, loss=LOSS)
    assert measured.kinds == ("linear",)


def test_a_key_beside_a_query_is_an_input():
    def net(p, query, key, value):
        return jax.nn.softmax(query @ p["w"] @ key.swapaxes(1, 2)) @ value

    q = normal(0, 4, 6, 5)
    inputs = {"query": q, "key": q, "value": q}
    found = propagation(net, {"w": normal(1, 5, 5)}, {"inputs": inputs, "targets": q}, loss=LOSS)
    assert "attention" in found.kinds


def test_a_missing_key_is_said():
    def net(p, x, key):
        return (x @ p["w"]) * jax.random.bernoulli(key, 0.5, (8, 3))

    batch = {"inputs": normal(1, 8, 5), "targets": jnp.zeros((8, 3))}
    with pytest.raises(ValueError, match="needs a key, got key=None with train=True"):
        propagation(net, {"w": normal(0, 5, 3)}, batch, loss=LOSS)


def test_pairs_take_state_and_key_where_their_signature_has_them():
    class KeyLast:
        init = staticmethod(lambda key, x: {"w": jax.random.normal(key, (5, 3))})
        apply = staticmethod(lambda params, x, rng=None: x @ params["w"])

    class ArrayState:
        init = staticmethod(lambda key, x: ({"w": jax.random.normal(key, (5, 3))}, jnp.zeros(5)))
        apply = staticmethod(lambda params, state, x: (x @ params["w"], state + 1))

    batch = {"inputs": normal(1, 8, 5), "targets": jnp.zeros((8, 3))}
    for pair in (KeyLast(), ArrayState()):
        given = pair.init(jax.random.key(0), batch["inputs"])
        assert propagation(pair, given, batch, loss=LOSS).names == ("w",)
    with pytest.raises(TypeError, match=r"must be \(params, state\)"):
        propagation(ArrayState(), {"w": normal(0, 5, 3)}, batch, loss=LOSS)
