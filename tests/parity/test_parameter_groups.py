"""`by_layer` against PyTorch's parameter groups: rates of their own, and a frozen layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optimizers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS = 100
DRAW = np.random.default_rng(0)
INPUTS, TARGETS = DRAW.normal(size=(16, 5)), DRAW.normal(size=(16, 3))
START = {
    name: {"kernel": 0.5 * DRAW.normal(size=shape), "bias": 0.1 * DRAW.normal(size=shape[1])}
    for name, shape in {"embed": (5, 6), "body": (6, 7), "head": (7, 3)}.items()
}


def by_torch(make):
    """The parameters after each step, in float64."""
    params = {
        layer: {name: torch.tensor(value) for name, value in leaves.items()}
        for layer, leaves in START.items()
    }
    for layer in ("body", "head"):
        for leaf in params[layer].values():
            leaf.requires_grad_()
    optimizer = make(
        [
            {"params": list(params["body"].values()), "lr": 0.003},
            {"params": list(params["head"].values()), "lr": 0.03},
        ]
    )
    x, y = torch.tensor(INPUTS), torch.tensor(TARGETS)
    taken = []
    for _ in range(STEPS):
        h = x
        for layer in START:
            h = h @ params[layer]["kernel"] + params[layer]["bias"]
            h = torch.tanh(h) if layer != "head" else h
        optimizer.zero_grad()
        ((h - y) ** 2).mean().backward()
        optimizer.step()
        taken.append(
            {
                layer: {name: leaf.detach().numpy().copy() for name, leaf in leaves.items()}
                for layer, leaves in params.items()
            }
        )
    return taken


def by_us(make):
    optimizer = optimizers.by_layer({"body": make(0.003), "head": make(0.03), "embed": None})

    def loss(params):
        h = jnp.asarray(INPUTS)
        for layer in START:
            h = h @ params[layer]["kernel"] + params[layer]["bias"]
            h = jnp.tanh(h) if layer != "head" else h
        return jnp.mean((h - TARGETS) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = jax.tree.map(jnp.asarray, START)
    _, taken = jax.jit(
        lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS)
    )(start)
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), taken) for i in range(STEPS)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda rate: optimizers.momentum(rate, rate_position="outside"),
            lambda groups: torch.optim.SGD(groups, momentum=0.9),
        ),
        (
            lambda rate: optimizers.adam(rate, epsilon_position="outside"),
            lambda groups: torch.optim.Adam(groups),
        ),
        (
            lambda rate: optimizers.adamw(rate, weight_decay=0.1, mask=None),
            lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
        ),
    ],
    ids=["momentum", "adam", "adamw"],
)
def test_two_groups_and_a_frozen_layer_take_pytorchs_steps(ours, theirs):
    with jax.enable_x64(True):
        taken = by_us(ours)
    for mine, its in zip(taken, by_torch(theirs), strict=True):
        for layer in START:
            for name, value in its[layer].items():
                # float64 on both sides, with 1e-16 a step.
                np.testing.assert_allclose(mine[layer][name], value, rtol=1e-6, atol=1e-9)
    for name, value in START["embed"].items():
        np.testing.assert_array_equal(taken[-1]["embed"][name], value)
    assert np.abs(taken[-1]["head"]["kernel"] - START["head"]["kernel"]).max() > 0.1
