"""Rate x width x seeds as a table."""

import itertools

import keras
import pandas as pd
from digits import x_test, x_train, y_test, y_train
from model import network

rows = []
for rate, width, seed in itertools.product([1e-3, 1e-2], [32, 64], range(3)):
    keras.utils.set_random_seed(seed)
    model = network(width)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=10, batch_size=32, verbose=0)
    measured = model.evaluate(x_test, y_test, return_dict=True, verbose=0)
    rows.append({"rate": rate, "width": width, "seed": seed, **measured})
print(pd.DataFrame(rows).pivot(index=["rate", "width"], columns="seed", values="accuracy"))
