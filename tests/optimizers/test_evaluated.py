"""Which parameters are evaluated: what optimizers hold, in any wrapper; and what nobody knows."""

import inspect
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import models, optimizers, training
from jaxdl.optimizers.held_copies import FOR_OTHER_ENDS, copies_in

PARAMS = {"body": {"kernel": jnp.full((2, 2), 0.5)}, "head": {"bias": jnp.array([1.0, 2.0])}}


def after(optimizer, steps=3, params=PARAMS):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        gradients = jax.tree.map(lambda p, t=step: jnp.full(p.shape, t + 1, p.dtype), params)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def free(rate=1.0):
    return optimizers.schedule_free(optimizers.sgd(rate), beta=0.5)


def slow(rate=1.0):
    return optimizers.lookahead(optimizers.sgd(rate), period=2)


# After the gradients 1, 2, 3 at the rate 1: z is -1, -3, -6, whose mean is x; the slow weights are
# half of -3, and the fast ones go on from there.
ENDS = {"free": (free, -10 / 3), "slow": (slow, -1.5)}

WRAPPERS = {
    "alone": lambda make: make(),
    "in a chain": lambda make: optimizers.chain(optimizers.clip_by_value(9.0), make()),
    "frozen around": lambda make: optimizers.freeze(make(), "body"),
    "in a group": lambda make: optimizers.by_layer({"head": make(), "*": optimizers.sgd(1.0)}),
    "in two groups": lambda make: optimizers.by_layer({"head": make(), "*": make()}),
    "masked": lambda make: optax.masked(make(), {"body": False, "head": True}),
    "in a partition": lambda make: optax.partition(
        {"a": make(), "b": optax.sgd(1.0)}, {"body": "b", "head": "a"}
    ),
    "if finite": lambda make: optax.apply_if_finite(make(), 3),
    "recorded": lambda make: optimizers.recorded(make(), lambda g, u: 0.0, steps=2),
    "with a plateau": lambda make: make(optimizers.plateau(1.0)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", ENDS)
def test_what_is_held_is_evaluated_in_any_wrapper(kind, wrapper):
    make, moved = ENDS[kind]
    params, state = after(WRAPPERS[wrapper](make))
    evaluated = optimizers.evaluated_parameters(state, params)
    np.testing.assert_allclose(evaluated["head"]["bias"], [1 + moved, 2 + moved], rtol=1e-6)
    if wrapper in ("frozen around", "in a group", "masked", "in a partition"):
        np.testing.assert_array_equal(evaluated["body"]["kernel"], params["body"]["kernel"])
    else:
        np.testing.assert_allclose(evaluated["body"]["kernel"], 0.5 + moved, rtol=1e-6)


@pytest.mark.parametrize("kind", ENDS)
def test_accumulated_gradients_step_it_once(kind):
    make, _ = ENDS[kind]
    params, state = after(optimizers.accumulate(make(), 2), steps=4)
    # The mean gradients 1.5 and 3.5: z is -1.5 and -5.
    expected = {"free": (-1.5 - 5) / 2, "slow": -5 / 2}[kind]
    evaluated = optimizers.evaluated_parameters(state, params)
    np.testing.assert_allclose(evaluated["head"]["bias"], [1 + expected, 2 + expected], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize(
    "make",
    [free, slow, lambda: optimizers.accumulate(optimizers.chain(slow(), optimizers.ema()), 1)],
)
def test_it_has_the_parameters_types(make, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    if make not in (free, slow):  # two averages, one around the other's updates
        with pytest.raises(ValueError, match="holds two of some"):
            optimizers.evaluated_parameters(make().init(params), params)
        return
    found = optimizers.evaluated_parameters(after(make(), params=params)[1], params)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


def test_an_average_of_accumulated_complex_parameters_is_complex():
    params = {"w": jnp.array([1 + 2j, 3j], jnp.complex64)}
    inner = optimizers.chain(optimizers.sgd(1.0), optimizers.ema(0.0))
    moved, state = after(optimizers.accumulate(inner, 1), steps=1, params=params)
    found = optimizers.evaluated_parameters(state, moved)
    np.testing.assert_array_equal(found["w"], moved["w"])


def test_schedule_free_does_not_stall_in_half_precision():
    optimizer = optimizers.schedule_free(optimizers.sgd(1e-3))
    params = jnp.ones(1, jnp.bfloat16)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(200):
        updates, state = update(jnp.ones(1, jnp.bfloat16), state, params)
        params = optax.apply_updates(params, updates)
    # The mean of 1 - 0.001 t for t = 1 to 200; a step of z is less than bfloat16's half of a place.
    x = optimizers.averaged_parameters(state)
    np.testing.assert_allclose(x, 1 - 0.001 * 201 / 2, atol=1e-5)
    np.testing.assert_allclose(params.astype(float), 0.1 * 0.8 + 0.9 * x, rtol=2**-8)


def test_schedule_free_needs_one_rate():
    with pytest.raises(ValueError, match=r"must show one learning rate: .*holds none"):
        optimizers.schedule_free(optax.sgd(0.1)).init(PARAMS)
    groups = optimizers.by_layer({"head": optimizers.sgd(1.0), "*": optimizers.sgd(0.5)})
    with pytest.raises(ValueError, match=r"holds 2.*each group of by_layer"):
        optimizers.schedule_free(groups).init(PARAMS)


@pytest.mark.parametrize("make", [free, slow])
def test_no_parameters_no_update(make):
    optimizer = make()
    with pytest.raises(ValueError, match=r"needs the parameters: update\(grads, state, params\)"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


class Own(NamedTuple):
    """A state of a user's, which names its average."""

    mean: Any
    evaluated_field = "mean"


class Silent(NamedTuple):
    mean: Any


def holding(kind):
    return optax.GradientTransformation(
        lambda params: kind(jax.tree.map(lambda p: 2 * p, params)), lambda g, s, p=None: (g, s)
    )


def test_a_state_of_ones_own_says_what_is_evaluated():
    optimizer = optimizers.chain(optimizers.sgd(1.0), holding(Own))
    found = optimizers.evaluated_parameters(optimizer.init(PARAMS), PARAMS)
    assert found["head"]["bias"].tolist() == [2, 4]
    assert not copies_in(optimizer.init, PARAMS)


def start(optimizer):
    return training.init_state(jax.random.key(0), models.MLP([2]), optimizer, jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (holding(Silent), r"Silent holds a copy .* in 'mean'; .*state\.params.*evaluated_field = "),
        (optax.contrib.schedule_free_sgd(0.1), "use optimizers.schedule_free, of which x"),
        (optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)), r"SAMState .*use optimizers\.sam"),
    ],
)
def test_a_copy_of_which_nothing_is_known_is_warned_of(optimizer, text):
    with pytest.warns(UserWarning, match=text):
        start(optimizers.chain(optimizers.clip_by_value(1.0), optimizer))
    with pytest.warns(UserWarning, match=text):
        jax.jit(lambda: start(optimizer).params)()


@pytest.mark.filterwarnings("ignore")  # what optax itself says of its older names
def test_no_other_optimizer_of_optax_is_warned_of():
    inner, given = optax.sgd(0.1), []
    for room in (optax, optax.contrib):
        for name, make in inspect.getmembers(room, inspect.isfunction):
            for arguments in ((0.1,), (), (inner,), (inner, inner), (inner, 0.1), (inner, 2)):
                try:
                    made = make(*arguments)
                    init = made.init
                    init(PARAMS)
                except Exception:
                    continue  # no optimizer, or other arguments
                given.append((name, copies_in(init, PARAMS)))
                break
    assert len(given) > 80
    warned = {name for name, copies in given if copies}
    assert warned == {"schedule_free", "schedule_free_sgd", "schedule_free_adamw", "sam"}
    names = {name for name, _ in given}
    assert names >= {"adam", "lbfgs", "ema", "prodigy", "cocob", "dog", "madgrad", "mechanize"}
    assert set(FOR_OTHER_ENDS) <= set(dir(optax)) | set(dir(optax.contrib)) | {
        "ScaleByDistanceOverGradientsState"
    }


def test_ours_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in (
            optimizers.muon(0.1), optimizers.adafactor(), optimizers.sam(optimizers.adam(0.1)),
            optimizers.accumulate(free(), 2), optimizers.freeze(slow(), "dense_0/bias"),
            optimizers.chain(optimizers.adam(0.1), optimizers.swa()), optax.lbfgs(),
        ):  # fmt: skip
            start(optimizer)


def test_a_pair_of_parameters_is_refused_before_the_run():
    optimizer = optax.chain(optax.clip(1.0), optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(ValueError, match=r"pass optimizers\.lookahead\(optimizer\)"):
        training.init_state(jax.random.key(0), models.MLP([3]), optimizer, jnp.ones((2, 4)))


@pytest.mark.parametrize("wrap", [optimizers.lookahead, optimizers.schedule_free])
def test_a_rate_or_a_factory_is_no_optimizer(wrap):
    for other in (0.1, optimizers.sgd):
        with pytest.raises(TypeError, match=r"needs an optimizer, got .*; pass e\.g\. optimizers"):
            wrap(other)
