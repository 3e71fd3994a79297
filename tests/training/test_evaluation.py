"""Evaluation is exact for any batch size."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.training.evaluation import make_batch_sums, means


def eval_step(variables, batch):
    return {
        "value": batch["inputs"].sum(),
        "weighted": (variables["scale"] * batch["targets"]).sum(),
    }


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10, 99, 100, 101, 1000])
def test_is_the_mean_over_all_examples(batch_size):
    draw = np.random.default_rng(0)
    values, weights = draw.normal(size=(2, 100)).astype(np.float32)
    sums = make_batch_sums(eval_step, batch_size)(
        {"scale": jnp.float32(2)}, {"inputs": jnp.asarray(values), "targets": jnp.asarray(weights)}
    )
    got = means(sums, 100)
    # A float32 sum of at most 100 numbers below 4 rounds by at most 100 * 4 * 2^-24 a term.
    assert got["value"] == pytest.approx(values.astype(np.float64).mean(), abs=3e-5)
    assert got["weighted"] == pytest.approx(2 * weights.astype(np.float64).mean(), abs=6e-5)


def test_counts_are_exact_beyond_float32():
    # 300 batches of 100,000 are 3e7, which float32 cannot count by ones.
    sums = {"correct": np.full(300, 99_999, np.float32)}
    assert means(sums, 300 * 100_000)["correct"] == 99_999 / 100_000
