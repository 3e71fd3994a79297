"""An exported program runs in a process without Flax and this library, on raw inputs."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import interop, layers, losses, metrics, models, optimizers, training

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
LABELS = DRAW.integers(0, 3, 40)
TOKENS = DRAW.integers(0, 20, (40, 5)).astype(np.int32)
SETTINGS = {"epochs": 1, "batch_size": 20, "key": KEY, "loss": losses.cross_entropy}


class Named(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        left, right = inputs["left"], inputs["right"]
        return {"class": nn.Dense(3)(jnp.concatenate([left, right], -1))}


def of_class(outputs, targets):
    return losses.cross_entropy(outputs["class"], targets)


def trained(case):
    sgd = optimizers.sgd(0.1)
    if case == "images":
        model = models.MLP([8, 3], norm=layers.BatchNorm)
        return IMAGES, training.fit(model, (IMAGES, LABELS), sgd, **SETTINGS)
    if case == "tokens":
        model = models.Transformer(20, features=8, layers=1, heads=2, length=8)
        return TOKENS, training.fit(model, (TOKENS, TOKENS), sgd, **SETTINGS)
    pair = {name: DRAW.normal(size=(40, 2)).astype(np.float32) for name in ("left", "right")}
    settings = SETTINGS | {"loss": of_class}
    return pair, training.fit(Named(), (pair, LABELS), sgd, **settings)


@pytest.mark.parametrize("case", ["images", "tokens", "named"])
def test_another_process_predicts_the_same(tmp_path, case):
    inputs, result = trained(case)
    interop.export(result, tmp_path / "model.jaxexport")
    leaves = jax.tree.leaves(inputs)
    np.savez(tmp_path / "inputs.npz", *leaves)
    names = "None" if not isinstance(inputs, dict) else repr(sorted(inputs))
    code = (
        "import sys, jax, numpy as np\n"
        "exported = jax.export.deserialize(bytearray(open('model.jaxexport', 'rb').read()))\n"
        "leaves = list(np.load('inputs.npz').values())\n"
        f"names = {names}\n"
        "inputs = leaves[0] if names is None else dict(zip(names, leaves))\n"
        "cut = jax.tree.map(lambda leaf: leaf[:7], inputs)\n"
        "np.savez('outputs.npz', *jax.tree.leaves(exported.call(inputs)))\n"
        "np.savez('cut.npz', *jax.tree.leaves(exported.call(cut)))\n"
        "print([name for name in ('flax', 'jaxdl', 'optax') if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
    expected = jax.tree.leaves(result.predict(inputs))
    # Another program of the same operations: float32's rounding of some 100 terms.
    near = {"rtol": 1e-5, "atol": 1e-5}
    for name, rows in {"outputs": 40, "cut": 7}.items():
        found = list(np.load(tmp_path / f"{name}.npz").values())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other[:rows], **near)
    again = interop.load_exported(tmp_path / "model.jaxexport")(inputs)
    for one, other in zip(jax.tree.leaves(again), expected, strict=True):
        np.testing.assert_allclose(one, other, **near)


def test_a_loaded_result_is_exported_with_a_transform(tmp_path):
    _, result = trained("images")
    result.save(tmp_path / "saved")
    loaded = training.load(tmp_path / "saved", result.task.model)
    interop.export(loaded, tmp_path / "new" / "shares", transform=jax.nn.softmax)
    shares = interop.load_exported(tmp_path / "new" / "shares")(IMAGES)
    np.testing.assert_allclose(
        shares, result.predict(IMAGES, metrics.probabilities), rtol=1e-5, atol=1e-6
    )


class OfTwenty(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        rows = jnp.zeros((20, 36)).at[: int(inputs.shape[0])].set(inputs.reshape(-1, 36))
        return nn.Dense(3)(rows)


def test_a_model_of_one_batch_size_says_so(tmp_path):
    task = training.Task(OfTwenty(), losses.cross_entropy)
    _, result = trained("images")
    fixed = training.Result(
        training.init_state(KEY, OfTwenty(), optimizers.sgd(0.1), jnp.asarray(IMAGES[:20])),
        result.history, result.dataset, task, example=result.example,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"must run for any batch size.*pass batch_size="):
        interop.export(fixed, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    interop.export(fixed, tmp_path / "model", batch_size=20)
    assert interop.load_exported(tmp_path / "model")(IMAGES[:20]).shape == (20, 3)
    with pytest.raises(TypeError, match=r"result must be a training.Result, got TrainState"):
        interop.export(result.state, tmp_path / "model")


def test_a_folder_is_not_replaced_and_nothing_is_traced(tmp_path):
    _, result = trained("images")
    result.save(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))

    def never(outputs):
        raise AssertionError

    with pytest.raises(IsADirectoryError, match=r"must be a file, got the folder .*/run; name a"):
        interop.export(result, tmp_path / "run", transform=never)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(TypeError, match="path must name a file, got 3"):
        interop.export(result, 3)


def test_what_is_no_program_or_is_cut_off_is_said(tmp_path):
    path = tmp_path / "model.jaxexport"
    with pytest.raises(FileNotFoundError, match=r"must be a file of export, got .*model.jaxexport"):
        interop.load_exported(path)
    _, result = trained("images")
    interop.export(result, path)
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[: len(whole) // 2], b"no program at all" * 30):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a whole file that export wrote, got one"):
            interop.load_exported(path)
    with pytest.raises(TypeError, match="path must name a file, got None"):
        interop.load_exported(None)
