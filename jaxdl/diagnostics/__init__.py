"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics import artificial_landscapes
from jaxdl.diagnostics.advice import Advice, advise
from jaxdl.diagnostics.batch_norm import check_batch_norm, recalibrate
from jaxdl.diagnostics.folding import fold
from jaxdl.diagnostics.histograms import Histogram, Histograms, histograms
from jaxdl.diagnostics.landscape import random_directions, surface
from jaxdl.diagnostics.propagation import Propagation, propagation
from jaxdl.diagnostics.rate_range import RateCurve, RateRange, rate_range
from jaxdl.diagnostics.summary import Summary, summary
from jaxdl.diagnostics.theory import MeanField, critical_weight_variance, mean_field
from jaxdl.diagnostics.trajectories import (
    PrincipalDirections,
    descend,
    principal_directions,
    project,
)

__all__ = [
    "Advice",
    "Histogram",
    "Histograms",
    "MeanField",
    "PrincipalDirections",
    "Propagation",
    "RateCurve",
    "RateRange",
    "Summary",
    "advise",
    "artificial_landscapes",
    "check_batch_norm",
    "critical_weight_variance",
    "descend",
    "fold",
    "histograms",
    "mean_field",
    "principal_directions",
    "project",
    "propagation",
    "random_directions",
    "rate_range",
    "recalibrate",
    "summary",
    "surface",
]
