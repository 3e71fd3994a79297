"""Complex weights, signals and gradients: every size is that of |z|, against complex128."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, diagnostics, losses, optimizers, training
from jaxdl.diagnostics.signal.flops import Flops

Complex = functools.partial(
    nn.Dense,
    use_bias=False,
    dtype=jnp.complex64,
    param_dtype=jnp.complex64,
    kernel_init=nn.initializers.normal(0.5),
)


class Waves(nn.Module):
    """Complex layers with a real output: the intensities."""

    @nn.compact
    def __call__(self, x):
        z = Complex(6, name="first")(x)
        z = Complex(2, name="second")(z * jnp.abs(z))
        return jnp.abs(z) ** 2


def half_squares(outputs, targets):
    return jnp.sum(jnp.square(outputs - targets), -1) / 2


@pytest.fixture(scope="module")
def setting():
    draw = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(draw.normal(size=(16, 4)), jnp.float32),
        "targets": jnp.asarray(draw.normal(size=(16, 2)), jnp.float32),
    }
    return Waves(), Waves().init(jax.random.key(0), batch["inputs"]), batch


def by_hand(variables, batch):
    """Values, gradients (d/dRe + i d/dIm) and the kernels', in complex128."""
    first, second = (
        np.asarray(variables["params"][name]["kernel"], np.complex128)
        for name in ("first", "second")
    )
    x, targets = (np.asarray(batch[name], np.float64) for name in ("inputs", "targets"))
    z0 = x @ first
    a0 = z0 * np.abs(z0)
    z1 = a0 @ second
    y = np.abs(z1) ** 2
    dy = y - targets
    dz1 = 2 * dy * z1
    da0 = dz1 @ second.conj().T
    dz0 = np.abs(z0) * da0 + z0 / np.abs(z0) * (z0 * da0.conj()).real
    values, gradients = (z0, a0, z1, y), (dz0, da0, dz1, dy)
    return values, gradients, (x.T @ dz0 / 16, a0.conj().T @ dz1 / 16), (first, second)


# Products of 6 terms, cubes and sums over 16 examples of them: some tens of roundings.
ROUNDING = 1e-5


def test_propagation_measures_moduli(setting):
    measured = diagnostics.propagation(*setting, loss=half_squares, optimizer=optimizers.sgd(0.1))
    assert measured.names == ("first", "first/activation", "second", "second/activation")
    values, gradients, of_kernels, kernels = by_hand(*setting[1:])
    for row, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        size = np.abs if np.iscomplexobj(value) else float
        for got, expected, of in (
            (measured.mean[row], size(value.mean()), value),
            (measured.stddev[row], value.std(), value),
            (measured.second_moment[row] ** 0.5, np.sqrt((np.abs(value) ** 2).mean()), value),
            (measured.gradient_mean[row], size(gradient.mean()), gradient),
            (measured.gradient_stddev[row], gradient.std(), gradient),
        ):
            largest = np.abs(of).max()
            np.testing.assert_allclose(got, expected, rtol=ROUNDING, atol=ROUNDING * largest)
    for layer, row in enumerate((0, 2)):
        weight, gradient = np.linalg.norm(kernels[layer]), np.linalg.norm(of_kernels[layer])
        np.testing.assert_allclose(measured.weight_norm[row], weight, rtol=ROUNDING)
        np.testing.assert_allclose(measured.weight_gradient_norm[row], gradient, rtol=ROUNDING)
        ratio = 0.1 * gradient / weight
        np.testing.assert_allclose(measured.update_ratio[row], ratio, rtol=ROUNDING)
    # A function of complex numbers has no one slope; the second row is real, but made from one.
    assert np.isnan(measured.saturated_fraction).all()
    for field in ("mean", "stddev", "gradient_mean", "gradient_stddev", "weight_norm"):
        assert getattr(measured, field).dtype == jnp.float32
    assert all(each.problem != "not finite" for each in diagnostics.advise(measured))


def test_the_optimizer_is_shown_the_gradient_that_points_uphill(setting):
    model, variables, batch = setting
    _, _, (expected, _), _ = by_hand(variables, batch)

    def update(updates, state, params=None):
        kept.append(updates["first"]["kernel"])
        return updates, state

    kept = []
    watch = optax.GradientTransformation(lambda params: (), update)
    with jax.disable_jit():
        diagnostics.propagation(model, variables, batch, loss=half_squares, optimizer=watch)
    np.testing.assert_allclose(
        kept[0], expected, rtol=ROUNDING, atol=ROUNDING * np.abs(expected).max()
    )


