"""Metrics of a whole split: scikit-learn's values, weights, edges, and what is refused."""

import functools

import jax
import numpy as np
import pytest

from jaxdl import losses, metrics, models, optimizers, training

reference = pytest.importorskip("sklearn.metrics")
DRAW = np.random.default_rng(0)
TRUE = DRAW.integers(0, 4, 200)
GUESS = np.where(DRAW.uniform(size=200) < 0.6, TRUE, DRAW.integers(0, 4, 200))
WEIGHTS = DRAW.uniform(0, 3, 200)
LOGITS = 3 * DRAW.normal(size=(200, 4))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_confusion_and_f1_are_scikit_learns(weights):
    np.testing.assert_allclose(
        metrics.confusion(TRUE, GUESS, sample_weight=weights),
        reference.confusion_matrix(TRUE, GUESS, sample_weight=weights),
        rtol=1e-12,
    )
    for average in ("macro", "micro", "weighted"):
        expected = reference.f1_score(TRUE, GUESS, average=average, sample_weight=weights)
        assert metrics.f1(TRUE, GUESS, average=average, sample_weight=weights) == pytest.approx(
            expected, rel=1e-12
        )
    expected = reference.f1_score(TRUE > 1, GUESS > 1, sample_weight=weights)
    assert metrics.f1(TRUE > 1, GUESS > 1, average="binary", sample_weight=weights) == (
        pytest.approx(expected, rel=1e-12)
    )


