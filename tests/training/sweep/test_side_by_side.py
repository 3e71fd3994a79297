"""Calls that run at the same time give what each gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, models, optimizers, training

TRAINED, TESTED, CLASSES = 60_000, 10_000, 10


@pytest.mark.slow
def test_outputs_of_a_large_split_are_those_of_the_parameters():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (TRAINED, 28, 28, 1), np.uint8)
    train = data.Arrays(images, draw.integers(0, CLASSES, TRAINED))
    test = training.scale_images(jnp.asarray(images[:TESTED]))
    task = training.Task(models.MLP([128, CLASSES]), loss=losses.cross_entropy)

    def member(key, orders):
        run = training.make_run(task, optimizers.adam(1e-4), batch_size=100)
        state, _ = run(key, {"train": train, "validation": train}, orders)
        return {"outputs": task.outputs(state.variables, test, train=False)[0], **flat(state)}

    def flat(state):
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves(state.params)}

    def leaves(params):
        return jax.tree_util.tree_leaves_with_path(params)

    by_seed = {"orders": lambda key: training.orders(key, 1, TRAINED)}
    swept = training.sweep(member, seeds=3, by_seed=by_seed)
    shape = training.first_weights(task, train)(jax.random.key(0))
    for seed in range(3):
        found = swept.isel(seed=seed)
        params = jax.tree_util.tree_map_with_path(
            lambda path, _, found=found: jnp.asarray(found[jax.tree_util.keystr(path)].values),
            shape,
        )
        expected = task.outputs({"params": params}, test, train=False)[0]
        # Sums of 784 and of 128 products of float32, in another order.
        tolerance = (784 + 128) * np.finfo(np.float32).eps * np.abs(expected).max()
        assert np.abs(found["outputs"].values - expected).max() < tolerance
