"""One table of properties for every optimizer, and the refusals."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from problems import PROBLEMS, trajectory

from jaxdl import optimizers, training
from jaxdl.optimizers import current_learning_rate

adamw, lion = (
    functools.partial(factory, weight_decay=0.1, mask=None)
    for factory in (optimizers.adamw, optimizers.lion)
)
FACTORIES = {
    "sgd": optimizers.sgd,
    "momentum": optimizers.momentum,
    "nesterov": optimizers.nesterov,
    "adagrad": optimizers.adagrad,
    "adadelta": optimizers.adadelta,
    "rmsprop": optimizers.rmsprop,
    "rmsprop with all": functools.partial(optimizers.rmsprop, centered=True, momentum=0.9),
    "adam": optimizers.adam,
    "amsgrad": functools.partial(optimizers.adam, amsgrad=True),
    "adamw": adamw,
    "adamax": optimizers.adamax,
    "nadam": optimizers.nadam,
    "radam": optimizers.radam,
    "lion": lion,
    "lamb": functools.partial(optimizers.lamb, weight_decay=0.0),
    "adafactor": optimizers.adafactor,
    "adafactor, factored": functools.partial(
        optimizers.adafactor, factored_from=2, momentum=0.9, epsilon_position="floor"
    ),
    "muon": optimizers.muon,
    "schedule-free": lambda rate: optimizers.schedule_free(optimizers.adam(rate, beta1=0.0)),
    "lookahead": lambda rate: optimizers.lookahead(optimizers.adam(rate), period=2),
    "decoupled": lambda rate: optimizers.decoupled_decay(optimizers.adam(rate), 0.1, mask=None),
    "l2": lambda rate: optax.chain(optimizers.l2(0.1, mask=None), optimizers.momentum(rate)),
    "clipped by value": lambda rate: optax.chain(
        optimizers.clip_by_value(0.5), optimizers.sgd(rate)
    ),
    "clipped by norm": lambda rate: optax.chain(
        optimizers.clip_by_global_norm(0.5), optimizers.sgd(rate)
    ),
    "averaged": lambda rate: optax.chain(optimizers.adam(rate), optimizers.ema()),
    "accumulated": lambda rate: optimizers.accumulate(optimizers.adam(rate), 2),
    "plateau": lambda rate: optimizers.adam(optimizers.plateau(rate)),
    "by layer": lambda rate: optimizers.by_layer({"*": optimizers.adam(rate)}),
}
OF_NORMS = ("clipped by norm", "lamb", "adafactor", "adafactor, factored")
every_optimizer = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES.keys())

PARAMS = {"a": jnp.full((2, 3), 0.5, jnp.bfloat16), "b": {"c": jnp.ones(4)}, "d": ()}


def gradients_of(params):
    return jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
    )


@every_optimizer
def test_keeps_structure_and_types_and_passes_a_scan(factory):
    optimizer = factory(0.1)
    state = optimizer.init(PARAMS)
    updates, new = optimizer.update(gradients_of(PARAMS), state, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.tree.map(jnp.asarray, state))


@every_optimizer
def test_takes_an_empty_tree(factory):
    optimizer = factory(0.1)
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


@every_optimizer
def test_no_two_leaves_of_the_state_share_a_buffer(factory):
    leaves = jax.tree.leaves((PARAMS, factory(0.1).init(PARAMS)))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(pointers)) == len(pointers)


@every_optimizer
def test_the_state_goes_through_a_file(factory):
    optimizer = factory(0.1)
    _, state = optimizer.update(gradients_of(PARAMS), optimizer.init(PARAMS), PARAMS)
    restored = serialization.from_bytes(optimizer.init(PARAMS), serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state)


@every_optimizer
def test_compiled_equals_eager(factory):
    optimizer = factory(0.1)
    state = eager = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for scale in (1.0, -0.5, 0.25):
        gradients = jax.tree.map(lambda g, s=scale: s * g, gradients_of(PARAMS))
        compiled_updates, state = update(gradients, state, PARAMS)
        eager_updates, eager = optimizer.update(gradients, eager, PARAMS)
        # Fused products are rounded once where eager ones are twice; bfloat16 has 8 bits.
        for ours, theirs in zip(
            jax.tree.leaves(compiled_updates), jax.tree.leaves(eager_updates), strict=True
        ):
            rounding = 2**-6 if ours.dtype == jnp.bfloat16 else 2**-20
            np.testing.assert_allclose(
                ours.astype(float), theirs.astype(float), rtol=rounding, atol=1e-7
            )


@every_optimizer
def test_traces_once(factory):
    chex.clear_trace_counter()
    optimizer = factory(0.1)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = update(gradients_of(PARAMS), state, PARAMS)


@every_optimizer
def test_vmapped_over_rates_equals_one_at_a_time(factory):
    problem = PROBLEMS["quadratic"]
    rates = jnp.array([0.0005, 0.001, 0.002])
    run = jax.jit(lambda rate: trajectory(factory(rate), problem))
    together = jax.vmap(run)(rates)
    alone = jnp.stack([run(rate) for rate in rates])
    # A hundred steps, each rounded at 2^-24 of values up to 4.
    np.testing.assert_allclose(together, alone, rtol=0, atol=100 * 4 * 2**-24)


@pytest.mark.parametrize(
    "factory",
    # These let the weights decay without a gradient, by design.
    [f for name, f in FACTORIES.items() if name not in ("adamw", "lion", "decoupled", "l2")],
)
def test_zero_gradients_move_nothing_and_break_nothing(factory):
    optimizer, params = factory(0.1), jnp.ones(3)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.zeros(3), state, params)
        np.testing.assert_array_equal(updates, 0)
    # A plateau's best value begins at infinity; nothing may be NaN.
    assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(state))


@every_optimizer
def test_a_nan_gradient_is_seen(factory):
    """It makes NaN of its own parameter, or of all; it is never turned into a number."""
    optimizer, params = factory(0.1), jnp.ones(3)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(jnp.array([1.0, jnp.nan, 1.0]), state, params)
    assert jnp.isnan(updates[1])
    # These divide by a norm of the leaf, or of all.
    if not any(factory is FACTORIES[name] for name in OF_NORMS):
        assert jnp.isfinite(updates[jnp.array([0, 2])]).all()


@every_optimizer
def test_leaves_that_are_masked_out_are_not_touched(factory):
    params = {"trained": jnp.ones(3), "frozen": jnp.ones(3)}
    optimizer = optax.masked(factory(0.1), {"trained": True, "frozen": False})
    alone = factory(0.1)
    gradients = {"trained": jnp.full(3, 2.0), "frozen": jnp.full(3, 7.0)}
    state, state_alone = optimizer.init(params), alone.init(params["trained"])
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, params)
        expected, state_alone = alone.update(gradients["trained"], state_alone, params["trained"])
    np.testing.assert_array_equal(updates["frozen"], 7.0)
    np.testing.assert_array_equal(updates["trained"], expected)


@every_optimizer
def test_the_rate_is_read_back(factory):
    assert current_learning_rate(factory(0.25).init(PARAMS)) == 0.25
    rates = jnp.array([0.1, 0.2])
    states = jax.vmap(lambda rate: factory(rate).init(PARAMS))(rates)
    np.testing.assert_array_equal(current_learning_rate(states), rates)


def test_the_rate_of_a_schedule_is_that_of_the_next_update():
    optimizer = optimizers.accumulate(optimizers.momentum(lambda step: 1.0 / (1 + step)), 2)
    state = optimizer.init(PARAMS)
    rates = []
    for _ in range(4):
        rates.append(current_learning_rate(state).item())
        _, state = optimizer.update(gradients_of(PARAMS), state, PARAMS)
    assert rates == [1.0, 1.0, 0.5, 0.5]


def test_the_rate_of_optaxs_own_is_read_where_it_is_injected():
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=0.25)
    assert current_learning_rate(injected.init(PARAMS)) == 0.25
    with pytest.raises(ValueError, match=r"holds none; build the optimizer .*inject_hyperparams"):
        current_learning_rate(optax.adam(0.1).init(PARAMS))
    both = optax.chain(optimizers.sgd(0.1), optimizers.sgd(0.2))
    with pytest.raises(ValueError, match="holds 2"):
        current_learning_rate(both.init(PARAMS))


def test_adadelta_does_not_see_the_scale_of_the_loss():
    """Zeiler's consistent units: multiplied by 1000, the loss gives the same path."""
    problem = PROBLEMS["mlp"]
    scaled = problem._replace(gradient=lambda xp, w: 1000 * problem.gradient(xp, w))
    exact = optimizers.adadelta(gradient_epsilon=1e-30)
    # The product with 1000 is rounded, at 6e-8 of the gradient, once a step.
    np.testing.assert_allclose(
        trajectory(exact, scaled), trajectory(exact, problem), rtol=0, atol=1e-5
    )
    # The epsilon under the gradient's root is what is left of the dependence.
    default = optimizers.adadelta()
    apart = np.abs(trajectory(default, scaled) - trajectory(default, problem)).max()
    assert apart > 1e-3
    plain = optimizers.sgd(1e-5)
    apart = np.abs(trajectory(plain, scaled) - trajectory(plain, problem)).max()
    assert apart > 0.1


