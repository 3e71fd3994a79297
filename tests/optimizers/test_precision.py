"""Half precision follows float32, complex numbers are pairs, norms have no range."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import losses, optimizers, training
from jaxdl.optimizers.lamb import scale_by_trust_ratio
from jaxdl.optimizers.precision import in_wide_type

RULES = {
    "momentum": optimizers.momentum(1e-3),
    "momentum_outside": optimizers.momentum(1e-3, rate_position="outside"),
    "nesterov": optimizers.nesterov(1e-3),
    "adagrad": optimizers.adagrad(1e-3),
    "adadelta": optimizers.adadelta(),
    "rmsprop": optimizers.rmsprop(1e-3),
    "rmsprop_centered": optimizers.rmsprop(1e-3, centered=True, momentum=0.9),
    "adam": optimizers.adam(1e-3),
    "adam_outside": optimizers.adam(1e-3, epsilon_position="outside"),
    "amsgrad": optimizers.adam(1e-3, amsgrad=True),
    "adamw": optimizers.adamw(1e-3, mask=None),
    "adamax": optimizers.adamax(1e-3),
    "nadam": optimizers.nadam(1e-3),
    "radam": optimizers.radam(1e-3),
    "lion": optimizers.lion(1e-3, weight_decay=0.1, mask=None),
    "lamb": optimizers.lamb(1e-3, mask=None),
    "adafactor": optimizers.adafactor(1e-3),
    "muon": optimizers.muon(1e-3),
    "schedule_free": optimizers.schedule_free(optimizers.adam(1e-3, beta1=0.0)),
    "lookahead": optimizers.lookahead(optimizers.adam(1e-3), period=3),
    "accumulate": optimizers.accumulate(optimizers.adam(1e-3), 2),
}
OF_DIFFERENCES = ("schedule_free", "lookahead")
"""Their updates lead from the parameters to where the state says."""
HALVES = [jnp.float16, jnp.bfloat16]
# From nothing, over what float16's square loses, to its greatest number.
GRADIENTS = [0.0, 1e-7, 1e-4, 1e-3, -2e-2, 1.0, 300.0, 6e4]

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@every_rule
@pytest.mark.parametrize("half", HALVES)
def test_half_precision_follows_float32(rule, half):
    params = jnp.linspace(-2, 2, len(GRADIENTS), dtype=half)
    state, wide_state = rule.init(params), rule.init(params.astype(jnp.float32))
    update = jax.jit(rule.update)
    for step in range(20):
        gradient = jnp.asarray(GRADIENTS, half) * (1 - 2 * (step % 3 == 0))
        moved, state = update(gradient, state, params)
        expected, wide_state = update(
            gradient.astype(jnp.float32), wide_state, params.astype(jnp.float32)
        )
        assert moved.dtype == half
        # The same float32 numbers, rounded once: half a unit in the last place, or, where float16
        # has no more digits, half of its least number.
        kind = jnp.finfo(half)
        # The difference of two numbers of about 2, which are rounded in float32 and may be fused.
        apart = 4 * 2**-23 if any(rule is RULES[name] for name in OF_DIFFERENCES) else 0.0
        np.testing.assert_allclose(
            moved.astype(jnp.float32), expected,
            rtol=float(kind.eps) / 2, atol=float(kind.smallest_subnormal) / 2 + apart,
        )  # fmt: skip
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}
    assert kinds <= {jnp.dtype(jnp.float32), jnp.dtype(bool)}


@pytest.mark.parametrize("half", HALVES)
def test_a_second_moment_and_an_average_do_not_stall(half):
    rule = optimizers.adam(0.0, beta2=0.999)
    average = optimizers.ema(0.999)
    params = jnp.zeros(1, half)
    state, averaged = rule.init(params), average.init(params)
    update = jax.jit(rule.update)
    towards = jax.jit(average.update)
    for step in range(400):
        _, state = update(jnp.full(1, 0.5 if step else 4.0, half), state, params)
        _, averaged = towards(jnp.full(1, float(step > 0), half), averaged, params)
    # v = 0.001 (16 b^399 + 0.25 (1 - b^399) / (1 - b)), and the average 1 - b^399.
    left = 0.999**399
    np.testing.assert_allclose(state[0].nu[0], 0.001 * 16 * left + 0.25 * (1 - left), rtol=1e-4)
    found = optimizers.averaged_parameters(averaged)
    np.testing.assert_allclose(found[0], 1 - left, rtol=1e-4)
    assert optimizers.evaluated_parameters(averaged, params).dtype == half


# Pairs are a matrix, which only Muon does not treat by element.
@pytest.mark.parametrize("rule", [rule for name, rule in RULES.items() if name != "muon"])
def test_a_complex_parameter_is_the_pair_of_its_parts(rule):
    params = jnp.array([1 - 2j, 0.5j, 3.0 + 0j])
    pairs = jnp.stack([params.real, params.imag], -1)
    state, pair_state = rule.init(params), rule.init(pairs)
    for scale in (1.0, -0.5, 2.0):
        gradient = scale * jnp.array([1 + 1j, -3j, 1e-3 + 2j])
        moved, state = rule.update(gradient, state, params)
        expected, pair_state = rule.update(
            jnp.stack([gradient.real, gradient.imag], -1), pair_state, pairs
        )
        assert moved.dtype == params.dtype
        np.testing.assert_array_equal(jnp.stack([moved.real, moved.imag], -1), expected)


def test_a_train_step_goes_downhill_in_complex_numbers():
    class Rotation(nn.Module):
        @nn.compact
        def __call__(self, x):
            turn = self.param("turn", lambda key: jnp.array(1.0 + 0j))
            return jnp.abs(turn * x[:, :1] - (0.5 + 2j) * x[:, :1])

    task = training.Task(Rotation(), losses.mean_squared_error)
    run = training.make_run(task, optimizers.adam(0.05), batch_size=4)
    x = np.linspace(0.5, 1.5, 8, dtype=np.float32)[:, None]
    key = jax.random.key(0)
    state, _ = run(key, {"train": {"inputs": x, "targets": 0 * x}}, training.orders(key, 100, 8))
    np.testing.assert_allclose(state.params["turn"], 0.5 + 2j, atol=0.1)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float16, jnp.bfloat16, jnp.complex64])
def test_narrow_moments_are_refused(dtype):
    with pytest.raises(ValueError, match="moment_dtype must be float32 or wider"):
        optimizers.adam(1e-3, moment_dtype=dtype)


def test_moments_may_be_wider():
    with jax.enable_x64(True):
        state = optimizers.adam(1e-3, moment_dtype=jnp.float64).init(jnp.zeros(2, jnp.float32))
        assert state[0].mu.dtype == jnp.float64


def test_other_leaves_are_left_alone():
    rule = in_wide_type(optax.identity())
    updates = {"count": jnp.int32(3), "mask": optax.MaskedNode()}
    assert rule.update(updates, rule.init(updates))[0]["count"].dtype == jnp.int32


EXTREMES = [
    [3e38, -1e38],
    [3.4e38] * 9,
    [1e19, 2e19],
    [1e10, -1.0],
    [3.0, 4.0],
    [1e-10, 1e-12],
    [1e-24, -3e-24],
    [6e-38, 3e-38],
]


def clipped(limit, gradient):
    link = optimizers.clip_by_global_norm(limit)
    return link.update(gradient, link.init(gradient))[0]


@pytest.mark.parametrize("gradient", EXTREMES)
@pytest.mark.parametrize("compiled", [False, True])
def test_any_finite_gradient_is_clipped_to_its_direction(gradient, compiled):
    exact = np.array(gradient, np.float64)
    norm = np.linalg.norm(exact)
    for limit in (1.0, 1e-3 * norm, 0.5 * norm, 2.0 * norm):
        if not np.finfo(np.float32).tiny < limit < np.finfo(np.float32).max:
            continue

        def call(x, limit=limit):
            return clipped(limit, {"a": x[:1], "b": x[1:]})

        found = (jax.jit(call) if compiled else call)(jnp.asarray(gradient, jnp.float32))
        found = np.concatenate([found["a"], found["b"]]).astype(np.float64)
        # Square, sum of up to 9, root, quotient, product: fewer than 8 roundings of 2^-24.
        np.testing.assert_allclose(
            found, exact * min(1, limit / norm), rtol=8 * 2**-24, atol=np.finfo(np.float32).tiny
        )


def test_a_limit_of_nothing_and_a_gradient_of_nothing_give_nothing():
    assert jax.jit(clipped)(0.0, jnp.zeros(3)).tolist() == [0, 0, 0]
    assert jax.jit(clipped)(0.0, jnp.ones(3)).tolist() == [0, 0, 0]


def test_complex_gradients_are_clipped_by_their_size():
    found = clipped(1.0, {"z": jnp.array([3 + 4j, 0]), "x": jnp.array([12.0])})
    np.testing.assert_allclose(found["z"], np.array([3 + 4j, 0]) / 13, rtol=1e-6)
    np.testing.assert_allclose(found["x"], [12 / 13], rtol=1e-6)
    infinite = clipped(2.0, jnp.array([complex(np.inf, 1), 5j]))
    np.testing.assert_allclose(infinite, [2, 0], rtol=1e-6)
    assert np.isnan(clipped(1.0, jnp.array([complex(np.nan, 1), 5j]))).all()


@pytest.mark.parametrize("gradient", EXTREMES)
def test_the_ascent_of_sam_has_its_radius(gradient):
    exact, seen = np.array(gradient, np.float64), []
    optimizer = optimizers.sam(optimizers.sgd(1.0), radius=0.5)
    theta, given = jnp.zeros(len(gradient)), jnp.asarray(gradient, jnp.float32)

    def gradient_at(params, _):
        seen.append(params)
        return given

    optimizer.update(given, optimizer.init(theta), theta, grad_fn=gradient_at)
    expected = 0.5 * exact / np.linalg.norm(exact)
    np.testing.assert_allclose(seen[-1], expected, rtol=8 * 2**-24, atol=1e-37)


@pytest.mark.parametrize("steps", [np.int64(2), lambda updates: 2])
def test_accumulate_takes_numpys_integers_and_schedules(steps):
    optimizer = optimizers.accumulate(optimizers.sgd(1.0), steps)
    state = optimizer.init(jnp.zeros(2))
    first, state = optimizer.update(jnp.array([2.0, 0.0]), state, jnp.zeros(2))
    assert first.tolist() == [0, 0]
    assert optimizer.update(jnp.array([4.0, 0.0]), state, jnp.zeros(2))[0].tolist() == [-3, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.accumulate(optimizers.sgd(1.0), 2.5),
        lambda: optimizers.swa(every=2.5),
        lambda: optimizers.swa(start=0.5),
    ],
)
def test_counts_are_whole_numbers(make):
    with pytest.raises(TypeError, match=r"whole number|SupportsIndex"):
        make()


def test_a_debiased_average_weighs_by_age_alone():
    average = optimizers.ema(0.9, debias=True)
    values = np.array([3.0, -1.0, 4.0, 1.5])
    params, state = jnp.zeros(()), average.init(jnp.zeros(()))
    for value in values:
        _, state = average.update(jnp.float32(value) - params, state, params)
        params = jnp.float32(value)
    ages = 0.9 ** np.arange(len(values))[::-1]
    found = optimizers.averaged_parameters(state)
    np.testing.assert_allclose(found, (ages * values).sum() / ages.sum(), rtol=1e-6)


def stepped_adamax(beta1, steps):
    m = u = w = 0.0
    for t in range(1, steps + 1):
        g = np.cos(t)
        m, u = beta1 * m + (1 - beta1) * g, max(0.999 * u, abs(g) + 1e-8)
        w -= 0.01 / (1 - beta1**t) * m / u
        yield w


def stepped_nadam(beta1, steps):
    m = v = w = 0.0
    for t in range(1, steps + 1):
        g = np.cos(t)
        m, v = beta1 * m + (1 - beta1) * g, 0.999 * v + 0.001 * g**2
        ahead = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
        w -= 0.01 * ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w


@pytest.mark.parametrize("beta1", [0.0, 0.9, 0.999, 0.9999])
@pytest.mark.parametrize(
    ("factory", "formula"),
    [
        (optimizers.adamax, stepped_adamax),
        (lambda rate, beta1: optimizers.nadam(rate, beta1=beta1, momentum_decay=None),
         stepped_nadam),
    ],
)  # fmt: skip
def test_bias_corrections_are_exact_to_rounding(factory, formula, beta1):
    optimizer = factory(0.01, beta1=beta1)
    params = jnp.zeros(())
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for t, expected in enumerate(formula(beta1, 30), 1):
        moved, state = update(jnp.cos(jnp.float32(t)), state, params)
        params = params + moved
        # Thirty steps of at most 0.01 times a few, each with some ten roundings of 2^-24.
        np.testing.assert_allclose(params, expected, rtol=0, atol=t * 0.03 * 10 * 2**-24)


@pytest.mark.parametrize("position", ["inside", "outside"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.complex64])
def test_nesterovs_theta_has_the_parameters_type(position, dtype):
    optimizer = optimizers.nesterov(0.5, decay=0.5, rate_position=position)
    params = jnp.array([1.0, 2.0], dtype)
    gradient = params * (2 - 1j) if dtype == jnp.complex64 else 2 * params
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    theta = optimizers.nesterov_theta(params + updates, state, decay=0.5)
    assert theta.dtype == dtype
    np.testing.assert_allclose(theta, params - gradient / 2)


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1.0, 1e18, 1e30, 1e37])
@pytest.mark.parametrize("long", [1e-30, 1.0, 1e25])
def test_lamb_gives_a_step_the_length_of_any_parameters(size, long):
    params = jnp.float32(long) * jnp.array([3.0, 4.0, 0.0])
    link = scale_by_trust_ratio()
    update = jnp.float32(size) * jnp.array([0.0, 1.0, -1.0])
    moved = jax.jit(lambda u, p: link.update(u, link.init(p), p)[0])(update, params)
    # Squares, their sum, roots and quotients: fewer than ten roundings.
    expected = np.float64(5 * long) / np.sqrt(2) * np.array([0, 1, -1])
    np.testing.assert_allclose(moved, expected, rtol=10 * 2**-24)
