"""Blocks under remat, jit, scan and vmap have the rows that they have without."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.diagnostics import graph, histograms, propagation, summary
from jaxdl.jaxprs import equations

WIDTH, LAYERS = 6, 4
# Products of at most 6 terms over 9 layers and norms of 6 entries, in float32, summed in another
# order: (9 * (6 + 6) + 11) * 6e-8 = 7e-6, and 4 times that for cancellation.
ROUNDING = 3e-5


class Block(nn.Module):
    """Norm, then two layers, beside a shortcut."""

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Dense(WIDTH, name="up")(nn.LayerNorm(name="norm")(x)))
        return x + nn.Dense(WIDTH, name="down")(y)


class Net(nn.Module):
    """A stem, four blocks and a head."""

    kind: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, name="stem")(x)
        if self.kind == "scan":
            x, _ = nn.scan(
                lambda block, x, _: (block(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=LAYERS,
            )(Block(name="blocks"), x, None)
        else:
            lift = {"plain": lambda block: block, "remat": nn.remat, "jit": nn.jit}[self.kind]
            for layer in range(LAYERS):
                x = lift(Block)(name=f"blocks_{layer}")(x)
        return nn.Dense(1, name="head")(x)


@pytest.fixture(scope="module")
def plain():
    """The plain network's variables, a batch, and what each instrument says."""
    inputs = jax.random.normal(jax.random.key(2), (8, 5))
    batch = {"inputs": inputs, "targets": jax.random.normal(jax.random.key(3), (8, 1))}
    variables = Net("plain").init(jax.random.key(4), inputs)
    # Biases and scales that tell the layers apart.
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    leaves = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    variables = jax.tree.unflatten(structure, leaves)
    return variables, batch, measure(Net("plain"), variables, batch)


def measure(model: nn.Module, variables: Any, batch: Any) -> Any:
    return (
        propagation(model, variables, batch, loss=losses.mean_squared_error),
        histograms(
            model, variables, batch, bins=jnp.linspace(-3.0, 3.0, 7), loss=losses.mean_squared_error
        ),
        summary(model, batch["inputs"]),
        graph(model, batch["inputs"]),
    )


def stacked(variables: Any) -> Any:
    """The plain network's variables as those of the scanned one."""
    params = dict(variables["params"])
    blocks = [params.pop(f"blocks_{layer}") for layer in range(LAYERS)]
    params["blocks"] = jax.tree.map(lambda *each: jnp.stack(each), *blocks)
    return {"params": params}


@pytest.mark.parametrize("kind", ["remat", "jit"])
def test_remat_and_jit_change_nothing(plain, kind):
    variables, batch, (expected, counted, sizes, drawn) = plain
    found, histogram, summed, graphed = measure(Net(kind), variables, batch)
    # Their classes have names of their own, "CheckpointBlock"; those of their layers do not.
    assert found.names == expected.names
    assert found.kinds == expected.kinds
    chex.assert_trees_all_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
    chex.assert_trees_all_equal(histogram.activations.counts, counted.activations.counts)
    assert (summed, graphed) == (sizes, drawn)


def test_the_layers_of_a_scan_are_those_of_the_plain_network(plain):
    variables, batch, (expected, counted, sizes, drawn) = plain
    found, histogram, summed, graphed = measure(Net("scan"), stacked(variables), batch)
    rename = {f"blocks_{layer}": f"blocks[{layer}]" for layer in range(LAYERS)}

    def renamed(name: str) -> str:
        first, *rest = name.split("/")
        return "/".join([rename.get(first, first), *rest])

    assert found.names == tuple(map(renamed, expected.names))
    assert (found.kinds, found.shapes) == (expected.kinds, expected.shapes)
    # A scan's body does not know what its input was made with: that slope alone is not measured.
    chex.assert_trees_all_close(
        found.replace(names=expected.names), expected, rtol=ROUNDING, atol=ROUNDING
    )
    chex.assert_trees_all_equal(histogram.activations.counts, counted.activations.counts)
    assert summed.parameters == sizes.parameters
    assert summed.flops == sizes.flops
    assert summed.total_flops == sizes.total_flops
    assert [(renamed(a), renamed(b)) for a, b in drawn.edges] == list(graphed.edges)


