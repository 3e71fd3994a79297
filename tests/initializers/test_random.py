"""Random families against their distributions, and the settings they refuse.

Every random statement in this file has a false-alarm rate of at most 1e-8 by itself, so that the
file has less than 1e-6 in all; the keys are fixed, so an alarm repeats.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl import initializers as ini

ALARM = 1e-8
DENSE, CONV1D, CONV2D, GROUPED = (300, 200), (5, 40, 90), (3, 3, 32, 64), (3, 3, 1, 512)
SHAPES = [DENSE, CONV1D, CONV2D, GROUPED]


def fan(shape, mode):
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]


def normal_of(variance):
    return stats.norm(0, math.sqrt(variance))


def uniform_of(variance):
    bound = math.sqrt(3 * variance)
    return stats.uniform(-bound, 2 * bound)


def truncated_of(variance):
    unit = stats.truncnorm(-2, 2)
    return stats.truncnorm(-2, 2, scale=math.sqrt(variance) / unit.std())


# Each: the initializer, and its distribution on a kernel of a given shape.
SCALED = {
    "lecun_normal": (ini.lecun_normal(), lambda s: normal_of(1 / fan(s, "fan_in"))),
    "lecun_uniform": (ini.lecun_uniform(), lambda s: uniform_of(1 / fan(s, "fan_in"))),
    "glorot_normal": (ini.glorot_normal(), lambda s: normal_of(1 / fan(s, "fan_avg"))),
    "glorot_uniform": (ini.glorot_uniform(), lambda s: uniform_of(1 / fan(s, "fan_avg"))),
    "glorot_normal(5/3)": (
        ini.glorot_normal(gain=5 / 3),
        lambda s: normal_of(25 / 9 / fan(s, "fan_avg")),
    ),
    "glorot_uniform(5/3)": (
        ini.glorot_uniform(gain=5 / 3),
        lambda s: uniform_of(25 / 9 / fan(s, "fan_avg")),
    ),
    "he_normal": (ini.he_normal(), lambda s: normal_of(2 / fan(s, "fan_in"))),
    "he_uniform": (ini.he_uniform(), lambda s: uniform_of(2 / fan(s, "fan_in"))),
    "he_normal(0.5, fan_out)": (
        ini.he_normal(negative_slope=0.5, mode="fan_out"),
        lambda s: normal_of(2 / 1.25 / fan(s, "fan_out")),
    ),
    "he_uniform(0.5, fan_avg)": (
        ini.he_uniform(negative_slope=0.5, mode="fan_avg"),
        lambda s: uniform_of(2 / 1.25 / fan(s, "fan_avg")),
    ),
    "variance_scaling(truncated)": (
        ini.variance_scaling(3.0, "fan_in", "truncated_normal"),
        lambda s: truncated_of(3 / fan(s, "fan_in")),
    ),
    "torch_kernel": (ini.torch_kernel(), lambda s: uniform_of(1 / 3 / fan(s, "fan_in"))),
}
PLAIN = {
    "normal": (ini.normal(0.3, 0.1), stats.norm(0.3, 0.1)),
    "uniform": (ini.uniform(-0.5, 2.0), stats.uniform(-0.5, 2.5)),
    "truncated_normal": (
        ini.truncated_normal(0.3, 0.1),
        stats.truncnorm(-2, 2, loc=0.3, scale=0.1),
    ),
    "truncated_normal(-1, 3)": (
        ini.truncated_normal(0.0, 0.5, lower=-1, upper=3),
        stats.truncnorm(-1, 3, scale=0.5),
    ),
    "torch_bias": (ini.torch_bias(25), stats.uniform(-0.2, 0.4)),
}


def check_distribution(draws, distribution):
    """Kolmogorov-Smirnov for the shape; the mean and variance within their sampling errors."""
    x = np.asarray(draws, np.float64).ravel()
    assert stats.kstest(x, distribution.cdf).pvalue > ALARM
    mean, variance, _, kurtosis = (float(m) for m in distribution.stats("mvsk"))
    sigmas = stats.norm.isf(ALARM / 2)
    assert abs(x.mean() - mean) < sigmas * math.sqrt(variance / x.size)
    spread = math.sqrt((kurtosis + 2) / x.size)
    assert abs(((x - mean) ** 2).mean() / variance - 1) < sigmas * spread


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SCALED)
def test_scaled_families_follow_their_distribution(key, name, shape):
    init, distribution = SCALED[name]
    check_distribution(init(key, shape), distribution(shape))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_families_follow_their_distribution(key, name):
    init, distribution = PLAIN[name]
    check_distribution(init(key, (60_000,)), distribution)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", SCALED)
def test_half_precision_keeps_the_moments(key, name, dtype):
    init, distribution = SCALED[name]
    x = np.asarray(init(key, DENSE, dtype), np.float64)
    same_in_float32 = np.asarray(init(key, DENSE), np.float64)
    _, variance, _, kurtosis = (float(m) for m in distribution(DENSE).stats("mvsk"))
    # One rounding to nearest moves each weight by at most eps / 2 of itself, and float16 by at
    # most 2^-25 where its numbers are subnormal.
    half = float(jnp.finfo(dtype).eps) / 2
    assert np.all(np.abs(x - same_in_float32) <= half * np.abs(same_in_float32) + 2.0**-25)
    sigmas = stats.norm.isf(ALARM / 2)
    assert abs(x.mean()) < sigmas * math.sqrt(variance / x.size) + half * math.sqrt(variance)
    spread = sigmas * math.sqrt((kurtosis + 2) / x.size)
    assert abs((x**2).mean() / variance - 1) < spread + 2 * half + half**2


@pytest.mark.parametrize("name", SCALED)
def test_float64_is_drawn_in_float64(key, name):
    init, distribution = SCALED[name]
    with jax.enable_x64(True):
        weights = init(key, DENSE, jnp.float64)
        assert weights.dtype == jnp.float64
        check_distribution(weights, distribution(DENSE))
        # Were the draw in float32, rounding to float32 would change nothing.
        assert np.mean(np.float32(weights) == np.asarray(weights)) < 0.01


def test_normal_families_are_not_truncated(key):
    # Of 1e6 draws 46,000 are expected beyond two sigma, 63 beyond four; none would be if cut.
    for init in (ini.he_normal(), ini.glorot_normal(), ini.lecun_normal()):
        w = init(key, (1000, 1000))
        assert float(jnp.abs(w).max() / w.std()) > 4


def test_truncation_holds_its_bounds(key):
    w = ini.truncated_normal(1.0, 2.0, lower=-0.5, upper=1.5)(key, (100_000,))
    # The bounds are mean + sigma * bound, rounded in float32.
    assert float(w.min()) >= 0 - 2.0**-22
    assert float(w.max()) <= 4 + 2.0**-21


def test_neighbours_are_uncorrelated(key):
    w = np.asarray(ini.he_normal()(key, (600, 600)), np.float64)
    sigmas = stats.norm.isf(ALARM / 2)
    for a, b in ((w[:, :-1], w[:, 1:]), (w[:-1], w[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < sigmas / math.sqrt(a.size)


def test_names_of_the_papers_and_of_pytorch_are_the_same_objects():
    assert ini.xavier_normal is ini.glorot_normal
    assert ini.xavier_uniform is ini.glorot_uniform
    assert ini.kaiming_normal is ini.he_normal
    assert ini.kaiming_uniform is ini.he_uniform


def test_a_traced_spread_sweeps_under_vmap(key):
    spreads = jnp.array([0.5, 1.0, 2.0])
    swept = jax.jit(jax.vmap(lambda s: ini.variance_scaling(s)(key, (20, 10))))(spreads)
    for spread, weights in zip(spreads, swept, strict=True):
        alone = ini.variance_scaling(float(spread))(key, (20, 10))
        np.testing.assert_allclose(weights, alone, rtol=4 * 2.0**-23)


def test_signal_keeps_its_size_through_fifty_relu_layers_under_he_alone(key):
    def depth_50(init):
        x = jax.random.normal(key, (256, 200))
        for k in jax.random.split(key, 50):
            x = jax.nn.relu(x @ init(k, (200, 200)))
        return float(jnp.mean(x**2))

    # Each layer multiplies the second moment by a factor of relative variance about 5 / 200, so
    # its logarithm drifts by -50 * 5 / 400 = -0.6 with deviation sqrt(50 * 5 / 200) = 1.1; eight
    # deviations, e^9. LeCun loses a factor of 2 a layer, 2^50 = e^35.
    assert abs(math.log(depth_50(ini.he_normal())) + 0.6) < 9
    assert math.log(depth_50(ini.lecun_normal())) < -35 + 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ini.normal(0.0, -1.0), "stddev must be finite and at least 0, got -1.0"),
        (lambda: ini.normal(math.nan, 1.0), "mean must be finite"),
        (lambda: ini.normal(0.0, math.inf), "stddev must be finite"),
        (lambda: ini.truncated_normal(0.0, -1.0), "stddev must be finite and at least 0"),
        (lambda: ini.truncated_normal(lower=2, upper=-2), "lower < upper, got lower=2, upper=-2"),
        (lambda: ini.truncated_normal(upper=math.inf), "upper must be finite"),
        (lambda: ini.uniform(1.0, -1.0), "low < high, got low=1.0, high=-1.0"),
        (lambda: ini.uniform(0.0, 0.0), "low < high"),
        (lambda: ini.uniform(-math.inf, 0.0), "low must be finite"),
        (lambda: ini.variance_scaling(0.0), "scale must be finite and positive, got 0.0"),
        (lambda: ini.variance_scaling(-2.0), "scale must be finite and positive"),
        (lambda: ini.variance_scaling(math.nan), "scale must be finite and positive"),
        (lambda: ini.glorot_normal(gain=-1.0), "gain must be finite and positive, got -1.0"),
        (lambda: ini.glorot_uniform(gain=0.0), "gain must be finite and positive"),
        (lambda: ini.he_normal(negative_slope=math.inf), "negative_slope must be finite"),
        (lambda: ini.torch_bias(0), "fan_in must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_the_factory(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_words_are_refused_with_the_known_ones():
    # Unwrapped, because the tests' type checks would refuse the word before the library does.
    variance_scaling = inspect.unwrap(ini.variance_scaling)
    with pytest.raises(ValueError, match="one of fan_in, fan_out, fan_avg, got 'fan'"):
        variance_scaling(1.0, "fan")
    with pytest.raises(ValueError, match="one of normal, truncated_normal, uniform, got 'cauchy'"):
        variance_scaling(1.0, "fan_in", "cauchy")


@pytest.mark.parametrize("name", SCALED)
def test_scaled_families_refuse_a_bias(key, name):
    with pytest.raises(ValueError, match="at least two axes"):
        SCALED[name][0](key, (8,))
