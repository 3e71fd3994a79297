"""A search's trials are solo runs of what Optuna draws; it can be killed; bad input is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import training
from jaxdl.training import Integers, LogUniform, Uniform, search, search_trials

optuna = pytest.importorskip("optuna")
pytest.importorskip("xarray")

SPACE = {
    "rate": LogUniform(1e-3, 10.0),
    "start": Uniform(-1.0, 1.0),
    "power": Integers(2, 4),
    "sign": [-1.0, 1.0],
    "shape": {"sine": jnp.sin, "line": lambda x: x},
}


def member(key, *, rate, start, power, sign, shape):
    """A number that each setting and the seed change; above rate 5 it is not finite."""
    distance = shape(start - 0.3 * sign) + 0.01 * jax.random.normal(key)
    loss = distance**2 + (jnp.log10(rate) + 1) ** 2 * power
    return {"loss": jnp.where(rate > 5, jnp.nan, loss), "path": loss * jnp.arange(3.0)}


def halved(key, *, rate, epochs):
    """A loss that falls to a floor of its own; `epochs` is a Python number."""
    return {"loss": (jnp.log10(rate) + 2) ** 2 + 1 / sum(range(epochs + 1))}


find = functools.partial(search, member, SPACE, trials=20, batch=8, minimize="loss", seeds=[3, 5])


def test_a_trial_is_the_solo_run_of_its_settings_and_seed():
    found, study = find(dims={"path": ("step",)})
    assert dict(found.sizes) == {"trial": 20, "seed": 2, "step": 3}
    assert found["batch"].values.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    for trial in study.trials:
        here = found.sel(trial=trial.number)
        given = {name: here[name].item() for name in SPACE}
        assert given == trial.params
        given["shape"] = SPACE["shape"][given["shape"]]
        for seed in (3, 5):
            alone = member(jax.random.key(seed), **given)
            # A few float32 operations on numbers of at most 4 * 4 + 2.
            np.testing.assert_allclose(here["loss"].sel(seed=seed), alone["loss"], atol=2e-5)
            np.testing.assert_allclose(here["path"].sel(seed=seed), alone["path"], atol=4e-5)


def test_what_is_not_finite_is_the_worst_and_the_mean_over_seeds_decides():
    found, study = find()
    diverged = found["rate"].values > 5
    assert diverged.any()
    assert np.isnan(found["loss"].values[diverged]).all()
    told = np.array([trial.value for trial in study.trials])
    assert np.isposinf(told[diverged]).all()
    np.testing.assert_array_equal(
        told[~diverged], found["loss"].values[~diverged].astype(np.float64).mean(1)
    )
    best = found["loss"].mean("seed").argmin("trial").item()
    assert study.best_trial.number == best


def test_every_trial_may_diverge():
    found, study = search(
        lambda key, *, rate: {"gain": rate * jnp.nan}, {"rate": Uniform(0, 1)},
        trials=15, batch=5, maximize="gain",
    )  # fmt: skip
    assert np.isnan(found["gain"]).all()
    assert {trial.value for trial in study.trials} == {-np.inf}


@pytest.mark.parametrize("sampler", ["bayesian", "random", optuna.samplers.RandomSampler(4)])
def test_batches_of_one_are_optunas_own_loop(sampler):
    def height(key, *, x, y):
        return {"height": -((x - 0.5) ** 2) - y}

    space = {"x": Uniform(0.0, 1.0), "y": [0.0, 1.0, 2.0]}
    _, study = search(height, space, trials=16, batch=1, maximize="height", sampler=sampler, seed=4)
    random = optuna.samplers.RandomSampler(4)
    own = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=4) if sampler == "bayesian" else random,
    )

    def told(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        y = trial.suggest_categorical("y", [0.0, 1.0, 2.0])
        return float(jax.jit(lambda x, y: height(None, x=x, y=y)["height"])(x, y))

    own.optimize(told, n_trials=16)
    assert [trial.params for trial in study.trials] == [trial.params for trial in own.trials]


def test_rungs_keep_the_best_third():
    found, study = search(
        halved, {"rate": LogUniform(1e-4, 1.0)}, trials=18, batch=9, minimize="loss",
        rungs=(1, 2, 4),
    )  # fmt: skip
    distance = (np.log10(found["rate"].values) + 2) ** 2
    for part in (slice(9), slice(9, 18)):
        rank = np.argsort(np.argsort(distance[part]))
        expected = np.select([rank < 1, rank < 3], [4, 2], 1)
        np.testing.assert_array_equal(found["epochs"].values[part], expected)
    floor = 1 / np.array([sum(range(e + 1)) for e in found["epochs"].values])
    np.testing.assert_allclose(found["loss"].values[:, 0], distance + floor, rtol=1e-5)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE" if e == 4 else "PRUNED" for e in found["epochs"].values]
    assert sorted(study.trials[distance[:9].argmin()].intermediate_values) == [1, 2, 4]


@pytest.mark.parametrize("rungs", [(), (1, 2)])
def test_a_killed_search_goes_on_to_the_same_end(tmp_path, monkeypatch, rungs):
    def run(trials, folder, seeds=(0, 1)):
        # Nine trials of two seeds, in calls of four members.
        one = halved if rungs else functools.partial(halved, epochs=1)
        return search(
            one, {"rate": LogUniform(1e-4, 1.0)}, trials=trials, batch=9, minimize="loss",
            rungs=rungs, chunk=4, folder=folder, seeds=seeds,
        )[0]  # fmt: skip

    whole = run(30, tmp_path / "whole")
    keep, saved = search_trials.SweepFolder.save, []

    def counted(folder, group, members, metrics, most=np.inf):
        if len(saved) >= most:
            raise KeyboardInterrupt
        keep(folder, group, members, metrics)
        saved.append(group)

    monkeypatch.setattr(search_trials.SweepFolder, "save", lambda *given: counted(*given, most=5))
    with pytest.raises(KeyboardInterrupt):
        run(21, tmp_path / "part")
    monkeypatch.setattr(search_trials.SweepFolder, "save", counted)
    run(21, tmp_path / "part")
    assert run(30, tmp_path / "part").identical(whole)

    saved.clear()
    run(30, tmp_path / "part")
    run(12, tmp_path / "part")
    assert not saved  # nothing is run twice
    with pytest.raises(ValueError, match="folder must hold this sweep or none"):
        run(30, tmp_path / "part", seeds=(0, 2))


def test_a_sampler_without_a_seed_cannot_go_on(tmp_path):
    run = functools.partial(
        search, functools.partial(halved, epochs=1), {"rate": LogUniform(1e-4, 1.0)},
        trials=4, batch=2, minimize="loss", folder=tmp_path,
    )  # fmt: skip
    run(sampler=optuna.samplers.RandomSampler())
    with pytest.raises(ValueError, match="pass a sampler with a seed"):
        run(sampler=optuna.samplers.RandomSampler())


def test_static_choices_may_decide_a_shape():
    def wide(key, *, width, rate):
        return {"sum": jnp.ones(width).sum() * rate}

    found, _ = search(
        wide, {"width": [2, 3], "rate": [1.0]}, trials=6, batch=6, minimize="sum",
        static=("width",), sampler="random",
    )  # fmt: skip
    np.testing.assert_array_equal(found["sum"].values[:, 0], found.coords["width"].values)


RATE = {"rate": LogUniform(1e-4, 1.0)}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"space": {}}, ValueError, "space must name a setting, got none"),
        ({"space": [("rate", 1)]}, TypeError, "space must be a mapping"),
        ({"space": {"rate": 0.1}}, TypeError, "put a single value in a list"),
        ({"space": {"rate": []}}, ValueError, "must hold a choice, got none"),
        ({"space": {"batch": [1, 2]}}, ValueError, "must not name .'batch'."),
        ({"space": {"width": [1, 2]}}, TypeError, "unexpected keyword argument 'width'"),
        ({"batch": 9}, ValueError, "batch must be at most the 8 trials, got 9"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"trials": 8.0}, TypeError, "trials must be a whole number"),
        ({"sampler": "annealing"}, ValueError, "sampler must be one of bayesian, random, got"),
        ({"sampler": 3}, TypeError, "a sampler of Optuna that draws, got 3"),
        (
            {"sampler": optuna.samplers.GridSampler({"rate": [0.1]})},
            TypeError,
            "a grid is what training.sweep runs",
        ),
        ({"minimize": "accuracy"}, ValueError, "one number a run, of .'loss'., got 'accuracy'"),
        ({"maximize": "loss"}, ValueError, "one of minimize and maximize"),
        ({"rungs": (3, 1)}, ValueError, r"rungs must grow, got \[3, 1\]"),
        ({"rungs": (1, 3), "reduction": 1}, ValueError, "reduction must be at least 2, got 1"),
        ({"static": ("rate",)}, ValueError, "static must list settings with choices"),
    ],
)
def test_bad_input_is_refused(change, error, words):
    given = {"space": RATE, "trials": 8, "batch": 4, "minimize": "loss"} | change
    with pytest.raises(error, match=words):
        search(functools.partial(halved, epochs=1), **given)


@pytest.mark.parametrize(
    ("make", "ends"),
    [(Uniform, (1, 0)), (Uniform, ("a", 1)), (LogUniform, (0, 1)), (Integers, (3, 3)),
     (Uniform, (0, np.inf))],
)  # fmt: skip
def test_a_range_has_ends_in_order(make, ends):
    with pytest.raises(ValueError, match=f"{make.__name__} needs .*, got low={ends[0]!r}"):
        make(*ends)


def test_whole_numbers_have_whole_ends():
    with pytest.raises(TypeError, match=r"an end of Integers must be a whole number, got 1.5"):
        training.Integers(1.5, 3)


@pytest.mark.parametrize("name", ["rate", "trial"])
def test_a_metric_has_a_name_of_its_own(name):
    with pytest.raises(ValueError, match=f"metrics must not be named like settings .*'{name}'"):
        search(lambda key, *, rate: {name: rate}, RATE, trials=1, batch=1, minimize=name)


def test_a_folder_of_other_orders_is_refused(tmp_path):
    def run(first):
        return search(
            lambda key, orders, *, rate: {"loss": rate * orders[0]}, RATE, trials=2, batch=2,
            minimize="loss", folder=tmp_path, by_seed={"orders": lambda key: np.array([first, 2])},
        )  # fmt: skip

    run(1)
    with pytest.raises(ValueError, match=r"by seed orders is .* there and .* here"):
        run(3)
