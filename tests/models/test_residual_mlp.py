"""The residual MLP: its equation at each place of the norm, its parts, what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import variables_of

from jaxdl.layers import BatchNorm, PReLU
from jaxdl.models import ResidualMLP
from jaxdl.training import fold

X = jax.random.normal(jax.random.key(0), (6, 3, 4))
NORM = functools.partial(nn.LayerNorm, epsilon=1e-5)


def by_hand(params, position, layers, branch_layers):
    """The equation in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * layer["scale"] + layer["bias"]

    x = dense(params["embed"], np.asarray(X, np.float64).reshape(6, -1))
    for index in range(layers):
        block = params[f"block_{index}"]
        y = norm(block["norm"], x) if position == "before" else x
        for layer in range(branch_layers - 1):
            y = np.maximum(dense(block[f"dense_{layer}"], y), 0)
        y = dense(block[f"dense_{branch_layers - 1}"], y)
        y = norm(block["norm"], y) if position == "inside" else y
        x = x + y
        x = norm(block["norm"], x) if position == "after" else x
    if position in ("before", "inside"):
        x = norm(params["norm"], x)
    return dense(params["head"], x)


@pytest.mark.parametrize("branch_layers", [2, 3])
@pytest.mark.parametrize("position", [None, "before", "after", "inside"])
def test_it_is_the_equation(position, branch_layers):
    norms = {} if position is None else {"norm": NORM, "norm_position": position}
    model = ResidualMLP(8, 3, hidden=7, outputs=5, branch_layers=branch_layers, **norms)
    variables = variables_of(model, X)
    outputs = jax.jit(functools.partial(model.apply, train=False))(variables, X)
    expected = by_hand(variables["params"], position, 3, branch_layers)
    # Sums of at most 12 terms in three blocks.
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", ["plain", "remat", "scan"])
def test_batch_norm_dropout_and_activations_with_parameters_fit_every_kind_of_block(blocks):
    model = ResidualMLP(
        8, 3, norm=BatchNorm, norm_position="inside", activation=PReLU(), dropout_rate=0.5,
        blocks=blocks,
    )  # fmt: skip
    variables = variables_of(model, X)
    block = variables["params"]["blocks" if blocks == "scan" else "block_0"]
    assert sorted(block) == ["activation_0", "dense_0", "dense_1", "norm"]
    assert "bias" in block["dense_0"]
    assert "bias" not in block["dense_1"]  # the norm would subtract it again
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    (one, moved), (other, _) = (
        apply(variables, X, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)
    )
    assert np.isfinite(one).all()
    assert not np.allclose(one, other)
    means = jax.tree.map(lambda new, old: jnp.any(new != old), moved, {
        "batch_stats": variables["batch_stats"]
    })  # fmt: skip
    assert all(jax.tree.leaves(means))


def test_folded_equals_unfolded():
    model = ResidualMLP(
        8, 3, norm=BatchNorm, norm_position="inside", residual_start="zero_scale"
    )  # fmt: skip
    variables = variables_of(model, X)
    head = variables["params"].pop("norm"), variables["batch_stats"].pop("norm")
    assert head  # the norm before the head follows a sum, and cannot be folded
    with pytest.raises(ValueError, match="norm"):
        fold(model, variables_of(model, X))


def test_equal_settings_make_equal_models():
    assert ResidualMLP(8) == ResidualMLP(features=8)
    assert hash(ResidualMLP(8)) == hash(ResidualMLP(features=8))


@pytest.mark.parametrize(
    ("error", "text", "settings"),
    [
        (ValueError, "ResidualMLP layers must be at least 1, got 0", {"layers": 0}),
        (ValueError, "branch_layers must be at least 2, got 1", {"branch_layers": 1}),
        (TypeError, "features must be a whole number, got 8.5", {"features": 8.5}),
        (ValueError, "norm_position must be one of before, after, inside", {"norm_position": "x"}),
        (ValueError, "blocks must be one of plain, remat, scan, got 'loop'", {"blocks": "loop"}),
        (ValueError, r"dropout_rate must lie in \[0, 1\), got 1", {"dropout_rate": 1}),
        (TypeError, "norm must be a factory of norms, or None, got 'batch'", {"norm": "batch"}),
    ],
)
def test_refuses_settings(error, text, settings):
    with pytest.raises(error, match=text):
        ResidualMLP(**settings)
