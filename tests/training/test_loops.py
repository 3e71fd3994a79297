"""However steps are shared out over calls, and wherever batches come from: the same bits."""

import functools

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.data.streamed import Streamed
from jaxdl.layers import BatchNorm
from jaxdl.training.fit.advance import CALL_SECONDS, next_limit
from jaxdl.training.fit.batches import Plan
from jaxdl.training.fit.observing import Change, Observer

EXAMPLES, BATCH = 53, 10


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(x.reshape(len(x), -1))


MODELS = {
    "looped": models.MLP([16, 3], norm=functools.partial(BatchNorm), dropout_rate=0.2),
    "one by one": Convolution(),
}
OPTIMIZER = optimizers.adam(0.01)


def shift(key, images):
    return images + 0.1 * jax.random.normal(key, images.shape)


def noise(count=EXAMPLES, seed=0):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return data.Arrays(images, draw.integers(0, 3, count).astype(np.int32))


class Examples:
    """A source that is read one example at a time."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return {"inputs": self.arrays.inputs[index], "targets": self.arrays.targets[index]}


def fit(kind="looped", train=None, **changes):
    settings = {
        "loss": losses.cross_entropy,
        "metrics": [metrics.accuracy],
        "epochs": 2,
        "batch_size": BATCH,
        "key": jax.random.key(0),
        "augment": shift,
    } | changes
    given = data.Dataset("noise", train or noise(), noise(20, seed=1), None)
    return training.fit(MODELS[kind], given, OPTIMIZER, **settings)


whole = functools.cache(fit)


def check_same_bits(left, right):
    chex.assert_trees_all_equal(left.state.params, right.state.params)
    chex.assert_trees_all_equal(left.state.batch_stats, right.state.batch_stats)
    chex.assert_trees_all_equal(left.state.opt_state, right.state.opt_state)
    for part in ("steps", "train", "validation"):
        chex.assert_trees_all_equal(
            dict(getattr(left.history, part)), dict(getattr(right.history, part))
        )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_length_of_a_call_changes_no_bit(kind, steps):
    check_same_bits(fit(kind, steps_per_call=steps), whole(kind))


@pytest.mark.parametrize(
    ("kind", "source"), [("looped", Streamed), ("looped", Examples), ("one by one", Streamed)]
)
def test_a_stream_gives_the_bits_of_memory(kind, source):
    check_same_bits(fit(kind, train=source(noise())), whole(kind))


def test_a_streamed_split_is_evaluated():
    streamed = fit(train=Streamed(noise()))
    # Sums of 53 float32 losses below 4 in another order: 53 * 4 * 2^-24 each.
    assert streamed.evaluate("train")["loss"] == pytest.approx(
        whole("looped").evaluate("train")["loss"], rel=2e-5
    )


def test_goes_on_in_the_middle_of_an_epoch():
    plan = Plan(EXAMPLES, BATCH)
    middle = fit(observers=[Observer(stop_at(8))], checkpoint_every=8)
    assert int(middle.state.step) == 8
    assert middle.stopped == "enough"
    assert len(middle.history.steps["loss"]) == 8
    assert len(middle.history.train["loss"]) == 1
    # The rest of the second epoch is no pass over the set: one more follows.
    seen = []
    rest = fit(epochs=1, state=middle.state, observers=[seen.append])
    assert int(rest.state.step) == 3 * len(plan.sizes)
    assert [len(event.measured.steps["loss"]) for event in seen] == [4, 6]
    assert [(event.epoch, event.epochs) for event in seen] == [(1, 2), (2, 2)]
    chex.assert_trees_all_equal(rest.state.params, fit(epochs=3).state.params)


def stop_at(step):
    def observe(event, memory):
        return memory, Change(stop="enough") if event.step == step else None

    return observe


def test_augmentation_is_a_function_of_key_and_step():
    seen = {}

    def watch(key, images):
        jax.debug.callback(lambda bits: seen.setdefault(len(seen), int(bits)), jax.random.bits(key))
        return images

    fit(augment=watch, epochs=2)
    jax.effects_barrier()
    assert len(set(seen.values())) == len(seen) == 12


def test_a_call_takes_about_two_seconds():
    limit = 64
    for _ in range(20):
        limit = next_limit(limit, limit, limit * 1e-3)
    assert CALL_SECONDS / 2 <= limit * 1e-3 <= 2 * CALL_SECONDS
    for _ in range(20):
        limit = next_limit(limit, limit, limit * 1.0)
    assert CALL_SECONDS / 2 <= limit <= 2 * CALL_SECONDS
    assert next_limit(64, 10, 0.01) == 64  # an epoch of ten steps says nothing about more
