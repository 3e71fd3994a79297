"""The law of steps and examples: its constants come back from what follows it."""

import numpy as np
import pytest

from jaxdl import diagnostics

SIZES = np.array([1, 8, 64, 512, 4096])


@pytest.mark.parametrize("critical", [2.0, 55.0, 900.0])
def test_the_constants_come_back(critical):
    steps = 40 * (1 + critical / SIZES)
    found = diagnostics.batch_trade_off(SIZES, steps)
    np.testing.assert_allclose(found, [40, 40 * critical, critical], rtol=1e-4)
    np.testing.assert_allclose(found.steps(SIZES), steps, rtol=1e-4)
    at = found.steps([critical])[0]
    np.testing.assert_allclose(
        [at / found.least_steps, at * critical / found.least_examples], [2, 2], rtol=1e-4
    )


def test_noise_in_all_sizes_alike_scales_the_steps_alone():
    steps = 40 * (1 + 55 / SIZES)
    np.testing.assert_allclose(
        diagnostics.batch_trade_off(SIZES, 3 * steps).critical_batch, 55, rtol=1e-4
    )


@pytest.mark.parametrize("lost", [np.inf, np.nan])
def test_a_run_that_did_not_arrive_leaves_no_number(lost):
    found = diagnostics.batch_trade_off([1, 16, 64], [100.0, lost, 20.0])
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("sizes", "steps", "text"),
    [
        ([16], [10.0], "two batch sizes or more"),
        ([16, 16], [10.0, 11.0], "two batch sizes or more"),
        ([16, 32], [10.0], "shapes"),
        ([0, 32], [10.0, 5.0], "must be positive"),
        ([16, 32], [10.0, -5.0], "must be positive"),
    ],
)
def test_bad_input_is_refused(sizes, steps, text):
    with pytest.raises(ValueError, match=text):
        diagnostics.batch_trade_off(sizes, steps)


@pytest.mark.parametrize(
    "sizes", [[16, 32], [16, 32, 64], [1, 4096]], ids=["two", "three", "far apart"]
)
def test_steps_that_fall_as_the_batch_grows_show_no_critical_batch(sizes):
    found = diagnostics.batch_trade_off(sizes, 16000 / np.array(sizes))
    assert found.critical_batch == np.inf
    assert found.least_steps == 0
    assert found.least_examples == pytest.approx(16000)
    np.testing.assert_allclose(found.steps(sizes), 16000 / np.array(sizes))


@pytest.mark.parametrize("steps", [[100, 100, 100], [100, 110, 130], [100, 120, 110]])
def test_steps_that_do_not_fall_show_no_gain_of_larger_batches(steps):
    found = diagnostics.batch_trade_off([16, 32, 64], steps)
    mean = np.exp(np.mean(np.log(steps)))
    np.testing.assert_allclose(found, [mean, 0, 0])
    np.testing.assert_allclose(found.steps([1, 16]), [mean, mean])


@pytest.mark.parametrize("steps", [[1000, 400, 150], [90, 20, 1]])
def test_steps_that_fall_faster_than_the_batch_grows_are_at_the_same_limit(steps):
    found = diagnostics.batch_trade_off([16, 32, 64], steps)
    assert found.critical_batch == np.inf
    assert found.least_steps == 0
    examples = np.exp(np.mean(np.log(np.multiply([16, 32, 64], steps))))
    assert found.least_examples == pytest.approx(examples)


@pytest.mark.parametrize("critical", [0.01, 1e5])
def test_a_critical_batch_beyond_the_sizes_still_comes_back(critical):
    steps = 40 * (1 + critical / SIZES)
    found = diagnostics.batch_trade_off(SIZES, steps)
    np.testing.assert_allclose(found, [40, 40 * critical, critical], rtol=1e-3)


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_sizes_that_are_not_finite_are_refused(size):
    with pytest.raises(ValueError, match="batch_sizes must be finite"):
        diagnostics.batch_trade_off([16, size, 64], [100, 90, 50])
