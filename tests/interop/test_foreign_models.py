"""Models as strangers wrote them: every variable goes there and back once, bit for bit."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from foreign.everyone import MODELS

from jaxdl import interop

CONVERTED = (
    "resnet", "convnext", "mode is a field", "encoder and decoder", "decoder under jit", "lstm",
    "gru", "unet", "spectral", "lists",
)  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_there_and_back(name, tmp_path):
    task, inputs = MODELS[name].task, MODELS[name].inputs
    shapes = nn.unbox(jax.eval_shape(lambda: task.init(jax.random.key(0), inputs)))
    draw = np.random.default_rng(0)
    variables = {
        collection: jax.tree.map(
            lambda leaf: draw.normal(size=leaf.shape).astype(leaf.dtype), shapes[collection]
        )
        for collection in ("params", "batch_stats")
        if shapes.get(collection)
    }
    state = interop.to_state_dict(task, variables, inputs)
    tracked = [each for each in state if each.endswith("num_batches_tracked")]
    assert len(state) == len(jax.tree.leaves(variables)) + len(tracked)
    interop.save_safetensors(tmp_path / "state.safetensors", state)

    def named(path):
        return path.replace("/", ".")

    found = interop.from_state_dict(task, tmp_path / "state.safetensors", inputs, names=named)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
