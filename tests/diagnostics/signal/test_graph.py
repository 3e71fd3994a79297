"""Who feeds whom in a model, drawn."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import diagnostics, models
from jaxdl.layers import BatchNorm


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class TwoHeads(nn.Module):
    """Two inputs that meet, and two outputs."""

    @nn.compact
    def __call__(self, left: Any, right: Any) -> Any:
        met = jnp.concatenate(
            [nn.relu(nn.Dense(4, name="left")(left)), nn.Dense(4, name="right")(right)], axis=1
        )
        return {"policy": nn.Dense(2, name="policy")(met), "value": nn.Dense(1, name="value")(met)}


def test_branches_meet_and_part() -> None:
    drawn = diagnostics.graph(TwoHeads(), {"left": floats(5, 3), "right": floats(5, 2)})
    assert set(drawn.edges) == {
        ("input/left", "left"),
        ("input/right", "right"),
        ("left", "right/activation"),
        ("right", "right/activation"),
        ("right/activation", "policy"),
        ("right/activation", "value"),
        ("policy", "output/policy"),
        ("value", "output/value"),
    }
    sizes = {node.name: (node.kind, node.shape, node.parameters) for node in drawn.nodes}
    assert sizes["left"] == ("Dense", (5, 4), 3 * 4 + 4)
    assert sizes["right/activation"] == ("activation", (5, 8), 0)
    assert sizes["output/value"] == ("output", (5, 1), 0)


def test_a_shortcut_is_an_edge_of_its_own() -> None:
    """Every edge, checked by what changes what: a value set to noise changes those it feeds."""
    model = models.ResNet(8, norm=BatchNorm)
    drawn = diagnostics.graph(model, floats(2, 32, 32, 3))
    assert ("norm_0/activation", "stage_0_block_0/conv_0") in drawn.edges
    assert ("norm_0/activation", "stage_0_block_0/norm_1/activation") in drawn.edges
    assert ("stage_0_block_0/norm_1", "stage_0_block_0/norm_1/activation") in drawn.edges
    assert ("norm_0/activation", "stage_1_block_0/conv_0") not in drawn.edges
    total = sum(node.parameters for node in drawn.nodes)
    assert total == diagnostics.summary(model, floats(2, 32, 32, 3)).total_parameters
    order = [node.name for node in drawn.nodes]
    assert all(order.index(source) < order.index(target) for source, target in drawn.edges)
    assert {target for _, target in drawn.edges} == set(order) - {"input"}


def test_a_shared_module_counts_its_parameters_once() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            shared = nn.Dense(3, name="shared")
            return shared(nn.relu(shared(x)))

    drawn = diagnostics.graph(Twice(), floats(2, 3))
    assert [node.parameters for node in drawn.nodes if node.kind == "Dense"] == [12, 0]
    assert ("shared/activation", "shared:2") in drawn.edges


def test_the_text_is_whole() -> None:
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(2, name='quo"te')(nn.Dense(2, name="back\\slash")(x))

    text = diagnostics.graph(Odd(), floats(2, 3)).dot()
    assert text.count("{") == text.count("}")
    assert '"quo\\"te"' in text
    assert '"back\\\\slash"' in text
    blocks = diagnostics.graph(models.ResNet(8), floats(1, 32, 32, 3)).dot()
    assert re.findall(r'subgraph "(\w+)"', blocks) == [
        f"cluster_stage_{stage}_block_0" for stage in range(3)
    ]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not installed")
def test_graphviz_draws_every_node() -> None:
    drawn = diagnostics.graph(models.ResNet(8, norm=BatchNorm), floats(1, 32, 32, 3))
    titles = {
        each.text
        for each in ElementTree.fromstring(drawn.svg()).iter("{http://www.w3.org/2000/svg}title")
    }
    assert {node.name for node in drawn.nodes} <= titles
    assert len([title for title in titles if title and "->" in title]) == len(drawn.edges)


def test_without_graphviz_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    drawn = diagnostics.graph(models.MLP([2]), floats(1, 3))
    with pytest.raises(RuntimeError, match="apt install graphviz"):
        drawn.svg()
    assert drawn._repr_svg_() is None


def test_a_run_writes_it_for_tensorboard(tmp_path: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from jaxdl import data, losses, observers, optimizers, training

    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    training.fit(
        models.MLP([4, 1]), data.Dataset("noise", data.Arrays(x, x[:, :1]), None, None, ()),
        optimizers.sgd(0.1), loss=losses.mean_squared_error, epochs=2, batch_size=10,
        key=jax.random.key(0), observers=[observers.tensorboard(tmp_path, pictures=False)],
    )  # fmt: skip
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    nodes = {node.name: node for node in found.Graph().node}
    assert list(nodes) == ["input", "dense_0", "dense_0/activation", "dense_1", "output"]
    assert list(nodes["dense_1"].input) == ["dense_0/activation"]
    assert nodes["dense_0"].op == "Dense"
    (shape,) = nodes["dense_0"].attr["_output_shapes"].list.shape
    assert [size.size for size in shape.dim] == [20, 4]
