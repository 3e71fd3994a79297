"""What is chained before, after and around an optimizer: decay, clipping, averages, SAM."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import PROBLEMS, trajectory

from jaxdl import losses, models, optimizers, training
from jaxdl.layers import BatchNorm

QUADRATIC = PROBLEMS["quadratic"]


def test_kernels_are_what_decays():
    model = models.MLP([3, 2], norm=BatchNorm)
    params = model.init(jax.random.key(0), jnp.ones((2, 4)), train=False)["params"]
    selected = optimizers.is_kernel(params)
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, chosen in jax.tree_util.tree_leaves_with_path(selected)
        if chosen
    }
    assert names == {"dense_0/kernel", "dense_1/kernel"}
    optimizer = optimizers.adamw(0.1, weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    expected = jax.tree.map(lambda p, chosen: -0.05 * p * chosen, params, selected)
    jax.tree.map(lambda u, e: np.testing.assert_allclose(u, e, rtol=1e-6), updates, expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optimizers.l2(0.1, mask=None), optimizers.sgd(0.005)),
        optimizers.decoupled_decay(optimizers.sgd(0.005), 0.1, mask=None),
    ],
    ids=["l2", "decoupled"],
)
def test_under_sgd_both_decays_are_one(optimizer):
    """theta (1 - eta lambda) - eta g, whichever way it is written."""
    w = QUADRATIC.start
    for point in trajectory(optimizer, QUADRATIC):
        w = w * (1 - 0.005 * 0.1) - 0.005 * QUADRATIC.gradient(np, w)
        # A hundred roundings of values up to 4.
        np.testing.assert_allclose(point, w, rtol=0, atol=100 * 4 * 2**-24)


def test_decoupled_decay_beside_a_velocity_is_not_in_it():
    """Loshchilov and Hutter's SGDW, stepped in float64, with a schedule."""

    def rate(step):
        return 0.005 / (1 + step)

    optimizer = optimizers.decoupled_decay(optimizers.momentum(rate), 0.1, mask=None)
    w, v = QUADRATIC.start, 0 * QUADRATIC.start
    for t, point in enumerate(trajectory(optimizer, QUADRATIC)):
        v = 0.9 * v + rate(t) * QUADRATIC.gradient(np, w)
        w = w - v - rate(t) * 0.1 * w
        np.testing.assert_allclose(point, w, rtol=0, atol=100 * 4 * 2**-24)


def test_decoupled_decay_takes_the_rate_of_a_plateau():
    optimizer = optimizers.decoupled_decay(
        optimizers.sgd(optimizers.plateau(1.0, factor=0.5, patience=0)), 0.1, mask=None
    )
    w = jnp.array([2.0])
    state = optimizer.init(w)
    for metric in (1.0, 1.0):
        state = optimizers.report_metric(state, metric)
    updates, _ = optimizer.update(jnp.zeros(1), state, w)
    np.testing.assert_allclose(updates, -0.5 * 0.1 * 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda mask: optimizers.l2(0.1, mask=mask), "mask must have the structure"),
        (lambda mask: optimizers.adamw(0.1, mask=mask), "mask must have the structure"),
        (lambda mask: optimizers.lion(0.1, weight_decay=0.1, mask=mask), "mask must have"),
        (
            lambda mask: optimizers.decoupled_decay(optimizers.sgd(0.1), 0.1, mask=mask),
            "mask must have the structure",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_at_init(make, text):
    params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    with pytest.raises(ValueError, match=text):
        make({"kernel": True}).init(params)
    with pytest.raises(ValueError, match="selects none of bias, kernel; pass mask=None"):
        make(lambda params: jax.tree.map(lambda _: False, params)).init(params)
    make({"kernel": True, "bias": False}).init(params)


def test_decoupled_decay_refuses_a_state_without_a_rate():
    with pytest.raises(ValueError, match=r"holds none; build .* with jaxdl\.optimizers"):
        optimizers.decoupled_decay(optax.sgd(0.1), 0.1).init({"kernel": jnp.ones(2)})


def clipped(limit, gradients):
    link = optimizers.clip_by_global_norm(limit)
    return jax.jit(link.update)(gradients, link.init(None))[0]


def test_the_global_norm_is_that_of_the_whole_tree():
    gradients = {"a": jnp.array([3.0]), "b": {"c": jnp.array([[0.0, 4.0]])}}
    np.testing.assert_allclose(clipped(1.0, gradients)["b"]["c"], [[0.0, 0.8]], rtol=1e-6)
    unchanged = clipped(5.0, gradients)
    jax.tree.map(np.testing.assert_array_equal, unchanged, gradients)
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    jax.tree.map(np.testing.assert_array_equal, clipped(1.0, zeros), zeros)


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        ([3e30, 4e30], [0.6, 0.8]),  # whose squares overflow
        ([np.inf, 5.0], [1.0, 0.0]),
        ([np.inf, -np.inf], [0.5**0.5, -(0.5**0.5)]),
        ([np.nan, 5.0], [np.nan, np.nan]),
        ([np.nan, np.inf], [np.nan, np.nan]),
    ],
)
def test_the_norms_limit_is_defined_for_every_gradient(gradient, expected):
    gradients = {"a": jnp.array(gradient[:1]), "b": jnp.array(gradient[1:])}
    result = clipped(1.0, gradients)
    np.testing.assert_allclose(jnp.concatenate([result["a"], result["b"]]), expected, rtol=1e-6)
    together = jax.vmap(lambda g: clipped(1.0, g))(
        jax.tree.map(lambda g: jnp.stack([g, jnp.ones_like(g)]), gradients)
    )
    np.testing.assert_allclose(together["b"][0], result["b"], rtol=1e-6)
    np.testing.assert_allclose(together["b"][1], 0.5**0.5, rtol=1e-6)


