"""Starts that modern residual networks have on purpose are healthy; a dead branch is not."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxdl import losses, models
from jaxdl.diagnostics import advise, propagation
from jaxdl.diagnostics.signal.trunk import trunk

WIDTH, DEPTH = 32, 6
zeros = nn.initializers.zeros


class Residual(nn.Module):
    """Blocks norm, dense, ReLU, dense with a gate of one kind, then a norm and a head."""

    gate: str

    @nn.compact
    def __call__(self, x):
        stem = nn.Dense(WIDTH, name="stem")(x)
        x = stem
        if self.gate == "adaLN":
            condition = nn.silu(nn.Dense(WIDTH, name="condition")(stem))
        for layer in range(DEPTH):
            y = nn.LayerNorm(name=f"norm_{layer}")(x)
            if self.gate == "adaLN":
                modulation = nn.Dense(3 * WIDTH, kernel_init=zeros, name=f"modulation_{layer}")
                scale, shift, gate = jnp.split(modulation(condition), 3, -1)
                y = y * (1 + scale) + shift
            y = nn.relu(nn.Dense(WIDTH, name=f"up_{layer}")(y))
            if self.gate == "dead" and layer == 2:
                y = nn.relu(nn.Dense(WIDTH, bias_init=lambda *_: -100.0 * jnp.ones(WIDTH))(y))
            if self.gate == "cut" and layer == 2:
                y = jax.lax.stop_gradient(y)
            y = nn.Dense(WIDTH, name=f"down_{layer}")(y)
            if self.gate == "last norm":
                y = nn.LayerNorm(scale_init=zeros, name=f"last_{layer}")(y)
            elif self.gate == "LayerScale":
                y = y * self.param(f"gamma_{layer}", nn.initializers.constant(1e-6), (WIDTH,))
            elif self.gate == "adaLN":
                y = y * gate
            x = x + y
        head_init = zeros if self.gate == "head" else nn.initializers.lecun_normal()
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(3, kernel_init=head_init, name="head")(x)


def measure(model: nn.Module) -> Any:
    inputs = jax.random.normal(jax.random.key(0), (64, 16))
    batch = {"inputs": inputs, "targets": jnp.arange(64) % 3}
    variables = jax.jit(model.init)(jax.random.key(1), inputs)
    return propagation(model, variables, batch, loss=losses.cross_entropy)


@pytest.mark.parametrize("gate", ["none", "last norm", "LayerScale", "adaLN", "head"])
def test_a_gate_that_starts_closed_is_healthy(gate):
    assert advise(measure(Residual(gate))) == ()


@pytest.mark.parametrize(
    ("gate", "problem", "row", "words"),
    [
        ("dead", "cut off", "Dense_0", "every unit of Dense_0/activation is dead"),
        ("cut", "cut off", "up_2", "up_2/activation passes none back: look for a stop_gradient"),
    ],
)
def test_a_branch_that_is_dead_is_found_in_its_place(gate, problem, row, words):
    found = {each.problem: each for each in advise(measure(Residual(gate)))}
    assert found[problem].row == row
    assert words in found[problem].sentence


class Heads(nn.Module):
    """Two heads on one trunk."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(WIDTH, name="trunk")(x))
        small = nn.Dense(1, kernel_init=nn.initializers.normal(1e-8), name="value")(x)
        return jnp.concatenate([nn.Dense(3, name="policy")(x), small], -1)


def test_parallel_heads_are_not_compared_with_each_other():
    inputs = jax.random.normal(jax.random.key(0), (64, 16))
    batch = {"inputs": inputs, "targets": jnp.zeros((64, 4))}
    variables = Heads().init(jax.random.key(1), inputs)
    measured = propagation(Heads(), variables, batch, loss=losses.mean_squared_error)
    assert advise(measured) == ()


def test_a_dropout_is_no_way_around_the_layers_before_it():
    model = models.MLP([WIDTH] * 12 + [1], activation=jax.nn.sigmoid, dropout_rate=0.1)
    inputs = jax.random.normal(jax.random.key(0), (64, 16))
    batch = {"inputs": inputs, "targets": jnp.ones((64, 1))}
    variables = model.init(jax.random.key(1), inputs, train=False)
    measured = propagation(
        model, variables, batch, loss=losses.mean_squared_error, key=jax.random.key(2)
    )
    assert [(each.problem, each.row) for each in advise(measured)] == [
        ("vanishing gradient", "dense_0")
    ]


def test_a_linear_map_does_not_saturate_however_small():
    class Shrinks(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = 1e-3 * nn.Dense(WIDTH, name="first")(x)
            return nn.Dense(1, name="last")(1e-3 * jnp.tanh(1e4 * nn.Dense(WIDTH)(x)))

    measured = measure_regression(Shrinks())
    shares = dict(zip(measured.names, measured.saturated_fraction, strict=True))
    assert shares["first/activation"] == 0
    # A tanh stays one if it is made small.
    assert shares["Dense_0/activation"] > 0.5


def measure_regression(model: nn.Module) -> Any:
    inputs = jax.random.normal(jax.random.key(0), (64, 16))
    batch = {"inputs": inputs, "targets": jnp.zeros((64, 1))}
    return propagation(
        model, model.init(jax.random.key(1), inputs), batch, loss=losses.mean_squared_error
    )


@pytest.mark.parametrize(
    ("feeds", "expected"),
    [
        ([[-1], [0], [1]], [0, 1, 2]),  # a chain
        ([[-1], [-1], [0, 1], [2]], [2, 3]),  # two ways from one input
        ([[-1], [-2], [0, 1], [2]], [0, 1, 2, 3]),  # two inputs, a tower each
        ([[-1], [0], [0], [1, 2]], [0, 3]),  # two branches and their sum
        ([[-1], [0], [0]], [0, 1, 2]),  # two heads
        ([[-1], [0], [0, 1], [2], [2, 3], [4]], [0, 2, 4, 5]),  # two residual blocks
    ],
)
def test_the_trunk(feeds, expected):
    assert trunk(feeds, [True] * len(feeds)).tolist() == expected
