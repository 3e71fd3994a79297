"""Rows of attentions: logits, entropy and one key, in whoever's attention it is."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import losses, models
from jaxdl.diagnostics import advise, attention, propagation, summary

HEADS, WIDTH, LENGTH = 2, 8, 5
X = jax.random.normal(jax.random.key(0), (4, LENGTH, WIDTH))
BATCH = {"inputs": X, "targets": jnp.zeros_like(X)}
CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))


def loss(outputs, targets):
    return losses.mean_squared_error(outputs, targets)


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def expected(query, key, mask=None):
    """By name, each measure in float64; query and key are (batch, n, heads, d)."""
    query, key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    seen = np.broadcast_to(True if mask is None else mask, logits.shape)
    weights = softmax(np.where(seen, logits, -np.inf))
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
    keys = np.broadcast_to(seen.sum(-1), entropy.shape)
    several = keys > 1
    return {
        "largest_logit": np.abs(logits[seen]).max(),
        "entropy": entropy.mean(),
        "least_entropy": entropy[several].min(),
        "normalized_entropy": (entropy[several] / np.log(keys[several])).mean(),
        "on_one_key": (weights.max(-1) >= 0.99)[several].mean(),
    }


def assert_measures(found, row, wanted):
    """To a rounding of the logits, which the entropies take over."""
    rounding = np.finfo(np.float32).eps * max(wanted["largest_logit"], 1.0)
    for name, value in wanted.items():
        got = getattr(found, name)[row]
        if name == "on_one_key":  # a weight next to 0.99 may fall on either side
            np.testing.assert_allclose(got, value, atol=1 / (X.shape[0] * HEADS * LENGTH))
        else:
            np.testing.assert_allclose(got, value, 2e-5, 10 * rounding, err_msg=name)


def projections(layer, x=X):
    """Of Flax's parameters."""
    return (
        np.einsum("bti,ihd->bthd", x, layer[name]["kernel"]) + np.asarray(layer[name]["bias"])
        for name in ("query", "key")
    )


class Flax(nn.Module):
    dropout: float = 0.0
    masked: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, train=True):
        mask = jnp.asarray(CAUSAL)[None, None] if self.masked else None
        return nn.MultiHeadDotProductAttention(
            HEADS, dropout_rate=self.dropout, name="attend", deterministic=not train,
            kernel_init=nn.initializers.variance_scaling(self.scale, "fan_in", "normal"),
        )(x, mask=mask)  # fmt: skip


