"""Folded networks differ by float32's roundings alone, by a bound that would see a wrong fold."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, layers, losses, models, optimizers, training

ROUNDING = 2.0**-24
"""The unit roundoff of float32."""
CONFIDENCE = 7.0
"""A sum of products exceeds its bound by chance with probability 2 exp(-7^2 / 2), 5e-11."""
OTHER_ROUNDINGS = 8
"""Beside the products of a unit: variance, root, quotient, scale, mean, bias, in either form."""


def rounding_bound(folded, without, variables, images, *, epsilon):
    r"""How far float32 sets folded and unfolded outputs apart, if roundings are independent.

    A sum of n products is off by at most gamma (|W'|^T |x| + |beta| + |mu W'/W|), either way, with
    gamma = CONFIDENCE sqrt(n + OTHER_ROUNDINGS) u; errors that come in as e go out with the root of
    the sum of (W' e)^2. With n in the place of sqrt(n), and |W'| |e|, nothing could exceed it, and
    nothing would come near: it allows some 10^5 times what is found.

    Source: Higham and Mary (2019), theorem 2.4.
    """
    inputs, local = {}, {}

    def at_layers(change):
        def watch(call, args, kwargs, context):
            if isinstance(context.module, (nn.Dense, nn.Conv)):
                return change(call, args[0], context.module)
            return call(*args, **kwargs)

        return nn.intercept_methods(watch)

    def keep_inputs(call, x, module):
        inputs[module.path] = x
        return call(x)

    def keep_local(call, x, module):
        count = module.variables["params"]["kernel"][..., 0].size + OTHER_ROUNDINGS
        size = call(jnp.abs(inputs[module.path]))
        local[module.path] = 2 * CONFIDENCE * np.sqrt(count) * ROUNDING * size
        return size

    def propagate(call, squared, module):
        own = module.variables["params"]["bias"]
        return call(squared) - own + jnp.square(local[module.path])

    sizes = magnitudes(without["params"], variables["params"], variables["batch_stats"], epsilon)
    with at_layers(keep_inputs):
        folded.apply(without, images, train=False)
    with at_layers(keep_local):
        folded.apply({"params": sizes}, images, train=False)
    squares = jax.tree.map(jnp.square, without["params"])
    with at_layers(propagate):
        # ReLU and max-pooling pass an error on no larger than it came, and pass all of |e|.
        return jnp.sqrt(folded.apply({"params": squares}, jnp.zeros_like(images), train=False))


def magnitudes(folded, params, stats, epsilon):
    """|W'|, and |beta| + |mu gamma / sigma| in the place of the folded biases."""
    sizes = {}
    for name, layer in folded.items():
        if "kernel" not in layer:
            sizes[name] = magnitudes(layer, params[name], stats.get(name, {}), epsilon)
            continue
        norm = "norm_" + name.rsplit("_", 1)[1]
        bias = jnp.abs(layer["bias"])
        if norm in stats:
            factor = params[norm]["scale"] / jnp.sqrt(stats[norm]["var"] + epsilon)
            bias = jnp.abs(params[norm]["bias"]) + jnp.abs(stats[norm]["mean"] * factor)
        sizes[name] = {"kernel": jnp.abs(layer["kernel"]), "bias": bias}
    return sizes


def test_the_bound_of_two_layers_is_the_formula():
    model = models.MLP((3, 2), norm=layers.BatchNorm, activation=lambda x: x)
    images = jax.random.normal(jax.random.key(0), (4, 5))
    variables = model.init(jax.random.key(1), images, train=False)
    folded, without = training.fold(model, variables)
    bound = rounding_bound(folded, without, variables, images, epsilon=1e-5)
    first, last = (np.abs(without["params"][f"dense_{i}"]["kernel"]) for i in range(2))
    gamma = [2 * 7 * np.sqrt(n + 8) * 2.0**-24 for n in (5, 3)]
    hidden = np.abs(images @ without["params"]["dense_0"]["kernel"])
    own = [gamma[0] * np.abs(images) @ first, gamma[1] * hidden @ last]
    expected = np.sqrt(own[0] ** 2 @ last**2 + own[1] ** 2)
    np.testing.assert_allclose(bound, expected, rtol=1e-3)  # the bound itself is of float32


@pytest.mark.parametrize(
    "model",
    [
        models.MLP((128, 128, 10), norm=layers.BatchNorm),
        models.ConvNet((8, 16), (32, 10), norm=layers.BatchNorm),
    ],
)
def test_folding_changes_outputs_by_rounding_only(model):
    digits = data.load("mnist_5k").train
    train = data.Arrays(digits.inputs[:320], digits.targets[:320])
    images = training.scale_images(jnp.asarray(digits.inputs[320:576]))
    task = training.Task(model, losses.cross_entropy)
    learn = training.make_run(task, optimizers.sgd(0.1), batch_size=32)  # 10 steps an epoch
    key = jax.random.key(0)
    variables = learn(key, {"train": train}, training.orders(key, 1, 320))[0].variables

    folded, without = training.fold(model, variables)
    wrong = jax.tree.map(lambda leaf: leaf * (1 + 1e-3), without)
    evaluate = jax.jit(functools.partial(folded.apply, train=False))
    bound_of = jax.jit(functools.partial(rounding_bound, folded, epsilon=model.norm().epsilon))
    # Accelerators round the factors of a product to fewer bits unless they are told not to.
    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        bound = bound_of(without, variables, images)
        assert (np.abs(evaluate(without, images) - outputs) <= bound).all()
        # A fold that is wrong by a thousandth goes ten times beyond the bound.
        assert (np.abs(evaluate(wrong, images) - outputs) / bound).max() > 10
