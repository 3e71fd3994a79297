"""Running statistics of blocks under remat, jit, scan and vmap."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import layers
from jaxdl.diagnostics import check_batch_norm
from jaxdl.training import recalibrate

WIDTH, LAYERS = 5, 3


class Block(nn.Module):
    norm: type = layers.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(WIDTH, name="dense")(x)
        if self.norm is nn.BatchNorm:
            return nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.relu(layers.BatchNorm(name="norm")(x, train=train))


class Net(nn.Module):
    kind: str
    norm: type = layers.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        if self.kind == "scan":
            x, _ = nn.scan(
                lambda block, x, _: (block(x, train), None),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=LAYERS,
            )(Block(self.norm, name="blocks"), x, None)
            return x
        lift = {
            "plain": lambda block: block,
            "remat": lambda block: nn.remat(block, static_argnums=(2,)),
            "jit": lambda block: nn.jit(block, static_argnums=(2,)),
        }[self.kind]
        for layer in range(LAYERS):
            x = lift(Block)(self.norm, name=f"blocks_{layer}")(x, train)
        return x


def plain_variables(inputs, norm):
    variables = Net("plain", norm).init(jax.random.key(0), inputs, False)
    keys = iter(jax.random.split(jax.random.key(1), 20))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape) ** 2, variables)


def stacked(variables):
    return {
        name: {
            "blocks": jax.tree.map(
                lambda *each: jnp.stack(each), *(tree[f"blocks_{n}"] for n in range(LAYERS))
            )
        }
        for name, tree in variables.items()
    }


@pytest.mark.parametrize("norm", [layers.BatchNorm, nn.BatchNorm])
@pytest.mark.parametrize("kind", ["remat", "jit", "scan"])
def test_exact_statistics_are_those_of_the_plain_network(kind, norm):
    inputs = jax.random.normal(jax.random.key(2), (40, WIDTH))
    batches = [inputs[:25], inputs[25:]]
    variables = plain_variables(inputs, norm)
    expected = recalibrate(Net("plain", norm), variables, batches)
    given = variables
    if kind == "scan":
        expected, given = stacked(expected), stacked(variables)
    found = recalibrate(Net(kind, norm), given, batches)
    # Three layers of products of 5 terms, and sums of 40, in float32 (6e-8).
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    first = inputs @ variables["params"]["blocks_0"]["dense"]["kernel"]
    first = first + variables["params"]["blocks_0"]["dense"]["bias"]
    mean = found["batch_stats"]["blocks"]["norm"]["mean"][0] if kind == "scan" else (
        found["batch_stats"]["blocks_0"]["norm"]["mean"]
    )  # fmt: skip
    np.testing.assert_allclose(mean, np.asarray(first, np.float64).mean(0), rtol=1e-5, atol=1e-6)


def test_a_norm_in_a_scan_over_time_has_the_statistics_of_all_times():
    class Reads(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            scan = nn.scan(
                lambda norm, carry, x: (carry, norm(x, train=train)),
                variable_broadcast="params",
                variable_carry="batch_stats",
                split_rngs={"params": False},
                in_axes=1,
                out_axes=1,
            )
            return scan(layers.BatchNorm(name="norm"), 0.0, x)[1]

    series = 2 + jax.random.normal(jax.random.key(0), (6, 7, WIDTH))
    # Flax cannot make variables inside a scan that carries them.
    alone = layers.BatchNorm().init(jax.random.key(1), series[:, 0], train=False)
    variables = {name: {"norm": tree} for name, tree in alone.items()}
    found = recalibrate(Reads(), variables, [series])["batch_stats"]["norm"]
    exact = np.asarray(series, np.float64)
    np.testing.assert_allclose(found["mean"], exact.mean((0, 1)), rtol=1e-5)
    unbiased = layers.BatchNorm().unbiased_variance
    np.testing.assert_allclose(found["var"], exact.var((0, 1), ddof=int(unbiased)), rtol=1e-5)


def test_statistics_of_scanned_blocks_are_checked():
    inputs = jax.random.normal(jax.random.key(2), (100, WIDTH))
    variables = stacked(plain_variables(inputs, layers.BatchNorm))
    exact = recalibrate(Net("scan"), variables, [inputs])
    assert check_batch_norm(Net("scan"), exact, inputs) == ()
    wrong = jax.tree.map(lambda leaf: leaf, exact)
    stats = wrong["batch_stats"]["blocks"]["norm"]
    stats["mean"] = stats["mean"].at[1].add(30.0)
    (advice,) = check_batch_norm(Net("scan"), wrong, inputs)
    assert advice.problem == "other data"
    assert advice.row == "blocks/norm"


@pytest.mark.parametrize("norm", [layers.BatchNorm, nn.BatchNorm])
def test_members_of_a_vmap_keep_statistics_of_their_own(norm):
    class Members(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.vmap(
                Block,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                in_axes=(None, None),
                axis_size=3,
            )(norm, name="members")(x, train)

    inputs = jax.random.normal(jax.random.key(2), (40, WIDTH))
    variables = Members().init(jax.random.key(0), inputs, False)
    found = recalibrate(Members(), variables, [inputs[:25], inputs[25:]])
    stats = found["batch_stats"]["members"]["norm"]
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["members"])
    hidden = np.asarray(inputs, np.float64) @ dense["dense"]["kernel"]
    unbiased = int(norm is layers.BatchNorm)
    # Products of 5 terms and sums of 40, in float32 (6e-8).
    np.testing.assert_allclose(stats["mean"], hidden.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], hidden.var(1, ddof=unbiased), rtol=1e-5)
