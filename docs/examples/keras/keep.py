"""Checkpoint, resume, save, and load elsewhere."""

import keras
from digits import x_held, x_test, x_train, y_held, y_train
from model import network

for epochs in (5, 20):  # the second goes on at the epoch's end; its shuffling begins anew
    keras.utils.set_random_seed(0)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(
        x_train, y_train, validation_data=(x_held, y_held), epochs=epochs, batch_size=32,
        verbose=0,
        callbacks=[keras.callbacks.BackupAndRestore("run", delete_checkpoint=False)],
    )  # fmt: skip
model.save("digits.keras")
print(keras.models.load_model("digits.keras").predict(x_test[:3], verbose=0).round(1))