def test_half_precision_is_clipped_by_its_norm_in_single():
    gradients = jnp.full(100_000, 200.0, jnp.float16)  # whose sum of squares is no float16
    np.testing.assert_allclose(
        clipped(1.0, gradients).astype(jnp.float32), 100_000**-0.5, rtol=2**-10
    )


def test_values_are_clipped_one_by_one():
    link = optimizers.clip_by_value(1.0)
    gradient = jnp.array([0.5, -0.5, 3.0, -jnp.inf, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(
        link.update(gradient, link.init(None))[0], [0.5, -0.5, 1.0, -1.0, 1.0, jnp.nan]
    )


def test_accumulation_equals_the_large_batch():
    """The mean of four gradients once is what four batches in a row amount to."""
    draws = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    whole = optimizers.adam(optimizers.schedules.exponential_decay(0.1, factor=0.5))
    parts = optimizers.accumulate(whole, 4)
    w = parted = jnp.ones(3)
    state, parted_state = whole.init(w), parts.init(w)
    for batch in draws:
        updates, state = whole.update(batch.mean(0), state, w)
        w = optax.apply_updates(w, updates)
        for part in batch:
            updates, parted_state = parts.update(part, parted_state, parted)
            parted = optax.apply_updates(parted, updates)
        # The mean is formed in another order.
        np.testing.assert_allclose(parted, w, rtol=0, atol=1e-6)


def averaged(link):
    optimizer = optax.chain(optimizers.momentum(0.002), link)
    path = np.asarray(trajectory(optimizers.momentum(0.002), QUADRATIC))
    averages = trajectory(
        optimizer, QUADRATIC, lambda w, state: optimizers.averaged_parameters(state)
    )
    return path, averages


def test_ema_is_its_formula():
    path, averages = averaged(optimizers.ema(0.8))
    expected = path[0].astype(np.float64)
    np.testing.assert_array_equal(averages[0], path[0])
    for point, average in zip(path[1:], averages[1:], strict=True):
        expected = 0.8 * expected + 0.2 * point
        np.testing.assert_allclose(average, expected, rtol=0, atol=5 * 4 * 2**-24)


def test_swa_is_the_mean_of_what_it_took():
    path, averages = averaged(optimizers.swa(start=40, every=10))
    np.testing.assert_array_equal(averages[39], path[39])
    for step in (50, 60, 75, 100):
        taken = path[49:step:10]
        np.testing.assert_allclose(averages[step - 1], taken.mean(0), rtol=0, atol=20 * 4 * 2**-24)


def test_the_average_of_none_or_two_is_refused():
    with pytest.raises(ValueError, match="holds 0; chain ema or swa after"):
        optimizers.averaged_parameters(optimizers.sgd(0.1).init(jnp.ones(2)))
    both = optax.chain(optimizers.sgd(0.1), optimizers.ema(), optimizers.swa())
    with pytest.raises(ValueError, match="holds 2"):
        optimizers.averaged_parameters(both.init(jnp.ones(2)))
    link = optimizers.ema()
    with pytest.raises(ValueError, match="needs the parameters"):
        link.update(jnp.ones(2), link.init(jnp.ones(2)))


def test_sam_takes_the_gradient_uphill():
    """Against its formula in float64; a zero gradient stays one."""

    def gradient(w):
        return jnp.asarray([100.0, 10.0, 1.0, 0.01], w.dtype) * w

    optimizer = optimizers.sam(optimizers.momentum(0.002), radius=0.3)
    w = jnp.asarray(QUADRATIC.start, jnp.float32)
    state, theta, v = optimizer.init(w), QUADRATIC.start, 0 * QUADRATIC.start
    update = jax.jit(
        lambda w, state: optimizer.update(
            gradient(w), state, w, grad_fn=lambda at, i: gradient(at), value=0.0
        )
    )
    for _ in range(50):
        updates, state = update(w, state)
        w = optax.apply_updates(w, updates)
        g = QUADRATIC.gradient(np, theta)
        v = 0.9 * v + 0.002 * QUADRATIC.gradient(np, theta + 0.3 * g / np.linalg.norm(g))
        theta = theta - v
        np.testing.assert_allclose(w, theta, rtol=0, atol=1e-5 * 4)
    updates, _ = optimizer.update(jnp.zeros(4), optimizer.init(w), w, grad_fn=lambda at, i: 0 * at)
    np.testing.assert_array_equal(updates, 0)
    with pytest.raises(ValueError, match="grad_fn"):
        optimizer.update(jnp.ones(4), state, w)


def test_recorded_keeps_what_each_of_the_first_updates_did_and_changes_none():
    """Clipping by value, then a step, beside NumPy; the third update is beyond what is kept."""
    optimizer = optax.chain(optimizers.clip_by_value(1.0), optimizers.momentum(0.5, decay=0.5))
    watched = optimizers.recorded(
        optimizer,
        lambda g, u: {"clipped": jnp.mean(jnp.abs(g["w"]) > 1.0), "update": u["w"]},
        steps=np.int64(2),
    )
    gradients = np.array([[0.5, 4.0], [8.0, -2.0], [0.0, 0.0]], np.float32)
    params = {"w": jnp.zeros(2)}
    plain, state, velocity = optimizer.init(params), watched.init(params), 0.0
    assert state.values["update"].tolist() == [[0.0, 0.0]] * 2
    expected = []
    for gradient in gradients:
        update, state = watched.update({"w": jnp.asarray(gradient)}, state, params)
        alone, plain = optimizer.update({"w": jnp.asarray(gradient)}, plain, params)
        np.testing.assert_array_equal(update["w"], alone["w"])
        velocity = 0.5 * velocity + 0.5 * np.clip(gradient, -1, 1)
        expected.append(-velocity)
    np.testing.assert_array_equal(state.values["update"], expected[:2])  # halves are exact
    assert state.values["clipped"].tolist() == [0.5, 1.0]
    assert state.step == 3


def test_recorded_passes_on_what_an_optimizer_asks_for():
    """SAM's second gradient, through the wrapper, in a train step."""
    task = training.Task(models.MLP([1]), losses.mean_squared_error)
    batch = {"inputs": jnp.ones((4, 2)), "targets": jnp.ones((4, 1))}
    sam = optimizers.sam(optimizers.sgd(0.1))
    ends = []
    for optimizer in (sam, optimizers.recorded(sam, lambda g, u: g, steps=1)):
        learn = training.make_run(task, optimizer, batch_size=4)
        ends.append(learn.step(learn.init(jax.random.key(0), batch), batch)[0].params)
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize(
    ("optimizer", "steps", "error", "message"),
    [
        (optimizers.sgd, 1, TypeError, "an optax gradient transformation, got function; make one"),
        (optimizers.sgd(0.1), 0, ValueError, "steps must be at least 1, got 0; pass 1 or more"),
        (optimizers.sgd(0.1), 1.5, TypeError, "steps must be a whole number, got 1.5; pass an int"),
    ],
)
def test_recorded_refuses_what_it_cannot_record(optimizer, steps, error, message):
    with pytest.raises(error, match=message):
        optimizers.recorded(optimizer, lambda g, u: g, steps=steps)