def test_dead_units_and_exact_zeros_of_complex_rows(setting):
    model, variables, batch = setting
    kernel = variables["params"]["first"]["kernel"].at[:, :3].set(0)
    params = {**variables["params"], "first": {"kernel": kernel}}
    measured = diagnostics.propagation(model, {"params": params}, batch, loss=half_squares)
    assert measured.dead_fraction[0] == measured.dead_fraction[1] == 0.5
    assert measured.gradient_zero_fraction[0] == 0.5  # of z |z| at 0


def test_histograms_count_moduli(setting):
    counted = diagnostics.histograms(
        *setting, bins=np.linspace(0, 4, 9), loss=half_squares, gradient_bins=[0.0, 1.0, 10.0, 1e6]
    )
    values, gradients, *_ = by_hand(*setting[1:])
    assert counted.gradients is not None
    for row in range(4):
        for kept, of in ((counted.activations, values[row]), (counted.gradients, gradients[row])):
            sizes = np.abs(of) if np.iscomplexobj(of) else of
            expected, _ = np.histogram(sizes, np.asarray(kept.edges[row], np.float64))
            # No entry stands within rounding of an edge: the next would.
            edges = np.asarray(kept.edges[row], np.float64)
            near = np.abs(sizes.ravel()[:, None] - edges).min(1) < 1e-5 * np.maximum(1, edges.max())
            assert np.abs(kept.counts[row] - expected).sum() <= 2 * near.sum()
    with pytest.raises(ValueError, match="2 edges and more, real"):
        diagnostics.histograms(*setting, bins=np.array([0, 1j]))


def test_a_complex_product_is_four_real_ones(setting):
    sizes = diagnostics.summary(setting[0], jax.ShapeDtypeStruct((16, 4), jnp.float32))
    assert sizes.flops[0] == Flops(4 * 2 * 16 * 4 * 6, 4 * 2 * 16 * 4 * 6)
    assert sizes.activation_bytes[0] == 16 * 6 * 8


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_random_directions_have_the_norms_of_moduli(normalization):
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(7, 4)) + 1j * draw.normal(size=(7, 4))
    params = {"kernel": jnp.asarray(kernel, jnp.complex64)}
    (direction,) = diagnostics.random_directions(
        jax.random.key(0), params, count=1, normalization=normalization
    )
    assert direction["kernel"].dtype == jnp.complex64
    axis = 0 if normalization == "filter" else None
    got, expected = (
        np.sqrt((np.abs(np.asarray(each, np.complex128)) ** 2).sum(axis))
        for each in (direction["kernel"], params["kernel"])
    )
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    assert np.abs(direction["kernel"].imag).min() > 0


def quadratic(params):
    """Curvature 1 along the real and 9 along the imaginary part."""
    away = params["w"] - jnp.array([1 + 2j, -1j])
    return jnp.sum(jnp.square(away.real) + 9 * jnp.square(away.imag)) / 2


PAIRS = {"w": jnp.array([3 - 1j, 2 + 2j], jnp.complex64)}


def real_quadratic(params):
    return quadratic({"w": jax.lax.complex(params["re"], params["im"])})


def as_reals(tree):
    return {"re": tree["w"].real, "im": tree["w"].imag}


@pytest.mark.parametrize("optimizer", [optimizers.momentum(0.01), optimizers.adam(0.1)])
def test_a_path_goes_downhill_as_that_of_the_parts(optimizer):
    path = diagnostics.descend(quadratic, optimizer, PAIRS, 30)
    expected = diagnostics.descend(real_quadratic, optimizer, as_reals(PAIRS), 30)
    chex.assert_trees_all_close(as_reals(path), expected, rtol=1e-5, atol=1e-5)
    heights = jax.vmap(quadratic)(path)
    assert heights[-1] < 0.5 * heights[0]


