"""Multi-head attention: its equation, masks, norms of queries and keys, dropout, refusals."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import initializers
from jaxdl.layers import MultiHeadAttention

HEADS, WIDTH = 2, 4
X = jax.random.normal(jax.random.key(0), (3, 5, HEADS * WIDTH))
CONTEXT = jax.random.normal(jax.random.key(1), (3, 4, 6))
# Query 2 of the second sequence sees no key.
SEEN = np.random.default_rng(0).random((3, HEADS, 5, 4)) < 0.6
SEEN[1, :, 2] = False
ALL = np.ones_like(SEEN)


def init(model, *sequences):
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(2), *sequences)
    # No scale stays 1 and no bias 0.
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), variables
    )


def in_float64(params, x, context, seen, norm=None):
    """The equation of the docstring, one query of one head at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x, context = (np.asarray(each, np.float64) for each in (x, context))

    def project(name, values):
        y = np.einsum("bli,ihd->blhd", values, params[name]["kernel"]) + params[name]["bias"]
        if norm is None or name == "value":
            return y
        if norm is nn.LayerNorm:
            y = y - y.mean(-1, keepdims=True)
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
        own = params[f"{name}_norm"]
        return y * own["scale"] + own.get("bias", 0)

    queries, keys, values = project("query", x), project("key", context), project("value", context)
    heads = np.zeros(queries.shape)
    for b, q, h in np.ndindex(*queries.shape[:3]):
        visible = np.flatnonzero(seen[b, h, q])
        if visible.size:
            logits = keys[b, visible, h] @ queries[b, q, h] / np.sqrt(WIDTH)
            weights = np.exp(logits - logits.max())
            heads[b, q, h] = weights / weights.sum() @ values[b, visible, h]
    return np.einsum("bqhd,hdf->bqf", heads, params["out"]["kernel"]) + params["out"]["bias"]


