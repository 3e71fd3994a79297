"""What a train step of convolutions and batch norms costs: ours, PyTorch's, and what was tried.

The small ConvNet (32, 64 channels, 128-10) and ResNet-20 on 128 images of 32 x 32, momentum, with
BatchNorm; PyTorch in channels_last with the same weights, whose losses must agree first. BatchNorm
alone, forward and backward, beside Flax's. Evaluation with the norms folded. With `--tried`, the
forms of one convolution with both gradients that were compared. Arms are interleaved.

On a CPU the gradient for the kernels takes most of the difference: XLA makes it by a convolution of
transposed copies. Tried, besides what `--tried` shows: products of shifted copies in row order
(slower than XLA's convolution), the batch in parts (a little faster alone), padded input channels
(slower), XLA's oneDNN options (not applied to convolutions), `optimization_barrier` (without effect
on this backend). What is used: Eigen's products with YNNPACK's reductions, the order of execution
that needs least memory, copies that compute nothing again, BatchNorm's derivative in closed form,
and a max-pooling of comparisons. Folding the norms into the convolutions saves nothing in
evaluation: the norm is computed together with the activation.

Run: python experiments/benchmarks/convolutional_step.py [--tried]   (needs the extra `parity`)
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
import torch
from comparison import Row, measure, options_of, run, show
from jax import lax
from torch.nn import functional

from jaxdl import layers, losses, models, optimizers, training

PACKAGE = "torch"
BATCH, RATE, DECAY = 128, 0.01, 0.9
SETTLE = 0.2
"""Seconds before a timed call, in which the threads of the arm before come to rest."""
CONVNET = models.ConvNet([32, 64], [128, 10], norm=layers.BatchNorm)
RESNET = models.ResNet(20, norm=layers.BatchNorm)
CHANNELS_LAST = torch.channels_last
jit = functools.partial(jax.jit, compiler_options=training.compiler_options(convolutional=True))
dense_jit = functools.partial(jax.jit, compiler_options=training.compiler_options())


def images(seed: int = 0) -> dict[str, Any]:
    """Noise: what a step costs does not depend on what is in the images."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    return {"inputs": inputs, "targets": draw.integers(0, 10, BATCH).astype(np.int32)}


def torch_convnet() -> torch.nn.Module:
    """The ConvNet; its layers in the order of ours."""
    nn_ = torch.nn
    return nn_.Sequential(
        nn_.Conv2d(3, 32, 3, padding=1, bias=False), nn_.BatchNorm2d(32), nn_.ReLU(),
        nn_.MaxPool2d(2),
        nn_.Conv2d(32, 64, 3, padding=1, bias=False), nn_.BatchNorm2d(64), nn_.ReLU(),
        nn_.MaxPool2d(2), Flatten(),
        nn_.Linear(4096, 128, bias=False), nn_.BatchNorm1d(128), nn_.ReLU(), nn_.Linear(128, 10),
    )  # fmt: skip


class Flatten(torch.nn.Module):
    """Height, width, channels, as ours: in channels_last the permutation is free."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, features)."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Block(torch.nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new = stride, channels - before
        self.path = torch.nn.Sequential(
            torch.nn.Conv2d(before, channels, 3, stride, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
            torch.nn.ReLU(),
            torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation of the sum."""
        y = self.path(x)
        if self.new:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return functional.relu(x + y)


class Mean(torch.nn.Module):
    """The mean over positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels)."""
        return x.mean((2, 3))


def torch_resnet() -> torch.nn.Module:
    """ResNet-20; its layers in the order of ours."""
    blocks, before = [], 16
    for channels in (16, 32, 64):
        for _ in range(3):
            blocks.append(Block(before, channels, 2 if channels > before else 1))
            before = channels
    first = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return torch.nn.Sequential(
        first, torch.nn.BatchNorm2d(16), torch.nn.ReLU(), *blocks, Mean(), torch.nn.Linear(64, 10)
    )


def in_order(params: Any) -> list[np.ndarray]:
    """Kernels and the outputs' bias as PyTorch has them, in the order of execution."""
    order = {"conv": 0, "stage": 1, "head": 2, "dense": 3}
    found = []
    for name in sorted(params, key=lambda name: (order.get(name.split("_")[0], 9), name)):
        if name == "kernel":
            value = np.asarray(params[name])
            found.append(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
        elif hasattr(params[name], "items") and not name.startswith("norm"):
            found += in_order(params[name])
    return found


def torch_step(net: Any, params: Any, batch: dict[str, Any]) -> Callable[[], float]:
    """The step of PyTorch, from the same kernels; biases and norms start at 0 and 1 in both."""
    kernels = iter(in_order(params))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.weight.copy_(torch.tensor(next(kernels)))
                if module.bias is not None:
                    module.bias.zero_()
    net = net.to(memory_format=CHANNELS_LAST)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=DECAY, foreach=True)
    inputs = torch.tensor(batch["inputs"]).permute(0, 3, 1, 2).contiguous(
        memory_format=CHANNELS_LAST
    )  # fmt: skip
    targets = torch.tensor(batch["targets"]).long()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(
    model: nn.Module, batch: dict[str, Any], compile_with: Any = jit
) -> tuple[Callable[[], float], Any]:
    """The step that `fit` compiles, and the parameters it starts from."""
    optimizer = optimizers.momentum(RATE, decay=DECAY)
    state = training.init_state(jax.random.key(0), model, optimizer, batch["inputs"])
    params = jax.device_get(state.params)
    step = compile_with(
        training.make_train_step(model, optimizer, losses.cross_entropy), donate_argnums=0
    )
    on_device = jax.device_put(batch)
    held = [state]

    def call() -> float:
        held[0], metrics = step(held[0], on_device)
        jax.block_until_ready(held[0])
        return float(metrics["loss"])

    return call, params


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


