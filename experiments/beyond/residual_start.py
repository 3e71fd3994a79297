"""How residual branches start decides how fast a deep network can be trained.

Residual networks, x_l = x_{l-1} + F_l(x_{l-1}), are drawn in seven ways: without a norm, as they
are or with each branch divided by sqrt(L); with a norm before each branch or after each sum; with
branches that start at zero by the scale of their last norm, by a number that is learned (SkipInit),
or by a last layer of zeros (Fixup). The stream's mean square is measured by block before training.
Then residual MLPs (4 to 64 blocks, SGD, 300 steps) and small transformers (4 and 16 blocks, Adam,
120 steps) train at rates a factor of two apart. A rate trains if the mean loss of the last 10 steps
is below three quarters of the loss of guessing.

Meaning: The left panel shows how the signal on the shortcuts grows from block to block before
training, with theory; the others, the largest learning rate at which each kind still trains, by the
number of blocks. A network without a norm doubles its signal in every block and cannot be trained
when it is deep, and what makes deep ones trainable is that each branch starts small beside its
shortcut, whether by a norm before it, by a scale of zero, or by Fixup's layers of zero.

Data: mnist_1d, 5,000 signals of 40 numbers in 10 classes (4,000 to train on), Greydanus and Kobak
(2024), made by the package mnist1d; the transformers learn to copy random tokens (synthetic).
Source: Zhang, Dauphin and Ma (2019), Fixup; De and Smith (2020), SkipInit; Goyal et al. (2017) for
the zero scale; Xiong et al. (2020) for norms after the sum.
Run: python experiments/beyond/residual_start.py
Expected: before training the stream doubles in every block without a norm, grows by its start in
every block with norms before the branches, ends at (1 + 1/L)^L with branches over the root of L,
and stays with the other kinds. MLPs of 64 blocks take at least half the rate of 4 with norms before
the branches and with branches that start at zero, a thirtieth with branches over the root of L;
without a norm, and with norms after the sums, no rate trains from 16 blocks on, of MLPs and of
transformers. With Fixup the rate of a transformer of 16 blocks is a fifth of that with norms
before, which six seeds do not tell from a quarter. With 120 steps of MLPs in place of 300 it could
not be seen which kinds train, for those that start at zero are slow at first. It cannot show what
longer training or a warm-up gives, which networks with norms after the sums are known to need, nor
the accuracy that each kind reaches.
Time: 4 minutes on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import activations, data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, main, slopes
from jaxdl.plotting import new_figure

NEEDS = "mnist_1d"
NORM = functools.partial(nn.LayerNorm, epsilon=1e-5)
WIDTH_OF_GROWTH = 256
BATCH_SIZE = {"mlp": 32, "transformer": 16}
RATES = {"mlp": 2.0 ** np.arange(-8, 3), "transformer": 2.0 ** np.arange(-10, -2)}
TRAINED = {
    "mlp": ("plain", "scaled", "before", "after", "zero_scale", "skip_init", "fixup"),
    "transformer": ("plain", "before", "after", "skip_init", "fixup"),
}
"""The kinds that are trained."""
LAST, SHARE = 10, 0.75
"""Steps at the end of a run, and the share of the loss of guessing, that say whether it trains."""
ROUNDING, NEAR_ONE = 1e-6, 1e-3
"""Zero branches add nothing; an epsilon of 1e-5 is in the norm, of a variance of 1/10 or more."""
CLASSES, COPIED = 8, 4
"""Tokens, and how many are to be copied."""


class Arm(NamedTuple):
    """A kind of residual network: its label and line, where its norms stand, how it starts."""

    label: str
    style: str
    norm: str | None = None
    start: str | None = None

    def settings(self) -> dict[str, Any]:
        """Of its model."""
        norm = None if self.norm is None else NORM
        return {"norm": norm, "norm_position": self.norm or "before", "residual_start": self.start}

    def law(self, blocks: int) -> diagnostics.ResidualStream:
        """What theory says of its stream."""
        return diagnostics.residual_stream(
            activations.relu,
            blocks=blocks,
            norm_position=self.norm,
            last_weight_variance=1 / blocks if self.start == "scaled" else 1.0,
            branch_scale=0.0 if self.start in ZERO else 1.0,
        )


ZERO = ("zero_scale", "skip_init", "fixup")
"""Starts at which each block is its shortcut."""
ARMS = {
    "plain": Arm("no norm", "C3-"),
    "scaled": Arm(r"branches over $\sqrt{L}$", "C1-", start="scaled"),
    "before": Arm("norm before", "C0-", "before"),
    "after": Arm("norm after", "C4--", "after"),
    "zero_scale": Arm("zero last scale", "C2-", "inside", "zero_scale"),
    "skip_init": Arm("SkipInit", "C5--", start="skip_init"),
    "fixup": Arm("Fixup", "k:", start="fixup"),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Networks of each kind; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""
    depths: tuple[int, ...] = (4, 16, 64)
    """Blocks of the residual MLPs, ascending; the growth is measured in the deepest."""
    transformer_depths: tuple[int, ...] = (4, 16)
    """Blocks of the transformers, ascending."""
    width: int = 32
    """Of the residual MLPs that are trained."""
    features: int = 16
    """Of the transformers."""
    steps: int = 120
    """Of training, of the transformers."""
    mlp_steps: int = 300
    """The same of the residual MLPs, whose data are harder to learn."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, depths=(4, 16), transformer_depths=(2, 4), features=8, steps=40),
    "full": Config(
        seeds=10, depths=(4, 16, 64, 256), width=256, features=64, steps=1000, mlp_steps=3000
    ),
}


