"""Examples that count more than others: the eights count three times."""

import keras
from digits import weights, x_test, x_train, y_test, y_train
from model import network

keras.utils.set_random_seed(0)
model = network()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
model.fit(x_train, y_train, sample_weight=weights, epochs=20, batch_size=32, verbose=0)
print(model.evaluate(x_test, y_test, return_dict=True, verbose=0))
