"""The model of the examples, and the data as this library takes them."""

import jax
from digits import x_held, x_test, x_train, y_held, y_test, y_train

from jaxdl import initializers, models


def network(width=64):
    return models.MLP([width, 10], kernel_init=initializers.he_normal())


splits = {"train": (x_train, y_train), "validation": (x_held, y_held), "test": (x_test, y_test)}
key = jax.random.key(0)
