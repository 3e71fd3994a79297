"""A result is saved, loaded and pickled, with its preprocessing; so is a run in the middle."""

import json
import pickle
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import (
    GOAL,
    IMAGES,
    KEY,
    MODEL,
    SETTINGS,
    SPLITS,
    darker,
    trained,
)

from jaxdl import data, layers, models, optimizers, training
from jaxdl.training import checkpoints


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
