"""In evaluation a model changes nothing, and one that would is told so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import ModifyScopeVariableError

from jaxdl import losses, training
from jaxdl.calling import call_model


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