class Core(nn.Module):
    """Through `jax.nn.dot_product_attention`, which is one call."""

    @nn.compact
    def __call__(self, x):
        parts = [nn.DenseGeneral((HEADS, WIDTH // HEADS), name=n)(x) for n in ("query", "key", "v")]
        attended = jax.nn.dot_product_attention(*parts, is_causal=True)
        return nn.Dense(WIDTH, name="out")(attended.reshape(x.shape))


class ByHand(nn.Module):
    """A softmax written out, with a mask of -1e9."""

    @nn.compact
    def __call__(self, x):
        parts = [nn.DenseGeneral((HEADS, WIDTH // HEADS), name=n)(x) for n in ("query", "key", "v")]
        logits = jnp.einsum("bqhd,bkhd->bhqk", *parts[:2]) / (WIDTH // HEADS) ** 0.5
        raised = jnp.exp(jnp.where(CAUSAL, logits, -1e9))
        weights = raised / raised.sum(-1, keepdims=True)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, parts[2]).reshape(x.shape)


@pytest.mark.parametrize(
    ("model", "layer", "mask"),
    [
        (Flax(), "attend", None),
        (Flax(masked=True), "attend", CAUSAL),
        (Flax(dropout=0.3), "attend", None),
        (Flax(scale=400.0, masked=True), "attend", CAUSAL),
        (Core(), None, CAUSAL),
        (ByHand(), None, CAUSAL),
    ],
)
def test_measures_are_those_of_the_formula(model, layer, mask):
    variables = model.init(jax.random.key(1), X)
    measured = propagation(model, variables, BATCH, loss=loss, key=jax.random.key(2))
    name = "weights" if layer is None else f"{layer}/weights"
    row = measured.names.index(name)
    assert measured.kinds[row] == "attention"
    assert {measured.names[each].split("/")[-1] for each in measured.feeds[row]} == {"query", "key"}
    params = variables["params"] if layer is None else variables["params"][layer]
    wanted = expected(*projections(params), mask)
    assert_measures(measured, row, wanted)
    # The same of the forward pass alone.
    alone = attention(model, variables, {"inputs": X}, key=jax.random.key(2))
    assert alone.names == (measured.names[row],)
    assert alone.keys == (LENGTH,)
    assert_measures(alone, 0, wanted)
    others = [each for each in range(len(measured.names)) if each != row]
    assert np.isnan(measured.entropy[np.array(others)]).all()
    assert np.isnan(measured.dead_fraction[row])


@pytest.mark.parametrize("blocks", ["plain", "remat", "scan"])
def test_in_lifted_blocks(blocks):
    model = models.Transformer(
        11, features=WIDTH, layers=3, heads=HEADS, length=LENGTH, blocks=blocks
    )
    tokens = jax.random.randint(jax.random.key(0), (4, LENGTH), 0, 11)
    variables = model.init(jax.random.key(1), tokens, train=False)
    batch = {"inputs": tokens, "targets": jnp.zeros((4, LENGTH, 11))}
    measured = propagation(model, variables, batch, loss=loss)
    rows = [n for n, kind in enumerate(measured.kinds) if kind == "attention"]
    assert len(rows) == 3
    path = "blocks[{}]" if blocks == "scan" else "block_{}"
    assert [measured.names[row] for row in rows] == [
        f"{path.format(layer)}/attention/weights" for layer in range(3)
    ]
    # Each step is at most log of the keys it sees, on average log(1) ... log(5) over 5.
    assert (measured.entropy[np.array(rows)] <= np.log([1, 2, 3, 4, 5]).mean()).all()
    assert len(measured.attention_table().rows) == 3
    alone = attention(model, variables, {"inputs": tokens})
    assert alone.names == tuple(measured.names[row] for row in rows)
    for name in ("largest_logit", "entropy", "least_entropy", "normalized_entropy", "on_one_key"):
        ours = getattr(measured, name)[np.array(rows)]
        np.testing.assert_allclose(getattr(alone, name), ours, 1e-5, 1e-6)
    found = summary(model, tokens)
    assert sum(found.parameters) == found.total_parameters


class EquinoxAttention(eqx.Module):
    attend: eqx.nn.MultiheadAttention

    def __call__(self, x):
        return self.attend(x, x, x)


def test_of_other_libraries():
    layer = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.key(1), dropout_p=0.2)
    measured = propagation(
        EquinoxAttention(layer), None, BATCH, loss=loss, train=False, key=jax.random.key(0)
    )
    row = measured.kinds.index("attention")
    assert measured.names[row] == "attend/weights"
    query, key = (
        np.asarray(X @ part.weight.T).reshape(4, LENGTH, HEADS, -1)
        for part in (layer.query_proj, layer.key_proj)
    )
    wanted = expected(query, key)
    assert_measures(measured, row, wanted)
    alone = attention(
        EquinoxAttention(layer), None, {"inputs": X}, train=False, key=jax.random.key(0)
    )
    assert_measures(alone, 0, wanted)
    found = propagation(
        nnx.MultiHeadAttention(HEADS, WIDTH, rngs=nnx.Rngs(0), decode=False), None, BATCH, loss=loss
    )
    assert found.names[found.kinds.index("attention")] == "weights"


def test_a_router_and_a_classifier_are_no_attention():
    class Experts(nn.Module):
        @nn.compact
        def __call__(self, x):
            gates = jax.nn.softmax(nn.Dense(3, name="router")(x))
            outputs = jnp.stack([nn.Dense(WIDTH)(x) for _ in range(3)], -2)
            return jax.nn.softmax(jnp.einsum("bte,bted->btd", gates, outputs))

    variables = Experts().init(jax.random.key(0), X)
    measured = propagation(Experts(), variables, BATCH, loss=loss)
    assert "attention" not in measured.kinds
    assert len(measured.attention_table().rows) == 0
    with pytest.raises(ValueError, match=r"must have an attention, .* got Experts"):
        attention(Experts(), variables, {"inputs": X})


def test_advice_on_an_attention_that_looks_at_one_key():
    healthy, sick = Flax(), Flax(scale=3000.0)
    found = {}
    for model in (healthy, sick):
        variables = model.init(jax.random.key(1), X)
        found[model] = advise(propagation(model, variables, BATCH, loss=loss))
    assert not found[healthy]
    (advice,) = [each for each in found[sick] if each.problem == "one-hot attention"]
    assert advice.row == "attend/weights"
    assert advice.measured > 0.9
    assert "normalise queries and keys" in advice.sentence
    assert "he_normal" not in advice.sentence
