"""The experiment of batch sizes: what it measures, and that each claim can be refuted."""

import batch_size
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

from jaxdl import data, losses, optimizers, training

SIZES = np.array([1, 16, 64, 256, 3500])


def batch_size_results(spread=0.02):
    """Steps by the law, with this standard deviation of their logarithms."""
    draw = np.random.default_rng(0)
    steps = 40 * (1 + 55 / SIZES) * np.exp(spread * draw.normal(size=(6, len(SIZES))))
    return xarray.Dataset(
        {
            "rate": ("size", np.ones(len(SIZES))),
            "steps": (("seed", "size"), steps),
            "seconds_of_a_step": ("size", [23e-6, 130e-6, 340e-6, 1.2e-3, 12e-3]),
        },
        coords={"size": SIZES, "seed": range(6)},
        attrs={"backend": "cpu"},
    )


def refuted(results):
    return [i for i, claim in enumerate(batch_size.claims(results)) if claim.refuted]


def test_the_claims_hold_for_the_expected_numbers():
    results = batch_size_results()
    assert all(claim.holds for claim in batch_size.claims(results))
    assert batch_size.plot(results).axes


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([0.4, 1, 1, 1, 1], [0, 3]),
        ([1, 1, 1, 1, 0.1], [1, 2, 3, 4]),
        ([1, 2, 1, 1, 1], [0, 3]),
        ([0.1, 0.4, 1, 1, 1], [0, 2]),
        ([30, 3, 1, 1, 1], [2, 3, 4]),
    ],
)
def test_each_claim_can_be_refuted(factors, expected):
    results = batch_size_results()
    results["steps"] = results["steps"] * np.array(factors)
    assert refuted(results) == expected


def test_seeds_that_scatter_decide_nothing():
    verdicts = [claim.verdict for claim in batch_size.claims(batch_size_results(spread=1.0))]
    assert verdicts[3] == "undecided"
    assert "refuted" not in verdicts


def test_runs_that_do_not_arrive_refute():
    results = batch_size_results()
    results["steps"].loc[2, 16] = np.inf
    assert refuted(results) == [0, 2, 3]


def test_steps_that_show_no_critical_batch_refute_that_claim():
    """As steps fall like 1 / B, S_min is 0 and B_c inf: S_min B_c has no value, their law has."""
    results = batch_size_results()
    results["steps"][:] = 4e4 / results["size"]
    assert 2 in refuted(results)
    assert 3 not in refuted(results)


@pytest.mark.parametrize("size", [16, 48])
def test_the_steps_to_the_target_are_those_of_a_plain_loop(size, monkeypatch):
    monkeypatch.setattr(batch_size, "TARGET", 1.0)
    monkeypatch.setattr(batch_size, "STEPS_BETWEEN", {16: 3})
    draw = np.random.default_rng(0)
    train = data.Arrays(
        jnp.asarray(draw.normal(size=(48, 12)), jnp.float32),
        jnp.asarray(draw.integers(0, 10, 48), jnp.int32),
    )
    rate, first = 0.4, training.first_weights(batch_size.TASK, train)
    found = batch_size.steps_to_target(train, size, [rate, 1e-4], range(5, 7), first)
    assert dict(found.sizes) == {"rate": 2, "seed": 2}
    reached, never = found.sel(seed=5).values
    assert never == np.inf

    key, between = jax.random.key(5), {16: 3}.get(size, 1)
    model, optimizer = batch_size.TASK.model, optimizers.sgd(rate)
    params = training.init_state(key, model, optimizer, train.inputs[:1]).params

    def loss(params, inputs, targets):
        outputs = model.apply({"params": params}, inputs, train=True)
        return losses.cross_entropy(outputs, targets).mean()

    gradient, evaluate = jax.jit(jax.grad(loss)), jax.jit(loss)
    for step, row in enumerate(training.orders(key, 500, 48).reshape(-1, size), 1):
        slopes = gradient(params, train.inputs[row], train.targets[row])
        params = optax.apply_updates(params, jax.tree.map(lambda g: -rate * g, slopes))
        if step % between == 0 and evaluate(params, train.inputs, train.targets) <= 1.0:
            break
    # float32 in another order of summation may put the crossing a look apart.
    assert abs(reached - step) <= between
    assert reached > 3


def test_batch_sizes_that_no_claim_can_be_read_from_are_refused():
    for sizes in ((1, 16, 64, 5000), (16, 64, 3500), (1, 64, 16, 3500)):
        with pytest.raises(ValueError, match="batch_sizes must increase"):
            batch_size.run(batch_size.Config(batch_sizes=sizes))
