"""The table of docs/normalization.md against PyTorch's norms."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

PAGE = Path(__file__).parents[2] / "docs" / "normalization.md"
ROWS = re.findall(r"^\| `(.*?)` \| `(.*?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

FLAT, SEQUENCE, IMAGES = (8, 6), (8, 7, 6), (8, 5, 4, 6)
SHAPES = {
    "BatchNorm1d": (FLAT, SEQUENCE),
    "BatchNorm2d": (IMAGES,),
    "LayerNorm": (FLAT, SEQUENCE, IMAGES),
    "GroupNorm": (FLAT, SEQUENCE, IMAGES),
    "InstanceNorm1d": (SEQUENCE,),
    "InstanceNorm2d": (IMAGES,),
    "RMSNorm": (FLAT, SEQUENCE, IMAGES),
}
CASES = [
    (theirs, ours, shape)
    for theirs, ours in ROWS
    for shape in ((IMAGES,) if "((" in theirs else SHAPES[theirs.split("(")[0]])
]


def test_the_table_names_every_norm():
    assert {theirs.split("(")[0] for theirs, _ in ROWS} == set(SHAPES)


@pytest.mark.parametrize(("theirs", "ours", "shape"), CASES, ids=str)
def test_outputs_gradients_and_statistics(theirs, ours, shape):
    layer = eval(f"torch.nn.{theirs}", {"torch": torch})
    norm = eval(ours, {"nn": nn, "BatchNorm": BatchNorm})
    # LayerNorm((6, 5, 4)) has PyTorch's order as well; over the last axis alone both have one.
    last = re.match(r"(Layer|RMS)Norm\(6\)", theirs)
    rank = len(shape)
    there = tuple(range(rank)) if last else (0, rank - 1, *range(1, rank - 1))
    back = tuple(np.argsort(there))
    draw = np.random.default_rng(0)
    x, upstream = (jnp.asarray(1 + 2 * draw.normal(size=shape), jnp.float32) for _ in range(2))

    def apply(norm, x):
        return apply_norm(norm, x, train=True)

    variables = dict(nn.init(apply, norm)(jax.random.key(0), x))
    params = variables.pop("params", {})
    assert bool(params) == any(True for _ in layer.parameters())
    for name, leaf in params.items():
        params[name] = jnp.asarray(draw.normal(size=leaf.shape), jnp.float32)
        parameter = getattr(layer, {"scale": "weight", "bias": "bias"}[name])
        values = np.asarray(params[name])
        # The scale of whole images is theirs in PyTorch's order of axes.
        parameter.data.copy_(torch.tensor(values.transpose(2, 0, 1) if values.ndim > 1 else values))

    @jax.jit
    def run(x, upstream):
        def function(x):
            return nn.apply(apply, norm, mutable=["batch_stats"])(
                {**variables, "params": params}, x
            )

        y, pull, updates = jax.vjp(function, x, has_aux=True)
        return y, pull(upstream)[0], updates.get("batch_stats", {})

    y, gradient, statistics = run(x, upstream)
    inputs = torch.tensor(np.asarray(x).transpose(there), requires_grad=True)
    outputs = layer(inputs)
    outputs.backward(torch.tensor(np.asarray(upstream).transpose(there)))
    compared = [
        (y, outputs.detach().numpy().transpose(back)),
        (gradient, inputs.grad.numpy().transpose(back)),
    ]
    if statistics:
        compared += [
            (statistics["mean"], layer.running_mean.numpy()),
            (statistics["var"], layer.running_var.numpy()),
        ]
    tracked = theirs.startswith("BatchNorm") and "track_running_stats" not in theirs
    assert bool(statistics) == tracked
    for got, expected in compared:
        # Sums of up to 160 float32 terms: some tens of roundings of one part in 2^24.
        np.testing.assert_allclose(
            got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max())
        )


def test_flaxs_own_batch_norm_is_reached_too():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)
    here, flax = BatchNorm(momentum=0.99, unbiased_variance=False), nn.BatchNorm()
    variables = here.init(jax.random.key(0), x, train=False)
    y, updates = here.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, updated = flax.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    # At a mean near 0 the fast variance loses nothing.
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            updates["batch_stats"][name], updated["batch_stats"][name], rtol=1e-5, atol=1e-6
        )
