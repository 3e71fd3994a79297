"""A task: models as strangers write them, batches that are pytrees, examples with weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.calling import Mode
from jaxdl.training.evaluation import make_batch_sums, means
from jaxdl.training.task import as_batch

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = (X[:, :1] - 2 * X[:, 1:2]).astype(np.float32)
INPUTS = jnp.asarray(X)
SGD = optimizers.sgd(0.1)
# A mean of 12 float32 terms, and three steps of it.
RTOL = 1e-5


class Told(nn.Module):
    """Half of the inputs are dropped in training; `told` says which."""

    @nn.compact
    def hidden(self, x, deterministic):
        return nn.Dense(1)(nn.Dropout(0.5)(x, deterministic=deterministic))


class Training(Told):
    def __call__(self, x, *, training):
        return self.hidden(x, not training)


class IsTraining(Told):
    def __call__(self, x, is_training=False):
        return self.hidden(x, not is_training)


class Deterministic(Told):
    def __call__(self, x, deterministic=True):
        return self.hidden(x, deterministic)


class Averaging(Told):
    def __call__(self, x, *, use_running_average):
        return self.hidden(x, use_running_average)


class AField(Told):
    train: bool = False

    def __call__(self, x):
        return self.hidden(x, not self.train)


class AnyKeyword(nn.Module):
    @nn.compact
    def __call__(self, x, **keywords):
        return Training()(x, **keywords)


class Evaluating(Told):
    def __call__(self, x, evaluating=True):
        return self.hidden(x, evaluating)


class FieldAndKeywords(Told):
    """The mode is a field; the keywords are for something else."""

    train: bool = False

    def __call__(self, x, **unused):
        assert not unused
        return self.hidden(x, not self.train)


class OtherField(Told):
    """A field with the name of a mode that is no switch."""

    training: str = "on noise"

    def __call__(self, x, *, deterministic):
        return self.hidden(x, deterministic)


STRANGERS = [
    (Training(), None),
    (IsTraining(), None),
    (Deterministic(), None),
    (Averaging(), None),
    (AField(), None),
    (AnyKeyword(), "training"),
    (Evaluating(), Mode("evaluating", in_training=False)),
    (FieldAndKeywords(), None),
    (OtherField(), None),
    (models.MLP([1], dropout_rate=0.5), None),
]


@pytest.mark.parametrize(("model", "mode"), STRANGERS, ids=lambda each: type(each).__name__)
def test_a_model_is_told_of_training_by_its_own_keyword(key, model, mode):
    task = training.Task(model, losses.mean_squared_error, mode=mode)
    variables = task.init(key, INPUTS)
    kernel, bias = jax.tree.leaves(variables)[::-1]
    evaluated, _ = task.outputs(variables, INPUTS, train=False)
    np.testing.assert_allclose(evaluated, X @ kernel + bias, rtol=RTOL, atol=1e-6)
    if not isinstance(model, models.MLP):  # which has no hidden layer to drop here
        trained = [
            task.outputs(variables, INPUTS, train=True, key=jax.random.key(i))[0] for i in range(2)
        ]
        assert not np.allclose(*trained)


class Unreached(nn.Module):
    """It takes the mode and forgets it."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, train):
        if self.norm:
            return nn.Dense(1)(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=True)(x))


class Modeless(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=True)(x))


def fit(model, dataset=None, optimizer=SGD, **changes):
    dataset = dataset or data.Dataset("line", data.Arrays(X, Y), data.Arrays(X, Y), None)
    settings = {"epochs": 2, "batch_size": 5, "key": jax.random.key(0), "parallel": "jit"}
    if not isinstance(model, training.Task):
        settings["loss"] = losses.mean_squared_error
    return training.fit(model, dataset, optimizer, **(settings | changes))


@pytest.mark.parametrize("model", [Unreached(), Unreached(norm=True), Modeless()], ids=str)
def test_a_mode_that_reaches_nothing_is_refused(model):
    with pytest.raises(ValueError, match="training must reach the dropout or norm"):
        fit(model)


def test_a_model_that_is_meant_to_have_no_mode_trains():
    task = training.Task(Modeless(), losses.mean_squared_error, mode=False)
    assert np.isfinite(fit(task).history.train["loss"]).all()
    assert np.isfinite(fit(models.MLP([4, 1])).history.train["loss"]).all()


def test_a_task_and_its_parts_give_the_same_bits():
    task = training.Task(models.MLP([4, 1]), losses.mean_squared_error, [losses.huber])
    whole = fit(task)
    parts = fit(task.model, metrics=[losses.huber])
    np.testing.assert_array_equal(whole.history.steps["huber"], parts.history.steps["huber"])


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, left, right, train=False):
        hidden = nn.Dense(1, name="left")(left) + nn.Dense(1, name="right")(right)
        return {"sum": hidden, "twice": 2 * hidden}


