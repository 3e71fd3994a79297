"""A result predicts, evaluates anything, is saved, loaded and pickled; and refuses other inputs."""

import functools
import json
import pickle
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, layers, losses, metrics, models, optimizers, training
from jaxdl.training import checkpoints

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (90, 6, 6, 1)).astype(np.uint8)
LABELS = (IMAGES.mean((1, 2, 3)) > IMAGES.mean()).astype(np.int32)
SPLITS = {
    "train": (IMAGES[:60], LABELS[:60]),
    "validation": (IMAGES[60:75], LABELS[60:75]),
    "test": (IMAGES[75:], LABELS[75:]),
}
MODEL = models.MLP([8, 2], norm=layers.BatchNorm)
GOAL = {"loss": losses.cross_entropy, "metrics": [metrics.accuracy]}
SETTINGS = {"epochs": 2, "batch_size": 20, "key": KEY}


def darker(inputs):
    return inputs.astype(jnp.float32) / 1000


@functools.cache
def trained(optimizer="sgd", preprocess=None):
    made = {
        "sgd": optimizers.sgd(0.1),
        "ema": optax.chain(optimizers.adam(1e-2), optimizers.ema(0.5)),
    }[optimizer]
    more = {} if preprocess is None else {"preprocess": preprocess}
    return training.fit(MODEL, SPLITS, made, **GOAL, **more, **SETTINGS)


def by_hand(result, images):
    inputs = jnp.asarray(images, jnp.float32) / 255
    return np.asarray(MODEL.apply(result.state.evaluated, inputs, train=False))


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


def fitted(inputs, targets, model=None, loss=losses.mean_squared_error, **settings):
    model = models.MLP([2]) if model is None else model
    return training.fit(
        model, (inputs, targets), optimizers.sgd(0.1), loss=loss, **SETTINGS, **settings
    )


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


@pytest.mark.parametrize("optimizer", ["sgd", "ema"])
def test_a_saved_result_predicts_evaluates_and_goes_on_to_the_bit(tmp_path, monkeypatch, optimizer):
    result = trained(optimizer)
    monkeypatch.chdir(tmp_path)
    folder = "saved"  # a relative path, as people write it
    result.save(folder)
    task = training.Task(MODEL, **GOAL)
    for given in (None, result.optimizer):
        loaded = training.load(folder, task, given)
        np.testing.assert_array_equal(loaded.predict(IMAGES), result.predict(IMAGES))
        assert loaded.evaluate(SPLITS["test"]) == result.evaluate("test")
        for part in ("steps", "train", "validation"):
            chex.assert_trees_all_equal(
                dict(getattr(loaded.history, part)), dict(getattr(result.history, part))
            )
    chex.assert_trees_all_equal(loaded.state, result.state)
    more = [
        training.fit(task, SPLITS, result.optimizer, **SETTINGS, state=each.state).state.params
        for each in (result, loaded)
    ]
    chex.assert_trees_all_equal(*more)


def test_a_runs_own_checkpoints_are_loaded_without_data_or_identity(tmp_path):
    result = training.fit(
        MODEL, SPLITS, trained("ema").optimizer, **GOAL, **SETTINGS, checkpoint_dir=tmp_path
    )
    loaded = training.load(tmp_path, MODEL, **GOAL)
    np.testing.assert_array_equal(loaded.predict(IMAGES), result.predict(IMAGES))
    chex.assert_trees_all_equal(dict(loaded.history.validation), dict(result.history.validation))
    variables = checkpoints.load_variables(tmp_path)
    chex.assert_trees_all_equal(variables, jax.tree.map(np.asarray, result.state.evaluated))
    newest = sorted(tmp_path.glob("*-step-*"))[-1]
    manifest = newest / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"sha", b"shb").replace(b"0", b"1", 1))
    with pytest.warns(UserWarning, match="a damaged checkpoint is passed over"):
        assert checkpoints.load_variables(tmp_path).keys() == {"params", "batch_stats"}
    with pytest.raises(FileNotFoundError, match="must hold a checkpoint, got none"):
        checkpoints.load_variables(tmp_path / "nowhere")


