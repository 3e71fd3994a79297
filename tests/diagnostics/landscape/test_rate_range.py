"""The range test: where its suggestion stands, and that its runs are those of `fit`."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.diagnostics.landscape.rate_range import rate_range

# The package exports the function under the module's name.
module = importlib.import_module("jaxdl.diagnostics.landscape.rate_range")


def quadratic(eigenvalues, seed):
    """A least-squares problem whose Hessian has these eigenvalues, and the full batch's size."""
    draw = np.random.default_rng(seed)
    examples, features = 64, len(eigenvalues)
    basis = np.linalg.qr(draw.normal(size=(examples, features)))[0]
    rotation = np.linalg.qr(draw.normal(size=(features, features)))[0]
    # The loss is the mean of (x w - y)^2: its Hessian is 2/n x^T x.
    x = basis * np.sqrt(examples * np.array(eigenvalues) / 2) @ rotation
    return data.Arrays(
        x.astype(np.float32), (x @ draw.normal(size=(features, 1))).astype(np.float32)
    )


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, use_bias=False)(x)


ask_of_line = functools.partial(rate_range, loss=losses.mean_squared_error, batch_size=64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eigenvalues", [(4.0,), (4.0, 0.4), (50.0, 1.0, 0.02)])
def test_a_ramp_stays_below_the_bound_of_a_quadratic(eigenvalues, seed):
    low, high, rates = 1e-6, 10.0, 100
    suggested, _ = ask_of_line(
        Linear(), quadratic(eigenvalues, seed), optimizers.sgd, key=jax.random.key(seed)
    )
    bound = 2 / max(eigenvalues)
    # The top mode's part of the loss falls as exp(-2 lambda S), where the sum of the rates S is
    # eta times the steps in a factor of e; it is steepest at S = 1/(2 lambda). Slower modes are
    # steepest later. Two stand for the grid and the smoothing.
    steps_in_e = (rates - 1) / np.log(high / low)
    assert bound / (4 * steps_in_e) / 2 < suggested < bound


def test_runs_find_the_best_rate_of_a_quadratic():
    eigenvalues = (4.0, 0.004)
    suggested, curve = ask_of_line(
        Linear(), quadratic(eigenvalues, 0), optimizers.sgd, key=jax.random.key(0), method="runs"
    )
    # Up to 1/lambda_max both modes gain by a larger rate; at the bound the top one gains nothing.
    spacing = curve.rates[1] / curve.rates[0]
    assert 1 / 4.0 / spacing < suggested < 2 / 4.0


def digits(seed=0):
    return data.split(data.load("mnist_5k"), key=jax.random.key(seed))


classify = functools.partial(rate_range, loss=losses.cross_entropy, batch_size=50)


@pytest.mark.parametrize("optimizer", [optimizers.sgd, optimizers.adam])
def test_the_suggestion_beats_a_tenth_of_it_and_thirty_times_it(optimizer):
    model, dataset = models.MLP([32, 10]), digits()
    suggested, _ = classify(model, dataset, optimizer, key=jax.random.key(1))

    def final_loss(rate):
        result = training.fit(
            model, dataset, optimizer(rate), loss=losses.cross_entropy, epochs=3, batch_size=50,
            key=jax.random.key(2), progress=False,
        )  # fmt: skip
        return result.history.validation["loss"][-1]

    best = final_loss(suggested)
    assert best < 0.6
    assert best < 0.9 * final_loss(suggested / 10)
    assert best < 0.9 * final_loss(30 * suggested)


def small():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 6)).astype(np.float32)
    return data.Arrays(x, (np.tanh(x[:, :1]) + x[:, 1:2]).astype(np.float32))


SMALL = {"loss": losses.mean_squared_error, "batch_size": 16}


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_the_runs_are_those_of_fit(method):
    model, arrays, key = models.MLP([8, 1]), small(), jax.random.key(3)
    settings = {"low": 1e-4, "high": 30.0, "rates": 20, "steps": 1 if method == "ramp" else 12}
    _, curve = rate_range(
        model, arrays, optimizers.momentum, key=key, method=method, **settings, **SMALL
    )

    def fit(learning_rate, epochs):
        return training.fit(
            model, data.Dataset("small", arrays, None, None), optimizers.momentum(learning_rate),
            epochs=epochs, key=key, drop_last=True, progress=False, on_nonfinite="stop", **SMALL,
        ).history.steps["loss"]  # fmt: skip

    # Twelve steps in float32 in another order of summation; rates at which it does not diverge.
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    if method == "ramp":
        rates = jnp.asarray(curve.rates, jnp.float32)
        expected = fit(lambda step: rates[step], epochs=7)[1:]
        compare(curve.loss[:12], expected[:12])
    else:
        for place in (0, 5, 9):
            compare(curve.loss[place], fit(float(curve.rates[place]), epochs=4)[-3:].mean())
        compare(curve.start, fit(0.0, epochs=4)[-3:].mean())


class Products(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="last")(nn.relu(nn.Dense(8, name="first")(x)))


