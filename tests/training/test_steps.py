"""The train step and the evaluation step against their formulas."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, metrics, models, optimizers, training
from jaxdl.calling import call_model, synchronized_norms
from jaxdl.layers import BatchNorm


def linear_problem(examples=32, features=5):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(examples, features)).astype(np.float32)
    targets = draw.normal(size=(examples, 1)).astype(np.float32)
    return {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}


def start(model, batch, optimizer, seed=0):
    return training.init_state(jax.random.key(seed), model, optimizer, batch["inputs"])


def test_equals_gradient_descent_written_out_in_float64():
    rate, steps = 0.05, 20
    model, optimizer, batch = models.MLP([1]), optimizers.sgd(rate), linear_problem()
    state = start(model, batch, optimizer)
    x, y = (np.asarray(batch[name], np.float64) for name in ("inputs", "targets"))
    w = np.asarray(state.params["dense_0"]["kernel"], np.float64)
    b = np.zeros(1)
    step = jax.jit(training.make_train_step(model, optimizer, losses.mean_squared_error))
    for _ in range(steps):
        error = x @ w + b - y
        state, measured = step(state, batch)
        # Each of the 20 steps rounds sums of 32 terms: 32 * 2^-24 is 2e-6.
        np.testing.assert_allclose(measured["loss"], np.mean(error**2), rtol=2e-6 * 20)
        w, b = w - rate * 2 * x.T @ error / len(x), b - rate * 2 * error.mean(0)
    np.testing.assert_allclose(state.params["dense_0"]["kernel"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.params["dense_0"]["bias"], b, rtol=1e-5, atol=1e-6)
    assert state.step == steps


def test_metrics_are_those_before_the_update():
    model, optimizer, batch = models.MLP([1]), optimizers.sgd(0.1), linear_problem()
    state = start(model, batch, optimizer)
    outputs = model.apply(state.variables, batch["inputs"], train=False)
    step = training.make_train_step(
        model, optimizer, losses.mean_squared_error, [metrics.squared_error]
    )
    _, measured = step(state, batch)
    assert set(measured) == {"loss", "squared_error"}
    np.testing.assert_allclose(
        measured["squared_error"], jnp.mean((outputs - batch["targets"]) ** 2), rtol=1e-6
    )


@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("dropout_rate", [0.0, 0.5])
def test_jit_equals_eager_and_traces_once(norm, dropout_rate):
    model = models.MLP([8, 1], norm=norm, dropout_rate=dropout_rate)
    optimizer, batch = optimizers.momentum(0.1), linear_problem()
    state = start(model, batch, optimizer)
    step = training.make_train_step(model, optimizer, losses.mean_squared_error)
    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(step, n=1))
    eager_state, compiled_state = state, state
    for _ in range(3):
        eager_state, eager = step(eager_state, batch)
        compiled_state, compiled = jitted(compiled_state, batch)
        np.testing.assert_allclose(eager["loss"], compiled["loss"], rtol=1e-5)
    chex.assert_trees_all_close(eager_state.params, compiled_state.params, rtol=1e-4, atol=1e-6)


def test_only_training_moves_the_running_statistics():
    model, optimizer, batch = (
        models.MLP([8, 1], norm=BatchNorm),
        optimizers.sgd(0.0),
        linear_problem(),
    )
    state = start(model, batch, optimizer)
    trained, _ = training.make_train_step(model, optimizer, losses.mean_squared_error)(state, batch)
    before, after = state.batch_stats["norm_0"], trained.batch_stats["norm_0"]
    pre_activations = batch["inputs"] @ state.params["dense_0"]["kernel"]
    np.testing.assert_allclose(
        after["mean"], 0.9 * before["mean"] + 0.1 * pre_activations.mean(0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(after["var"], 0.9 + 0.1 * pre_activations.var(0, ddof=1), rtol=1e-5)
    evaluate = training.make_eval_step(model, losses.mean_squared_error)
    first = evaluate(trained.variables, batch)
    chex.assert_trees_all_equal(first, evaluate(trained.variables, batch))


def test_dropout_is_a_function_of_key_and_step():
    model = models.MLP([256, 1], dropout_rate=0.5)
    optimizer, batch = optimizers.sgd(0.0), linear_problem()
    step = jax.jit(training.make_train_step(model, optimizer, losses.mean_squared_error))
    state = start(model, batch, optimizer)
    second, first_loss = step(state, batch)
    _, again = step(state, batch)
    _, next_loss = step(second, batch)
    assert first_loss["loss"] == again["loss"]
    assert first_loss["loss"] != next_loss["loss"]


def test_images_are_scaled_inside_the_step_and_floats_left_alone():
    images = jnp.arange(256, dtype=jnp.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    np.testing.assert_allclose(training.scale_images(images), expected, rtol=2**-23)
    for other in (jnp.ones(3), jnp.ones(3, jnp.int32), jnp.ones(3, jnp.bfloat16)):
        assert training.scale_images(other) is other


def test_an_epoch_equals_its_steps():
    model, optimizer, arrays = models.MLP([8, 1]), optimizers.adam(0.01), linear_problem()
    state = start(model, arrays, optimizer)
    step = training.make_train_step(model, optimizer, losses.mean_squared_error)
    order = jax.random.permutation(jax.random.key(1), 32).reshape(4, 8)
    expected, by_step = state, []
    for indices in order:
        batch = {name: array[indices] for name, array in arrays.items()}
        expected, measured = jax.jit(step)(expected, batch)
        by_step.append(measured["loss"])
    for unroll in (1, 3, 4):
        epoch = jax.jit(training.make_train_epoch(step, unroll=unroll))
        scanned, measured = epoch(state, arrays, order)
        chex.assert_trees_all_close(scanned.params, expected.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(measured["loss"], jnp.stack(by_step), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "metrics_given", "text"),
    [
        (lambda outputs, targets: jnp.mean(outputs), (), "one value per example"),
        (lambda outputs, targets: outputs, (), r"\(32,\), got \(32, 1\)"),
        (losses.mean_squared_error, [lambda o, t: jnp.zeros(3)], "lambda.* must give one value"),
        (
            losses.mean_squared_error,
            [functools.partial(metrics.top_k, k=1), functools.partial(metrics.top_k, k=5)],
            "different names",
        ),
        (losses.mean_squared_error, {"loss": metrics.accuracy}, 'named "loss"'),
    ],
)
def test_refuses(loss, metrics_given, text):
    model, optimizer, batch = models.MLP([1]), optimizers.sgd(0.1), linear_problem()
    with pytest.raises(ValueError, match=text):
        training.make_train_step(model, optimizer, loss, metrics_given)(
            start(model, batch, optimizer), batch
        )


class _Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(name="norm")(x, train=train)


_Jitted = nn.jit(_Normed, static_argnums=(2,))  # keeps its programs as long as the class lives


def test_norms_of_a_jitted_class_are_synchronized_by_the_steps_that_say_so():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return _Jitted(name="block")(x, train)

    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    variables = Net().init(jax.random.key(1), x[0], False)

    def means(axis_name):
        def one(part):
            with synchronized_norms(axis_name):
                _, moved = call_model(Net(), variables, part, train=True)
            return moved["batch_stats"]["block"]["norm"]["mean"]

        return jax.vmap(one, axis_name="devices")(x)

    for _ in range(2):
        alone, together = means(None), means("devices")
        np.testing.assert_allclose(alone, 0.1 * x.mean(1), atol=1e-6)
        np.testing.assert_allclose(together[0], 0.1 * x.mean((0, 1)), atol=1e-6)
        np.testing.assert_allclose(together[1], together[0], atol=1e-6)
