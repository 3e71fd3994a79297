"""Networks: images in NHWC, outputs as logits or values, `train` a keyword."""

from jaxdl.models.convnet import ConvNet
from jaxdl.models.mlp import MLP

__all__ = ["MLP", "ConvNet"]
