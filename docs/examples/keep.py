"""Checkpoint, resume, save, and load elsewhere."""

from model import key, network, splits, x_test

from jaxdl import losses, optimizers, training

for epochs in (5, 20):  # the second run goes on from the first, to the bit of a run in one go
    result = training.fit(
        network(), splits, optimizers.adam(1e-3), loss=losses.cross_entropy, epochs=epochs,
        batch_size=32, key=key, checkpoint_dir="run",
    )  # fmt: skip
result.save("digits")
print(training.load("digits", network()).predict(x_test[:3]).round(1))