def evaluation_arm(model: nn.Module, variables: Any, batch: dict[str, Any]) -> Callable[[], Any]:
    """The outputs in evaluation."""
    apply, inputs = jit(functools.partial(model.apply, train=False)), jnp.asarray(batch["inputs"])
    return lambda: jax.block_until_ready(apply(variables, inputs))


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


def pool_arm(pool: Callable[[Any], Any]) -> Callable[[], Any]:
    """2 x 2 max-pooling of 32 channels, and its gradient."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 32, 32, 32)), jnp.float32)
    both = jit(lambda x: jax.value_and_grad(lambda x: jnp.sum(jnp.square(pool(x))))(x))
    return lambda: jax.block_until_ready(both(x))


def agree(ours: Callable[[], float], theirs: Callable[[], float], steps: int = 3) -> None:
    """Refuse to time two computations that are not the same one."""
    pairs = np.array([(ours(), theirs()) for _ in range(steps)])
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], rtol=1e-3)
    print(f"losses of {steps} steps agree: {pairs[:, 0].round(5)} {pairs[:, 1].round(5)}")


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Train steps and evaluation beside PyTorch, BatchNorm beside Flax's, and what was tried."""
    print(
        f"PyTorch {torch.__version__} on {torch.get_num_threads()} threads, jax {jax.__version__}"
    )
    timed = functools.partial(measure, rounds=arguments.rounds, settle=SETTLE)
    batch = images()
    for name, model, make in (
        ("ConvNet", CONVNET, torch_convnet),
        ("ResNet-20", RESNET, torch_resnet),
    ):
        ours, params = our_step(model, batch)
        theirs = torch_step(make(), params, batch)
        agree(ours, theirs)
        arms: dict[str, Callable[[], Any]] = {"PyTorch": theirs, "jaxdl": ours}
        if arguments.tried:
            arms["jaxdl, XLA's own options"] = our_step(model, batch, jax.jit)[0]
        yield from show(f"{name}, train step", timed(arms), "PyTorch", at_most={"jaxdl": 1.15})
        state = training.init_state(
            jax.random.key(0), model, optimizers.momentum(RATE), batch["inputs"]
        )
        arms = {
            "as trained": evaluation_arm(model, state.variables, batch),
            "folded": evaluation_arm(*training.fold(model, state.variables), batch),
        }
        np.testing.assert_allclose(arms["folded"](), arms["as trained"](), rtol=1e-3, atol=1e-4)
        yield from show(f"{name}, evaluation", timed(arms), "as trained")
    for shape in ((BATCH, 32, 32, 32), (BATCH, 32, 32, 16), (BATCH, 8, 8, 64), (BATCH, 128)):
        arms = {
            "Flax": norm_arm(nn.BatchNorm(epsilon=1e-5), shape, use_running_average=False),
            "Flax, two passes": norm_arm(
                nn.BatchNorm(epsilon=1e-5, use_fast_variance=False),
                shape,
                use_running_average=False,
            ),
            "jaxdl": norm_arm(layers.BatchNorm(), shape, train=True),
        }
        theirs_, ours_ = arms["Flax, two passes"](), arms["jaxdl"]()
        np.testing.assert_allclose(ours_[0], theirs_[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours_[2][1], theirs_[2][1], rtol=1e-3, atol=1e-5)
        seconds = timed(arms, rounds=3 * arguments.rounds)
        yield from show(f"BatchNorm {shape}", seconds, "Flax", at_most={"jaxdl": 1.1})
    if arguments.tried:
        forms = (convolution, channels_first, im2col, nine_products)
        for shape in ((BATCH, 32, 32, 16), (BATCH, 16, 16, 32)):
            arms = {
                f"{form.__name__}, {how}": form_arm(form, shape, compile_with)
                for form in forms
                for how, compile_with in (("fit's options", jit), ("XLA's own", jax.jit))
            }
            yield from show(f"3 x 3 on {shape}", timed(arms), "convolution, fit's options")
        pools = {
            "max_pool": pool_arm(layers.max_pool),
            "Flax's": pool_arm(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))),
        }
        yield from show("pooling", timed(pools), "max_pool")


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=11)
    parser.add_argument("--tried", action="store_true", help="also the forms that were compared")
    sys.exit(run(rows, parser, __file__))
