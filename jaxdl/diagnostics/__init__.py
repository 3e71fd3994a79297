"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics import theory
from jaxdl.diagnostics.batch_norm_check import check_batch_norm
from jaxdl.diagnostics.batch_norm_theory import batch_norm_gradient_growth
from jaxdl.diagnostics.coordinate_check import CoordinateCheck, coordinate_check
from jaxdl.diagnostics.curvature.curvature_spectrum import CurvatureSpectrum, curvature_spectrum
from jaxdl.diagnostics.curvature.hessian_trace import HessianTrace, hessian_trace
from jaxdl.diagnostics.curvature.sharpness import Sharpness, sharpness
from jaxdl.diagnostics.kernel import wide_networks
from jaxdl.diagnostics.kernel.jacobian import JacobianSpectrum, jacobian_spectrum
from jaxdl.diagnostics.kernel.jacobian_theory import (
    JacobianMoments,
    gaussian_product_singular_values,
    jacobian_moments,
)
from jaxdl.diagnostics.kernel.linear_task import linearized
from jaxdl.diagnostics.kernel.tangent_kernel import TangentKernel, tangent_kernel
from jaxdl.diagnostics.landscape import artificial_landscapes
from jaxdl.diagnostics.landscape.rate_range import RateCurve, RateRange, rate_range
from jaxdl.diagnostics.landscape.surface import random_directions, surface
from jaxdl.diagnostics.landscape.trajectories import (
    PrincipalDirections,
    descend,
    principal_directions,
    project,
)
from jaxdl.diagnostics.noise.example_gradients import example_gradients
from jaxdl.diagnostics.noise.gradient_noise import GradientNoise, gradient_noise
from jaxdl.diagnostics.noise.noise_average import NoiseAverage, average_noise
from jaxdl.diagnostics.noise.signal_to_noise import SignalToNoise, signal_to_noise
from jaxdl.diagnostics.noise.trade_off import TradeOff, batch_trade_off
from jaxdl.diagnostics.residual_theory import ResidualStream, residual_stream
from jaxdl.diagnostics.signal.advice import advise
from jaxdl.diagnostics.signal.attentions import Attention, attention
from jaxdl.diagnostics.signal.findings import Advice, Findings
from jaxdl.diagnostics.signal.graph import Graph, Node, graph
from jaxdl.diagnostics.signal.histograms import Histogram, Histograms, histograms
from jaxdl.diagnostics.signal.propagation import Propagation, propagation
from jaxdl.diagnostics.signal.summary import Summary, summary
from jaxdl.diagnostics.theory import MeanField, critical_weight_variance, mean_field
from jaxdl.public import public_names

__all__ = [
    "Advice",
    "Attention",
    "CoordinateCheck",
    "CurvatureSpectrum",
    "Findings",
    "GradientNoise",
    "Graph",
    "HessianTrace",
    "Histogram",
    "Histograms",
    "JacobianMoments",
    "JacobianSpectrum",
    "MeanField",
    "Node",
    "NoiseAverage",
    "PrincipalDirections",
    "Propagation",
    "RateCurve",
    "RateRange",
    "ResidualStream",
    "Sharpness",
    "SignalToNoise",
    "Summary",
    "TangentKernel",
    "TradeOff",
    "advise",
    "artificial_landscapes",
    "attention",
    "average_noise",
    "batch_norm_gradient_growth",
    "batch_trade_off",
    "check_batch_norm",
    "coordinate_check",
    "critical_weight_variance",
    "curvature_spectrum",
    "descend",
    "example_gradients",
    "gaussian_product_singular_values",
    "gradient_noise",
    "graph",
    "hessian_trace",
    "histograms",
    "jacobian_moments",
    "jacobian_spectrum",
    "linearized",
    "mean_field",
    "principal_directions",
    "project",
    "propagation",
    "random_directions",
    "rate_range",
    "residual_stream",
    "sharpness",
    "signal_to_noise",
    "summary",
    "surface",
    "tangent_kernel",
    "theory",
    "wide_networks",
]

__dir__ = public_names(globals())
