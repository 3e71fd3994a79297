"""Examples that count more than others: the eights count three times."""

from digits import weights
from model import key, network, x_test, x_train, y_test, y_train

from jaxdl import losses, metrics, optimizers, training

result = training.fit(
    network(), (x_train, y_train, weights), optimizers.adam(1e-3), loss=losses.cross_entropy,
    metrics=[metrics.accuracy], epochs=20, batch_size=32, key=key,
)  # fmt: skip
print(result.evaluate((x_test, y_test)))
