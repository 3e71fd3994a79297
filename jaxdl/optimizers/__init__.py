"""Each optimizer is one `optax.chain`, its conventions are arguments."""

from jaxdl.optimizers import schedules
from jaxdl.optimizers.adaptive import adadelta, adagrad, rmsprop
from jaxdl.optimizers.averaging import averaged_parameters, ema, swa
from jaxdl.optimizers.clipping import clip_by_global_norm, clip_by_value
from jaxdl.optimizers.descent import lion, momentum, nesterov, nesterov_theta, sgd
from jaxdl.optimizers.learning_rate import current_learning_rate
from jaxdl.optimizers.moments import adam, adamax, adamw, nadam, radam
from jaxdl.optimizers.plateau import plateau, report_metric
from jaxdl.optimizers.weight_decay import decoupled_decay, is_kernel, l2
from jaxdl.optimizers.wrappers import accumulate, sam

__all__ = [
    "accumulate",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "averaged_parameters",
    "clip_by_global_norm",
    "clip_by_value",
    "current_learning_rate",
    "decoupled_decay",
    "ema",
    "is_kernel",
    "l2",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "nesterov_theta",
    "plateau",
    "radam",
    "report_metric",
    "rmsprop",
    "sam",
    "schedules",
    "sgd",
    "swa",
]
