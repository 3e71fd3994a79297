"""Train, evaluate and predict."""

import keras
from digits import x_held, x_test, x_train, y_held, y_test, y_train
from model import network

keras.utils.set_random_seed(0)
model = network()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
model.fit(x_train, y_train, validation_data=(x_held, y_held), epochs=20, batch_size=32, verbose=0)
print(model.evaluate(x_test, y_test, return_dict=True, verbose=0))
print(keras.ops.softmax(model.predict(x_test[:3], verbose=0)))
