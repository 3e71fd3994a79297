"""Each optimizer is one `optax.chain`, its conventions are arguments."""

from jaxdl.optimizers.optimizers import adam, momentum, sgd

__all__ = ["adam", "momentum", "sgd"]
