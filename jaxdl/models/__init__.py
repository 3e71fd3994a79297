"""Networks: images in NHWC, tokens or vectors in sequences; outputs as logits or values."""

from jaxdl.models.convnet import ConvNet
from jaxdl.models.mlp import MLP
from jaxdl.models.residual_mlp import ResidualMLP
from jaxdl.models.resnet import ResNet
from jaxdl.models.stacked_blocks import stack_blocks, unstack_blocks
from jaxdl.models.transformer import Transformer
from jaxdl.models.vgg import VGG
from jaxdl.public import public_names

__all__ = [
    "MLP",
    "VGG",
    "ConvNet",
    "ResNet",
    "ResidualMLP",
    "Transformer",
    "stack_blocks",
    "unstack_blocks",
]

__dir__ = public_names(globals())
