"""How a model is called: its mode, what moves, and the axes that are mapped."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ModifyScopeVariableError

from jaxdl import losses, training
from jaxdl.calling import Mode, call_model, in_mode, mode_of


class AlwaysTraining(nn.Module):
    """Its norm moves in every mode, for it has no argument that says which one it is."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False, momentum=0.5)(nn.Dense(1)(x))


@pytest.fixture
def case(key):
    inputs = jnp.arange(8.0).reshape(4, 2)
    return AlwaysTraining(), AlwaysTraining().init(key, inputs), inputs


def test_a_model_that_moves_in_evaluation_is_refused(case):
    model, variables, inputs = case
    with pytest.raises(ModifyScopeVariableError):
        call_model(model, variables, inputs, train=False)
    evaluate = training.make_eval_step(model, losses.mean_squared_error)
    with pytest.raises(ModifyScopeVariableError):
        evaluate(variables, {"inputs": inputs, "targets": jnp.zeros((4, 1))})


@pytest.mark.parametrize(("train", "moving"), [(True, None), (False, True)])
def test_what_moved_is_returned_where_it_may_move(case, train, moving):
    model, variables, inputs = case
    _, updates = call_model(model, variables, inputs, train=train, moving=moving)
    hidden = inputs @ variables["params"]["Dense_0"]["kernel"]
    mean = jax.tree.leaves(updates["batch_stats"]["BatchNorm_0"]["mean"])[0]
    # Half of 0, the first mean, and half of the batch's.
    assert jnp.allclose(mean, hidden.mean(0) / 2, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 4
    deterministic: bool = False


class Configured(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.config.width)(x)
        return nn.Dropout(0.5, deterministic=self.config.deterministic)(x)


def test_a_mode_in_a_configuration():
    model, x = Configured(Config()), jnp.ones((2, 3))
    assert mode_of(model) == Mode("config.deterministic", in_training=False)
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    evaluated, _ = call_model(model, variables, x, train=False)
    trained, _ = call_model(model, variables, x, train=True, dropout_key=jax.random.key(0))
    assert (np.asarray(evaluated) != 0).all()
    assert (np.asarray(trained) == 0).any()
    assert in_mode(model, True)[0].config == Config()


def test_a_mode_that_a_field_sets_is_not_passed_again():
    x = jnp.ones((2, 3, 4))
    model = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False)
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    first, second = (
        call_model(model, variables, x, train=True, dropout_key=jax.random.key(n))[0]
        for n in (1, 2)
    )
    assert not np.allclose(first, second)
    evaluated = call_model(model, variables, x, train=False)[0]
    np.testing.assert_allclose(evaluated, model.clone(deterministic=True).apply(variables, x))


def test_a_norm_whose_axis_nothing_maps_over_takes_the_batch():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    model = nn.BatchNorm(axis_name="batch", momentum=0.5)
    variables = nn.BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    outputs, moved = call_model(model, variables, x, train=True)
    np.testing.assert_allclose(np.asarray(outputs).mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], x.mean(0) / 2, rtol=1e-5)
    mapped = jax.vmap(
        lambda part: call_model(model, variables, part, train=True)[0], axis_name="batch"
    )
    np.testing.assert_allclose(mapped(x.reshape(2, 4, 3)).reshape(8, 3), outputs, 1e-4, 1e-5)
