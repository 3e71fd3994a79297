"""The experiment of residual starts: what it measures, and that each claim can be refuted."""

import jax
import numpy as np
import pytest
import residual_start
import xarray
from residual_start import ARMS, CLASSES, RATES, TRAINED, Arm

from jaxdl import losses, models, training
from jaxdl.optimizers import sgd

SEEDS, BLOCKS = 6, np.arange(65)
DEPTHS = {"mlp": [4, 16, 64], "transformer": [4, 16]}
LARGEST = {
    "mlp": {
        "plain": [-4, -9, -9],
        "scaled": [-3, -3, -3],
        "before": [-1, -1, -1],
        "after": [-2, -5, -9],
        "zero_scale": [-1, -1, -2],
        "skip_init": [-2, -3, -4],
        "fixup": [-2, -2, -2],
    },
    "transformer": {
        "plain": [-6, -11],
        "before": [-4, -5],
        "after": [-6, -11],
        "skip_init": [-4, -5],
        "fixup": [-5, -6],
    },
}
"""Powers of two; one below the smallest rate is none."""


def residual_start_results(**changes):
    """Growth by theory; a run learns up to its largest rate, and knows nothing beyond."""
    draw = np.random.default_rng(0)
    laws = np.array([arm.law(64).second_moment for arm in ARMS.values()])
    noise = np.exp(0.01 * draw.normal(size=(len(ARMS), SEEDS, 1)) * BLOCKS / 64)
    noise[[[*ARMS].index(name) for name in (*residual_start.ZERO, "after")]] = 1.0
    results = xarray.Dataset(
        {
            "moment": (("arm", "seed", "block"), laws[:, None] * noise),
            "theory": (("arm", "block"), laws),
        },
        {"arm": [*ARMS], "seed": range(SEEDS), "block": BLOCKS},
    )
    for name, rates in RATES.items():
        largest = LARGEST[name] | changes.get(name, {})
        powers = np.array([largest[arm] for arm in TRAINED[name]], float)
        lost = rates[:, None] > 2.0 ** powers[..., None, None] * np.ones((1, SEEDS))
        axes = {"arm": [*TRAINED[name]], "depth": DEPTHS[name], "rate": rates}
        axes = {f"{name}_{axis}": each for axis, each in axes.items()} | {"seed": range(SEEDS)}
        results[name] = xarray.DataArray(np.where(lost, np.nan, 0.1), axes)
    return results


def refuted(results):
    return [i for i, claim in enumerate(residual_start.claims(results)) if claim.refuted]


def test_the_claims_hold_for_the_expected_numbers():
    results = residual_start_results()
    assert all(claim.holds for claim in residual_start.claims(results))
    assert residual_start.plot(results).axes


@pytest.mark.parametrize(
    ("arm", "factors", "expected"),
    [
        ("plain", 1.2**BLOCKS, [0]),
        ("before", 1 + BLOCKS / 100, [1]),
        ("scaled", 1 + BLOCKS / 100, [2]),
        ("fixup", 1 + BLOCKS / 1e4, [3]),
        ("after", 1 + BLOCKS / 1e4, [4]),
    ],
)
def test_growth_of_another_size_refutes(arm, factors, expected):
    results = residual_start_results()
    results["moment"].loc[{"arm": arm}] = results["moment"].sel(arm=arm) * factors
    assert refuted(results) == expected


@pytest.mark.parametrize(
    ("name", "arm", "powers", "expected"),
    [
        ("mlp", "plain", [-4, -4, -5], [5]),
        ("mlp", "after", [-4, -4, -5], [6]),
        ("mlp", "fixup", [-2, -4, -6], [7]),
        ("mlp", "before", [-1, -3, -5], [8]),
        ("transformer", "plain", [-5, -5], [9]),
        ("transformer", "after", [-5, -5], [10]),
        ("transformer", "skip_init", [-4, -8], [11]),
        ("transformer", "fixup", [-4, -9], [12]),
    ],
)
def test_other_rates_refute(name, arm, powers, expected):
    assert refuted(residual_start_results(**{name: {arm: powers}})) == expected


def test_a_kind_that_no_rate_trains_counts_as_half_of_the_smallest():
    results = residual_start_results()
    found = residual_start.largest_rates(results, "mlp")
    assert found.dims == ("seed", "arm", "depth")
    np.testing.assert_array_equal(found.sel(arm="plain", depth=64), RATES["mlp"][0] / 2)
    np.testing.assert_array_equal(found.sel(arm="fixup", depth=64), 0.25)


def test_copies_ask_for_the_second_half_alone():
    tokens = residual_start.copies(50)
    whole = np.concatenate([tokens.inputs, tokens.targets[:, -1:]], 1)
    np.testing.assert_array_equal(whole[:, :4], whole[:, 4:])
    assert (tokens.targets[:, :3] == -1).all()
    np.testing.assert_array_equal(tokens.targets[:, 3:], whole[:, 4:])
    assert set(np.unique(tokens.inputs)) == set(range(CLASSES))


def test_the_last_loss_is_that_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(residual_start, "TRAINED", {"mlp": ("fixup",)})
    monkeypatch.setattr(residual_start, "RATES", {"mlp": np.array([0.5])})
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(64, 5)).astype(np.float32)
    train = residual_start.data.Arrays(inputs, draw.integers(0, 10, 64))

    def make(arm, depth):
        model = models.ResidualMLP(8, depth, **arm.settings())
        return training.Task(model, losses.cross_entropy)

    swept = residual_start.last_losses("mlp", make, sgd, train, (2,), 12, range(3))
    task, key = make(ARMS["fixup"], 2), jax.random.key(1)
    order = training.orders(key, 6, 64).ravel()[: 12 * 32]
    state = training.make_run(task, sgd(0.5), batch_size=32).init(key, train)
    params, measured = state.params, []
    loss = jax.jit(
        jax.value_and_grad(
            lambda params, x, y: losses.cross_entropy(
                task.model.apply({"params": params}, x, train=True), y
            ).mean()
        )
    )
    for rows in order.reshape(12, 32):
        value, slopes = loss(params, train.inputs[rows], train.targets[rows])
        measured.append(value)
        # The numbers of Fixup take a tenth of the rate.
        params = jax.tree.map(
            lambda leaf, slope: leaf - (0.05 if leaf.ndim == 0 else 0.5) * slope, params, slopes
        )
    np.testing.assert_allclose(swept.sel(seed=1).squeeze(), np.mean(measured[-10:]), rtol=1e-4)


def test_numbers_are_those_of_fixup():
    assert Arm("x", "k-", start="fixup").settings()["norm"] is None
    params = {"blocks": {"branch_scale_0": 1.0, "dense_0": {"kernel": 1.0}}, "input_bias": 0.0}
    assert residual_start.numbers(params) == ["*branch_scale*", "*input_bias*"]
