"""A whole run as a pure function: the run of `fit`, which can be mapped and differentiated."""

import functools
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import STRICT_PYTHON, with_devices

from jaxdl import data, layers, losses, metrics, models, optimizers, training

EXAMPLES, BATCH, EPOCHS = 46, 10, 10  # five steps an epoch, the last of 6 examples


def dataset(dtype=np.float32, size=4):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.normal(size=(count, size, size, 1)).astype(dtype)
        return data.Arrays(images, (images.mean((1, 2, 3)) > 0).astype(np.int32))

    return data.Dataset("noise", arrays(EXAMPLES), arrays(7), None)


NORM = layers.BatchNorm
MODELS = {
    "MLP": models.MLP([8, 8, 2], norm=NORM, dropout_rate=0.2),
    "ConvNet": models.ConvNet([3], [6, 2], norm=NORM, dropout_rate=0.2),
}
SGD = optimizers.sgd(0.1)


def task_of(name):
    return training.Task(MODELS[name], losses.cross_entropy, [metrics.accuracy])


def in_float64(state):
    def cast(leaf):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.float64) if is_float else leaf

    return jax.tree.map(cast, state)


def three_ways(name, key, dtype):
    """The state and the measured values of `fit`, of the run called as it is, and of it jitted."""
    given, task = dataset(dtype), task_of(name)
    run = training.make_run(task, SGD, batch_size=BATCH)
    start = in_float64(run.init(key, given.train)) if dtype == np.float64 else None
    fitted = training.fit(
        task, given, SGD, epochs=EPOCHS, batch_size=BATCH, key=key, parallel="jit", state=start
    )
    orders = training.orders(key, EPOCHS, EXAMPLES)
    splits = {"train": given.train, "validation": given.validation}
    history = {
        "train": {n: v.reshape(EPOCHS, -1) for n, v in fitted.history.steps.items()},
        "validation": dict(fitted.history.validation),
    }
    compiled = jax.jit(run.__call__)(key, splits, jnp.asarray(orders), start)
    return [(fitted.state, history), run(key, given, orders, start), compiled]


def largest_difference(one, other):
    """Of all numbers of two states and histories. Keys are compared exactly."""
    np.testing.assert_array_equal(*(jax.random.key_data(each[0].key) for each in (one, other)))
    parts = [
        (s.params, s.batch_stats, s.opt_state, m["train"]["loss"], m["validation"])
        for s, m in (one, other)
    ]
    return max(
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        for a, b in zip(*map(jax.tree.leaves, parts), strict=True)
    )


def rounding_of_a_run(name, key):
    """How far 50 steps carry a change of the first parameters by one unit in the last place.

    Every step rounds about so much again, so two ways to compute the run may differ by 50 of it.
    """
    given, run = dataset(), training.make_run(task_of(name), SGD, batch_size=BATCH)
    orders, start = training.orders(key, EPOCHS, EXAMPLES), run.init(key, given.train)
    nudged = start.replace(params=jax.tree.map(lambda p: p * (1 + 2.0**-23), start.params))
    return largest_difference(run(key, given, orders, start), run(key, given, orders, nudged))


@pytest.mark.parametrize("name", MODELS)
def test_one_key_is_one_run(name):
    """50 steps with BatchNorm, dropout and a remainder batch, by three ways."""
    key = jax.random.key(3)
    with jax.enable_x64(True):
        fitted, *others = three_ways(name, key, np.float64)
        for other in others:
            assert largest_difference(fitted, other) < 1e-9
    fitted, *others = three_ways(name, key, np.float32)
    tolerance = EPOCHS * 5 * rounding_of_a_run(name, key)
    assert 0 < tolerance < 1e-2
    for other in others:
        assert largest_difference(fitted, other) < tolerance


