"""The experiment of optimizers' paths: what it measures, and that each claim can be refuted."""

import jax.numpy as jnp
import numpy as np
import optimizer_trajectories as experiment
import pytest
from optimizer_trajectories import NAMES, RAVINE, SADDLE, TURNED

from jaxdl.diagnostics.landscape.trajectories import descend


def optimizer_trajectories_results(starts=17, steps=500):
    draw = np.random.default_rng(0)
    settled = np.full((len(NAMES), len(experiment.PLACES), starts), 90)
    settled += draw.integers(0, 3, settled.shape)
    settled[NAMES.index("SGD"), : TURNED + 1] = 217
    settled[NAMES.index("Nesterov"), : TURNED + 1] = 45
    settled[:, TURNED] = settled[:, RAVINE]
    settled[NAMES.index("Adagrad")] = 90
    settled[NAMES.index("Adagrad"), RAVINE] = 6 + draw.integers(0, 3, starts)
    settled[NAMES.index("Adadelta"), : TURNED + 1] = steps + 1
    left = np.full((len(NAMES), starts), 15.0)
    for name in (*experiment.ADAPTIVE_FOUR, "Adamax"):
        left[NAMES.index(name)] = 7 + draw.integers(0, 3, starts)
    # ln(0.1 / 1e-6) / ln(1 + 2 * 0.4) = 19.6 steps.
    left[NAMES.index("SGD")] = 20
    where = np.zeros((len(experiment.PLACES), starts, 2))
    where[SADDLE, :, 1] = 1e-6
    return {
        "names": np.array(NAMES),
        "rates": np.full((len(NAMES), len(experiment.PLACES)), 0.4),
        "starts": where,
        "settled": settled,
        "left": left,
        "paths": np.zeros((len(NAMES), len(experiment.PLACES), starts, steps + 1, 2)),
    }


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_claims_hold_for_the_expected_numbers():
    assert verdicts(optimizer_trajectories_results()) == ["holds"] * 7


@pytest.mark.parametrize(
    ("array", "name", "function", "value", "index"),
    [
        ("settled", "momentum", [RAVINE, TURNED], 217, 0),
        ("settled", "Nesterov", [RAVINE, TURNED], 217, 1),
        ("left", "Adadelta", None, 15, 2),
        ("left", "Nesterov", None, 7, 2),
        ("left", "SGD", None, 22, 3),
        ("left", "SGD", None, 19, 3),
        ("settled", "SGD", [TURNED], 219, 4),
        ("settled", "Adagrad", [TURNED], 6, 5),
        ("settled", "Adadelta", [RAVINE], 400, 6),
    ],
)
def test_each_claim_can_be_refuted(array, name, function, value, index):
    results = optimizer_trajectories_results()
    place = (NAMES.index(name),) if function is None else (NAMES.index(name), function)
    results[array][place] = value
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"] == [index]


def test_starts_that_disagree_decide_nothing():
    results = optimizer_trajectories_results()
    results["settled"][NAMES.index("momentum"), :, ::2] = 350
    results["settled"][NAMES.index("Adadelta"), RAVINE, ::4] = 400
    undecided = [i for i, verdict in enumerate(verdicts(results)) if verdict == "undecided"]
    assert undecided == [0, 6]


def test_one_start_refutes_what_is_arithmetic():
    for array, place in (("left", 0), ("settled", (0, TURNED))):
        results = optimizer_trajectories_results()
        results[array][place][-1] += 2
        assert "refuted" in verdicts(results)


def test_the_settling_step_is_the_last_time_the_height_is_low():
    above = np.array(
        [[8.0, 1, 8, 0.5, 0.1], [8, 9, 9, 9, 9], [8, 1, np.nan, 1, 1], [8, 1, 1, 1, 1]]
    )
    steps = experiment.settling_step(above[:, :, None], 1 / 8)
    assert steps[:, 0].tolist() == [3, 5, 3, 1]


@pytest.fixture(scope="module")
def small():
    return experiment.run(experiment.Config(steps=40, rates_per_decade=2, starts=4))


def test_paths_are_those_of_each_optimizer_alone(small):
    """Function, start and rate in one array are what each would do by itself."""
    for name in ("momentum", "Adam", "Adadelta"):
        i = NAMES.index(name)
        for j, place in enumerate(experiment.PLACES.values()):
            optimizer = experiment.OPTIMIZERS[name](float(small["rates"][i, j]))
            start = jnp.asarray(small["starts"][j, 1], jnp.float32)
            alone = descend(place.function, optimizer, start, 12)
            # A dozen steps, rounded in another order; near the saddle a step doubles what is lost.
            np.testing.assert_allclose(small["paths"][i, j, 1, :13], alone, rtol=2e-3, atol=2e-4)


def test_paths_and_steps_bear_the_right_names(small):
    figure = experiment.plot(small)
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == NAMES
    assert [list(panel.paths) for panel in experiment.panels(small)] == [NAMES] * 3


def test_no_path_was_lifted_above_its_start(small):
    for j, place in enumerate(experiment.PLACES.values()):
        heights = np.asarray(place.function(jnp.asarray(small["paths"][:, j])), np.float64)
        above = heights - place.lowest
        assert np.all(above <= (1 + 2 * experiment.ROUNDING) * above[..., :1])


def test_the_turned_ravine_is_the_ravine():
    starts = experiment.starts_of(4)
    ravine, turned = (experiment.PLACES[name].function for name in ("ravine", "turned"))
    np.testing.assert_allclose(
        turned(jnp.asarray(starts[TURNED])), ravine(jnp.asarray(starts[RAVINE])), rtol=1e-5
    )
