"""How small a batch each normalisation bears: batch, group, layer and instance norm.

4,000 images of CIFAR-10 at 16 x 16; three convolutions of 2 x 2 at stride 2 with a norm and a ReLU
each, the mean over positions, 10 outputs. Momentum 0.9, rate 0.1 N / 32 at batch N, falling along
half a cosine; 10 epochs at every N, the same starts and orders for all. BatchNorm is evaluated
with its running averages, then with the statistics of the training set; and it is trained once
more in steps of 128 with statistics over N of them (ghost batches), which tells the batch of the
statistics from that of the gradient.

Source: Wu and He (2018), figure 1 and table 2: ResNet-50 on ImageNet, 8 devices that normalise
over N images each and step over 8 N together. Ghost batches: Hoffer, Hubara and Soudry (2017).
Run: python experiments/normalization/normalization_batch_size.py
Expected: BatchNorm's error is 65.0, 60.4, 59.1, 58.6, 58.9 % at batch 2 to 32; GroupNorm's 58.4 to
59.0 %. In the paper BatchNorm loses 3.7 points at 4 and 1.2 at 8, and leads by 0.5 at 32; here six
seeds show little or none of it (1.4 +- 0.8, 0.1 +- 1.0, 0.1 +- 0.6). Of the 6.0 points at 2, 1.1
are the running averages'; steps of 128 with statistics over 2 lose as much: it is the statistics in
training, not the gradient. At 64 and 128, where steps are few, GroupNorm and LayerNorm lose up to
1.5 points, BatchNorm none. InstanceNorm, at 82 %, hardly learns at any N: it takes each image's
mean out of each channel, which is what this network's last layer reads.
Time: 3.5 min on 2 CPU cores.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdl import data, initializers, layers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, interval, main
from jaxdl.compiling import init_options
from jaxdl.layers.norm import apply_norm
from jaxdl.plotting import new_figure

NORMS: dict[str, Any] = {
    "batch": layers.BatchNorm,
    "group": functools.partial(nn.GroupNorm, num_groups=4, epsilon=1e-5),
    # Over all of an image, with a scale of each channel's own, as in the paper.
    "layer": functools.partial(
        nn.LayerNorm, epsilon=1e-5, reduction_axes=(1, 2, 3), feature_axes=-1
    ),
    "instance": functools.partial(nn.InstanceNorm, epsilon=1e-5),
}
NEEDS = "cifar10"
SMALL, USUAL = 2, 32
"""Batch sizes that the claims compare; the paper's least and largest."""
GHOST_STEP = 128
RATE, MOMENTUM = 0.1, 0.9
"""The rate is that of batch 32, and proportional to the batch."""
MARGIN = 0.25
"""A norm whose error rises by less than this share of BatchNorm's is said not to rise. The
paper's GroupNorm moves by 0.2 points where BatchNorm rises by 11.1; six seeds resolve a quarter."""
PAPER_SIZES = np.array([2, 4, 8, 16, 32])
PAPER = {
    "batch": np.array([34.7, 27.3, 24.8, 23.7, 23.6]),
    "group": np.array([24.1, 24.2, 24.0, 24.2, 24.1]),
}
"""Table 2: validation error in percent by batch per device."""
STYLES = {
    "batch": ("BatchNorm", "k", "-", "o"),
    "group": ("GroupNorm", "C0", "--", "s"),
    "layer": ("LayerNorm", "C1", "-.", "^"),
    "instance": ("InstanceNorm", "", "", ""),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each norm and batch size; at least 3."""
    seed: int = 0
    """First seed; the others follow. A seed gives the first weights and the order."""
    examples: int = 4_000
    """Training images, the first of the training split."""
    epochs: int = 10
    """Passes over them, at every batch size."""
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    """Increasing; 2 and 32 among them."""
    norms: tuple[str, ...] = ("batch", "group", "layer", "instance")
    """Of "batch", "group", "layer", "instance"; the first two among them."""
    ghost_sizes: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Examples that statistics are taken over in steps of 128; divisors of it."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Of the convolutions, each of which halves the image."""
    pooling: int = 2
    """Pixels of the 32 x 32 images that are averaged, in height and in width."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=4,
        examples=1_000,
        epochs=8,
        batch_sizes=(2, 32),
        norms=("batch", "group"),
        ghost_sizes=(),
    ),
    "full": Config(seeds=10, examples=50_000, epochs=60, channels=(64, 128, 256, 512), pooling=1),
}


class PatchNet(nn.Module):
    """Convolutions of 2 x 2 at stride 2, a norm and a ReLU each; the mean; 10 logits.

    The windows do not overlap, so that a convolution is a dense layer on patches: matrix products,
    which a loop on a CPU compiles well, where a convolution in it is 25 times slower.

    Attributes:
        channels: of each convolution.
        norm: a factory of norm modules.
    """

    channels: tuple[int, ...]
    norm: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width features"], *, train: bool
    ) -> Float[Array, "batch classes"]:
        """The logits."""
        for layer, channels in enumerate(self.channels):
            batch, height, width, features = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, features).swapaxes(2, 3)
            x = x.reshape(batch, height // 2, width // 2, 4 * features)
            norm = self.norm(name=f"norm_{layer}")
            x = nn.Dense(
                channels,
                use_bias=models.block.needs_bias(norm, "before"),
                kernel_init=initializers.he_normal(),
                name=f"conv_{layer}",
            )(x)
            x = nn.relu(apply_norm(norm, x, train=train))
        return nn.Dense(10, name="dense")(x.mean((1, 2)))


def run(config: Config) -> Results:
    """Test errors in percent, by norm, batch size and seed; the last epoch's training losses."""
    train, test = load(config)
    keys = jax.vmap(jax.random.key)(config.seed + np.arange(config.seeds))
    orders = np.stack(
        [
            [training.epoch_order(key, epoch, config.examples) for epoch in range(config.epochs)]
            for key in keys
        ]
    )
    found: dict[str, list[Any]] = {"error": [], "loss": [], "recalibrated": [], "ghost_error": []}
    for name in config.norms:
        model = PatchNet(config.channels, NORMS[name])
        starts = make_starts(model)(keys, train["inputs"][:1])
        evaluate = make_evaluation(model)
        for size in config.batch_sizes:
            fit = make_training(model, config, size)
            variables, loss = fit(starts, keys, train, batches(orders, size))
            found["error"].append(evaluate(variables, test))
            found["loss"].append(loss)
            if name == "batch":
                exact = recalibrated(config, variables, train)
                found["recalibrated"].append(evaluate(exact, test))
            print(f"{name} norm, batch {size}: {found['error'][-1].mean():.1f} %", flush=True)
        if name == "batch":
            for size in config.ghost_sizes:
                norm = functools.partial(layers.BatchNorm, virtual_batch_size=size)
                fit = make_training(PatchNet(config.channels, norm), config, GHOST_STEP)
                variables, _ = fit(starts, keys, train, batches(orders, GHOST_STEP))
                found["ghost_error"].append(evaluate(variables, test))
    shape = (len(config.norms), len(config.batch_sizes), config.seeds)
    arrays = {name: np.array(values) for name, values in found.items()}
    return {
        "names": np.array(config.norms),
        "batch_sizes": np.array(config.batch_sizes),
        "ghost_sizes": np.array(config.ghost_sizes, int),
        "examples": np.array(config.examples),
        "epochs": np.array(config.epochs),
        "error": arrays["error"].reshape(shape),
        "loss": arrays["loss"].reshape(shape),
        "recalibrated": arrays["recalibrated"],
        "ghost_error": arrays["ghost_error"].reshape(-1, config.seeds),
    }


def load(config: Config) -> tuple[dict[str, Array], dict[str, Array]]:
    """The training images asked for and the test split, pooled and standardised by channel."""
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    assert dataset.test is not None
    if config.examples > len(dataset.train):
        raise ValueError(
            f"examples must be at most the {len(dataset.train)} training images, "
            f"got {config.examples}"
        )
    parts = [
        (pooled(part.inputs[:count], config.pooling), part.targets[:count])
        for part, count in ((dataset.train, config.examples), (dataset.test, None))
    ]
    normalize = data.normalize_images(*data.image_statistics(parts[0][0]))
    train, test = (
        {"inputs": normalize(jnp.asarray(images)), "targets": jnp.asarray(targets)}
        for images, targets in parts
    )
    return train, test


def pooled(images: np.ndarray, size: int) -> np.ndarray:
    """Means over squares of `size` pixels, in [0, 1]."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // size, size, width // size, size, channels)
    return np.asarray(squares.mean((2, 4), dtype=np.float32) / np.float32(255))


def batches(orders: np.ndarray, batch_size: int) -> np.ndarray:
    """(seeds, steps, batch) from (seeds, epochs, examples); an incomplete batch is left."""
    seeds, _, examples = orders.shape
    return orders[:, :, : examples // batch_size * batch_size].reshape(seeds, -1, batch_size)


def make_starts(model: PatchNet) -> Any:
    """(keys, sample) -> the initial variables, by seed."""
    start = jax.vmap(lambda key, x: model.init(key, x, train=False), (0, None))
    return jax.jit(start, compiler_options=init_options())


def make_training(model: PatchNet, config: Config, batch_size: int) -> Any:
    """(starts, keys, arrays, orders) -> variables and last losses: seeds in one vmapped scan."""
    steps_per_epoch = config.examples // batch_size
    rate = optimizers.schedules.cosine_decay(
        RATE * batch_size / USUAL, steps=config.epochs * steps_per_epoch
    )
    optimizer = optimizers.momentum(rate, decay=MOMENTUM)
    train_epoch = training.make_train_epoch(
        training.make_train_step(model, optimizer, losses.cross_entropy)
    )

    def fit(start: Any, key: Any, arrays: Any, order: Any) -> Any:
        params = start["params"]
        state = training.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=start.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            key=key,
        )
        state, measured = train_epoch(state, arrays, order)
        return state.variables, measured["loss"][-steps_per_epoch:].mean()

    return jax.jit(jax.vmap(fit, (0, 0, None, 0)))


def make_evaluation(model: PatchNet) -> Any:
    """(variables, arrays) -> errors in percent, by seed."""
    eval_step = training.make_eval_step(model, losses.cross_entropy, [metrics.accuracy])

    @jax.jit
    def evaluate(variables: Any, arrays: Any) -> Any:
        # One seed at a time: its activations on the whole split are array enough.
        sums = jax.lax.map(lambda each: eval_step(each, arrays), variables)
        return 100 * (1 - sums["accuracy"] / len(arrays["targets"]))

    return evaluate


@functools.partial(jax.jit, static_argnums=0)
def recalibrated(config: Config, variables: Any, arrays: Any) -> Any:
    """The variables with the statistics of all `arrays` instead of the running averages.

    `training.recalibrate` for all seeds in one call: with momentum 0 the running statistics
    after a pass of everything are those of everything.
    """
    model = PatchNet(config.channels, functools.partial(layers.BatchNorm, momentum=0.0))

    def of_one(each: Any) -> Any:
        _, updates = model.apply(each, arrays["inputs"], train=True, mutable=["batch_stats"])
        return {**each, **updates}

    return jax.lax.map(of_one, variables)


def at(results: Results, name: str, batch_size: int, quantity: str = "error") -> np.ndarray:
    """By seed, the test error of a norm at a batch size, or its last training loss."""
    row = results["names"].tolist().index(name)
    return np.asarray(results[quantity][row, results["batch_sizes"].tolist().index(batch_size)])


def rise(results: Results, name: str, quantity: str = "error") -> np.ndarray:
    """By seed, what batches of 2 cost against batches of 32."""
    return np.asarray(at(results, name, SMALL, quantity) - at(results, name, USUAL, quantity))


def paper(name: str, batch_size: int) -> float:
    """The error of ResNet-50 in percent."""
    return float(PAPER[name][PAPER_SIZES.tolist().index(batch_size)])


def shown(values: np.ndarray) -> str:
    """Mean and 95 % interval, in words."""
    mean, half_width = interval(values)
    return f"{mean:.2f} +- {half_width:.2f}"


def claims(results: Results) -> list[Claim]:
    """BatchNorm alone needs the batch; and what it needs it for."""
    cost, mean_of = f"batch {SMALL} costs against {USUAL}", f"mean of {results['error'].shape[-1]}"
    of_batch = rise(results, "batch")
    papers = {name: f"{paper(name, SMALL) - paper(name, USUAL):.1f}" for name in PAPER}
    made = [
        about_mean(
            f"BatchNorm bears no small batch: points of test error that {cost} (ResNet-50: "
            f"{papers['batch']}), {mean_of} seeds",
            of_batch,
            0.0,
        )
    ]
    for name in [name for name in results["names"].tolist() if name != "batch"]:
        own = rise(results, name)
        beside = f" (ResNet-50: {papers[name]})" if name in papers else ""
        made.append(
            about_mean(
                f"{STYLES[name][0]} bears a small batch: points that {cost}, {shown(own)}{beside}, "
                f"less {MARGIN} of BatchNorm's, {mean_of} seeds",
                own - MARGIN * of_batch,
                high=0.0,
            )
        )
    leads = {n: at(results, "batch", n) - at(results, "group", n) for n in (SMALL, USUAL)}
    papers = {f"{n}": f"{paper('batch', n) - paper('group', n):.1f}" for n in leads}
    exact = dict(zip(results["batch_sizes"].tolist(), results["recalibrated"], strict=True))
    won_back = at(results, "batch", SMALL) - exact[SMALL]
    made += [
        about_mean(
            f"At a small batch GroupNorm is ahead of BatchNorm: points of test error at batch "
            f"{SMALL} (ResNet-50: {papers[str(SMALL)]}; at {USUAL} {shown(leads[USUAL])}, "
            f"ResNet-50: {papers[str(USUAL)]}), {mean_of} seeds",
            leads[SMALL],
            0.0,
        ),
        about_mean(
            f"A small batch disturbs BatchNorm in training already: nats of training loss, in the "
            f"last epoch, that {cost} (GroupNorm: {shown(rise(results, 'group', 'loss'))}), "
            f"{mean_of} seeds",
            rise(results, "batch", "loss"),
            0.0,
        ),
        about_mean(
            f"Better statistics in evaluation do not make up for it: with those of the training "
            f"set, which win back {shown(won_back)} points at batch {SMALL}, points that {cost}, "
            f"{mean_of} seeds",
            exact[SMALL] - exact[USUAL],
            0.0,
        ),
    ]
    ghosts = dict(zip(results["ghost_sizes"].tolist(), results["ghost_error"], strict=True))
    if SMALL in ghosts and GHOST_STEP in results["batch_sizes"]:
        made.append(
            about_mean(
                f"It is the statistics' batch that counts, not the gradient's: all in steps of "
                f"{GHOST_STEP}, points that statistics over {SMALL} cost against {GHOST_STEP}, "
                f"{mean_of} seeds",
                ghosts[SMALL] - at(results, "batch", GHOST_STEP),
                0.0,
            )
        )
    return made


def plot(results: Results) -> Any:
    """Ours, the paper's, and what BatchNorm needs the batch for."""
    figure = new_figure(12, 5)
    ours, published, parts = figure.subplots(1, 3, width_ratios=[1.15, 0.8, 1.05])
    sizes, seeds = results["batch_sizes"], results["error"].shape[-1]

    def draw(axes: Any, x: np.ndarray, values: np.ndarray, style: Any) -> None:
        label, colour, line, marker = style
        mean, half_width = interval(values, axis=1)
        axes.errorbar(
            x, mean, half_width, color=colour, ls=line, marker=marker, ms=6, capsize=3, label=label
        )

    for row, name in enumerate(results["names"].tolist()):
        if name == "instance":
            error = results["error"][row].mean(1)
            ours.plot(
                [], [], label=f"InstanceNorm: {error.min():.0f} to {error.max():.0f} %, off scale",
                color="none",
            )  # fmt: skip
        else:
            draw(ours, sizes * (0.97 + 0.03 * row), results["error"][row], STYLES[name])
    for name, values in PAPER.items():
        label, colour, line, marker = STYLES[name]
        published.plot(PAPER_SIZES, values, color=colour, ls=line, marker=marker, ms=6, label=label)
    row = results["names"].tolist().index("batch")
    draw(
        parts,
        sizes,
        results["error"][row],
        ("steps of N; evaluated with running averages", "k", "-", "o"),
    )
    draw(
        parts, sizes * 1.04, results["recalibrated"],
        ("steps of N; evaluated with statistics\nof the training set", "C3", ":", "v"),
    )  # fmt: skip
    if len(results["ghost_sizes"]):
        draw(
            parts, results["ghost_sizes"] * 0.96, results["ghost_error"],
            (f"steps of {GHOST_STEP}, statistics over N\n(ghost batches)", "C4", "--", "P"),
        )  # fmt: skip
    for axes, title, whose in (
        (ours, f"{results['examples']:,} CIFAR-10 images, {results['epochs']} epochs", ""),
        (published, "ResNet-50, ImageNet (Wu and He)", ", per device of 8"),
        (parts, "BatchNorm: whose batch matters?", ""),
    ):
        ticks = PAPER_SIZES if axes is published else sizes
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.set(xlabel=f"batch size N (images){whose}", title=title)
        axes.grid(lw=0.3)
        axes.legend(fontsize=8, loc="upper right")
    ours.set_ylabel(f"test error (%), mean and 95 % interval of {seeds} seeds")
    published.set_ylabel("validation error (%)")
    parts.set_ylabel("test error (%)")
    parts.margins(y=0.12)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
