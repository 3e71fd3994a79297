"""Networks: images in NHWC, outputs as logits or values, `train` a keyword."""

from jaxdl.models.convnet import ConvNet
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.models.vgg import VGG

__all__ = ["MLP", "VGG", "ConvNet", "ResNet"]