def refusals():
    nan = float("nan")
    for name in FACTORIES:
        yield f"{name}: rate", lambda name=name: FACTORIES[name](-0.1), "learning_rate"
    for factory in (optimizers.adam, optimizers.adamw, optimizers.nadam, optimizers.radam):
        yield "beta1", lambda f=factory: f(0.1, beta1=1.0), r"beta1 must lie in \[0, 1\), got 1.0"
        yield "beta2", lambda f=factory: f(0.1, beta2=-0.1), r"beta2 must lie in \[0, 1\)"
        yield (
            "epsilon",
            lambda f=factory: f(0.1, epsilon=-1e-8),
            "epsilon must be finite and at least 0",
        )
    yield "nan rate", lambda: optimizers.adam(nan), "learning_rate must be finite"
    yield "infinite rate", lambda: optimizers.sgd(float("inf")), "learning_rate must be finite"
    yield (
        "nan schedule",
        lambda: optimizers.sgd(lambda step: 0.1 * jnp.log(-1.0 - step)),
        "a schedule that gives nan at step 0",
    )
    yield (
        "schedule undefined at 0",
        lambda: optimizers.adam(lambda step: 0.1 / jnp.sqrt(step)),
        "gives inf at step 0; steps are counted from 0",
    )
    yield "decay", lambda: optimizers.momentum(0.1, decay=1.0), r"decay must lie in \[0, 1\)"
    yield "nan decay", lambda: optimizers.nesterov(0.1, decay=nan), r"decay must lie in \[0, 1\)"
    yield "rho", lambda: optimizers.adadelta(decay=1.0), r"decay must lie in \[0, 1\)"
    yield "G0", lambda: optimizers.adagrad(0.1, initial_accumulator=-1.0), "initial_accumulator"
    yield "psi", lambda: optimizers.nadam(0.1, momentum_decay=-1.0), "momentum_decay"
    yield "velocity", lambda: optimizers.rmsprop(0.1, momentum=1.0), "momentum must lie in"
    yield "free", lambda: optimizers.schedule_free(optimizers.sgd(0.1), beta=1.0), "beta must lie"
    yield (
        "power",
        lambda: optimizers.schedule_free(optimizers.sgd(0.1), weight_power=-1.0),
        "weight_power must be",
    )
    yield "period", lambda: optimizers.lookahead(optimizers.sgd(0.1), period=0), "period must be"
    yield (
        "slow", lambda: optimizers.lookahead(optimizers.sgd(0.1), step_size=1.5),
        "step_size must be at most 1, got 1.5",
    )  # fmt: skip
    yield "muon", lambda: optimizers.muon(0.1, momentum=1.0), "momentum must lie in"
    yield "sides", lambda: optimizers.muon(0.1, iterations=0), "iterations must be at least 1"
    yield "adam's", lambda: optimizers.muon(0.1, adam_rate=-1.0), "learning_rate must be finite"
    yield "three", lambda: optimizers.muon(0.1, coefficients=(1.0, 2.0)), "three numbers, a, b"
    yield "length", lambda: optimizers.adafactor(0.1, factored_from=0), "factored_from must be"
    yield "d", lambda: optimizers.adafactor(0.1, clip=0.0), "clip must be"
    yield "ema", lambda: optimizers.ema(1.0), "decay must lie in"
    yield "swa", lambda: optimizers.swa(every=0), "every must be at least 1, got 0"
    yield "steps", lambda: optimizers.accumulate(optimizers.sgd(0.1), 0), "steps must be at least"
    yield "limit", lambda: optimizers.clip_by_value(0.0), "limit must be above 0, got 0.0"
    yield "norm", lambda: optimizers.clip_by_global_norm(nan), "limit must be above 0, got nan"
    yield "radius", lambda: optimizers.sam(optimizers.sgd(0.1), radius=-1.0), "radius must be"
    yield "strength", lambda: optimizers.l2(-1.0), "strength must be finite and at least 0"
    yield "decoupled", lambda: optimizers.adamw(0.1, weight_decay=-1.0), "weight_decay must be"


