"""Members that are whole runs: orders of their own, convolutions, data made by seed."""

import functools
import io
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.training.sweep import by_seed
from jaxdl.training.sweep.members_bar import members_bar

EXAMPLES, BATCH, EPOCHS = 22, 5, 3
SEEDS = [4, 0, 9]
# Float32 in another order, 15 steps long. The last batch of an epoch has two examples, whose
# BatchNorm divides by their difference; measured 2e-5.
TOLERANCE = 1e-4


def dataset():
    draw = np.random.default_rng(0)
    images = draw.normal(size=(EXAMPLES, 4, 4, 1)).astype(np.float32)
    train = data.Arrays(images, (images.mean((1, 2, 3)) > 0).astype(np.int32))
    return data.Dataset("noise", train, train, None)


MODELS = {
    "MLP": models.MLP([6, 2], norm=layers.BatchNorm, dropout_rate=0.2),
    "ConvNet": models.ConvNet([2], [4, 2], dropout_rate=0.2),
}


def orders(key):
    return training.orders(key, EPOCHS, EXAMPLES)


def member(name, key, orders, rate=0.1):
    task = training.Task(MODELS[name], losses.cross_entropy)
    run = training.make_run(task, optimizers.sgd(rate), batch_size=BATCH)
    given = dataset()
    return run(key, {"train": given.train, "validation": given.validation}, orders)[1]


def fitted(name, seed, rate):
    task = training.Task(MODELS[name], losses.cross_entropy)
    return training.fit(
        task, dataset(), optimizers.sgd(rate), epochs=EPOCHS, batch_size=BATCH,
        key=jax.random.key(seed), parallel="jit",
    ).history  # fmt: skip


@pytest.mark.parametrize(("name", "whose"), [("MLP", "own"), ("MLP", "shared"), ("ConvNet", "own")])
def test_a_member_is_the_run_that_fit_makes_of_its_seed(name, whose):
    rates = [0.05, 0.2]
    result = training.sweep(
        functools.partial(member, name), {"rate": rates}, seeds=SEEDS,
        by_seed={"orders": orders}, orders=whose, dims={"train/loss": ("epoch", "step")},
    )  # fmt: skip
    assert result["train/loss"].dims == ("rate", "seed", "epoch", "step")
    for rate in rates:
        for seed in SEEDS if whose == "own" else SEEDS[:1]:
            found = result.sel(rate=rate, seed=seed)
            expected = fitted(name, seed, rate)
            np.testing.assert_allclose(
                found["train/loss"].values.ravel(), expected.steps["loss"], atol=TOLERANCE
            )
            np.testing.assert_allclose(
                found["validation/loss"], expected.validation["loss"], atol=TOLERANCE
            )


def test_shared_orders_are_those_of_the_first_seed():
    def run(key, orders):
        return {"orders": orders}

    for whose, seeds in {"own": SEEDS, "shared": SEEDS[:1] * 3}.items():
        result = training.sweep(run, seeds=SEEDS, by_seed={"orders": orders}, orders=whose)
        expected = np.stack([orders(jax.random.key(seed)) for seed in seeds])
        np.testing.assert_array_equal(result.orders, expected)


def test_a_run_is_swept_with_its_data():
    given = dataset()
    task = training.Task(MODELS["MLP"], losses.cross_entropy)
    run = training.make_run(
        task, optimizers.sgd(0.1), batch_size=BATCH, measure=lambda state: state.step
    )
    swept = training.sweep(
        functools.partial(run, data={"train": given.train}), seeds=2, by_seed={"orders": orders}
    )
    expected = run(jax.random.key(1), given, orders(jax.random.key(1)))[1]
    np.testing.assert_allclose(
        swept["train/loss"].sel(seed=1), expected["train"]["loss"], atol=TOLERANCE
    )
    assert swept["measure"].sel(seed=0).values.tolist() == [5, 10, 15]


