"""Optimizers: each is one `optax.chain`, and its conventions are arguments."""

from jaxdl.optimizers import schedules
from jaxdl.optimizers.adadelta import adadelta
from jaxdl.optimizers.adafactor import adafactor
from jaxdl.optimizers.adagrad import adagrad
from jaxdl.optimizers.adam import adam, adamw
from jaxdl.optimizers.adamax import adamax
from jaxdl.optimizers.averaging import averaged_parameters, ema, evaluated_parameters, swa
from jaxdl.optimizers.by_layer import LayersState, by_layer, freeze
from jaxdl.optimizers.clipping import clip_by_global_norm, clip_by_value
from jaxdl.optimizers.descent import lion, momentum, nesterov, nesterov_theta, sgd
from jaxdl.optimizers.hidden_matrices import hidden_matrices
from jaxdl.optimizers.lamb import lamb
from jaxdl.optimizers.learning_rate import LearningRate, current_learning_rate
from jaxdl.optimizers.lookahead import lookahead
from jaxdl.optimizers.muon import muon
from jaxdl.optimizers.nadam import nadam
from jaxdl.optimizers.plateau import plateau, report_metric
from jaxdl.optimizers.radam import radam
from jaxdl.optimizers.recorded_updates import RecordedState, recorded
from jaxdl.optimizers.rmsprop import rmsprop
from jaxdl.optimizers.schedule_free import schedule_free
from jaxdl.optimizers.weight_decay import decoupled_decay, is_kernel, l2
from jaxdl.optimizers.wrappers import accumulate, chain, sam
from jaxdl.public import public_names

__all__ = [
    "LayersState",
    "LearningRate",
    "RecordedState",
    "accumulate",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "averaged_parameters",
    "by_layer",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "current_learning_rate",
    "decoupled_decay",
    "ema",
    "evaluated_parameters",
    "freeze",
    "hidden_matrices",
    "is_kernel",
    "l2",
    "lamb",
    "lion",
    "lookahead",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "nesterov_theta",
    "plateau",
    "radam",
    "recorded",
    "report_metric",
    "rmsprop",
    "sam",
    "schedule_free",
    "schedules",
    "sgd",
    "swa",
]

__dir__ = public_names(globals())
