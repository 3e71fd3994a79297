"""Does BatchNorm help by holding a layer's inputs still, or by making the loss smoother?

VGG-11, narrowed, on CIFAR-10 by plain SGD: no norm, BatchNorm, and noisy BatchNorm, whose outputs
are shifted and scaled at random in every step. At two rates: how fast each trains. At the smaller:
how far the inputs of one ReLU move in a step and, at chosen steps, along the batch's gradient g
for 0.5 to 4 rates, the noise held: the range of the loss, the greatest change of the gradient, and
the effective beta-smoothness, max ||g(x) - g(x - eta g)|| / (eta ||g||).

Source: Santurkar, Tsipras, Ilyas and Madry (2018), figures 1, 2 and 4; the rates are theirs. Tried
with one seed, the network without a norm trains at 0.03 and 0.1 and stays at chance at 0.5.
Run: python experiments/normalization/batchnorm_smoothing.py
Expected: at rate 0.5 no norm stays at chance, or just leaves it, while BatchNorm and noisy
BatchNorm train (44 and 36 % right after 300 steps), though the noise moves inputs 300 times farther
than BatchNorm does, and 1.6 times farther than they move without a norm. That noisy BatchNorm
trains nearly as well as BatchNorm, 300 steps do not show: of what BatchNorm takes off the loss it
takes 0.78, at rate 0.1 0.56. In the second half of the run the three measures are 1.5 to 2.3 times
smaller with BatchNorm, and no larger with the noise. At the first step they are not: beta is 21
without a norm and 25 with BatchNorm. The ratios of range and change vary twofold between seeds;
with 4 of them a third of the runs would leave one undecided, hence 8.
Time: 5 to 6 min on 2 CPU cores; the paper's width and length, `--preset full`, are for a GPU.
"""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import data, layers, losses, metrics, models, training
from jaxdl.claims import Claim, Results, about_mean, about_ratios, interval, main, mean_of_last
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

