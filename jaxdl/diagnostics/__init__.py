"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics.histograms import Histogram, Histograms, histograms
from jaxdl.diagnostics.propagation import Propagation, propagation
from jaxdl.diagnostics.summary import Summary, summary
from jaxdl.diagnostics.theory import MeanField, critical_weight_variance, mean_field

__all__ = [
    "Histogram",
    "Histograms",
    "MeanField",
    "Propagation",
    "Summary",
    "critical_weight_variance",
    "histograms",
    "mean_field",
    "propagation",
    "summary",
]
