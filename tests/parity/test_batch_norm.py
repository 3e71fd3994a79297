"""Batch normalisation against `torch.nn.BatchNorm1d` and `BatchNorm2d`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS, CHANNELS = 20, 6

# Shape, axis of the features, and PyTorch's order of the axes.
FLAT = ((20, 6), -1, (0, 1))
LAYOUTS = {
    "NC": FLAT,
    "NCL": ((8, 6, 7), 1, (0, 1, 2)),
    "NLC": ((8, 7, 6), -1, (0, 2, 1)),
    "NHWC": ((8, 5, 7, 6), -1, (0, 3, 1, 2)),
    "NCHW": ((8, 6, 5, 7), 1, (0, 1, 2, 3)),
}

# Sums of up to 280 terms of size 10 in float32 or float64: a few dozen roundings of the largest
# entry. A result in lower precision is rounded once on either side, from float32 values that are
# not quite the same: a unit in each entry's last place.
TOLERANCE = {
    "float32": 1e-5,
    "float64": 1e-13,
    "bfloat16": float(jnp.finfo(jnp.bfloat16).eps),
    "float16": float(jnp.finfo(jnp.float16).eps),
}

CASES: list[tuple[str, str, dict]] = (
    [(layout, "float32", {}) for layout in LAYOUTS]
    + [("NC", "float32", {"momentum": momentum}) for momentum in (0.0, 0.5, 0.99, 1.0)]
    + [("NHWC", dtype, {}) for dtype in ("float64", "bfloat16", "float16")]
    + [
        ("NC", "float64", {"cumulative": True}),
        ("NHWC", "float32", {"cumulative": True}),
        ("NHWC", "float32", {"use_scale": False, "use_bias": False}),
        ("NC", "bfloat16", {"use_scale": False, "use_bias": False}),
        ("NC", "float32", {"unbiased_variance": False}),
        ("NC", "float64", {"unbiased_variance": False, "cumulative": True}),
        ("NC", "float32", {"epsilon": 1e-3}),
    ]
)


def layer_of_torch(shape, dtype, settings):
    """With float32 parameters and statistics for inputs of lower precision, as under autocast."""
    layer = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    theirs = layer(
        CHANNELS,
        eps=settings.get("epsilon", 1e-5),
        momentum=None if settings.get("cumulative") else 1 - settings.get("momentum", 0.9),
        affine=settings.get("use_scale", True),
    )
    return theirs.double() if dtype == "float64" else theirs


def check(got, expected, tolerance, of_largest):
    got = np.asarray(got, np.float64)
    expected = np.asarray(expected.detach().double() if hasattr(expected, "detach") else expected)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=of_largest * largest)


@pytest.mark.parametrize(("layout", "dtype", "settings"), CASES, ids=str)
def test_twenty_steps_forward_backward_and_running(layout, dtype, settings):
    shape, axis, order = LAYOUTS[layout]
    theirs = layer_of_torch(shape, dtype, settings)
    ours = BatchNorm(feature_axis=axis, **settings)
    draw = np.random.default_rng(0)
    tolerance = TOLERANCE[dtype]
    in_float32 = min(tolerance, TOLERANCE["float32"])

    with jax.enable_x64(dtype == "float64"):
        variables = ours.init(jax.random.key(0), jnp.zeros(shape, dtype), train=False)
        params, stats = variables.get("params", {}), variables["batch_stats"]
        wide = jnp.promote_types(dtype, jnp.float32)
        assert stats["mean"].dtype == wide
        if params:
            values = draw.normal(size=(2, CHANNELS)).astype(np.float32)
            params = {"scale": jnp.asarray(values[0], wide), "bias": jnp.asarray(values[1], wide)}
            for parameter, value in zip((theirs.weight, theirs.bias), values, strict=True):
                parameter.data.copy_(torch.tensor(value))

        @jax.jit
        def step(params, x, stats, upstream):
            def apply(params, x):
                y, updates = ours.apply(
                    {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
                )
                return y, updates["batch_stats"]

            y, pull, stats_after = jax.vjp(apply, params, x, has_aux=True)
            return y, pull(upstream), stats_after

        def tensor(array):
            # Through float64, which holds every dtype's values, for NumPy has no bfloat16.
            values = np.asarray(array, np.float64).transpose(order)
            return torch.tensor(values, dtype=getattr(torch, dtype))

        def array(tensor):
            return tensor.detach().double().numpy().transpose(np.argsort(order))

        for _ in range(STEPS):
            x = jnp.asarray(2 + 3 * draw.normal(size=shape), dtype)
            upstream = jnp.asarray(draw.normal(size=shape), dtype)
            y, (of_params, of_x), stats = step(params, x, stats, upstream)
            inputs = tensor(x).requires_grad_()
            theirs.zero_grad()
            outputs = theirs(inputs)
            outputs.backward(tensor(upstream))
            assert y.dtype == of_x.dtype == dtype
            check(y, array(outputs), tolerance, in_float32)
            check(of_x, array(inputs.grad), tolerance, in_float32)
            if params:
                check(of_params["scale"], theirs.weight.grad, in_float32, in_float32)
                check(of_params["bias"], theirs.bias.grad, in_float32, in_float32)
        check(stats["mean"], theirs.running_mean, in_float32, in_float32)
        check(stats["var"], expected_variance(theirs, shape, settings), in_float32, in_float32)

        if settings.get("unbiased_variance", True):
            theirs.eval()
            got = ours.apply({"params": params, "batch_stats": stats}, x, train=False)
            check(got, array(theirs(tensor(x))), tolerance, in_float32)


def expected_variance(theirs, shape, settings):
    """PyTorch keeps the unbiased one: all but the share of the 1 that it began with is scaled."""
    if settings.get("unbiased_variance", True):
        return theirs.running_var
    first = 0.0 if settings.get("cumulative") else settings.get("momentum", 0.9) ** STEPS
    count = np.prod(shape) / CHANNELS
    return first + (theirs.running_var - first) * (count - 1) / count


def test_both_refuse_one_value_per_feature_in_training():
    norm, x = BatchNorm(), jnp.zeros((1, CHANNELS))
    variables = norm.init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm1d(CHANNELS)(torch.zeros(1, CHANNELS))
    with pytest.raises(ValueError, match="at least two values per feature"):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("layout", ["NC", "NHWC"])
def test_without_running_statistics_both_take_the_batchs_in_evaluation(layout):
    shape, axis, order = LAYOUTS[layout]
    layer = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    theirs = layer(CHANNELS, track_running_stats=False)
    ours = BatchNorm(feature_axis=axis, track_running_stats=False)
    draw = np.random.default_rng(0)
    x, upstream = (2 + 3 * draw.normal(size=(2, *shape))).astype(np.float32)
    variables = ours.init(jax.random.key(0), jnp.asarray(x[:1]), train=False)
    assert set(variables) == {"params"}
    assert not dict(theirs.named_buffers())
    for train in (True, False):
        theirs.train(train)
        inputs = torch.tensor(x.transpose(order)).requires_grad_()
        outputs = theirs(inputs)
        (gradient,) = torch.autograd.grad(
            outputs, inputs, torch.tensor(upstream.transpose(order).copy())
        )
        y, pull = jax.vjp(lambda x, t=train: ours.apply(variables, x, train=t), jnp.asarray(x))
        back = np.argsort(order)
        tolerance = TOLERANCE["float32"]
        check(y, outputs.detach().numpy().transpose(back), tolerance, tolerance)
        got = pull(jnp.asarray(upstream))[0]
        check(got, gradient.numpy().transpose(back), tolerance, tolerance)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(torch.zeros((1, CHANNELS) if len(shape) == 2 else (1, CHANNELS, 1, 1)))
    with pytest.raises(ValueError, match="at least two values per feature"):
        ours.apply(variables, jnp.zeros((1, *[1] * (len(shape) - 2), CHANNELS)), train=False)


@pytest.mark.parametrize("scale", [1e-30, 1e10, 1e18, 1e19, 1e25])
def test_where_pytorch_is_right_so_are_we(scale):
    x = (scale * np.random.default_rng(0).normal(size=(16, 3))).astype(np.float32)
    expected = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    expected /= np.sqrt(np.square(expected).mean(0) + 1e-5)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    theirs = torch.nn.BatchNorm1d(3)(torch.tensor(x)).detach().numpy()
    largest = np.abs(expected).max()
    off = [np.abs(np.asarray(each, np.float64) - expected).max() / largest for each in (y, theirs)]
    assert off[0] < 1e-6
    assert (off[1] < 1e-6) == (scale < 1e19), off  # its variance is infinite: it gives 0
