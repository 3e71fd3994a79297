"""The experiment of the critical batch: what it measures, and that each claim can be refuted."""

import critical_batch_size
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data, diagnostics, losses, training

SIZES = np.array([4, 16, 64, 256, 1024])
LOOKS = 60
LOSS = np.geomspace(2.4, 0.15, LOOKS)
SCALE = 20 * (2.4 / LOSS) ** 0.6


def until(target):
    """The mean noise scale over the steps up to a loss."""
    return SCALE[: int(np.argmax(target >= LOSS))].mean()


def critical_batch_size_results(spread=0.02, two=1.0, large=2.0):
    """Steps by the law with the predicted critical batch; parts with this relative spread."""
    draw = np.random.default_rng(0)
    targets = critical_batch_size.TARGETS
    laws = np.array([[12 + 8 * n for n in range(4)], [until(target) for target in targets]])
    steps = laws[0][:, None] * (1 + laws[1][:, None] / SIZES)
    steps = steps * np.exp(spread * draw.normal(size=(6, 4, len(SIZES))))
    square = np.exp(-np.arange(LOOKS) / 30)
    runs = np.array([1.0, large])[:, None, None, None] * np.array([1.0, two])
    trace, square = (
        runs_of * part[:, None] * np.exp(spread * draw.normal(size=(2, 6, LOOKS, 2)))
        for runs_of, part in ((runs, square * SCALE), (np.ones(2), square))
    )
    dims = ("along", "seed", "step", "estimate")
    return xarray.Dataset(
        {
            "steps": (("seed", "target", "size"), steps),
            "rate": (("size", "target"), np.ones((len(SIZES), 4))),
            "loss": (dims[:3], np.broadcast_to(LOSS, (2, 6, LOOKS))),
            "trace": (dims, trace),
            "square": (dims, square),
        },
        coords={
            "size": SIZES, "seed": range(6), "target": targets,
            "step": critical_batch_size.STRIDE * np.arange(LOOKS),
            "along": [*critical_batch_size.ALONG],
            "estimate": [*critical_batch_size.ESTIMATES],
        },
        attrs={"examples": 3500},
    )  # fmt: skip


def refuted(results):
    return [i for i, claim in enumerate(critical_batch_size.claims(results)) if claim.refuted]


def test_the_claims_hold_for_the_expected_numbers():
    results = critical_batch_size_results()
    assert [claim.verdict for claim in critical_batch_size.claims(results)] == ["holds"] * 7
    assert len(critical_batch_size.plot(results).axes) == 2


def test_a_second_estimate_that_is_off_is_refuted():
    assert refuted(critical_batch_size_results(two=3.0)) == [1, 2]


def test_a_noise_scale_that_predicts_nothing_is_refuted():
    results = critical_batch_size_results()
    results["trace"] = results["trace"] / 4
    assert refuted(results) == [0, 1]


def test_a_noise_that_falls_is_refuted():
    results = critical_batch_size_results()
    results["trace"] = results["trace"] / SCALE[None, :, None] ** 2 * 400
    assert 3 in refuted(results)


def test_noise_that_is_smaller_along_large_batches_is_refuted():
    assert refuted(critical_batch_size_results(large=0.5)) == [4]


def test_a_run_that_never_comes_to_a_loss_predicts_nothing():
    results = critical_batch_size_results()
    results["loss"] = results["loss"] + 0.1
    assert np.isnan(critical_batch_size.predicted(results).isel(target=-1)).all()
    assert {0, 1, 2, 3, 4} <= set(refuted(results))


def test_a_critical_batch_that_falls_is_refuted():
    results = critical_batch_size_results()
    results["steps"] = (
        results["steps"].isel(target=slice(None, None, -1)).assign_coords(target=results["target"])
    )
    assert 5 in refuted(results)


def test_steps_off_the_law_are_refuted():
    results = critical_batch_size_results()
    results["steps"] = results["steps"] * np.array([1, 1, 2.5, 1, 1])
    assert 6 in refuted(results)


def test_runs_that_do_not_arrive_refute():
    results = critical_batch_size_results()
    results["steps"].loc[2, 0.3, 16] = np.inf
    assert {0, 1, 6} <= set(refuted(results))


def test_the_scale_of_the_two_parts_is_their_ratio_at_the_middle():
    results = critical_batch_size_results(spread=0.0)
    found = critical_batch_size.scales(results).isel(along=0, seed=0, estimate=0, step=30).item()
    # Parts that change by about 3 % a look, over 5 looks: the mean is off by their curvature.
    assert found == pytest.approx(SCALE[30], rel=0.02)


@pytest.fixture(scope="module")
def digits():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(48, 12))
    targets = np.argmax(inputs[:, :10], 1)
    return data.Arrays(jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.int32))


def test_the_steps_to_each_target_are_those_of_a_plain_loop(digits, monkeypatch):
    targets = np.array([1.8, 1.2])
    monkeypatch.setattr(critical_batch_size, "TARGETS", targets)
    monkeypatch.setattr(critical_batch_size, "STEPS_BETWEEN", {})
    draw = training.first_weights(critical_batch_size.TASK, digits)
    found = critical_batch_size.steps_to_targets(digits, 16, [0.4, 1e-4], range(5, 7), draw)
    assert np.isinf(found["steps"].isel(rate=1)).all()
    reached = found["steps"].isel(rate=0).sel(seed=5).values

    key, model = jax.random.key(5), critical_batch_size.TASK.model
    params = draw(key)

    def loss(params, inputs, targets):
        outputs = model.apply({"params": params}, inputs, train=True)
        return losses.cross_entropy(outputs, targets).mean()

    gradient, evaluate = jax.jit(jax.grad(loss)), jax.jit(loss)
    everything = (digits.inputs, digits.targets)
    expected = []
    for step, row in enumerate(np.asarray(training.orders(key, 50, 48)).reshape(-1, 16), 1):
        slopes = gradient(params, digits.inputs[row], digits.targets[row])
        params = jax.tree.map(lambda p, g: p - 0.4 * g, params, slopes)
        while len(expected) < 2 and evaluate(params, *everything) <= targets[len(expected)]:
            expected.append(step)
        if len(expected) == 2:
            break
    # float32 in another order of summation may put a crossing a step apart.
    np.testing.assert_allclose(reached, expected, atol=1)
    assert reached[1] > reached[0] > 1


def test_the_noise_along_a_run_is_that_of_its_first_step(digits, monkeypatch):
    monkeypatch.setattr(critical_batch_size, "BIG", 32)
    draw = training.first_weights(critical_batch_size.TASK, digits)
    found = critical_batch_size.noise_along(digits, 24, 0.1, range(2), draw, 6)
    assert dict(found.sizes) == {"seed": 2, "step": 3, "estimate": 2}
    task = critical_batch_size.TASK
    measured = diagnostics.gradient_noise(task, {"params": draw(jax.random.key(1))}, digits)
    first = found.isel(step=0, estimate=0).sel(seed=1)
    np.testing.assert_allclose(first["trace"], measured.covariance_trace[0], rtol=1e-3)
    # Of the digits that are trained on, |G|^2 is known.
    np.testing.assert_allclose(first["square"], measured.gradient_norm[0] ** 2, rtol=1e-3)
    assert (found["loss"].isel(step=2) < found["loss"].isel(step=0)).all()
