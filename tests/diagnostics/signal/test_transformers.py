"""What the instruments say of `models.Transformer`, the same in every kind of blocks."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.diagnostics import advise, histograms, propagation, summary
from jaxdl.models import Transformer, stack_blocks

TOKENS = jax.random.randint(jax.random.key(3), (16, 12), 0, 11)
BATCH = {"inputs": TOKENS, "targets": np.roll(TOKENS, -1, 1)}
FOUR = {"vocabulary": 11, "features": 16, "layers": 4, "heads": 4, "length": 12}
KINDS = ("remat", "scan")


@functools.cache
def model_and_variables(blocks):
    plain = Transformer(**FOUR)
    # As at the start of training.
    variables = jax.jit(functools.partial(plain.init, train=False))(jax.random.key(0), TOKENS)
    if blocks == "scan":
        variables = stack_blocks(variables)
    return Transformer(**FOUR, blocks=blocks), variables


@functools.cache
def measured(measure, blocks):
    model, variables = model_and_variables(blocks)
    if measure is summary:
        return summary(model, TOKENS)
    return measure(model, variables, BATCH, loss=losses.cross_entropy)


def plain_names(names):
    return tuple(re.sub(r"^blocks\[(\d+)\]", r"block_\1", name) for name in names)


@pytest.mark.parametrize("blocks", KINDS)
@pytest.mark.parametrize("measure", [propagation, histograms])
def test_rows_and_numbers_are_those_of_plain_blocks(measure, blocks):
    plain, other = measured(measure, "plain"), measured(measure, blocks)
    assert plain_names(other.names) == plain.names
    assert len(plain.names) == 2 + 4 * 13 + 2
    for left, right in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
        if measure is histograms and np.allclose(right, np.round(right)):
            # Rounding of 1e-6 may move a value over the edge of its bin.
            np.testing.assert_allclose(left, right, rtol=0, atol=3)
        else:
            size = np.nanmax(np.abs(right), initial=0)
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6 * size)


@pytest.mark.parametrize("blocks", KINDS)
def test_sizes_are_those_of_plain_blocks(blocks):
    sizes = measured(summary, blocks)
    renamed = dataclasses.replace(sizes, names=plain_names(sizes.names))
    assert renamed == measured(summary, "plain")


@pytest.mark.parametrize("blocks", ["plain", *KINDS])
def test_the_default_is_healthy(blocks):
    assert advise(measured(propagation, blocks)) == ()


def test_summary_counts_each_parameter_once():
    for blocks in ("plain", *KINDS):
        sizes = measured(summary, blocks)
        _, variables = model_and_variables(blocks)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables))
        assert sum(sizes.parameters) == sizes.total_parameters == count


def test_norms_after_the_branches_are_known_in_a_scan():
    """There the last norm makes what the scan carries."""
    settings = {**FOUR, "layers": 2, "norm_position": "after"}
    plain = summary(Transformer(**settings), TOKENS)
    scanned = summary(Transformer(**settings, blocks="scan"), TOKENS)
    assert dataclasses.replace(scanned, names=plain_names(scanned.names)) == plain
    assert "block_1/norm_1" in plain.names
