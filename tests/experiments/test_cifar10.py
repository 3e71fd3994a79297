"""CIFAR-10's experiment: its claims hold for the expected numbers, and each can be refuted."""

import cifar10
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data, layers


def cifar10_results(epochs=5):
    """Results as they are expected: PyTorch's accuracies, a gain on raw pixels."""
    spread = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])[:, None] * np.ones(epochs)
    accuracy = np.array([[48.2 + 1.5 * spread, 47.2 + 3 * spread], [48.8 + spread, 43.1 + spread]])
    return xarray.Dataset(
        {"accuracy": (("norm", "inputs", "seed", "epoch"), accuracy)},
        coords={"norm": ["norm", "plain"], "inputs": ["centred", "raw"]},
    )


def those(verdict, results):
    found = [claim.verdict for claim in cifar10.claims(results)]
    return {index for index, each in enumerate(found) if each == verdict}


def test_the_expected_numbers_hold():
    assert those("holds", cifar10_results()) == set(range(5))
    assert those("holds", cifar10_results(epochs=2)) == {0, 1}  # PyTorch's are of 5 epochs


@pytest.mark.parametrize(
    ("norm", "inputs", "change", "refuted"),
    [
        ("norm", "centred", -6.0, {0, 2}),
        ("plain", "centred", -7.0, {1, 2, 4}),
        ("norm", "raw", -9.0, {3, 4}),
    ],
)
def test_each_claim_can_be_refuted(norm, inputs, change, refuted):
    results = cifar10_results()
    results["accuracy"].loc[{"norm": norm, "inputs": inputs}] += change
    assert those("refuted", results) == refuted


def test_what_five_seeds_cannot_tell():
    results = cifar10_results()
    results["accuracy"].loc[{"norm": "norm", "inputs": "raw"}] -= 4.0
    assert those("undecided", results) == {3}


def test_confusion_counts_every_image():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50, 32, 32, 3)).astype(np.uint8)
    targets = draw.integers(0, 10, 50).astype(np.int32)
    task = cifar10.make_task(layers.BatchNorm, 1.0)
    variables = task.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    table = np.asarray(cifar10.confusion(task, variables, data.Arrays(images, targets)))
    inputs = (jnp.asarray(images, jnp.float32) / 255 - 0.5) / 0.5
    logits = task.model.apply(variables, inputs, train=False)
    decisions = np.asarray(logits).argmax(-1)
    assert table[targets[0], decisions[0]] > 0
    np.testing.assert_array_equal(table.sum(1), np.bincount(targets, minlength=10))
    np.testing.assert_array_equal(table.sum(0), np.bincount(decisions, minlength=10))


def test_the_whole_experiment_on_noise(monkeypatch):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 10, count).astype(np.int32))

    noise = data.Dataset("noise", arrays(128), None, arrays(50), tuple("abcdefghij"))
    monkeypatch.setattr(cifar10.data, "load", lambda name, **where: noise)
    results = cifar10.run(cifar10.Config(seeds=2, epochs=2))
    runs = {"norm": 2, "inputs": 2, "seed": 2}
    assert results["accuracy"].sizes == results["loss"].sizes == runs | {"epoch": 2}
    assert results["confusion"].sizes == runs | {"true": 10, "predicted": 10}
    # Of the last epoch's images as many are right as the table's diagonal says.
    right = np.diagonal(results["confusion"], axis1=-2, axis2=-1).sum(-1) / 50
    np.testing.assert_allclose(100 * right, results["accuracy"].isel(epoch=-1), rtol=1e-5)
    assert cifar10.plot(results).subfigs
