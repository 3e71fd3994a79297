"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics.advice import Advice, advise
from jaxdl.diagnostics.histograms import Histogram, Histograms, histograms
from jaxdl.diagnostics.propagation import Propagation, propagation
from jaxdl.diagnostics.summary import Summary, summary
from jaxdl.diagnostics.theory import MeanField, critical_weight_variance, mean_field

__all__ = [
    "Advice",
    "Histogram",
    "Histograms",
    "MeanField",
    "Propagation",
    "Summary",
    "advise",
    "critical_weight_variance",
    "histograms",
    "mean_field",
    "propagation",
    "summary",
]