def run(config: Config) -> xarray.Dataset:
    """The stream's second moment by block, with theory; the last loss by kind, depth and rate."""
    seeds = range(config.seed, config.seed + config.seeds)
    digits = data.load(NEEDS).train
    signals = np.asarray(digits.inputs, np.float32)
    digits = data.Arrays((signals - signals.mean()) / signals.std(), digits.targets)
    moments = growth(digits, config.depths[-1], seeds)

    def mlp(arm: Arm, depth: int) -> training.Task:
        model = models.ResidualMLP(config.width, depth, blocks="scan", **arm.settings())
        return training.Task(model, losses.cross_entropy)

    def transformer(arm: Arm, depth: int) -> training.Task:
        model = models.Transformer(
            CLASSES, features=config.features, hidden=2 * config.features, layers=depth, heads=2,
            length=2 * COPIED, blocks="scan", **arm.settings(),
        )  # fmt: skip
        return training.Task(model, functools.partial(losses.cross_entropy, ignored=-1))

    tokens = copies(config.steps * BATCH_SIZE["transformer"])
    return xarray.merge(
        [
            moments,
            last_losses("mlp", mlp, optimizers.sgd, digits, config.depths, config.mlp_steps, seeds),
            last_losses(
                "transformer", transformer, optimizers.adam, tokens, config.transformer_depths,
                config.steps, seeds,
            ),
        ]
    )  # fmt: skip


def growth(train: data.Arrays, blocks: int, seeds: range) -> xarray.Dataset:
    """By kind, seed and block: the mean square of the stream over that of x_0, and its theory."""
    inputs = train.inputs[:100]

    def member(key: Any, *, arm: Any) -> dict[str, Any]:
        model = models.ResidualMLP(WIDTH_OF_GROWTH, blocks, blocks="scan", **ARMS[arm].settings())
        variables = model.init(key, inputs, train=False)
        _, found = model.apply(
            variables, inputs, train=False, mutable="intermediates",
            capture_intermediates=lambda module, _: module.name in ("embed", "blocks"),
        )  # fmt: skip
        first, stream = (
            found["intermediates"][name]["__call__"][0] for name in ("embed", "blocks")
        )
        return {"moment": jnp.square(jnp.concatenate([first[None], stream])).mean((1, 2))}

    swept = training.sweep(member, {"arm": [*ARMS]}, seeds=seeds, dims={"moment": ("block",)})
    laws = [arm.law(blocks).second_moment for arm in ARMS.values()]
    return xarray.Dataset(
        {
            # float32 ends at 2^128.
            "moment": swept["moment"].astype(np.float64),
            "theory": (("arm", "block"), np.array(laws)),
        }
    ).assign_coords(block=np.arange(blocks + 1))