def test_another_model_preprocessing_or_optimizer_is_refused(tmp_path):
    folder = tmp_path / "saved"
    trained(preprocess=darker).save(folder)
    np.testing.assert_array_equal(
        training.load(folder, MODEL, preprocess=darker).predict(IMAGES),
        trained(preprocess=darker).predict(IMAGES),
    )
    other = models.MLP([8, 2], norm=layers.BatchNorm, activation=nn.gelu)
    wider = models.MLP([9, 2], norm=layers.BatchNorm)
    for arguments, text in {
        (MODEL,): "preprocess must be that of the run in .*darker, got .*scale_images",
        (wider,): r"params/dense_0/kernel is float32\[36,8\] there and float32\[36,9\] here",
        (other,): "another model than in",
        (MODEL, optimizers.adam(0.1)): "opt_state",
    }.items():
        settings = {} if arguments == (MODEL,) else {"preprocess": darker}
        with pytest.raises(ValueError, match=text):
            training.load(folder, *arguments, **settings)
    with pytest.raises(ValueError, match="evaluate needs a loss"):
        training.load(folder, MODEL, preprocess=darker).evaluate(SPLITS["test"])
    scaled = data.normalize_images(np.float32([0.5]), np.float32([0.2]))
    with pytest.raises(ValueError, match=r"got normalize_images\("):
        training.load(folder, MODEL, preprocess=scaled)
    with pytest.raises(FileExistsError, match=r"must be a new folder.*overwrite=True"):
        trained().save(folder)
    trained().save(folder, overwrite=True)
    assert training.load(folder, MODEL).stopped is None


def test_a_pickled_result_predicts_in_another_process(tmp_path):
    result = trained()
    (tmp_path / "result.pickle").write_bytes(pickle.dumps(result))
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import pickle, sys, json, numpy as np\n"
        "result = pickle.load(open('result.pickle', 'rb'))\n"
        "outputs = result.predict(np.load('images.npy'))\n"
        "print(json.dumps([outputs.tolist(), result.evaluate('test')]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    outputs, measured = json.loads(ran.stdout)
    np.testing.assert_array_equal(np.float32(outputs), result.predict(IMAGES))
    assert measured == result.evaluate("test")


