"""Frames, categories, tables and sources keep their names; common slips are named."""

import pickle

import flax.linen as nn
import numpy as np
import pytest
from trained import (
    DRAW,
    GOAL,
    KEY,
    MODEL,
    SETTINGS,
    SPLITS,
    fitted,
)

from jaxdl import data, losses, metrics, models, optimizers, training


def test_names_of_columns_and_classes_come_from_frames_and_must_agree():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": DRAW.normal(size=60), "b": DRAW.normal(size=60)})
    words = pandas.Series(np.where(table["a"] > 0, "up", "down"))
    result = training.fit(models.MLP([2]), (table, words), optimizers.sgd(0.5), **GOAL, **SETTINGS)
    assert result.dataset.features == ("a", "b")
    assert result.dataset.classes == ("down", "up")
    classes = np.array(result.dataset.classes)[result.predict(table, metrics.predicted_class)]
    assert (classes == words).mean() == pytest.approx(result.evaluate((table, words))["accuracy"])
    with pytest.raises(ValueError, match=r"must be \['a', 'b'\], got \['b', 'a'\]"):
        result.predict(table[["b", "a"]])
    with pytest.raises(ValueError, match=r"among the classes \['down', 'up'\], got \['sideways'\]"):
        result.evaluate((table, ["sideways"] * 60))
    categories = pandas.Series(pandas.Categorical(words, categories=["up", "down"]))
    assert data.as_dataset((table, categories)).classes == ("up", "down")


def test_columns_of_every_frame_must_keep_their_order():
    """Of targets too, and inside a tree of inputs; also of a result that was saved."""
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(DRAW.normal(size=(60, 2)), columns=["a", "b"])
    result = fitted(x.to_numpy(), x)
    for given in (x[["b", "a"]], x.rename(columns={"a": "c"})):
        with pytest.raises(ValueError, match=r"columns of the targets of the examples must be"):
            result.evaluate((x.to_numpy(), given))
        with pytest.raises(ValueError, match=r"columns of the targets of the validation split"):
            training.fit(
                models.MLP([2]), {"train": (x, x), "validation": (x, given)}, optimizers.sgd(0.1),
                loss=losses.mean_squared_error, **SETTINGS,
            )  # fmt: skip

    class First(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(2)(inputs["left"])

    tree = fitted({"left": x}, x.to_numpy(), First())
    with pytest.raises(ValueError, match=r"columns of the inputs\['left'\] of what is predicted"):
        tree.predict({"left": x[["b", "a"]]})


def test_categories_that_are_numbers_are_not_taken_for_labels():
    pandas = pytest.importorskip("pandas")
    x, numbers = DRAW.normal(size=(60, 3)).astype(np.float32), DRAW.integers(1, 4, 60)
    result = fitted(
        x, pandas.Series(numbers).astype("category"), models.MLP([3]), losses.cross_entropy
    )
    assert result.dataset.classes == ("1", "2", "3")
    labels = result.evaluate((x, pandas.Series(numbers).astype("category")))
    assert labels == result.evaluate((x, list(map(str, numbers))))
    with pytest.raises(TypeError, match=r"among the categories \['1', '2', '3'\].*got int64"):
        result.evaluate((x, numbers))
    words = ["up", "down"] * 30
    trained_on_words = fitted(x, words, models.MLP([2]), losses.cross_entropy)
    assert trained_on_words.evaluate((x, words)) == trained_on_words.evaluate(
        (x, np.array([1, 0] * 30))
    )


def test_a_table_is_evaluated_and_predicted_as_it_was_encoded(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": 500 + 100 * DRAW.normal(size=90)})
    frame["kind"] = np.where(frame["a"] > 500, "large", "small")
    given = data.from_frame(frame, "kind", key=KEY)
    result = training.fit(models.MLP([2]), given, optimizers.sgd(1.0), **GOAL, **SETTINGS)
    result.save(tmp_path / "saved")
    loaded = training.load(tmp_path / "saved", models.MLP([2]), **GOAL)
    for each in (result, loaded, pickle.loads(pickle.dumps(result))):
        guesses = each.predict(frame, metrics.predicted_class)
        right = np.array(given.classes)[guesses] == frame["kind"]
        assert each.evaluate(frame)["accuracy"] == pytest.approx(right.mean())
        with pytest.raises(TypeError, match="must be one frame of its columns, the target kind"):
            each.evaluate((frame[["a"]], frame["kind"]))


def test_sources_and_splits_are_predicted_and_loaders_are_named():
    torch = pytest.importorskip("torch")
    x, y = torch.randn(60, 3), torch.zeros(60, dtype=torch.int64)
    examples = torch.utils.data.TensorDataset(x, y)
    given = {"train": examples, "test": examples}
    result = training.fit(models.MLP([2]), given, optimizers.sgd(0.1), **GOAL, **SETTINGS)
    for inputs in (x, examples, "test", "train", data.Arrays(x.numpy(), y.numpy())):
        np.testing.assert_array_equal(result.predict(inputs), result.predict(x.numpy()))
    assert result.evaluate(examples) == result.evaluate("test") == result.evaluate((x, y))
    loader = torch.utils.data.DataLoader(examples, batch_size=10)
    for call in (
        lambda: training.fit(models.MLP([2]), loader, optimizers.sgd(0.1), **GOAL, **SETTINGS),
        lambda: data.Streamed(loader),
        lambda: result.evaluate({"train": (x, y)}),
        lambda: result.evaluate(x),
        lambda: result.evaluate(result.dataset),
        lambda: result.evaluate(loader),
    ):
        with pytest.raises(TypeError, match=r"got .*; pass "):
            call()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"metrics": ["accuracy"]}, TypeError, "a metric must be a function.*got 'accuracy'"),
        ({"metrics": metrics.accuracy}, TypeError, "metrics must be a list of functions"),
        ({"loss": "mse"}, TypeError, "a loss must be a function.*got 'mse'"),
        ({"dataset": (np.ones((4, 2)), ["a", "b", None, "a"])}, TypeError, "got None at place 2"),
        ({"dataset": (np.ones((3, 2)), [1, "a", "b"])}, TypeError, "got 1 at place 0"),
        (
            {"dataset": (np.ones((3, 2)), np.array(["a", "b", np.nan], object))}, TypeError,
            "must be words, and all of them, got nan",
        ),
        ({"dataset": (np.ma.ones((3, 2)), [0, 1, 0])}, TypeError, r"values.filled\(...\)"),
    ],
)  # fmt: skip
def test_common_slips_are_named(settings, error, text):
    given = {"dataset": SPLITS, **GOAL, **settings}
    with pytest.raises(error, match=text):
        training.fit(MODEL, given.pop("dataset"), optimizers.sgd(0.1), **given, **SETTINGS)


def test_a_function_of_scikit_learn_is_no_metric_of_a_batch():
    sklearn = pytest.importorskip("sklearn.metrics")
    with pytest.raises(TypeError, match=r"pass metrics.of_split\(function"):
        training.Task(MODEL, losses.cross_entropy, [sklearn.f1_score])