def test_a_member_of_a_mapped_run_is_the_run_of_its_seed():
    seeds, given = [0, 5], dataset()
    splits = {"train": given.train}
    keys = [jax.random.key(seed) for seed in seeds]
    orders = np.stack([training.orders(key, EPOCHS, EXAMPLES) for key in keys])

    def member(key, rate, orders):
        run = training.make_run(task_of("MLP"), optimizers.sgd(rate), batch_size=BATCH)
        return run(key, splits, orders)

    rates = jnp.array([0.05, 0.1])
    mapped = jax.jit(jax.vmap(member))(jnp.stack(keys), rates, orders)
    for i, key in enumerate(keys):
        solo = member(key, rates[i], orders[i])
        # float32: the same sums in another order, 50 steps long; measured 2e-6.
        np.testing.assert_allclose(
            mapped[1]["train"]["loss"][i], solo[1]["train"]["loss"], atol=1e-4
        )


KEY = jax.random.key(0)
ORDERS = training.orders(KEY, EPOCHS, EXAMPLES)


def tanh_loss(rate):
    """The last loss of 50 smooth steps, as a function of the learning rate."""
    given = dataset(np.float64)
    task = training.Task(models.MLP([6, 2], activation=jnp.tanh), losses.cross_entropy)
    run = training.make_run(task, optimizers.sgd(rate), batch_size=BATCH)
    splits = {"train": given.train, "validation": given.validation}
    start = in_float64(run.init(KEY, given.train))
    return run(KEY, splits, ORDERS, start)[1]["validation"]["loss"][-1]


def test_a_run_is_differentiable_by_its_learning_rate():
    with jax.enable_x64(True):
        rate, step = jnp.float64(0.1), 1e-5
        value = jax.jit(tanh_loss)
        # Central differences: an error of step^2, here 1e-10, and of rounding 1e-16 / step.
        expected = (value(rate + step) - value(rate - step)) / (2 * step)
        _, forward = jax.jvp(tanh_loss, (rate,), (jnp.float64(1.0),))
        reverse = jax.grad(tanh_loss)(rate)
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(forward, expected, rtol=1e-7)
        np.testing.assert_allclose(reverse, expected, rtol=1e-7)