class Convolutions(nn.Module):
    """The same function, begun at the same weights: on a CPU its steps are taken one by one."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (1, 1), name="first")(x[:, None, None]))
        return nn.Conv(1, (1, 1), name="last")(x)[:, 0, 0]


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_step_by_step_and_one_at_a_time_are_the_same(method):
    settings = {"low": 1e-4, "rates": 20, "steps": 2 if method == "ramp" else 12, **SMALL}

    def ask(model, **changed):
        return rate_range(
            model, small(), optimizers.adam, key=jax.random.key(0), method=method,
            **settings, **changed,
        )  # fmt: skip

    together, alone = ask(Products(), chunk=6), ask(Products(), chunk=1)
    by_step = ask(Convolutions())
    stable = together.curve.rates < 0.1
    for other in (alone, by_step):
        assert other.suggested == together.suggested
        np.testing.assert_allclose(other.curve.loss[stable], together.curve.loss[stable], rtol=1e-4)
        np.testing.assert_allclose(other.curve.start, together.curve.start, rtol=1e-5)


def test_it_is_a_function_of_the_key_and_compiles_once():
    traces = []

    def loss(outputs, targets):
        traces.append(1)
        return losses.mean_squared_error(outputs, targets)

    ask = functools.partial(
        rate_range, models.MLP([8, 1]), small(), optimizers.sgd, loss=loss, batch_size=16
    )
    first = ask(key=jax.random.key(0))
    assert isinstance(first.suggested, float)
    traces.clear()
    again, other = ask(key=jax.random.key(0)), ask(key=jax.random.key(1), low=1e-5)
    assert not traces
    assert again.suggested == first.suggested
    np.testing.assert_array_equal(again.curve.loss, first.curve.loss)
    assert not np.array_equal(other.curve.start[1:], first.curve.start[1:])


class Everything(nn.Module):
    """A convolution, batch statistics and dropout."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(2, (3, 3))(x)
        x = jax.nn.relu(layers.BatchNorm()(x, train=train))
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_convolutions_batch_statistics_and_dropout(method):
    train = data.load("digits").train
    arrays = data.Arrays(train.inputs.reshape(-1, 8, 8, 1)[:200], train.targets[:200])
    suggested, curve = rate_range(
        Everything(), arrays, functools.partial(optimizers.momentum, decay=0.5),
        loss=losses.cross_entropy, batch_size=20, key=jax.random.key(0), method=method, low=1e-5,
        high=1e3, rates=30, steps=1 if method == "ramp" else 8,
    )  # fmt: skip
    assert 1e-3 < suggested < 10
    assert not np.isnan(curve.loss).any()


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_divergence_is_infinite_and_leaves_the_suggestion_alone(method):
    ask = functools.partial(
        rate_range, models.MLP([8, 8, 1]), small(), optimizers.sgd, key=jax.random.key(0),
        method=method, low=1e-5, **SMALL,
    )  # fmt: skip
    suggested, curve = ask(high=1e20, rates=126, steps=2)
    assert np.isinf(curve.loss[-1])
    assert not np.isnan(curve.loss).any()
    assert np.isfinite(curve.change).all()
    assert 1e-3 < suggested < 1


def ascent(rate):
    return optax.scale(rate)


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_a_range_that_does_not_hold_the_rate_is_refused(method):
    ask = functools.partial(
        rate_range, models.MLP([8, 1]), small(), key=jax.random.key(0), method=method,
        steps=1 if method == "ramp" else 20, **SMALL,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must lower the loss, got none"):
        ask(ascent)
    with pytest.raises(ValueError, match="must lower the loss, got none"):
        ask(optimizers.sgd, low=1e3, high=1e6)
    with pytest.raises(ValueError, match="pass a greater high"):
        ask(optimizers.sgd, low=1e-7, high=1e-5)
    constant = {**SMALL, "loss": lambda outputs, targets: 0.0 * outputs[:, 0]}
    with pytest.raises(ValueError, match="must lower the loss, got none"):
        ask(optimizers.sgd, **constant)


def test_a_range_that_starts_too_high_is_refused():
    problem = quadratic((4.0, 0.004), 0)  # stable below 0.5, and best close to it
    with pytest.raises(ValueError, match="pass a smaller low"):
        ask_of_line(
            Linear(), problem, optimizers.sgd, key=jax.random.key(0), method="runs", low=0.45
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"low": 0.0}, "0 < low < high < inf"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high < inf"),
        ({"high": float("nan")}, "0 < low < high < inf"),
        ({"smoothing": 1.0}, "smoothing must lie in"),
        ({"rates": 19}, "rates must be at least 20, got 19"),
        ({"rates": 4, "method": "runs"}, "rates must be at least 5, got 4"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"batch_size": 51}, "from 1 to the 50 training examples, got 51"),
        ({"batch_size": 0}, "from 1 to the 50 training examples, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changed, message):
    settings = {**SMALL, "key": jax.random.key(0), **changed}
    with pytest.raises(ValueError, match=message):
        rate_range(models.MLP([1]), small(), optimizers.sgd, **settings)


def test_what_is_no_factory_is_refused():
    ask = functools.partial(rate_range, models.MLP([1]), small(), key=jax.random.key(0), **SMALL)
    for mistake in (optimizers.sgd(0.1), 0.1):
        with pytest.raises(TypeError, match="pass the factory"):
            module.made_by(mistake)
    with pytest.raises(ValueError, match="method must be 'ramp' or 'runs', got 'grid'"):
        module.check_settings("grid", 1e-6, 1.0, None, None, 0.5, 1)
    with pytest.raises(TypeError, match="must take a traced rate"):
        ask(lambda rate: optimizers.sgd(0.1 if rate > 0 else 0.0))
    with pytest.raises(ValueError, match="as many targets as inputs"):
        rate_range(
            models.MLP([1]), data.Arrays(small().inputs, small().targets[:9]), optimizers.sgd,
            key=jax.random.key(0), **SMALL,
        )  # fmt: skip
