"""Networks that make images or actions, in the shapes of public code."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from foreign.zoo import BATCH, Foreign, normal, squared

from jaxdl import losses

zeros = nn.initializers.zeros


class VAE(nn.Module):
    """Draws in evaluation too, and returns what its loss needs."""

    def setup(self):
        self.hidden, self.mean, self.log_variance = nn.Dense(16), nn.Dense(4), nn.Dense(4)
        self.decoder = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(12)])

    def __call__(self, x):
        h = nn.relu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        noise = jax.random.normal(self.make_rng("latent"), mean.shape)
        return self.decoder(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance


def negative_bound(outputs: Any, targets: Any) -> Any:
    x, mean, log_variance = outputs
    divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)
    return squared(x, targets) + divergence


class TimeEmbedding(nn.Module):
    @nn.compact
    def __call__(self, time):
        angles = time[:, None] * 10.0 ** -jnp.arange(4.0)
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        return nn.Dense(16, name="dense_1")(nn.silu(nn.Dense(16, name="dense_0")(x)))


class ResBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, time):
        y = nn.Conv(self.features, (3, 3), name="conv_0")(nn.silu(nn.GroupNorm(2, name="n_0")(x)))
        y = y + nn.Dense(self.features, name="time")(nn.silu(time))[:, None, None]
        y = nn.silu(nn.GroupNorm(2, name="n_1")(y))
        y = nn.Conv(self.features, (3, 3), kernel_init=zeros, name="conv_1")(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), name="shortcut")(x)
        return x + y


class UNet(nn.Module):
    """Of denoising diffusion: skips, time, two inputs as a tuple."""

    @nn.compact
    def __call__(self, images, time):
        t = TimeEmbedding(name="time")(time)
        x = skip = nn.Conv(8, (3, 3), name="conv_in")(images)
        x = nn.Conv(16, (3, 3), strides=2, name="downsample")(ResBlock(8, name="down")(x, t))
        x = jax.image.resize(x, (len(x), 8, 8, 16), "nearest")
        x = jnp.concatenate([nn.Conv(8, (3, 3), name="upsample")(x), skip], -1)
        x = nn.silu(nn.GroupNorm(2, name="norm_out")(ResBlock(8, name="up")(x, t)))
        return nn.Conv(3, (3, 3), kernel_init=zeros, name="conv_out")(x)


class DiTBlock(nn.Module):
    @nn.compact
    def __call__(self, x, condition):
        six = nn.Dense(6 * 8, kernel_init=zeros, name="modulation")(nn.silu(condition))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(six[:, None], 6, -1)

        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(use_bias=False, use_scale=False, name=name)

        y = norm("norm_attention")(x) * (1 + scale_a) + shift_a
        glorot = nn.initializers.xavier_uniform()
        attention = nn.MultiHeadDotProductAttention(2, kernel_init=glorot, name="attention")
        x = x + gate_a * attention(y, y)
        y = norm("norm_mlp")(x) * (1 + scale_m) + shift_m
        y = nn.gelu(nn.Dense(16, kernel_init=glorot, name="up")(y))
        return x + gate_m * nn.Dense(8, kernel_init=glorot, name="down")(y)


class DiT(nn.Module):
    """adaLN-zero: the block is the identity at the start, and so is the last layer 0."""

    @nn.compact
    def __call__(self, images, time, labels):
        x = nn.Conv(8, (4, 4), strides=4, name="patches")(images).reshape(len(images), -1, 8)
        x = x + jax.lax.stop_gradient(0.5 * jnp.sin(jnp.arange(4 * 8.0).reshape(4, 8)))
        t = TimeEmbedding(name="time")(time)
        condition = t + nn.Embed(3, 16, name="label")(labels)
        x = DiTBlock(name="block")(x, condition)
        scale = nn.Dense(2 * 8, kernel_init=zeros, name="last_modulation")(nn.silu(condition))
        shift, scale = jnp.split(scale[:, None], 2, -1)
        x = nn.LayerNorm(use_bias=False, use_scale=False, name="norm")(x) * (1 + scale) + shift
        return nn.Dense(48, kernel_init=zeros, name="last")(x).reshape(len(x), 8, 8, 3)


class ActorCritic(nn.Module):
    """Two heads, of which a loss of the values alone reads one."""

    def setup(self):
        orthogonal = nn.initializers.orthogonal
        self.torso = [nn.Dense(16, kernel_init=orthogonal(2**0.5)) for _ in range(2)]
        self.logits = nn.Dense(3, kernel_init=orthogonal(0.01))
        self.value = nn.Dense(1, kernel_init=orthogonal(1.0))

    def __call__(self, observation):
        x = observation
        for layer in self.torso:
            x = nn.tanh(layer(x))
        return self.logits(x), self.value(x)[:, 0]


def value_loss(outputs: Any, targets: Any) -> Any:
    _, value = outputs
    return 0.5 * jnp.square(value - targets)


IMAGES, NOISE = normal(BATCH, 8, 8, 3), normal(BATCH, 8, 8, 3, seed=2)
TIME = jnp.arange(float(BATCH)) * 10

MODELS = {
    "vae": Foreign(
        VAE(),
        normal(BATCH, 12),
        normal(BATCH, 12),
        negative_bound,
        settings={"evaluation_seed": 3},
        train=False,
    ),
    "unet": Foreign(UNet(), (IMAGES, TIME), NOISE, losses.mean_squared_error),
    "dit": Foreign(
        DiT(),
        {"images": IMAGES, "time": TIME, "labels": jnp.arange(BATCH) % 3},
        NOISE,
        losses.mean_squared_error,
    ),
    "actor and critic": Foreign(ActorCritic(), normal(BATCH, 6), normal(BATCH), value_loss),
}
