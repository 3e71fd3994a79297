"""Forms of a convolution, of a batch norm and of max-pooling, and what each gave on a CPU.

One convolution with both gradients, on 128 images; the first layer's without the inputs' gradient;
BatchNorm forward and backward, then ReLU, beside Flax's; max-pooling with its gradient. Arms are
interleaved; the results agree first.

What was tried for the train step of ResNet-20 (two cores, AVX-512; 240 ms before, PyTorch 113):

    form                                                          what it gave
    memory kept (`training.keep_memory`)                          -21 %: taken
    sums of a norm without arrays of one number (BatchNorm)       -9 % (ConvNet -10 %): taken
    the outputs' gradient in memory before its transposed copy    ConvNet -6 %: taken
    XLA's own order of execution, with memory kept                -8 %: taken
    two rows, two columns, two by two positions as one            below
    the batch in halves                                           below
    the first layer as patches and one product                    below
    YNNPACK's convolutions                                        below
    one product of all patches; nine products; channels first     below
    YNNPACK's element-wise operations, too                        +35 %
    each core a device (the norms' sums are all-reduced)          ConvNet -16 %, ResNet-20 +54 %
                                                                  (earlier: AVX2, not kept)
    XLA's oneDNN options                                          not applied to convolutions
    `optimization_barrier`                                        without effect on this backend
    fast mathematics, narrower vectors                            within 2 %
    statistics from the convolution's own output tile             cannot be said: for XLA a
                                                                  convolution is a library's call
    norm, activation and residual sum in one pass                 XLA does so already

Run: python experiments/benchmarks/convolution_forms.py
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, measure, options_of, run, show
from jax import lax

from jaxdl import layers, training

BATCH = 128
SETTLE = 0.1
"""Seconds before a timed call, in which the threads of the arm before come to rest."""
YNN = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    )
}
options = training.compiler_options(convolutional=True)
jit = functools.partial(jax.jit, compiler_options=options)
ynn_jit = functools.partial(jax.jit, compiler_options=options | YNN)
dense_jit = functools.partial(jax.jit, compiler_options=training.compiler_options())


def norm_arm(norm: nn.Module, shape: tuple[int, ...], **settings: Any) -> Callable[[], Any]:
    """Outputs, new statistics and all gradients of one norm in training, then ReLU."""
    draw = np.random.default_rng(0)
    x, upstream = (jnp.asarray(draw.normal(size=shape), jnp.float32) for _ in range(2))
    variables = norm.init(jax.random.key(0), x, **settings)

    @(jit if len(shape) == 4 else dense_jit)
    def both(params: Any, x: Any) -> Any:
        def outputs(params: Any, x: Any) -> Any:
            y, updates = norm.apply(
                {**variables, "params": params}, x, mutable=["batch_stats"], **settings
            )
            return nn.relu(y), updates

        y, back, updates = jax.vjp(outputs, params, x, has_aux=True)
        return y, updates, back(upstream)

    return lambda: jax.block_until_ready(both(variables["params"], x))


def convolution(x: Any, kernel: Any) -> Any:
    """XLA's, channels last."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def channels_first(x: Any, kernel: Any) -> Any:
    """XLA's, on images that are transposed for it."""
    y = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"
    )
    return y.transpose(0, 2, 3, 1)


def shifted(x: Any) -> list[Any]:
    """The nine neighbours of every position."""
    padded, (height, width) = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), x.shape[1:3]
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def im2col(x: Any, kernel: Any) -> Any:
    """Neighbours side by side, and one product."""
    return jnp.concatenate(shifted(x), -1) @ kernel.reshape(-1, kernel.shape[-1])


def nine_products(x: Any, kernel: Any) -> Any:
    """A product for each neighbour, summed."""
    taps = kernel.reshape(9, *kernel.shape[2:])
    return sum(part @ tap for part, tap in zip(shifted(x), taps, strict=True))


def in_halves(x: Any, kernel: Any) -> Any:
    """Two halves of the batch."""
    return jnp.concatenate([convolution(half, kernel) for half in jnp.split(x, 2)])


