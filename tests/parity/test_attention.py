"""Attention and transformer blocks against PyTorch's: values, and gradients of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations
from jaxdl.layers import MultiHeadAttention
from jaxdl.models import Transformer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

BATCH, LENGTH, FEATURES, HEADS, HIDDEN = 3, 5, 8, 2, 12
CAUSAL = np.tri(LENGTH, dtype=bool)
# No sequence is all padding: PyTorch's outputs are NaN there.
REAL = np.arange(LENGTH) < np.array([5, 3, 1])[:, None]
MASKS = {
    "all": (None, None),
    "causal": (CAUSAL, None),
    "padding": (None, REAL),
    "both": (CAUSAL, REAL),
}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def redraw(network):
    """Other parameters than PyTorch's own, whose biases are zeros and scales ones."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.tensor(0.5 * draw(number, *parameter.shape)))


def attention_params(state):
    """Our attention's parameters from the arrays of PyTorch's, or gradients from gradients."""
    width = FEATURES // HEADS
    packed = state.get("in_proj_weight")
    kernels = (
        [state[f"{name}_proj_weight"] for name in "qkv"] if packed is None else np.split(packed, 3)
    )
    params = {
        name: {"kernel": kernel.T.reshape(-1, HEADS, width), "bias": bias.reshape(HEADS, width)}
        for name, kernel, bias in zip(
            ("query", "key", "value"), kernels, np.split(state["in_proj_bias"], 3), strict=True
        )
    }
    kernel = state["out_proj.weight"].T.reshape(HEADS, width, FEATURES)
    return params | {"out": {"kernel": kernel, "bias": state["out_proj.bias"]}}


def block_params(state):
    def within(prefix):
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    params = {"attention": attention_params(within("self_attn."))}
    for ours, theirs in (("dense_0", "linear1."), ("dense_1", "linear2.")):
        layer = within(theirs)
        params[ours] = {"kernel": layer["weight"].T, "bias": layer["bias"]}
    for ours, theirs in (("norm_0", "norm1."), ("norm_1", "norm2.")):
        params[ours] = {"scale": state[theirs + "weight"], "bias": state[theirs + "bias"]}
    return params


def values(network):
    return {name: leaf.detach().numpy() for name, leaf in network.named_parameters()}


def slopes(network):
    return {name: leaf.grad.numpy() for name, leaf in network.named_parameters()}


def agree(ours, theirs):
    """To 1e-5 of the largest entry: the sums have up to 100 terms, each rounded to 6e-8."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        size = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(leaf / size, other / size, rtol=0, atol=1e-5, err_msg=str(path))


@pytest.mark.parametrize("kind", [*MASKS, "cross"])
def test_attention(kind):
    causal, real = MASKS.get(kind, (None, None))
    cross = {"kdim": 6, "vdim": 6} if kind == "cross" else {}
    network = torch.nn.MultiheadAttention(FEATURES, HEADS, batch_first=True, **cross)
    redraw(network)
    x, upstream = draw(100, BATCH, LENGTH, FEATURES), draw(101, BATCH, LENGTH, FEATURES)
    sequences = (x, draw(102, BATCH, 7, 6)) if cross else (x,)

    tensors = [torch.tensor(each, requires_grad=True) for each in sequences]
    theirs, _ = network(
        tensors[0],
        tensors[-1],
        tensors[-1],
        attn_mask=None if causal is None else torch.tensor(~causal),
        key_padding_mask=None if real is None else torch.tensor(~real),
    )
    theirs.backward(torch.tensor(upstream))

    mask = None if causal is None else causal[None, None]
    if real is not None:
        padding = real[:, None, None]
        mask = padding if mask is None else mask & padding
    model = MultiHeadAttention(HEADS)

    @jax.jit
    def run(params, sequences):
        outputs, back = jax.vjp(
            lambda p, s: model.apply({"params": p}, *s, mask=mask, train=False), params, sequences
        )
        return outputs, back(jnp.asarray(upstream))

    outputs, (parameters, inputs) = run(attention_params(values(network)), sequences)
    agree(outputs, theirs.detach().numpy())
    agree(list(inputs), [tensor.grad.numpy() for tensor in tensors])
    agree(parameters, attention_params(slopes(network)))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_encoder_layer(position, activation, kind):
    causal, real = MASKS[kind]
    network = torch.nn.TransformerEncoderLayer(
        FEATURES,
        HEADS,
        HIDDEN,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=position == "before",
    )
    redraw(network)
    last = torch.nn.LayerNorm(FEATURES)
    redraw(last)
    # What stands where there is padding counts nowhere; PyTorch puts something there.
    counts = np.ones((BATCH, LENGTH, 1)) if real is None else real[..., None]
    x = draw(100, BATCH, LENGTH, FEATURES)
    upstream = np.float32(draw(101, BATCH, LENGTH, FEATURES) * counts)

    tensor = torch.tensor(x, requires_grad=True)
    theirs = network(
        tensor,
        src_mask=None if causal is None else torch.tensor(~causal),
        src_key_padding_mask=None if real is None else torch.tensor(~real),
    )
    if position == "before":
        theirs = last(theirs)
    theirs.backward(torch.tensor(upstream))

    model = Transformer(
        None,
        features=FEATURES,
        layers=1,
        heads=HEADS,
        hidden=HIDDEN,
        causal=causal is not None,
        positions=None,
        norm_position=position,
        activation=getattr(activations, activation),
    )

    def params_from(read):
        params = {"block_0": block_params(read(network))}
        if position == "before":
            params["norm"] = {
                "scale" if name == "weight" else name: leaf for name, leaf in read(last).items()
            }
        return params

    @jax.jit
    def run(params, x):
        outputs, back = jax.vjp(
            lambda p, x: model.apply({"params": p}, x, real, train=False), params, x
        )
        return outputs, back(jnp.asarray(upstream))

    outputs, (parameters, inputs) = run(params_from(values), x)
    agree(outputs * counts, theirs.detach().numpy() * counts)
    agree(inputs, tensor.grad.numpy())
    agree(parameters, params_from(slopes))
