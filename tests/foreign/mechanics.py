"""Networks that are put together in an unusual way."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from foreign.language import of_members
from foreign.zoo import BATCH, Foreign, normal, squared, unstacked

from jaxdl import losses


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        return nn.Dense(8, name="code")(x)


class Siamese(nn.Module):
    """One encoder for two inputs."""

    def setup(self):
        self.encoder = Encoder()
        self.head = nn.Dense(1)

    def __call__(self, left, right):
        return self.head(jnp.abs(self.encoder(left) - self.encoder(right)))


class Spectral(nn.Module):
    """A layer of a Fourier neural operator: complex weights for the low frequencies."""

    @nn.compact
    def __call__(self, x):
        def init(key, shape):
            real, imaginary = jax.random.normal(key, (2, *shape)) / 8
            return real + 1j * imaginary

        modes, width = 3, x.shape[-1]
        weights = self.param("weights", init, (modes, width, width))
        low = jnp.einsum("bmi,mio->bmo", jnp.fft.rfft(x, axis=1)[:, :modes], weights)
        low = jnp.pad(low, ((0, 0), (0, x.shape[1] // 2 + 1 - modes), (0, 0)))
        return jnp.fft.irfft(low, n=x.shape[1], axis=1)


class Operator(nn.Module):
    """A Fourier neural operator."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="lift")(x)
        x = nn.gelu(Spectral(name="spectral")(x) + nn.Conv(8, (1,), name="skip")(x))
        return nn.Dense(1, name="project")(x)


class Applies(nn.Module):
    """Holds the parameters of another module, and applies it by hand."""

    plain: bool = False

    @nn.compact
    def __call__(self, x):
        inner = Encoder(parent=None)
        x = nn.tanh(nn.Dense(8, name="first")(x))
        if self.plain:
            x = Encoder(name="inner")(x)
        else:
            params = self.param("inner", lambda key: inner.init(key, x)["params"])
            x = inner.apply({"params": params}, x)
        return nn.Dense(1, name="last")(nn.tanh(x))


class Member(nn.Module):
    axis_name: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8, name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, name="norm")(x)
        return nn.Dense(1, name="out")(nn.relu(x))


class Ensemble(nn.Module):
    """Three members, mapped, whose norms share their statistics over the mapped axis."""

    @nn.compact
    def __call__(self, x, train):
        mapped = nn.vmap(
            Member,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=3,
            axis_name="members",
        )
        return mapped("members", name="members")(x, train).mean(0)


class GivenNorm(nn.Module):
    """A batch norm whose statistics are given."""

    @nn.compact
    def __call__(self, x, mean, variance):
        scale, bias = (self.param(name, nn.initializers.ones, (8,)) for name in ("scale", "bias"))
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + bias


class PlainMember(nn.Module):
    def setup(self):
        self.dense, self.norm, self.out = nn.Dense(8), GivenNorm(), nn.Dense(1)

    def before(self, x):
        return self.dense(x)

    def after(self, x, mean, variance):
        return self.out(nn.relu(self.norm(x, mean, variance)))


class PlainEnsemble(nn.Module):
    """The same, where the statistics are taken by hand; in evaluation, those of the start."""

    @nn.compact
    def __call__(self, x, train):
        members = [PlainMember(name=f"members_{n}") for n in range(3)]
        hidden = [member.before(x) for member in members]
        mean, variance = jnp.zeros(8), jnp.ones(8)
        if train:
            mean, variance = jnp.stack(hidden).mean((0, 1)), jnp.stack(hidden).var((0, 1))
        outputs = [m.after(h, mean, variance) for m, h in zip(members, hidden, strict=True)]
        return jnp.stack(outputs).mean(0)


class Wrapper(nn.Module):
    """Passes its keywords on."""

    @nn.compact
    def __call__(self, x, **kwargs):
        x = Phased(name="body")(x, **kwargs)
        return nn.Dense(1, name="head")(x)


class Phased(nn.Module):
    @nn.compact
    def __call__(self, x, phase=False):
        x = nn.leaky_relu(nn.Dense(8, name="dense")(x))
        return nn.Dropout(0.25, deterministic=not phase, name="drop")(x)


class Listed(nn.Module):
    """Modules in a list and in a dictionary."""

    def setup(self):
        self.layers = [nn.Dense(8) for _ in range(3)]
        self.heads = {"mean": nn.Dense(1), "scale": nn.Dense(1)}

    def __call__(self, x):
        for layer in self.layers:
            x = nn.elu(layer(x))
        return {name: head(x)[:, 0] for name, head in self.heads.items()}


def likelihood(outputs: Any, targets: Any) -> Any:
    log_scale = outputs["scale"]
    return log_scale + 0.5 * jnp.square((targets - outputs["mean"]) / jnp.exp(log_scale))


SERIES = normal(BATCH, 8, 2)
VALUES = normal(BATCH, 1, seed=3)

MODELS = {
    "siamese": Foreign(
        Siamese(), (normal(BATCH, 6), normal(BATCH, 6, seed=2)), VALUES, losses.mean_squared_error
    ),
    "spectral": Foreign(Operator(), SERIES, SERIES[..., :1], squared),
    "applies": Foreign(
        Applies(), normal(BATCH, 6), VALUES, losses.mean_squared_error, twin=Applies(plain=True)
    ),
    "ensemble": Foreign(
        Ensemble(),
        normal(BATCH, 6),
        VALUES,
        losses.mean_squared_error,
        twin=PlainEnsemble(),
        unstack=unstacked("members", 3, "members_{}"),
        named=of_members,
    ),
    "keywords": Foreign(
        Wrapper(), normal(BATCH, 6), VALUES, losses.mean_squared_error, settings={"mode": "phase"}
    ),
    "lists": Foreign(Listed(), normal(BATCH, 6), VALUES[:, 0], likelihood),
}
