"""What becomes of a run that stops being finite: named, skipped or stopped, and never saved."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, losses, models, optimizers, training
from jaxdl.layers import BatchNorm
from jaxdl.training.fit.nonfinite import NonFiniteError

EXAMPLES, BATCH = 40, 10
MODEL = models.MLP([8, 1], norm=functools.partial(BatchNorm), dropout_rate=0.1)
# Runs of equal settings share what is compiled.
ADAM = optimizers.adam(0.01)
BAD = 6  # the step that is spoiled, the third of the second epoch


def regression():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(EXAMPLES, 3)).astype(np.float32)
    targets = draw.normal(size=(EXAMPLES, 1)).astype(np.float32)
    return data.Dataset("regression", data.Arrays(inputs, targets), None, None)


@functools.cache
def spoil_at(step, value=jnp.nan):
    """An augmentation that spoils the inputs of one step, told by its key."""
    run_key = jax.random.split(jax.random.key(0))[1]
    spoiled = jax.random.fold_in(jax.random.fold_in(run_key, 2), step)

    def augment(key, inputs):
        here = (jax.random.key_data(key) == jax.random.key_data(spoiled)).all()
        return jnp.where(here, inputs * value, inputs)

    return augment


def fit(model=MODEL, optimizer=None, **changes):
    settings = {
        "loss": losses.mean_squared_error,
        "epochs": 3,
        "batch_size": BATCH,
        "key": jax.random.key(0),
        "augment": spoil_at(BAD),
    } | changes
    return training.fit(model, regression(), optimizer or ADAM, **settings)


def test_raises_naming_the_step_and_keeps_the_run_so_far():
    good = fit(augment=None)
    with pytest.raises(NonFiniteError, match=r"step 6 .* the augmented inputs") as caught:
        fit()
    error = caught.value
    assert error.step == int(error.result.state.step) == BAD
    np.testing.assert_array_equal(
        error.result.history.steps["loss"], good.history.steps["loss"][:BAD]
    )
    np.testing.assert_array_equal(
        error.result.history.train["loss"], good.history.train["loss"][:1]
    )


def test_stops_at_the_last_good_state():
    stopped = fit(on_nonfinite="stop")
    assert "step 6: the augmented inputs" in stopped.stopped
    with pytest.raises(NonFiniteError) as caught:
        fit()
    chex.assert_trees_all_equal(stopped.state.params, caught.value.result.state.params)
    chex.assert_tree_all_finite(stopped.state.params)


@pytest.mark.parametrize("looped", [True, False])
def test_skips_the_step_alone(looped):
    result = fit(on_nonfinite="skip", steps_per_call=None if looped else 1)
    skipped = result.history.steps["skipped"]
    assert np.flatnonzero(skipped).tolist() == [BAD]
    assert not np.isfinite(result.history.steps["loss"][BAD])
    assert np.isfinite(result.history.train["loss"]).all()
    np.testing.assert_allclose(result.history.train["skipped"], [0, 0.25, 0])
    assert int(result.state.step) == 12
    # Adam has counted 11 updates, and the running statistics were not touched by a NaN.
    assert int(result.state.opt_state[0].count) == 11
    chex.assert_tree_all_finite((result.state.params, result.state.batch_stats))


@pytest.mark.parametrize("looped", [True, False])
def test_what_is_finite_is_not_changed_by_the_watch(looped):
    settings = {"augment": None, "steps_per_call": None if looped else 1}
    results = [fit(on_nonfinite=way, **settings) for way in ("raise", "skip")]
    chex.assert_trees_all_equal(*[result.state.params for result in results])
    assert not results[1].history.steps["skipped"].any()


def test_a_skipped_step_changes_no_leaf_but_the_count():
    before = fit(on_nonfinite="stop").state
    spoiled = np.full((10, 3), np.nan, np.float32)
    given = data.Dataset("nan", data.Arrays(spoiled, np.ones((10, 1), np.float32)), None, None)
    after = training.fit(
        MODEL, given, ADAM, loss=losses.mean_squared_error, epochs=1,
        batch_size=10, key=jax.random.key(0), state=before, on_nonfinite="skip",
    )  # fmt: skip
    chex.assert_trees_all_equal(
        (after.state.params, after.state.batch_stats, after.state.opt_state),
        (before.params, before.batch_stats, before.opt_state),
    )
    assert after.state.step == before.step + 1
    assert np.isnan(after.history.train["loss"]).all()


class Exponential(nn.Module):
    """Overflows between its layers where the first gives more than 88."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="second")(jnp.exp(nn.Dense(4, name="first")(x)))


