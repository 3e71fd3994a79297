"""Sizes and changes of every row over widths: against plain steps, and what theory says of them."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import calling, layers, losses, models, optimizers, training
from jaxdl.diagnostics import CoordinateCheck, coordinate_check, propagation

WIDTHS = (32, 128, 512)
X = jax.random.normal(jax.random.key(1), (16, 6))
BATCH = {"inputs": X, "targets": jnp.sin(3 * X[:, :2])}


def mlp(width, **settings):
    return models.MLP([width, width, 2], **settings)


def with_adam(found):
    return found.optimizer(optimizers.adam, 0.01)


def with_sgd(found):
    return found.optimizer(optimizers.sgd, 0.1)


check = functools.partial(
    coordinate_check, batch=BATCH, loss=losses.mean_squared_error, optimizer=with_adam
)


def test_it_is_what_plain_steps_and_propagation_give():
    """One width and seed, stepped by hand."""
    key, steps = jax.random.key(3), 2
    found = check(mlp, (16, 64), steps=steps, seeds=2, key=key)
    task = training.Task(mlp(64), losses.mean_squared_error)
    by_width = training.parametrization("maximal_update", task, mlp(16), X)
    own = jax.random.split(key, 2)[1]
    start = by_width.init(own, X)
    state = training.init_state(own, task, with_adam(by_width), X[:1], variables=start)
    step = jax.jit(training.make_train_step(task, with_adam(by_width)))
    for number in range(steps + 1):
        rows = propagation(task, state.variables, BATCH)
        np.testing.assert_allclose(
            found.sizes[1, 1, number], np.sqrt(rows.second_moment), rtol=2e-5
        )
        outputs, first = (task.model.apply(v, X, train=False) for v in (state.variables, start))
        change = float(jnp.sqrt(jnp.mean((outputs - first) ** 2)))
        assert found.changes[1, 1, number, -1] == pytest.approx(change, rel=2e-5)
        state, measured = step(state, BATCH)
        if number < steps:
            assert found.loss[1, 1, number] == pytest.approx(float(measured["loss"]), rel=2e-5)
    assert found.names == rows.names


@pytest.mark.parametrize(
    ("kind", "optimizer", "row", "power"),
    [
        # Of the outputs: the sum over n units of updates that agree, 1/n under maximal update.
        ("standard", with_adam, "dense_2", 1.0),
        ("maximal_update", with_adam, "dense_2", 0.0),
        ("maximal_update", with_sgd, "dense_0", 0.0),
        # Of hidden layers under the neural tangent: n^(-1/2), the lazy regime.
        ("neural_tangent", with_sgd, "dense_0", -0.5),
        ("neural_tangent", with_sgd, "dense_1", -0.5),
        ("standard", with_sgd, "dense_0", -0.5),
    ],
)
def test_the_first_steps_change_grows_by_the_power_of_theory(kind, optimizer, row, power):
    found = check(mlp, WIDTHS, kind=kind, optimizer=optimizer, steps=1, seeds=6)
    slope = found.slopes()
    at = found.names.index(row)
    # 5 degrees of freedom: at 3 times the 95 % interval chance lies outside once in 3,000. Widths
    # of 32 are not infinite: a tenth beside.
    assert slope.mean[at] == pytest.approx(power, abs=3 * slope.half_width[at] + 0.1)
    assert slope.half_width[at] < 0.35


def test_the_start_of_the_outputs_shrinks_by_the_root_under_maximal_update():
    found = check(mlp, WIDTHS, steps=1, seeds=6)
    slope = found.slopes("sizes", 0)
    assert slope.mean[-1] == pytest.approx(-0.5, abs=3 * slope.half_width[-1])
    assert not found.changes[:, :, 0].any()


def drawn(width):
    """A module of Equinox, and how others of its kind are drawn."""

    def init(key):
        return eqx.nn.MLP(6, 2, width, 2, key=key)

    return calling.adapt(init(jax.random.key(0)), init=init)


def plain(width):
    def init(key, inputs):
        one, two = jax.random.split(key)
        return {
            "w": jax.random.normal(one, (width, 6)) / math.sqrt(6),
            "v": jax.random.normal(two, (2, width)) / math.sqrt(width),
        }

    return calling.adapt(lambda params, x: jnp.tanh(x @ params["w"].T) @ params["v"].T, init=init)


@pytest.mark.parametrize(
    "make",
    [drawn, plain, functools.partial(mlp, norm=layers.BatchNorm, dropout_rate=0.5)],
    ids=["equinox", "function", "norm and dropout"],
)
def test_models_of_all_libraries(make):
    found = check(make, (32, 256), seeds=3, steps=2)
    assert found.sizes.shape == (2, 3, 3, len(found.names))
    assert np.isfinite(found.sizes).all()
    assert "grows" not in found.verdicts
    assert found.changes[:, :, -1, -1].all()


def test_a_module_that_holds_its_parameters_has_no_seeds():
    class Net(nnx.Module):
        def __init__(self, width):
            self.inner = nnx.Linear(6, width, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(width, 2, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.head(nnx.relu(self.inner(x)))

    with pytest.raises(ValueError, match=r"seeds must start from different parameters"):
        check(Net, (64, 256), seeds=2)


# The verdicts, of sizes that are made up.


def made_up(*powers, spread=0.0, kind="standard"):
    """Changes that grow by these powers of the width; seeds that scatter."""
    widths = np.array(WIDTHS, float)[:, None, None]
    draw = np.random.default_rng(0).normal(size=(3, 4, len(powers)))
    last = widths ** np.array(powers) * np.exp(spread * draw)
    changes = np.stack([0 * last, last], 2)
    names = tuple(f"row {number}" for number in range(len(powers)))
    return CoordinateCheck(changes, changes, np.ones((3, 4, 1)), names, WIDTHS, kind, 0.1)


def test_the_verdicts():
    assert made_up(0.5, 0.0, -0.5).verdicts == ("grows", "level", "shrinks")
    assert made_up(0.0, 0.15, spread=1.0).verdicts == ("undecided", "undecided")
    np.testing.assert_allclose(made_up(0.5, -0.25).slopes().mean, [0.5, -0.25], rtol=1e-6)
    some = made_up(0.5, 0.0)
    some.changes[..., -1, 0] = 0
    some.changes[0, 0, -1, 1] = np.nan
    assert some.verdicts == ("constant", "not finite")


def test_it_shows_itself():
    found = made_up(0.5, 0.0, 0.0)
    assert repr(found) == (
        "CoordinateCheck(standard, widths 32 to 512, 3 rows; change: grows 1, level 2)"
    )
    assert found.table().row_count == 3
    assert "+0.50" in found._repr_html_()
    figure = found.plot()
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    (line,) = [line for line in figure.axes[1].get_lines() if line.get_label() == "row 0"]
    np.testing.assert_allclose(line.get_ydata(), np.sqrt(WIDTHS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [32]}, "widths must be two or more different numbers"),
        ({"widths": [32, 32]}, "widths must be two or more different numbers"),
        ({"widths": [32, 64], "seeds": 1}, "seeds must be at least 2"),
        ({"widths": [32, 64], "steps": 0}, "steps must be at least 1"),
        ({"widths": [32, 64], "tolerance": 0.0}, "tolerance must be"),
        ({"widths": [32, 64], "make_model": lambda width: mlp(16)}, "must change the shape"),
        (
            {"widths": [8, 64], "make_model": lambda width: models.MLP([width] * (width // 8))},
            "must have the same parameters",
        ),
    ],
)
def test_what_is_refused(settings, message):
    given = {"make_model": mlp, **settings}
    with pytest.raises(ValueError, match=message):
        check(given.pop("make_model"), given.pop("widths"), **given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": 4}, r"widths must be two or more numbers, got 4; pass e\.g\. \["),
        (
            {"make_model": 4},
            r"make_model must be a function of the width, got 4; pass e\.g\. lambda",
        ),
        (
            {"optimizer": optimizers.sgd(0.1)},
            r"must be a function of the parametrisation, got sgd.*found\.optimizer\(",
        ),
    ],
)
def test_what_is_no_function_or_no_list_is_refused(settings, message):
    batch = {"inputs": jnp.ones((2, 4)), "targets": jnp.ones((2, 3))}
    given = {"make_model": mlp, "widths": [8, 16], "batch": batch, "optimizer": lambda found: None}
    with pytest.raises(TypeError, match=message):
        coordinate_check(**given | settings)