def test_classes_that_do_not_occur():
    """One that nobody has or says does not count in F1; one that is only said counts 0."""
    assert metrics.f1([0, 0, 3], [0, 0, 3]) == 1
    assert metrics.f1([0, 0], [0, 2]) == pytest.approx((2 / 3 + 0) / 2)
    assert metrics.f1([0, 0], [0, 0], average="binary") == 0
    assert metrics.confusion([0, 1], [1, 1], classes=3).shape == (3, 3)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_r2_is_scikit_learns(weights, outputs):
    true = DRAW.normal(size=(200, outputs))
    guess = true + 0.5 * DRAW.normal(size=(200, outputs))
    expected = reference.r2_score(true, guess, sample_weight=weights)
    assert metrics.r2(true, guess, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    assert metrics.r2(np.ones(5), np.ones(5)) == reference.r2_score(np.ones(5), np.ones(5)) == 1
    assert metrics.r2(np.ones(5), np.zeros(5)) == reference.r2_score(np.ones(5), np.zeros(5)) == 0
    assert metrics.r2(true[:, 0], guess[:, :1]) == metrics.r2(true[:, :1], guess[:, :1])


def test_calibration_is_its_formula():
    """Guo's equation 3, bin by bin."""
    shares = metrics.probabilities(LOGITS)
    confidence, right = shares.max(1), shares.argmax(1) == TRUE
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.calibration(TRUE, shares, bins=10) == pytest.approx(expected, rel=1e-9)
    certain = np.eye(4)[TRUE]
    assert metrics.calibration(TRUE, certain) == 0
    second = DRAW.uniform(size=200)
    both = np.stack([1 - second, second], 1)
    assert metrics.calibration(TRUE > 1, second) == metrics.calibration(TRUE > 1, both)


def test_probabilities_classes_and_decisions_of_one_and_two_outputs():
    one = LOGITS[:, :1]
    np.testing.assert_allclose(metrics.probabilities(one), 1 / (1 + np.exp(-one[:, 0])), rtol=1e-12)
    np.testing.assert_array_equal(metrics.predicted_class(one), one[:, 0] > 0)
    two = np.concatenate([0 * one, one], 1)
    np.testing.assert_allclose(metrics.probabilities(two)[:, 1], metrics.probabilities(one))
    np.testing.assert_array_equal(metrics.predicted_class(two), metrics.predicted_class(one))
    np.testing.assert_array_equal(metrics.decision(two), metrics.decision(one))
    assert metrics.probabilities(np.array([-800.0, 800.0])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: metrics.f1(TRUE, LOGITS), TypeError, "predict=metrics.predicted_class"),
        (lambda: metrics.confusion(TRUE, GUESS[1:]), ValueError, "must have one shape"),
        (lambda: metrics.confusion([0, 5], [0, 1], classes=3), ValueError, r"labels must be in 0"),
        (lambda: metrics.confusion([0, -1], [0, 1]), ValueError, r"labels must be in 0..1, got -1"),
        (lambda: metrics.f1(TRUE, GUESS, average="binary"), ValueError, "takes the classes 0 and"),
        (lambda: metrics.f1(TRUE, GUESS, average="best"), ValueError, "average must be one of"),
        (lambda: metrics.calibration(TRUE, LOGITS), ValueError, "predict=metrics.probabilities"),
        (lambda: metrics.r2([1.0], [1.0]), ValueError, "at least two examples"),
        (lambda: metrics.decision(LOGITS), ValueError, "of two classes"),
        (lambda: metrics.of_split("f1"), TypeError, "function must be a function"),
        (lambda: metrics.of_split(metrics.f1, predict="class"), TypeError, "predict must be a fun"),
        (lambda: metrics.of_split(metrics.confusion)(TRUE, TRUE), ValueError, "give one number"),
        (
            lambda: metrics.of_split(lambda y, p: 0.0, name="zero")(TRUE, TRUE, WEIGHTS),
            ValueError, "must take the weights of a split as sample_weight",
        ),
    ],
)  # fmt: skip
def test_refuses(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_split_with_weights_is_weighted_and_outputs_that_diverged_give_nan():
    f1 = functools.partial(reference.f1_score, average="macro")
    measured = metrics.of_split(f1, predict=metrics.predicted_class)
    expected = f1(TRUE, LOGITS.argmax(1), sample_weight=WEIGHTS)
    assert measured.name == "f1_score"
    assert measured(LOGITS, TRUE, WEIGHTS) == expected
    assert np.isnan(measured(np.where(LOGITS > 4, np.inf, LOGITS), TRUE))
    assert np.isnan(measured(np.float16(np.where(LOGITS > 4, np.nan, LOGITS)), TRUE))


def test_what_computes_no_whole_split_refuses_such_a_metric():
    f1 = metrics.of_split(metrics.f1, predict=metrics.predicted_class)
    task = training.Task(models.MLP([4]), losses.cross_entropy, [f1])
    for make in (
        lambda: training.make_run(task, optimizers.sgd(0.1), batch_size=4),
        lambda: training.make_train_step(task, optimizers.sgd(0.1)),
        lambda: training.make_eval_step(task),
        lambda: training.make_eval_step(models.MLP([4]), losses.cross_entropy, [f1]),
    ):
        with pytest.raises(ValueError, match=r"f1 is a metric of a whole split.*fit"):
            make()
    with pytest.raises(ValueError, match="metrics must have different names"):
        training.Task(models.MLP([4]), losses.cross_entropy, [f1, f1])


def test_several_parts_of_a_split_make_one_value():
    """More examples than one call of the evaluation, in memory and as a stream."""
    from jaxdl import data

    x = DRAW.normal(size=(2100, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    auc = metrics.of_split(reference.roc_auc_score, predict=metrics.decision)
    result = training.fit(
        models.MLP([2]), (x, y), optimizers.sgd(0.1), loss=losses.cross_entropy, metrics=[auc],
        epochs=1, batch_size=100, key=jax.random.key(0),
    )  # fmt: skip
    logits = result.predict(x)
    expected = reference.roc_auc_score(y, logits[:, 1] - logits[:, 0])
    assert result.evaluate((x, y))["roc_auc_score"] == pytest.approx(expected, rel=1e-9)
    assert result.evaluate(data.Streamed((x, y)))["roc_auc_score"] == pytest.approx(expected)


def test_one_output_at_each_place_is_a_logit():
    """A mask (n, h, w) of outputs (n, h, w, 1)."""
    logits = DRAW.normal(size=(5, 3, 2, 1))
    assert 0 < (logits > 0).mean() < 1
    np.testing.assert_array_equal(metrics.predicted_class(logits), logits[..., 0] > 0)
    np.testing.assert_allclose(
        metrics.probabilities(logits), 1 / (1 + np.exp(-logits[..., 0])), rtol=1e-12
    )
    np.testing.assert_array_equal(metrics.decision(logits), logits[..., 0])
    both = np.concatenate([np.zeros_like(logits), logits], -1)
    np.testing.assert_array_equal(metrics.decision(both), logits[..., 0])


@pytest.mark.parametrize("name", ["predicted_class", "probabilities", "decision"])
def test_a_tree_of_outputs_is_refused(name):
    heads = (LOGITS, LOGITS)
    for tree in (heads, [*heads], {"a": LOGITS}, {"a": 1.0}, None, np.array(["x"]), 1.0):
        with pytest.raises(TypeError, match=rf"{name} takes one array.*{name}\(outputs\['head'\]"):
            getattr(metrics, name)(tree)
    assert len(getattr(metrics, name)([[0.0, 1.0], [2.0, 0.0]])) == 2


def test_no_class_is_predicted_of_nan():
    for outputs in (LOGITS, LOGITS[:, :1], LOGITS[:, 0]):
        spoiled = np.array(outputs)
        spoiled[7] = np.nan
        with pytest.raises(ValueError, match="must not be NaN, got one at example 7"):
            metrics.predicted_class(spoiled)
        assert np.isnan(metrics.probabilities(spoiled)[7]).all()


@pytest.mark.parametrize("average", ["macro", "binary"])
def test_whole_floats_and_a_last_axis_of_one_are_labels(average):
    true, guess = TRUE > 1, GUESS > 1
    expected = reference.f1_score(true, guess, average=average, sample_weight=WEIGHTS)
    measured = metrics.f1(
        true[:, None].astype(np.float32), guess, average=average, sample_weight=WEIGHTS[:, None]
    )
    assert measured == pytest.approx(expected, rel=1e-12)


def test_f1_of_a_model_with_binary_cross_entropy():
    x = DRAW.normal(size=(64, 3)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    f1 = metrics.of_split(metrics.f1, predict=metrics.predicted_class)
    result = training.fit(
        models.MLP([1]), (x, y), optimizers.sgd(0.1), loss=losses.binary_cross_entropy,
        metrics=[metrics.accuracy, f1], epochs=1, batch_size=16, key=jax.random.key(0),
    )  # fmt: skip
    guess = result.predict(x) > 0
    measured = result.evaluate((x, y))
    expected = reference.f1_score(y[:, 0], guess[:, 0], average="macro")
    assert measured["f1"] == pytest.approx(expected, rel=1e-12)
    assert measured["accuracy"] == pytest.approx((guess == y).mean(), rel=1e-6)


def test_a_weight_of_an_example_is_that_of_each_of_its_labels():
    true, guess = TRUE.reshape(50, 4), GUESS.reshape(50, 4)
    np.testing.assert_allclose(
        metrics.confusion(true, guess, sample_weight=WEIGHTS[:50]),
        reference.confusion_matrix(TRUE, GUESS, sample_weight=np.repeat(WEIGHTS[:50], 4)),
        rtol=1e-12,
    )


@pytest.mark.parametrize("weights", [WEIGHTS[1:], -WEIGHTS, 0 * WEIGHTS, np.nan * WEIGHTS])
def test_weights_that_are_none_are_refused(weights):
    for call in (
        lambda: metrics.f1(TRUE, GUESS, sample_weight=weights),
        lambda: metrics.confusion(TRUE, GUESS, sample_weight=weights),
        lambda: metrics.r2(TRUE, GUESS, sample_weight=weights),
        lambda: metrics.calibration(TRUE > 1, LOGITS[:, 0] > 0, sample_weight=weights),
    ):
        with pytest.raises(ValueError, match="sample_weight must"):
            call()


@pytest.mark.parametrize(
    ("targets", "shares", "text"),
    [
        ([0, 1], [0.3, 1.2], r"must be in \[0, 1\], got 1.2 at example 1"),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], r"must be in \[0, 1\], got 1.5 at example 1"),
        ([0, 1], [0.3, np.nan], r"must be in \[0, 1\], got nan"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.2]], "must sum to 1, got a row that sums to 0.7"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"labels must be in 0..1, got 0..2"),
        ([0, -1], [0.5, 0.5], r"labels must be in 0..1, got -1..0"),
    ],
)
def test_calibration_names_what_is_wrong(targets, shares, text):
    with pytest.raises(ValueError, match=text):
        metrics.calibration(targets, shares)


def test_labels_are_finite_whole_numbers():
    for targets in ([0.0, 0.5], [0.0, np.inf], [0.0, np.nan]):
        with pytest.raises(TypeError, match="targets must be labels"):
            metrics.f1(targets, [0, 1])
