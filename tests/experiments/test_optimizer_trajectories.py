"""The experiment of optimizers' paths: what it measures, and that each claim can be refuted."""

import jax.numpy as jnp
import numpy as np
import optimizer_trajectories as experiment
import pytest
import xarray
from optimizer_trajectories import NAMES, PLACES

from jaxdl.diagnostics.landscape.trajectories import descend

RAVINES = ["ravine", "turned"]


def optimizer_trajectories_results(starts=17, steps=500):
    draw = np.random.default_rng(0)
    sizes = {
        "optimizer": NAMES,
        "function": [*PLACES],
        "start": range(starts),
        "step": range(steps + 1),
        "axis": ["x", "y"],
    }
    shape = [len(values) for values in sizes.values()]
    by = list(sizes)
    results = xarray.Dataset(
        {
            "rate": (by[:2], np.full(shape[:2], 0.4)),
            "start_point": (["function", "start", "axis"], np.full((shape[1], starts, 2), 1e-6)),
            "settled": (by[:3], 90 + draw.integers(0, 3, shape[:3])),
            "left": (["optimizer", "start"], np.full((len(NAMES), starts), 15)),
            "path": (by, np.zeros(shape)),
        },
        coords={name: sizes[name] for name in ("optimizer", "function", "axis")},
    )
    settled, left = results["settled"].loc, results["left"].loc
    settled["SGD", RAVINES] = 217
    settled["Nesterov", RAVINES] = 45
    settled["Adadelta", RAVINES] = steps + 1
    settled[:, "turned"] = results["settled"].sel(function="ravine")
    settled["Adagrad"] = 90
    settled["Adagrad", "ravine"] = 6 + draw.integers(0, 3, starts)
    for name in (*experiment.ADAPTIVE_FOUR, "Adamax"):
        left[name] = 7 + draw.integers(0, 3, starts)
    # ln(0.1 / 1e-6) / ln(1 + 2 * 0.4) = 19.6 steps.
    left["SGD"] = 20
    return results


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_claims_hold_for_the_expected_numbers():
    assert verdicts(optimizer_trajectories_results()) == ["holds"] * 7


@pytest.mark.parametrize(
    ("array", "name", "function", "value", "index"),
    [
        ("settled", "momentum", RAVINES, 217, 0),
        ("settled", "Nesterov", RAVINES, 217, 1),
        ("left", "Adadelta", None, 15, 2),
        ("left", "Nesterov", None, 7, 2),
        ("left", "SGD", None, 22, 3),
        ("left", "SGD", None, 19, 3),
        ("settled", "SGD", ["turned"], 219, 4),
        ("settled", "Adagrad", ["turned"], 6, 5),
        ("settled", "Adadelta", ["ravine"], 400, 6),
    ],
)
def test_each_claim_can_be_refuted(array, name, function, value, index):
    results = optimizer_trajectories_results()
    results[array].loc[(name,) if function is None else (name, function)] = value
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"] == [index]


def test_starts_that_disagree_decide_nothing():
    results = optimizer_trajectories_results()
    results["settled"].sel(optimizer="momentum")[:, ::2] = 350
    results["settled"].sel(optimizer="Adadelta", function="ravine")[::4] = 400
    undecided = [i for i, verdict in enumerate(verdicts(results)) if verdict == "undecided"]
    assert undecided == [0, 6]


def test_one_start_refutes_what_is_arithmetic():
    for array, place in (("left", "SGD"), ("settled", ("SGD", "turned"))):
        results = optimizer_trajectories_results()
        results[array].loc[place][-1] += 2
        assert "refuted" in verdicts(results)


def test_the_settling_step_is_the_last_time_the_height_is_low():
    above = np.array(
        [[8.0, 1, 8, 0.5, 0.1], [8, 9, 9, 9, 9], [8, 1, np.nan, 1, 1], [8, 1, 1, 1, 1]]
    )
    steps = experiment.settling_step(xarray.DataArray(above, dims=("start", "step")), 1 / 8)
    assert steps.values.tolist() == [3, 5, 3, 1]


@pytest.fixture(scope="module")
def small():
    return experiment.run(experiment.Config(steps=40, rates_per_decade=2, starts=4))


def test_paths_are_those_of_each_optimizer_alone(small):
    """Function, start and rate in one array are what each would do by itself."""
    for name in ("momentum", "Adam", "Adadelta"):
        for function, place in PLACES.items():
            at = small.sel(optimizer=name, function=function).isel(start=1)
            start = jnp.asarray(at["start_point"], jnp.float32)
            optimizer = experiment.OPTIMIZERS[name](at["rate"].item())
            alone = descend(place.function, optimizer, start, 12)
            # A dozen steps, rounded in another order; near the saddle a step doubles what is lost.
            np.testing.assert_allclose(at["path"][:13], alone, rtol=2e-3, atol=2e-4)


def test_paths_and_steps_bear_the_right_names(small):
    assert dict(small["path"].sizes) == {
        "optimizer": 8, "function": 4, "start": 4, "step": 41, "axis": 2
    }  # fmt: skip
    figure = experiment.plot(small)
    assert [label.get_text() for label in figure.axes[6].get_yticklabels()] == NAMES
    panels = experiment.panels(small)
    assert [list(panel.paths) for panel in panels] == [NAMES[:3]] * 3 + [NAMES[3:]] * 3
    rate = small["rate"].sel(optimizer="Adam", function="saddle").item()
    assert panels[5].labels["Adam"] == f"Adam, rate {rate:.2g}"


def test_no_path_was_lifted_above_its_start(small):
    for name, place in PLACES.items():
        paths = jnp.asarray(small["path"].sel(function=name).values)
        above = np.asarray(place.function(paths), np.float64) - place.lowest
        assert np.all(above <= (1 + 2 * experiment.ROUNDING) * above[..., :1])


def test_the_turned_ravine_is_the_ravine():
    starts = experiment.starts_of(4)
    ravine, turned = (PLACES[name].function(jnp.asarray(starts[name])) for name in RAVINES)
    np.testing.assert_allclose(turned, ravine, rtol=1e-5)
