"""Starts and rates by width against the package mup."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from jaxdl import initializers, models, optimizers, training

torch = pytest.importorskip("torch")
mup = pytest.importorskip("mup")
pytestmark = pytest.mark.parity

INPUTS, OUTPUTS, BASE, DELTA, WIDE = 16, 10, 64, 128, 512
RATE, DECAY = 0.5, 0.25


def network(width):
    return torch.nn.Sequential(
        torch.nn.Linear(INPUTS, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, width),
        torch.nn.Tanh(),
        mup.MuReadout(width, OUTPUTS),
    )


def in_torch(width):
    torch.manual_seed(0)
    made = network(width)
    mup.set_base_shapes(made, network(BASE), delta=network(DELTA))
    for layer in (made[0], made[2]):
        mup.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))  # PyTorch's default
    return made


def in_jax(width):
    return models.MLP(
        [width, width, OUTPUTS],
        kernel_init=initializers.torch_kernel(),
        bias_init=initializers.torch_bias,
    )


NAMES = {
    "dense_0/kernel": "0.weight", "dense_1/kernel": "2.weight", "dense_2/kernel": "4.weight",
    "dense_0/bias": "0.bias", "dense_1/bias": "2.bias", "dense_2/bias": "4.bias",
}  # fmt: skip
X = jnp.ones((1, INPUTS))
FOUND = training.parametrization("maximal_update", in_jax(WIDE), in_jax(BASE), X)
FORWARD = {"dense_2/kernel": BASE / WIDE}
"""What MuReadout multiplies its inputs by."""


def sizes(params):
    return {
        keystr(path, simple=True, separator="/"): (float(jnp.sqrt(jnp.mean(leaf**2))), leaf.size)
        for path, leaf in tree_leaves_with_path(params)
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("kernel")])
def test_starts_have_the_sizes_of_mups(name):
    here, count = sizes(FOUND.init(jax.random.key(0), X)["params"])[name]
    there = dict(in_torch(WIDE).named_parameters())[NAMES[name]].detach()
    there = float((there**2).mean().sqrt()) * FORWARD.get(name, 1)
    # The root mean square of n uniform numbers varies by sqrt(1/5 / n); both do, and five of these.
    assert here == pytest.approx(there, rel=5 * math.sqrt(2 / 5 / count))


@pytest.mark.parametrize(
    ("rule", "theirs", "power"), [("sgd", mup.MuSGD, 2), ("adam", mup.MuAdam, 1)]
)
def test_rates_are_those_of_mups_groups(rule, theirs, power):
    made = in_torch(WIDE)
    groups = theirs(list(made.parameters()), lr=RATE).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for row in FOUND.parameters:
        parameter = dict(made.named_parameters())[NAMES[row.name]]
        folded = rates[id(parameter)] * FORWARD.get(row.name, 1) ** power
        assert RATE * getattr(row, rule) == pytest.approx(folded), row.name


def test_the_decay_of_a_step_is_that_of_mup():
    made = in_torch(WIDE)
    groups = mup.MuAdamW(list(made.parameters()), lr=RATE, weight_decay=DECAY).param_groups
    optimizer = FOUND.optimizer(optimizers.adamw, RATE, weight_decay=DECAY, mask=None)
    params = FOUND.init(jax.random.key(0), X)["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    shrinks = {group["lr"] * group["weight_decay"] for group in groups}
    assert shrinks == {RATE * DECAY}
    for path, update in tree_leaves_with_path(updates):
        (layer, leaf) = (part.key for part in path)
        assert jnp.allclose(update, -RATE * DECAY * params[layer][leaf], rtol=1e-6)
