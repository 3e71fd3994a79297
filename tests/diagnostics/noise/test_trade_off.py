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
