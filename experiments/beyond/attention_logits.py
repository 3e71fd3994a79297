"""Attention logits at learning rates over three decades, with and without normalised queries.

A transformer of 2 blocks, 32 features and 2 heads reads words of balanced brackets of 4 kinds and
says at each position which bracket is open. Adam (beta_2 = 0.95) makes 300 steps of 32 words, with
clipping at norm 1, a warm-up of 30 steps and then half a cosine; once as it is, once with RMSNorm
on queries and keys. A seed gives the first weights and the order, the same for all rates and both
arms. A run trains if its test loss ends below 0.3 nats; guessing costs log 5 = 1.6. Between two
rates the loss is interpolated, in logarithms.

Meaning: The panels show the test loss after training, the largest attention logit and the entropy
of the attention weights, by learning rate. Without norms the logits grow out of all proportion as
the rate rises, the weights collapse onto one key and the network fails, while norms on queries and
keys hold the logits small and let it train at rates several times larger.

Data: none (words of balanced brackets, made here: `data.brackets`).
Source: Wortsman et al. (2023), section 3.1.1, and Dehghani et al. (2023).
Run: python experiments/beyond/attention_logits.py
Expected: the largest rate that trains is 0.09 as it is and 0.65 with norms, 7 times as much. At
rate 0.1 the largest logit is 1,400 without norms and 4 with them, and the entropy of the weights is
1 % against 89 % of that of even ones. At rate 1 both fail: the scales of the norms themselves grow.
At rate 0.01 the norms change nothing. In larger networks failure comes at smaller rates, and the
loss may then diverge; here it only stops falling, because clipping and Adam bound each step.
Time: 2 minutes on 2 CPU cores.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, interval, main, slopes
from jaxdl.optimizers import schedules
from jaxdl.plotting import new_figure

KINDS, LENGTH, EXAMPLES, TESTED, DATA_KEY = 4, 24, 4096, 256, 7
FEATURES, HEADS = 32, 2
BATCH_SIZE, CLIP, WARMUP, BETA2, LOOKS = 32, 1.0, 0.1, 0.95, 20
PROBE = 32
"""Test words on which attention is measured."""
NORMS = {"plain": None, "normalised": functools.partial(nn.RMSNorm, epsilon=1e-6)}
TARGET = 0.3
"""Nats; below it a run trains."""
COMMON = 0.01
"""A rate at which both arms train."""
LARGE = 0.1
"""A rate that is large: for a transformer of this size 10 times the usual one."""
GUESS = float(np.log(KINDS + 1))
"""The loss of even probabilities, in nats."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each rate and arm; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    steps: int = 300
    """Of each run, a multiple of 20."""
    layers: int = 2
    """Blocks of the transformer."""
    decades: tuple[float, ...] = tuple(np.linspace(-3, 0, 13).tolist())
    """Logarithms of the rates to base 10, increasing, -2 and -1 among them."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=200, layers=1, decades=(-2.0, -1.0, 0.0)),
    "full": Config(seeds=20, steps=1000),
}


def words() -> tuple[data.Arrays, data.Arrays]:
    """Words to train on and words to test on."""
    made = data.brackets(
        jax.random.key(DATA_KEY),
        kinds=KINDS,
        length=LENGTH,
        examples=EXAMPLES,
        test_examples=TESTED,
    )
    train, test = (jax.tree.map(jnp.asarray, split) for split in (made.train, made.test))
    return train, test


def make_task(norm: Any, layers: int) -> training.Task:
    """The transformer with this norm on queries and keys."""
    model = models.Transformer(
        2 * KINDS, features=FEATURES, layers=layers, heads=HEADS, outputs=KINDS + 1, length=LENGTH,
        normalize_qk=norm,
    )  # fmt: skip
    return training.Task(model, losses.cross_entropy)


def make_optimizer(rate: Any, steps: int) -> optax.GradientTransformation:
    """Clipped Adam; the rate rises over a tenth of the steps and falls to 0 over the others."""
    rising = round(WARMUP * steps)
    schedule = schedules.joined(
        [
            schedules.warmup(rate, steps=rising),
            schedules.cosine_decay(rate, steps=steps - rising),
        ],
        boundaries=[rising],
    )
    adam = optimizers.adam(schedule, beta2=BETA2, epsilon_position="outside")
    return optimizers.chain(optimizers.clip_by_global_norm(CLIP), adam)


def run(config: Config) -> xarray.Dataset:
    """By arm, rate, seed and look: the test loss; the largest logit and the entropy by layer."""
    if config.steps % LOOKS or not {-2.0, -1.0} <= {*config.decades}:
        raise ValueError(
            f"steps must be a multiple of {LOOKS} and decades hold -2 and -1, got {config.steps} "
            f"and {config.decades}"
        )
    swept = [sweep_arm(config, make_task(norm, config.layers)) for norm in NORMS.values()]
    arms = xarray.DataArray([*NORMS], dims="arm", name="arm")
    return xarray.concat(swept, arms)


def sweep_arm(config: Config, task: training.Task) -> xarray.Dataset:
    """All rates and seeds of one model: numbers, so they are one program."""
    train, test = words()
    probe = {"inputs": test.inputs[:PROBE]}

    def member(key: Any, orders: Any, params: Any, *, rate: Any) -> Any:
        optimizer = make_optimizer(rate, config.steps)
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE)

        def look(state: Any, order: Any) -> Any:
            state = learn.epoch(state, train, order)[0]
            seen = diagnostics.attention(task, state.evaluated, probe, train=False)
            return state, {
                "loss": learn.evaluate(state, test)["loss"],
                "logit": seen.largest_logit,
                "entropy": seen.normalized_entropy,
            }

        start = learn.init(key, train, params)
        return jax.lax.scan(look, start, orders.reshape(LOOKS, -1))[1]

    def orders(key: Any) -> Any:
        return training.step_orders(key, config.steps, EXAMPLES, batch_size=BATCH_SIZE)

    results = training.sweep(
        member,
        {"rate": 10.0 ** np.array(config.decades)},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={"orders": orders, "params": training.first_weights(task, train)},
        dims={"loss": ("step",), "logit": ("step", "layer"), "entropy": ("step", "layer")},
    )
    return results.assign_coords(step=config.steps // LOOKS * np.arange(1, LOOKS + 1))


def final_loss(results: xarray.Dataset) -> xarray.DataArray:
    """By arm, seed and rate: the last test loss; of a run that overflowed that of a guess."""
    loss = results["loss"].isel(step=-1).transpose("arm", "seed", "rate")
    return loss.where(np.isfinite(loss), GUESS)


def largest_rate(rates: np.ndarray, loss: np.ndarray) -> float:
    """The rate beyond the best one at which the loss crosses TARGET; NaN if none trains.

    The largest rate of all where the loss is below TARGET from the best one on.
    """
    best = int(np.argmin(loss))
    if loss[best] > TARGET:
        return np.nan
    above = np.flatnonzero(loss[best:] > TARGET)
    if not above.size:
        return float(rates[-1])
    at = best + int(above[0])
    logs, x = np.log(loss[at - 1 : at + 1]), np.log(rates[at - 1 : at + 1])
    return float(np.exp(np.interp(np.log(TARGET), logs, x)))


def largest_rates(results: xarray.Dataset) -> xarray.DataArray:
    """By arm and seed: the largest rate that trains."""
    rates, loss = results["rate"].values, final_loss(results)
    found = [[largest_rate(rates, of_seed) for of_seed in of_arm] for of_arm in loss.values]
    return xarray.DataArray(found, coords={"arm": loss["arm"], "seed": loss["seed"]})


def sensitivity(results: xarray.Dataset) -> xarray.DataArray:
    """By arm and seed: the mean over the rates of what a rate costs over the best, in nats.

    Wortsman et al., section 2.2; no run counts as worse than a guess.
    """
    loss = final_loss(results).clip(max=GUESS)
    return (loss - loss.min("rate")).mean("rate")


def near(values: xarray.DataArray, rate: float) -> xarray.DataArray:
    """At the rate that is nearest to this one."""
    return values.sel(rate=rate, method="nearest")


def claims(results: xarray.Dataset) -> list[Claim]:
    """Which rates train, and what logits and weights do."""
    mean_of = f"mean of {results.sizes['seed']} seeds"
    geometric = f"geometric {mean_of}"
    rates, spread = largest_rates(results), sensitivity(results)
    logit = results["logit"].isel(step=-1).max("layer")
    entropy = results["entropy"].isel(step=-1).min("layer")
    loss = near(final_loss(results), COMMON)
    large = logit.sel(arm="plain").transpose("seed", "rate")
    large = large[:, large["rate"] > 0.9 * LARGE]
    return [
        about_ratios(
            "Normalised queries and keys widen the range of rates that train: the largest rate "
            f"that trains with them over that without, {geometric}",
            rates.sel(arm="normalised") / rates.sel(arm="plain"),
            2.0,
        ),
        about_mean(
            "With them the rate matters less: how much less the loss rises over that of the best "
            f"rate, mean over all rates, nats, {mean_of}",
            spread.sel(arm="plain") - spread.sel(arm="normalised"),
            0.0,
        ),
        about_ratios(
            f"At a large rate the logits explode without norms: at rate {LARGE}, the largest logit "
            f"without over that with, {geometric}",
            near(logit, LARGE).sel(arm="plain") / near(logit, LARGE).sel(arm="normalised"),
            10.0,
        ),
        about_mean(
            "Logits grow at least with the square of the rate, as queries and keys both grow with "
            f"it: without norms, slope of logarithms from rate {LARGE} on, {mean_of}",
            slopes(np.log(large["rate"]), np.log(large)),
            2.0,
        ),
        about_mean(
            f"The weights then collapse onto one key: without norms at rate {LARGE}, entropy over "
            f"that of even weights, {mean_of}",
            near(entropy, LARGE).sel(arm="plain"),
            -np.inf,
            0.1,
        ),
        about_mean(
            f"With norms the weights keep their spread: at rate {LARGE}, entropy over that of even "
            f"weights, {mean_of}",
            near(entropy, LARGE).sel(arm="normalised"),
            0.5,
        ),
        about_ratios(
            f"At a usual rate the norms cost nothing: at rate {COMMON}, the loss with them over "
            f"that without, {geometric}",
            loss.sel(arm="normalised") / loss.sel(arm="plain"),
            2 / 3,
            3 / 2,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Loss, largest logit and entropy by rate."""
    figure = new_figure(12, 4.6)
    panels = figure.subplots(1, 3)
    rates, ends = results["rate"].values, largest_rates(results)
    shown = (
        ("loss", final_loss(results), "test loss (nats)", "Loss after training"),
        ("logit", results["logit"].isel(step=-1).max("layer"), "largest |logit|",
         "Attention logits"),
        ("entropy", results["entropy"].isel(step=-1).min("layer"),
         "entropy over that of even weights", "Attention weights"),
    )  # fmt: skip
    for axes, (name, values, label, title) in zip(panels, shown, strict=True):
        for arm, style, text in (
            ("plain", "C3o-", "plain queries and keys"),
            ("normalised", "C0s-", "normalised"),
        ):
            of_arm = values.sel(arm=arm).transpose("seed", "rate").values
            logs = of_arm if name == "entropy" else np.log(of_arm)
            mean, half = interval(logs)
            middle, low, high = mean, mean - half, mean + half
            if name != "entropy":
                middle, low, high = (np.exp(each) for each in (middle, low, high))
            axes.plot(rates, middle, style, ms=4, label=text)
            axes.fill_between(rates, low, high, color=style[:2], alpha=0.2, lw=0)
            if name == "loss":
                end = float(np.exp(np.log(ends.sel(arm=arm)).mean()))
                axes.axvline(end, color=style[:2], lw=1, ls=":", label="largest rate that trains")
        axes.set(xscale="log", xlabel="learning rate", ylabel=label, title=title)
    panels[0].axhline(TARGET, color="0.4", lw=1)
    panels[0].text(rates[0], TARGET * 1.05, "trains below", fontsize=8, color="0.3")
    panels[0].set(yscale="log")
    panels[1].set(yscale="log")
    panels[2].set(ylim=(0, 1))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