def both(outputs, targets):
    return (losses.mean_squared_error(outputs["sum"], targets["sum"])
            + losses.mean_squared_error(outputs["twice"], targets["twice"]))  # fmt: skip


@pytest.mark.parametrize(
    "inputs", [(X, X[:, :2]), {"left": X, "right": X[:, :2]}], ids=["tuple", "dictionary"]
)
def test_inputs_and_targets_are_pytrees(inputs):
    arrays = data.Arrays(inputs, {"sum": Y, "twice": 2 * Y})
    dataset = data.Dataset("two", arrays, arrays, None)
    rate = optimizers.sgd(0.01)
    result = fit(training.Task(TwoInputs(), both), dataset, rate, epochs=100)
    assert result.history.validation["loss"][-1] < 0.05 * result.history.validation["loss"][0]


class Pair(nn.Module):
    """Its mode has a name of its own, and a place among the arguments."""

    @nn.compact
    def __call__(self, pair, evaluating=True):
        return nn.Dense(1)(pair[0]) + nn.Dense(1)(pair[1])


def test_a_pair_is_not_spread_over_the_mode(key):
    mode = Mode("evaluating", in_training=False)
    task = training.Task(Pair(), losses.mean_squared_error, mode=mode)
    pair = (INPUTS, INPUTS)
    assert task.outputs(task.init(key, pair), pair, train=True)[0].shape == (12, 1)


class Noisy(nn.Module):
    """Two streams of random numbers, a collection that counts calls, one for the last noise."""

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        last = self.variable("noise", "last", jnp.zeros, 2)
        if train:
            calls.value += 1
            last.value = jnp.stack([jax.random.normal(self.make_rng(name)) for name in "ab"])
        return nn.Dense(1)(x)


def test_random_streams_and_collections_have_any_name():
    collections = fit(Noisy()).state.collections
    assert collections["counters"]["calls"] == 6
    first, second = collections["noise"]["last"]
    assert first != second
    assert fit(Noisy(), key=jax.random.key(1)).state.collections["noise"]["last"][0] != first


class DrawsInEvaluation(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x) + jax.random.normal(self.make_rng("latent"), (len(x), 1))


def test_random_numbers_in_evaluation_need_a_seed():
    with pytest.raises(ValueError, match="no random numbers in evaluation"):
        fit(DrawsInEvaluation())
    task = training.Task(DrawsInEvaluation(), losses.mean_squared_error, evaluation_seed=0)
    assert np.isfinite(fit(task).history.validation["loss"]).all()


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("said", "mean", x.mean())
        return nn.Dense(1)(x)


def test_a_collection_that_grows_is_refused_and_can_be_left_out():
    with pytest.raises(ValueError, match="a collection must keep its structure"):
        fit(Sows())
    assert fit(training.Task(Sows(), losses.mean_squared_error, collections=())).state.step == 6


WEIGHTS = np.array([0, 1, 2, 3] * 3, np.float32)


def weighted(outputs, targets):
    return losses.mean_squared_error(outputs, targets), 1.0 + (targets[:, 0] > 0)


def expected_step(kernel, bias, weights):
    """One step of gradient descent on the weighted mean of squares, in float64."""
    x, y = X.astype(np.float64), Y.astype(np.float64)
    error = x @ kernel + bias - y
    share = (weights / weights.sum())[:, None]
    loss = float((share * error**2).sum())
    return loss, kernel - 0.1 * 2 * x.T @ (share * error), bias - 0.1 * 2 * (share * error).sum(0)


@pytest.mark.parametrize("of_batch", [None, WEIGHTS])
@pytest.mark.parametrize("loss", [losses.mean_squared_error, weighted])
def test_a_weighted_step_equals_its_formula(key, loss, of_batch):
    batch = {"inputs": INPUTS, "targets": jnp.asarray(Y)} | (
        {} if of_batch is None else {"weights": of_batch}
    )
    task = training.Task(models.MLP([1]), loss, {"same": loss})
    state = training.init_state(key, task, SGD, INPUTS)
    dense = {name: np.asarray(leaf, np.float64) for name, leaf in state.params["dense_0"].items()}
    weights = np.ones(12) if of_batch is None else of_batch.astype(np.float64)
    if loss is weighted:
        weights = weights * (1 + (Y[:, 0] > 0))
    value, kernel, bias = expected_step(dense["kernel"], dense["bias"], weights)
    after, measured = jax.jit(training.make_train_step(task, SGD))(state, batch)
    np.testing.assert_allclose(measured["loss"], value, rtol=RTOL)
    np.testing.assert_allclose(measured["same"], value, rtol=RTOL)
    np.testing.assert_allclose(after.params["dense_0"]["kernel"], kernel, rtol=RTOL, atol=1e-6)
    np.testing.assert_allclose(after.params["dense_0"]["bias"], bias, rtol=RTOL, atol=1e-6)
    # Evaluation in batches of 5: the sum of weights is that of the whole split.
    sums = make_batch_sums(training.make_eval_step(task), 5)(state.variables, data.Arrays(**batch))
    np.testing.assert_allclose(means(sums, 12)["loss"], value, rtol=RTOL)


