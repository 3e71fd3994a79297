"""Double descent: what is measured, and that each claim can be refuted."""

import double_descent
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from double_descent import CHANNELS, FITTED, NOISES, PUBLISHED, PUBLISHED_CLEAN, PUBLISHED_CNN

from jaxdl import data, models

SEEDS, EPOCHS = 4, 60
WIDTHS = double_descent.WIDTHS[:-1]
SAMPLES = (1000, 2000, 4000)


def verdicts(results):
    return [claim.verdict for claim in double_descent.claims(results)]


def refuted(results):
    return [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]


def double_descent_results(by_epoch=(40, 0, 9, 0)):
    """The published errors, peaks at 16, 27, 47, and a test error that falls, rises and falls."""
    clean, noisy = (np.array(errors[:-1]) for errors in (PUBLISHED_CLEAN, PUBLISHED))
    wrong = np.array(NOISES)[:, None] / double_descent.PUBLISHED_NOISE
    by_noise = clean + wrong * (noisy - clean)
    turning = np.interp(np.arange(EPOCHS), [0, 15, 30, 59], by_epoch)
    scatter = xarray.DataArray([-0.3, -0.1, 0.1, 0.3], dims="seed")
    peaks, widths = (16, 27, 47), np.array(WIDTHS)
    bumps = [60 - 10 * np.abs(np.log(widths / peak)) + 30 * (widths < 9) for peak in peaks]
    bumps[-1][WIDTHS.index(double_descent.PEAK)] = 70.0  # here more examples hurt
    train = xarray.DataArray(np.where(widths >= 47, 0.0, 40.0), dims="width")
    coords = {
        "width": [*WIDTHS],
        "noise": [*NOISES],
        "epoch": range(1, EPOCHS + 1),
        "samples": [*SAMPLES],
        "channels": [*CHANNELS],
        "seed": range(SEEDS),
    }
    test = xarray.DataArray(by_noise[..., None] + turning, dims=("noise", "width", "epoch"))
    return xarray.Dataset(
        {
            "test": test + scatter,
            "train": train + 0 * (test + scatter),
            "samples_test": xarray.DataArray(bumps, dims=("samples", "width")) + scatter,
            "samples_train": train
            + 0 * (scatter + xarray.DataArray(bumps, dims=("samples", "width"))),
            "cnn_test": xarray.DataArray([*PUBLISHED_CNN], dims="channels") + scatter,
            "cnn_train": xarray.DataArray([*PUBLISHED_CNN], dims="channels") + 0 * scatter,
        },
        coords=coords,
    )


def test_the_claims_hold_for_what_is_published():
    results = double_descent_results()
    assert verdicts(results) == ["holds"] * 12
    assert double_descent.plot(results).axes


AT_PEAK = {"noise": slice(0.1, None), "width": 47}
CLEAN = {"noise": 0.0}


@pytest.mark.parametrize(
    ("name", "where", "change", "expected"),
    [
        ("test", {"noise": 0.135}, 10.0, {0}),
        ("test", CLEAN, 10.0, {1}),
        ("cnn_test", {}, 10.0, {2}),
        ("test", AT_PEAK, -20.0, {3}),
        ("cnn_test", {"channels": 18}, -20.0, {4}),
        ("test", {**CLEAN, "width": 47}, 20.0, {5, 6}),
        ("samples_test", {"samples": 4000, "width": 47}, -60.0, {8}),
        ("train", {"width": [4, 9, 16, 27, 36]}, -100.0, {11}),
    ],
)
def test_each_claim_can_be_refuted(name, where, change, expected):
    results = double_descent_results()
    results[name].loc[where] += change
    assert expected <= set(refuted(results))


def test_a_peak_that_moves_left_is_refuted():
    results = double_descent_results()
    results["samples_test"] = results["samples_test"][::-1].assign_coords(samples=[*SAMPLES])
    assert refuted(results) == [7, 8]


def test_an_error_that_never_falls_again_refutes_the_last_phase():
    assert refuted(double_descent_results((40, -9, 0, 0))) == [10]


def test_an_error_that_only_falls_has_no_second_phase():
    results = double_descent_results((40, 9, 5, 0))
    assert refuted(results) == [9, 10]
    rise, fall = double_descent.turns(results)
    assert (rise < 0).all()
    assert (fall <= rise).all()


