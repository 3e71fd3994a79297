"""Does BatchNorm help by making the loss smoother, and does noise in its outputs undo that?

VGG-11, narrowed, on CIFAR-10 by plain SGD: no norm, BatchNorm, and noisy BatchNorm, whose outputs
are shifted and scaled at random in every step. At two rates: how fast each trains. At the smaller,
at chosen steps, along the batch's gradient g for 0.5 to 4 rates, the noise held: the range of the
loss, the greatest change of the gradient, and the effective beta-smoothness,
max ||g(x) - g(x - eta g)|| / (eta ||g||). How far inputs move: internal_covariate_shift.py.

Meaning: Above is the training loss at two rates without a norm, with BatchNorm, and with BatchNorm
whose outputs are shaken at random; below, how much the loss and its gradient change along a step.
BatchNorm trains faster and, after the first steps, makes the loss smoother; the noise leaves it
most of its gain at the larger rate, which speaks against still inputs as the reason.

Data: cifar10, 60,000 colour images of 32 x 32 (50,000 to train on); Krizhevsky (2009), downloaded.
Source: the lecture on BatchNorm; Santurkar, Tsipras, Ilyas and Madry (2018), figures 1, 2 and 4;
the rates are theirs. Tried with one seed, the network without a norm trains at 0.03 and 0.1 and
stays at chance at 0.5.
Run: python experiments/normalization/batchnorm_smoothing.py
Expected: at rate 0.5 no norm stays at chance, while BatchNorm and noisy BatchNorm train (to 1.6 and
1.7 nats after 240 steps). That noisy BatchNorm trains nearly as well as BatchNorm, 240 steps do not
show: of what BatchNorm takes off the loss it takes 0.80, at rate 0.1 0.58. In the second half of
the run the three measures are 1.7 to 2.2 times smaller with BatchNorm, and no larger with the
noise. At the first step they are not: beta is 21 without a norm and 25 with BatchNorm. The ratios
of range and change vary twofold between seeds; with 4 of them a third of the runs would leave one
undecided, hence 7.
Time: 4 min on 2 CPU cores; the paper's width and length, `--preset full`, are for a GPU.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import data, layers, losses, models, training
from jaxdl.claims import Claim, about_mean, about_ratios, main
from jaxdl.plotting import band, new_figure
from jaxdl.training.steps import take

NEEDS = "cifar10"
LABELS = {"plain": "no norm", "norm": "BatchNorm", "noisy": "noisy BatchNorm"}
CHANGE, SMOOTHNESS = "greatest change of the gradient", "effective beta-smoothness"
STYLES = {"plain": "k-o", "norm": "C0--s", "noisy": "C1:^"}
NORMS = {"plain": None, "norm": layers.BatchNorm, "noisy": layers.NoisyBatchNorm}
LONG = 200
"""Steps from which a run is held to what the paper says of training."""
STEP_LENGTHS = np.array([0.5, 1.0, 2.0, 3.0, 4.0])
"""In rates: the paper's 0.05 to 0.4 where it trains at 0.1."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 7
    """Runs of each kind, from different keys; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    steps: int = 240
    """Of each run."""
    rates: tuple[float, float] = (0.1, 0.5)
    """The small and the large one, of plain SGD; the paper's."""
    batch_size: int = 64
    """Of the training steps and of the probes; the paper's is 128."""
    channels: tuple[int, int, int, int, int] = (8, 16, 32, 32, 32)
    """Of VGG-11's five stages."""
    probes: int = 6
    """Points of every run from which the loss is explored; a divisor of the steps."""
    norms: tuple[str, ...] = ("plain", "norm", "noisy")
    """The kinds that are trained; "plain" and "norm" are among them."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=4,
        steps=30,
        probes=2,
        batch_size=32,
        channels=(8, 8, 16, 16, 16),
        norms=("plain", "norm"),
    ),
    "full": Config(steps=15_000, batch_size=128, channels=(64, 128, 256, 512, 512), probes=50),
}


def run(config: Config) -> xarray.Dataset:
    """By norm, rate and seed: what each step shows, and each probe."""
    steps, probes = config.steps, config.probes
    if config.seeds < 3 or probes < 2 or steps % probes:
        raise ValueError(
            "seeds must be at least 3, probes at least 2 and steps a multiple of probes, "
            f"got {config.seeds}, {probes} and {steps}"
        )
    if not {"plain", "norm"} <= set(config.norms) <= set(NORMS):
        raise ValueError(
            f"norms must be some of {list(NORMS)}, 'plain' and 'norm' among them, "
            f"got {config.norms}; add what is missing"
        )
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    train = jax.tree.map(jnp.asarray, dataset.train)
    tasks = {
        name: training.Task(
            models.VGG(11, channels=config.channels, norm=NORMS[name]),
            losses.cross_entropy,
            preprocess=lambda pixels: 2 * training.scale_images(pixels) - 1,
        )
        for name in config.norms
    }
    draws = {norm: training.first_weights(task, train) for norm, task in tasks.items()}

    def member(key: Any, batches: Any, params: Any, *, norm: Any, rate: Any) -> Any:
        learn = training.make_run(tasks[norm], recording_sgd(rate), batch_size=config.batch_size)

        def piece(state: Any, rows: Any) -> Any:
            return explore(learn, train, state, rows, rate * STEP_LENGTHS)

        pieces = batches.reshape(probes, -1, config.batch_size)
        measured = jax.lax.scan(piece, learn.init(key, train, params[norm]), pieces)[1]
        return measured | {"loss": measured["loss"].ravel()}

    return training.sweep(
        member,
        {"norm": config.norms, "rate": config.rates},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "batches": lambda key: training.step_orders(
                key, steps, len(train), batch_size=config.batch_size
            ),
            "params": lambda key: {norm: draw(key) for norm, draw in draws.items()},
        },
        dims={
            "loss": ("step",),
            "gradient_norm": ("probe",),
            "along_loss": ("probe", "length"),
            "along_change": ("probe", "length"),
        },
    ).assign_coords(
        step=np.arange(steps), probe=np.arange(0, steps, steps // probes), length=STEP_LENGTHS
    )


def recording_sgd(rate: Any) -> optax.GradientTransformation:
    """SGD whose state is the last gradient."""

    def update(gradient: Any, _: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda slope: -rate * slope, gradient), gradient

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def explore(learn: training.Run, train: Any, state: Any, rows: Any, lengths: Any) -> Any:
    """Look along the gradient of the first batch, then take the steps: the state, and measured.

    All in one loop, so that a step is compiled once: the first visit finds the gradient g; those at
    x - length g measure the loss and how far the gradient has changed, with the noise of the step
    itself, which the run's key and the step's number decide; the others are the steps.
    """
    looks = 1 + len(lengths)
    rows = jnp.concatenate([jnp.repeat(rows[:1], looks, axis=0), rows])
    lengths = jnp.zeros(len(rows)).at[1:looks].set(lengths)

    def chosen(where: Any, one: Any, other: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(where, a, b), one, other)

    def visit(carry: Any, now: Any) -> Any:
        state, gradient = carry
        number, length, row = now
        after, measured = learn.step(moved(state, gradient, length), take(train, row))
        slope = after.opt_state
        gradient = chosen(number == 0, slope, gradient)
        change = optax.tree.norm(jax.tree.map(jnp.subtract, slope, gradient))
        return (chosen(number >= looks, after, state), gradient), (measured["loss"], change)

    start = state, jax.tree.map(jnp.zeros_like, state.params)
    visits = jnp.arange(len(rows)), lengths, rows
    (state, gradient), (loss, change) = jax.lax.scan(visit, start, visits)
    found = {"loss": loss[looks:], "along_loss": loss[1:looks], "along_change": change[1:looks]}
    return state, found | {"gradient_norm": optax.tree.norm(gradient)}


def moved(state: Any, gradient: Any, length: Any) -> Any:
    """The state with its parameters a step down the gradient."""
    params = jax.tree.map(lambda value, slope: value - length * slope, state.params, gradient)
    return replace(state, params=params)


def bounded(loss: xarray.DataArray) -> xarray.DataArray:
    """The loss, but that of chance where it is no number: a run that diverged does no better."""
    return loss.where(np.isfinite(loss), np.log(10))


def at_the_end(values: xarray.DataArray) -> xarray.DataArray:
    """By norm, rate and seed: the mean over the last sixth of the steps."""
    return values.isel(step=slice(-max(values.sizes["step"] // 6, 1), None)).mean("step")


def landscape(results: xarray.Dataset) -> dict[str, xarray.DataArray]:
    """At the small rate, by norm, seed and probe: figure 4 of the paper, and in units of ||g||."""
    small = results.isel(rate=0)
    along, change, norm = (small[name] for name in ("along_loss", "along_change", "gradient_norm"))
    greatest, lengths = change.max("length", skipna=False), small["rate"] * small["length"]
    return {
        "range of the loss": along.max("length", skipna=False) - along.min("length", skipna=False),
        CHANGE: greatest,
        SMOOTHNESS: (change / (lengths * norm)).max("length", skipna=False),
        f"{CHANGE} over its norm": greatest / norm,
    }


def claims(results: xarray.Dataset) -> list[Claim]:
    """How each kind trains, and how smooth the loss is."""
    steps, (small, large) = results.sizes["step"], results["rate"].values
    loss, mean_of = at_the_end(bounded(results["loss"])), f"mean of {results.sizes['seed']} seeds"
    gain = loss.sel(norm="plain", drop=True) - loss
    of_norm = gain.sel(norm="norm", drop=True)

    def mean(text: str, values: xarray.DataArray, rate: float, low: float = 0.0) -> Claim:
        return about_mean(f"{text}, {mean_of}", values.sel(rate=rate), low)

    less = "training loss of no norm minus that of BatchNorm, nats"
    text = f"BatchNorm trains faster at a small rate: rate {small:g}, {less}"
    made = [mean(text, of_norm, small)]
    if steps < LONG or "noisy" not in results["norm"]:
        return made
    of_noisy = gain.sel(norm="noisy", drop=True)
    kept = of_noisy / of_norm
    for rate in (small, large):
        text = (
            f"Noisy BatchNorm, too, trains faster than no norm at the rate {rate:g}: training loss "
            f"of no norm minus its own after {steps} steps, nats, "
            f"{kept.sel(rate=rate).mean():.2f} of BatchNorm's gain (paper: nearly all of it, after "
            "many epochs)"
        )
        made.append(mean(text, of_noisy, rate))
    made.append(mean(f"BatchNorm bears a large rate: rate {large:g}, {less}", of_norm, large))
    text = "Noise leaves BatchNorm most of its gain, so that still inputs are not what helps: rate "
    text += f"{large:g}, share of that gain that noisy BatchNorm keeps"
    made.append(mean(text, kept, large, 0.5))
    for name, values in landscape(results).items():
        logs: Any = np.log(values.sel(norm="plain") / values.sel(norm="norm"))
        later = logs.isel(probe=slice(logs.sizes["probe"] // 2, None)).mean("probe", skipna=False)
        text = f"BatchNorm makes the loss smoother, measured by the {name}: along the step, no "
        text += f"norm's over BatchNorm's, second half of the steps, geometric {mean_of}"
        made.append(about_ratios(text, np.exp(later), 1.0))
    return made


def plot(results: xarray.Dataset) -> Any:
    """Training at both rates; along the gradient the loss, its gradient, its smoothness."""
    figure = new_figure(12, 7.5)
    panels = figure.subplot_mosaic("AAABBB;CCDDEE")
    (*training_panels, span, change, beta) = panels.values()
    steps, loss = results.sizes["step"], bounded(results["loss"])
    window, least = max(steps // 15, 1), at_the_end(loss).min().item()
    smooth = loss.rolling(step=window).mean().isel(step=slice(window - 1, None))
    small, found, at = results.isel(rate=0), landscape(results), results["probe"].values
    for norm in results["norm"].values:
        style = STYLES[norm]
        line: dict[str, Any] = {"ms": 5, "label": LABELS[norm]}
        for axes, rate in zip(training_panels, results["rate"].values, strict=True):
            runs, every = smooth.sel(norm=norm, rate=rate), max(steps // 6, 1)
            band(axes, smooth["step"] + 1, runs, style, spread="range", markevery=every, **line)
            axes.set(title=f"Rate {rate:g}: mean and range of {results.sizes['seed']} seeds")
            axes.set(xlabel="step", ylabel=f"training loss (nats), mean of {window} steps")
            axes.set(ylim=(least - 0.1, 3.0))  # the first few losses would flatten the rest
        for axes, name in ((change, CHANGE), (beta, SMOOTHNESS)):
            band(axes, at, found[name].sel(norm=norm), style, spread=(0, 1), alpha=0.15, **line)
        if norm != "noisy":
            along = small["along_loss"].sel(norm=norm)
            low, high = along.min("length").mean("seed"), along.max("length").mean("seed")
            span.fill_between(
                at, low, high, color="k" if norm == "plain" else "C0", alpha=0.25, lw=0
            )
            span.plot(at, high, style, **line)
            span.plot(at, low, style, ms=5)
    for axes in training_panels:
        axes.axhline(np.log(10), color="0.5", lw=0.8)
        axes.text(steps, np.log(10), "chance", fontsize=8, color="0.4", va="bottom", ha="right")
        axes.legend(fontsize=8)
    rate = small["rate"].item()
    first, last = rate * STEP_LENGTHS[[0, -1]]
    for axes, title, ylabel, shown in (
        (span, f"Loss along {first:g} to {last:g} gradients", "least and greatest (nats)", "mean"),
        (change, "Gradient along the same steps", CHANGE, "median and range"),
        (beta, r"Effective $\beta$-smoothness", "greatest change / distance", "median and range"),
    ):
        axes.set(title=title, xlabel=f"step, at rate {rate:g}", ylabel=ylabel)
        axes.grid(lw=0.3)
        axes.legend(fontsize=8, title=shown)
    for axes in (change, beta):
        axes.set(yscale="log")
        axes.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        axes.minorticks_off()
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
