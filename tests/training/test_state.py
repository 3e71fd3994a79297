"""The state of a run."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdl import losses, models, optimizers, training
from jaxdl.layers import BatchNorm
from jaxdl.training.state import check_parts

MODEL = models.MLP([4, 2], norm=BatchNorm)
INPUTS = jnp.ones((1, 3))


def test_holds_all_that_is_needed_to_go_on(key):
    state = training.init_state(key, MODEL, optimizers.adam(0.1), INPUTS)
    assert state.step == 0
    assert set(state.variables) == {"params", "batch_stats"}
    chex.assert_trees_all_equal_shapes(state.params, state.opt_state[0].mu)


def test_is_a_function_of_the_key(key):
    first = training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS)
    again = training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS)
    other = training.init_state(jax.random.key(1), MODEL, optimizers.sgd(0.1), INPUTS)
    chex.assert_trees_all_equal(first.params, again.params)
    assert not jnp.allclose(first.params["dense_0"]["kernel"], other.params["dense_0"]["kernel"])


def test_a_model_without_statistics_has_params_alone(key):
    state = training.init_state(key, models.MLP([2]), optimizers.sgd(0.1), INPUTS)
    assert set(state.variables) == {"params"}


def test_takes_a_model_that_does_not_name_train(key):
    state = training.init_state(key, nn.Dense(2), optimizers.sgd(0.1), INPUTS)
    chex.assert_shape(state.params["kernel"], (3, 2))


def test_dropout_keys_differ_by_step_and_from_the_order(key):
    state = training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS)
    keys = [state.replace(step=jnp.int32(step)).dropout_key() for step in range(100)]
    drawn = jnp.stack([jax.random.bits(k) for k in keys])
    assert len(set(drawn.tolist())) == 100


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(1)(x)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"key": 0}, "jax.random.key"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "old-style"),
        ({"key": jax.random.split(jax.random.key(0))}, "single key"),
        ({"model": nn.Dense}, "module of Flax Linen"),
        ({"optimizer": optimizers.sgd}, "call the factory"),
    ],
)
def test_refuses(key, change, text):
    given = {"key": key, "model": MODEL, "optimizer": optimizers.sgd(0.1)} | change
    with pytest.raises(TypeError, match=text):
        check_parts(**given)


def test_keeps_a_collection_of_any_name(key):
    state = training.init_state(key, Cached(), optimizers.sgd(0.1), INPUTS)
    assert state.collections == {"cache": {"seen": 0}}
    assert set(state.variables) == {"params", "cache"}


def test_starts_from_variables_made_elsewhere(key):
    optimizer = optax.chain(optimizers.sgd(0.1), optimizers.ema())
    given = training.init_state(jax.random.key(1), MODEL, optimizer, INPUTS).variables
    given["batch_stats"] = jax.tree.map(lambda leaf: leaf + 1, given["batch_stats"])
    state = training.init_state(key, MODEL, optimizer, INPUTS, variables=given)
    chex.assert_trees_all_equal(state.variables, given)
    # The optimizer starts from them too: an average of other parameters would be evaluated.
    chex.assert_trees_all_equal(state.evaluated, given)
    assert jnp.array_equal(
        jax.random.key_data(state.key),
        jax.random.key_data(training.init_state(key, MODEL, optimizer, INPUTS).key),
    )


def test_a_collection_that_is_not_given_starts_by_default(key):
    task = training.Task(MODEL, losses.mean_squared_error)
    given = training.init_state(jax.random.key(1), task, optimizers.sgd(0.1), INPUTS)
    state = training.init_state(
        key, task, optimizers.sgd(0.1), INPUTS, variables={"params": given.params}
    )
    chex.assert_trees_all_equal(state.variables, given.variables)


def test_numpys_arrays_become_jaxs(key):
    # Of 64 bits too, as a file may hold them: nothing warns, later or now.
    drawn = training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS)
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn.variables)
    for named in ({"variables": given}, {"params": given["params"]}):
        state = training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS, **named)
        chex.assert_trees_all_equal(state.variables, drawn.variables)
        chex.assert_trees_all_equal_dtypes(state.variables, drawn.variables)


def test_a_trained_module_of_nnx_is_variables(key):
    first, trained = (nnx.Linear(3, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    state = training.init_state(key, first, optimizers.sgd(0.1), INPUTS, variables=trained)
    chex.assert_trees_all_equal(state.params["kernel"], trained.kernel[...])


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"variables": {"params": {"w": INPUTS}}}, ValueError, r"params must fit the model"),
        (
            {"variables": {"cache": {}}},
            ValueError,
            r"'params'\], got \['cache'\]",
        ),
        ({"variables": {"params": {}}, "params": {}}, ValueError, r"got both"),
        ({"variables": [INPUTS]}, TypeError, r"a dictionary with 'params'"),
    ],
)
def test_refuses_variables_of_another_model(key, given, kind, text):
    with pytest.raises(kind, match=text):
        training.init_state(key, MODEL, optimizers.sgd(0.1), INPUTS, **given)
