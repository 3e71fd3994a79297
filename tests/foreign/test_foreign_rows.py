"""Rows of models as strangers write them: values and gradients are those of an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign.everyone import KEY, MODELS, measured, rows_of, variables_of
from foreign.oracle import Entry

from jaxdl.diagnostics import graph, histograms, summary

# Two computations of one row round differently. A value is a chain of at most 12 products of at
# most 72 terms (a 3 x 3 window of 8 channels), a gradient goes the chain there and back. A sum of
# n terms is off by sqrt(n) units of 6e-8, as the units' signs differ: 24 * 8.5 * 6e-8 = 1.2e-5.
ROUNDING = 1.2e-5
# In bfloat16 a unit is 2^-9. Every operation rounds, not every term: 24 * 2^-9 = 5e-2.
ROUNDING_OF = {"decoder in bfloat16": 5e-2}


def near(found, row: int, entry: Entry, rounding: float) -> bool:
    """Whether a row has the entry's values and gradients."""
    return found.shapes[row] == entry.values.shape and all(
        np.isclose(abs(mean[row]), abs(of.mean()), rtol=0, atol=rounding * size(of))
        and np.isclose(stddev[row], of.std(), rtol=0, atol=rounding * size(of))
        for mean, stddev, of in (
            (found.mean, found.stddev, entry.values),
            (found.gradient_mean, found.gradient_stddev, entry.gradients),
        )
    )


def size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.abs(values) ** 2)))


def modules_of(found) -> dict[str, int]:
    kinds = zip(found.names, found.kinds, strict=True)
    return {
        name: row
        for row, (name, kind) in enumerate(kinds)
        if kind not in ("activation", "parameters", "attention")
    }


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_oracles(name):
    found, expected = measured(name), rows_of(name)
    rounding = ROUNDING_OF.get(name, ROUNDING)
    rows = modules_of(found)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rounding)
    if not MODELS[name].has_names:
        for path, entry in expected.rows.items():
            assert any(near(found, row, entry, rounding) for row in range(len(found.names))), path
        return
    assert set(rows) == set(expected.rows)
    for path, entry in expected.rows.items():
        row = rows[path]
        assert near(found, row, entry, rounding), path
        for norm, of in (
            (found.weight_norm, entry.weight_norm),
            (found.weight_gradient_norm, entry.weight_gradient_norm),
        ):
            np.testing.assert_allclose(norm[row], of, rtol=rounding, err_msg=path)
        assert found.has_weights[row] == (not np.isnan(entry.weight_norm))
        if rounding == ROUNDING:  # where bfloat16 cancels depends on the order of sums
            zeros = np.float32(np.mean(entry.gradients == 0))
            np.testing.assert_allclose(found.gradient_zero_fraction[row], zeros, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS[name].over_time])
def test_a_value_between_modules_is_what_one_received(name):
    found, expected = measured(name), rows_of(name)
    rounding = ROUNDING_OF.get(name, ROUNDING)
    for row, is_between in enumerate(found.is_activation):
        if is_between:
            assert any(
                values.size == np.prod(found.shapes[row])
                and np.isclose(found.mean[row], values.mean(), rtol=0, atol=rounding * size(values))
                and np.isclose(
                    found.stddev[row], values.std(), rtol=0, atol=rounding * size(values)
                )
                for values in expected.received
            ), found.names[row]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_counted_once(name):
    foreign, found = MODELS[name], measured(name)
    sizes = summary(foreign.task, foreign.inputs, train=foreign.train)
    assert sizes.names == found.names
    held = sum(leaf.size for leaf in jax.tree.leaves(variables_of(name)["params"]))
    assert sum(sizes.parameters) == sizes.total_parameters == held
    drawn = graph(foreign.task, foreign.inputs, train=foreign.train)
    inside = [node for node in drawn.nodes if node.kind not in ("input", "output")]
    assert [(node.name, node.parameters) for node in inside] == list(
        zip(sizes.names, sizes.parameters, strict=True)
    )
    fed = {target for _, target in drawn.edges}
    assert fed >= {node.name for node in drawn.nodes if node.kind == "output"}
    names = {number: each for number, each in enumerate(found.names)}
    assert [edge for edge in drawn.edges if edge[0] in found.names and edge[1] in found.names] == [
        (names[feed], names[row])
        for row, feeds in enumerate(found.feeds)
        for feed in feeds
        if feed >= 0
    ]


@pytest.mark.parametrize("name", MODELS)
def test_histograms_count_the_oracles_values(name):
    foreign, found, expected = MODELS[name], measured(name), rows_of(name)
    edges = np.linspace(-2.0, 2.0, 5)
    counted = histograms(
        foreign.model, variables_of(name), foreign.batch, bins=edges, train=foreign.train, key=KEY,
        mode=foreign.settings.get("mode"),
    )  # fmt: skip
    assert counted.names == found.names
    counts = counted.activations
    entries = counts.counts.sum(-1) + counts.below + counts.above + counts.nonfinite
    assert entries.tolist() == [np.prod(shape) for shape in found.shapes]
    rounding = ROUNDING_OF.get(name, ROUNDING)
    for path, row in modules_of(found).items():
        if MODELS[name].has_names:
            values = (
                np.abs(expected.rows[path].values)
                if jnp.iscomplexobj(expected.rows[path].values)
                else expected.rows[path].values
            )
            margin = rounding * max(size(values), 2.0)
            under = counts.below[row] + np.cumsum([0, *counts.counts[row]])
            for edge, count in zip(edges[:-1], under[:-1], strict=True):
                assert np.sum(values < edge - margin) <= count <= np.sum(values < edge + margin)
