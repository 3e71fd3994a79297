"""CIFAR-10's experiment: its claims hold for the expected numbers, and each can be refuted."""

import cifar10
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data


def cifar10_results(epochs=5):
    """Results as they are expected: PyTorch's accuracies, and a run that was resumed well."""
    spread = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])[:, None] * np.ones(epochs)
    last = {
        "norm_centred": 48.2 + 0.5 * spread,
        "plain_centred": 48.8,
        "norm_raw": 47.2 + 2 * spread,
        "plain_raw": 43.1,
    }
    results = {f"{name}_validation": value + spread for name, value in last.items()}
    return results | {
        "rates": np.full(epochs, 1e-3, np.float32),
        "patience": np.array(10),
        "watched_loss": np.linspace(2.0, 1.5, epochs),
        "resumed_difference": np.array(0.0),
        "lines": np.arange(1, epochs + 1),
    }


def verdicts(results):
    return [claim.verdict for claim in cifar10.claims(results)]


def those(verdict, results):
    return {index for index, found in enumerate(verdicts(results)) if found == verdict}


def test_the_expected_numbers_hold():
    assert verdicts(cifar10_results()) == ["holds"] * 8
    assert verdicts(cifar10_results(epochs=2)) == ["holds"] * 5  # PyTorch's are of 5 epochs


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("norm_centred_validation", lambda v: v - 6, {0, 2}),
        ("plain_centred_validation", lambda v: v - 7, {1, 2, 4}),
        ("norm_raw_validation", lambda v: v - 9, {3, 4}),
        ("rates", lambda v: v * np.float32(1 + 1e-5), {5}),
        ("watched_loss", lambda v: v[0] + 0 * v, set()),  # bad epochs, but fewer than ten
        ("patience", lambda v: 0 * v, set()),  # the loss falls in every epoch
        ("resumed_difference", lambda v: v + 1e-3, {6}),
        ("resumed_difference", lambda v: v + 1e-6, set()),  # rounding
        ("lines", lambda v: v[1:], {7}),
        ("lines", lambda v: np.r_[v, v[-1]], {7}),
    ],
)
def test_each_claim_can_be_refuted(name, change, refuted):
    results = cifar10_results()
    results[name] = change(results[name])
    assert those("refuted", results) == refuted


def test_what_five_seeds_cannot_tell():
    results = cifar10_results()
    results["norm_raw_validation"] -= 4.0
    assert those("undecided", results) == {3}


def test_the_rates_are_those_of_pytorchs_plateau():
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    for patience in (0, 1, 3):
        loss = 1 + draw.random(25)
        parameter = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([parameter], lr=cifar10.RATE)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=cifar10.FACTOR, patience=patience
        )
        rates = []
        for value in loss:
            schedule.step(value)
            rates.append(optimizer.param_groups[0]["lr"])
        np.testing.assert_allclose(cifar10.replayed_rates(loss, patience), rates, rtol=1e-12)


def test_a_missed_reduction_is_refuted():
    results = cifar10_results() | {"patience": np.array(1), "watched_loss": np.ones(5)}
    # Best in epoch 1; the third and the fifth bad epoch ... two bad ones are more than one.
    assert verdicts(results)[5] == "refuted"
    results["rates"] = cifar10.replayed_rates(np.ones(5), 1).astype(np.float32)
    assert results["rates"][-1] < 1e-3
    assert verdicts(results)[5] == "holds"


def test_confusion_counts_every_image():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50, 32, 32, 3)).astype(np.uint8)
    targets = draw.integers(0, 10, 50).astype(np.int32)
    model = cifar10.network("norm")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    table = cifar10.confusion(model, variables, data.Arrays(images, targets))
    logits = model.apply(variables, cifar10.centre(jnp.asarray(images)), train=False)
    decisions = np.asarray(logits).argmax(-1)
    assert table[targets[0], decisions[0]] > 0
    np.testing.assert_array_equal(table.sum(1), np.bincount(targets, minlength=10))
    np.testing.assert_array_equal(table.sum(0), np.bincount(decisions, minlength=10))


def test_the_whole_experiment_on_noise(monkeypatch, tmp_path):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 10, count).astype(np.int32))

    noise = data.Dataset("noise", arrays(128), None, arrays(50), tuple("abcdefghij"))
    monkeypatch.setattr(cifar10.data, "load", lambda name, **where: noise)
    config = cifar10.Config(seeds=2, epochs=2, log_dir=str(tmp_path / "logs"))
    results = cifar10.run(config)
    np.savez(tmp_path / "results.npz", **results)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as loaded:
        assert set(loaded) == set(results)
        assert cifar10.plot({name: loaded[name] for name in loaded}).subfigs
    # What is true of any data: the rate, the resumed run, the lines.
    assert verdicts(results)[2:] == ["holds"] * 3
    kept = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert kept == ["checkpoints", "history.jsonl", "tensorboard"]
    with pytest.raises(ValueError, match="log_dir must be a new folder"):
        cifar10.run(config)
