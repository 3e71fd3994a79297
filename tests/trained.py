"""A small trained network with norms, on images of bytes, for tests of what a result can do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import layers, losses, metrics, models, optimizers, training

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (90, 6, 6, 1)).astype(np.uint8)
LABELS = (IMAGES.mean((1, 2, 3)) > IMAGES.mean()).astype(np.int32)
SPLITS = {
    "train": (IMAGES[:60], LABELS[:60]),
    "validation": (IMAGES[60:75], LABELS[60:75]),
    "test": (IMAGES[75:], LABELS[75:]),
}
MODEL = models.MLP([8, 2], norm=layers.BatchNorm)
GOAL = {"loss": losses.cross_entropy, "metrics": [metrics.accuracy]}
SETTINGS = {"epochs": 2, "batch_size": 20, "key": KEY}


def darker(inputs):
    return inputs.astype(jnp.float32) / 1000


@functools.cache
def trained(optimizer="sgd", preprocess=None):
    made = {
        "sgd": optimizers.sgd(0.1),
        "ema": optax.chain(optimizers.adam(1e-2), optimizers.ema(0.5)),
    }[optimizer]
    more = {} if preprocess is None else {"preprocess": preprocess}
    return training.fit(MODEL, SPLITS, made, **GOAL, **more, **SETTINGS)


def by_hand(result, images):
    inputs = jnp.asarray(images, jnp.float32) / 255
    return np.asarray(MODEL.apply(result.state.evaluated, inputs, train=False))


def fitted(inputs, targets, model=None, loss=losses.mean_squared_error, **settings):
    model = models.MLP([2]) if model is None else model
    return training.fit(
        model, (inputs, targets), optimizers.sgd(0.1), loss=loss, **SETTINGS, **settings
    )