def test_the_plane_of_a_path_is_that_of_its_parts():
    path = diagnostics.descend(quadratic, optimizers.momentum(0.01), PAIRS, 30)
    found = diagnostics.principal_directions(path)
    expected = diagnostics.principal_directions(as_reals(path))
    np.testing.assert_allclose(found.variance_shares, expected.variance_shares, rtol=1e-9)
    for one, other in zip(found.directions, expected.directions, strict=True):
        assert one["w"].dtype == jnp.complex64
        chex.assert_trees_all_close(as_reals(one), other, rtol=1e-6, atol=1e-6)
    origin = jax.tree.map(lambda leaf: leaf[-1], path)
    coordinates = diagnostics.project(path, origin, found.directions)
    assert coordinates.dtype == np.float64
    reals = as_reals(origin), expected.directions
    np.testing.assert_allclose(
        coordinates, diagnostics.project(as_reals(path), *reals), rtol=1e-5, atol=1e-5
    )
    x, y = np.linspace(-1, 1, 3), np.linspace(-2, 2, 4)
    np.testing.assert_allclose(
        diagnostics.surface(quadratic, origin, found.directions, x, y),
        diagnostics.surface(real_quadratic, reals[0], reals[1], x, y),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_surface_refuses_what_it_would_round_or_drop():
    whole = {"w": jnp.arange(3)}
    with pytest.raises(ValueError, match="floating-point or complex arrays, got a leaf of int32"):
        diagnostics.surface(lambda p: p["w"].sum() * 1.0, whole, [whole], jnp.arange(3.0))
    real = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="real where the parameters are, got complex64 along floa"):
        diagnostics.surface(lambda p: p["w"].sum(), real, [PAIRS], jnp.arange(3.0))
    with pytest.raises(ValueError, match="loss must return a real number, got complex64"):
        diagnostics.surface(lambda p: p["w"].sum(), PAIRS, [PAIRS], jnp.arange(3.0))
    with pytest.raises(ValueError, match="two real numbers on the last axis, got complex64"):
        diagnostics.artificial_landscapes.beale(jnp.ones(2) * 1j)
    with pytest.raises(ValueError, match=r"got float32 of shape \(3,\)"):
        diagnostics.artificial_landscapes.saddle(jnp.ones(3))


class One(nn.Module):
    """w x of which the real part is given out; w as one complex number or as its parts."""

    is_complex: bool

    @nn.compact
    def __call__(self, x):
        if self.is_complex:
            w = self.param("w", lambda key, shape: jnp.full(shape, 0.1 + 0.2j), (2,))
        else:
            parts = self.param("w", lambda key: jnp.array([[0.1, 0.1], [0.2, 0.2]]))
            w = jax.lax.complex(parts[0], parts[1])
        return jnp.sum(w * (x[:, :2] + 1j * x[:, 2:]), -1, keepdims=True).real


@pytest.mark.parametrize("method", ["ramp", "runs"])
def test_a_rate_range_is_that_of_the_parts(method):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(64, 4)).astype(np.float32)
    arrays = data.Arrays(x, x @ np.array([[1.0], [2.0], [-1.0], [0.5]], np.float32))
    found = [
        diagnostics.rate_range(
            One(is_complex), arrays, optimizers.sgd, loss=losses.mean_squared_error,
            batch_size=16, key=jax.random.key(0), method=method, low=1e-3, high=3.0,
            rates=40 if method == "ramp" else 8, steps=1 if method == "ramp" else 20,
        )
        for is_complex in (True, False)
    ]  # fmt: skip
    np.testing.assert_allclose(found[0].suggested, found[1].suggested, rtol=1e-6)
    stays = found[1].curve.rates < 0.3  # a divergence multiplies rounding
    for name in ("loss", "start"):
        one, other = (getattr(each.curve, name)[stays] for each in found)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_theory_refuses_complex_activations():
    with pytest.raises(ValueError, match="must be real for real arguments, got complex128"):
        diagnostics.mean_field(lambda z: z * 1j, weight_variance=1.0, depth=2)
    with pytest.raises(ValueError, match="must be real for real arguments, got complex128"):
        diagnostics.critical_weight_variance(lambda z: jnp.exp(1j * z))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, name="norm")(x * (1 + 1j))


def test_running_statistics_of_complex_numbers_are_checked():
    draw = np.random.default_rng(0)
    x = jnp.asarray(3 + draw.normal(size=(200, 4)), jnp.float32)
    variables = Normed().init(jax.random.key(0), x, train=False)
    assert [each.problem for each in diagnostics.check_batch_norm(Normed(), variables, x)] == [
        "never moved"
    ]
    exact = training.recalibrate(Normed(), variables, [x[:50], x[50:]])
    values = np.asarray(x, np.float64) * (1 + 1j)
    stats = exact["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], values.var(0), rtol=1e-5)
    assert diagnostics.check_batch_norm(Normed(), exact, x) == ()
    turned = {"batch_stats": {"norm": {**stats, "mean": stats["mean"].conj()}}}
    (found,) = diagnostics.check_batch_norm(Normed(), {**variables, **turned}, x)
    # The conjugate is off by twice the imaginary part, over the deviation.
    expected = (2 * np.abs(values.mean(0).imag) / np.sqrt(values.var(0) + 1e-5)).max()
    assert found.problem == "other data"
    np.testing.assert_allclose(found.measured, expected, rtol=1e-4)
