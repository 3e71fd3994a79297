"""Batch normalisation against `torch.nn.BatchNorm1d` and `BatchNorm2d`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("shape", [(20, 6), (8, 5, 7, 6)], ids=["1d", "2d"])
@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_twenty_steps_forward_backward_and_running(shape, momentum):
    channels = shape[-1]
    layer = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    theirs = layer(channels, momentum=momentum)
    draw = np.random.default_rng(0)
    scale, bias = draw.normal(size=(2, channels)).astype(np.float32)
    theirs.weight.data, theirs.bias.data = torch.tensor(scale), torch.tensor(bias)
    ours = BatchNorm(momentum=1 - momentum)
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    stats = ours.init(jax.random.key(0), jnp.zeros(shape), train=False)["batch_stats"]

    def loss(params, x, stats, upstream):
        y, updates = ours.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.vdot(y, upstream), (y, updates["batch_stats"])

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    to_torch = (0, 3, 1, 2) if len(shape) == 4 else (0, 1)
    from_torch = (0, 2, 3, 1) if len(shape) == 4 else (0, 1)
    for _ in range(20):
        x = (2 + 3 * draw.normal(size=shape)).astype(np.float32)
        upstream = draw.normal(size=shape).astype(np.float32)
        (of_params, of_x), (y, stats) = gradients(params, jnp.asarray(x), stats, upstream)
        inputs = torch.tensor(x.transpose(to_torch), requires_grad=True)
        theirs.zero_grad()
        outputs = theirs(inputs)
        outputs.backward(torch.tensor(upstream.transpose(to_torch)))
        for got, expected in (
            (y, outputs.detach().numpy().transpose(from_torch)),
            (of_x, inputs.grad.numpy().transpose(from_torch)),
            (of_params["scale"], theirs.weight.grad),
            (of_params["bias"], theirs.bias.grad),
            (stats["mean"], theirs.running_mean),
            (stats["var"], theirs.running_var),
        ):
            # Sums of up to 280 float32 terms of size 10: a few 1e-6 of the largest entry.
            scale_of = np.abs(np.asarray(expected)).max()
            np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-5, atol=1e-5 * scale_of)
    theirs.eval()
    expected = theirs(torch.tensor(x.transpose(to_torch))).detach().numpy().transpose(from_torch)
    got = ours.apply({"params": params, "batch_stats": stats}, jnp.asarray(x), train=False)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
