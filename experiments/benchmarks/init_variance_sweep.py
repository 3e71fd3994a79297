"""Signal and gradient of 50 ReLU layers, 5 variances x 100 seeds: one compiled call, and PyTorch.

    jax      all variances and seeds in one call, compilation apart
    torch    a loop over variances and seeds: `torch.nn.Sequential`, a forward hook on every ReLU
             that keeps its output, and a tensor hook on it that keeps its gradient

Both share a seed's draws among the variances, and use every core: JAX shares the seeds out over
devices, one a core; PyTorch has its threads. Both measure mean, mean square and the share of finite
non-zero entries of every layer's activations and gradients. They are given the same weights for
two seeds first, and compared.

Run: python experiments/benchmarks/init_variance_sweep.py     (needs the extra `parity`)
"""

import argparse
import functools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, amount, measure, options_of, run, seconds_of, show

sys.path.insert(0, str(Path(__file__).parents[1] / "initialization"))

import init_variance as experiment

PACKAGE = "torch"
TARGET_RATIO, TARGET_SECONDS = 10.0, 10.0
STDDEVS = np.sqrt(experiment.VARIANCES)


@jax.jit
def measure_seeds(keys: Any, stddevs: Any) -> Any:
    """`init_variance.measure` for each key, with a leading axis of seeds.

    The seeds are shared out over the devices. A device takes one seed after another: the layers of
    one fit a core's cache.
    """
    devices = jax.devices()[: math.gcd(len(keys), jax.device_count())]
    seeds = jax.sharding.PartitionSpec("seeds")
    share_out = functools.partial(
        jax.shard_map,
        mesh=jax.sharding.Mesh(np.array(devices), ("seeds",)),
        in_specs=seeds,
        out_specs=seeds,
    )
    return share_out(
        lambda keys: jax.lax.map(
            lambda key: experiment.measure(experiment.draw(key), stddevs), keys
        )
    )(keys)


def torch_moments(weights: Any, output_weights: Any, inputs: Any) -> np.ndarray:
    """(2, layers, 3): the moments of activations and gradients, by hooks."""
    import torch

    network = torch.nn.Sequential()
    kept: list[Any] = []
    gradients: list[Any] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        kept.append(output.detach())
        output.register_hook(gradients.append)

    for layer in weights:
        linear = torch.nn.Linear(len(layer), len(layer), bias=False)
        linear.weight.data = layer.T
        relu = torch.nn.ReLU()
        relu.register_forward_hook(keep)
        network.extend([linear, relu])
    outputs = network(inputs) @ output_weights
    outputs.square().sum().backward()

    def moments(values: Any) -> list[float]:
        held = torch.isfinite(values) & (values != 0)
        return [values.mean(), values.square().mean(), held.float().mean()]

    return np.array(
        [[moments(a) for a in kept], [moments(g) for g in reversed(gradients)]], np.float64
    )


def torch_seed(draws: Any) -> np.ndarray:
    """All variances of one seed: (variances, 2, layers, 3)."""
    import torch

    weights, output_weights, inputs = (torch.tensor(np.asarray(part)) for part in draws)
    return np.stack(
        [torch_moments(float(s) * weights, float(s) * output_weights, inputs) for s in STDDEVS]
    )


def torch_all(seeds: int) -> None:
    """What the experiment measures, in PyTorch from its own random numbers."""
    import torch

    for seed in range(seeds):
        torch.manual_seed(seed)
        shape = (experiment.DEPTH, experiment.WIDTH, experiment.WIDTH)
        weights = torch.randn(shape)
        output_weights = torch.randn(experiment.WIDTH)
        inputs = torch.randn(experiment.EXAMPLES, experiment.WIDTH)
        for stddev in STDDEVS:
            torch_moments(float(stddev) * weights, float(stddev) * output_weights, inputs)


def check_agreement() -> None:
    """Exit unless both arms measure the same on the same weights, where float32 holds it."""
    stddevs = jnp.asarray(STDDEVS, jnp.float32)
    for seed in range(2):
        draws = experiment.draw(jax.random.key(seed))
        ours = np.stack(
            [
                np.stack([part.mean, part.mean_square, part.held], axis=-1).swapaxes(0, 1)
                for part in jax.jit(experiment.measure)(draws, stddevs)
            ],
            axis=1,
        )
        theirs = torch_seed(draws)
        # Squares below 1e-30 are being lost to float32's least number, those above 1e30 overflow.
        shown = (theirs[..., 1] > 1e-30) & (theirs[..., 1] < 1e30) & (theirs[..., 2] > 0.2)
        worst = np.abs(ours[..., 1][shown] / theirs[..., 1][shown] - 1).max()
        print(f"seed {seed}: {shown.sum()} mean squares agree to {worst:.1e}")
        # 50 layers whose sums of 100 terms are rounded in another order.
        if not (worst < 1e-3 and shown.sum() > 250):
            raise SystemExit("the arms do not measure the same")


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Agreement, the first call, then the timings in turns."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    check_agreement()
    keys = jax.random.split(jax.random.key(0), arguments.seeds)
    stddevs = jnp.asarray(STDDEVS, jnp.float32)
    few = min(arguments.torch_seeds, 2 if arguments.quick else arguments.seeds)
    arms = {"jax": lambda: measure_seeds(keys, stddevs), "torch": lambda: torch_all(few)}
    first = seconds_of(arms["jax"])
    torch_all(2)
    seconds = measure(arms, arguments.rounds, warm=False)
    seconds["torch"] = seconds["torch"] * arguments.seeds / few
    compiling = first - np.median(seconds["jax"])
    title, note = f"{arguments.seeds} seeds", f"torch: {few} seeds, scaled to all"
    yield from show(title, seconds, "jax", at_least={"torch": TARGET_RATIO}, note=note)
    yield amount(
        f"{title}, first call", "jax", first, "s", at_most=TARGET_SECONDS,
        note=f"of which compilation {compiling:.2f} s; PyTorch takes "
        f"{np.median(seconds['torch']) / first:.1f} times as long",
    )  # fmt: skip


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=5)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--torch-seeds", type=int, default=20, help="timed, and scaled to all")
    sys.exit(run(rows, parser, __file__))
