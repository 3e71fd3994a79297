"""The claims on first networks: they hold for the numbers that they expect, and others refute."""

import fashion_mnist
import jax
import numpy as np
import pytest
import quickstart
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, losses, metrics, models, training


def verdicts(experiment, results):
    return [claim.verdict for claim in experiment.claims(results)]


def only(refuted, of, verdict="refuted"):
    return [verdict if index == refuted else "holds" for index in range(of)]


def fashion_mnist_results():
    seeds, long = 5, 20
    draw = np.random.default_rng(0)
    accuracy = np.full((2, seeds, long, 2), np.nan)
    accuracy[0, :, :4, 0] = fashion_mnist.LECTURE_TRAIN_ACCURACY + 0.1 * draw.normal(
        size=(seeds, 4)
    )
    accuracy[0, :, :4, 1] = 82.8 + 0.05 * draw.normal(size=(seeds, 4))
    accuracy[1, ..., 0] = np.linspace(85, 95, long) + 0.1 * draw.normal(size=(seeds, long))
    accuracy[1, ..., 1] = np.linspace(86.0, 88, long) + 0.1 * draw.normal(size=(seeds, long))
    return xarray.Dataset(
        {"accuracy": (("rate", "seed", "epoch", "split"), accuracy)},
        coords={
            "rate": [fashion_mnist.SLOW, fashion_mnist.FAST],
            "epoch": np.arange(1, long + 1),
            "split": ["train", "test"],
        },
    )


@pytest.mark.parametrize(
    ("rate", "split", "epoch", "change", "claim"),
    [
        (1e-4, "train", 1, -3.0, 0),
        (1e-4, "train", 2, 3.0, 1),
        (1e-4, "train", 3, 3.0, 2),
        (1e-4, "train", 4, -3.0, 3),
        (1e-4, "test", 4, -2.0, 4),
        (1e-3, "test", 4, -3.0, 5),
        (1e-3, "train", 20, -14.0, 6),
    ],
)
def test_fashion_mnists_claims_hold_and_can_be_refuted(rate, split, epoch, change, claim):
    results = fashion_mnist_results()
    assert verdicts(fashion_mnist, results) == only(None, 7)
    results["accuracy"].loc[{"rate": rate, "split": split, "epoch": epoch}] += change
    assert verdicts(fashion_mnist, results) == only(claim, 7)


def test_a_mean_at_the_bands_end_is_undecided():
    results = fashion_mnist_results()
    first = {"rate": fashion_mnist.SLOW, "split": "train", "epoch": 1}
    results["accuracy"].loc[first] += fashion_mnist.LECTURE_BAND[0]
    assert verdicts(fashion_mnist, results) == only(0, 7, "undecided")


def quickstart_results():
    signal = np.stack([0.05 * 0.5 ** np.arange(5), np.full(5, 0.5)])[:, None] * np.ones((40, 1))
    by_seed = np.arange(5)[:, None] * np.ones((5, 10))
    return xarray.Dataset(
        {
            "signal": (("network", "start", "layer"), signal),
            "validation": (
                ("network", "seed", "epoch"),
                np.stack([83.0 + by_seed, 88.0 + 1.1 * by_seed]),
            ),
            "test": (("network", "seed"), np.full((2, 5), 93.4)),
        },
        coords={
            "network": ["plain", "batch_norm"],
            "layer": np.arange(1, 6),
            "epoch": np.arange(1, 11),
        },
    )


@pytest.mark.parametrize(
    ("name", "network", "values", "claim"),
    [
        (None, None, None, None),
        ("signal", "plain", np.ones((40, 5)), 0),
        ("signal", "batch_norm", 0.9 ** np.arange(5) * np.ones((40, 1)), 1),
        ("validation", "batch_norm", np.full((5, 10), 60.0), 2),
        ("test", "plain", np.full(5, 90.0), 3),
        ("test", "batch_norm", np.full(5, 90.0), 4),
    ],
)
def test_quickstarts_claims_hold_and_can_be_refuted(name, network, values, claim):
    results = quickstart_results()
    if name:
        results[name].loc[{"network": network}] = values
    assert verdicts(quickstart, results) == only(claim, 5)


def test_quickstart_cannot_tell_a_small_lead():
    results = quickstart_results()
    same = results["validation"].sel(network="plain").values + np.array([-2, -1, 0, 1, 3])[:, None]
    results["validation"].loc[{"network": "batch_norm"}] = same
    assert verdicts(quickstart, results) == only(2, 5, "undecided")


def test_a_shorter_run_of_quickstart_is_not_compared_with_earlier_ones():
    results = quickstart_results().isel(epoch=slice(2))
    assert verdicts(quickstart, results) == only(None, 3)


def test_the_outputs_of_a_row_of_parameters_are_those_of_its_network():
    """Against NumPy in float64; a sum of 784 products of about 0.02 rounds to 1e-5 in float32."""
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1)).astype(np.uint8)
    split = data.Arrays(images, np.arange(30) % 10)
    task = training.Task(models.MLP([16, 10]), losses.cross_entropy)
    params = training.first_weights(task, split)(jax.random.key(1))
    row = np.asarray(ravel_pytree(params)[0])
    first, second = (
        {name: np.asarray(value, np.float64) for name, value in params[layer].items()}
        for layer in ("dense_0", "dense_1")
    )
    hidden = images.reshape(30, -1) / 255 @ first["kernel"] + first["bias"]
    expected = np.maximum(hidden, 0) @ second["kernel"] + second["bias"]
    measured = fashion_mnist.outputs_of(task, row, split, split)
    np.testing.assert_allclose(measured, expected, atol=1e-4)


def test_fashion_mnists_figure_shows_what_is_confused():
    results = fashion_mnist_results()
    names, draw = [f"class {i}" for i in range(10)], np.random.default_rng(0)
    truth = np.repeat(np.arange(10), 100)
    decisions = np.where(draw.random(1000) < 0.8, truth, draw.integers(0, 10, 1000))
    scores = draw.dirichlet(np.ones(10), 2 * fashion_mnist.SHOWN_OF_EACH)
    results = results.assign(
        loss=("step", np.linspace(2, 0.5, 300)),
        scores=(("image", "class"), scores),
        images=(("image", "row", "column"), draw.random((len(scores), 28, 28))),
        labels=("image", scores.argmax(1)),
        confusion=(("class", "predicted"), metrics.confusion(truth, decisions)),
    ).assign_coords({"class": names})
    figure = fashion_mnist.plot(results)
    matrix = figure.axes[-1]
    assert [label.get_text() for label in matrix.get_yticklabels()] == names
    shown = {text.get_position(): text.get_text() for text in matrix.texts}
    right = np.mean(decisions[truth == 0] == 0)
    assert shown[0, 0] == f"{100 * right:.0f}"
