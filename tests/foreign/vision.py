"""Networks for images, in the shapes of public code."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from foreign.zoo import BATCH, Foreign, normal, unstacked

from jaxdl import losses

zeros = nn.initializers.zeros


class Bottleneck(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Callable[[Any], Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.act(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = self.act(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm(scale_init=zeros)(self.conv(4 * self.filters, (1, 1))(y))
        if residual.shape != y.shape:
            residual = self.conv(4 * self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class ResNet(nn.Module):
    """Of the ImageNet kind, with blocks that are computed again in the backward pass."""

    plain: bool = False

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        block = Bottleneck if self.plain else nn.remat(Bottleneck)
        x = nn.relu(norm(name="bn_init")(conv(8, (3, 3), name="conv_init")(x)))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        for stage in range(2):
            strides = (1, 1) if stage else (2, 2)
            x = block(4, conv, norm, nn.relu, strides, name=f"stage_{stage}")(x)
        return nn.Dense(3, kernel_init=nn.initializers.normal(0.01), name="head")(x.mean((1, 2)))


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        y = nn.LayerNorm(name="norm_attention")(x)
        y = nn.MultiHeadDotProductAttention(2, deterministic=deterministic, name="attention")(y, y)
        x = x + nn.Dropout(0.1, name="drop")(y, deterministic=deterministic)
        y = nn.Dense(16, name="up")(nn.LayerNorm(name="norm_mlp")(x))
        return x + nn.Dense(8, name="down")(nn.gelu(y)), None


class ViT(nn.Module):
    """Patches, a class token, learned positions, and a scan over the blocks."""

    layers: int = 2
    plain: bool = False

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Conv(8, (4, 4), strides=4, padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, 8)
        token = self.param("cls", zeros, (1, 1, 8))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 8))
        if self.plain:
            for layer in range(self.layers):
                x, _ = EncoderBlock(name=f"blocks_{layer}")(x, not train)
        else:
            x, _ = nn.scan(
                nn.remat(EncoderBlock, static_argnums=(2,), prevent_cse=False),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=self.layers,
            )(name="blocks")(x, not train)
        x = nn.LayerNorm(name="norm")(x)[:, 0]
        return nn.Dense(3, kernel_init=zeros, name="head")(x)


class MixerBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x).swapaxes(1, 2)
        y = nn.Dense(4, name="tokens_down")(nn.gelu(nn.Dense(8, name="tokens_up")(y)))
        x = x + y.swapaxes(1, 2)
        y = nn.gelu(nn.Dense(16, name="channels_up")(nn.LayerNorm()(x)))
        return x + nn.Dense(8, name="channels_down")(y)


class Mixer(nn.Module):
    """MLP-Mixer."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(8, (4, 4), strides=4, name="stem")(images)
        x = x.reshape(len(x), -1, 8)
        x = MixerBlock(name="block")(x)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


class Inverted(nn.Module):
    """A block of EfficientNet: depthwise, squeeze and excite, stochastic depth."""

    @nn.compact
    def __call__(self, x, training):
        norm = functools.partial(nn.BatchNorm, use_running_average=not training)
        y = nn.silu(norm()(nn.Conv(16, (1, 1), use_bias=False)(x)))
        y = nn.Conv(16, (3, 3), feature_group_count=16, use_bias=False, name="depthwise")(y)
        y = nn.silu(norm()(y))
        gate = nn.silu(nn.Dense(4, name="squeeze")(y.mean((1, 2))))
        y = y * nn.sigmoid(nn.Dense(16, name="excite")(gate))[:, None, None]
        y = norm()(nn.Conv(8, (1, 1), use_bias=False, name="project")(y))
        if training:
            shape = (len(y), 1, 1, 1)
            y = y * jax.random.bernoulli(self.make_rng("dropout"), 0.9, shape) / 0.9
        return x + y


class EfficientNet(nn.Module):
    """Its mode has no default and comes by place."""

    @nn.compact
    def __call__(self, x, training):
        x = nn.silu(nn.Conv(8, (3, 3), strides=2, name="stem")(x))
        x = Inverted(name="block")(x, training)
        x = nn.Dropout(0.2, deterministic=not training)(x.mean((1, 2)))
        return nn.Dense(3, name="head")(x)


class ConvNeXt(nn.Module):
    """A block with LayerScale."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(8, (2, 2), strides=2, name="stem")(x))
        y = nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x)
        y = nn.Dense(8, name="down")(
            nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm(name="inner")(y)))
        )
        x = x + self.param("gamma", nn.initializers.constant(1e-6), (8,)) * y
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x.mean((1, 2))))


class FrozenNorm(nn.Module):
    """Its mode is a field."""

    use_running_average: bool | None = None

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=self.use_running_average)
        x = nn.relu(norm(name="norm_0")(nn.Conv(8, (3, 3), strides=2, name="conv_0")(x)))
        x = nn.relu(norm(name="norm_1")(nn.Conv(8, (3, 3), strides=2, name="conv_1")(x)))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


IMAGES = normal(BATCH, 8, 8, 3)
CLASSES = jnp.arange(BATCH) % 3


def of_layers(path: str) -> str:
    """`blocks_1/up` is `blocks[1]/up` of a scan."""
    return re.sub(r"blocks_(\d+)", r"blocks[\1]", path)


def classifier(model: nn.Module, **settings: Any) -> Foreign:
    return Foreign(model, IMAGES, CLASSES, losses.cross_entropy, **settings)


MODELS = {
    "resnet": classifier(ResNet(), twin=ResNet(plain=True)),
    "vit": classifier(
        ViT(),
        twin=ViT(plain=True),
        unstack=unstacked("blocks", 2, "blocks_{}"),
        named=of_layers,
        train=False,
    ),
    "mixer": classifier(Mixer()),
    "efficientnet": classifier(EfficientNet()),
    "convnext": classifier(ConvNeXt()),
    "mode is a field": classifier(FrozenNorm()),
}