def test_the_program_of_a_scanned_network_does_not_grow_with_its_layers():
    def operations(layers: int) -> int:
        class Deep(nn.Module):
            @nn.compact
            def __call__(self, x):
                x, _ = nn.scan(
                    lambda block, x, _: (block(x), None),
                    variable_axes={"params": 0},
                    split_rngs={"params": True},
                    length=layers,
                )(Block(name="blocks"), x, None)
                return x

        batch = {"inputs": jnp.ones((4, WIDTH)), "targets": jnp.ones((4, WIDTH))}
        variables = jax.eval_shape(Deep().init, jax.random.key(0), batch["inputs"])
        traced = jax.make_jaxpr(
            lambda variables: propagation(Deep(), variables, batch, loss=losses.mean_squared_error)
        )(variables)
        return len(list(equations(traced.jaxpr)))

    assert operations(24) == operations(3)


class Ensemble(nn.Module):
    """Three heads that nn.vmap runs at once, on the same inputs."""

    @nn.compact
    def __call__(self, x):
        heads = nn.vmap(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
            axis_size=3,
        )  # fmt: skip
        return nn.Dense(1, name="out")(heads(name="heads")(x).mean(0))


def test_the_members_of_a_vmap_have_a_row_each():
    inputs = jax.random.normal(jax.random.key(0), (8, WIDTH))
    batch = {"inputs": inputs, "targets": jnp.zeros((8, 1))}
    variables = Ensemble().init(jax.random.key(1), inputs)
    measured = propagation(Ensemble(), variables, batch, loss=losses.mean_squared_error)
    rows = dict(zip(measured.names, range(len(measured.names)), strict=True))
    for member in range(3):
        params = jax.tree.map(
            lambda leaf, member=member: leaf[member], variables["params"]["heads"]
        )
        normed = nn.LayerNorm().apply({"params": params["norm"]}, inputs)
        up = nn.Dense(WIDTH).apply({"params": params["up"]}, normed)
        row = rows[f"heads/up[{member}]"]
        assert measured.shapes[row] == (8, WIDTH)
        np.testing.assert_allclose(measured.stddev[row], jnp.std(up), rtol=ROUNDING)
        norm = jnp.linalg.norm(params["up"]["kernel"])
        np.testing.assert_allclose(measured.weight_norm[row], norm, rtol=ROUNDING)
    sizes = summary(Ensemble(), inputs)
    assert sum(sizes.parameters) == sizes.total_parameters


def test_a_vmap_over_examples_and_a_scan_over_time_have_one_row():
    class Examples(nn.Module):
        @nn.compact
        def __call__(self, x):
            each = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
            return each(3, name="dense")(x)

    inputs = jax.random.normal(jax.random.key(0), (8, 5))
    batch = {"inputs": inputs, "targets": jnp.zeros((8, 3))}
    variables = Examples().init(jax.random.key(1), inputs)
    measured = propagation(Examples(), variables, batch, loss=losses.mean_squared_error)
    assert (measured.names, measured.shapes) == (("dense",), ((8, 3),))

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1, name="out")(nn.RNN(nn.SimpleCell(4, name="cell"))(x)[:, -1])

    series = jax.random.normal(jax.random.key(0), (8, 7, 5))
    batch = {"inputs": series, "targets": jnp.zeros((8, 1))}
    variables = Recurrent().init(jax.random.key(1), series)
    measured = propagation(Recurrent(), variables, batch, loss=losses.mean_squared_error)
    params = variables["params"]["cell"]
    carry, hidden = jnp.zeros((8, 4)), []
    for time in range(7):
        hidden.append(carry @ params["h"]["kernel"])
        carry = nn.SimpleCell(4).apply({"params": params}, carry, series[:, time])[0]
    row = measured.names.index("cell/h")
    assert measured.shapes[row] == (7, 8, 4)
    np.testing.assert_allclose(measured.stddev[row], jnp.std(jnp.stack(hidden)), rtol=ROUNDING)
    sizes = summary(Recurrent(), series)
    assert sum(sizes.parameters) == sizes.total_parameters
