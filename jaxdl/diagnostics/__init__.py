"""Why a network trains, or does not: signal and gradient, measured and predicted."""

from jaxdl.diagnostics.propagation import Propagation, propagation

__all__ = ["Propagation", "propagation"]
