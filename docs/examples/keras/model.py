"""The model of the examples in Keras 3."""

import keras


def network(width=64):
    return keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal"),
            keras.layers.Dense(10, kernel_initializer="he_normal"),
        ]
    )