def test_a_run_goes_on_from_a_state():
    key, given = jax.random.key(1), dataset()
    run = training.make_run(task_of("MLP"), SGD, batch_size=BATCH)
    whole, measured = run(key, given, training.orders(key, 4, EXAMPLES))
    half, _ = run(key, given, training.orders(key, 2, EXAMPLES))
    rest, later = run(key, given, training.orders(key, 2, EXAMPLES, first=2), half)
    # Programs of other lengths may round differently; a step later that is some 1e-7.
    np.testing.assert_allclose(later["train"]["loss"], measured["train"]["loss"][2:], atol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (rest.params, whole.params)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_measures_after_each_epoch_and_drops_the_last_batch():
    def measure(state):
        return {"step": state.step, "norm": optax.tree.norm(state.params)}

    given, key = dataset(), jax.random.key(0)
    task = task_of("MLP")
    run = training.make_run(task, SGD, batch_size=BATCH, drop_last=True, measure=measure)
    state, measured = run(key, given, training.orders(key, 3, EXAMPLES))
    assert measured["measure"]["step"].tolist() == [4, 8, 12]
    assert measured["train"]["accuracy"].shape == (3, 4)
    np.testing.assert_allclose(
        measured["measure"]["norm"][-1], optax.tree.norm(state.params), rtol=1e-6
    )
    expected = run.evaluate(state, given.validation)
    np.testing.assert_allclose(measured["validation"]["loss"][-1], expected["loss"], rtol=1e-5)


def test_what_is_measured_may_depend_on_a_traced_setting():
    key, given = jax.random.key(0), dataset()
    orders = training.orders(key, 1, EXAMPLES)

    def norm(factor):
        run = training.make_run(
            task_of("MLP"), SGD, batch_size=BATCH,
            measure=lambda state: factor * optax.tree.norm(state.params),
        )  # fmt: skip
        return run(key, given, orders)[1]["measure"][-1]

    np.testing.assert_allclose(jax.grad(norm)(2.0), norm(1.0), rtol=1e-5)


def test_its_parts_make_the_run():
    key, given = jax.random.key(2), dataset()
    run = training.make_run(task_of("MLP"), SGD, batch_size=BATCH)
    state = run.init(key, given.train)
    arrays = jax.tree.map(jnp.asarray, given.train)
    for indices in np.split(training.orders(key, 1, EXAMPLES)[0], range(BATCH, EXAMPLES, BATCH)):
        state, _ = jax.jit(run.step)(state, jax.tree.map(lambda array, i=indices: array[i], arrays))
    whole, _ = run(key, given, training.orders(key, 1, EXAMPLES))
    for one, other in zip(*map(jax.tree.leaves, (state.params, whole.params)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # An epoch takes the arrays of the host as they are, also inside a program.
    order = jnp.asarray(training.orders(key, 1, EXAMPLES)[0])
    epoch, _ = jax.jit(lambda state: run.epoch(state, given.train, order))(
        run.init(key, given.train)
    )
    for one, other in zip(*map(jax.tree.leaves, (epoch.params, whole.params)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_equal_runs_are_compiled_once():
    traced = []

    def loss(outputs, targets):
        traced.append(outputs.shape)
        return losses.cross_entropy(outputs, targets)

    key, given = jax.random.key(0), dataset()
    orders = training.orders(key, 2, EXAMPLES)
    first, *others = (
        training.make_run(training.Task(MODELS["MLP"], loss), SGD, batch_size=BATCH)
        for _ in range(3)
    )
    first(key, given, orders)
    once = len(traced)
    for run in others:
        run(jax.random.key(1), given, orders)
    # The host looks once at a step, to see whether it may be looped; nothing else is traced again.
    assert len(traced) - once <= len(others)


def test_the_average_that_an_optimizer_holds_is_evaluated():
    averaging = optax.chain(optimizers.sgd(0.5), optimizers.ema(0.9))
    key, given = jax.random.key(0), dataset()
    task = training.Task(models.MLP([4, 2]), losses.cross_entropy)
    run = training.make_run(task, averaging, batch_size=BATCH)
    state, measured = run(key, given, training.orders(key, 2, EXAMPLES))
    average = optimizers.averaged_parameters(state.opt_state)
    inputs, targets = map(jnp.asarray, (given.validation.inputs, given.validation.targets))
    outputs, _ = task.outputs({"params": average}, inputs, train=False)
    expected = losses.cross_entropy(outputs, targets).mean()
    np.testing.assert_allclose(measured["validation"]["loss"][-1], expected, rtol=1e-5)
    fitted = training.fit(
        task, given, averaging, epochs=2, batch_size=BATCH, key=key, parallel="jit"
    )
    np.testing.assert_allclose(fitted.evaluate("validation")["loss"], expected, rtol=1e-4)


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_run import BATCH, EXAMPLES, SGD, dataset, task_of
from jaxdl import data, training
run = training.make_run(task_of("MLP"), SGD, batch_size=BATCH)
key, given = jax.random.key(0), dataset()
train = data.Arrays(given.train.inputs[:44], given.train.targets[:44])
orders = training.orders(key, 2, 44)
alone, _ = run(key, {"train": train}, orders)
mesh = Mesh(np.array(jax.devices()), ("batch",))
shared = jax.device_put(train, NamedSharding(mesh, PartitionSpec("batch")))
state, _ = jax.jit(run.__call__)(key, {"train": shared}, orders)
for one, other in zip(*map(jax.tree.leaves, (alone.params, state.params)), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
print(len(jax.devices()))
"""


def test_a_run_over_four_devices_is_the_run_of_one():
    folders = "sys.path[:0] = ['tests', 'tests/training']"
    done = subprocess.run(
        [*STRICT_PYTHON, "-c", f"import sys; {folders}\n{SHARDED}"],
        env=with_devices(4), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "4", done.stderr


def test_orders_are_permutations_of_key_and_epoch():
    key = jax.random.key(0)
    rows = training.orders(key, 4, 30)
    assert (np.sort(rows) == np.arange(30)).all()
    assert len({tuple(row) for row in rows}) == 4
    np.testing.assert_array_equal(training.orders(key, 2, 30, first=2), rows[2:])
    assert (training.orders(jax.random.key(1), 4, 30) != rows).any()


class Forgets(models.MLP):
    def __call__(self, x, *, train):
        return super().__call__(x, train=False)


def good(**changes):
    given = dataset()
    return {
        "task": task_of("MLP"), "optimizer": SGD, "batch_size": BATCH, "key": jax.random.key(0),
        "data": {"train": given.train, "validation": given.validation},
        "orders": np.tile(np.arange(EXAMPLES), (2, 1)),
    } | changes  # fmt: skip


def call(task, optimizer, batch_size, key, data, orders, start=None):
    return training.make_run(task, optimizer, batch_size=batch_size)(key, data, orders, start)


def state_of(optimizer, given):
    run = training.make_run(task_of("MLP"), optimizer, batch_size=BATCH)
    return run.init(KEY, given.train)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"orders": np.zeros((2, 5), np.int32)}, ValueError, "orders must be integers of shape"),
        ({"orders": np.arange(EXAMPLES)}, ValueError, "orders must be integers of shape"),
        ({"orders": np.ones((1, EXAMPLES))}, ValueError, "got float64"),
        ({"orders": np.full((1, EXAMPLES), EXAMPLES)}, ValueError, "indices from 0 to 45"),
        ({"key": 0}, TypeError, "key must be made by jax.random.key"),
        ({"data": {"validation": dataset().train}}, TypeError, "data must be"),
        ({"data": {"train": dataset().train, "test": dataset(size=5).train}}, ValueError,
         "the inputs of every split must be alike"),
        ({"data": {"train": {"inputs": np.ones((4, 2))}}}, TypeError,
         "the train split must be data.Arrays"),
        ({"data": {"train": data.Arrays(np.ones((4, 2)), np.ones(3))}}, ValueError,
         "the train split must have as many targets as inputs, got 4 inputs and 3 targets"),
        ({"batch_size": 47}, ValueError, "at most the 46 training examples"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"start": state_of(optimizers.adam(0.1), dataset())}, ValueError,
         r"start must be of this optimizer too: \['opt_state'\]"),
        ({"start": state_of(SGD, dataset(size=5))}, ValueError,
         r"start must fit the model and its inputs: \['params'\]\['dense_0'\]\['kernel'\]"),
        ({"data": {"train": data.Arrays(np.ones((EXAMPLES, 3)), np.arange(EXAMPLES))}}, ValueError,
         "labels must be in 0"),
        ({"task": training.Task(models.MLP([1]), losses.mean_squared_error),
          "data": {"train": data.Arrays(np.ones((EXAMPLES, 3)), np.ones(EXAMPLES))}},
         ValueError, "targets must have the shape of the outputs"),
        ({"optimizer": optimizers.sgd}, TypeError, "call the factory"),
        ({"task": MODELS["MLP"]}, TypeError, "task must be a training.Task"),
        ({"task": training.Task(Forgets([4, 2], dropout_rate=0.5), losses.cross_entropy)},
         ValueError, "training must reach"),
    ],
)  # fmt: skip
def test_refuses(changes, error, text):
    with pytest.raises(error, match=text):
        call(**good(**changes))


def test_orders_of_a_key_that_is_not_known_are_refused():
    with pytest.raises(TypeError, match="orders are made on the host"):
        jax.vmap(lambda key: training.orders(key, 2, 5))(jax.random.split(KEY))


def test_refuses_the_same_under_jit():
    given = good()
    wrong = functools.partial(call, given["task"], given["optimizer"], given["batch_size"])
    with pytest.raises(ValueError, match="orders must be integers"):
        jax.jit(wrong)(given["key"], given["data"], jnp.zeros((2, 5), jnp.int32))


def test_labels_that_the_loss_ignores_are_taken():
    loss = functools.partial(losses.cross_entropy, ignored=-100)
    task = training.Task(MODELS["MLP"], loss)
    given = dataset()
    labels = np.where(np.arange(EXAMPLES) % 3 == 0, -100, given.train.targets)
    train = data.Arrays(given.train.inputs, labels)
    measured = training.make_run(task, SGD, batch_size=BATCH)(KEY, {"train": train}, ORDERS)[1]
    assert np.isfinite(measured["train"]["loss"]).all()
    for other in (-1, 2):
        wrong = data.Arrays(given.train.inputs, np.where(labels == -100, other, labels))
        with pytest.raises(ValueError, match="labels must be in 0"):
            training.make_run(task, SGD, batch_size=BATCH)(KEY, {"train": wrong}, ORDERS)
