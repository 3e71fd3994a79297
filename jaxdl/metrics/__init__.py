"""What is measured beside the loss: per example on the device, or of a whole split on the host.

A metric of examples is a function (outputs, targets) -> (batch,); a run takes its mean. A metric of
a split is not a mean of examples: `of_split` makes one of a function (targets, predictions) in the
order of scikit-learn.
"""

from jaxdl.metrics.of_split import OfSplit, decision, of_split, predicted_class, probabilities
from jaxdl.metrics.per_example import accuracy, squared_error, top_k
from jaxdl.metrics.whole_split import calibration, confusion, f1, r2
from jaxdl.public import public_names

__all__ = [
    "OfSplit",
    "accuracy",
    "calibration",
    "confusion",
    "decision",
    "f1",
    "of_split",
    "predicted_class",
    "probabilities",
    "r2",
    "squared_error",
    "top_k",
]

__dir__ = public_names(globals())
