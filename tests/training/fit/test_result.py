"""A result predicts and evaluates anything, as in training; and refuses other inputs."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from trained import (
    DRAW,
    GOAL,
    IMAGES,
    KEY,
    LABELS,
    MODEL,
    SETTINGS,
    SPLITS,
    by_hand,
    trained,
)

from jaxdl import data, losses, metrics, optimizers, training


def test_predicts_as_the_model_does_of_preprocessed_inputs():
    result = trained()
    outputs = result.predict(IMAGES)
    np.testing.assert_allclose(outputs, by_hand(result, IMAGES), rtol=1e-5, atol=1e-6)
    assert isinstance(outputs, np.ndarray)
    # Fed raw, the network would say something else: that is the trap.
    assert not np.allclose(
        outputs, MODEL.apply(result.state.variables, jnp.asarray(IMAGES, jnp.float32), train=False)
    )
    shares = result.predict(IMAGES, metrics.probabilities)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(
        result.predict(IMAGES[:3], metrics.predicted_class),
        outputs[:3].argmax(1),
    )


def test_many_examples_are_predicted_in_batches():
    result = trained()
    many = np.tile(IMAGES, (25, 1, 1, 1))
    np.testing.assert_allclose(result.predict(many)[:90], result.predict(IMAGES), rtol=1e-5)
    assert len(result.predict(many)) == 2250
    streamed = result.predict(data.Streamed((many, np.zeros(2250))))
    np.testing.assert_array_equal(streamed, result.predict(many))


def test_the_parameters_that_are_evaluated_predict():
    result = trained("ema")
    np.testing.assert_allclose(
        result.predict(IMAGES), by_hand(result, IMAGES), rtol=1e-5, atol=1e-6
    )
    moved = MODEL.apply(result.state.variables, jnp.asarray(IMAGES / 255), train=False)
    assert not np.allclose(result.predict(IMAGES), moved)


def test_evaluates_splits_and_anything_alike():
    result = trained()
    expected = result.evaluate("test")
    for given in (SPLITS["test"], data.Arrays(*SPLITS["test"]), data.Streamed(SPLITS["test"])):
        assert result.evaluate(given) == pytest.approx(expected, rel=1e-6)
    right = (result.predict(IMAGES[75:], metrics.predicted_class) == LABELS[75:]).mean()
    assert expected["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (IMAGES / 255, TypeError, "must be uint8, as in training, for the preprocessing depends"),
        (IMAGES.astype(np.int32), TypeError, "must be uint8"),
        (IMAGES[0], ValueError, r"pass inputs\[None\] for a single example"),
        (IMAGES[:, :5], ValueError, r"examples of shape \[6, 6, 1\], got one of shape \[5, 6, 1\]"),
        (IMAGES[:0], ValueError, "must hold examples, got none"),
        ({"image": IMAGES}, ValueError, r"must be like those of training.*pass the inputs alone"),
        ("images", TypeError, "must be NumPy or JAX arrays"),
    ],
)
def test_refuses_inputs_unlike_those_of_training(inputs, error, text):
    with pytest.raises(error, match=text):
        trained().predict(inputs)
    if not isinstance(inputs, str | dict) and len(inputs) == 90:
        with pytest.raises(error, match=text):
            trained().evaluate((inputs, LABELS))


@pytest.mark.parametrize("inputs", [IMAGES / 255, IMAGES.astype(np.int32), IMAGES[:, :5]])
def test_a_stream_unlike_the_training_inputs_is_refused_too(inputs):
    """Bytes divided by 255 by the caller would be read as if they were bytes no more."""
    streamed = data.Streamed((inputs, LABELS))
    for call in (trained().predict, trained().evaluate):
        with pytest.raises((TypeError, ValueError), match="the inputs of the stream must be"):
            call(streamed)


def test_bytes_are_refused_where_floats_were_trained_on():
    x = (IMAGES / 255).astype(np.float32)
    result = training.fit(MODEL, (x, LABELS), optimizers.sgd(0.1), **GOAL, **SETTINGS)
    with pytest.raises(TypeError, match=r"must be float32, as in training.*got uint8"):
        result.predict(IMAGES)
    np.testing.assert_array_equal(result.predict(x.astype(np.float64)), result.predict(x))
    with pytest.raises(ValueError, match=r"data has no split 'test'.*pass the examples"):
        result.evaluate("test")
    with pytest.raises(ValueError, match=r"labels must be in 0..1.*got 7 at example 0"):
        result.evaluate((x, np.full(90, 7)))


class Heads(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(4)(inputs["x"]))
        return {"class": nn.Dense(2)(hidden), "value": nn.Dense(1)(hidden)[:, 0]}


def both(outputs, targets):
    return (
        losses.cross_entropy(outputs["class"], targets["class"])
        + (outputs["value"] - targets["value"]) ** 2
    )


def test_several_inputs_outputs_and_targets():
    x = DRAW.normal(size=(60, 3)).astype(np.float32)
    targets = {"class": (x[:, 0] > 0).astype(np.int32), "value": x[:, 1]}

    def of_value(targets, outputs):
        return metrics.r2(targets["value"], outputs["value"])

    given = data.split(data.as_dataset(({"x": x}, targets)), key=KEY)
    result = training.fit(
        Heads(), given, optimizers.adam(1e-2), loss=both,
        metrics=[metrics.of_split(of_value)], **SETTINGS,
    )  # fmt: skip
    outputs = result.predict({"x": x})
    assert outputs["class"].shape == (60, 2)
    expected = metrics.r2(targets["value"], outputs["value"])
    assert result.evaluate(({"x": x}, targets))["of_value"] == pytest.approx(expected)
    assert len(result.history.validation["of_value"]) == 2


def test_a_metric_of_the_split_stops_a_run_and_is_written(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    from jaxdl import observers

    sklearn = pytest.importorskip("sklearn.metrics")
    f1 = metrics.of_split(sklearn.f1_score, predict=metrics.predicted_class, name="f1")
    auc = metrics.of_split(sklearn.roc_auc_score, predict=metrics.decision)
    lines = tmp_path / "history.jsonl"
    result = training.fit(
        MODEL, SPLITS, optimizers.sgd(optimizers.plateau(0.1, patience=1)),
        loss=losses.cross_entropy, metrics=[metrics.accuracy, f1, auc], batch_size=20, key=KEY,
        epochs=30, checkpoint_dir=tmp_path / "run",
        observers=[
            observers.early_stopping("f1", mode="max", patience=2),
            observers.report_plateau("roc_auc_score"),
            observers.history_lines(lines),
            observers.tensorboard(tmp_path / "events", histograms=False),
        ],
    )  # fmt: skip
    assert result.stopped is not None
    assert {*result.history.train} == {"loss", "accuracy"}
    x, y = SPLITS["validation"]
    logits = result.predict(x)
    measured = result.evaluate("validation")
    assert measured["f1"] == sklearn.f1_score(y, logits.argmax(1))
    assert measured["roc_auc_score"] == sklearn.roc_auc_score(y, logits[:, 1] - logits[:, 0])
    assert max(result.history.validation["f1"]) == measured["f1"]  # the best state is restored
    events = event_accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    drawn = [event.value for event in events.Scalars("f1/validation")]
    np.testing.assert_allclose(drawn, result.history.validation["f1"], rtol=1e-6)
    written = observers.read_lines(lines)
    kept = [line["validation"]["f1"] for line in written]
    assert kept == result.history.validation["f1"].tolist()
    with pytest.raises(ValueError, match=r"measured of a whole split.*split='train'"):
        training.fit(
            MODEL, SPLITS, optimizers.sgd(0.1), loss=losses.cross_entropy, metrics=[f1], **SETTINGS,
            observers=[observers.early_stopping("f1", patience=1, split="train")],
        )  # fmt: skip
