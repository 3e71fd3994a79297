"""What starts, corrects and trains models as strangers write them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from foreign.everyone import KEY, MODELS, oracle_of, rows_of, variables_of

from jaxdl import data, training
from jaxdl.calling import call_model
from jaxdl.diagnostics import check_batch_norm
from jaxdl.initializers import lsuv

# A kernel of 0 has no scale to correct: lsuv says so, and can draw it anew.
CLOSED = ("dit", "unet", "vit")
# The Fourier layer's complex weights are no kernel; OptimizedLSTMCell joins its kernels.
# In training these draw random numbers.
DRAW = ("vit", "vae", "efficientnet", "encoder and decoder", "keywords")
HAVE_NORMS = ("resnet", "efficientnet", "mode is a field", "ensemble")


def settings_of(name: str) -> dict:
    settings = {"mode": MODELS[name].settings.get("mode"), "tolerance": 0.05}
    return settings | ({"key": KEY} if name == "vae" else {})


@pytest.mark.parametrize("name", MODELS)
def test_lsuv_gives_every_layer_a_variance_of_one(name):
    foreign, variables = MODELS[name], variables_of(name)
    if name == CLOSED[0]:
        with pytest.raises(ValueError, match="its kernel is 0: pass orthogonal_key"):
            lsuv(foreign.model, variables, foreign.inputs, **settings_of(name))
    key = jax.random.key(0) if name in CLOSED else None
    scaled = lsuv(foreign.model, variables, foreign.inputs, orthogonal_key=key, **settings_of(name))
    assert jax.tree.structure(scaled) == jax.tree.structure(variables)
    found = oracle_of(name, train=False)(scaled).rows
    layers = {path: row for path, row in found.items() if has_kernel(variables["params"], path)}
    # In bfloat16 the kernel was rounded after its scale was found.
    allowed = 0.05 + (2**-7 if "bfloat16" in name else 1e-4)
    for path, row in layers.items():
        assert abs(row.values.var() - 1) <= allowed, path
    assert layers


def has_kernel(params, path: str) -> bool:
    """Whether the row is the first call of a module with a kernel."""
    *parts, last = re.sub(r"\[\d+\]", "", path).split("/")
    for part in (*parts, last):
        params = params.get(part, {})
    return "kernel" in params


@pytest.mark.parametrize("name", HAVE_NORMS)
def test_exact_statistics_are_those_of_the_batch(name):
    foreign, variables = MODELS[name], variables_of(name)
    exact = training.recalibrate(foreign.model, variables, [{"inputs": foreign.inputs}])
    _, moved = call_model(
        foreign.model, variables, foreign.inputs, train=True, dropout_key=jax.random.key(0)
    )
    # One step of Flax's average, new = m old + (1 - m) batch, solved for the batch.
    momentum = 0.9 if name == "resnet" else 0.99

    def of_batch(new, old):
        return (np.asarray(new, np.float64) - momentum * np.asarray(old)) / (1 - momentum)

    batch = jax.tree.map(of_batch, moved["batch_stats"], variables["batch_stats"])
    # Rounding of `new` (6e-8) grows by 1 / (1 - m); statistics are of the order of 1.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1.2e-7 / (1 - momentum)),
        exact["batch_stats"],
        batch,
    )
    assert check_batch_norm(foreign.model, exact, foreign.inputs) == ()
    found = {each.problem for each in check_batch_norm(foreign.model, variables, foreign.inputs)}
    assert "never moved" in found


@pytest.mark.parametrize("name", MODELS)
def test_two_steps_of_fit(name):
    foreign, variables = MODELS[name], variables_of(name)
    once = data.Arrays(*jax.tree.map(np.asarray, (foreign.inputs, foreign.targets)))
    optimizer = optax.sgd(1e-3)
    params = variables["params"]
    state = training.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params), key=jax.random.key(1),
    )  # fmt: skip
    result = training.fit(
        foreign.task, data.Dataset("foreign", train=once, validation=None, test=None), optimizer,
        epochs=2, batch_size=len(foreign.targets), key=KEY, state=state, parallel="jit",
        steps_per_call=1, progress=False,
    )  # fmt: skip
    assert result.state.step == 2
    assert jax.tree.structure(result.state.params) == jax.tree.structure(params)
    first, second = result.history.steps["loss"]
    if name not in DRAW:
        rounding = 2**-7 if "bfloat16" in name else 1e-5
        np.testing.assert_allclose(first, rows_of(name).loss, rtol=rounding)
        # A step of 1e-3 downhill, from a start that is no minimum.
        assert second < first
    assert np.isfinite(second)