def wider_form(rows: int, columns: int) -> Callable[[Any, Any], Any]:
    """So many neighbouring outputs as one with as many times the channels.

    The window grows by the outputs less one and moves by the outputs; most of its kernel is shared.
    A patch is then written once for all of them.
    """

    def form(x: Any, kernel: Any) -> Any:
        (batch, height, width, _), (_, _, before, after) = x.shape, kernel.shape
        wide = jnp.zeros((2 + rows, 2 + columns, before, rows, columns, after))
        for i in range(rows):
            for j in range(columns):
                wide = wide.at[i : i + 3, j : j + 3, :, i, j].set(kernel)
        y = lax.conv_general_dilated(
            x,
            wide.reshape(*wide.shape[:3], -1),
            (rows, columns),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = y.reshape(batch, height // rows, width // columns, rows, columns, after)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, after)

    return form


def form_arm(form: Any, shape: tuple[int, ...], compile_with: Any) -> Callable[[], Any]:
    """One convolution of as many channels with both gradients."""
    draw = np.random.default_rng(0)
    x, upstream = (jnp.asarray(draw.normal(size=shape), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(draw.normal(size=(3, 3, shape[-1], shape[-1])), jnp.float32)

    def both(x: Any, kernel: Any, upstream: Any) -> Any:
        y, back = jax.vjp(form, x, kernel)
        return y, back(upstream)

    compiled = compile_with(both)
    return lambda: jax.block_until_ready(compiled(x, kernel, upstream))


def first_layer_arm(form: Any) -> Callable[[], Any]:
    """Images of 3 channels to 32, and the kernel's gradient; the images need none."""
    draw = np.random.default_rng(0)
    x, upstream = (
        jnp.asarray(draw.normal(size=(BATCH, 32, 32, channels)), jnp.float32)
        for channels in (3, 32)
    )
    kernel = jnp.asarray(draw.normal(size=(3, 3, 3, 32)), jnp.float32)

    @jit
    def both(x: Any, kernel: Any, upstream: Any) -> Any:
        y, back = jax.vjp(lambda kernel: form(x, kernel), kernel)
        return y, back(upstream)

    return lambda: jax.block_until_ready(both(x, kernel, upstream))


def pool_arm(pool: Callable[[Any], Any]) -> Callable[[], Any]:
    """2 x 2 max-pooling of 32 channels, and its gradient."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 32, 32, 32)), jnp.float32)
    both = jit(lambda x: jax.value_and_grad(lambda x: jnp.sum(jnp.square(pool(x))))(x))
    return lambda: jax.block_until_ready(both(x))


def agree(arms: dict[str, Callable[[], Any]], against: str) -> None:
    """Refuse to time computations that are not the same one."""
    expected = jax.tree.leaves(arms[against]())
    for name, arm in arms.items():
        for ours, theirs in zip(jax.tree.leaves(arm()), expected, strict=True):
            error = float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())
            if not error < 1e-4:
                raise AssertionError(f"{name} must give what {against} gives, got {error:.1e} off")


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The forms, the norms, the pools."""
    training.keep_memory()
    timed = functools.partial(measure, rounds=arguments.rounds, settle=SETTLE)
    forms = (convolution, channels_first, im2col, nine_products, in_halves)
    wider = {f"{a} x {b} positions as one": wider_form(a, b) for a, b in ((2, 1), (1, 2), (2, 2))}
    for images in ((BATCH, 32, 32, 16), (BATCH, 16, 16, 32)):
        arms = {form.__name__: form_arm(form, images, jit) for form in forms}
        arms |= {name: form_arm(form, images, jit) for name, form in wider.items()}
        arms |= {"YNNPACK's": form_arm(convolution, images, ynn_jit)}
        agree(arms, "convolution")
        yield from show(f"3 x 3 on {images}", timed(arms), "convolution")
    arms = {
        "convolution": first_layer_arm(convolution),
        "patches and one product": first_layer_arm(im2col),
    }
    agree(arms, "convolution")
    yield from show("the first layer, 3 to 32 channels", timed(arms), "convolution")
    shapes: tuple[tuple[int, ...], ...] = (
        (BATCH, 32, 32, 32),
        (BATCH, 32, 32, 16),
        (BATCH, 8, 8, 64),
        (BATCH, 128),
    )
    for shape in shapes:
        arms = {
            "Flax": norm_arm(nn.BatchNorm(epsilon=1e-5), shape, use_running_average=False),
            "Flax, two passes": norm_arm(
                nn.BatchNorm(epsilon=1e-5, use_fast_variance=False),
                shape,
                use_running_average=False,
            ),
            "jaxdl": norm_arm(layers.BatchNorm(), shape, train=True),
        }
        theirs, ours = arms["Flax, two passes"](), arms["jaxdl"]()
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[2][1], theirs[2][1], rtol=1e-3, atol=1e-5)
        seconds = timed(arms, rounds=3 * arguments.rounds)
        yield from show(f"BatchNorm {shape}", seconds, "Flax", at_most={"jaxdl": 1.1})
    pools = {
        "max_pool": pool_arm(layers.max_pool),
        "Flax's": pool_arm(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))),
    }
    yield from show("pooling", timed(pools), "max_pool")


if __name__ == "__main__":
    sys.exit(run(rows, options_of(__doc__, rounds=7), __file__))