def test_data_are_made_on_the_host_for_each_seed_and_setting():
    made = []

    def noise(key):  # settings run side by side; this is never called by two of them at once
        made.append(int(jax.random.key_data(key)[-1]))
        time.sleep(0.01)
        return {"noise": np.asarray(jax.random.normal(key, (3,))), "count": np.int64(made[-1])}

    def run(key, samples, *, scale):
        return {"scaled": scale * samples["noise"], "count": samples["count"]}

    result = training.sweep(run, {"scale": [1.0, 2.0]}, seeds=SEEDS, by_seed={"samples": noise})
    assert result["count"].values.tolist() == [SEEDS, SEEDS]
    assert [made.count(seed) for seed in SEEDS[1:]] == [1, 1]
    expected = np.stack([jax.random.normal(jax.random.key(seed), (3,)) for seed in SEEDS])
    np.testing.assert_allclose(result.sel(scale=2.0)["scaled"], 2 * expected, rtol=1e-6)


def test_made_arrays_are_kept_up_to_a_bound(monkeypatch):
    made = []

    def make(key):
        made.append(int(jax.random.key_data(key)[-1]))
        return np.full(1000, made[-1], np.int32)

    def run(key, orders, *, scale):
        return {"first": scale * orders[0]}

    monkeypatch.setattr(by_seed, "KEPT_BYTES", 2 * 4000)
    result = training.sweep(run, {"scale": [1, 2]}, seeds=4, by_seed={"orders": make}, chunk=1)
    assert result["first"].values.tolist() == [[0, 1, 2, 3], [0, 2, 4, 6]]
    # Those of two seeds are kept, whichever thread is first; those of the others are made again.
    assert sorted(made.count(seed) for seed in (1, 2, 3)) == [1, 2, 2]


def test_a_restart_goes_on_and_other_orders_are_refused(tmp_path):
    def run(key, orders, *, scale):
        return {"first": scale * orders[0, 0]}

    def swept(make):
        return training.sweep(
            run, {"scale": [1, 2]}, seeds=4, by_seed={"orders": make}, folder=tmp_path, chunk=2
        )

    whole = swept(orders)
    sorted(tmp_path.glob("group*"))[0].unlink()
    assert swept(orders).identical(whole)
    with pytest.raises(ValueError, match="by seed"):
        swept(lambda key: training.orders(key, EPOCHS, EXAMPLES, first=1))


def test_the_bar_counts_members():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with members_bar(6, show=True, console=console) as tell:
        tell(2)
        tell(4)
    assert "6/6" in console.file.getvalue()


def fit_of(key):
    task = training.Task(MODELS["MLP"], losses.cross_entropy)
    return training.fit(
        task, dataset(), optimizers.sgd(0.1), epochs=1, batch_size=BATCH, key=key
    ).history


def takes_orders(key, orders):
    return {"first": orders[0, 0]}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"run": training.fit}, TypeError, "training.make_run"),
        ({"run": functools.partial(training.fit, epochs=2)}, TypeError, "training.make_run"),
        ({"run": training.make_run(
            training.Task(MODELS["MLP"], losses.cross_entropy), optimizers.sgd(0.1), batch_size=2
        )}, TypeError,
         "a Run is swept with its data"),
        ({"run": lambda key, orders: fit_of(key).steps}, TypeError, "training.make_run"),
        ({"by_seed": {"order": orders}}, ValueError, "by_seed must name arguments of run"),
        ({"by_seed": {}}, ValueError, "or to by_seed"),
        ({"by_seed": {"orders": orders(jax.random.key(0))}}, TypeError, "function of a seed's key"),
        ({"by_seed": {"key": orders}}, ValueError, "which over or the sweep gives"),
        ({"orders": "mine"}, ValueError, 'must be "own" or "shared"'),
        ({"by_seed": {"orders": lambda key: jnp.ones((1, 2 + int(jax.random.key_data(key)[-1])))}},
         ValueError, "arrays of one shape for every seed"),
    ],
)  # fmt: skip
def test_refuses(arguments, error, text):
    settings = {"run": takes_orders, "by_seed": {"orders": orders}, "seeds": 3} | arguments
    with pytest.raises(error, match=text):
        training.sweep(**settings)