class Overflowing(nn.Module):
    """Finite forwards: the square root of |Wx|, whose slope at 0 is infinite."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False, name="first")(x)
        x = jnp.sqrt(jnp.abs(x * 0.0))
        return nn.Dense(1, name="second")(x)


@pytest.mark.parametrize(
    ("changes", "quantity"),
    [
        ({"augment": spoil_at(BAD, 1e6), "model": Exponential()}, "the input of second"),
        ({"augment": None, "model": Overflowing()}, "gradient of first"),
        ({"augment": None, "loss": lambda o, t: jnp.log(-jnp.abs(o[:, 0]) - 1)}, "the loss"),
        ({"augment": None, "optimizer": optax.sgd(jnp.inf)}, "the optimizer's update"),
        ({"augment": None, "preprocess": lambda x: x / 0}, "the inputs, preprocessed,"),
    ],
)
def test_names_what_came_first(changes, quantity):
    with pytest.raises(NonFiniteError, match=quantity):
        fit(**changes)


def test_the_length_of_a_call_does_not_change_what_is_found():
    ends = [fit(on_nonfinite="stop", steps_per_call=steps).state for steps in (None, 1, 3)]
    chex.assert_trees_all_equal(ends[0].params, ends[1].params, ends[2].params)
    assert [int(state.step) for state in ends] == [BAD] * 3


@pytest.mark.parametrize("steps", [3, 4])
def test_a_fault_that_vanishes_is_said_to_have_vanished(steps):
    """The sixth step is spoiled once; the call that has it is taken again, and all is finite."""
    taken = []

    def spoil(inputs):
        taken.append(1)
        return np.asarray(inputs) * np.float32(np.nan if len(taken) == BAD else 1)

    def augment(key, inputs):
        return jax.pure_callback(spoil, inputs, inputs)

    with pytest.raises(NonFiniteError, match="finite when computed again") as caught:
        fit(augment=augment, steps_per_call=steps)
    # Whether the call ends inside an epoch or with it: the run ends after the whole call.
    assert caught.value.step == int(caught.value.result.state.step) == 4 + steps


def test_an_infinity_that_an_optimizer_starts_from_is_no_fault():
    result = fit(
        optimizer=optimizers.adam(learning_rate=optimizers.plateau(1e-3, factor=0.1, patience=2)),
        augment=None,
    )
    leaves = jax.tree.leaves(result.state.opt_state)
    assert any(not np.isfinite(leaf).all() for leaf in leaves)


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    with pytest.raises(NonFiniteError):
        fit(checkpoint_dir=tmp_path, checkpoint_every=1)
    stopped = fit(checkpoint_dir=tmp_path, checkpoint_every=1, on_nonfinite="stop")
    assert int(stopped.state.step) == BAD
    chex.assert_tree_all_finite((stopped.state.params, stopped.state.opt_state))


PLAIN = models.MLP([1])


def with_bad(field, examples, validation=False, **others):
    """The regression, of which some examples of a field are not finite."""
    whole = regression().train
    bad = np.array(getattr(whole, field))
    bad[examples] = [[np.nan]] + [[np.inf]] * (len(examples) - 1)
    spoiled = dataclasses.replace(whole, **{field: bad})
    splits = (whole, spoiled) if validation else (spoiled, None)
    return data.Dataset("spoiled", *splits, None, **others)


def train(given, **changes):
    settings = {
        "loss": losses.mean_squared_error,
        "epochs": 3,
        "batch_size": BATCH,
        "key": jax.random.key(0),
    } | changes
    return training.fit(PLAIN, given, ADAM, **settings)


@pytest.mark.parametrize("field", ["inputs", "targets"])
@pytest.mark.parametrize("parallel", ["jit", "auto"])
def test_names_the_first_example_whose_data_are_not_finite(field, parallel):
    with pytest.raises(NonFiniteError, match="repair the data") as caught:
        train(with_bad(field, [31, 7, 9]), parallel=parallel)
    assert caught.value.quantity == f"the {field} of example 7 and 2 more of the train split"
    assert "learning rate" not in str(caught.value)
    stopped = train(with_bad(field, [31]), on_nonfinite="stop").stopped
    assert f"the {field} of example 31 of the train split was not finite" in stopped


def test_names_an_example_of_a_stream():
    given = with_bad("inputs", [31])
    streamed = dataclasses.replace(given, train=training.Streamed(given.train))
    with pytest.raises(NonFiniteError, match="the inputs of example 31 of the train split"):
        train(streamed)


def test_data_that_are_mended_on_the_way_are_not_blamed():
    def without(outputs, targets):
        return jnp.where(jnp.isnan(targets), 0.0, outputs - targets)[:, 0] ** 2

    bad = with_bad("targets", [31])
    assert np.isfinite(train(bad, loss=without).history.steps["loss"]).all()
    mended = train(with_bad("inputs", [31]), preprocess=jnp.nan_to_num, epochs=1)
    assert np.isfinite(mended.history.steps["loss"]).all()
    with pytest.raises(NonFiniteError, match="optimizer's update"):
        training.fit(
            PLAIN, bad, optax.sgd(jnp.inf), loss=without, epochs=1, batch_size=BATCH,
            key=jax.random.key(0),
        )  # fmt: skip


@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_a_validation_loss_that_is_not_finite_ends_the_run(field, tmp_path):
    bad, seen = with_bad(field, [5], validation=True), []
    quantity = f"the {field} of example 5 of the validation split"
    with pytest.raises(NonFiniteError, match=f"step 4 .*{quantity}") as caught:
        train(bad, observers=[seen.append], checkpoint_dir=tmp_path)
    # The observers were told of the epoch, and its state is finite.
    assert len(seen) == len(caught.value.result.history.validation["loss"]) == 1
    chex.assert_tree_all_finite(caught.value.result.state.params)
    stopped = train(bad, on_nonfinite="stop")
    assert stopped.stopped == f"step 4: {quantity} was not finite"
    skipped = train(bad, on_nonfinite="skip")
    assert np.isnan(skipped.history.validation["loss"]).tolist() == [True] * 3


def test_a_spoiled_example_of_a_streamed_validation_split_is_named():
    bad = with_bad("inputs", [5], validation=True)
    streamed = dataclasses.replace(bad, validation=data.Streamed(bad.validation))
    with pytest.raises(NonFiniteError, match="the inputs of example 5 of the validation split"):
        train(streamed)


def test_a_validation_loss_may_be_infinite_of_finite_data():
    def logarithmic(outputs, targets):
        return jnp.where(targets[:, 0] > 1e3, jnp.inf, outputs[:, 0] ** 2)

    whole = regression().train
    far = dataclasses.replace(whole, targets=whole.targets + 1e4)
    given = data.Dataset("far", whole, far, None)
    with pytest.raises(NonFiniteError, match=r"step 4 .*got the validation loss not finite"):
        train(given, loss=logarithmic)