def test_a_train_step_of_ones_own_is_taken(tmp_path):
    """Its metrics stand in the history; signs of the gradient, stepped in NumPy, agree."""
    x = DRAW.normal(size=(40, 3)).astype(np.float32)
    y = x @ np.float32([[1.0], [-2.0], [0.5]])
    model = nn.Dense(1, use_bias=False)

    def sign_step(state, batch):
        def loss(params):
            return losses.mean_squared_error(
                model.apply({"params": params}, batch["inputs"]), batch["targets"]
            ).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        params = jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), state.params, gradient)
        return state.replace(params=params), {
            "loss": value, "norm": optax.tree.norm(gradient),
        }  # fmt: skip

    settings = {"epochs": 3, "batch_size": 40, "key": KEY, "loss": losses.mean_squared_error}
    start = training.init_state(KEY, model, optimizers.sgd(0.1), x)
    result = training.fit(
        model, (x, y), optimizers.sgd(0.1), **settings, train_step=sign_step,
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    weights = np.asarray(start.params["kernel"], np.float64)
    for _ in range(3):
        weights -= 0.01 * np.sign(x.T.astype(np.float64) @ (x @ weights - y))
    np.testing.assert_allclose(result.state.params["kernel"], weights, rtol=1e-6)
    assert result.history.steps["norm"].shape == (3,)
    assert int(result.state.step) == 3  # the step above does not count

    def refused(step, error, text, **more):
        with pytest.raises(error, match=text):
            training.fit(model, (x, y), optimizers.sgd(0.1), **settings, **more, train_step=step)

    refused(3, TypeError, "train_step must be a function")
    refused(sign_step, ValueError, "must run under jit, got parallel='pmap'", parallel="pmap")
    refused(lambda state, batch: (state, {}), ValueError, '"loss" among them')
    refused(lambda state, batch: (state.params, {}), TypeError, r"got a dict first")
    refused(lambda state, batch: state, TypeError, "a step that returns a TrainState")
    refused(lambda state: state, TypeError, "cannot be called so: too many positional")
    refused(
        lambda state, batch: (
            state.replace(params={"kernel": state.params["kernel"][:2]}), {"loss": jnp.zeros(())}
        ),
        ValueError, "a state like the one it is given, got another: params/kernel",
    )  # fmt: skip


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


def test_a_frozen_layer_has_no_average_to_load(tmp_path):
    optimizer = optimizers.freeze(
        optimizers.chain(optimizers.adam(1e-2), optimizers.ema(0.5)), "dense_0"
    )
    result = training.fit(MODEL, SPLITS, optimizer, **GOAL, **SETTINGS)
    result.save(tmp_path / "saved")
    expected = jax.tree.map(np.asarray, result.state.evaluated)
    chex.assert_trees_all_equal(checkpoints.load_variables(tmp_path / "saved"), expected)
    loaded = training.load(tmp_path / "saved", MODEL)
    np.testing.assert_array_equal(loaded.predict(IMAGES), result.predict(IMAGES))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(2, kernel_init=init)(inputs.reshape(len(inputs), -1))


def test_variables_that_stood_in_boxes_are_loaded_for_apply(tmp_path):
    result = training.fit(Boxed(), SPLITS, optimizers.sgd(0.1), **GOAL, **SETTINGS)
    result.save(tmp_path / "saved")
    variables = checkpoints.load_variables(tmp_path / "saved")
    outputs = Boxed().apply(variables, jnp.asarray(IMAGES / 255, jnp.float32))
    np.testing.assert_allclose(outputs, result.predict(IMAGES), rtol=1e-5, atol=1e-6)
    loaded = training.load(tmp_path / "saved", Boxed())
    np.testing.assert_array_equal(loaded.predict(IMAGES), result.predict(IMAGES))


@pytest.mark.parametrize("model", ["norm", "dropout", "equinox"])
def test_where_a_model_was_trained_is_no_part_of_it(tmp_path, model):
    """On a mesh of one device, or with weakly typed statistics of Equinox."""
    if model == "equinox":
        import equinox as eqx

        class Net(eqx.Module):
            norm: eqx.nn.BatchNorm
            head: eqx.nn.Linear

            def __init__(self, key):
                self.norm = eqx.nn.BatchNorm(36, "batch", mode="batch")
                self.head = eqx.nn.Linear(36, 2, key=key)

            def __call__(self, image, state):
                hidden, state = self.norm(image.ravel(), state)
                return self.head(hidden), state

        made = eqx.nn.make_with_state(Net)(KEY)
    else:
        norm = layers.BatchNorm if model == "norm" else None
        made = models.MLP([8, 2], norm=norm, dropout_rate=0.5 * (model == "dropout"))
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1], axis_types=kinds)
    parallel = "jit" if model == "equinox" else mesh
    result = training.fit(made, SPLITS, optimizers.sgd(0.1), **GOAL, **SETTINGS, parallel=parallel)
    result.save(tmp_path / "saved")
    loaded = training.load(tmp_path / "saved", made)
    np.testing.assert_allclose(loaded.predict(IMAGES), result.predict(IMAGES), rtol=1e-5, atol=1e-6)


def test_a_state_of_another_optimizer_is_named():
    adam = training.fit(MODEL, SPLITS, optimizers.adam(0.1), **GOAL, **SETTINGS)
    with pytest.raises(ValueError, match=r"state must be of this optimizer too.*init_state\("):
        training.fit(MODEL, SPLITS, optimizers.sgd(0.1), **GOAL, **SETTINGS, state=adam.state)
    with pytest.raises(TypeError, match=r"decay must be a number in \[0, 1\).*chain optimizers"):
        optimizers.ema(optimizers.adam(0.1))
