"""A train step of one's own, and a state of another optimizer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trained import (
    DRAW,
    GOAL,
    KEY,
    MODEL,
    SETTINGS,
    SPLITS,
)

from jaxdl import losses, optimizers, training


def test_a_train_step_of_ones_own_is_taken(tmp_path):
    """Its metrics stand in the history; signs of the gradient, stepped in NumPy, agree."""
    x = DRAW.normal(size=(40, 3)).astype(np.float32)
    y = x @ np.float32([[1.0], [-2.0], [0.5]])
    model = nn.Dense(1, use_bias=False)

    def sign_step(state, batch):
        def loss(params):
            return losses.mean_squared_error(
                model.apply({"params": params}, batch["inputs"]), batch["targets"]
            ).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        params = jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), state.params, gradient)
        return state.replace(params=params), {
            "loss": value, "norm": optax.tree.norm(gradient),
        }  # fmt: skip

    settings = {"epochs": 3, "batch_size": 40, "key": KEY, "loss": losses.mean_squared_error}
    start = training.init_state(KEY, model, optimizers.sgd(0.1), x)
    result = training.fit(
        model, (x, y), optimizers.sgd(0.1), **settings, train_step=sign_step,
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    weights = np.asarray(start.params["kernel"], np.float64)
    for _ in range(3):
        weights -= 0.01 * np.sign(x.T.astype(np.float64) @ (x @ weights - y))
    np.testing.assert_allclose(result.state.params["kernel"], weights, rtol=1e-6)
    assert result.history.steps["norm"].shape == (3,)
    assert int(result.state.step) == 3  # the step above does not count

    def refused(step, error, text, **more):
        with pytest.raises(error, match=text):
            training.fit(model, (x, y), optimizers.sgd(0.1), **settings, **more, train_step=step)

    refused(3, TypeError, "train_step must be a function")
    refused(sign_step, ValueError, "must run under jit, got parallel='pmap'", parallel="pmap")
    refused(lambda state, batch: (state, {}), ValueError, '"loss" among them')
    refused(lambda state, batch: (state.params, {}), TypeError, r"got a dict first")
    refused(lambda state, batch: state, TypeError, "a step that returns a TrainState")
    refused(lambda state: state, TypeError, "cannot be called so: too many positional")
    refused(
        lambda state, batch: (
            state.replace(params={"kernel": state.params["kernel"][:2]}), {"loss": jnp.zeros(())}
        ),
        ValueError, "a state like the one it is given, got another: params/kernel",
    )  # fmt: skip


def test_a_state_of_another_optimizer_is_named():
    adam = training.fit(MODEL, SPLITS, optimizers.adam(0.1), **GOAL, **SETTINGS)
    with pytest.raises(ValueError, match=r"state must be of this optimizer too.*init_state\("):
        training.fit(MODEL, SPLITS, optimizers.sgd(0.1), **GOAL, **SETTINGS, state=adam.state)
    with pytest.raises(TypeError, match=r"decay must be a number in \[0, 1\).*chain optimizers"):
        optimizers.ema(optimizers.adam(0.1))