@pytest.mark.parametrize(("name", "make", "text"), list(refusals()))
def test_refuses(name, make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("factory", "word"),
    [
        (optimizers.momentum, {"rate_position": "between"}),
        (optimizers.nesterov, {"rate_position": "between"}),
        (optimizers.rmsprop, {"rate_position": "between"}),
        (optimizers.adagrad, {"epsilon_position": "between"}),
        (optimizers.adam, {"epsilon_position": "between"}),
        (optimizers.adam, {"maximum_of": "between"}),
        (optimizers.lamb, {"epsilon_position": "between"}),
        (optimizers.adafactor, {"epsilon_position": "between"}),
        (optimizers.adafactor, {"factored_axes": "between"}),
        (optimizers.muon, {"scaling": "between"}),
        (optimizers.radam, {"epsilon_added_to": "between"}),
    ],
)
def test_refuses_unknown_words(factory, word):
    # Without the tests' own checks of types, which would refuse the word first.
    factory = inspect.unwrap(factory)
    (name,) = word
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'between'"):
        factory(0.1, **word)


def test_any_of_optaxs_goes_where_ours_go():
    from jaxdl import data, losses, models

    digits = data.split(data.load("digits"), key=jax.random.key(0))
    for optimizer in (
        optax.adam(1e-3),
        optax.lbfgs(),  # its line search asks for value, grad and value_fn
        optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.sam(optimizers.adam(1e-3))),
        optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),
    ):
        result = training.fit(
            models.MLP([16, 10]), digits, optimizer, loss=losses.cross_entropy, epochs=2,
            batch_size=100, key=jax.random.key(0),
        )  # fmt: skip
        first, last = result.history.train["loss"][[0, -1]]
        assert last < first


@pytest.mark.parametrize("factory", [optimizers.momentum, optimizers.nesterov])
@pytest.mark.parametrize("rate_position", ["inside", "outside"])
def test_vmapped_over_decays_equals_one_at_a_time(factory, rate_position):
    def last(decay):
        rule = factory(0.1, decay=decay, rate_position=rate_position)
        weight = jnp.array([1.0, -2.0])
        state = rule.init(weight)
        for _ in range(4):
            updates, state = rule.update(3 * weight, state, weight)
            weight = weight + updates
        return weight

    decays = jnp.array([0.0, 0.5, 0.9], jnp.float32)
    together = jax.jit(jax.vmap(last))(decays)
    alone = np.stack([last(float(decay)) for decay in decays])
    # Twenty float32 operations on numbers of at most 3.
    np.testing.assert_allclose(together, alone, atol=20 * 3 * 2.0**-23)
