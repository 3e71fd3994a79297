"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics import theory
from jaxdl.diagnostics.batch_norm_check import check_batch_norm
from jaxdl.diagnostics.batch_norm_theory import batch_norm_gradient_growth
from jaxdl.diagnostics.landscape import artificial_landscapes
from jaxdl.diagnostics.landscape.rate_range import RateCurve, RateRange, rate_range
from jaxdl.diagnostics.landscape.surface import random_directions, surface
from jaxdl.diagnostics.landscape.trajectories import (
    PrincipalDirections,
    descend,
    principal_directions,
    project,
)
from jaxdl.diagnostics.residual_theory import ResidualStream, residual_stream
from jaxdl.diagnostics.signal.advice import advise
from jaxdl.diagnostics.signal.findings import Advice, Findings
from jaxdl.diagnostics.signal.graph import Graph, Node, graph
from jaxdl.diagnostics.signal.histograms import Histogram, Histograms, histograms
from jaxdl.diagnostics.signal.propagation import Propagation, propagation
from jaxdl.diagnostics.signal.summary import Summary, summary
from jaxdl.diagnostics.theory import MeanField, critical_weight_variance, mean_field
from jaxdl.public import public_names

__all__ = [
    "Advice",
    "Findings",
    "Graph",
    "Histogram",
    "Histograms",
    "MeanField",
    "Node",
    "PrincipalDirections",
    "Propagation",
    "RateCurve",
    "RateRange",
    "ResidualStream",
    "Summary",
    "advise",
    "artificial_landscapes",
    "batch_norm_gradient_growth",
    "check_batch_norm",
    "critical_weight_variance",
    "descend",
    "graph",
    "histograms",
    "mean_field",
    "principal_directions",
    "project",
    "propagation",
    "random_directions",
    "rate_range",
    "residual_stream",
    "summary",
    "surface",
    "theory",
]

__dir__ = public_names(globals())