@pytest.mark.parametrize("norm", [None, nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("seen", [None, SEEN])
def test_equals_the_equation(norm, seen):
    model = MultiHeadAttention(HEADS, normalize_qk=norm)
    variables = init(model, X, CONTEXT)
    outputs = jax.jit(functools.partial(model.apply, train=False))(variables, X, CONTEXT, mask=seen)
    expected = in_float64(variables["params"], X, CONTEXT, ALL if seen is None else seen, norm)
    # Sums of at most 8 terms of size 1, four after each other.
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_the_context_is_the_sequence_itself_unless_given():
    model = MultiHeadAttention(HEADS)
    variables = init(model, X)
    np.testing.assert_array_equal(
        model.apply(variables, X, train=False), model.apply(variables, X, X, train=False)
    )


def test_a_query_without_a_key_takes_zeros_and_has_finite_gradients():
    model = MultiHeadAttention(HEADS)
    variables = init(model, X, CONTEXT)

    @jax.jit
    def outputs_and_gradients(variables, x):
        def loss(variables, x):
            outputs = model.apply(variables, x, CONTEXT, mask=SEEN, train=False)
            return (outputs**2).sum(), outputs

        return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

    gradients, outputs = outputs_and_gradients(variables, X)
    np.testing.assert_array_equal(outputs[1, 2], variables["params"]["out"]["bias"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    # Which of no keys, or of one, needs no query.
    has_choice = (SEEN.sum(-1) > 1).any(1)
    np.testing.assert_array_equal((gradients[1] != 0).all(-1), has_choice)
    np.testing.assert_array_equal((gradients[1] != 0).any(-1), has_choice)


def test_normalised_queries_and_keys_do_not_change_with_the_size_of_their_kernels():
    model = MultiHeadAttention(HEADS, normalize_qk=functools.partial(nn.RMSNorm, epsilon=0.0))
    params = init(model, X)["params"]
    larger = params | {
        name: jax.tree.map(lambda leaf: 64 * leaf, params[name]) for name in ("query", "key")
    }
    apply = jax.jit(functools.partial(model.apply, train=False))
    # A power of 2 changes no digit.
    np.testing.assert_allclose(
        apply({"params": larger}, X), apply({"params": params}, X), rtol=0, atol=1e-6
    )
    plain = MultiHeadAttention(HEADS)
    assert jnp.abs(
        plain.apply({"params": larger}, X, train=False)
        - plain.apply({"params": params}, X, train=False)
    ).max() > 0.1  # fmt: skip


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_softmax_is_float32_and_the_outputs_have_their_own_dtype(dtype):
    model = MultiHeadAttention(HEADS)
    variables, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (init(model, X), X))
    mask = jnp.tri(5, dtype=bool)[None, None]
    program = jax.make_jaxpr(functools.partial(model.apply, mask=mask, train=False))(variables, x)
    exponentials = [line for line in str(program).splitlines() if " exp " in line]
    assert len(exponentials) == 1
    assert ":f32[3,2,5,5] = exp" in exponentials[0]
    assert program.out_avals[0].dtype == dtype


def test_dropout_takes_the_stated_share_of_the_weights():
    model = MultiHeadAttention(HEADS, dropout_rate=0.3)
    x = jax.random.normal(jax.random.key(0), (20, 50, 8))
    variables = init(model, x)
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply(variables, x, train=True)

    @functools.partial(jax.jit, static_argnames="train")
    def weights(train):
        return model.apply(
            variables,
            x,
            train=train,
            rngs={"dropout": jax.random.key(1)},
            capture_intermediates=True,
            mutable=["intermediates"],
        )[1]["intermediates"]["dropout"]["__call__"][0]

    kept, whole = weights(True), weights(False)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)
    # A binomial share of 100,000 has a standard deviation of 0.00145; five of them: 6e-7.
    assert float((kept == 0).mean()) == pytest.approx(0.3, abs=5 * 0.00145)
    np.testing.assert_allclose(kept, jnp.where(kept == 0, 0, whole / 0.7), rtol=1e-6)


def test_initializers_see_the_fan_in_of_each_layer():
    model = MultiHeadAttention(
        heads=4, kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    x, context = jnp.ones((1, 2, 64)), jnp.ones((1, 2, 400))
    params = model.init(jax.random.key(0), x, context, train=False)["params"]
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    assert shapes == {
        "query": (64, 4, 16),
        "key": (400, 4, 16),
        "value": (400, 4, 16),
        "out": (4, 16, 64),
    }
    for name, layer in params.items():
        bound = (400 if name in ("key", "value") else 64) ** -0.5
        for values in layer.values():
            # The largest of 64 uniform values lies below 0.7 with probability 0.7^64, 1e-10.
            assert 0.7 * bound < jnp.abs(values).max() <= bound


@pytest.mark.parametrize(
    ("error", "text", "settings"),
    [
        (ValueError, "heads must be at least 1, got 0", {"heads": 0}),
        (TypeError, "heads must be a whole number, got 2.0", {"heads": 2.0}),
        (ValueError, r"dropout_rate must lie in \[0, 1\), got 1.0", {"dropout_rate": 1.0}),
        (TypeError, "normalize_qk must be a factory of norms, or None, got True; pass e.g. nn.RMS",
         {"normalize_qk": True}),
        (TypeError, "a factory of norms, or None, got 'rms'", {"normalize_qk": "rms"}),
        (TypeError, "or None, got a LayerNorm; pass", {"normalize_qk": nn.LayerNorm()}),
    ],
)  # fmt: skip
def test_refuses_settings(error, text, settings):
    with pytest.raises(error, match=text):
        MultiHeadAttention(**{"heads": 2} | settings)


@pytest.mark.parametrize(
    ("error", "text", "arguments", "mask"),
    [
        (ValueError, "heads must divide the features, got 2 heads for 9 .* pass heads=1 or 3 or 9",
         (jnp.ones((3, 5, 9)),), None),
        (ValueError, r"inputs must have the axes .* got shape \(5, 8\); .* x\[None\]",
         (X[0],), None),
        (ValueError, r"context must have the axes", (X, CONTEXT[0]), None),
        (ValueError, "context must have the batch of the inputs, 3, got 2", (X, CONTEXT[:2]), None),
        (TypeError, "needs real inputs, got complex64", (X + 1j,), None),
        (TypeError, "mask must hold booleans, .* got float32", (X,), jnp.ones((1, 1, 5, 5))),
        (ValueError, r"\(batch, heads, queries, keys\), \(3, 2, 5, 5\), .* got \(5, 5\); .*"
         r"mask\[None, None\]", (X,), jnp.tri(5, dtype=bool)),
        (ValueError, r"\(3, 2, 5, 4\), .* got \(1, 1, 5, 5\)", (X, CONTEXT),
         jnp.ones((1, 1, 5, 5), bool)),
    ],
)  # fmt: skip
def test_refuses_inputs(error, text, arguments, mask):
    with pytest.raises(error, match=text):
        MultiHeadAttention(2).init(jax.random.key(0), *arguments, mask=mask, train=False)
