"""The plateau against its algorithm in plain Python, and as a pure function of its state."""

import inspect
import math
from typing import Any

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxdl.optimizers.plateau import PlateauState, plateau, report_metric

INF, NAN = math.inf, math.nan


def reference(
    metrics, *, rate=1.0, mode="min", factor=0.5, patience=0, threshold=1e-4, kind="rel",
    cooldown=0, min_lr=0.0, eps=1e-8,
):  # fmt: skip
    """(rate, best, bad epochs, cooldown left) after each metric, in float64."""
    best, bad, cool = (INF if mode == "min" else -INF), 0, 0
    for metric in metrics:
        if math.isinf(best) or math.isinf(metric):
            better = metric < best if mode == "min" else metric > best
        else:
            gain = best - metric if mode == "min" else metric - best
            better = gain > (threshold * best if kind == "rel" else threshold)
        best, bad = (metric, 0) if better else (best, bad + 1)
        if cool > 0:
            cool, bad = cool - 1, 0
        if bad > patience:
            lower = max(rate * factor, min_lr)
            rate = lower if rate - lower > eps else rate
            cool, bad = cooldown, 0
        yield rate, best, bad, cool


def path(state, metrics):
    """The same four after each metric, from one compiled scan."""

    def step(state, metric):
        state = report_metric(state, metric)
        return state, (state.learning_rate, state.best, state.bad_epochs, state.cooldown_left)

    return np.stack(
        [np.asarray(x, np.float64) for x in jax.lax.scan(step, state, jnp.asarray(metrics))[1]], -1
    )


