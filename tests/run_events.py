"""Events of a small run, made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.training.fit.history import EpochMeasurements
from jaxdl.training.fit.observing import Event, Setup

MODEL = models.MLP([6, 3])
STEPS = 4


def dataset(validation=True):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 5, 5, 1)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 3, count).astype(np.int32))

    return data.Dataset("noise", arrays(20), arrays(9) if validation else None, None, tuple("abc"))


def run(optimizer=None, **changes):
    settings = {
        "task": training.Task(MODEL, losses.cross_entropy, [metrics.accuracy]),
        "dataset": dataset(),
        "optimizer": optimizer or optimizers.sgd(0.25),
        "config": {"epochs": 3, "batch_size": 5},
    }
    return Setup(**(settings | changes))


def state_of(a_run, mark=0.0):
    state = training.init_state(
        jax.random.key(0), a_run.task, a_run.optimizer, jnp.zeros((1, 5, 5, 1))
    )
    marked = jax.tree.map(lambda leaf: jnp.full_like(leaf, mark), state.params)
    return dataclasses.replace(state, params=marked)


def measurements(value):
    return EpochMeasurements(
        steps={"loss": np.linspace(2, 1, STEPS, dtype=np.float32)},
        train={"loss": value + 1, "accuracy": 0.25},
        validation={"loss": value, "accuracy": 10 - value},
        seconds=0.5,
    )


def events(values, a_run=None, epochs=None, first_epoch=1):
    """An event for each epoch, with this validation loss; the parameters are the epoch's number."""
    a_run = a_run or run()
    measured = [measurements(value) for value in values]
    for index in range(first_epoch - 1, len(values)):
        epoch = index + 1
        state = dataclasses.replace(
            state_of(a_run, epoch), step=jnp.array(STEPS * epoch, jnp.int32)
        )
        yield Event(
            step=STEPS * epoch,
            steps=STEPS * (epochs or len(values)),
            epoch=epoch,
            epochs=epochs or len(values),
            epoch_ended=True,
            state=state,
            measured=measured[index],
            measurements=measured[:epoch],
            evaluate=lambda split: {},
            setup=a_run,
        )
