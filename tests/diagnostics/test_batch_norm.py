"""Recalibration against the whole set as one batch, folding, and the check of statistics."""

import functools
import operator

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations, data, losses, models, optimizers, training
from jaxdl.diagnostics import check_batch_norm
from jaxdl.layers import BatchNorm
from jaxdl.training import fold, recalibrate

IMAGES = jax.random.normal(jax.random.key(0), (60, 8, 8, 2)) * 2 + 1


def mlp(**settings):
    return models.MLP([16, 12, 3], norm=BatchNorm, activation=activations.tanh, **settings)


def convnet(**settings):
    return models.ConvNet([4, 6], [8, 3], norm=BatchNorm, **settings)


@functools.cache
def trained(model, steps=5):
    """A few steps at a large rate, so that nothing is where it began."""
    batch = {"inputs": IMAGES, "targets": jnp.arange(60) % 3}
    optimizer = optimizers.sgd(0.5)
    state = training.init_state(jax.random.key(1), model, optimizer, IMAGES)
    step = jax.jit(training.make_train_step(model, optimizer, losses.cross_entropy))
    for _ in range(steps):
        state, _ = step(state, batch)
    return state.variables


def applied(model, variables, train):
    """(outputs, updates) of one pass over the images."""
    apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
    return jax.jit(apply)(variables, IMAGES)


@pytest.mark.parametrize("make", [mlp, convnet])
def test_recalibrated_statistics_are_those_of_everything_in_one_batch(make):
    model = make(dropout_rate=0.0)
    variables = trained(model)
    whole = recalibrate(model, variables, [IMAGES])
    # With momentum 0 a training pass over everything leaves just its statistics.
    exact = make(dropout_rate=0.0).clone(norm=functools.partial(BatchNorm, momentum=0.0))
    _, updates = applied(exact, variables, train=True)
    chex.assert_trees_all_close(whole["batch_stats"], updates["batch_stats"], rtol=1e-5, atol=1e-6)
    # With the biased variance, evaluation is then what training computes.
    biased = model.clone(norm=functools.partial(BatchNorm, unbiased_variance=False))
    np.testing.assert_allclose(
        applied(biased, recalibrate(biased, variables, [IMAGES]), train=False)[0],
        applied(biased, variables, train=True)[0],
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_the_first_norms_statistics_do_not_depend_on_the_batches():
    model = mlp(dropout_rate=0.5)
    variables = trained(model)
    whole = recalibrate(model, variables, [{"inputs": IMAGES}])
    parts = recalibrate(model, variables, [IMAGES[:7], IMAGES[7:20], IMAGES[20:]])
    for name in ("mean", "var"):
        first, again = (v["batch_stats"]["norm_0"][name] for v in (whole, parts))
        np.testing.assert_allclose(again, first, rtol=1e-5)
    # The mean of the batches' own variances would be another number.
    kernel = variables["params"]["dense_0"]["kernel"]
    hidden = np.asarray(IMAGES.reshape(60, -1) @ kernel)
    apart = np.mean([h.var(0, ddof=1) for h in (hidden[:7], hidden[7:20], hidden[20:])], 0)
    assert np.abs(apart / parts["batch_stats"]["norm_0"]["var"] - 1).max() > 0.01


def test_the_same_model_compiles_once():
    init, traced = jax.jit(functools.partial(mlp().init, train=False)), []

    def preprocess(x):
        traced.append(x.shape)
        return x

    for seed in range(3):
        variables = init(jax.random.key(seed), IMAGES)
        recalibrate(mlp(), variables, [IMAGES], preprocess=preprocess)
    assert traced == [IMAGES.shape]


def test_many_models_are_recalibrated_in_one_compiled_call():
    model = mlp()
    init = functools.partial(model.init, x=IMAGES[:1], train=False)
    many = jax.vmap(init)(jax.random.split(jax.random.key(0), 2))

    @jax.jit
    @jax.vmap
    def recalibrated(variables):
        return recalibrate(model, variables, [IMAGES[:40], IMAGES[40:]])

    together = recalibrated(many)
    for place in range(2):
        one, found = (jax.tree.map(operator.itemgetter(place), tree) for tree in (many, together))
        alone = recalibrate(model, one, [IMAGES[:40], IMAGES[40:]])
        # Moments of two batches, combined in float32 instead of float64.
        chex.assert_trees_all_close(found, alone, rtol=1e-5, atol=1e-6)


class Unhashable(nn.Module):
    """A model of one's own, with a field that no cache can have as a key."""

    widths: list

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.widths[0])(x.reshape(len(x), -1))
        return BatchNorm(name="norm")(x, train=train)


