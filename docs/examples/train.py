"""Train, evaluate and predict."""

from model import key, network, splits, x_test

from jaxdl import losses, metrics, optimizers, training

result = training.fit(
    network(), splits, optimizers.adam(1e-3), loss=losses.cross_entropy,
    metrics=[metrics.accuracy], epochs=20, batch_size=32, key=key,
)  # fmt: skip
print(result.evaluate("test"))
print(result.predict(x_test[:3], metrics.probabilities).round(2))