def last_losses(
    name: str,
    make_task: Callable[[Arm, int], training.Task],
    make_optimizer: Callable[[Any], optax.GradientTransformation],
    train: data.Arrays,
    depths: tuple[int, ...],
    steps: int,
    seeds: range,
) -> xarray.DataArray:
    """By kind, depth, rate and seed: the mean loss of the last steps of training, NaN if lost."""
    used = steps * BATCH_SIZE[name]
    epochs = -(-used // len(train))

    def member(key: Any, order: Any, *, arm: Any, depth: Any, rate: Any) -> dict[str, Any]:
        task = make_task(ARMS[arm], depth)
        optimizer = make_optimizer(rate)
        if arm == "fixup":  # a tenth of the rate for its numbers, as published
            shapes = jax.eval_shape(lambda: task.init(key, jnp.asarray(train.inputs[:1])))["params"]
            optimizer = optimizers.by_layer(
                {**dict.fromkeys(numbers(shapes), make_optimizer(rate / 10)), "*": optimizer}
            )
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE[name])
        _, measured = learn.epoch(learn.init(key, train), train, order)
        return {name: measured["loss"][-LAST:].mean()}

    swept = training.sweep(
        member,
        {"arm": TRAINED[name], "depth": depths, "rate": RATES[name]},
        seeds=seeds,
        static=("depth",),
        by_seed={"order": lambda key: training.orders(key, epochs, len(train)).ravel()[:used]},
    )
    return swept[name].rename({axis: f"{name}_{axis}" for axis in ("arm", "depth", "rate")})


def numbers(params: Any) -> list[str]:
    """The names of the parameters that are single numbers, or one number for each scanned block."""
    found = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    kinds = ("branch_scale", "input_bias", "activation_bias")
    return [f"*{kind}*" for kind in kinds if any(name.startswith(kind) for name in found)]


def copies(count: int) -> data.Arrays:
    """Random tokens, then the same again; a target is the next token of the second half."""
    half = np.random.default_rng(0).integers(0, CLASSES, (count, COPIED))
    whole = np.concatenate([half, half], 1).astype(np.int32)
    targets = np.where(np.arange(2 * COPIED) < COPIED, -1, whole)[:, 1:]
    return data.Arrays(whole[:, :-1], targets)


def largest_rates(results: xarray.Dataset, name: str) -> xarray.DataArray:
    """By seed, kind and depth: the largest rate that trains; half of the smallest if none does."""
    guessing = np.log({"mlp": 10, "transformer": CLASSES}[name])
    rate = results[f"{name}_rate"]
    trains = results[name] < SHARE * guessing  # not where the loss is NaN
    found: xarray.DataArray = rate.where(trains, float(rate.min()) / 2).max(f"{name}_rate")
    axes = {f"{name}_{axis}": axis for axis in ("arm", "depth")}
    return found.rename(axes).transpose("seed", "arm", "depth")