def test_a_model_that_cannot_be_hashed_is_recalibrated():
    model = Unhashable([4])
    variables = model.init(jax.random.key(0), IMAGES, train=False)
    stats = recalibrate(model, variables, [IMAGES])["batch_stats"]["norm"]
    assert (stats["var"] != 1).all()


def test_flaxs_norm_keeps_its_biased_variance():
    model = models.MLP([4, 1], norm=nn.BatchNorm)
    x = IMAGES.reshape(60, -1)
    variables = model.init(jax.random.key(0), x, train=False)
    stats = recalibrate(model, variables, [x])["batch_stats"]["norm_0"]
    hidden = np.asarray(x @ variables["params"]["dense_0"]["kernel"], np.float64)
    np.testing.assert_allclose(stats["var"], hidden.var(0), rtol=1e-4)


def test_recalibration_needs_norms_and_batches():
    model = models.MLP([4, 1])
    variables = model.init(jax.random.key(0), IMAGES, train=False) | {"batch_stats": {}}
    with pytest.raises(ValueError, match="must reach a batch norm of the model, got none"):
        recalibrate(model, variables, [IMAGES])
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(mlp(), trained(mlp()), [])


@pytest.mark.parametrize("make", [mlp, convnet])
@pytest.mark.parametrize("settings", [{}, {"use_scale": False}, {"use_bias": False}])
def test_folded_equals_unfolded(make, settings):
    model = make().clone(norm=functools.partial(BatchNorm, epsilon=1e-3, **settings))
    variables = trained(model)
    folded, without = fold(model, variables)
    assert set(without) == {"params"}
    expected, _ = applied(model, variables, train=False)
    # Products in another order; three layers of sums of up to a hundred terms.
    np.testing.assert_allclose(
        applied(folded, without, train=False)[0], expected,
        rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()),
    )  # fmt: skip


def test_statistics_that_never_moved_are_named():
    model, variables = mlp(), trained(mlp())
    assert check_batch_norm(model, variables | trained(model, 200), IMAGES) == ()
    fresh = model.init(jax.random.key(1), IMAGES, train=False)["batch_stats"]
    (said,) = check_batch_norm(model, variables | {"batch_stats": fresh}, IMAGES)
    assert said.problem == "never moved"
    assert "norm_0, norm_1" in said.sentence
    assert "mutable=['batch_stats']" in said.sentence


def test_statistics_of_other_data_are_named():
    model = mlp()
    variables = recalibrate(model, trained(model), [IMAGES])
    problems = [said.problem for said in check_batch_norm(model, variables, 5 * IMAGES + 30)]
    assert set(problems) == {"other data"}


def test_an_evaluation_in_training_mode_is_named():
    model = mlp(dropout_rate=0.0)
    variables = recalibrate(model, trained(model), [IMAGES])
    some = IMAGES[:40]
    right = model.apply(variables, some, train=False)
    wrong, _ = model.apply(variables, some, train=True, mutable=["batch_stats"])
    assert check_batch_norm(model, variables, some, outputs=right) == ()
    (said,) = check_batch_norm(model, variables, some, outputs=wrong)
    assert said.problem == "training mode"
    assert "pass train=False" in said.sentence


def test_after_fit_nothing_is_wrong():
    digits = data.load("digits")
    model = mlp().clone(features=(16, 12, 10))
    result = training.fit(
        model, digits, optimizers.adam(1e-2), loss=losses.cross_entropy, epochs=5, batch_size=50,
        key=jax.random.key(0),
    )  # fmt: skip
    inputs = digits.train.inputs[:500]
    assert check_batch_norm(model, result.state.variables, inputs) == ()
