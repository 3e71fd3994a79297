"""The experiment of widths: each claim holds, and can be refuted."""

import jax
import numpy as np
import pytest
import width_transfer
import xarray
from width_transfer import KINDS, NETWORKS

from jaxdl import optimizers, training

RATES = 2.0 ** np.arange(-12, -3, 0.5)
WIDTHS = np.array([64, 128, 256])


def width_transfer_results(moved=(1.0, 0.0), fallen=(1.0, 0.0), spread=0.01):
    """Changes and best rates that are powers of the width, by parametrisation."""
    draw, seeds = np.random.default_rng(0), 4
    made = {}
    for network in NETWORKS:
        width = xarray.DataArray(WIDTHS, dims=f"{network}_width")
        rate, kind = (
            xarray.DataArray(v, dims=d) for v, d in ((RATES, "rate"), ([*fallen], "kind"))
        )
        noise = xarray.DataArray(
            spread * draw.normal(size=(2, 3, seeds)), dims=("kind", f"{network}_width", "seed")
        )
        best = 2.0**-6 * (width / WIDTHS[0]) ** -kind * np.exp(noise)
        made[f"{network}_loss"] = np.exp(np.log(rate / best) ** 2 / 4)
        power = xarray.DataArray(list(moved), dims="kind")
        made[f"{network}_change"] = (width / WIDTHS[0]) ** power * np.exp(noise)
    coords = {f"{network}_width": WIDTHS for network in NETWORKS}
    return xarray.Dataset(made, coords={"kind": [*KINDS], "rate": RATES, **coords})


def verdicts(results):
    return [claim.verdict for claim in width_transfer.claims(results)]


def test_the_claims_hold_for_the_expected_numbers():
    results = width_transfer_results()
    assert verdicts(results) == ["holds"] * 8
    assert len(width_transfer.plot(results).axes) == 6


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"moved": (0.0, 0.0)}, [0, 4]),
        ({"moved": (1.0, 0.5)}, [1, 5]),
        ({"moved": (1.0, -0.5)}, [1, 5]),
        ({"fallen": (0.2, 0.0)}, [2, 6]),
        ({"fallen": (1.0, 0.8)}, [3, 7]),
        ({"fallen": (1.0, -0.8)}, [3, 7]),
    ],
)
def test_each_claim_can_be_refuted(settings, expected):
    found = verdicts(width_transfer_results(**settings))
    assert [number for number, verdict in enumerate(found) if verdict == "refuted"] == expected


def test_the_bottom_of_a_parabola_lies_between_two_rates():
    bottoms = 2.0 ** np.array([-7.2, -6.9])
    curves = np.exp(np.log(RATES / bottoms[:, None]) ** 2)
    loss = xarray.DataArray(curves, dims=("seed", "rate"), coords={"rate": RATES})
    np.testing.assert_allclose(width_transfer.best_rates(loss), bottoms, rtol=1e-6)
    diverged = loss.where(RATES < 2.0**-5.9, np.nan)
    np.testing.assert_allclose(width_transfer.best_rates(diverged), bottoms, rtol=1e-6)


def test_a_token_follows_from_the_one_three_places_before():
    sequences = width_transfer.make_sequences()
    whole = np.concatenate([sequences.inputs, sequences.targets[:, -1:]], 1)
    np.testing.assert_array_equal(whole[:, width_transfer.LAG :], sequences.targets)
    pairs = {*zip(whole[:, :-3].ravel().tolist(), whole[:, 3:].ravel().tolist(), strict=True)}
    assert len(pairs) == width_transfer.TOKENS


def test_a_members_loss_is_that_of_a_plain_run():
    config = width_transfer.Config(seeds=1, lowest=-7.0, highest=-7.0)
    train, widths, rate = width_transfer.load_digits(), (16, 32), 2.0**-7
    swept = width_transfer.rates_at(config, "mlp", "maximal_update", 32, widths, train, 256, 1)
    task = width_transfer.task_of("mlp", 32)
    found = training.parametrization(
        "maximal_update", task, width_transfer.task_of("mlp", 16), train.inputs[:1]
    )
    key = jax.random.key(0)
    learn = training.make_run(task, found.optimizer(optimizers.adam, rate), batch_size=256)
    own = training.first_weights(task, train)(key)
    start = learn.init(key, train, found.rescale({"params": own})["params"])
    orders = training.orders(key, 1, width_transfer.EXAMPLES)
    _, measured = learn(key, {"train": train}, orders, start)
    np.testing.assert_allclose(swept.squeeze(), measured["train"]["loss"][0, -1], rtol=1e-4)
