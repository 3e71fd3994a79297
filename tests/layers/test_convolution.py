"""The convolution that keeps its inputs: XLA's own, to the bit, through both derivatives."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxdl import losses, models, optimizers, training
from jaxdl.compiling import init_options
from jaxdl.layers import BatchNorm
from jaxdl.layers.convolution import convolve

IMAGES = jax.random.normal(jax.random.key(0), (4, 9, 8, 3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"strides": 2}, {"padding": "VALID"}])
def test_equals_xlas_to_the_bit(settings, dtype):
    x = IMAGES.astype(dtype)
    plain = nn.Conv(5, (3, 3), dtype=dtype, **settings)
    kept = plain.clone(conv_general_dilated=convolve)
    variables = plain.init(jax.random.key(1), x)
    tangents = jax.tree.map(jnp.ones_like, (variables, x))

    def derivatives(conv):
        y, back = jax.vjp(conv.apply, variables, x)
        return y, back(jnp.cos(y)), jax.jvp(conv.apply, (variables, x), tangents)[1]

    chex.assert_trees_all_equal(derivatives(kept), derivatives(plain))


def test_inputs_that_are_not_finite_pass():
    x = IMAGES.at[0, 0, 0, 0].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf)
    plain = nn.Conv(5, (3, 3))
    variables = plain.init(jax.random.key(1), IMAGES)
    kept = plain.clone(conv_general_dilated=convolve)
    chex.assert_trees_all_equal(kept.apply(variables, x), plain.apply(variables, x))


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 1, 2, 4)])
def test_a_kernel_with_a_nan_spoils_its_own_channel_only(place):
    plain = nn.Conv(5, (3, 3))
    kept = plain.clone(conv_general_dilated=convolve)
    variables = plain.init(jax.random.key(1), IMAGES)
    kernel = variables["params"]["kernel"].at[place].set(jnp.nan)
    variables = {"params": {**variables["params"], "kernel": kernel}}

    def derivatives(conv):
        y, back = jax.vjp(conv.apply, variables, IMAGES)
        return y, back(jnp.ones_like(y))

    chex.assert_trees_all_equal(derivatives(kept), derivatives(plain))
    assert jnp.isnan(kept.apply(variables, IMAGES)).any((0, 1, 2)).sum() == 1


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 5), (2, 4, 4, 0, 5), (2, 4, 4, 3, 0)])
def test_nothing_is_convolved_to_nothing(shape):
    *images, channels, features = shape
    x, kernel = jnp.ones((*images, channels)), jnp.ones((3, 3, channels, features))
    settings = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def derivatives(conv):
        y, back = jax.vjp(lambda x, kernel: conv(x, kernel, (1, 1), "SAME", **settings), x, kernel)
        return y, back(y)

    chex.assert_trees_all_equal(derivatives(convolve), derivatives(jax.lax.conv_general_dilated))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU backend's fusions")
def test_nothing_is_computed_in_a_transposed_copy_and_no_number_is_written_as_an_image():
    model, optimizer = models.ResNet(8, norm=BatchNorm), optimizers.sgd(0.1)
    batch = {"inputs": jnp.ones((8, 16, 16, 3)), "targets": jnp.zeros(8, jnp.int32)}
    init = jax.jit(lambda key: training.init_state(key, model, optimizer, batch["inputs"]))
    state = init(jax.random.key(0))
    step = training.make_train_step(model, optimizer, losses.cross_entropy)
    # Compiled as users do, whatever the tests' own XLA_FLAGS.
    users = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    options = training.compiler_options(convolutional=True) | {
        name: value for name, value in users.items() if name in init_options()
    }

    @functools.partial(jax.jit, compiler_options=options)
    def update(params, batch):
        return step(state.replace(params=params), batch)[0].params

    program = update.lower(state.params, batch).compile().as_text()
    bodies = [body for body in program.split("\n}\n") if "ENTRY" not in body]
    # Copies of images: of four axes, with the batch of 8 inside.
    image = re.compile(r"f32\[\d+,\d+,(\d+,8|8,\d+)\]\S* transpose\(")
    copies = [body for body in bodies if image.search(body)]
    assert len(copies) >= 14  # the inputs of seven convolutions, and their outputs' gradients
    # Besides, padding and strides of the shortcuts.
    computed = (" maximum(", " multiply(", " subtract(", " divide(")
    assert not any(operation in body for body in copies for operation in computed)
    # What a norm's sums multiply by is one number, or one for each feature.
    assert not re.search(r"ROOT \S+ = f32\[1,8,\d+,\d+,\d+\]\S* broadcast\(", program)