def test_noise_alone_is_no_turn():
    # White noise: the largest of many numbers lies above the last and the least; where the others
    # say, it does not. Means of 400 runs' differences, within 4.5 standard errors.
    draw = np.random.default_rng(0).normal(size=(400, 100))
    results = xarray.Dataset(
        {"test": (("noise", "width", "seed", "epoch"), draw[None, None])}, {"noise": [0.135]}
    )
    rise, fall = double_descent.turns(results)
    assert abs(rise.mean()) < 4.5 * rise.std() / np.sqrt(len(rise))
    assert fall.mean() < 4.5 * fall.std() / np.sqrt(len(fall))


def test_the_peak_is_right_of_a_lesser_value_and_the_fit_is_the_first():
    results = double_descent_results()
    # Narrower networks have a larger error, at 4; it is no peak.
    curve = xarray.DataArray([90.0, 50, 40, 42, 45, 60, 55, 50, 45], dims="width")
    results["test"][:] = curve + 0 * results["test"]
    peak, fitting = double_descent.peaks(results)
    assert peak.shape == (SEEDS, 3), "with true labels there is none"
    assert (peak == 47).all()
    assert (fitting == 47).all()
    results["train"].loc[{"noise": 0.2, "seed": 2}] = FITTED + 1
    fitting = double_descent.peaks(results)[1]
    assert np.isnan(fitting[:, 2]).all()
    assert (fitting[:, :2] == 47).all()
    claim = double_descent.claims(results)[-1]
    assert float(claim.measured) == pytest.approx(1), "where nothing fits, the others decide"
    results["train"][:] = FITTED + 1
    assert len(double_descent.claims(results)) == 11


def test_the_convolutional_network_is_the_notebooks():
    # PyTorch: Conv1d(1, c, 5, 2, 1), Conv1d(c, c, 3, 2, 1) twice, Linear(5 c, 10), with biases.
    channels = 6
    expected = (5 + 1) * channels + 2 * (3 * channels + 1) * channels + (5 * channels + 1) * 10
    model = double_descent.ConvNet1d(channels)
    variables = model.init(jax.random.key(0), jnp.ones((1, 40)), train=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == expected
    # One layer by hand, in float64: position i reads the values 2 i - 1 to 2 i + 3.
    x = np.random.default_rng(0).normal(size=40)
    layer = variables["params"]["Conv_0"]
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    padded = np.pad(x, 1)
    first = np.stack([padded[2 * i : 2 * i + 5] @ kernel[:, 0] for i in range(19)]) + bias
    _, seen = model.apply(
        variables, jnp.asarray(x, jnp.float32)[None], train=False, capture_intermediates=True
    )
    found = seen["intermediates"]["Conv_0"]["__call__"][0][0]
    # 6 products of numbers of order 1, each rounded to float32.
    np.testing.assert_allclose(found, first, atol=6 * 2.0**-23 * np.abs(first).max())


def test_as_many_weights_as_examples_is_where_the_line_says():
    width = 43
    shapes = jax.eval_shape(
        lambda key: models.MLP((width, width, 10)).init(key, jnp.ones((1, 40)), train=True),
        jax.random.key(0),
    )
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    results = double_descent_results().assign_coords(samples=[1000, 2000, weights])
    lines = double_descent.plot(results).axes[2].lines
    assert any(np.allclose(line.get_xdata(), width) for line in lines if len(line.get_xdata()) == 2)


def test_a_pure_run_measures_the_errors_of_noisy_labels():
    signals = data.load("mnist_1d")
    few = {part: data.Arrays(vars(signals)[part].inputs[:200], vars(signals)[part].targets[:200])
           for part in ("train", "test")}  # fmt: skip
    signals = data.Dataset("few", few["train"], None, few["test"], classes=signals.classes)
    config = double_descent.Config(epochs=1, seeds=3)
    model = models.MLP((10,), kernel_init=double_descent.KERNEL)
    found = double_descent.errors(model, signals, (0.0, 0.9), config)
    assert found["test"].shape == (2, 3, 20)  # 4,000 / 200 epochs have as many steps
    # 9 of 10 labels wrong, at random: what is learned cannot be seen in the true ones.
    assert (found["train"].sel(noise=0.9)[:, -1] > found["train"].sel(noise=0.0)[:, -1]).all()
    assert (found["test"] >= 0).all()
    assert (found["test"] <= 100).all()


@pytest.mark.parametrize("change", [{"widths": (16, 61)}, {"channels": (10,)}, {"seeds": 2}])
def test_what_the_claims_need_is_asked_for(change):
    with pytest.raises(ValueError, match=r"there must be .*, got .*; add"):
        double_descent.Config(**change)
