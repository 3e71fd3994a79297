"""A whole run: its numbers, its history, what it refuses and what it leaves alone."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.compiling import loops_well
from jaxdl.layers import BatchNorm
from jaxdl.training.fit.batches import put_on_device
from jaxdl.training.fit.programs import compile_programs

EXAMPLES = 53


def dataset(examples=EXAMPLES, validation=20, dtype=np.uint8):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 4, 4, 1)).astype(dtype)
        return data.Arrays(images, draw.integers(0, 3, count).astype(np.int32))

    return data.Dataset(
        "noise",
        arrays(examples),
        arrays(validation) if validation else None,
        arrays(31),
        tuple("abc"),
    )


MODEL = models.MLP([16, 3], norm=functools.partial(BatchNorm), dropout_rate=0.2)
OPTIMIZER = optimizers.adam(0.01)


def fit(given=None, **changes):
    settings = {
        "loss": losses.cross_entropy,
        "metrics": [metrics.accuracy],
        "epochs": 3,
        "batch_size": 10,
        "key": jax.random.key(0),
    } | changes
    model = settings.pop("model", MODEL)
    optimizer = settings.pop("optimizer", OPTIMIZER)
    return training.fit(model, given or dataset(), optimizer, **settings)


def test_equals_its_steps_taken_one_by_one():
    noise, result = dataset(), fit()
    step = jax.jit(
        training.make_train_step(MODEL, OPTIMIZER, losses.cross_entropy, [metrics.accuracy])
    )
    state = training.init_state(jax.random.key(0), MODEL, OPTIMIZER, jnp.zeros((1, 4, 4, 1)))
    measured = []
    for epoch in range(3):
        order = training.epoch_order(state.key, epoch, EXAMPLES)
        for start in range(0, EXAMPLES, 10):
            indices = order[start : start + 10]
            batch = {"inputs": noise.train.inputs[indices], "targets": noise.train.targets[indices]}
            state, values = step(state, batch)
            measured.append(values["loss"])
    assert result.state.step == state.step == 18
    # 18 Adam steps whose sums round differently; Adam divides by gradients that are near zero.
    np.testing.assert_allclose(result.history.steps["loss"], measured, rtol=1e-4)
    chex.assert_trees_all_close(result.state.params, state.params, atol=1e-4)
    chex.assert_trees_all_close(result.state.batch_stats, state.batch_stats, rtol=1e-4, atol=1e-5)


def test_same_key_same_bits():
    first, again = fit(), fit()
    chex.assert_trees_all_equal(
        jax.tree.map(jax.random.key_data, first.state.key),
        jax.tree.map(jax.random.key_data, again.state.key),
    )
    chex.assert_trees_all_equal(first.state.params, again.state.params)
    chex.assert_trees_all_equal(first.state.opt_state, again.state.opt_state)
    chex.assert_trees_all_equal(dict(first.history.steps), dict(again.history.steps))
    other = fit(key=jax.random.key(1))
    assert (first.history.steps["loss"] != other.history.steps["loss"]).any()


def test_the_history_has_every_step_and_epoch():
    result = fit()
    history = result.history
    chex.assert_shape([history.steps["loss"], history.steps["accuracy"]], (3 * 6,))
    chex.assert_shape([history.train["loss"], history.validation["accuracy"]], (3,))
    chex.assert_shape(history.seconds, (3,))
    sizes = [10] * 5 + [3]
    np.testing.assert_allclose(
        history.train["loss"],
        [np.average(steps, weights=sizes) for steps in history.steps["loss"].reshape(3, 6)],
        rtol=1e-12,
    )
    assert result.evaluate("validation")["loss"] == history.validation["loss"][-1]


def test_the_last_batch_is_kept_or_dropped():
    assert fit().state.step == 3 * 6
    assert fit(drop_last=True).state.step == 3 * 5
    assert fit(batch_size=EXAMPLES).state.step == 3


def test_every_example_is_seen_once_an_epoch():
    ones = data.Arrays(np.eye(EXAMPLES, dtype=np.float32), np.zeros((EXAMPLES, 1), np.float32))
    given = data.Dataset("eye", ones, None, None)
    # Example i alone moves w_i, by the rate over the batch size each time that it is seen.
    result = fit(
        given,
        model=models.MLP([1], kernel_init=nn.initializers.ones),
        optimizer=optimizers.sgd(1e-3),
        loss=lambda outputs, targets: outputs[:, 0],
        metrics=(),
        epochs=1,
        drop_last=True,
    )
    moved = np.asarray(result.state.params["dense_0"]["kernel"])[:, 0]
    order = training.epoch_order(result.state.key, 0, EXAMPLES)
    np.testing.assert_allclose(moved[order[:50]], 1 - 1e-4, rtol=1e-6)
    np.testing.assert_array_equal(moved[order[50:]], 1.0)


def test_evaluation_is_exact_for_every_example():
    noise, result = dataset(), fit()
    outputs = MODEL.apply(
        result.state.variables, training.scale_images(jnp.asarray(noise.test.inputs)), train=False
    )
    right = np.asarray(outputs).argmax(-1) == noise.test.targets
    assert result.evaluate("test")["accuracy"] == right.mean()


def test_observers_see_each_epoch():
    seen = []
    result = fit(observers=[seen.append])
    assert [event.epoch for event in seen] == [1, 2, 3]
    assert [event.measured.train["loss"] for event in seen] == list(result.history.train["loss"])


def test_goes_on_from_a_state_and_leaves_it_as_it_was():
    whole = fit(epochs=4)
    half = fit(epochs=2)
    kept = jax.tree.map(np.asarray, half.state.params)
    rest = fit(epochs=2, state=half.state)
    chex.assert_trees_all_equal(rest.state.params, whole.state.params)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, half.state.params), kept)


def test_equal_settings_share_what_is_compiled():
    def programs(width):
        task = training.Task(models.MLP([width, 3]), losses.cross_entropy)
        return compile_programs(task, OPTIMIZER)

    assert programs(8) is programs(8)
    assert programs(8) is not programs(9)


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(x)).reshape(len(x), -1))


def test_a_convolution_is_not_scanned_on_a_cpu():
    batch = {"inputs": jnp.ones((2, 4, 4, 1)), "targets": jnp.zeros(2, jnp.int32)}

    def scanned(model):
        state = training.init_state(jax.random.key(0), model, OPTIMIZER, batch["inputs"])
        step = training.make_train_step(model, OPTIMIZER, losses.cross_entropy)
        return loops_well(jax.make_jaxpr(step)(state, batch))

    assert scanned(models.MLP([3]))
    assert scanned(Convolution()) == (jax.default_backend() != "cpu")
    result = fit(model=Convolution(), epochs=2)
    chex.assert_shape(result.history.steps["loss"], (12,))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 54}, "at most the 53 training examples, got 54"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 52}, "two values per feature"),  # the last batch has one example
        ({"loss": losses.mean_squared_error}, "shape"),
        ({"given": dataset(validation=0), "split": "validation"}, "no split 'validation'"),
    ],
)
def test_refuses(changes, text):
    split = changes.pop("split", None)
    with pytest.raises(ValueError, match=text):
        fit(**changes).evaluate(split)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_refuses_splits_that_do_not_fit(name):
    noise = dataset()
    for arrays, text in (
        (data.Arrays(np.ones((5, 4, 4, 1)), np.ones(4)), "5 inputs and 4 targets"),
        (data.Arrays(np.ones((0, 4, 4, 1)), np.ones(0)), "got none"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(dataclasses.replace(noise, **{name: arrays}))


def test_an_image_stays_uint8_on_the_device():
    held = put_on_device(dataset().train)
    assert held["inputs"].dtype == jnp.uint8