def claims(results: xarray.Dataset) -> list[Claim]:
    """The stream's growth against theory; the largest rates by depth and by kind."""
    mean = f"mean of {results.sizes['seed']} seeds"
    moment, blocks = results["moment"].transpose("seed", "arm", "block"), results["block"].values
    growth = moment / moment.isel(block=0)
    scaled = (growth / results["theory"]).sel(arm="scaled").isel(block=-1)
    mlp, transformer = (largest_rates(results, name) for name in RATES)
    shallow, deep = (int(mlp["depth"][place]) for place in (0, -1))
    fall = mlp.isel(depth=-1) / mlp.isel(depth=0)
    over = f"largest rate of MLPs of {deep} blocks over that of {shallow}, geometric {mean}"
    deepest = transformer.isel(depth=-1)
    of = f"largest rates of transformers of {int(deepest['depth'])} blocks, geometric {mean}"
    made = [
        about_mean(
            "Without a norm the stream doubles in every block: powers of two a block (1 by "
            f"theory), {mean}",
            slopes(blocks, np.log2(growth.sel(arm="plain"))), 0.9, 1.1,
        ),
        about_mean(
            "With norms before the branches it grows by as much in every block: growth in "
            f"{blocks[-1]} blocks over their number (1 by theory), {mean}",
            (growth.sel(arm="before").isel(block=-1) - 1) / blocks[-1], 0.9, 1.1,
        ),
        about_ratios(
            "Branches over the root of their number bring it near e: growth over "
            f"(1 + 1/L)^L, geometric {mean}",
            scaled, 0.9, 1.1,
        ),
        Claim(
            "Branches that start at zero leave the stream as it is: farthest of its growth from 1 "
            "(arithmetic)",
            float(np.abs(growth.sel(arm=[*ZERO]) - 1).max()), 0.0, ROUNDING,
        ),
        Claim(
            "Norms after the sums hold the stream at 1: farthest of its mean square from 1 "
            "(arithmetic)",
            float(np.abs(moment.sel(arm="after").isel(block=slice(1, None)) - 1).max()),
            0.0, NEAR_ONE,
        ),
    ]  # fmt: skip
    for arm, text, band in (
        ("plain", "Without a norm depth takes the rates away", (0.0, 1 / 4)),
        ("after", "With norms after the sums depth takes the rates away, too", (0.0, 1 / 4)),
        ("fixup", "Fixup takes nearly the same rate at every depth", (1 / 4, np.inf)),
        ("before", "Norms before the branches do so, too", (1 / 4, np.inf)),
    ):
        made.append(about_ratios(f"{text}: {over}", fall.sel(arm=arm), *band))
    for arm, other, text, least in (
        ("before", "plain", "Transformers take larger rates with norms before than without", 4.0),
        ("before", "after", "They take larger rates with norms before than after", 4.0),
        ("skip_init", "before", "SkipInit needs no norm for that", 1 / 4),
        ("fixup", "before", "Fixup needs none either", 1 / 4),
    ):
        labels = f"{ARMS[arm].label} over {ARMS[other].label}"
        ratio = deepest.sel(arm=arm) / deepest.sel(arm=other)
        made.append(about_ratios(f"{text}: {labels}, {of}", ratio, least))
    return made


def plot(results: xarray.Dataset) -> Any:
    """The stream by block with theory, and the largest rates by depth."""
    figure = new_figure(13, 4.8)
    left, *right = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    growth = results["moment"] / results["moment"].isel(block=0)
    blocks = results["block"].values
    for name, arm in ARMS.items():
        # A norm after the sum brings the stream to 1 whatever it was.
        stream = results["moment"] if name == "after" else growth
        left.plot(blocks, stream.sel(arm=name).mean("seed"), arm.style, lw=1.8, label=arm.label)
        left.plot(blocks[::4], results["theory"].sel(arm=name)[::4], "ko", ms=3, mfc="none")
    left.set(yscale="log", xlabel="block", ylabel="mean square of the stream / that of $x_0$")
    left.set_title("Growth before training (circles: theory)")
    for axes, (name, rates) in zip(right, RATES.items(), strict=True):
        found = largest_rates(results, name)
        for place, each in enumerate(TRAINED[name]):
            values, arm = found.sel(arm=each), ARMS[each]
            # Kinds that agree would hide each other.
            at = values["depth"].values * 1.03 ** (place - len(ARMS) // 2)
            middle = 2 ** xarray.apply_ufunc(np.log2, values).mean("seed")
            axes.plot(at, middle, arm.style, marker="o", ms=4, lw=1.5)
        axes.axhspan(rates[0] / 2 / 1.3, rates[0] / 1.4, color="0.85", lw=0)
        axes.text(values["depth"][0], rates[0] / 2, "no rate trains", va="center", fontsize=9)
        axes.set(xscale="log", yscale="log", xlabel="blocks", ylabel="largest rate that trains")
        axes.set_xticks(values["depth"].values, values["depth"].values)
        axes.minorticks_off()
    right[0].set_title("Residual MLPs, SGD")
    right[1].set_title("Transformers, Adam")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