def test_weights_are_summed_over_all_devices(key):
    """As `CrossEntropyLoss(weight=...)` divides by the weights of the batch, not of each share."""
    task = training.Task(models.MLP([1]), weighted)
    state = training.init_state(key, task, SGD, INPUTS)
    batch = {"inputs": INPUTS, "targets": jnp.asarray(Y), "weights": WEIGHTS}
    alone, loss = training.make_train_step(task, SGD)(state, batch)
    shares = jax.tree.map(lambda array: array.reshape(4, 3, *array.shape[1:]), batch)
    mapped = jax.vmap(
        training.make_train_step(task, SGD, axis_name="place"),
        axis_name="place", in_axes=(None, 0),
    )  # fmt: skip
    together, mean = mapped(state, shares)
    np.testing.assert_allclose(mean["loss"], jnp.full(4, loss["loss"]), rtol=RTOL)
    for whole, each in zip(
        jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True
    ):
        np.testing.assert_allclose(each[0], whole, rtol=RTOL, atol=1e-6)


def test_an_example_of_weight_zero_changes_neither_loss_nor_step(key):
    other = np.where(WEIGHTS[:, None] == 0, 1e3, Y).astype(np.float32)
    task = training.Task(models.MLP([1]), losses.mean_squared_error)
    state = training.init_state(key, task, SGD, INPUTS)
    step = training.make_train_step(task, SGD)
    one, two = (
        step(state, {"inputs": INPUTS, "targets": jnp.asarray(targets), "weights": WEIGHTS})
        for targets in (Y, other)
    )
    assert one[1]["loss"] == two[1]["loss"]
    jax.tree.map(np.testing.assert_array_equal, one[0].params, two[0].params)


def test_fit_trains_and_evaluates_with_weights():
    arrays = data.Arrays(X, Y, WEIGHTS)
    result = fit(models.MLP([1]), data.Dataset("weighted", arrays, arrays, arrays), epochs=1)
    outputs = result.state.params["dense_0"]
    error = X @ np.asarray(outputs["kernel"]) + np.asarray(outputs["bias"]) - Y
    expected = float((WEIGHTS * (error**2)[:, 0]).sum() / WEIGHTS.sum())
    np.testing.assert_allclose(result.evaluate("test")["loss"], expected, rtol=RTOL)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: training.Task(nn.Dense, losses.huber), TypeError, "model must be a module of F"),
        (lambda: training.Task(nn.Dense(1), losses.huber, mode="train"), ValueError, "mode must"),
        (lambda: training.Task(nn.Dense(1), losses.huber, {"loss": losses.huber}), ValueError,
         "must not be named"),
        (lambda: fit(models.MLP([1]), loss=None), TypeError, "a model needs a loss"),
        (lambda: fit(training.Task(models.MLP([1]), losses.huber), metrics=[metrics.accuracy]),
         ValueError, "a Task has its own"),
        (lambda: as_batch({"inputs": X}), TypeError, "a batch must be"),
        (lambda: as_batch(X), TypeError, "got ndarray"),
    ],
)  # fmt: skip
def test_refuses(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_splits_and_streams_keep_weights_and_trees():
    inputs = {"left": X, "right": X[:, :2]}
    arrays = data.Arrays(inputs, {"sum": Y, "twice": 2 * Y}, WEIGHTS)
    cut = data.split(data.Dataset("two", arrays, None, None), key=jax.random.key(0))
    assert sorted([*cut.train.weights, *cut.validation.weights, *cut.test.weights]) == sorted(
        WEIGHTS
    )
    task = training.Task(TwoInputs(), both)
    in_memory = fit(task, data.Dataset("two", arrays, None, None), optimizers.sgd(0.01))
    streamed = data.Dataset("two", training.Streamed(arrays), None, None)
    read = fit(task, streamed, optimizers.sgd(0.01))
    np.testing.assert_array_equal(read.history.steps["loss"], in_memory.history.steps["loss"])