CASES: dict[str, Any] = {
    "improving, then flat": ([5, 4, 3, 3, 3, 3, 3, 3, 3], {"patience": 2}),
    "patience 0 while it improves": ([5, 4, 3, 2, 1], {}),
    "patience 0 on a constant": ([1, 1, 1, 1], {}),
    "a maximum": ([1, 2, 3, 3, 2, 1, 4, 4], {"mode": "max", "patience": 1}),
    "cooldown": ([1] * 12, {"cooldown": 3, "patience": 1}),
    "better within a cooldown": ([2, 2, 1, 1, 1, 1, 1], {"cooldown": 2}),
    "the lowest rate": ([1] * 6, {"min_lr": 0.3}),
    "too small a reduction": ([1] * 6, {"eps": 0.2}),
    "a relative tie": ([8, 6, 4.5, 4.4375], {"threshold": 0.25}),
    "an absolute tie": ([8, 7.75, 7.5, 7], {"threshold": 0.25, "kind": "abs"}),
    "a tie at a maximum": ([8, 10, 12.5, 13], {"threshold": 0.25, "mode": "max"}),
    "negative metrics": ([-1, -2, -2, -3, -2.9, -2.99995], {}),
    # threshold * best is negative, so that a slightly worse metric counts as better.
    "a negative maximum": ([-3, -2, -2, -1, -1.00005], {"mode": "max"}),
    "through zero": ([1, 0, 0, -1, -1], {}),
    "not a number": ([NAN, 3, NAN, 2, NAN, NAN], {"patience": 1}),
    "infinite": ([INF, 3, INF, -INF, -INF, 1], {}),
    "an infinite maximum": ([-INF, 3, -INF, INF, INF, 1], {"mode": "max"}),
    "opposite and huge": ([3e38, -3e38, -3e38], {"threshold": 0.5}),
    "no threshold": ([1, np.nextafter(np.float32(1), np.float32(0)), 1], {"threshold": 0.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_algorithm(name):
    metrics, settings = CASES[name]
    metrics = np.asarray(metrics, np.float32)
    expected = list(reference(metrics.astype(np.float64), **settings))
    names = {"kind": "threshold_mode"}
    ours = {"factor": 0.5, "patience": 0, **{names.get(k, k): v for k, v in settings.items()}}
    # Halves are exact; min_lr = 0.3 is float32's.
    np.testing.assert_allclose(path(plateau(1.0, **ours).init({}), metrics), expected, rtol=2**-24)


def test_the_cases_tell_improvements_from_reductions():
    reductions = {
        name: len({step[0] for step in reference(np.float64(metrics), **settings)})
        for name, (metrics, settings) in CASES.items()
    }
    assert reductions["patience 0 while it improves"] == 1
    assert reductions["patience 0 on a constant"] == 4


@pytest.mark.parametrize(
    ("threshold_mode", "threshold", "best", "value", "better"),
    [
        # float32(0.2) - float32(0.1) is float32(0.1), which exceeds 0.1 by 1.5e-9.
        ("abs", 0.1, 0.2, 0.1, True),
        ("abs", 0.3, 10.0, 9.7, np.float64(np.float32(9.7)) < 10.0 - 0.3),
        # 10 (1 - 0.1) is 9 in PyTorch, and to 48 bits too.
        ("rel", 0.1, 10.0, 9.0, False),
        ("rel", 0.1, 10.0, np.nextafter(np.float32(9), np.float32(0)), True),
        ("rel", 1e-4, 1e4, 9999.0, False),
        ("rel", 0.1, 0.2, 0.18, np.float64(np.float32(0.18)) < np.float64(np.float32(0.2)) * 0.9),
    ],
)
def test_decides_as_float64_does_next_to_the_threshold(
    threshold_mode, threshold, best, value, better
):
    state = plateau(1.0, threshold=threshold, threshold_mode=threshold_mode).init({})
    state = jax.jit(report_metric)(jax.jit(report_metric)(state, best), value)
    assert bool(state.bad_epochs == 0) == better


def test_every_neighbour_of_the_threshold_is_decided_as_in_float64(key):
    # Metrics within eight units in the last place of the threshold. None of these thresholds makes
    # float64's own rounding of best * (1 - threshold) decide a tie, as 1 / 3 and 0.7 do.
    best = np.asarray(jax.random.uniform(key, (20_000,), minval=0.1, maxval=100.0))
    threshold = np.random.default_rng(0).choice([1e-4, 0.01, 0.1, 0.2, math.pi / 10], len(best))
    edge = (best.astype(np.float64) * (1 - threshold)).astype(np.float32)
    units = np.random.default_rng(1).integers(-8, 9, len(best))
    metric = (edge.view(np.int32) + units.astype(np.int32)).view(np.float32)
    expected = metric.astype(np.float64) < best.astype(np.float64) * (1.0 - threshold)
    assert 0.3 < expected.mean() < 0.7
    states = {
        t: jax.jit(report_metric)(
            jax.vmap(plateau(1.0, threshold=float(t)).init)(jnp.zeros(np.sum(threshold == t))),
            best[threshold == t],
        )
        for t in np.unique(threshold)
    }
    for t, state in states.items():
        chosen = threshold == t
        decided = jax.jit(report_metric)(state, metric[chosen]).bad_epochs == 0
        np.testing.assert_array_equal(decided, expected[chosen])


def test_updates_are_minus_the_rate_times_the_gradient():
    optimizer = plateau(0.5, factor=0.5, patience=0)
    gradients = {"a": jnp.array([1.0, -2.0]), "b": (jnp.ones((), jnp.bfloat16), None)}
    state = optimizer.init(gradients)
    updates, after = optimizer.update(gradients, state, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, gradients)
    chex.assert_trees_all_equal(after, state)
    np.testing.assert_array_equal(updates["a"], [-0.5, 1.0])
    state = report_metric(report_metric(state, 1.0), 1.0)
    np.testing.assert_array_equal(optimizer.update(gradients, state)[0]["a"], [-0.25, 0.5])


def wrapped(link):
    """The plateau as deep in an optimizer's state as optax puts it."""
    groups = {"fast": optax.chain(optax.scale_by_adam(), link), "slow": optax.sgd(0.1)}
    return optax.MultiSteps(
        optax.chain(
            optax.clip(1.0),
            optax.masked(optax.apply_if_finite(link, 3), {"a": True, "b": False}),
            optax.partition(groups, {"a": "fast", "b": "slow"}),
            optax.inject_hyperparams(optax.sgd)(0.1),
        ),
        2,
    ).gradient_transformation()


def test_every_plateau_in_a_state_moves_and_nothing_else():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = wrapped(plateau(1.0, factor=0.5, patience=0)).init(params)

    def plateaus(state):
        return [
            node
            for node in jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, PlateauState))
            if isinstance(node, PlateauState)
        ]

    moved = jax.jit(lambda s: report_metric(report_metric(s, 1.0), 1.0))(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)
    assert [node.learning_rate.item() for node in plateaus(moved)] == [0.5, 0.5]
    back = jax.tree.map(
        lambda n: plateaus(state)[0] if isinstance(n, PlateauState) else n,
        moved,
        is_leaf=lambda n: isinstance(n, PlateauState),
    )
    chex.assert_trees_all_equal(back, state)


def test_maps_over_settings_states_and_metrics():
    def final(rate, factor, patience, threshold, cooldown, metrics):
        optimizer = plateau(
            rate, factor=factor, patience=patience, threshold=threshold, cooldown=cooldown
        )
        return path_of(optimizer.init({}), metrics)

    def path_of(state, metrics):
        return jax.lax.scan(
            lambda s, m: ((s := report_metric(s, m)), s.learning_rate), state, metrics
        )[1]

    metrics = np.random.default_rng(0).integers(1, 6, (3, 30)).astype(np.float32)
    settings = (
        np.array([1.0, 0.5, 0.25]),
        np.array([0.5, 0.25, 0.5]),
        np.array([0, 1, 2]),
        np.array([0.0, 0.5, 0.25]),
        np.array([2, 0, 1]),
    )
    together = jax.jit(jax.vmap(final))(*map(jnp.asarray, settings), jnp.asarray(metrics))
    for k in range(3):
        rate, factor, patience, threshold, cooldown = (column[k].item() for column in settings)
        alone = reference(
            metrics[k].astype(float), rate=rate, factor=factor, patience=patience,
            threshold=threshold, cooldown=cooldown,
        )  # fmt: skip
        # Every setting is a power of two, and every decision exact.
        np.testing.assert_array_equal(together[k], [step[0] for step in alone])


def test_a_stack_of_states_takes_one_metric_or_one_each():
    state = jax.vmap(lambda rate: plateau(rate, patience=0).init({}))(jnp.array([1.0, 2.0]))
    state = report_metric(report_metric(state, 1.0), jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(state.learning_rate, [0.1, 2.0], rtol=2**-23)


def test_compiles_once():
    report = jax.jit(chex.assert_max_traces(report_metric, n=1))
    state = plateau(1.0).init({})
    for metric in (1.0, 2.0, 0.5):
        state = report(state, metric)


def test_survives_a_checkpoint(tmp_path):
    optimizer = optax.chain(optax.scale_by_adam(), plateau(0.1, mode="max", patience=1))
    params = {"w": jnp.ones(2)}
    state = report_metric(report_metric(optimizer.init(params), 2.0), 1.0)
    restored = flax.serialization.from_bytes(
        optimizer.init(params), flax.serialization.to_bytes(state)
    )
    chex.assert_trees_all_equal(restored, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", optimizer.init(params))
    chex.assert_trees_all_equal(restored, state)
    after = report_metric(restored, 1.0)[1]
    chex.assert_trees_all_equal(after, report_metric(state, 1.0)[1])
    assert after.learning_rate < 0.1


def test_its_state_can_be_donated():
    state = plateau(jnp.float32(0.1)).init({})
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: plateau(-0.1), "learning_rate must be finite and at least 0, got -0.1"),
        (lambda: plateau(NAN), "learning_rate"),
        (lambda: plateau(jnp.ones(2)), r"learning_rate must be a scalar, got .* \(2,\); vmap"),
        (lambda: plateau(0.1, factor=1.0), "factor must be below 1, got 1.0"),
        (lambda: plateau(0.1, factor=0.0), "factor must be finite and positive"),
        (lambda: plateau(0.1, factor=NAN), "factor"),
        (lambda: plateau(0.1, patience=-1), "patience must be a whole number of epochs, 0 or more"),
        (lambda: plateau(0.1, patience=1.5), "patience"),
        (lambda: plateau(0.1, cooldown=-1), "cooldown"),
        (lambda: plateau(0.1, threshold=-1e-4), "threshold must be finite and at least 0"),
        (lambda: plateau(0.1, threshold=NAN), "threshold"),
        (lambda: plateau(0.1, threshold=1.0), "threshold must be below 1 for a relative minimum"),
        (lambda: plateau(0.1, min_lr=-1.0), "min_lr"),
        (lambda: plateau(0.1, eps=NAN), "eps"),
        (lambda: report_metric(optax.sgd(0.1).init({}), 1.0), "must hold the state of a plateau"),
        (
            lambda: report_metric(plateau(0.1).init({}), jnp.ones(2)),
            r"value must be a scalar or have the state's shape \(\), got \(2,\)",
        ),
    ],
)
def test_refuses(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_refuses_unknown_words():
    # Not through the types, which the tests check and a user's process does not.
    unchecked: Any = inspect.unwrap(plateau)
    with pytest.raises(ValueError, match="mode must be one of min, max, got 'least'"):
        unchecked(0.1, mode="least")
    with pytest.raises(ValueError, match="threshold_mode must be one of rel, abs, got 'x'"):
        unchecked(0.1, threshold_mode="x")