NEEDS = "cifar10"
LABELS = {"plain": "no norm", "norm": "BatchNorm", "noisy": "noisy BatchNorm"}
WATCHED = 4
"""The layer whose ReLU's inputs are watched: the fifth of VGG-11's eight convolutions."""
CHANGE, SMOOTHNESS = "greatest change of the gradient", "effective beta-smoothness"
STYLES = {"plain": ("k", "-", "o"), "norm": ("C0", "--", "s"), "noisy": ("C1", ":", "^")}
LONG = 200
"""Steps from which a run is held to what the paper says of training."""
STEP_LENGTHS = np.array([0.5, 1.0, 2.0, 3.0, 4.0])
"""In rates: the paper's 0.05 to 0.4 where it trains at 0.1."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Runs of each kind, from different keys; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    steps: int = 300
    """Of each run."""
    rates: tuple[float, float] = (0.1, 0.5)
    """The small and the large one, of plain SGD; the paper's."""
    batch_size: int = 64
    """Of the training steps and of the probes; the paper's is 128."""
    channels: tuple[int, int, int, int, int] = (8, 16, 32, 32, 32)
    """Of VGG-11's five stages."""
    probes: int = 10
    """Points of every run at the small rate from which the loss is explored."""
    generator: str = "threefry2x32"
    """Of random numbers, as `jax.random.key` names it; "rbg" compiles in half the time."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=4, steps=30, probes=2, batch_size=32, channels=(8, 8, 16, 16, 16), generator="rbg"
    ),
    "full": Config(
        seeds=8, steps=15_000, batch_size=128, channels=(64, 128, 256, 512, 512), probes=50
    ),
}


NORMS: Mapping[str, Any] = {"plain": None, "norm": layers.BatchNorm, "noisy": layers.NoisyBatchNorm}


def centre(pixels: Any) -> Any:
    """From uint8 to [-1, 1]."""
    return 2 * training.scale_images(pixels) - 1


def recording_sgd() -> optax.GradientTransformation:
    """SGD that keeps in its state the rate, to be set there, and the last gradient, to be read."""

    def init(params: Any) -> dict[str, Any]:
        return {"rate": jnp.zeros(()), "gradient": jax.tree.map(jnp.zeros_like, params)}

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        changes = jax.tree.map(lambda g: -state["rate"] * g, gradient)
        return changes, {**state, "gradient": gradient}

    return optax.GradientTransformation(init, update)


def run(config: Config) -> Results:
    """By kind, rate, seed and step the losses; by kind, seed and probe what lies along the step."""
    if config.seeds < 3 or config.probes < 2 or config.steps < config.probes:
        raise ValueError(
            "seeds must be at least 3, probes at least 2 and steps at least probes, "
            f"got {config.seeds}, {config.probes} and {config.steps}"
        )
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    probe_steps = np.linspace(0, config.steps - 1, config.probes).round().astype(int)
    runs = []
    for kind, norm in NORMS.items():
        train = trainer(models.VGG(11, channels=config.channels, norm=norm), dataset, config)
        for rate, places in zip(config.rates, (probe_steps, []), strict=True):
            for seed in range(config.seed, config.seed + config.seeds):
                key = jax.random.key(seed, impl=config.generator)
                runs.append(train(key, rate, places))
                right = last_mean(runs[-1], "accuracy")
                print(f"{LABELS[kind]}, rate {rate:g}, seed {seed}: {right:.1f} % at the end")
    shape = len(NORMS), 2, config.seeds
    stacked = {
        name: np.stack([each[name] for each in runs]).reshape(*shape, *runs[0][name].shape)
        for name in ("loss", "accuracy")
    }
    probed = [each for each in runs if "shift" in each]
    return {
        **stacked,
        **{
            name: np.stack([each[name] for each in probed]).reshape(
                len(NORMS), config.seeds, *probed[0][name].shape
            )
            for name in ("along_loss", "along_change", "gradient_norm", "shift")
        },
        "rates": np.array(config.rates),
        "step_lengths": config.rates[0] * STEP_LENGTHS,
        "probe_steps": probe_steps,
    }


def trainer(model: models.VGG, dataset: data.Dataset, config: Config) -> Any:
    """(key, rate, steps at which to probe) -> what one run shows, by name."""
    arrays, optimizer = dataset.train, recording_sgd()
    # Compiled, it computes no outputs, only what they would be computed from.
    initial = jax.jit(
        lambda key: training.init_state(key, model, optimizer, jnp.zeros((1, 32, 32, 3))),
        compiler_options=init_options(),
    )
    # One program for all seeds, rates and probes: the rate is part of the state.
    step = jax.jit(
        training.make_train_step(
            model, optimizer, losses.cross_entropy, [metrics.accuracy], preprocess=centre
        ),
        compiler_options=training.compiler_options(convolutional=True),
    )

    def train(key: Any, rate: float, probe_steps: Any) -> dict[str, np.ndarray]:
        state = initial(key)
        state = replace(state, opt_state={**state.opt_state, "rate": jnp.float32(rate)})
        curves, probes = [], []
        for index, examples in enumerate(batches(key, config, len(arrays))):
            batch = {"inputs": arrays.inputs[examples], "targets": arrays.targets[examples]}
            after, measured = step(state, batch)
            if index in probe_steps:
                probes.append(probe(step, state, after, batch, config.rates[0] * STEP_LENGTHS))
                moments = [watched_moments(model, each, batch) for each in (state, after)]
                probes[-1]["shift"] = relative_shift(*moments)
            curves.append(measured)
            state = after
        return {
            "loss": np.array([each["loss"] for each in curves]),
            "accuracy": 100 * np.array([each["accuracy"] for each in curves]),
            **{name: np.array([each[name] for each in probes]) for name in (probes or [{}])[0]},
        }

    return train


def batches(key: Any, config: Config, examples: int) -> np.ndarray:
    """The examples of every step, (steps, batch); an epoch's incomplete batch is left out."""
    full = examples // config.batch_size * config.batch_size
    epochs = -(-config.steps * config.batch_size // full)
    orders = [training.epoch_order(key, epoch, examples)[:full] for epoch in range(epochs)]
    return np.concatenate(orders).reshape(-1, config.batch_size)[: config.steps]


def probe(step: Any, state: Any, after: Any, batch: Any, lengths: Any) -> dict[str, Any]:
    """The loss, and how far the gradient has changed, along it; and the gradient's norm.

    The noise is that of the step itself: it is a function of the run's key and the step's number.
    """
    gradient = after.opt_state["gradient"]
    along_loss, change = [], []
    for length in lengths:
        there = replace(state, params=moved(state.params, gradient, jnp.float32(length)))
        there, measured = step(there, batch)
        along_loss.append(measured["loss"])
        change.append(distance(there.opt_state["gradient"], gradient))
    return {
        "along_loss": np.array(along_loss),
        "along_change": np.array(change),
        "gradient_norm": np.asarray(jax.jit(optax.tree.norm)(gradient)),
    }


@jax.jit
def moved(params: Any, gradient: Any, length: Any) -> Any:
    """The parameters after a step of this rate."""
    return jax.tree.map(lambda value, slope: value - length * slope, params, gradient)


@jax.jit
def distance(one: Any, other: Any) -> Any:
    """Between two trees, Euclidean."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, one, other))


@functools.partial(jax.jit, static_argnums=0)
def watched_moments(model: Any, state: Any, batch: Any) -> Any:
    """The mean and the standard deviation of every channel that goes into one ReLU."""
    name = f"conv_{WATCHED}" if model.norm is None else f"norm_{WATCHED}"
    _, kept = model.apply(
        state.variables,
        centre(batch["inputs"]),
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": state.dropout_key()},
        capture_intermediates=lambda module, _: module.name == name,
    )
    (inputs,) = kept["intermediates"][name]["__call__"]
    return inputs.mean((0, 1, 2)), inputs.std((0, 1, 2))


def relative_shift(before: Any, after: Any) -> np.ndarray:
    """How far the channels' means moved, in standard deviations; the mean over channels."""
    (mean, stddev), (mean_after, _) = before, after
    return np.asarray(jnp.abs(mean_after - mean).mean() / stddev.mean())


def last_mean(results: Results, name: str) -> Any:
    """By kind, rate and seed: the mean over the last sixth of the steps."""
    values = results[name] if name != "loss" else bounded(results["loss"])
    return mean_of_last(values, one_in=6)


def bounded(loss: np.ndarray) -> np.ndarray:
    """The loss, but that of chance where it is no number: a run that diverged does no better."""
    return np.where(np.isfinite(loss), loss, np.log(10))


def landscape(results: Results) -> dict[str, np.ndarray]:
    """By kind, seed and probe: what figure 4 of the paper shows, and it in the gradient's units."""
    change, norm = results["along_change"], results["gradient_norm"]
    return {
        "range of the loss": np.ptp(results["along_loss"], axis=-1),
        CHANGE: change.max(-1),
        SMOOTHNESS: (change / (results["step_lengths"] * norm[..., None])).max(-1),
        f"{CHANGE} over its norm": change.max(-1) / norm,
    }


def claims(results: Results) -> list[Claim]:
    """How noisy BatchNorm trains, how far inputs move, and how smooth the loss is."""
    plain, norm, noisy = range(3)
    seeds, steps = results["loss"].shape[2:]
    small, large = (f"rate {rate:g}" for rate in results["rates"])
    loss, shift = last_mean(results, "loss"), results["shift"]
    mean_of, later = f"mean of {seeds} seeds", "second half of the steps"

    def times(text: str, one: np.ndarray, other: np.ndarray) -> Claim:
        """The ratio is above 1; by seed, its geometric mean over the probes of the second half."""
        logs = np.log(one / other)[:, one.shape[1] // 2 :].mean(1)
        return about_ratios(f"{text}, {later}, geometric {mean_of}", np.exp(logs), 1.0)

    made = [
        about_mean(
            f"BatchNorm trains faster at a small rate: {small}, training loss of no norm minus "
            f"that of BatchNorm, nats, {mean_of}",
            loss[plain, 0] - loss[norm, 0],
            0.0,
        ),
        times(
            "Noisy BatchNorm does not hold a layer's inputs still: their shift in a step over "
            "BatchNorm's",
            shift[noisy],
            shift[norm],
        ),
    ]
    if steps < LONG:
        return made
    made.append(
        times(
            "Noisy BatchNorm moves inputs even farther than no norm: their shift over that "
            "without a norm",
            shift[noisy],
            shift[plain],
        )
    )
    gain = loss[plain] - loss[1:]
    kept = gain[1] / gain[0]
    for place, (name, share) in enumerate(zip((small, large), kept, strict=True)):
        made.append(
            about_mean(
                f"Noisy BatchNorm trains faster than no norm all the same: {name}, training loss "
                f"of no norm minus its own, nats, {mean_of} (it keeps {share.mean():.2f} of "
                f"BatchNorm's gain after {steps} steps; paper: nearly all, after many epochs)",
                gain[1, place],
                0.0,
            )
        )
    made += [
        about_mean(
            f"BatchNorm bears a large rate: {large}, training loss of no norm minus that "
            f"of BatchNorm, nats, {mean_of}",
            gain[0, 1],
            0.0,
        ),
        about_mean(
            "Noise leaves BatchNorm most of its gain, so that still inputs are not what helps: "
            f"{large}, share of that gain that noisy BatchNorm keeps, {mean_of}",
            kept[1],
            0.5,
        ),
    ]
    return made + [
        times(
            f"BatchNorm makes the loss smoother: {text} along the step, no norm's over BatchNorm's",
            each[plain],
            each[norm],
        )
        for text, each in landscape(results).items()
    ]


def plot(results: Results) -> Any:
    """Training at both rates; how far inputs move; the loss, the gradient, the smoothness."""
    figure = new_figure(12, 7.5)
    (small, large, inputs), (band, change, smoothness) = figure.subplots(2, 3)
    seeds, steps = results["loss"].shape[2:]
    window = max(steps // 15, 1)
    for axes, place in ((small, 0), (large, 1)):
        for row, (kind, (colour, line, marker)) in enumerate(STYLES.items()):
            loss = bounded(results["loss"][row, place])
            loss = np.lib.stride_tricks.sliding_window_view(loss, window, 1)
            smooth = loss.mean(-1)
            at = np.arange(smooth.shape[1]) + window
            right, half_width = interval(last_mean(results, "accuracy")[row, place])
            axes.plot(
                at, smooth.mean(0), color=colour, ls=line, marker=marker, ms=5,
                markevery=(len(at) // 12 * (row + 1) // 3, max(len(at) // 6, 1)),
                label=f"{LABELS[kind]}: {right:.0f} $\\pm$ {half_width:.0f} % right at the end",
            )  # fmt: skip
            axes.fill_between(at, smooth.min(0), smooth.max(0), color=colour, alpha=0.2, lw=0)
        axes.axhline(np.log(10), color="0.5", lw=0.8)
        axes.text(steps, np.log(10), "chance", fontsize=8, color="0.4", va="bottom", ha="right")
        axes.set(
            xlabel="step",
            ylabel=f"training loss (nats), mean of {window} steps",
            title=f"Rate {results['rates'][place]:g}: mean and range of {seeds} seeds",
            # The first few losses, up to 4.5, would flatten the rest.
            ylim=(last_mean(results, "loss").min() - 0.1, 3.0),
        )
        axes.legend(fontsize=8)

    found = landscape(results)
    at = results["probe_steps"]
    for row, (kind, (colour, line, marker)) in enumerate(STYLES.items()):
        style = {"color": colour, "ls": line, "marker": marker, "ms": 5, "label": LABELS[kind]}
        along = results["along_loss"][row]
        least, most = along.min(-1).mean(0), along.max(-1).mean(0)
        if kind != "noisy":
            band.fill_between(
                at, least, most, color=colour, alpha=0.25, lw=0,
                hatch="" if kind == "plain" else "//",
            )  # fmt: skip
            band.plot(at, most, **style)
            band.plot(at, least, **{**style, "label": None})
        for axes, values in (
            (inputs, results["shift"]),
            (change, found[CHANGE]),
            (smoothness, found[SMOOTHNESS]),
        ):
            logs = np.log(values[row])
            axes.plot(at, np.exp(logs.mean(0)), **style)
            axes.fill_between(
                at, np.exp(logs.min(0)), np.exp(logs.max(0)), color=colour, alpha=0.15, lw=0
            )
    lengths = f"{results['step_lengths'][0]:g} to {results['step_lengths'][-1]:g}"
    inputs.set(
        ylabel="shift of a channel's mean in one step (s.d.)",
        title=f"Inputs of the ReLU of layer {WATCHED + 1}",
    )
    band.set(ylabel="loss (nats): least and greatest", title=f"Loss along {lengths} gradients")
    change.set(ylabel="greatest change of the gradient", title="Gradient along the same steps")
    smoothness.set(ylabel="greatest change / distance", title=r"Effective $\beta$-smoothness")
    inputs.set_yscale("log")
    for axes in (change, smoothness):
        axes.set_yscale("log")
        axes.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        axes.minorticks_off()
    for axes in (inputs, band, change, smoothness):
        axes.set(xlabel=f"step, at rate {results['rates'][0]:g}")
        axes.grid(lw=0.3)
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
