"""The gradient's noise along a run: when it is measured, and its average in the memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_events import events, run, state_of

from jaxdl import data, diagnostics, layers, losses, models, observers, optimizers, training


def kinds(memory):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(memory)]


def test_it_is_measured_every_so_many_epochs_with_its_average():
    kept = []
    observer = observers.gradient_noise_every(
        2, lambda *told: kept.append(told), examples=7, layers="each", decay=0.5
    )
    memory = observer.init(state_of(run()))
    for event in events([1.0] * 5):
        before = kinds(memory)
        memory, change = observer.observe(event, memory)
        assert change is None
        assert kinds(memory) == before
    assert [event.epoch for event, _, _ in kept] == [2, 4, 5]
    assert kept[0][1].names == ("dense_0", "dense_1")
    assert kept[0][1].norms.shape == (2, 7)
    expected = sum(
        weight * measured.covariance_trace
        for weight, (_, measured, _) in zip((0.125, 0.25, 0.5), kept, strict=True)
    )
    np.testing.assert_allclose(memory.covariance_trace, expected, rtol=1e-6)
    np.testing.assert_allclose(memory.weight, [0.875] * 2, rtol=1e-6)


@pytest.mark.parametrize("small_batch", [1, 4])
def test_a_run_with_batch_norm_needs_small_batches(small_batch):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    dataset = data.Arrays(jnp.asarray(x), jnp.asarray(x[:, :1]))
    kept = []

    def train():
        return training.fit(
            models.MLP([4, 1], norm=layers.BatchNorm),
            data.Dataset("x", dataset, None, None),
            optimizers.sgd(0.1),
            loss=losses.mean_squared_error,
            epochs=2,
            batch_size=8,
            key=jax.random.key(0),
            observers=[
                observers.gradient_noise_every(
                    1, lambda *told: kept.append(told), examples=16, small_batch=small_batch
                )
            ],
        )

    if small_batch == 1:
        with pytest.raises(ValueError, match="pass train=False"):
            train()
        return
    result = train()
    batch = (dataset.inputs, dataset.targets)
    after = diagnostics.gradient_noise(
        models.MLP([4, 1], norm=layers.BatchNorm), result.state.variables, batch,
        loss=losses.mean_squared_error, small_batch=4,
    )  # fmt: skip
    assert len(kept) == 2
    np.testing.assert_allclose(kept[-1][1].norms, after.norms, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"examples": 1}, "examples must be at least 2"),
        ({"examples": 10, "small_batch": 8}, "examples must be at least 16"),
        ({"decay": 1.0}, "decay must lie"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        observers.gradient_noise_every(**{"epochs": 1, "report": print, **settings})


@pytest.mark.parametrize(
    ("norm", "settings", "text"),
    [
        (None, {"examples": 15, "small_batch": 2}, "small_batch must divide the batch, got 2 and"),
        (layers.BatchNorm, {}, "pass train=False"),
        (None, {"batch": {"inputs": np.ones((4, 3), np.float32)}}, "inputs"),
    ],
    ids=["a rest", "batch norm", "no targets"],
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(norm, settings, text):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    seen = []
    with pytest.raises((ValueError, TypeError), match=text):
        training.fit(
            models.MLP([4, 1], norm=norm), (x, x[:, :1]), optimizers.sgd(0.1),
            loss=losses.mean_squared_error, epochs=3, batch_size=8, key=jax.random.key(0),
            observers=[seen.append, observers.gradient_noise_every(3, print, **settings)],
        )  # fmt: skip
    assert not seen


def test_the_number_of_examples_is_of_those_of_the_run():
    """A batch of its own, or a small training split, has its own number."""
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    kept = []

    def report(event, measured, average):
        kept.append(measured.norms.shape)

    own = {"inputs": x, "targets": x[:, :1]}
    training.fit(
        models.MLP([1]), (x, x[:, :1]), optimizers.sgd(0.1), loss=losses.mean_squared_error,
        epochs=1, batch_size=8, key=jax.random.key(0),
        observers=[
            observers.gradient_noise_every(1, report, examples=100, small_batch=8),
            observers.gradient_noise_every(1, report, examples=2, batch=own, small_batch=4),
        ],
    )  # fmt: skip
    assert kept == [(1, 2), (1, 4)]


def test_a_measurement_that_is_not_finite_does_not_spoil_the_average():
    kept = []
    observer = observers.gradient_noise_every(1, lambda *told: kept.append(told), examples=7)
    memory = observer.init(state_of(run()))
    told = list(events([1.0] * 3))
    state = told[1].state
    lost = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
    told[1] = dataclasses.replace(told[1], state=dataclasses.replace(state, params=lost))
    for event in told:
        memory, _ = observer.observe(event, memory)
    assert [bool(np.isfinite(found.covariance_trace)[0]) for _, found, _ in kept] == [
        True, False, True
    ]  # fmt: skip
    expected = 0.9 * 0.1 * kept[0][1].covariance_trace + 0.1 * kept[2][1].covariance_trace
    np.testing.assert_allclose(memory.covariance_trace, expected, rtol=1e-6)
