"""F1 and AUC of each epoch in a CSV, and the confusion matrix."""

import functools

from model import key, network, splits, x_test, y_test
from sklearn.metrics import roc_auc_score

from jaxdl import losses, metrics, optimizers, training

auc = functools.partial(roc_auc_score, multi_class="ovr")
result = training.fit(
    network(), splits, optimizers.adam(1e-3), loss=losses.cross_entropy,
    epochs=20, batch_size=32, key=key,
    metrics=[metrics.of_split(metrics.f1, predict=metrics.predicted_class),
             metrics.of_split(auc, predict=metrics.probabilities)],
)  # fmt: skip
result.history.to_pandas().to_csv("history.csv")
print(metrics.confusion(y_test, result.predict(x_test, metrics.predicted_class)))
